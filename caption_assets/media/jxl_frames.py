"""Where a JPEG XL stream ends: what its heads say, for a stream without boxes has nobody else to say it.

Frames follow one another, each headed by the sizes of its sections (ISO/IEC 18181-1, annexes C, D and F). Nothing is
decoded: what only a decoder could read (a profile, a reordered table of sections) leaves the end untold.
"""

from __future__ import annotations

from dataclasses import dataclass

from caption_assets.media.jxl import Bits, read_size

_REGULAR, _LF, _REFERENCE, _SKIP_PROGRESSIVE = range(4)
_USES_LF_FRAME = 32
_REPLACE, _BLEND, _WEIGHTED_ADD, _MULTIPLY = 0, 2, 3, 4
_SPOT_COLOR, _CFA = 2, 5
_GREY, _XYB = 1, 2
_CUSTOM = 2
_MOST_FRAMES = 100_000

_SECTION = ((10, 0), (14, 1024), (22, 17_408), (30, 4_211_712))
_PLACE = ((8, 0), (11, 256), (14, 2304), (30, 18_688))
_ENUM = ((0, 0), (0, 1), (4, 2), (6, 18))
_NAME = ((0, 0), (4, 0), (5, 16), (10, 48))
_COORDINATE = ((19, 0), (19, 524_288), (20, 1_048_576), (21, 2_097_152))
_POWER = ((0, 1), (0, 2), (0, 4), (0, 8))


class UntoldError(Exception):
    """The heads do not say it."""


def is_cut(stream: bytes) -> bool:
    """Whether a stream is shorter than it says; False also where it does not say."""
    try:
        bits = Bits(stream)
        picture = _picture(bits)
        for _ in range(_MOST_FRAMES):
            if _skip_frame(bits, picture):
                break
    except UntoldError:
        return False
    except ValueError:
        return True  # its bits end within a head
    return bits.place > 8 * len(stream)


@dataclass(frozen=True)
class _Picture:
    """What decides how the frames' heads are read."""

    size: tuple[int, int]
    extra: int = 0
    """Channels besides the colours."""
    xyb: bool = True
    animated: bool = False
    timed: bool = False


def _picture(bits: Bits) -> _Picture:
    """Read up to the first frame."""
    size, extra, xyb, animated, timed = read_size(bits), 0, True, False, False
    if not bits.take(1):  # else all is as usual
        if further := bits.take(1):
            bits.take(3)
            if bits.take(1):
                read_size(bits)
            if bits.take(1):
                raise UntoldError  # a preview
            if animated := bool(bits.take(1)):
                bits.choice((0, 100), (0, 1000), (10, 1), (30, 1))
                bits.choice((0, 1), (0, 1001), (8, 1), (10, 1))
                bits.choice((0, 0), (3, 0), (16, 0), (32, 0))
                timed = bool(bits.take(1))
        _skip_depth(bits)
        bits.take(1)
        extra = bits.choice((0, 0), (0, 1), (4, 2), (12, 1))
        for _ in range(extra):
            _skip_channel(bits)
        xyb = bool(bits.take(1))
        _skip_colors(bits)
        if further and not bits.take(1):
            bits.take(16 + 16 + 1 + 16)
        _skip_extensions(bits)
    if not bits.take(1):  # else the transforms are as usual
        if xyb and not bits.take(1):
            bits.take(16 * 16)
        weights = bits.take(3)
        for bit, count in enumerate((15, 55, 210)):
            if weights >> bit & 1:
                bits.take(16 * count)
    _align(bits)
    return _Picture(size, extra, xyb, animated, timed)


def _skip_frame(bits: Bits, picture: _Picture) -> bool:
    """Read a frame's head, and go behind its sections. Returns whether it was the last one."""
    last, entries = _frame(bits, picture)
    if bits.take(1):
        raise UntoldError  # the sections stand in another order, which is packed
    _align(bits)
    sizes = [bits.choice(*_SECTION) for _ in range(entries)]
    _align(bits)
    bits.place += 8 * sum(sizes)
    return last


