"""What objects are listed and read by: any filesystem that fsspec knows, folder by folder."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Protocol, cast

import aiohttp
import fsspec

from caption_assets.lake.tables import MediaFailureKind
from caption_assets.sources.ahead import NoRoomError, Room
from caption_assets.sources.base import CHANGED, GONE, FetchError, Item, Page, SortedKeys
from caption_assets.sources.files import FileFilter, join_sidecars
from caption_assets.sources.spool import Body, Spool

_THREADS = 16
_LOOKS = 32
_PAGE = 1000
_BEHIND = "\U0010ffff"
"""A name behind all others."""
_PIECE = 8_000_000
_ETAGS = ("ETag", "etag", "md5Hash", "content_md5", "Content-MD5")
_TIMES = ("LastModified", "last_modified", "Last-Modified", "mtime", "updated", "created")
_log = logging.getLogger(__name__)


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
        raise failure_of(error) from None


def failure_of(error: BaseException) -> FetchError:
    """A filesystem's error as one of ours."""
    status = _status(error)
    if status in (401, 403) or isinstance(error, PermissionError):
        return FetchError("forbidden", "the store refuses to give this object")
    if status and (status == 429 or status >= 500):
        return FetchError("unreachable", f"the store answers {status}")
    cut_off = isinstance(error.__cause__, aiohttp.ClientError | TimeoutError)
    if status in (404, 410) or (isinstance(error, FileNotFoundError) and not status and not cut_off):
        return FetchError("gone", GONE)
    if isinstance(error, TimeoutError) or isinstance(error.__cause__, TimeoutError):
        return FetchError("timeout", "the store did not answer in time")
    kind: MediaFailureKind = "unreachable" if cut_off or isinstance(error, aiohttp.ClientError) else "unreadable"
    return FetchError(kind, f"{type(error).__name__}: {getattr(error, 'strerror', None) or ''}")


def _status(error: BaseException) -> int | None:
    """The status of HTTP behind a filesystem's error, where it tells one."""
    for each in (error, error.__cause__):
        for name in ("status", "status_code", "code"):
            if isinstance(status := getattr(each, name, None), int):
                return status
        if str(each).startswith("Forbidden: "):
            return 403  # gcsfs says it in words
    return None


class AnyStore:
    """A store that is listed folder by folder, through fsspec; uncached, for it must be seen as it is now."""

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self._protocol = url.partition("://")[0]
        self._fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False, skip_instance_cache=True, **options)
        self._root = str(root).rstrip("/")

    def pages(self, files: FileFilter, *, recursive: bool, after: str = "", until: str = "") -> Iterator[Page]:
        """Folder by folder: a folder's files come before what is below it. A place is a path below the root."""
        target = after.split("/") if after else None
        for folder, entries in self._folders(self._root, target, recursive):
            if entries is None:
                yield Page([], f"{folder}/{_BEHIND}"[len(self._root) + 1 :], whole=False)
                continue
            items = sorted(join_sidecars(self._entries(files, folder, entries)), key=lambda each: _name(each.uri))
            place = f"{folder}/"[len(self._root) + 1 :]
            for start in range(0, max(len(items), 1), _PAGE):
                some = items[start : start + _PAGE]
                after = place + (_name(some[-1].uri) if start + _PAGE < len(items) else _BEHIND)
                there, whole = self._looked_at(some)
                yield Page(there, after, whole=whole)
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
    ) -> Iterator[tuple[str, list[tuple[str, dict[str, Any]]] | None]]:
        """Each folder's path with its files by name, in the order of names; None where one is forbidden to us.

        Args:
            target: the parts of a place below the folder; what comes before it is left out.
        """
        try:
            listed = self._listed(folder)
        except FileNotFoundError:
            if folder == self._root:
                raise
            return  # deleted while we looked
        except Exception as error:
            failure = failure_of(error)
            if failure.kind == "forbidden" and folder != self._root:
                _log.warning("%s: left out of the scan: %s", folder, failure)
                yield folder, None
                return
            if isinstance(error, OSError):
                raise
            raise OSError(f"it cannot be listed: {failure}") from error  # the filesystem's own
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

    def _listed(self, folder: str) -> list[dict[str, Any]]:
        """What is in a folder. Raises what the filesystem raises."""
        return cast("list[dict[str, Any]]", self._fs.ls(folder, detail=True))

    def _entries(
        self, files: FileFilter, folder: str, entries: Sequence[tuple[str, dict[str, Any]]]
    ) -> Iterator[tuple[str, Item | str]]:
        for name, info in entries:
            path = info["name"]
            relative = f"{folder}/{name}"[len(self._root) + 1 :]
            if files.is_sidecar(relative):
                yield relative, self._uri(path)
            elif files.is_picture(relative):
                yield relative, Item(self._uri(path), version(info), int(info.get("size") or 0), changed(info))

    def _looked_at(self, items: list[Item]) -> tuple[list[Item], bool]:
        """The items with the versions that their listing does not tell, and whether all could be looked at."""
        unknown = [item for item in items if not item.etag]
        if not unknown:
            return items, True
        infos = fsspec.asyn.sync(fsspec.asyn.get_loop(), self._infos, [self._path(item.uri) for item in unknown])
        known, whole = {item.uri: item for item in items}, True
        for item, info in zip(unknown, infos, strict=True):
            if not isinstance(info, BaseException):
                size = int(info.get("size") or 0)
                known[item.uri] = replace(item, etag=version(info), size=size, modified=changed(info))
                continue
            failure = failure_of(info)
            if failure.kind == "forbidden":
                continue  # to be told when it is fetched
            del known[item.uri]
            if failure.kind != "gone":
                _log.warning("%s: left out of the scan: %s", item.uri, failure)
                whole = False
        return [known[item.uri] for item in items if item.uri in known], whole

    async def _infos(self, paths: Sequence[str]) -> list[dict[str, Any] | BaseException]:
        """What is known of each of these, several at once; or what was raised."""
        places = asyncio.Semaphore(_LOOKS)

        async def look(path: str) -> dict[str, Any]:
            async with places:
                return cast("dict[str, Any]", await self._call("info", path))

        return await asyncio.gather(*(look(path) for path in paths), return_exceptions=True)

    async def _call(self, name: str, *args: object, **options: object) -> Any:
        """A call of the filesystem, in a thread where it has to be waited for in one."""
        if self._fs.async_impl:
            return await getattr(self._fs, f"_{name}")(*args, **options)
        call = functools.partial(getattr(self._fs, name), *args, **options)
        return await asyncio.get_running_loop().run_in_executor(_threads(), call)

    def _uri(self, path: str) -> str:
        return path if "://" in path else f"{self._protocol}://{path}"

    def _path(self, uri: str) -> str:
        return uri.removeprefix(f"{self._protocol}://")


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
