"""An S3 store that lists more keys than any test could put there, as slowly as a test asks."""

from __future__ import annotations

import asyncio
import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import quote
from xml.sax.saxutils import escape

from aiohttp import web

from caption_assets_tests.sources.servers import s3_environment
from caption_assets_tests.sources.web_server import served

_LAST = "\U0010ffff"


class Numbered(Sequence[str]):
    """Keys made from numbers: `000/0000000.jpg`, a thousand below each prefix."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> str:  # type: ignore[override]
        return f"{number // 1000:04d}/{number:07d}.jpg"


class S3Stub:
    """Answers ListObjectsV2 and GetObject for the one bucket `b`.

    Args:
        keys: in the order of their code points.
        content: of every object.
    """

    def __init__(self, keys: Sequence[str], content: bytes = b"x") -> None:
        self.keys, self.content, self.delay = keys, content, 0.0
        self.pages = self.now = self.most = self.reads = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a request."""
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(self.delay)
            return self._page(request) if request.path.strip("/") == "b" else self._object(request)
        finally:
            self.now -= 1

    def etag(self, key: str) -> str:
        """The etag of a key's object."""
        return hashlib.md5(key.encode() + self.content).hexdigest()

    def _object(self, request: web.Request) -> web.Response:
        self.reads += 1
        etag = f'"{self.etag(request.path.removeprefix("/b/"))}"'
        if request.headers.get("If-Match", etag) != etag:
            return _xml("<Error><Code>PreconditionFailed</Code></Error>", 412)
        return web.Response(body=self.content, headers={"ETag": etag})

    def _page(self, request: web.Request) -> web.Response:
        self.pages += 1
        prefix, delimiter = request.query.get("prefix", ""), request.query.get("delimiter", "")
        first = max(bisect_left(self.keys, prefix), bisect_right(self.keys, request.query.get("start-after", "")))
        number = int(request.query.get("continuation-token", first))
        end, room = bisect_left(self.keys, prefix + _LAST), int(request.query.get("max-keys", "1000"))
        entries: list[str] = []
        while number < end and len(entries) < room:
            key = self.keys[number]
            folder, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            if found:
                common = prefix + folder + found
                entries.append(f"<CommonPrefixes><Prefix>{escape(quote(common))}</Prefix></CommonPrefixes>")
                number = bisect_left(self.keys, common + _LAST)
                continue
            entries.append(
                f"<Contents><Key>{escape(quote(key))}</Key><LastModified>2026-01-02T03:04:05.000Z</LastModified>"
                f"<ETag>&quot;{self.etag(key)}&quot;</ETag><Size>{len(self.content)}</Size></Contents>"
            )
            number += 1
        more = f"<NextContinuationToken>{number}</NextContinuationToken>" if number < end else ""
        return _xml(
            "<ListBucketResult><EncodingType>url</EncodingType>"
            f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>{more}{''.join(entries)}</ListBucketResult>"
        )


def _xml(text: str, status: int = 200) -> web.Response:
    head = '<?xml version="1.0" encoding="UTF-8"?>'
    return web.Response(text=head + text, content_type="application/xml", status=status)


@contextmanager
def s3_stub(stub: S3Stub) -> Iterator[S3Stub]:
    """The stub on a free port, and an environment that leads there."""
    with served(stub.handle) as port, s3_environment(f"http://127.0.0.1:{port}"):
        yield stub
