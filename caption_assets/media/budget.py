"""What decoding takes of memory, by a file's head: bytes at the worst moment, besides the file itself.

The figures were measured on pictures of 48 and 100 megapixels; the tests hold them.
"""

from __future__ import annotations

import re

from PIL import Image

from caption_assets.media import av1, formats, jpeg, jxl, webp
from caption_assets.media.heif_items import Coded
from caption_assets.media.pixels import fit, jpeg_scale, whole_factor

BAND_BYTES = 50_000_000
"""What converting a picture band by band takes."""
JPEGS = frozenset({"JPEG", "MPO"})

_BIG_PIXELS = 16_000_000
_BYTES_PER_PIXEL = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2}
"""What a decoded image takes, by mode; all other modes: four."""
_CANVASES = 16
"""Bytes a pixel of Pillow's WebP reader: two canvases, the frame taken from them, the image made of it."""
_COPIES = {"AVIF": 4, formats.HEIF: 4, formats.JXL: 4}
"""Bytes a pixel of the image that Pillow makes of what these decoders give."""
_BESIDE_PLANES = {"AVIF": 0.4, formats.HEIF: 1.55}
"""Bytes a pixel of a tile that decoders hold besides its planes. HEVC's: 0.6 where no block is below 16 pixels."""
_DECODER_BYTES = 10_000_000
_CONVERTED = 18
"""Bytes a pixel of the rows that are made colours."""
ROWS = 64
"""Of luma and chroma that are made colours at a time."""
_HEVC = re.compile(rb"hvcC.{16}(.)(.)", re.DOTALL)  # ISO/IEC 14496-15, 8.3.3.1: chroma format, depth of luma - 8
_AV1 = re.compile(rb"av1C..(.)", re.DOTALL)  # AV1 in ISO-BMFF, 2.3.3: depth and chroma subsampling
_CHROMA = {0: 0.0, 1: 0.5, 2: 1.0, 3: 2.0}
"""Samples of both chroma planes for each of luma, by HEVC's chroma format."""


def whole_bytes(opened: Image.Image, data: bytes, target_pixels: int) -> int:
    """What decoding takes of a picture that is opened, not loaded, and then loaded as a whole by Pillow."""
    width, height = opened.size
    pixels, name = width * height, opened.format or ""
    if name in JPEGS:
        return _jpeg_bytes(opened, data, target_pixels)
    converting = BAND_BYTES if pixels > _BIG_PIXELS else 0
    if name == "WEBP":
        return _CANVASES * pixels + converting
    if name in _COPIES:
        return decoder_bytes(data, name, opened.size, opened.mode) + _COPIES[name] * pixels
    image = pixels * _BYTES_PER_PIXEL.get(opened.mode, 4)
    return image * (2 if name == "TIFF" else 1) + converting  # a strip may be as big as the picture


def finishing_bytes(full: tuple[int, int], size: tuple[int, int]) -> int:
    """What a picture takes, beside its decoder, that is brought from one (width, height) to another, and encoded."""
    factor = whole_factor(full, size)
    return int(3 * full[0] * full[1] / factor**2 + 9 * size[0] * size[1])


def decoder_bytes(data: bytes, name: str, size: tuple[int, int], mode: str) -> int:
    """What the decoders of WebP, AVIF, HEIC and JPEG XL take, which decode a picture as a whole.

    Args:
        mode: of the image that Pillow makes of it; a JPEG XL's head tells enough without.
    """
    alpha = mode in {"RGBA", "LA"}
    if name == "WEBP":
        each = 8.1 if alpha else 7.1 if webp.LOSSLESS in webp.chunks(data) else 6.1
    elif name == "AVIF":
        chroma, depth = _av1_samples(data)
        each = 1.4 * depth * (1 + chroma + alpha) + 2.2 * (3 + alpha)  # planes, and their copy as RGB twice
    elif name == formats.HEIF:
        chroma, depth = _hevc_samples(data)
        between = 1 + chroma if chroma != _CHROMA[1] or depth > 1 else 0  # planes of another kind on the way to RGB
        each = depth * (1 + chroma + alpha) + between + 3 + alpha + 0.5
    else:
        channels, depth = _jxl_samples(data)
        each = 2.35 * channels * depth  # what the decoder gives, and its copy
    return int(size[0] * size[1] * each)


def planes_bytes(data: bytes, name: str, coded: Coded, beginning: bytes) -> int:
    """What an AVIF or HEIC takes of planes: of a line of tiles, never copied, and alpha by itself.

    Args:
        beginning: the first bytes of the first tile.
    """
    chroma, depth = _av1_samples(data) if name == "AVIF" else _hevc_samples(data)
    tile = coded.tile[0] * coded.tile[1]
    each = depth * (1 + chroma)
    beside = tile * _BESIDE_PLANES[name]
    if name == "AVIF" and av1.may_have_grain(beginning):  # the decoder keeps the planes without, too
        beside += tile * each
    rows = _CONVERTED * ROWS * coded.width  # when the decoder has gone
    return int(tile * coded.columns * each + max(beside, rows) + _DECODER_BYTES)


def _jpeg_bytes(opened: Image.Image, data: bytes, target_pixels: int) -> int:
    width, height = opened.size
    scale = jpeg_scale(opened.size, fit(width, height, target_pixels)) / 8
    pixels = int(width * height * scale * scale) * 4
    return pixels + _coefficient_bytes(opened, data)


def _coefficient_bytes(opened: Image.Image, data: bytes) -> int:
    """Of a big JPEG of more than one scan all coefficients are held until the last scan, in two bytes each."""
    progressive = opened.info.get("progressive") or opened.info.get("progression")
    if not progressive and (opened.width * opened.height <= _BIG_PIXELS or jpeg.has_one_scan(data)):
        return 0
    layers = getattr(opened, "layer", None) or [(0, 1, 1)] * len(opened.getbands())
    most = max(layer[1] for layer in layers) * max(layer[2] for layer in layers)
    share = sum(layer[1] * layer[2] for layer in layers) / most
    return int(2 * opened.width * opened.height * share)


def _hevc_samples(data: bytes) -> tuple[float, int]:
    """Chroma samples for each of luma, and bytes of a sample: the most that a HEIC file's pictures have."""
    found = [(_CHROMA[chroma[0] & 3], 2 if depth[0] & 7 else 1) for chroma, depth in _HEVC.findall(data)]
    return max(found, default=(2.0, 2))


def _jxl_samples(data: bytes) -> tuple[int, int]:
    """Channels, and bytes of a sample, of a JPEG XL file."""
    channels, bits = jxl.samples(data) or (4, 16)
    return min(channels, 4), 1 if bits <= 8 else 2 if bits <= 16 else 4


def _av1_samples(data: bytes) -> tuple[float, int]:
    """The same of an AVIF file."""
    found = []
    for (bits,) in _AV1.findall(data):
        grey, halved = bits >> 4 & 1, (bits >> 3 & 1) + (bits >> 2 & 1)
        found.append((0.0 if grey else 2.0 / (1 << halved), 2 if bits >> 6 & 1 else 1))
    return max(found, default=(2.0, 2))
