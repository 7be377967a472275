"""The head of a JPEG XL file: how large a picture it promises, and of which samples, before its decoder sees it;
and the JPEG that it may be made of.
"""

from __future__ import annotations

from caption_assets.media.isobmff import boxes

STREAM, BOX = b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"
"""What a file begins with: the stream itself, or the first of its boxes."""

_RECONSTRUCTION = b"jbrd"
"""The box of what a JPEG's coefficients do not tell of it (ISO/IEC 18181-2)."""
_HEADER = 16
"""Bytes of a stream in which its size stands for certain."""
_SIZE_BITS = (9, 13, 18, 30)
_RATIOS = ((1, 1), (6, 5), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


def size(data: bytes) -> tuple[int, int]:
    """Width and height. Raises ValueError: the file has no readable head."""
    return read_size(Bits(_head(data)))


def samples(data: bytes) -> tuple[int, int] | None:
    """Channels, colours taken for three, and bits of a sample (ImageMetadata, ISO/IEC 18181-1); None: not told simply.

    Raises:
        ValueError: the file has no readable head.
    """
    bits = Bits(_head(data))
    read_size(bits)
    if bits.take(1):
        return 3, 8  # all by default
    if bits.take(1):
        bits.take(3)  # orientation
        if bits.take(1):
            read_size(bits)
        if bits.take(1) or bits.take(1):
            return None  # a preview, or an animation
    real = bits.take(1)
    choice = bits.take(2)
    depth = ((32, 16, 24) if real else (8, 10, 12))[choice] if choice < 3 else 1 + bits.take(6)
    if real:
        bits.take(4)  # bits of the exponent
    bits.take(1)  # whether sixteen bits hold its values
    choice = bits.take(2)
    extra = (0, 1)[choice] if choice < 2 else 2 + bits.take(4) if choice == 2 else 1 + bits.take(12)
    return 3 + extra, depth


def jpeg(data: bytes) -> bytes | None:
    """The JPEG that a file was made of, byte for byte; None: of none, or it cannot be had again.

    Raises:
        Exception: whatever the decoder raises at a damaged file.
    """
    if not data.startswith(BOX) or all(kind != _RECONSTRUCTION for kind, _, _ in boxes(data, 0, len(data))):
        return None
    from pillow_jxl import Decoder  # optional package

    is_jpeg, _, content, _, _ = Decoder(num_threads=0)(data)
    return content if is_jpeg else None


class Bits:
    """A stream's bits, from the lowest of each byte. Raises ValueError where it is none."""

    def __init__(self, stream: bytes) -> None:
        if not stream.startswith(STREAM):
            raise ValueError("JPEG XL without a stream")
        self._stream, self.place = stream, 8 * len(STREAM)

    def take(self, count: int) -> int:
        """The next bits as a number. Raises ValueError: there are no more."""
        start, self.place = self.place, self.place + count
        if self.place > 8 * len(self._stream):
            raise ValueError("JPEG XL: the file is truncated")
        whole = int.from_bytes(self._stream[start // 8 : (self.place + 7) // 8], "little")
        return whole >> start % 8 & (1 << count) - 1

    def choice(self, *ways: tuple[int, int]) -> int:
        """One of four ways to write a number: bits of it, and what is added to them."""
        count, offset = ways[self.take(2)]
        return offset + self.take(count)


def read_size(bits: Bits) -> tuple[int, int]:
    """Width and height by a SizeHeader."""

    def side(small: int) -> int:
        return 8 * (1 + bits.take(5)) if small else 1 + bits.take(_SIZE_BITS[bits.take(2)])

    small = bits.take(1)
    height = side(small)
    if ratio := bits.take(3):
        numerator, denominator = _RATIOS[ratio - 1]
        return height * numerator // denominator, height
    return side(small), height


def _head(data: bytes) -> bytes:
    """The first bytes of the stream: the file itself, or in boxes, in parts perhaps (ISO/IEC 18181-2)."""
    if data.startswith(STREAM):
        return data[:_HEADER]
    head = b""
    for kind, start, end in boxes(data, 0, len(data)):
        if kind in {b"jxlc", b"jxlp"}:
            start += 4 if kind == b"jxlp" else 0  # a part's number
            head += data[start : min(end, start + _HEADER)]
        if len(head) >= _HEADER:
            break
    return head
