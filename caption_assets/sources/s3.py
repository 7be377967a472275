"""Objects on S3: listed page by page, and read on the condition that they are still the planned ones.

A key is taken as it is: s3fs would strip slashes, and would take `?versionId=` in a key for a version.
"""

from __future__ import annotations

import functools
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, repeat
from operator import itemgetter
from typing import Any, cast

import fsspec.asyn
import s3fs
from aiobotocore.session import AioSession

from caption_assets.sources.ahead import Room
from caption_assets.sources.base import CHANGED, FetchError, Item, Page, SortedKeys
from caption_assets.sources.files import FileFilter, SidecarJoin
from caption_assets.sources.s3_pages import read_pages_fast
from caption_assets.sources.spool import Body, Spool

_PAGE = 1000
_STUCK_PAGES = 50
_FOLDER_PAGES = 10
_SMALL_PAGES = (200, 200, 400)
_TAILS = 8
"""First-level folders whose ends are looked at."""
_LOOKS = 16
_CHUNK = 1 << 18


class S3Store:
    """A bucket's keys that begin with a prefix.

    Args:
        url: `s3://bucket/prefix`; a prefix is a folder: `a` means the keys that begin with `a/`.
        options: s3fs' own.
        at_once: how many reads are to be under way.
    """

    def __init__(self, url: str, options: Mapping[str, Any], at_once: int) -> None:
        self._bucket, _, prefix = url.partition("://")[2].partition("/")
        self._prefix = prefix.rstrip("/") + "/" if prefix.strip("/") else ""
        config = {"max_pool_connections": at_once, **options.get("config_kwargs", {})}
        self._fs = s3fs.S3FileSystem(**{**options, "config_kwargs": config})
        if self._fs.session is None:
            self._fs.session = AioSession(**self._fs.kwargs)  # as it would make it itself
            read_pages_fast(self._fs.session)

    def pages(
        self,
        files: FileFilter,
        *,
        recursive: bool,
        after: str = "",
        until: str = "",
        sizes: Iterable[int] = (),
    ) -> Iterator[Page]:
        """The pictures in the order of their keys, below the prefix as places are.

        Args:
            sizes: keys of the first pages.

        Raises:
            OSError: the bucket cannot be listed.
        """
        join, place, stuck = SidecarJoin(after), after, 0
        for answer in self._answers(self._prefix, after, "" if recursive else "/", sizes):
            entries = self._entries(files, answer)
            ended = bool(until and entries and entries[-1][0] > until)
            if ended:
                entries = entries[: bisect_right(entries, until, key=itemgetter(0))]
            items = join.add_all(entries)
            if ended or not answer.get("IsTruncated"):
                yield Page([*items, *join.finish()], until or join.resume, last=True)
                return
            stuck = stuck + 1 if join.resume == place else 0
            if stuck >= _STUCK_PAGES:  # keys between a picture and its sidecar: without end, for all we know
                items += join.finish()
            place = join.resume
            yield Page(items, place)

    async def read(self, uri: str, etag: str, room: Room, start: int | None = None, end: int | None = None) -> Body:
        """The object, or these bytes of it, if it is the planned one; no etag: as it is.

        Raises FetchError, NoRoomError, OSError.
        """
        conditions = {"IfMatch": f'"{etag}"'} if etag else {}
        if start is not None and end is not None:
            conditions["Range"] = f"bytes={start}-{end - 1}"
        try:
            return await self._get(uri, room, **conditions)
        except OSError as error:
            if _code(error) in ("PreconditionFailed", "412"):
                raise FetchError("gone", CHANGED) from None
            raise

    def head(self, uri: str, length: int) -> bytes:
        """The object's first bytes. Raises OSError."""
        try:
            read = functools.partial(self._get, uri, Room(length), Range=f"bytes=0-{length - 1}")
            found = cast(Body, fsspec.asyn.sync(self._fs.loop, read))
            return found.take() if isinstance(found, Spool) else found
        except OSError as error:
            if _code(error) in ("InvalidRange", "416"):
                return b""  # an empty object has no first byte
            raise

    def sorted_keys(self, files: FileFilter) -> SortedKeys:
        """What can be asked because keys are sorted."""
        return _Keys(self, files)

    def _entries(self, files: FileFilter, answer: Mapping[str, Any]) -> list[tuple[str, Item | str | None]]:
        """The places of a page, each with its picture, the place of a sidecar, or neither."""
        start, root = len(self._prefix), f"s3://{self._bucket}/"
        found: list[tuple[str, Item | str | None]] = []
        for each in answer.get("Contents", ()):
            key = each["Key"]
            relative = key[start:]
            if files.is_picture(relative):
                item = Item(root + key, each["ETag"].strip('"'), each["Size"], each["LastModified"])
                found.append((relative, item))
            else:
                found.append((relative, root + key if files.is_sidecar(relative) else None))
        return found

    def _answers(
        self, prefix: str, after: str = "", delimiter: str = "", sizes: Iterable[int] = ()
    ) -> Iterator[dict[str, Any]]:
        """What the store says to a listing, page by page. Raises OSError."""
        request: dict[str, Any] = {"Bucket": self._bucket, "Prefix": prefix}
        if delimiter:
            request["Delimiter"] = delimiter
        if after:
            request["StartAfter"] = f"{self._prefix}{after}"
        for size in chain(sizes, repeat(_PAGE)):
            page = self._fs.call_s3("list_objects_v2", MaxKeys=size, **request)
            yield page
            if not page.get("IsTruncated"):
                return
            request["ContinuationToken"] = page["NextContinuationToken"]

    async def _get(self, uri: str, room: Room, **conditions: str) -> Body:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        answer = await self._fs._call_s3("get_object", Bucket=bucket, Key=key, **conditions)
        async with answer["Body"] as body:
            room.exactly(answer["ContentLength"])
            with Spool() as content:
                while chunk := await body.read(_CHUNK):
                    content.write(chunk)
                return content


