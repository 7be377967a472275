"""Pictures in tar files, as the webdataset library lays them out: files of one key stand together.

A scan reads each tar as a stream and notes where every picture's bytes are, so that fetching one is one range read.
Nothing is ever unpacked to a disk, and links and devices are not followed. An item's etag is its tar's, and its place.
"""

from __future__ import annotations

import gzip
import logging
import posixpath
import re
import tarfile
import threading
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Self, cast

import fsspec

from caption_assets.sources.ahead import Ahead, Room
from caption_assets.sources.base import CHANGED, GONE, FetchError, Item
from caption_assets.sources.bucket import open_store
from caption_assets.sources.files import EXTENSIONS, SIDECAR_LIMIT, extension, sidecar_columns
from caption_assets.sources.forward import Forward
from caption_assets.sources.rows import is_packed, opened, raise_if_bad
from caption_assets.sources.spool import Body
from caption_assets.sources.stores import Translated, stored, version

_SIDECARS = frozenset(["json", "txt", "cls"])
_PLACE = re.compile(r"(?P<tar>.*)@(?P<offset>\d+)\+(?P<length>\d+)", re.DOTALL)
_DAMAGE = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError)
_log = logging.getLogger(__name__)


@dataclass
class _Sample:
    """What has been seen of a key."""

    key: str
    pictures: list[Item] = field(default_factory=list)
    columns: dict[str, Any] = field(default_factory=dict)

    def items(self) -> Iterator[Item]:
        for picture in self.pictures:
            yield replace(picture, source=self.columns)


class WebDatasetSource:
    """The pictures of one tar or several, in the order of their names and places.

    Args:
        place: path or URL of the tar files, with globs for several.
        options: passed to the filesystem of a URL.
        fetches: what fetches many pictures at once.

    Raises:
        ImportError: the filesystem's package is not installed.
        ValueError: there is no such filesystem, or it refuses the options.
    """

    def __init__(self, place: str, *, options: Mapping[str, Any] | None = None, fetches: Ahead | None = None) -> None:
        self._url = place if "://" in place else f"file://{place}"
        self._options = options or {}
        self._protocol = self._url.partition("://")[0]
        self._fs, self._pattern = fsspec.core.url_to_fs(self._url, use_listings_cache=False, **self._options)
        self._fetches = fetches or Ahead()
        self._store = open_store(posixpath.dirname(self._url), self._options, self._fetches.at_once)
        self._opened: tuple[str, str] | None = None
        self._stream: Forward[int] = Forward(iter(()), 0)
        self._stack = ExitStack()
        self._lock = threading.Lock()

    def scan(self) -> Iterator[Item]:
        """An item a picture. Raises FileNotFoundError where there is no tar, OSError where one cannot be read."""
        paths = self._paths()
        if not paths:
            raise FileNotFoundError(f"{self._url} matches no file")
        for path in paths:
            url = path if "://" in path else f"{self._protocol}://{path}"
            yield from self._pictures(url, version(self._fs.info(path)))

    @property
    def ahead(self) -> int:
        """How many fetches it is worth to have under way."""
        return self._fetches.at_once

    def start(self, uri: str, etag: str) -> Future[bytes] | None:
        """Begin to fetch a picture; None where its tar has to be read up to it. Raises FetchError."""
        url, tar, offset, length = _place_of(uri, etag)
        return (
            None if _compression(url) else self._fetches.start(lambda room: self._range(url, tar, offset, length, room))
        )

    def fetch(self, uri: str, etag: str) -> bytes:
        """The picture's bytes. Raises FetchError: gone, also when its tar has changed since it was planned."""
        if started := self.start(uri, etag):
            return started.result()
        url, tar, offset, length = _place_of(uri, etag)
        return self._from_stream(url, tar, offset) if length else b""

    async def _range(self, url: str, tar: str, offset: int, length: int, room: Room) -> Body:
        if not length:
            return b""
        data = await stored(self._store, url, tar, room, offset, offset + length)
        if len(data) != length:
            raise FetchError("truncated", f"the tar ends {length - len(data)} bytes too early")
        return data

    def _paths(self) -> list[str]:
        if any(each in self._pattern for each in "*?["):
            return sorted(self._fs.glob(self._pattern))
        return [str(self._pattern)]

    def _pictures(self, url: str, etag: str) -> Iterator[Item]:
        """The pictures of a tar; where it is damaged, an item that can only fail follows those before."""
        sample = _Sample("")
        try:
            with ExitStack() as stack:
                for member, tar in _members(stack, url, self._options):
                    name = member_name(member.name)
                    key, _, kind = _split(name)
                    if key != sample.key:
                        yield from sample.items()
                        sample = _Sample(key)
                    if extension(name) in EXTENSIONS and not member.isdir():
                        sample.pictures.append(_item(url, etag, name, member))
                    elif kind in _SIDECARS and member.isreg():
                        _add_sidecar(sample, name, kind, member, tar)
        except _DAMAGE as error:
            yield from sample.items()
            _log.warning("%s is damaged: %s", url, error)
            yield Item(
                f"{url}#", f"{etag}!the tar is damaged: what follows {sample.key or 'its beginning'!r} is lost", 0
            )
            return
        yield from sample.items()

    def _from_stream(self, url: str, etag: str, offset: int) -> bytes:
        """A member of a compressed tar: read on from the one before, for items are fetched in the plan's order."""
        with self._lock, Translated():
            self._check_version(url, etag)
            if self._opened != (url, etag) or not self._stream.has(offset):
                self._stack.close()
                self._opened, self._stream = (url, etag), Forward(_contents(self._stack, url, self._options), 0)
            try:
                data = self._stream.read(offset)
            except _DAMAGE as error:
                self._opened = None
                raise FetchError("truncated", f"the compressed tar is damaged: {error}") from None
            self._check_version(url, etag)  # it may have been replaced before the stream was opened
            if data is None:
                raise FetchError("gone", GONE)
            return data

    def _check_version(self, url: str, etag: str) -> None:
        if version(self._fs.info(self._fs._strip_protocol(url))) != etag:
            raise FetchError("gone", CHANGED)


