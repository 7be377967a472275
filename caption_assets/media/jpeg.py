"""Strip a JPEG of everything but its picture, without decoding it: the stored pixels are the original's, bit for bit.

What a camera or an editor added (EXIF with its position, XMP, IPTC, comments, thumbnails, further pictures behind the
first) goes; what decoding needs stays. The code is deliberately timid: whatever is not a plain 8-bit baseline or
progressive JPEG is left to re-encoding.
"""

from __future__ import annotations

import re

from caption_assets.media.jpeg_segments import COMMENT, EOI, FRAMES, SOI, SOS, TABLES, Segment, segment, segments

_APP0, _APP14, _APP15 = 0xE0, 0xEE, 0xEF
_ALONE = frozenset({0x01, SOI})  # without a length behind them
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # but those that stand amid a scan's data
_MAX_SCANS = 100  # a decoder repeats the whole picture for every scan of a progressive JPEG

_JFIF, _ADOBE = b"JFIF\0", b"Adobe"
_JFIF_SIZE, _ADOBE_SIZE = 14, 12


class _DoubtError(ValueError):
    """This is not a JPEG whose every byte is understood."""


def strip(data: bytes) -> bytes | None:
    """The JPEG without metadata; None where there is any doubt, and re-encoding is the safe way."""
    try:
        return _Stripper(data).run()
    except (ValueError, OSError):
        return None


def has_one_scan(data: bytes) -> bool:
    """Whether the first scan holds all components, so that a decoder need not keep coefficients for a later one."""
    components = b""
    try:
        for each in segments(data):
            if each.marker == SOS:
                return each.payload[:1] == components
            if each.marker in FRAMES:
                components = each.payload[5:6]
    except (ValueError, OSError):
        pass
    return False


def has_too_many_scans(data: bytes) -> bool:
    """Whether a progressive JPEG has more scans than any encoder writes: each costs a pass over the whole picture."""
    scans, position = 0, 2
    while found := _MARKER.search(data, position):
        position, marker = found.end(), data[found.start() + 1]
        if marker == EOI:
            break
        scans += marker == SOS
        if scans > _MAX_SCANS:
            return True
        if marker not in _ALONE:
            position += max(2, int.from_bytes(data[position : position + 2], "big"))
    return False


class _Stripper:
    """One walk over the markers of a file."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.head: list[bytes] = []  # JFIF and Adobe segments: at most one of each
        self.body: list[bytes] = []
        self.frames = 0
        self.scans = 0

    def run(self) -> bytes:
        """Walk from SOI to EOI; what follows is not part of the picture."""
        for each in segments(self.data):
            if each.marker in TABLES:
                self.body.append(bytes(each))
            elif each.marker in FRAMES:
                self._frame(each)
            elif each.marker == SOS:
                self._scan(each)
            elif _APP0 <= each.marker <= _APP15:
                self._application(each.marker, each.payload)
            elif each.marker not in {COMMENT, EOI}:
                raise _DoubtError
        if not self.scans:
            raise _DoubtError
        return b"".join([bytes([0xFF, SOI]), *self.head, *self.body, bytes([0xFF, EOI])])

    def _frame(self, frame: Segment) -> None:
        payload = frame.payload
        components = payload[5] if len(payload) > 5 else 0
        if self.frames or payload[:1] != b"\x08" or components not in {1, 3} or len(payload) != 6 + 3 * components:
            raise _DoubtError
        self.frames = 1
        self.body.append(bytes(frame))

    def _application(self, marker: int, payload: bytes) -> None:
        if marker == _APP0 and payload.startswith(_JFIF):
            if len(payload) < _JFIF_SIZE:
                raise _DoubtError
            self._head(segment(marker, payload[: _JFIF_SIZE - 2] + b"\0\0"))  # no thumbnail
        elif marker == _APP14 and payload.startswith(_ADOBE):
            if len(payload) < _ADOBE_SIZE:
                raise _DoubtError
            self._head(segment(marker, payload[:_ADOBE_SIZE]))

    def _head(self, segment: bytes) -> None:
        if self.scans or any(other[1] == segment[1] for other in self.head):
            raise _DoubtError  # decoders differ about which one counts
        self.head.append(segment)

    def _scan(self, scan: Segment) -> None:
        self.scans += 1
        if not self.frames or self.scans > _MAX_SCANS:
            raise _DoubtError
        self.body += [bytes(scan), self.data[scan.coded]]
