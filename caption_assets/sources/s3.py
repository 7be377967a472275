"""Objects on S3: listed page by page, and read on the condition that they are still the planned ones.

A key is taken as it is: s3fs would strip slashes, and would take `?versionId=` in a key for a version.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any, cast

import fsspec.asyn
import s3fs

from caption_assets.sources.ahead import Room
from caption_assets.sources.base import FetchError, Item
from caption_assets.sources.files import FileFilter, join_sidecars
from caption_assets.sources.spool import Body, Spool

_PAGE = 1000
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

    def walk(self, files: FileFilter, *, recursive: bool) -> Iterator[Item]:
        """The pictures in the order of their keys. Raises OSError."""
        yield from join_sidecars(self._entries(files, recursive))

    async def read(self, uri: str, etag: str, room: Room, start: int | None = None, end: int | None = None) -> Body:
        """The object, or these bytes of it, if it is the planned one; no etag: as it is.

        Raises FetchError, NoRoomError, OSError.
        """
        from caption_assets.sources.bucket import CHANGED

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

    def _entries(self, files: FileFilter, recursive: bool) -> Iterator[tuple[str, Item | str]]:
        for each in self._pages(recursive):
            key = each["Key"]
            relative = key[len(self._prefix) :]
            uri = f"s3://{self._bucket}/{key}"
            if not relative or relative.endswith("/"):
                continue  # a folder's marker
            if files.is_sidecar(relative):
                yield relative, uri
            elif files.is_picture(relative):
                yield relative, Item(uri, each["ETag"].strip('"'), each["Size"], each["LastModified"])

    def _pages(self, recursive: bool) -> Iterator[dict[str, Any]]:
        token: dict[str, str] = {} if recursive else {"Delimiter": "/"}
        while True:
            page = self._fs.call_s3("list_objects_v2", Bucket=self._bucket, Prefix=self._prefix, MaxKeys=_PAGE, **token)
            yield from page.get("Contents", ())
            if not page.get("IsTruncated"):
                return
            token["ContinuationToken"] = page["NextContinuationToken"]

    async def _get(self, uri: str, room: Room, **conditions: str) -> Body:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        answer = await self._fs._call_s3("get_object", Bucket=bucket, Key=key, **conditions)
        async with answer["Body"] as body:
            room.exactly(answer["ContentLength"])
            with Spool() as content:
                while chunk := await body.read(_CHUNK):
                    content.write(chunk)
                return content.content()


def _code(error: OSError) -> str | None:
    """S3's own code of an error that s3fs has translated."""
    response = getattr(error.__cause__, "response", None) or {}
    return cast("str | None", response.get("Error", {}).get("Code"))
