"""Big pictures, a band of rows at a time, by format in the way that takes the least memory.

PNG and BMP are never decoded as a whole, TIFF hardly ever, and WebP is shrunk as it is decoded. AVIF and HEIC are
decoded to luma and chroma, a line of tiles at a time, JPEG of several scans, where all of it is too much, a component
at a time. JPEG XL's decoder knows no other way than the whole picture; from it, of WebP that is not shrunk, and of AVIF
and HEIC of rare kinds, the pixels are taken as they come, without the copies that Pillow would make.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from caption_assets.media import formats, tiff_tags, vips, webp
from caption_assets.media.bmp import BandedBmp
from caption_assets.media.budget import BAND_BYTES, decoder_bytes, planes_bytes
from caption_assets.media.heif_items import Items, UnknownKindError
from caption_assets.media.jpeg_components import Components
from caption_assets.media.pixels import whole_factor
from caption_assets.media.png import BandedPng
from caption_assets.media.tiff import BandedTiff, InOnePieceError
from caption_assets.media.tiff_tags import Tag
from caption_assets.sources.spool import Bytes

WHOLE_PIXELS = 16_000_000
"""Of more than this a PNG, BMP or TIFF is decoded in bands."""
COPIED_PIXELS = 4_000_000
"""Of more than this a WebP, AVIF, HEIC or JPEG XL is decoded without copies."""
IN_BANDS = frozenset({"PNG", "BMP", "TIFF"})
"""Formats that need not be in memory to be decoded."""
_FLAT = frozenset({"1", "L", "P"})
"""Modes of a byte a pixel, for which bands are not worth it."""
_JPEGS_COLOURS = frozenset({(tiff_tags.RGB, "RGB"), (tiff_tags.YCBCR, "RGB"), (tiff_tags.CMYK, "CMYK")})
"""How a TIFF's colours may be stored for its rows, as libtiff decodes JPEG, to be values of these modes."""
_MODES = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}
"""Modes whose values stand one behind the other, a byte each."""


@dataclass(frozen=True)
class Bands:
    """A picture as it is stored in its file, not turned."""

    size: tuple[int, int]
    """Width and height, stored."""
    working: int
    """Bytes that reading takes, besides the file."""
    read: Callable[[int], Iterator[Image.Image]] = lambda rows: iter(())
    """The picture from top to bottom, so many rows at a time. Raises OSError. Of modes I and F it may be read again."""
    shrunk: Callable[[], tuple[Image.Image, tuple[float, float]]] | None = None
    """The whole picture, averaged down in decoding, where its decoder can do that; and its width and height in these
    pixels, of which the last may lie partly outside."""
    orientation: int | None = None
    """How it is to be turned (TIFF 6.0, tag 274), where its file says that in a way that its reader does not tell."""
    exif: Callable[[], bytes | None] = lambda: None
    """What a reader would find behind the pixels, once all bands were read; None: it need not look."""


def bands_of(opened: Image.Image, data: Bytes, size: tuple[int, int]) -> Bands | None:
    """The bands of a picture that is better not decoded as a whole; None for all others.

    Args:
        opened: the file, opened and not loaded.
        size: width and height that it is to have at least.
        data: the file; where it is not in memory, only what is never decoded as a whole has bands.
    """
    if not isinstance(data, bytes) and opened.format not in IN_BANDS:
        return None
    least = WHOLE_PIXELS if opened.format in IN_BANDS else COPIED_PIXELS
    maker = _MAKERS.get(opened.format or "")
    if maker is None or opened.width * opened.height <= least:
        return None
    try:
        return maker(opened, data, size)
    except (ValueError, KeyError, TypeError):  # of a kind, or damaged in a way, that its bands do not know
        return None


