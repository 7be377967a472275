"""The rows of tables that name pictures: Parquet, CSV, TSV, JSON Lines, and plain lists."""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from caption_assets.sources.rows import Row, digest, jsonl_rows, lines, opened

URL_COLUMN = "url"
_BATCH = 1000

Reader = Callable[[str, Mapping[str, Any]], Iterator[Row]]


def reader_of(place: str) -> Reader:
    """What reads a table, by its name's extension; `.gz` behind it is unpacked. Raises ValueError."""
    name = place.lower().partition("?")[0].removesuffix(".gz")
    readers: dict[str, Reader] = {
        ".parquet": _parquet_rows,
        ".csv": lambda place, options: _csv_rows(place, options, ","),
        ".tsv": lambda place, options: _csv_rows(place, options, "\t"),
        ".jsonl": jsonl_rows,
        ".ndjson": jsonl_rows,
        ".txt": _text_rows,
    }
    for ending, reader in readers.items():
        if name.endswith(ending):
            return reader
    raise ValueError(f"its name must end in one of {', '.join(readers)} (and .gz)")


def _text_rows(place: str, options: Mapping[str, Any]) -> Iterator[Row]:
    """A URL a line; lines that begin with # are remarks."""
    for number, line in lines(place, options):
        if line.startswith(b"#"):
            continue
        try:
            yield Row(number, digest(line), {URL_COLUMN: line.decode()})
        except UnicodeDecodeError:
            yield Row(number, digest(line), {}, "the line is not UTF-8 text")


def _csv_rows(place: str, options: Mapping[str, Any], delimiter: str) -> Iterator[Row]:
    """Lines below a line of column names; a line with more or fewer fields is a bad one."""
    last = 0

    def text() -> Iterator[str]:
        nonlocal last
        for number, line in lines(place, options):
            last = number
            yield line.decode("utf-8", "replace") + "\n"

    parsed = csv.reader(text(), delimiter=delimiter)
    names: list[str] | None = None
    while True:
        try:
            fields = next(parsed)
        except StopIteration:
            return
        except csv.Error as error:
            yield Row(last, digest(f"{last}".encode()), {}, f"the line is not CSV ({error})")
            continue
        if names is None:
            names = fields
            continue
        content = digest(json.dumps(fields).encode())
        if len(fields) != len(names):
            yield Row(last, content, {}, f"the line has {len(fields)} fields, not {len(names)}")
        elif any("\ufffd" in field for field in fields):
            yield Row(last, content, {}, "the line is not UTF-8 text")
        else:
            yield Row(last, content, dict(zip(names, fields, strict=True)))


def _parquet_rows(place: str, options: Mapping[str, Any]) -> Iterator[Row]:
    """The rows of a Parquet file, a batch at a time. Raises OSError also where it is no Parquet."""
    number = 0
    with opened(place, options, unpack=False) as file:
        try:
            for batch in pq.ParquetFile(file).iter_batches(_BATCH):
                for columns in batch.to_pylist():
                    number += 1
                    kept = {name: plain(value) for name, value in columns.items()}
                    content = json.dumps(kept, ensure_ascii=False, sort_keys=True)
                    yield Row(number, digest(content.encode("utf-8", "replace")), kept)
        except pa.ArrowException as error:
            raise OSError(f"cannot be read as Parquet after row {number}: {error}") from None


def plain(value: Any) -> Any:
    """A value as JSON can hold it."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value) if isinstance(value, Decimal) or not isinstance(value, str | int | float | None) else value
