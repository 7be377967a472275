"""Pictures under a URL: an item is an object, its etag is the store's, or else its size and time of change."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Protocol, cast

import fsspec

from caption_assets.sources.ahead import Ahead, NoRoomError, Room
from caption_assets.sources.base import FetchError, Item, Page, SortedKeys
from caption_assets.sources.files import SIDECAR_LIMIT, FileFilter, join_sidecars, with_columns
from caption_assets.sources.spool import Body, Spool

CHANGED = "the object has changed since it was planned; the new one is an item of its own"
GONE = "the object is no longer there"

_THREADS = 16
_PAGE = 1000
_BEHIND = "\U0010ffff"
"""A name behind all others."""
_PIECE = 8_000_000
_ETAGS = ("ETag", "etag", "md5Hash", "content_md5", "Content-MD5")
_TIMES = ("LastModified", "last_modified", "Last-Modified", "mtime", "updated", "created")


class Store(Protocol):
    """What the objects under a URL are listed and read by."""

    def pages(self, files: FileFilter, *, recursive: bool, after: str = "", until: str = "") -> Iterator[Page]:
        """The pictures, with the places of their sidecars, as `ListsInPages.pages` gives them."""

    def sorted_keys(self, files: FileFilter) -> SortedKeys | None:
        """What the store can do where its keys are sorted."""

    async def read(self, uri: str, etag: str, room: Room, start: int | None = None, end: int | None = None) -> Body:
        """An object, or these bytes of it, in its planned version; no etag: as it is.

        Raises FetchError, NoRoomError, and the filesystem's own errors.
        """

    def head(self, uri: str, length: int) -> bytes:
        """The first bytes of an object. Raises OSError."""


class BucketSource:
    """Objects with a picture's extension under a URL. Names that begin with a dot are names like any other.

    Args:
        url: any that fsspec knows.
        recursive: whether what is below a further '/' counts.
        files: which objects are pictures.
        options: passed to the filesystem.
        fetches: what fetches many objects at once.

    Raises:
        ImportError: the filesystem's package is not installed.
        ValueError: there is no such filesystem, or it refuses the options.
    """

    def __init__(
        self,
        url: str,
        *,
        recursive: bool = True,
        files: FileFilter | None = None,
        options: Mapping[str, Any] | None = None,
        fetches: Ahead | None = None,
    ) -> None:
        self._recursive = recursive
        self._files = files or FileFilter()
        self._fetches = fetches or Ahead()
        self._store = open_store(url, options or {}, self._fetches.at_once)

    def scan(self) -> Iterator[Item]:
        """Objects as they are listed now. Raises OSError where the store cannot be listed."""
        for page in self.pages():
            yield from page.items

    def pages(self, after: str = "", until: str = "") -> Iterator[Page]:
        """Objects as they are listed now, from a place on. Raises OSError where the store cannot be listed."""
        yield from self._store.pages(self._files, recursive=self._recursive, after=after, until=until)

    @property
    def keys(self) -> SortedKeys | None:
        """What the store can do where its keys are sorted; without folders there is nothing to sort by."""
        return self._store.sorted_keys(self._files) if self._recursive else None

    def complete(self, items: Sequence[Item]) -> list[Item]:
        """The items with what their sidecars say."""
        return with_columns(items, lambda uri: self._store.head(uri, SIDECAR_LIMIT + 1))

    @property
    def ahead(self) -> int:
        """How many fetches it is worth to have under way."""
        return self._fetches.at_once

    def start(self, uri: str, etag: str) -> Future[bytes]:
        """Begin to fetch a planned object; the future's result is its bytes, or FetchError."""
        return self._fetches.start(lambda room: stored(self._store, uri, etag, room))

    def fetch(self, uri: str, etag: str) -> bytes:
        """The object's bytes. Raises FetchError: gone, also when it has changed since it was planned."""
        return self.start(uri, etag).result()