def _frame(bits: Bits, picture: _Picture) -> tuple[bool, int]:
    """Whether a frame is the last one, and how many sections it has."""
    size, shift, upsampling, passes = picture.size, 1, 1, 1
    if bits.take(1):
        return True, _sections(size, shift, passes)
    kind, modular, flags = bits.take(2), bool(bits.take(1)), _long(bits)
    ycbcr = not picture.xyb and bool(bits.take(1))
    if not flags & _USES_LF_FRAME:
        bits.take(6 if ycbcr else 0)
        upsampling = bits.choice(*_POWER)
        for _ in range(picture.extra):
            bits.choice(*_POWER)
    if modular:
        shift = bits.take(2)
    elif picture.xyb:
        bits.take(6)
    if kind != _REFERENCE:
        passes = _passes(bits)
    level = bits.choice((0, 1), (0, 2), (0, 3), (0, 4)) if kind == _LF else 0
    shown, partial = kind in (_REGULAR, _SKIP_PROGRESSIVE), False
    if kind != _LF and bits.take(1):
        start = (bits.choice(*_PLACE), bits.choice(*_PLACE)) if shown else (0, 0)
        size = bits.choice(*_PLACE), bits.choice(*_PLACE)
        partial = shown and not _covers(start, size, picture.size)
    last, duration, mode = False, 0, _REPLACE
    if shown:
        mode = _blending(bits, picture, partial)
        for _ in range(picture.extra):
            _blending(bits, picture, partial)
        if picture.animated:
            duration = bits.choice((0, 0), (0, 1), (8, 0), (32, 0))
            bits.take(32 if picture.timed else 0)
        last = bool(bits.take(1))
    saved = bits.take(2) if kind != _LF and not last else 0
    referenced = kind != _LF and not last and (not duration or saved)
    if kind == _REFERENCE or (shown and referenced and mode == _REPLACE and not partial):
        bits.take(1)
    bits.take(8 * bits.choice(*_NAME))
    _skip_filter(bits, modular)
    _skip_extensions(bits)
    width, height = (-(-side // (upsampling << 3 * level)) for side in size)
    return last, _sections((width, height), shift, passes)


def _sections(size: tuple[int, int], shift: int, passes: int) -> int:
    """How many sections a frame has: one of all, or those of the whole, of groups of blocks, and of groups."""
    side = 128 << shift
    groups = -(-size[0] // side) * -(-size[1] // side)
    if groups == passes == 1:
        return 1
    coarse = -(-size[0] // (8 * side)) * -(-size[1] // (8 * side))
    return 2 + coarse + groups * passes


def _passes(bits: Bits) -> int:
    count = bits.choice((0, 1), (0, 2), (0, 3), (3, 4))
    if count > 1:
        steps = bits.choice((0, 0), (0, 1), (0, 2), (1, 3))
        bits.take(2 * (count - 1))
        for _ in range(steps):
            bits.choice(*_POWER)
        for _ in range(steps):
            bits.choice((0, 0), (0, 1), (0, 2), (3, 0))
    return count


def _covers(start: tuple[int, int], size: tuple[int, int], whole: tuple[int, int]) -> bool:
    """Whether a frame covers the picture; where it starts below zero the number is odd."""
    places = [-(place + 1) // 2 if place % 2 else place // 2 for place in start]
    return all(place <= 0 <= place + side - full for place, side, full in zip(places, size, whole, strict=True))


def _blending(bits: Bits, picture: _Picture, partial: bool) -> int:
    mode = bits.choice((0, _REPLACE), (0, 1), (0, _BLEND), (2, _WEIGHTED_ADD))
    by_alpha = picture.extra > 0 and mode in (_BLEND, _WEIGHTED_ADD)
    if by_alpha:
        bits.choice((0, 0), (0, 1), (0, 2), (3, 3))
    if by_alpha or mode == _MULTIPLY:
        bits.take(1)
    if mode != _REPLACE or partial:
        bits.take(2)
    return mode


def _skip_filter(bits: Bits, modular: bool) -> None:
    """The filters behind decoding."""
    if bits.take(1):
        return
    if bits.take(1) and bits.take(1):
        bits.take(16 * 6)
    if bits.take(2):
        if not modular and bits.take(1):
            bits.take(16 * 8)
        if bits.take(1):
            bits.take(16 * 5)
        if bits.take(1):
            bits.take(16 * (3 if modular else 4))
        if modular:
            bits.take(16)
    _skip_extensions(bits)


def _skip_channel(bits: Bits) -> None:
    """An extra channel; by default it is alpha."""
    if bits.take(1):
        return
    kind = bits.choice(*_ENUM)
    _skip_depth(bits)
    bits.choice((0, 0), (0, 3), (0, 4), (3, 1))
    bits.take(8 * bits.choice(*_NAME))
    if kind == 0:
        bits.take(1)
    elif kind == _SPOT_COLOR:
        bits.take(16 * 4)
    elif kind == _CFA:
        bits.choice((0, 1), (2, 0), (4, 3), (8, 19))


def _skip_depth(bits: Bits) -> None:
    if bits.take(1):
        bits.choice((0, 32), (0, 16), (0, 24), (6, 1))
        bits.take(4)
    else:
        bits.choice((0, 8), (0, 10), (0, 12), (6, 1))


def _skip_colors(bits: Bits) -> None:
    if bits.take(1):
        return
    if bits.take(1):
        raise UntoldError  # a profile, which is packed
    space = bits.choice(*_ENUM)
    if space != _XYB and bits.choice(*_ENUM) == _CUSTOM:
        _skip_coordinates(bits, 1)
    if space not in (_GREY, _XYB) and bits.choice(*_ENUM) == _CUSTOM:
        _skip_coordinates(bits, 3)
    if space != _XYB:
        if bits.take(1):
            bits.take(24)
        else:
            bits.choice(*_ENUM)
    bits.choice(*_ENUM)


def _skip_coordinates(bits: Bits, points: int) -> None:
    for _ in range(2 * points):
        bits.choice(*_COORDINATE)


def _skip_extensions(bits: Bits) -> None:
    known = _long(bits)
    bits.place += sum(_long(bits) for _ in range(known.bit_count()))


def _long(bits: Bits) -> int:
    """A number of up to 64 bits."""
    way = bits.take(2)
    if way == 0:
        return 0
    if way == 1:
        return 1 + bits.take(4)
    if way == 2:
        return 17 + bits.take(8)
    value, shift = bits.take(12), 12
    while bits.take(1):
        if shift == 60:
            return value | bits.take(4) << 60
        value, shift = value | bits.take(8) << shift, shift + 8
    return value


def _align(bits: Bits) -> None:
    bits.place += -bits.place % 8
