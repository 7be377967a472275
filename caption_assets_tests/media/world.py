"""A shard in its world: a folder, a lake, a source with moods, and the invariants that hold after every run."""

import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from caption_assets.config import Media
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.media.shard import MediaReport, build_media, read_failures, read_index, read_picture
from caption_assets.sources.base import FetchError, Item
from caption_assets.sources.folder import FolderSource
from caption_assets.sources.planner import plan_dataset, read_plan
from caption_assets_tests.media.pictures import encode, noise

SHARD = Shard("d", 0)


class Flaky:
    """A folder some of whose files cannot be had for the time being."""

    def __init__(self, folder: Path) -> None:
        self.folder = FolderSource(folder)
        self.away: dict[str, str] = {}
        self.fetched: list[str] = []

    def scan(self) -> Iterator[Item]:
        return self.folder.scan()

    def fetch(self, uri: str, etag: str) -> bytes:
        name = Path(uri).name
        self.fetched.append(name)
        if name in self.away:
            raise FetchError(self.away[name], "not now")  # type: ignore[arg-type]
        return self.folder.fetch(uri, etag)


class World:
    """A planned shard with good, bad and double files."""

    def __init__(self, lake: Lake, folder: Path, media: Media) -> None:
        self.lake, self.folder, self.media = lake, folder, media
        if not any(folder.iterdir()):
            self.fill(folder)
        self.source = Flaky(folder)
        plan_dataset(lake, "d", self.source, 100)

    @staticmethod
    def fill(folder: Path) -> None:
        """Eight pictures, two of them the same, a broken one and none."""
        for number in range(6):
            (folder / f"{number}.jpg").write_bytes(encode(noise(60 + number, 50, number), "JPEG"))
        (folder / "6_copy_of_2.jpg").write_bytes((folder / "2.jpg").read_bytes())
        (folder / "7.png").write_bytes(encode(noise(200, 100, 7), "PNG"))
        (folder / "8_broken.jpg").write_bytes((folder / "1.jpg").read_bytes()[:300])
        (folder / "9_page.jpg").write_bytes(b"<html>")

    def build(self, run_id: str = "run", *, media: Media | None = None, force: bool = False) -> MediaReport:
        self.source.fetched.clear()
        report = build_media(self.lake, SHARD, self.source, media or self.media, run_id, force=force)
        self.check()
        assert (report.rows, report.failed) == (len(self.rows()), len(self.failures()))
        return report

    def rows(self) -> list[dict[str, Any]]:
        return read_index(self.lake, SHARD)

    def failures(self) -> list[dict[str, Any]]:
        return read_failures(self.lake, "media", SHARD)

    def segments(self) -> list[str]:
        return [name for name in self.lake.list("media/dataset=d") if name.endswith(".tar")]

    def files(self) -> dict[str, tuple[int, bytes]]:
        paths = [path for path in Path(self.lake.root).rglob("*") if path.is_file()]
        return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}

    def checksum(self) -> str:
        return hashlib.sha256(self.lake.read(f"media/dataset=d/{self.rows()[0]['segment']}")).hexdigest()

    def check(self) -> None:
        """The invariants that hold after every run."""
        rows, failures = self.rows(), self.failures()
        planned = [item.key for item in read_plan(self.lake, SHARD)]
        found = [(row["uri"], row["etag"]) for row in rows + failures]
        assert sorted(found) == sorted(planned)
        assert [key for key in planned if key in {(row["uri"], row["etag"]) for row in rows}] == [
            (row["uri"], row["etag"]) for row in rows
        ]
        assert self.segments() == ([rows[0]["segment"]] if rows else [])
        assert self.lake.list(".scratch") == []
        for row in rows:
            data = read_picture(self.lake, row)
            assert hashlib.sha256(data).hexdigest() == row["bytes_sha256"]
            with Image.open(io.BytesIO(data)) as image:
                image.load()
                assert image.size == (row["width"], row["height"])
        if rows:
            with tarfile.open(self.lake.path(f"media/dataset=d/{rows[0]['segment']}")) as tar:
                members = {member.name: (member.offset_data, member.size) for member in tar.getmembers()}
            kept = {row["media_id"] for row in rows if row["original_offset"] not in {None, row["offset"]}}
            assert len(members) == 2 * len({row["media_id"] for row in rows}) + len(kept)
            assert all(members[row["member"]] == (row["offset"], row["length"]) for row in rows)
