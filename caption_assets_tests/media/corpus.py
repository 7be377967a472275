"""The corpus of bad input: files that go wrong, or nearly, and what becomes of each."""

from __future__ import annotations

import functools
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from caption_assets_tests.media import pictures
from caption_assets_tests.media.pictures import encode, noise, png_chunk, png_header, quarters

SIDE = (96, 64)
TENTHS = {
    "jpeg": "nttttttttt",
    "png": "nttttttttt",
    "webp": "nntttttttt",
    "gif": "nutttttttt",
    "bmp": "nttttttttt",
    "tiff": "nttttttttt",
    "avif": "nttttttttt",
    "heic": "nttttttttt",
    "jxl": "nttttttttt",
}
"""What a file is of which so many tenths are there: n, u, t, m for not_an_image, unreadable, truncated, media."""

KINDS = {"n": "not_an_image", "u": "unreadable", "t": "truncated", "m": "media", "l": "too_large", "x": "unsupported"}


@dataclass(frozen=True)
class Case:
    """A file and its outcome."""

    name: str | bytes
    data: bytes
    outcome: str
    """`media`, or a failure's kind."""
    looks: str = ""
    """What the stored pixels are: `quarters`, `swapped` (red and green), `noise`, or a colour; "" is anything."""
    frames: int = 1


def corpus() -> Iterator[Case]:
    """All of it."""
    yield from _truncated()
    yield from _impostors()
    yield from _liars()
    yield from bombs()
    yield from _colors()
    yield from _shapes()
    yield from _names()


