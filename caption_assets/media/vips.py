"""Big pictures that libvips, alone of Python's libraries, reads row by row: WebP, TIFF of one compressed strip.

libwebp averages the rows that it has decoded, where it is asked to; libtiff decodes a strip only as far as it is asked.
"""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Iterable, Iterator
from typing import Any

from PIL import Image

from caption_assets.media import webp

_ROWS_BYTES = 15_000_000
_PIECE = 1 << 18
_REASON = 200


@functools.cache
def _library() -> Any:
    """libvips, loaded with the first such picture: it costs every process ten megabytes."""
    os.environ.setdefault("VIPS_CONCURRENCY", "1")  # pictures are worked on side by side already
    import pyvips

    pyvips.cache_set_max(0)  # nothing is asked twice
    return pyvips


def shrunk_bytes(data: bytes, size: tuple[int, int], factor: int) -> int:
    """What `shrunk_webp` takes besides the file.

    Of lossless ones the decoder holds all pixels, in four bytes each; of others their transparency.
    """
    pixels, kinds = size[0] * size[1], webp.chunks(data)
    whole = 4.1 * pixels if webp.LOSSLESS in kinds else 2.1 * pixels if webp.ALPHA in kinds else 0
    return int(_ROWS_BYTES + whole + 14 * pixels / factor**2)


def shrunk_webp(data: bytes, factor: int) -> Image.Image:
    """A WebP in RGB or RGBA, its sides a whole factor shorter, rounded. Raises OSError: it is damaged or truncated."""
    vips = _library()
    try:
        source = vips.Source.new_from_memory(data)  # a buffer it would copy
        image = vips.Image.webpload_source(source, scale=1 / factor, access="sequential", fail_on="error")
        pixels = image.write_to_memory()
    except vips.Error as error:
        raise _damaged(error) from None
    return Image.frombytes("RGBA" if image.bands == 4 else "RGB", (image.width, image.height), pixels)


def tiff_rows(
    file: io.RawIOBase | io.BufferedIOBase, shape: tuple[int, int, int], rows: Iterable[int]
) -> Iterator[bytes]:
    """The bytes of a TIFF's samples from top to bottom, not turned, so many rows at a time.

    Args:
        file: of eight bits a sample.
        shape: its width and height, and how many samples a pixel has.
        rows: how many come together, each time.

    Raises:
        OSError: it is damaged or truncated, or of another shape.
    """
    vips = _library()
    source = vips.SourceCustom()
    source.on_read(lambda size: file.read(min(size, _PIECE)))  # it asks for a whole strip
    source.on_seek(file.seek)
    try:
        image = vips.Image.tiffload_source(source, access="sequential", fail_on="error", unlimited=True)
        if (image.width, image.height, image.bands, image.format) != (*shape, "uchar"):
            raise OSError("the file holds another picture than its head promises")
        region = vips.Region.new(image)
        top = 0
        for count in rows:
            yield bytes(region.fetch(0, top, shape[0], count))
            top += count
    except vips.Error as error:
        raise _damaged(error) from None


def _damaged(error: Any) -> OSError:
    reason = " ".join(str(error.detail).split())  # of all that libvips did of late, in other threads, too
    return OSError(f"the decoder finds the file damaged: {reason[:_REASON]}")
