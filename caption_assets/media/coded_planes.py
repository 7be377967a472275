"""The pictures of AVIF and HEIC files from their decoded planes, a band of rows at a time: the whole is not copied.

FFmpeg's decoders give luma and chroma as they are coded. A big picture takes no more than that, its tiles less.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from numpy.typing import NDArray

from caption_assets import malloc
from caption_assets.media.budget import ROWS
from caption_assets.media.heif_items import Coded, Items
from caption_assets.sources.spool import Bytes, Spool

_DECODERS = {b"av01": "libdav1d", b"hvc1": "hevc"}
_MATRICES = {
    1: Colorspace.ITU709,
    2: Colorspace.ITU601,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    9: Colorspace.BT2020,
}
"""By matrix coefficients (ISO/IEC 23091-2). Unspecified is taken for BT.601, as it is by libavif and libheif."""
_FULL = 2
_SMOOTH = int(Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT)
"""Chroma between its samples is interpolated: without the flags it is that of the nearest."""
_AROUND = 2
"""Rows above and below that chroma is interpolated with: an even number, for it may have half of them."""
_PLANAR = ("yuv420p", "yuv422p", "yuv444p", "gray", "gbrp")

Pixels = NDArray[np.uint8]


def bands(items: Items, coded: Coded, rows: int) -> Iterator[Pixels]:
    """The picture from top to bottom: arrays of (rows, width, 3), or 4 with alpha; the last may have fewer rows.

    Raises:
        OSError: a tile cannot be decoded.
        FetchError: unreadable, where there is no room for temporary files.
    """
    left, top, right, bottom = coded.box
    rest = np.empty((0, right - left, 4 if coded.alpha else 3), np.uint8)
    place = 0
    for band in _bands_of_tiles(items, coded):
        shown = band[max(0, top - place) : max(0, bottom - place), left:right]
        place += len(band)
        rest = np.concatenate([rest, shown]) if len(rest) else shown
        while len(rest) >= rows:
            yield rest[:rows]
            rest = rest[rows:]
    if len(rest):
        yield rest


def _bands_of_tiles(items: Items, coded: Coded) -> Iterator[Pixels]:
    """All that is coded, a few rows at a time: (rows, width of all tiles, 3 or 4)."""
    for line in range(len(coded.tiles) // coded.columns):
        alpha = _alpha(items, coded.alpha, line) if coded.alpha else b""
        frames = _decoded(items, coded, line)
        width = coded.tile[0] * coded.columns
        for top in range(0, coded.tile[1], ROWS):
            count = min(ROWS, coded.tile[1] - top)
            band = np.hstack([_rgb(frame, coded, top, count) for frame in frames])
            if coded.alpha:
                values = np.frombuffer(alpha[top * width : (top + count) * width], np.uint8)
                band = np.dstack([band, values.reshape(count, width)])
            yield band


def _alpha(items: Items, coded: Coded, line: int) -> Bytes:
    """The alpha of a line of tiles, row by row; on disk where it is big, for the colours' planes are to come."""
    frames = _decoded(items, coded, line)
    with Spool() as spool:
        for top in range(0, coded.tile[1], ROWS):
            count = min(ROWS, coded.tile[1] - top)
            spool.write(np.hstack([_grey(frame, coded, top, count) for frame in frames]).tobytes())
        return spool.view()


def _decoded(items: Items, coded: Coded, line: int) -> list[av.VideoFrame]:
    """The tiles of a line."""
    tiles = coded.tiles[line * coded.columns : (line + 1) * coded.columns]
    frames = [_frame(coded, items.content(tile)) for tile in tiles]
    malloc.trim(coded.tile[0] * coded.tile[1])  # what the decoders had besides
    return frames


def _frame(coded: Coded, content: bytes) -> av.VideoFrame:
    """A tile's planes."""
    width, height = coded.tile
    context: Any = av.CodecContext.create(_DECODERS[coded.codec], "r")
    context.thread_count = 1
    context.options = {"max_pixels": str((width + 64) * (height + 64))}  # whatever is promised inside
    if coded.codec == b"hvc1":
        context.extradata = coded.config
    try:
        frames = [*context.decode(av.Packet(content)), *context.decode(None)]
    except av.FFmpegError as error:
        raise OSError(f"the decoder finds the file damaged: {error.strerror}") from None
    if not frames:
        raise OSError("the decoder finds no picture")
    frame: av.VideoFrame = frames[-1]
    if (frame.width, frame.height) != coded.tile:
        raise OSError(f"the file promises tiles of {coded.tile} pixels and has {frame.width, frame.height}")
    if not _kind(frame).startswith(_PLANAR):
        raise OSError(f"planes of the kind {frame.format.name}")
    return frame


def _rgb(frame: av.VideoFrame, coded: Coded, top: int, rows: int) -> Pixels:
    matrix = frame.colorspace if coded.matrix == 2 else coded.matrix
    source = Colorspace.ITU601 if _kind(frame).startswith("gbrp") else _MATRICES.get(matrix)
    if source is None:
        raise OSError(f"colours of the kind {matrix}")
    return _converted(frame, coded, top, rows, "rgb24", source)


def _grey(frame: av.VideoFrame, coded: Coded, top: int, rows: int) -> Pixels:
    return _converted(frame, coded, top, rows, "gray", Colorspace.ITU601)


def _converted(frame: av.VideoFrame, coded: Coded, top: int, rows: int, kind: str, source: Colorspace) -> Pixels:
    above = min(top, _AROUND)
    part = _cut(frame, top - above, min(above + rows + _AROUND, frame.height - top + above))
    band = part.reformat(
        format=kind,
        src_colorspace=source,
        dst_colorspace=source,
        src_color_range=_range(frame, coded),
        dst_color_range=ColorRange.JPEG,
        interpolation=_SMOOTH,
    )
    return np.asarray(band.to_ndarray(), np.uint8)[above : above + rows, : frame.width]


def _range(frame: av.VideoFrame, coded: Coded) -> ColorRange:
    full = frame.color_range == _FULL if coded.full_range is None else coded.full_range
    return ColorRange.JPEG if full else ColorRange.MPEG


def _cut(frame: av.VideoFrame, top: int, rows: int) -> av.VideoFrame:
    """Some rows of a frame; with a column or row too many where there would be an odd number: chroma may have half."""
    part = av.VideoFrame(frame.width + frame.width % 2, rows + rows % 2, _kind(frame))
    for source, target in zip(frame.planes, part.planes, strict=True):
        shift = 0 if source.height == frame.height else 1  # chroma of half the height
        wide = min(source.line_size, target.line_size)
        values = _lines(source)[top >> shift : source.height][: target.height]
        _lines(target)[: len(values), :wide] = values[:, :wide]
    return part


def _kind(frame: av.VideoFrame) -> str:
    """The format of the planes; that values go to 255 is asked for elsewhere."""
    return str(frame.format.name).replace("yuvj", "yuv")


def _lines(plane: Any) -> Pixels:
    """A plane's memory, itself, with what stands behind its rows: (rows, bytes)."""
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