def write(folder: Path, cases: Iterator[Case]) -> dict[bytes, Case]:
    """Put the files in a folder; return the cases by their paths."""
    placed = {}
    for case in cases:
        path = os.path.join(os.fsencode(folder), case.name.encode() if isinstance(case.name, str) else case.name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(case.data)
        placed[path] = case
    return placed


def _whole() -> dict[str, bytes]:
    image = quarters(*SIDE)
    return {
        "jpeg": encode(image, "JPEG", quality=95),
        "png": encode(noise(*SIDE), "PNG"),
        "webp": encode(image, "WEBP", lossless=True),
        "gif": encode(noise(*SIDE), "GIF"),
        "bmp": encode(image, "BMP"),
        "tiff": encode(image, "TIFF"),
        "avif": encode(image, "AVIF"),
        "heic": encode(image, "HEIF"),
        "jxl": encode(image, "JXL"),
    }


def _truncated() -> Iterator[Case]:
    for kind, data in _whole().items():
        for tenth, outcome in enumerate(TENTHS[kind]):
            yield Case(f"cut/{tenth}.{kind}", data[: len(data) * tenth // 10], KINDS[outcome])
    boxed = encode(quarters(*SIDE), "JXL", use_container=True)
    for tenth in range(1, 10):
        yield Case(f"cut/boxed_{tenth}.jxl", boxed[: len(boxed) * tenth // 10], "truncated")
    behind = encode(quarters(*SIDE), "TIFF", compression="tiff_lzw")  # its directory stands behind the pixels
    yield Case("cut/directory.tif", behind[: struct.unpack("<I", behind[4:8])[0]], "truncated")


def _impostors() -> Iterator[Case]:
    """What the name says it is not."""
    yield Case("zero.jpg", b"", "not_an_image")
    yield Case("nul.jpg", bytes(1000), "not_an_image")
    yield Case("page.jpg", b"<!DOCTYPE html><html><body><svg></svg>404</body></html>", "not_an_image")
    yield Case("drawing.jpg", b'<svg xmlns="http://www.w3.org/2000/svg"/>', "unsupported")
    yield Case("document.png", b"%PDF-1.7\n", "unsupported")
    yield Case("script.jpg", encode(quarters(), "EPS"), "unsupported")
    yield Case("archive.jpg", b"PK\x03\x04" + bytes(100), "not_an_image")
    for kind, data in _whole().items():
        wrong = "png" if kind == "jpeg" else "jpg"
        looks = "noise" if kind in {"png", "gif"} else "quarters"
        yield Case(f"really_{kind}.{wrong}", data, "media", looks)
    yield Case("upper.JPG", _whole()["jpeg"], "media", "quarters")
    yield Case("tail.jpg", _whole()["jpeg"] + b"<script>" * 1000, "media", "quarters")
    yield Case("polyglot.png", _whole()["png"] + b"PK\x03\x04" + bytes(100), "media", "noise")


def _liars() -> Iterator[Case]:
    """Heads that promise more or less than there is."""
    files = _whole()
    for side, much in (("smaller", 0.5), ("bigger", 2)):
        width, height = int(SIDE[0] * much), int(SIDE[1] * much)
        start = files["jpeg"].index(b"\xff\xc0") + 5
        jpeg = files["jpeg"][:start] + struct.pack(">HH", height, width) + files["jpeg"][start + 4 :]
        yield Case(f"lie/{side}.jpg", jpeg, "media")
        ihdr = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        yield Case(f"lie/{side}.png", files["png"][:8] + png_chunk(b"IHDR", ihdr) + files["png"][33:], "unreadable")
        yield Case(
            f"lie/{side}.bmp",
            files["bmp"][:18] + struct.pack("<ii", width, height) + files["bmp"][26:],
            "media" if side == "smaller" else "truncated",
        )
        screen = struct.pack("<HH", width, height)
        yield Case(f"lie/{side}.gif", files["gif"][:6] + screen + files["gif"][10:], "media")
        size = files["heic"].index(b"ispe") + 8
        heic = files["heic"].replace(files["heic"][size : size + 8], struct.pack(">II", width, height))
        yield Case(f"lie/{side}.heic", heic, "unreadable")
        size = files["avif"].index(b"ispe") + 8
        avif = files["avif"].replace(files["avif"][size : size + 8], struct.pack(">II", width, height))
        yield Case(f"lie/{side}.avif", avif, "media")
        yield Case(
            f"lie/{side}.webp", _webp_canvas(width, height, SIDE), "unreadable" if side == "smaller" else "media"
        )
    crc = bytearray(files["png"])
    crc[29] ^= 1
    yield Case("lie/checksum.png", bytes(crc), "unreadable")
    yield Case("lie/nothing.png", png_header(0, 0), "unreadable")
    yield Case("lie/negative.bmp", files["bmp"][:18] + struct.pack("<ii", -96, 64) + files["bmp"][26:], "too_large")


def bombs() -> Iterator[Case]:
    """Small files that ask for much memory."""
    yield Case("bomb/30000.png", png_header(30_000, 30_000), "too_large")
    yield Case("bomb/most.png", png_header(2**31 - 1, 2**31 - 1), "too_large")
    header = struct.pack("<IHHIIiiHHIIIIII", 0, 0, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0)
    yield Case("bomb/60000.bmp", b"BM" + header, "too_large")
    frame = b"," + struct.pack("<HHHHB", 0, 0, 65_000, 65_000, 0) + b"\x02\x02\x44\x01\x00;"
    yield Case("bomb/frame.gif", b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6) + frame, "too_large")
    jpeg = encode(quarters(), "JPEG")
    size = jpeg.index(b"\xff\xc0") + 5
    yield Case("bomb/65000.jpg", jpeg[:size] + struct.pack(">HH", 65_000, 65_000) + jpeg[size + 4 :], "too_large")
    scans = encode(Image.new("L", (2000, 2000), 128), "JPEG", progressive=True)
    again = scans[scans.rindex(b"\xff\xda") : -2] * 10_000
    yield Case("bomb/scans.jpg", scans[:-2] + again + scans[-2:], "too_large")
    yield Case("bomb/tile.tif", tiled(60_000), "too_large")
    for kind, form in (("avif", "AVIF"), ("heic", "HEIF")):
        data = encode(quarters(64, 64), form)
        place = data.index(b"ispe") + 8
        lie = data.replace(data[place : place + 8], struct.pack(">II", 30_000, 30_000))
        yield Case(f"bomb/30000.{kind}", lie, "too_large")
    yield Case("bomb/30000.jxl", jxl_head(30_000, 30_000), "too_large")
    yield Case("bomb/16383.webp", _webp_canvas(16_383, 16_383, (16, 16)), "too_large")
    zeros = _zeros()
    for kind, head in ((b"iTXt", b"k\0\1\0\0\0"), (b"zTXt", b"k\0\0"), (b"iCCP", b"k\0\0")):
        yield Case(f"bomb/{kind.decode()}.png", pictures.png_with_chunk(kind, head + zeros), "too_large")
    pixels = png_chunk(b"IDAT", zeros)
    plain = encode(quarters(), "PNG")
    start, end = plain.index(b"IDAT") - 4, plain.index(b"IEND") - 4
    yield Case("bomb/pixels.png", plain[:start] + pixels + plain[end:], "media", "black")
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    xmp = f'<!DOCTYPE x [<!ENTITY l0 "ha">{laughs}]><x>&l11;</x>'.encode()
    xmp_segment = (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp)
    yield Case("bomb/laughs.jpg", pictures.insert(jpeg, xmp_segment), "media", "quarters")


@functools.cache
def _zeros() -> bytes:
    """200 megabytes in 200 kilobytes."""
    return zlib.compress(bytes(200_000_000), 9)


def _colors() -> Iterator[Case]:
    image = quarters(*SIDE)
    yield Case("color/cmyk.jpg", encode(image.convert("CMYK"), "JPEG", quality=95), "media", "quarters")
    yield Case("color/ycck.jpg", ycck(), "media", "quarters")
    yield Case("color/palette.png", encode(image.quantize(16), "PNG"), "media", "quarters")
    yield Case("color/alpha.png", encode(Image.new("RGBA", SIDE, (9, 9, 9, 0)), "PNG"), "media", "white")
    yield Case("color/grey_alpha.png", encode(Image.new("LA", SIDE, (9, 0)), "PNG"), "media", "white")
    yield Case("color/bits.png", encode(Image.new("1", SIDE, 1), "PNG"), "media", "white")
    yield Case("color/grey.jpg", encode(Image.new("L", SIDE, 128), "JPEG"), "media", "grey")
    yield Case(
        "color/grey_16.png", encode(Image.fromarray(np.full((64, 96), 32_896, np.uint16)), "PNG"), "media", "grey"
    )
    yield Case("color/rgb_16.png", rgb_16(), "media", "quarters")
    yield Case("color/cmyk.tif", encode(image.convert("CMYK"), "TIFF"), "media", "quarters")
    swapped = encode(image, "PNG", icc_profile=pictures.swapped_profile())
    yield Case("color/profile.png", swapped, "media", "swapped")
    yield Case("color/broken_profile.png", encode(image, "PNG", icc_profile=b"no profile"), "media", "quarters")


def _shapes() -> Iterator[Case]:
    for size in ((1, 1), (1, 20_000), (20_000, 1)):
        for kind, form in (("png", "PNG"), ("jpg", "JPEG")):
            yield Case(
                f"shape/{size[0]}x{size[1]}.{kind}", encode(Image.new("RGB", size, "white"), form), "media", "white"
            )
    for kind, form in (("gif", "GIF"), ("webp", "WEBP"), ("png", "PNG"), ("avif", "AVIF"), ("tif", "TIFF")):
        yield Case(f"shape/animated.{kind}", pictures.animation(form), "media", "quarters", 3)
    for orientation in range(1, 9):
        for kind, form in (("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP"), ("tif", "TIFF"), ("heic", "HEIF")):
            yield Case(
                f"turned/{orientation}.{kind}", pictures.oriented(orientation, form, size=SIDE), "media", "quarters"
            )


def _names() -> Iterator[Case]:
    data = encode(quarters(*SIDE), "JPEG", quality=95)
    for name in (
        "name/new\nline.jpg", "name/x..%2f..%2fetc%2fpasswd.jpg", "name/x...jpg", "name/back\\..\\slash.jpg",
        "name/" + "long" * 62 + ".jpg", "/".join(["name", *["deep" * 30] * 5, "x.jpg"]),
        "name/u\u0308nfd.jpg", "name/\u00fcnfc.jpg", "name/'; DROP TABLE media; --.jpg", "name/\u202egpj.jpg",
        "name/\U0001f600 %20#?.jpg", "name/ .jpg", b"name/\xff\xfe.jpg",
    ):  # fmt: skip
        yield Case(name, data, "media", "quarters")


def ycck() -> bytes:
    """A CMYK JPEG stored as Y, Cb, Cr of the inverted colours: Adobe's transform 2."""
    inverted = np.asarray(Image.fromarray(255 - np.asarray(quarters(*SIDE))).convert("YCbCr")).astype(int)
    stored = np.dstack([255 - inverted, np.zeros((SIDE[1], SIDE[0], 1), int)])
    image = Image.frombytes("CMYK", SIDE, np.uint8(stored).tobytes())
    data = bytearray(encode(image, "JPEG", subsampling="4:4:4", quality=95))
    data[data.index(b"Adobe") + 11] = 2
    return bytes(data)


def rgb_16() -> bytes:
    """A PNG of three times sixteen bits."""
    deep = np.asarray(quarters(*SIDE)).astype(">u2") * 257
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
    ihdr = struct.pack(">IIBBBBB", *SIDE, 16, 2, 0, 0, 0)
    chunks = png_chunk(b"IHDR", ihdr) + png_chunk(b"IDAT", zlib.compress(lines)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def tiled(side: int) -> bytes:
    """A TIFF of ten by ten pixels, cut from one giant tile."""
    tags = [
        (256, 4, 10), (257, 4, 10), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1),
        (322, 4, side), (323, 4, side), (324, 4, 8), (325, 4, 10),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + bytes(4)


def jxl_head(width: int, height: int) -> bytes:
    """A JPEG XL stream that promises a size and holds nothing."""
    bits, count = 0, 0
    for value, length in ((0, 1), (3, 2), (height - 1, 30), (0, 3), (3, 2), (width - 1, 30)):
        bits, count = bits | value << count, count + length
    return b"\xff\x0a" + bits.to_bytes(-(-count // 8), "little") + bytes(20)


def _webp_canvas(width: int, height: int, frame: tuple[int, int]) -> bytes:
    """An animated WebP of a canvas, with one frame of another size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)

    def sides(*values: int) -> bytes:
        return b"".join(struct.pack("<I", value - 1)[:3] for value in values)

    picture = encode(quarters(*frame), "WEBP")[12:]
    body = chunk(b"VP8X", b"\x02\0\0\0" + sides(width, height)) + chunk(b"ANIM", bytes(6))
    body += chunk(b"ANMF", bytes(6) + sides(*frame) + bytes(4) + picture)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body
