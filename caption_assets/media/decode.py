"""Decode a picture with limits: upright, sRGB, eight bits, opaque, first frame. Every defect is a `DecodeError`."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from caption_assets.lake.tables import MediaFailureKind
from caption_assets.media import formats, jpeg, jxl
from caption_assets.media.bands import Bands, bands_of, by_component
from caption_assets.media.budget import JPEGS, decoder_bytes, finishing_bytes, whole_bytes
from caption_assets.media.color import flatten, is_srgb, to_srgb, value_range
from caption_assets.media.containers import is_cut
from caption_assets.media.frames import count_frames
from caption_assets.media.memory import DECODING_BYTES, Held, MemoryGate
from caption_assets.media.metadata import Metadata, read_metadata
from caption_assets.media.original import Original
from caption_assets.media.pixels import (
    Pixels,
    band_rows,
    fit,
    join_bands,
    jpeg_pixels,
    resample,
    rgb_pixels,
)
from caption_assets.media.tiff_tags import Tag
from caption_assets.media.truncated import is_blank, start_grey, truncated_files
from caption_assets.sources.base import FetchError
from caption_assets.sources.spool import Bytes

Image.core.set_block_size(1 << 26)  # type: ignore[attr-defined]  # malloc keeps smaller ones for the freeing thread
Image.MAX_IMAGE_PIXELS = None  # decode() has its own limit, checked before pixels are allocated
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # broken metadata is not worth a line each

_LOSSLESS = frozenset({"PNG", "GIF", "BMP", "TIFF"})
_PARTIAL = frozenset({*JPEGS, "PNG", "GIF", "BMP", "TIFF"})
"""Formats of which a part can be decoded; of the others all is wanted."""
_MESSAGE_LENGTH = 300
_HEAD = 4096
"""As much of a file as tells its format."""


class DecodeError(Exception):
    """A picture that cannot be used; `kind` is a media failure kind."""

    def __init__(self, kind: MediaFailureKind, message: str) -> None:
        super().__init__(message)
        self.kind: MediaFailureKind = kind


@dataclass(frozen=True)
class Picture:
    """A decoded picture: its pixels, and what is known about the original."""

    pixels: Pixels
    """Upright and within the budget."""
    format: str
    width: int
    height: int
    """Size of the original in pixels, upright."""
    lossless: bool
    frames: int = 1
    """How many the original has; this is the first."""
    metadata: Metadata = field(default_factory=Metadata)
    jpeg: bytes | None = None
    """The original without metadata, where that is a JPEG of exactly these pixels."""
    truncated: bool = False
    """Whether a part of the picture is missing, and grey."""

    @property
    def image(self) -> Image.Image:
        """The pixels as an image."""
        return Image.fromarray(self.pixels)


def decode(
    data: bytes | Original,
    *,
    max_megapixels: float,
    target_pixels: int,
    gps: bool = False,
    allow_truncated: bool = False,
    memory: Held | None = None,
    max_bytes: int = DECODING_BYTES,
) -> Picture:
    """Decode the bytes of a picture, and shrink it (never enlarge) to a pixel budget.

    Args:
        data: the original file.
        max_megapixels: more than this in the header is refused before decoding.
        target_pixels: the budget.
        gps: whether a position is read from the metadata.
        allow_truncated: whether a truncated file is a picture too, its missing part grey. Of WebP, AVIF, HEIC and
            JPEG XL no part can be decoded.
        memory: what is held of a gate by now: the file where it is in memory. More is waited for; meanwhile the file is
            put on disk. In the end it holds what the picture, its file and its encoding take.
        max_bytes: what needs more than this, the file and all, is refused before decoding.

    Raises:
        DecodeError: with kind not_an_image, unsupported, truncated, unreadable or too_large.
        FetchError: unreadable, where there is no room for temporary files.
    """
    original = data if isinstance(data, Original) else Original(data)
    del data
    if not len(original):
        raise DecodeError("not_an_image", "the file is empty")
    settings = _Settings(max_megapixels, target_pixels, gps, memory or Held(MemoryGate()), max_bytes)
    try:
        return _decode(original, settings)
    except DecodeError as error:
        if not allow_truncated or error.kind != "truncated":
            raise
        whole = error
    try:
        partial = _decode(original, replace(settings, partial=True))
    except DecodeError:
        raise whole from None
    if is_blank(partial.pixels):
        raise DecodeError("truncated", "the file is truncated, and hardly anything of its picture is there")
    return partial


@dataclass(frozen=True)
class _Settings:
    """What `decode` was asked for."""

    max_megapixels: float
    target_pixels: int
    gps: bool
    memory: Held
    max_bytes: int
    partial: bool = False

    def finishing(self, full: tuple[int, int]) -> int:
        """Bytes that go with the picture behind its decoder."""
        return finishing_bytes(full, fit(*full, self.target_pixels))


def _decode(original: Original, settings: _Settings) -> Picture:
    memory = settings.memory
    try:
        if not original.in_memory and not formats.may_be_on_disk(original.view()[:_HEAD]):
            _load(original, settings)
        while not isinstance(found := _decoded(original, settings), Picture):
            if isinstance(found, Original):
                return _decode_within(original, found, settings)
            if not memory.grows_to(found.size):
                original.park()  # nobody waits with his hands full
                memory.wait_for(found.size)
            if found.loaded:
                original.load()
        return found
    except (DecodeError, FetchError):
        raise
    except UnidentifiedImageError:
        raise _unidentified(original.view()) from None
    except Exception as error:  # Pillow's readers raise whatever a mutated file makes them stumble over
        raise _unreadable(error, cut=is_cut(original.view())) from None


def _decode_within(original: Original, within: Original, settings: _Settings) -> Picture:
    """Decode the JPEG that a JPEG XL file was made of: scaled, turned, kept as it is, like any other."""
    original.park()
    settings.memory.keep(len(within))
    return replace(_decode(within, settings), format=formats.JXL)


def _load(original: Original, settings: _Settings) -> None:
    """Read the file into memory, as soon as there is room."""
    size = len(original)
    _check_bytes(formats.signature(original.view()[:_HEAD]) or "a file", None, size, 0, settings.max_bytes)
    if not settings.memory.grows_to(size):
        settings.memory.wait_for(size)
    original.load()


@dataclass(frozen=True)
class _Needs:
    """What is to be there before a picture is tried again."""

    size: int
    """Bytes of memory."""
    loaded: bool
    """Whether the file is to be in memory, too."""


def _decoded(original: Original, settings: _Settings) -> Picture | _Needs | Original:
    """The picture; or what is to be had first; or the JPEG that the file is made of."""
    data = original.view()
    names = formats.formats_of(data[:_HEAD])
    whole = data if isinstance(data, bytes) else b""  # no format that stays on disk promises anything there
    sizes = list(formats.promised_sizes(whole))
    for size in sizes:
        _check_size(size, settings.max_megapixels)
    opening = _opening_bytes(names, whole, sizes, settings)
    if opening:
        name, promised = formats.signature(whole) or "a file", next(iter(sizes), None)
        _check_bytes(name, promised, len(whole), opening, settings.max_bytes)
        if not settings.memory.grows_to(len(whole) + opening):
            return _Needs(len(whole) + opening, loaded=True)
    if formats.JXL in names and (within := jxl.jpeg(whole)) is not None:
        return Original(within)
    with truncated_files(settings.partial), Image.open(original.open(), formats=names) as opened:
        return _decode_opened(opened, original, settings)


def _opening_bytes(names: tuple[str, ...], data: bytes, sizes: list[tuple[int, int]], settings: _Settings) -> int:
    """Bytes, besides the file, that are held before Pillow has told anything of the picture."""
    if formats.JXL in names:  # its reader decodes as it opens
        return decoder_bytes(data, formats.JXL, sizes[0], "") + settings.finishing(sizes[0])
    return 2 * len(data) if formats.signature(data) == "WebP" else 0  # its reader copies the file twice


def _check_size(size: tuple[int, int], max_megapixels: float) -> None:
    width, height = size
    if width * height > max_megapixels * 1e6:
        raise DecodeError("too_large", f"{width} x {height} is more than {max_megapixels:g} megapixels")


def _check_bytes(name: str, size: tuple[int, int] | None, file: int, working: int, most: int) -> None:
    if file + working > most:
        of = f" of {size[0] * size[1] / 1e6:.1f} megapixels" if size else ""
        raise DecodeError(
            "too_large",
            f"{name}{of}, {file / 1e6:.0f} MB of a file in memory: decoding takes about "
            f"{(file + working) / 1e6:.0f} MB of memory, more than media.max_decode_mb ({most / 1e6:g}); "
            "raise it, or store the picture smaller or as a baseline JPEG",
        )


def _decode_opened(opened: Image.Image, original: Original, settings: _Settings) -> Picture | _Needs:
    header = opened.size
    _check_size(header, settings.max_megapixels)
    _check_size(_tile_size(opened), settings.max_megapixels)
    format_name = opened.format or "unknown"
    if settings.partial and format_name not in _PARTIAL:
        raise DecodeError("truncated", f"of a truncated {format_name} file nothing can be decoded")
    profile = opened.info.get("icc_profile")
    big = None if settings.partial else bands_of(opened, original.view(), fit(*header, settings.target_pixels))
    if big is None and not original.in_memory:  # perhaps from memory there is a way
        _check_bytes(format_name, header, len(original), 0, settings.max_bytes)
        return _Needs(len(original), loaded=True)
    data = original.load() if original.in_memory else b""
    file = len(data)
    if format_name in JPEGS and opened.info.get("progressive") and jpeg.has_too_many_scans(data):
        raise DecodeError("too_large", "a progressive JPEG of so many scans that decoding would take hours")
    big, needed = _within(opened, data, settings, big)
    if not settings.memory.grows_to(needed):
        return _Needs(needed, loaded=original.in_memory)
    if big:
        pixels = _banded_pixels(big, opened, settings, profile)
    else:
        pixels = _pixels(opened, data, format_name, settings, profile)
    # after decoding: the TIFF reader turns its pictures itself, the PNG reader decodes them to read on behind them
    orientation = big.orientation if big and big.orientation else _orientation(opened)
    metadata = read_metadata(opened, gps=settings.gps)
    count = count_frames(opened, original)
    opened.close()  # its memory, which the next one is waiting for
    settings.memory.keep(file + 9 * pixels.size // 3)
    keep = format_name in JPEGS and pixels.shape[1::-1] == header and orientation == 1 and not settings.partial
    width, height = big.size if big else header if format_name in JPEGS else opened.size
    return Picture(
        pixels=_upright(pixels, orientation),
        format=format_name,
        width=height if orientation >= 5 else width,
        height=width if orientation >= 5 else height,
        lossless=format_name in _LOSSLESS,
        frames=count,
        metadata=metadata,
        jpeg=_kept_jpeg(data, pixels) if keep and (not profile or is_srgb(profile)) else None,
        truncated=settings.partial,
    )


def _within(opened: Image.Image, data: bytes, settings: _Settings, big: Bands | None) -> tuple[Bands | None, int]:
    """The bands, if any, in which a picture is decoded within the limit, and the bytes that it takes, its file's too.

    Raises:
        DecodeError: too_large.
        OSError: it is truncated.
    """
    besides = len(data) + settings.finishing(opened.size)
    working = big.working if big else whole_bytes(opened, data, settings.target_pixels)
    if besides + working > settings.max_bytes and opened.format in JPEGS and not settings.partial:
        big = by_component(opened, data, fit(*opened.size, settings.target_pixels))
        working = big.working if big else working
    needed = besides + working
    _check_bytes(opened.format or "unknown", opened.size, len(data), needed - len(data), settings.max_bytes)
    return big, needed


def _pixels(opened: Image.Image, data: bytes, format_name: str, settings: _Settings, profile: bytes | None) -> Pixels:
    """The pixels within the budget, as they are stored: not turned yet."""
    size = fit(*opened.size, settings.target_pixels)
    if format_name in JPEGS and opened.mode in {"L", "RGB"}:
        pixels = jpeg_pixels(data, opened.size, size)
        if pixels is not None:
            return pixels if not profile or is_srgb(profile) else np.asarray(to_srgb(Image.fromarray(pixels), profile))
    drafted = opened.draft(None, size) if format_name in JPEGS else None
    if settings.partial:
        start_grey(opened)
    opened.load()
    if drafted is None:
        size = fit(*opened.size, settings.target_pixels)  # which its reader may have turned by now
    return rgb_pixels(opened, profile, size, drafted[1][2:] if drafted else opened.size)


def _banded_pixels(big: Bands, opened: Image.Image, settings: _Settings, profile: bytes | None) -> Pixels:
    """The pixels of a big picture within the budget, as they are stored."""
    size = fit(*big.size, settings.target_pixels)
    if big.shrunk:
        small, extent = big.shrunk()
        return resample(np.asarray(to_srgb(flatten(small), profile)), extent, size)
    rows = band_rows(big.size, size)
    limits = value_range(opened.mode, lambda: big.read(rows))
    pixels = join_bands((flatten(band, limits) for band in big.read(rows)), big.size, profile, size)
    if (exif := big.exif()) is not None:
        opened.info.setdefault("exif", exif)
    return pixels


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """The pixels turned as EXIF's orientation says (TIFF 6.0, tag 274)."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in {3, 4, 7, 8}:
        pixels = pixels[::-1]
    if orientation in {2, 3, 6, 7}:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _tile_size(image: Image.Image) -> tuple[int, int]:
    """Size of a TIFF's tiles: a tile is decoded whole, however small the picture that is cut from it."""
    tags = getattr(image, "tag_v2", {})
    return int(tags.get(Tag.TILE_WIDTH, 0)), int(tags.get(Tag.TILE_LENGTH, 0))


