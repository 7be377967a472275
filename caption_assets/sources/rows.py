"""The rows of list files, one after another: a row that cannot be understood is told, and does not end the list."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import fsspec

from caption_assets.sources.base import FetchError, Item
from caption_assets.sources.files import parse_json

LINE_LIMIT = 16 << 20
"""Bytes of a line; the rest of a longer one is skipped, so that a file without line ends cannot fill the memory."""

_BAD = "!"


@dataclass(frozen=True)
class Row:
    """A row of a list: its number from 1, a digest of its content, its columns; or what is wrong with it."""

    number: int
    digest: str
    columns: Mapping[str, Any]
    error: str | None = None


def jsonl_rows(place: str, options: Mapping[str, Any]) -> Iterator[Row]:
    """The lines of a JSON Lines file; empty ones are none.

    Args:
        place: a path, or a URL that fsspec knows; `.gz` is unpacked.
        options: passed to the URL's filesystem.

    Raises:
        OSError: the file cannot be read, or not to its end.
    """
    for number, line in lines(place, options):
        columns, error = _columns(line)
        yield Row(number, digest(line), columns, error)


def lines(place: str, options: Mapping[str, Any]) -> Iterator[tuple[int, bytes]]:
    """The lines of a file that hold something, by number, without the white space around them. Raises OSError."""
    for number, line in raw_lines(place, options):
        if line := line.strip():
            yield number, line


def raw_lines(place: str, options: Mapping[str, Any]) -> Iterator[tuple[int, bytes]]:
    """The lines of a file as they are, without their ends, by number from 1. Raises OSError."""
    number = 0
    try:
        with opened(place, options) as file:
            while line := file.readline(LINE_LIMIT + 1):
                number += 1
                rest = line
                while len(rest) > LINE_LIMIT and not rest.endswith(b"\n"):
                    rest = file.readline(LINE_LIMIT + 1)
                yield number, (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).rstrip(b"\r\n")
    except (EOFError, zlib.error) as error:
        raise OSError(f"the compressed file is damaged after line {number}: {error}") from None


@contextmanager
def opened(place: str, options: Mapping[str, Any], *, unpack: bool = True) -> Iterator[BinaryIO]:
    """A file, opened to read its bytes. Raises OSError, ImportError, ValueError."""
    compression = "gzip" if unpack and is_packed(place) else None
    if "://" not in place:
        place = f"file://{place}"
    with fsspec.open(place, "rb", compression=compression, **options) as file:
        yield cast(BinaryIO, file)


def is_packed(place: str) -> bool:
    """Whether a file is packed by gzip, by its name; a URL may have a query behind it."""
    return file_name(place).endswith((".gz", ".tgz"))


def file_name(place: str) -> str:
    """The name that says what a file is: in lower case, without a URL's query."""
    return (place.partition("?")[0] if "://" in place else place).lower()


def digest(content: bytes) -> str:
    """16 bytes, in hex, that stand for a row's content."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def bad_item(place: str, row: Row, error: str) -> Item:
    """What is planned for a row that can only fail: its uri names the line, its etag the content and the reason."""
    return unusable(f"{place}#L{row.number}", row.digest, error)


def unusable(uri: str, digest: str, error: str) -> Item:
    """An item that can only fail."""
    return Item(uri, f"{digest}{_BAD}{error}", 0)


def raise_if_bad(etag: str) -> None:
    """Raise FetchError for an item that `unusable` made."""
    if _BAD in etag:
        raise FetchError("bad_row", etag.partition(_BAD)[2])


def _columns(line: bytes) -> tuple[Mapping[str, Any], str | None]:
    if len(line) > LINE_LIMIT:
        return {}, f"the line is longer than {LINE_LIMIT} bytes"
    try:
        value = parse_json(line.decode())
    except UnicodeDecodeError:
        return {}, "the line is not UTF-8 text"
    except (json.JSONDecodeError, ValueError) as error:
        return {}, f"the line is {error}"
    return (value, None) if isinstance(value, dict) else ({}, "the line is no JSON object")
