"""A process stays within 600 MB, whatever the format; what would take more is refused by its head, at no cost."""

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import pyvips
from aiohttp import web
from PIL import ExifTags, Image

from caption_assets.config import Media
from caption_assets.sources.spool import ALL_IN_MEMORY, LARGE
from caption_assets_tests import resident
from caption_assets_tests.media.pictures import encode, jxl_of, swapped_profile
from caption_assets_tests.media.world import World
from caption_assets_tests.sources.web_server import web_server

pytestmark = pytest.mark.skipif(not resident.STATUS.exists(), reason="memory is measured by Linux's /proc")

HUNDRED, FIFTY, FORTY_FOUR = (10_000, 10_000), (8000, 6250), (8000, 5500)
LIMIT = 600
"""Megabytes."""
REST = 60
"""Megabytes of libraries that are loaded with the first picture, threads' stacks and connections."""
MIRRORED = Image.Exif()
MIRRORED[ExifTags.Base.Orientation] = 2
FAST: dict[str, Any] = {"quality": 60, "enc_params": {"preset": "ultrafast"}}

ACCEPTED: dict[str, tuple[tuple[int, int], str, str, dict[str, Any]]] = {
    "jpeg": (HUNDRED, "RGB", "JPEG", {}),
    "jpeg_444": (HUNDRED, "RGB", "JPEG", {"subsampling": "4:4:4"}),
    "jpeg_progressive": (HUNDRED, "RGB", "JPEG", {"progressive": True}),
    "jpeg_progressive_444": (HUNDRED, "RGB", "JPEG", {"progressive": True, "subsampling": "4:4:4", "quality": 95}),
    "jpeg_progressive_422": (HUNDRED, "RGB", "JPEG", {"progressive": True, "subsampling": "4:2:2"}),
    "jpeg_progressive_cmyk": (HUNDRED, "CMYK", "JPEG", {"progressive": True}),
    "jpeg_cmyk": (HUNDRED, "CMYK", "JPEG", {}),
    "png": (HUNDRED, "RGB", "PNG", {"compress_level": 1}),
    "png_16": (HUNDRED, "I;16", "PNG", {"compress_level": 1}),
    "gif": (HUNDRED, "L", "GIF", {}),
    "bmp": (HUNDRED, "RGB", "BMP", {}),
    "tiff": (HUNDRED, "RGB", "TIFF", {}),
    "tiff_deflate": (HUNDRED, "RGB", "TIFF", {"compression": "tiff_deflate"}),
    "tiff_jpeg": (HUNDRED, "RGB", "TIFF", {"compression": "jpeg"}),
    "tiff_16": (HUNDRED, "I;16", "TIFF", {}),
    "png_deep": (HUNDRED, "RGB;16", "PNG", {}),
    "png_deep_alpha": (HUNDRED, "RGBA;16", "PNG", {}),
    "tiff_deep_one_strip": (HUNDRED, "RGB;16", "TIFF", {}),
    "png_interlaced": (HUNDRED, "RGB;16", "PNG", {"interlace": True}),
    "png_interlaced_alpha": (HUNDRED, "RGBA", "PNG", {"interlace": True}),
    "tiff_lzma_one_strip": (HUNDRED, "RGB", "TIFF", {"compression": "lzma", "strip_size": 1 << 30}),
    "tiff_lzw_one_strip": (FIFTY, "LAB", "TIFF", {"compression": "tiff_lzw", "strip_size": 1 << 30}),
    "tiff_jpeg_one_strip": (HUNDRED, "RGB", "TIFF", {"compression": "jpeg", "strip_size": 1 << 30}),
    "tiff_zstd_one_strip": (HUNDRED, "RGB", "TIFF", {"compression": "zstd", "strip_size": 1 << 30}),
    "png_alpha": (HUNDRED, "RGBA", "PNG", {"compress_level": 1}),
    "tiff_lzw": (HUNDRED, "RGB", "TIFF", {"compression": "tiff_lzw"}),
    "tiff_alpha": (HUNDRED, "RGBA", "TIFF", {"compression": "tiff_lzw"}),
    "tiff_cmyk": (HUNDRED, "CMYK", "TIFF", {}),
    "tiff_float": (HUNDRED, "F", "TIFF", {}),
    "bmp_alpha": (HUNDRED, "RGBA", "BMP", {}),
    "webp": (HUNDRED, "RGB", "WEBP", {"quality": 80, "method": 0}),
    "webp_alpha": (HUNDRED, "RGBA", "WEBP", {"quality": 80, "method": 0}),
    "webp_animated": (HUNDRED, "RGB", "WEBP", {"quality": 80, "method": 0, "save_all": True}),
    "webp_lossless_alpha": (FIFTY, "RGBA", "WEBP", {"lossless": True, "method": 0, "quality": 0}),
    "webp_lossless_profile": (FIFTY, "RGB", "WEBP", {"lossless": True, "method": 0, "icc_profile": swapped_profile()}),
    "webp_lossless": (FIFTY, "RGB", "WEBP", {"lossless": True, "method": 0, "quality": 0}),
    "avif": (HUNDRED, "RGB", "AVIF", {"speed": 10}),
    "avif_444": (HUNDRED, "RGB", "AVIF", {"speed": 10, "subsampling": "4:4:4"}),
    "avif_grain": (HUNDRED, "RGB", "AVIF", {"speed": 10, "advanced": {"film-grain-test": "1"}}),
    "avif_alpha": (HUNDRED, "RGBA", "AVIF", {"speed": 10}),
    "avif_mirrored": (HUNDRED, "RGB", "AVIF", {"speed": 10, "exif": MIRRORED}),
    "heic": (HUNDRED, "RGB", "HEIF", {**FAST, "tile_size": 512}),
    "heic_one_tile": (HUNDRED, "RGB", "HEIF", FAST),
    "heic_small_blocks": (HUNDRED, "RGB", "HEIF", {"quality": 60, "enc_params": {"preset": "medium"}}),
    "heic_mirrored": (HUNDRED, "RGB", "HEIF", {**FAST, "exif": MIRRORED.tobytes()}),
    "heic_alpha": (HUNDRED, "RGBA", "HEIF", FAST),
    "heic_444": ((10_000, 7500), "RGB", "HEIF", {**FAST, "chroma": 444}),
    "jxl": (FIFTY, "RGB", "JXL", {"effort": 1}),
    "jxl_of_jpeg": (FIFTY, "RGB", "JXL", {"of_jpeg": "4:2:0"}),
    "jxl_of_jpeg_444": (FORTY_FOUR, "RGB", "JXL", {"of_jpeg": "4:4:4"}),
}
"""What is decoded with the default settings."""

