"""Which formats are decoded, by which reader, and what a file's head promises before a reader sees it.

HEIC and JPEG XL are read by plugins of Pillow, which are loaded when the first such file comes.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

from caption_assets.media import jxl

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""What Pillow itself decodes of what is allowed. Not all that it can: its EPS support, for one, runs another program on
the file, and an ICO's header may promise less than the picture in it needs."""

HEIF, JXL = "HEIF", "JXL"
"""The names of the plugins' formats."""

_HEIF_BRAND = re.compile(rb"....ftyp(?:hei[cmsx]|hev[cmsx]|mif1|msf1)", re.DOTALL)
_BMFF_BRAND = re.compile(rb"....ftyp(?:avi[fs]|hei[cmsx]|hev[cmsx]|mif1|msf1)", re.DOTALL)
_BMFF_SIZE = re.compile(rb"ispe\0\0\0\0(.{4})(.{4})", re.DOTALL)
_SIGNATURES = (
    (re.compile(rb"\xff\xd8\xff"), "JPEG"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "PNG"),
    (re.compile(rb"GIF8[79]a"), "GIF"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "WebP"),
    (re.compile(rb"II\*\0|MM\0\*|II\+\0|MM\0\+"), "TIFF"),
    (re.compile(rb"....ftypavi[fs]", re.DOTALL), "AVIF"),
    (_HEIF_BRAND, "HEIC/HEIF"),
    (re.compile(rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n"), "JPEG XL"),
)
_INSTALL = "{} is decoded only with {}: pip install {}; or convert the file to JPEG or PNG"
_CONVERT = "{} is not decoded; convert the file to JPEG or PNG"
_SVG = re.compile(  # nothing is tried twice: a page of comments would take for ever
    rb"""(?:\xef\xbb\xbf)? \s*+ (?: <\?xml (?>.*?\?>) )?+
    (?: <!-- (?>.*?-->) | <!DOCTYPE\ssvg [^\[>]*+ (?: \[ (?>.*?\]\s*) )?+ > | \s )*+ <svg\b""",
    re.DOTALL | re.VERBOSE,
)
_UNSUPPORTED = (
    (_SVG, "SVG"),
    (re.compile(rb"%!PS|\xc5\xd0\xd3\xc6"), "PostScript"),
    (re.compile(rb"%PDF-"), "PDF"),
    (re.compile(rb"8BPS"), "Photoshop"),
)


def formats_of(data: bytes) -> tuple[str, ...]:
    """The formats that Pillow may try on a file, their readers registered."""
    if _HEIF_BRAND.match(data) and _has_heif():
        return ("AVIF", HEIF)  # both may call themselves mif1; each refuses what is the other's
    if data.startswith((jxl.STREAM, jxl.BOX)) and _has_jxl():
        return (JXL,)
    return FORMATS


def may_be_on_disk(head: bytes) -> bool:
    """Whether a file that begins like this is of a format that can be decoded without being in memory."""
    return head.startswith(b"BM") or signature(head) in {"PNG", "TIFF"}


def promised_sizes(data: bytes) -> Iterator[tuple[int, int]]:
    """Widths and heights that a file's head promises and Pillow does not show before it has decoded, or not at all.

    Raises:
        ValueError: a JPEG XL file has no readable head.
    """
    if _BMFF_BRAND.match(data):  # also of what a crop leaves little of, and of a grid's tiles: the decoder goes by them
        for width, height in _BMFF_SIZE.findall(data):
            yield int.from_bytes(width, "big"), int.from_bytes(height, "big")
    elif data.startswith((jxl.STREAM, jxl.BOX)):
        yield jxl.size(data)


def signature(data: bytes) -> str | None:
    """The format that a file's first bytes name, whatever follows them."""
    return next((name for pattern, name in _SIGNATURES if pattern.match(data)), None)


def unsupported(data: bytes) -> str | None:
    """Why a file that no reader knows is not decoded, where it is a known kind of picture."""
    if _HEIF_BRAND.match(data):
        return _INSTALL.format("HEIC/HEIF", "pillow-heif", "'caption-assets[heic]'") if not _has_heif() else None
    if data.startswith((jxl.STREAM, jxl.BOX)):
        return _INSTALL.format("JPEG XL", "pillow-jxl-plugin", "'caption-assets[jxl]'") if not _has_jxl() else None
    return next((_CONVERT.format(name) for pattern, name in _UNSUPPORTED if pattern.match(data[:4096])), None)


@functools.cache
def _has_heif() -> bool:
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    # one thread a picture, as for the other formats; what hangs on to a picture is not looked at
    register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)
    return True


@functools.cache
def _has_jxl() -> bool:
    try:
        from pillow_jxl import JpegXLImagePlugin  # registers itself
    except ImportError:
        return False
    JpegXLImagePlugin.DECODE_THREADS = 0
    return True