def by_component(opened: Image.Image, data: bytes, size: tuple[int, int]) -> Bands | None:
    """Of a JPEG of several scans, which takes less memory so and more time; None: of another kind, or not to be shrunk.

    Args:
        opened: the file, opened and not loaded.
        size: width and height that it is to have at least.

    Raises:
        OSError: it is truncated.
    """
    if size == opened.size:  # it may keep its file
        return None
    try:
        components = Components(data)
    except ValueError:
        return None
    return Bands(opened.size, components.working(size), shrunk=lambda: components.shrunk(size))


def _png(opened: Image.Image, data: Bytes) -> Bands:
    png = BandedPng(data)
    return Bands(opened.size, BAND_BYTES, png.bands, exif=lambda: png.exif or b"")


def _bmp(opened: Image.Image, data: Bytes) -> Bands | None:
    return Bands(opened.size, BAND_BYTES, BandedBmp(data).bands) if opened.mode not in _FLAT else None


def _tiff(opened: Image.Image, data: Bytes) -> Bands | None:
    if opened.mode in _FLAT:
        return None
    tags: Any = getattr(opened, "tag_v2")  # noqa: B009 (of this reader only)
    size = tags[Tag.WIDTH], tags[Tag.LENGTH]
    try:
        tiff = BandedTiff(data, tags, tags.prefix)
    except InOnePieceError:
        return _tiff_in_one_piece(data, opened.mode, size, tags)
    return Bands(size, BAND_BYTES + tiff.working, tiff.bands)


def _tiff_in_one_piece(data: Any, mode: str, size: tuple[int, int], tags: Any) -> Bands | None:
    """Of one strip of JPEG, which libtiff decodes only as far as it is asked."""
    if not isinstance(data, bytes) or Tag.STRIPS not in tags or tags.get(Tag.COMPRESSION) != tiff_tags.JPEG:
        return None
    if (tags.get(Tag.PHOTOMETRIC), mode) not in _JPEGS_COLOURS or tags.get(Tag.PLANAR, 1) != 1:
        return None

    def read(rows: int) -> Iterator[Image.Image]:
        counts = [min(rows, size[1] - top) for top in range(0, size[1], rows)]
        found = vips.tiff_rows(io.BytesIO(data), (*size, len(mode)), counts)
        for count, values in zip(counts, found, strict=True):
            yield Image.frombytes(mode, (size[0], count), values)

    return Bands(size, BAND_BYTES + len(data), read)


def _webp(opened: Image.Image, data: bytes, size: tuple[int, int]) -> Bands | None:
    """Of an animation the first frame, where that is the whole picture."""
    if getattr(opened, "n_frames", 1) == 1:
        return _still_webp(opened, data, size)
    frame = webp.first_frame(data, opened.size)
    if frame is None:
        return None
    bands = _still_webp(opened, frame, size)
    return replace(bands, working=bands.working + len(frame))


def _still_webp(opened: Image.Image, data: bytes, size: tuple[int, int]) -> Bands:
    """Shrunk as it is decoded, or by OpenCV: Pillow's reader composes frames, even of one, in sixteen bytes a pixel."""
    factor = whole_factor(opened.size, size)
    if factor > 1 and opened.mode in {"RGB", "RGBA"}:
        working = vips.shrunk_bytes(data, opened.size, factor)

        def shrunk() -> tuple[Image.Image, tuple[float, float]]:
            vars(opened).pop("_decoder", None)  # it holds the file once more
            image = vips.shrunk_webp(data, factor)
            return image, image.size

        return Bands(opened.size, working, shrunk=shrunk)

    def pixels() -> NDArray[np.uint8]:
        vars(opened).pop("_decoder", None)
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if decoded is None:
            raise OSError("the decoder finds the file damaged")
        return np.asarray(decoded, np.uint8)

    return _at_once(opened, data, pixels, reverse=True)