def _kept_jpeg(data: bytes, pixels: Pixels) -> bytes | None:
    """The JPEG without its metadata, if it still decodes to these pixels."""
    stripped = jpeg.strip(data)
    if stripped is None:
        return None
    size = pixels.shape[1], pixels.shape[0]
    again = jpeg_pixels(stripped, size, size)
    return stripped if again is not None and np.array_equal(again, pixels) else None


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where it is absent or makes no sense, or is only a copy of the stream's own."""
    if image.format == formats.JXL:  # its decoder has turned the picture
        return 1
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # broken EXIF says nothing about the pixels
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _unidentified(data: Bytes) -> DecodeError:
    head = data[:_HEAD]
    if reason := formats.unsupported(head):
        return DecodeError("unsupported", reason)
    name = formats.signature(head)
    if name and is_cut(data):
        return DecodeError("truncated", f"{name} that ends before what its head announces")
    if name:
        return DecodeError("unreadable", f"{name} that is damaged or incomplete in its head")
    return DecodeError("not_an_image", f"no known picture format; the file begins {head[:16]!r}")


def _unreadable(error: Exception, *, cut: bool) -> DecodeError:
    """A reader's exception as one of ours; its text may hold addresses and file names, which are nobody's business.

    Args:
        cut: whether the file is shorter than it says.
    """
    text = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    text = re.sub(r"\. Please build .*", "", text, flags=re.DOTALL)  # the JPEG XL reader's advice to its developers
    text = re.sub(r"<[^<>]* at 0x[0-9a-fA-F]+>", "the file", text)
    text = re.sub(r"(?:[A-Za-z]:)?(?:[/\\][\w.@%+~-]+){2,}[/\\]?", "a file", text)
    kind: MediaFailureKind = "unreadable"
    if cut or re.search("truncated|premature", text.lower()):
        kind = "truncated"
    elif isinstance(error, MemoryError) or "too large" in text:
        kind = "too_large"
    return DecodeError(kind, f"{type(error).__name__}: {text}"[:_MESSAGE_LENGTH].rstrip(": "))