REFUSED: dict[str, tuple[tuple[int, int], str, str, dict[str, Any]]] = {
    "tiff_one_strip": (HUNDRED, "RGBA", "TIFF", {"compression": "packbits", "strip_size": 1 << 30}),
    "jxl": (HUNDRED, "RGB", "JXL", {"effort": 1}),
}
"""What only a larger `max_decode_mb` lets through."""


def picture(size: tuple[int, int], mode: str) -> Image.Image:
    """Colours that no decoder can make light of."""
    small = np.random.default_rng(1).integers(0, 256, (100, 100, 3), np.uint8)
    image = Image.fromarray(small).resize(size, Image.Resampling.BILINEAR)
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    image = image.convert("L").convert(mode) if mode == "F" else image.convert(mode)
    if mode == "RGBA":
        image.putpixel((0, 0), (0, 0, 0, 128))  # else WebP leaves transparency away
    return image


def file_of(size: tuple[int, int], mode: str, format_name: str, options: dict[str, Any]) -> bytes:
    """A picture's file; what Pillow does not write, sixteen bits a sample and interlacing, by OpenCV and libvips."""
    if "of_jpeg" in options:
        return jxl_of(encode(picture(size, mode), "JPEG", quality=95, subsampling=options["of_jpeg"]))
    if "save_all" in options:
        options = options | {"append_images": [Image.new(mode, size, "white")]}
    if "interlace" in options:
        values = np.asarray(picture(size, mode.removesuffix(";16"))).astype(
            np.uint16 if mode.endswith(";16") else np.uint8
        )
        made: bytes = pyvips.Image.new_from_array(values).pngsave_buffer(compression=1, **options)
        return made
    if options.get("compression") == "lzma":  # minutes, of anything but repetitions
        part = np.asarray(picture((size[0] // 10, size[1]), mode))
        return encode(Image.fromarray(np.tile(part, (1, 10, 1))), format_name, **options)
    if not mode.endswith(";16") or mode == "I;16":
        return encode(picture(size, mode), format_name, **options)
    values = np.asarray(picture(size, mode.removesuffix(";16"))).astype(np.uint16) * 257
    extra = (cv2.IMWRITE_PNG_COMPRESSION, 1)
    if format_name == "TIFF":
        extra = (cv2.IMWRITE_TIFF_COMPRESSION, 5, cv2.IMWRITE_TIFF_ROWSPERSTRIP, size[1])
    data: bytes = cv2.imencode(f".{format_name.lower()}", values, extra)[1].tobytes()
    return data


def built(folder: Path, data: bytes, media: Media, copies: int = 1) -> dict[str, Any]:
    """What became of a file's pictures in a process of its own, and what that process held at most."""
    (folder / "pictures").mkdir()
    for number in range(copies):
        (folder / "pictures" / f"{number}.jpg").write_bytes(data)
    return told(folder, media)


def told(folder: Path, media: Media) -> dict[str, Any]:
    """What a process tells that makes the folder's media."""
    command = [sys.executable, "-m", "caption_assets_tests.media.peaks", str(folder), media.model_dump_json()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@functools.cache
def idle() -> float:
    """What a process holds that decodes only a small picture."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        return float(built(Path(folder), encode(picture((400, 300), "RGB"), "JPEG"), Media())["peak"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ACCEPTED)
def test_big_pictures_are_decoded_within_the_limit(name: str, tmp_path: Path) -> None:
    size, mode, format_name, options = ACCEPTED[name]
    result = built(tmp_path, file_of(size, mode, format_name, options), Media())
    assert result["outcomes"] == ["media"], result
    assert result["peak"] <= LIMIT


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_by_its_head(name: str, tmp_path: Path) -> None:
    size, mode, format_name, options = REFUSED[name]
    data = encode(picture(size, mode), format_name, **options)
    result = built(tmp_path, data, Media())
    assert result["outcomes"] == ["too_large"], result
    assert "megapixels" in result["messages"][0]
    assert "media.max_decode_mb" in result["messages"][0]
    assert result["peak"] <= idle() + min(len(data), LARGE) / 1e6 + 30


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiff", "jpeg_progressive", "webp", "jxl"])
def test_several_are_not_decoded_at_once(name: str, tmp_path: Path) -> None:
    size, mode, format_name, options = ACCEPTED[name]
    result = built(tmp_path, encode(picture(size, mode), format_name, **options), Media(), copies=3)
    assert result["outcomes"] == ["media"]
    assert result["peak"] <= LIMIT


def hard_shard(folder: Path, share: float) -> int:
    """A shard whose every part wants much at once, among ordinary photographs; gives how many pictures it has.

    Args:
        share: of the most megapixels that the defaults let through.
    """

    def big(megapixels: float, mode: str = "RGB") -> Image.Image:
        side = int((megapixels * share * 1e6) ** 0.5)
        return picture((side, side), mode)

    photo = encode(picture((2400, 1800), "RGB").effect_spread(3), "JPEG", quality=95)
    hard = [
        encode(big(100), "JPEG", progressive=True, subsampling="4:4:4", quality=95),
        encode(big(100), "TIFF"),
        encode(big(100, "RGBA"), "TIFF", compression="packbits"),
        encode(big(75), "HEIF", **FAST, chroma=444),
        encode(big(50), "JXL", effort=1),
        encode(big(100), "PNG", compress_level=1),
        encode(big(58, "RGBA"), "TIFF", compression="packbits", strip_size=1 << 30),
        encode(big(100, "CMYK"), "JPEG", quality=98, subsampling="4:4:4"),
        encode(big(65), "WEBP", lossless=True, method=0, quality=0),
        encode(big(100), "AVIF", speed=10, subsampling="4:4:4"),
    ]
    (folder / "pictures").mkdir()
    files = [data for each in hard for data in (each, photo, each, *[photo] * 4)]
    for number, data in enumerate(files):
        (folder / "pictures" / f"{number:03}.jpg").write_bytes(
            data + b"\0\0\0\x09free%c" % number
        )  # each is another original
    return len(files)


def told_of_hard_shard(folder: Path, share: float, media: Media, source: str) -> dict[str, Any]:
    """The same from a folder or from the web: all are pictures."""
    count = hard_shard(folder, share)
    if source == "folder":
        result = told(folder, media)
    else:
        with web_server() as server:
            server.otherwise = lambda request: web.FileResponse(folder / request.path.lstrip("/"))
            urls = (server.url(f"/pictures/{number:03}.jpg\n") for number in range(count))
            (folder / "urls.txt").write_text("".join(urls))
            result = told(folder, media)
    assert result["counts"] == {"media": count}, result
    return result


@pytest.mark.slow
@pytest.mark.parametrize("source", ["folder", "web"])
def test_the_sum_of_all_stays_within_the_limit(source: str, tmp_path: Path) -> None:
    """At the limits of the defaults: files, what is decoded, what was fetched, and originals that wait to be stored."""
    assert told_of_hard_shard(tmp_path, 1, Media(keep_originals=True), source)["peak"] <= LIMIT


@pytest.mark.slow
@pytest.mark.parametrize("source", ["folder", "web"])
def test_the_sum_of_all_is_what_the_setting_says(source: str, tmp_path: Path) -> None:
    """The same at a fifth of the size: what is worked on, what waits, and some megabytes for the rest."""
    result = told_of_hard_shard(tmp_path, 0.2, Media(keep_originals=True, max_decode_mb=170), source)
    assert result["peak"] <= result["before"] + 170 + ALL_IN_MEMORY / 1e6 + REST, result


@pytest.mark.parametrize(
    ("name", "size", "mode", "options", "megabytes"),
    [
        ("JPEG", (2000, 1000), "RGB", {"progressive": True}, 8.0),
        ("JPEG", (2000, 1000), "RGB", {"progressive": True, "subsampling": "4:4:4"}, 14.0),
        ("AVIF", (2200, 2000), "RGB", {"speed": 10}, 20.0),
        ("AVIF", (2200, 2000), "RGB", {"speed": 10, "advanced": {"film-grain-test": "1"}}, 26.0),
        ("HEIF", (2200, 2000), "RGB", FAST, 24.5),
        ("JXL", (2200, 2000), "RGB", {"effort": 1}, 32.0),
        ("PNG", (2000, 1000), "RGB", {"compress_level": 1}, 10.0),
    ],
)
def test_the_setting_decides(
    name: str, size: tuple[int, int], mode: str, options: dict[str, Any], megabytes: float, tmp_path: Path, lake: Any
) -> None:
    """Refused a tenth below what it takes by the estimate, its file included; and tried again once it is allowed."""
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.jpg").write_bytes(encode(picture(size, mode), name, **options))
    world = World(lake, tmp_path / "p", Media(max_pixels=40_000, max_decode_mb=megabytes * 0.8))
    assert world.build().failure_kinds == {"too_large": 1}
    world.build("again")
    assert world.source.fetched == []
    report = world.build("allowed", media=Media(max_pixels=40_000, max_decode_mb=megabytes * 1.2))
    assert (report.rows, report.failed) == (1, 0)