def _of_planes(opened: Image.Image, data: bytes) -> Bands | None:
    """Of an AVIF or HEIC; None where it is of a kind whose planes are not known."""
    try:
        items = Items(data)
        coded = items.picture()
    except UnknownKindError:
        return None
    told = opened.format == formats.HEIF  # its reader does what the file says; AVIF's tells it, and never crops
    if not told:
        coded = replace(coded, crop=None)
    shown = coded.shown[::-1] if told and coded.orientation >= 5 else coded.shown
    if opened.size != shown or (opened.mode == "RGBA") != bool(coded.alpha):
        return None

    def read(rows: int) -> Iterator[Image.Image]:
        from caption_assets.media import coded_planes  # its decoders take 20 MB

        vars(opened).pop("_decoder", None)
        for band in coded_planes.bands(items, coded, rows):
            yield Image.fromarray(band)

    working = planes_bytes(data, opened.format or "", coded, items.beginning(coded.tiles[0]))
    return Bands(coded.shown, working, read, orientation=coded.orientation if told else None)


def _avif(opened: Image.Image, data: bytes) -> Bands | None:
    if "_decoder" not in vars(opened) or opened.mode not in _MODES:
        return None

    def pixels() -> NDArray[np.uint8]:
        decoder: Any = vars(opened).pop("_decoder")  # what the reader's own load() asks; with its planes, it goes
        return np.frombuffer(decoder.get_frame(0)[0], np.uint8)

    return _at_once(opened, data, pixels)


def _jxl(opened: Image.Image, data: bytes) -> Bands | None:
    if not isinstance(vars(opened).get("_data"), bytes) or opened.mode not in _MODES:
        return None

    def pixels() -> NDArray[np.uint8]:
        vars(opened).pop("_decoder", None)
        return np.frombuffer(vars(opened).pop("_data"), np.uint8)  # opening the file has decoded it

    return _at_once(opened, data, pixels)


def _heif(opened: Image.Image, data: bytes) -> Bands | None:
    from pillow_heif import open_heif  # optional package

    if opened.mode not in _MODES:
        return None

    def pixels() -> NDArray[np.uint8]:
        file = open_heif(data, convert_hdr_to_8bit=True, remove_stride=False)
        picture = file[file.primary_index]
        values = np.frombuffer(picture.data, np.uint8)  # decodes, which may correct the size
        if picture.size != opened.size:
            raise OSError(f"the file promises {opened.size} pixels and has {picture.size}")
        width = opened.width * _MODES[picture.mode]
        return values.reshape(opened.height, picture.stride)[:, :width]

    return _at_once(opened, data, pixels)


def _at_once(
    opened: Image.Image, data: bytes, decode: Callable[[], NDArray[np.uint8]], *, reverse: bool = False
) -> Bands:
    """Bands of what a decoder gives as a whole: (height, width) bytes, with a last axis of channels or without."""
    width, height = opened.size

    def read(rows: int) -> Iterator[Image.Image]:
        values = decode().reshape(height, width, -1)
        if values.shape[2] == 1:
            values = values[..., 0]
        for top in range(0, height, rows):
            band: NDArray[Any] = values[top : top + rows]
            if reverse and band.ndim == 3:
                band = cv2.cvtColor(band, cv2.COLOR_BGR2RGB if band.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
            yield Image.fromarray(np.ascontiguousarray(band))

    return Bands(opened.size, decoder_bytes(data, opened.format or "", opened.size, opened.mode), read)


_MAKERS: dict[str, Callable[[Image.Image, Any, tuple[int, int]], Bands | None]] = {
    "PNG": lambda opened, data, size: _png(opened, data),
    "BMP": lambda opened, data, size: _bmp(opened, data),
    "TIFF": lambda opened, data, size: _tiff(opened, data),
    "WEBP": _webp,
    "AVIF": lambda opened, data, size: _of_planes(opened, data) or _avif(opened, data),
    formats.HEIF: lambda opened, data, size: _of_planes(opened, data) or _heif(opened, data),
    formats.JXL: lambda opened, data, size: _jxl(opened, data),
}
