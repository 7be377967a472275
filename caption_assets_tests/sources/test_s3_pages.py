"""Pages of a listing are read as the client reads them, and pictures find their sidecars however the paths come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import s3fs
from hypothesis import given, settings
from hypothesis import strategies as st

from caption_assets.sources.base import Item
from caption_assets.sources.bucket import open_store
from caption_assets.sources.files import SidecarJoin, join_sidecars
from caption_assets_tests.arrivals.aws import aws

_AWKWARD = ["a b+c.jpg", "a&<b>\"'.jpg", "図/é%20.jpg", "folder/", "x=1&y.png", "empty.jpg", "z/deep/er.webp"]


def test_a_page_is_what_the_client_makes_of_it() -> None:
    with aws() as cloud:
        bucket = cloud.bucket()
        for key in _AWKWARD:
            cloud.put(bucket, key, b"" if key == "empty.jpg" else key.encode())
        plain = s3fs.S3FileSystem(**cloud.options, skip_instance_cache=True)
        store: Any = open_store(f"s3://{bucket}", cloud.options, 4)
        for request in ({}, {"MaxKeys": 3}, {"Prefix": "z/"}, {"Prefix": "nothing"}, {"Delimiter": "/"}):
            expected = plain.call_s3("list_objects_v2", Bucket=bucket, **request)
            found = store._fs.call_s3("list_objects_v2", Bucket=bucket, **request)
            kept = [
                {name: each[name] for name in ("Key", "ETag", "Size", "LastModified")}
                for each in expected.get("Contents", ())
            ]
            assert found.get("Contents", []) == kept
            for answer in (expected, found):
                answer.pop("ResponseMetadata")
                answer.pop("Contents", None)
                answer.pop("NextContinuationToken", None)  # moto makes a new one each time
            assert found == expected
        assert len(kept) == 4


_NAMES = st.lists(st.text("ab./", min_size=1, max_size=4), min_size=1, max_size=12, unique=True)
_ENDINGS = st.sampled_from([".jpg", ".txt", ".png", ".json", "", ".b.jpg"])


@given(_NAMES.flatmap(lambda names: st.tuples(st.just(names), st.tuples(*[_ENDINGS] * len(names)))), st.integers(1, 5))
@settings(deadline=None)
def test_all_at_once_is_one_after_the_other(named: tuple[list[str], Sequence[str]], size: int) -> None:
    paths = sorted({f"{name}{ending}" for name, ending in zip(*named, strict=True)})
    entries: list[tuple[str, Item | str | None]] = []
    for path in paths:
        sidecar = path if path.endswith((".txt", ".json")) else None
        entries.append((path, Item(path, "1", 1) if path.endswith((".jpg", ".png")) else sidecar))
    one = SidecarJoin()
    expected = [item for path, entry in entries for item in one.add(path, entry)]
    join, found = SidecarJoin(), []
    for start in range(0, len(entries), size):
        found += join.add_all(entries[start : start + size])
    assert (found, join.resume) == (expected, one.resume)
    found += join.finish()
    whole = {item.uri: item.sidecars for item in join_sidecars((path, each) for path, each in entries if each)}
    assert {item.uri: item.sidecars for item in found} == whole