async def stored(
    store: Store, uri: str, etag: str, room: Room, start: int | None = None, end: int | None = None
) -> Body:
    """What `Store.read` gives. Raises FetchError and NoRoomError only."""
    with Translated():
        return await store.read(uri, etag, room, start, end)


class Translated:
    """Turns what a filesystem raises into FetchError, without the URL: it may hold a signature."""

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Raise FetchError for a filesystem's errors."""
        if error is None or isinstance(error, FetchError | NoRoomError) or not isinstance(error, Exception):
            return
        status = getattr(error, "status", None)  # aiohttp's
        if isinstance(error, FileNotFoundError) or status in (404, 410):
            raise FetchError("gone", GONE) from None
        if isinstance(error, PermissionError) or status in (401, 403):
            raise FetchError("forbidden", "the store refuses to give this object") from None
        if isinstance(error, TimeoutError | asyncio.TimeoutError):
            raise FetchError("timeout", "the store did not answer in time") from None
        raise FetchError("unreadable", f"{type(error).__name__}: {getattr(error, 'strerror', None) or ''}") from None


def open_store(url: str, options: Mapping[str, Any], at_once: int) -> Store:
    """The store behind a URL, to be read so many times at once. Raises ImportError, ValueError."""
    protocol = url.partition("://")[0]
    if protocol in ("s3", "s3a"):
        from caption_assets.sources.s3 import S3Store  # optional package

        return S3Store(url, options, at_once)
    return _AnyStore(url, options)