def member_name(name: str) -> str:
    """A member's name as part of a URI: text, and never a way up or to the root."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace").replace("#", "%23")
    return "/".join(part for part in text.split("/") if part not in ("", ".", "..")) or "_"


def _members(
    stack: ExitStack, url: str, options: Mapping[str, Any]
) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    file = stack.enter_context(opened(url, options, unpack=False))
    mode = cast(Any, f"r|{_compression(url)}")
    tar = stack.enter_context(
        tarfile.open(  # noqa: SIM115 (the stack closes it)
            fileobj=file, mode=mode, errors="surrogateescape", tarinfo=_Strict
        )
    )
    while member := tar.next():
        tar.members = []  # type: ignore[attr-defined] # it would keep them all
        yield member, tar


class _Strict(tarfile.TarInfo):
    """Only a block of zeros ends a tar; the library takes a header that is cut off or damaged for its end, too."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined] # typeshed leaves it out
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"the next header is missing or damaged ({error})") from None


def _contents(stack: ExitStack, url: str, options: Mapping[str, Any]) -> Iterator[tuple[int, bytes]]:
    """The pictures of a tar, each with the offset of its bytes."""
    for member, tar in _members(stack, url, options):
        if member.isreg() and extension(member.name) in EXTENSIONS:
            yield member.offset_data, _content(tar, member)


def _place_of(uri: str, etag: str) -> tuple[str, str, int, int]:
    """URL and version of an item's tar, offset and length of its bytes. Raises FetchError."""
    raise_if_bad(etag)
    match = _PLACE.fullmatch(etag)
    if match is None:
        raise FetchError("gone", CHANGED)
    return uri.rpartition("#")[0], match["tar"], int(match["offset"]), int(match["length"])


def _item(url: str, etag: str, name: str, member: tarfile.TarInfo) -> Item:
    uri = f"{url}#{name}"
    if not member.isreg() or member.issparse():
        return Item(uri, f"{etag}@{member.offset}!the member is no plain file", 0)
    return Item(uri, f"{etag}@{member.offset_data}+{member.size}", member.size)


def _add_sidecar(sample: _Sample, name: str, kind: str, member: tarfile.TarInfo, tar: tarfile.TarFile) -> None:
    try:
        if member.size > SIDECAR_LIMIT:
            raise ValueError(f"longer than {SIDECAR_LIMIT} bytes")
        sample.columns.update(sidecar_columns(kind, _content(tar, member)))
    except ValueError as error:
        sample.columns["sidecar_error"] = f"{posixpath.basename(name)}: {error}"


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    data = file.read() if file else b""
    if len(data) != member.size:
        raise tarfile.ReadError("unexpected end of data")
    return data


def _split(name: str) -> tuple[str, str, str]:
    """Key and extension of a member: the name up to its first point, and what is behind it."""
    folder, slash, base = name.rpartition("/")
    stem, dot, kind = base.partition(".")
    return f"{folder}{slash}{stem}", dot, kind.lower()


def _compression(url: str) -> str:
    return "gz" if is_packed(url) else ""