def _code(error: OSError) -> str | None:
    """S3's own code of an error that s3fs has translated."""
    response = getattr(error.__cause__, "response", None) or {}
    return cast("str | None", response.get("Error", {}).get("Code"))


class _Keys:
    """What can be asked of S3 because its keys are sorted; places are keys below the prefix."""

    def __init__(self, store: S3Store, files: FileFilter) -> None:
        self._store, self._files, self._prefix = store, files, store._prefix

    def splits(self) -> list[str]:
        """The folders of the first level that has several; a name with a dot might part a picture from its sidecar."""
        return [folder for folder in self._branches[0] if "." not in folder]

    def ends(self) -> dict[str, str]:
        """The last folder of all, and of each folder of the first level that has several, where they are few."""
        folders, complete = self._branches
        if not complete:
            return {}
        found = {"": end} if (end := self._last_folder(folders[-1] if folders else "")) is not None else {}
        tops = folders[:-1] if len(folders) <= _TAILS else []  # the end of the last one is that of all
        return {**{folder: end for folder in tops if (end := self._last_folder(folder)) is not None}, **found}

    def pages_at_end(self, after: str, until: str) -> Iterator[Page]:
        """`pages` that are small at first: at the end there is little to be had."""
        yield from self._store.pages(self._files, recursive=True, after=after, until=until, sizes=_SMALL_PAGES)

    def look(self, uris: Sequence[str]) -> list[Item | None]:
        """The pictures with these URIs, with the places of their sidecars; several at once."""
        with ThreadPoolExecutor(_LOOKS, thread_name_prefix="look") as pool:
            return list(pool.map(self._look, uris))

    def _look(self, uri: str) -> Item | None:
        root = f"s3://{self._store._bucket}/{self._prefix}"
        relative = uri.removeprefix(root)
        if not uri.startswith(root) or not relative or not self._files.is_picture(relative):
            return None
        name = relative[: relative.rindex(".") + 1]
        for prefix in (name, relative):  # by itself where a thousand keys begin like its name
            join = SidecarJoin()
            answer = next(self._store._answers(f"{self._prefix}{prefix}"))
            found = [*join.add_all(self._store._entries(self._files, answer)), *join.finish()]
            if item := next((each for each in found if each.uri == uri), None):
                return item
        return None

    @functools.cached_property
    def _branches(self) -> tuple[list[str], bool]:
        """The folders of the first level that has several, and whether these are all."""
        folders, complete = self._folders("")
        while complete and len(folders) == 1:
            below, complete = self._folders(folders[0])
            if not below:
                break
            folders = below
        return folders, complete

    def _last_folder(self, folder: str) -> str | None:
        while True:
            below, complete = self._folders(folder)
            if not complete:
                return None
            if not below:
                return folder
            folder = below[-1]

    def _folders(self, folder: str) -> tuple[list[str], bool]:
        """The folders right below one, and whether these are all: a level may have millions of keys and no folder."""
        found: list[str] = []
        for number, page in enumerate(self._store._answers(f"{self._prefix}{folder}", delimiter="/")):
            if number == _FOLDER_PAGES:
                return found, False
            found += [each["Prefix"][len(self._prefix) :] for each in page.get("CommonPrefixes", ())]
        return found, True