class _AnyStore:
    """A store that is listed folder by folder, through fsspec; uncached, for it must be seen as it is now."""

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self._protocol = url.partition("://")[0]
        self._fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False, skip_instance_cache=True, **options)
        self._root = str(root).rstrip("/")

    def pages(self, files: FileFilter, *, recursive: bool, after: str = "", until: str = "") -> Iterator[Page]:
        """Folder by folder: a folder's files come before what is below it. A place is a path below the root."""
        target = after.split("/") if after else None
        for folder, entries in self._folders(self._root, target, recursive):
            items = sorted(join_sidecars(self._entries(files, folder, entries)), key=lambda each: _name(each.uri))
            place = f"{folder}/"[len(self._root) + 1 :]
            for start in range(0, max(len(items), 1), _PAGE):
                some = items[start : start + _PAGE]
                yield Page(some, place + (_name(some[-1].uri) if start + _PAGE < len(items) else _BEHIND))
        yield Page([], _BEHIND, last=True)

    def sorted_keys(self, files: FileFilter) -> SortedKeys | None:
        """Most listings here are not sorted, or cannot begin in their middle."""
        del files
        return None

    async def read(self, uri: str, etag: str, room: Room, start: int | None = None, end: int | None = None) -> Body:
        path = self._path(uri)
        info = await self._call("info", path)
        if etag and version(info) != etag:
            raise FetchError("gone", CHANGED)
        size = info.get("size") if start is None or end is None else end - start
        if size is not None:
            room.exactly(int(size))
        data = await self._content(path, start, end, room, None if size is None else int(size))
        if etag and version(await self._call("info", path)) != etag:
            raise FetchError("gone", CHANGED)  # while it was read
        return data

    async def _content(self, path: str, start: int | None, end: int | None, room: Room, size: int | None) -> Body:
        """The bytes from start to end; big ones, of a known size, a piece at a time."""
        if size is None or size <= _PIECE:
            data = cast(bytes, await self._call("cat_file", path, start=start, end=end))
            if size is None:
                room.at_least(len(data))
            return Spool.of(data)
        first = start or 0
        with Spool() as body:
            for place in range(first, first + size, _PIECE):
                stop = min(place + _PIECE, first + size)
                data = cast(bytes, await self._call("cat_file", path, start=place, end=stop))
                if start is None and len(data) == size:
                    return Spool.of(data)  # by a server that knows no ranges
                if len(data) != stop - place:
                    raise FetchError("gone", CHANGED)
                body.write(data)
            return body

    def head(self, uri: str, length: int) -> bytes:
        path = self._path(uri)
        size = self._fs.info(path).get("size")
        if size == 0:
            return b""
        return cast(bytes, self._fs.cat_file(path, start=0, end=length if size is None else min(length, size)))

    def _folders(
        self, folder: str, target: Sequence[str] | None, recursive: bool
    ) -> Iterator[tuple[str, list[tuple[str, dict[str, Any]]]]]:
        """Each folder's path with its files by name, in the order of names.

        Args:
            target: the parts of a place below the folder; what comes before it is left out.
        """
        try:
            listed = self._fs.ls(folder + "/" if self._is_http() else folder, detail=True)
        except FileNotFoundError:
            if folder == self._root:
                raise
            return  # deleted while we looked
        named = sorted((_name(each["name"]), each) for each in listed if each["name"])
        if target is None or len(target) == 1:
            yield (
                folder,
                [(name, each) for name, each in named if each["type"] == "file" and name > (target or [""])[0]],
            )
            target = None
        if not recursive:
            return
        for name, each in named:
            path = each["name"].rstrip("/")
            is_below = each["type"] == "directory" and path.startswith(f"{folder}/") and path != folder
            if is_below and (target is None or name >= target[0]):
                rest = target[1:] if target is not None and name == target[0] else None
                yield from self._folders(path, rest, recursive)

    def _entries(
        self, files: FileFilter, folder: str, entries: Sequence[tuple[str, dict[str, Any]]]
    ) -> Iterator[tuple[str, Item | str]]:
        for name, info in entries:
            path = info["name"]
            relative = f"{folder}/{name}"[len(self._root) + 1 :]
            if files.is_sidecar(relative):
                yield relative, self._uri(path)
            elif files.is_picture(relative):
                try:
                    known = info if version(info) else self._fs.info(path)
                except FileNotFoundError:
                    continue
                etag = version(known)
                yield relative, Item(self._uri(path), etag, int(known.get("size") or 0), changed(known))

    async def _call(self, name: str, *args: object, **options: object) -> Any:
        """A call of the filesystem, in a thread where it has to be waited for in one."""
        if self._fs.async_impl:
            return await getattr(self._fs, f"_{name}")(*args, **options)
        call = functools.partial(getattr(self._fs, name), *args, **options)
        return await asyncio.get_running_loop().run_in_executor(_threads(), call)

    def _is_http(self) -> bool:
        return self._protocol in ("http", "https")

    def _uri(self, path: str) -> str:
        return path if "://" in path else f"{self._protocol}://{path}"

    def _path(self, uri: str) -> str:
        return uri if self._is_http() else uri.removeprefix(f"{self._protocol}://")


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_THREADS, thread_name_prefix="store")


def _name(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def version(info: Mapping[str, Any]) -> str:
    """What tells an object from its replacement: its etag, else size and time; empty where a listing tells neither."""
    for name in _ETAGS:
        value = info.get(name)
        if value:
            return value.hex() if isinstance(value, bytes | bytearray) else str(value).strip('"')
    time, size = changed(info), info.get("size")
    if time is None:
        return "" if size is None and "url" not in info else f"{'' if size is None else size}-"
    return f"{'' if size is None else size}-{time.isoformat()}"


def changed(info: Mapping[str, Any]) -> datetime | None:
    """When an object was last changed, where its store tells."""
    for name in _TIMES:
        value = info.get(name)
        try:
            if isinstance(value, str):
                value = datetime.fromisoformat(value) if value[:1].isdigit() else parsedate_to_datetime(value)
            if isinstance(value, int | float) and value:
                return datetime.fromtimestamp(value, UTC)
            if isinstance(value, datetime):
                return value if value.tzinfo else value.replace(tzinfo=UTC)
        except (ValueError, OverflowError, OSError):
            continue  # outside of the calendar, or no date
    return None
