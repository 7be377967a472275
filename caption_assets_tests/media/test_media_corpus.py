"""The corpus of bad input through a whole shard: every file has its outcome, and none costs what it promises."""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
from PIL import Image

from caption_assets.config import Media
from caption_assets.lake.catalog import connect
from caption_assets.lake.definition import Wanted, Wants
from caption_assets.lake.store import Lake
from caption_assets.media.shard import build_media, read_failures, read_index, read_picture
from caption_assets.sources.folder import FolderSource
from caption_assets.sources.planner import plan_dataset, read_plan
from caption_assets.sources.webdataset import WebDatasetSource
from caption_assets_tests import resident
from caption_assets_tests.media.corpus import SIDE, Case, bombs, corpus, write
from caption_assets_tests.media.pictures import corner_colors, encode, noise, oriented, pixels, quarters
from caption_assets_tests.media.world import SHARD

MEDIA = Media(max_pixels=SIDE[0] * SIDE[1])
FLAT = {"white": (255, 255, 255), "black": (0, 0, 0), "grey": (128, 128, 128)}


def assert_looks(image: Image.Image, case: Case) -> None:
    """The stored pixels are those of the picture that the file was made from, upright, in sRGB, opaque."""
    values = pixels(image)
    if case.looks in FLAT:
        assert np.abs(values - FLAT[case.looks]).max() <= 2, case.name
    elif case.looks == "noise":
        assert np.abs(values - pixels(noise(*SIDE))).mean() < 12, case.name
    else:
        expected = corner_colors(quarters(*SIDE))
        for corner, color in corner_colors(image).items():
            red, green, blue = expected[corner]
            wanted = (green, red, blue) if case.looks == "swapped" else (red, green, blue)
            assert np.abs(np.subtract(color, wanted)).max() <= 20, (case.name, corner, color)


def test_every_file_of_the_corpus_has_its_outcome(lake: Lake, folder: Path) -> None:
    cases = write(folder, corpus())
    source = FolderSource(folder)
    plan_dataset(lake, "d", source, 1000)
    planned = {item.key for item in read_plan(lake, SHARD)}
    assert len(planned) == len(cases) > 200

    report = build_media(lake, SHARD, source, MEDIA, "run")
    rows, failures = read_index(lake, SHARD), read_failures(lake, "media", SHARD)
    assert {(row["uri"], row["etag"]) for row in rows + failures} == planned
    assert (report.planned, report.rows, report.failed) == (len(planned), len(rows), len(failures))
    assert len(rows) + len(failures) == len(planned)

    outcomes = {_place(row["uri"]): row.get("kind", "media") for row in rows + failures}
    assert {cases[place].name: outcome for place, outcome in outcomes.items()} == {
        case.name: case.outcome for case in cases.values()
    }
    for row in rows:
        case = cases[_place(row["uri"])]
        assert row["frames"] == case.frames, case.name
        assert (row["truncated"], 0 <= row["brightness"] <= 1, row["blur"] >= 0) == (False, True, True)
        if case.looks:
            with Image.open(io.BytesIO(read_picture(lake, row))) as image:
                assert_looks(image.convert("RGB"), case)
    assert all(len(row["message"]) <= 300 and str(folder) not in row["message"] for row in failures)
    assert not any(row["retryable"] for row in failures)


def _place(uri: str) -> bytes:
    """The bytes of an item's path."""
    return unquote_to_bytes(uri.removeprefix("file://")) if uri.startswith("file://") else uri.encode()


@pytest.mark.parametrize("orientation", range(2, 9))
def test_all_orientations_are_the_same_picture(orientation: int, lake: Lake, folder: Path) -> None:
    """Of a lossless format to the last bit."""
    for number in (1, orientation):
        (folder / f"{number}.png").write_bytes(oriented(number, "PNG", size=SIDE))
    source = FolderSource(folder)
    plan_dataset(lake, "d", source, 10)
    build_media(lake, SHARD, source, MEDIA, "run")
    first, second = read_index(lake, SHARD)
    assert first["media_id"] != second["media_id"]
    assert first["bytes_sha256"] == second["bytes_sha256"]
    assert first["phash"] == second["phash"]


