"""The rows of tables that name pictures: Parquet, CSV, TSV, JSON Lines, and plain lists."""

from __future__ import annotations

import base64
import csv
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from caption_assets.sources.rows import Row, digest, file_name, jsonl_rows, lines, opened, raw_lines

URL_COLUMN = "url"
_BATCH = 1000

Reader = Callable[[str, Mapping[str, Any]], Iterator[Row]]


def reader_of(place: str) -> Reader:
    """What reads a table, by its name's extension; `.gz` behind it is unpacked. Raises ValueError."""
    name = file_name(place).removesuffix(".gz")
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
    names: list[str] | None = None
    for number, line, fields in _records(raw_lines(place, options), delimiter):
        if isinstance(fields, csv.Error):
            yield Row(number, digest(line.encode()), {}, f"the line is not CSV ({fields})")
            continue
        content = digest(json.dumps(fields).encode())
        if names is None:
            names = fields
        elif len(fields) != len(names):
            yield Row(number, content, {}, f"the line has {len(fields)} fields, not {len(names)}")
        elif any("\ufffd" in field for field in fields):
            yield Row(number, content, {}, "the line is not UTF-8 text")
        else:
            yield Row(number, content, dict(zip(names, fields, strict=True)))


def _records(numbered: Iterator[tuple[int, bytes]], delimiter: str) -> Iterator[tuple[int, str, list[str] | csv.Error]]:
    """The records of CSV, each with the number and text of its first line; or what is wrong with that line.

    A quote that nobody closes would take all that follows for its field: what stands behind its line is read again.
    """
    taken: list[tuple[int, str]] = []
    again: deque[tuple[int, str]] = deque()

    def text() -> Iterator[str]:
        while True:
            if not again:
                number, line = next(numbered, (0, b""))
                if not number:
                    return
                again.append((number, line.decode("utf-8", "replace")))
            taken.append(again.popleft())
            yield taken[-1][1] + "\n"

    reader = csv.reader(text(), delimiter=delimiter, strict=True)
    while True:
        taken.clear()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            (number, line), *rest = taken
            again.extendleft(reversed(rest))
            reader = csv.reader(text(), delimiter=delimiter, strict=True)  # the old one is amid a field
            yield number, line, error if rest else _at_ease(line, delimiter, error)
            continue
        number, line = taken[0]
        if line.strip() or len(fields) > 1:
            yield number, line, fields


def _at_ease(line: str, delimiter: str, error: csv.Error) -> list[str] | csv.Error:
    """The fields of a line by itself whose quotes are not as they should be; the error where it has none."""
    try:
        return next(csv.reader([line], delimiter=delimiter))
    except (csv.Error, StopIteration):
        return error


def _parquet_rows(place: str, options: Mapping[str, Any]) -> Iterator[Row]:
    """The rows of a Parquet file, a batch at a time. Raises OSError also where it is no Parquet."""
    number = 0
    with opened(place, options, unpack=False) as file:
        try:
            for batch in pq.ParquetFile(file).iter_batches(_BATCH, use_threads=False):  # see lake/parquet.py
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
