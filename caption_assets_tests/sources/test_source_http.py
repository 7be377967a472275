"""A bucket that is a web server's listing: names as links write them, nothing outside of it, and all of it told."""

from __future__ import annotations

import functools
import http.server
import threading
from pathlib import Path

import pytest
from aiohttp import web

from caption_assets.sources.bucket import BucketSource
from caption_assets_tests.sources.test_source_bucket import AWKWARD, keys, kind_of
from caption_assets_tests.sources.test_source_folder import touch
from caption_assets_tests.sources.web_server import WebServer, web_server


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Tests print nothing."""


def show(server: WebServer, path: str, *links: str) -> None:
    text = "".join(f'<A HREF="{link}">x</A>' for link in links)
    server.answers[path] = lambda request: web.Response(text=text, content_type="text/html")


def test_any_name_can_be_fetched(tmp_path: Path) -> None:
    names = [name for name in AWKWARD if "/" not in name]
    names += ["q?x=1.jpg", "a&amp;b.jpg", "a&b.jpg", "s d/c.jpg", "x;y.jpg", "x:y.jpg", "new\nline.jpg"]
    for name in names:
        touch(tmp_path / "root dir" / name, name.encode())
    handler = functools.partial(_Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as listing:
        threading.Thread(target=listing.serve_forever, daemon=True).start()
        source = BucketSource(f"http://127.0.0.1:{listing.server_port}/root%20dir")
        found = sorted(source.fetch(item.uri, item.etag).decode() for item in source.scan())
        listing.shutdown()
    assert found == sorted(names)


def test_links_lead_nowhere_else() -> None:
    outside = ["../", "../up.jpg", "%2e%2e/up.jpg", "/up.jpg", "http://other.test/a.jpg", "//other.test/a.jpg"]
    with web_server() as server:
        show(server, "/f/", *outside, "?C=N;O=D", "/f/", "./a.jpg", "/f/a.jpg", "b&amp;c.jpg", "d/")
        show(server, "/f/d/", "../../up.jpg", "..%2f../up.jpg", "../", "d.jpg")
        server.otherwise = lambda request: web.Response(body=b"x")
        found = keys(list(BucketSource(server.url("/f")).scan()), server.url("/f/"))
        assert found == ["a.jpg", "b&c.jpg", "d/d.jpg"]
        assert not [path for path in server.asked if not path.startswith("/f/")]


def test_what_cannot_be_looked_at_is_told() -> None:
    with web_server() as server:
        show(server, "/f/", "a.jpg", "gone.jpg", "forbidden.jpg")
        server.answers["/f/a.jpg"] = lambda request: web.Response(body=b"x")
        server.answers["/f/forbidden.jpg"] = lambda request: web.Response(status=403)
        source, root = BucketSource(server.url("/f")), server.url("/f/")
        there, refused = source.scan()
        assert keys([there, refused], root) == ["a.jpg", "forbidden.jpg"]
        assert kind_of(source, refused) == "forbidden"
        assert all(page.whole for page in source.pages())
        server.answers["/f/a.jpg"] = lambda request: web.Response(status=500)
        assert kind_of(source, there) == "unreachable"
        page = next(iter(source.pages()))
        assert (keys(page.items, root), page.whole) == (["forbidden.jpg"], False)
        show(server, "/f/", "a.jpg", "d/", "e/")
        show(server, "/f/e/", "e.jpg")
        server.answers["/f/a.jpg"] = server.answers["/f/e/e.jpg"] = lambda request: web.Response(body=b"x")
        server.answers["/f/d/"] = lambda request: web.Response(status=403)
        pages = list(source.pages())
        assert [keys(page.items, root) for page in pages if page.items] == [["a.jpg"], ["e/e.jpg"]]
        assert [page.whole for page in pages] == [True, False, True, True]
        server.answers["/f/d/"] = server.answers["/f/"] = lambda request: web.Response(status=500)
        with pytest.raises(OSError, match="it cannot be listed: the store answers 500"):
            list(source.scan())


def test_many_files_are_looked_at_at_once() -> None:
    with web_server() as server:
        show(server, "/", *(f"{number}.jpg" for number in range(40)))
        server.otherwise = lambda request: web.Response(body=b"x")
        server.delay = 0.02
        assert len(list(BucketSource(server.url("")).scan())) == 40
        assert server.most > 8