def build_bombs(folder: str) -> None:
    """Build a shard of bombs, and print by how many megabytes this process's peak memory grew."""
    lake, pictures = Lake(f"{folder}/lake"), Path(folder, "pictures")
    (pictures / "warm").mkdir(parents=True)
    source = FolderSource(pictures)
    write(pictures, iter([Case("warm/up.jpg", encode(noise(64, 64), "JPEG"), "media")]))
    plan_dataset(lake, "d", source, 10)
    build_media(lake, SHARD, source, MEDIA, "run")
    for name in ("HEIF", "JXL", "AVIF", "WEBP"):
        write(pictures, iter([Case(f"warm/{name}.jpg", encode(noise(64, 64), name), "media")]))
    cases = write(pictures, (case for case in bombs()))
    plan_dataset(lake, "d", source, 100)
    before = resident.most()
    report = build_media(lake, type(SHARD)("d", 1), source, MEDIA, "run")
    print(json.dumps({"cases": len(cases), "failed": report.failed, "megabytes": resident.most() - before}))


@pytest.mark.skipif(not resident.STATUS.exists(), reason="memory is measured by Linux's /proc")
def test_bombs_cost_no_memory(tmp_path: Path) -> None:
    code = f"import sys; from {__name__} import build_bombs; build_bombs(sys.argv[1])"
    told = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True, timeout=100
    )
    result = json.loads(told.stdout.splitlines()[-1])
    assert result["failed"] == result["cases"] - 2  # but for what laughs, and a small picture of too many zeros
    assert result["megabytes"] < 60


def test_names_that_no_folder_can_hold(lake: Lake, folder: Path) -> None:
    names = [
        "../x.jpg",
        "/etc/../x.jpg",
        "a/../../y.jpg",
        "long" * 75 + ".jpg",
        "u\u0308.jpg",
        "\u00fc.jpg",
        "new\nline.jpg",
    ]
    with tarfile.open(folder / "s.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for number, name in enumerate(names):
            data = encode(noise(40, 30, number), "JPEG")
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    source = WebDatasetSource(str(folder / "s.tar"))
    plan_dataset(lake, "d", source, 100)
    before = sorted(folder.rglob("*"))
    report = build_media(lake, SHARD, source, MEDIA, "run")
    assert (report.planned, report.rows, report.failed) == (len(names), len(names), 0)
    rows = read_index(lake, SHARD)
    assert len({row["uri"] for row in rows}) == len({row["member"] for row in rows}) == len(names)
    assert all(row["member"] == f"{row['media_id']}.jpg" for row in rows)
    assert sorted(folder.rglob("*")) == before
    assert len(list(Path(lake.root).rglob("*.tar"))) == 1


def test_the_media_view_shows_what_is_known(lake: Lake, folder: Path) -> None:
    from caption_assets_tests.media.test_media_metadata import IPTC, XMP, camera_exif, jpeg

    (folder / "a.jpg").write_bytes(jpeg(camera_exif(), XMP, IPTC))
    (folder / "b.png").write_bytes(encode(quarters(), "PNG"))
    source = FolderSource(folder)
    plan_dataset(lake, "d", source, 10)
    build_media(lake, SHARD, source, MEDIA, "run")
    assert shown(lake) == [
        ("2024-01-02 03:04:05.25", "ACME", "Shot 1", None, None, "Bridge", ["bridge", "dusk"], "Ada; Bob", "100", 1),
        (None, None, None, None, None, None, None, None, None, 1),
    ]
    build_media(lake, SHARD, source, MEDIA.model_copy(update={"gps": True}), "again")
    assert shown(lake)[0][3:5] == (52.52, -13.41)
    build_media(lake, SHARD, source, MEDIA, "without")
    assert shown(lake)[0][3:5] == (None, None)
    for file in Path(lake.root).rglob("*.parquet"):
        assert b"52.52" not in file.read_bytes()


def shown(lake: Lake) -> list[tuple[Any, ...]]:
    import pyarrow as pa

    with connect(lake, Wants({"p": Wanted("0" * 16, (), pa.struct([("caption", pa.string())]))})) as connection:
        return connection.execute(
            """SELECT taken_at::VARCHAR, camera_make, camera_model, latitude, longitude, title, keywords, creator,
            exif->>'$.ISOSpeedRatings', frames
            FROM media WHERE brightness > 0 AND blur > 0 AND NOT truncated ORDER BY uri"""
        ).fetchall()
