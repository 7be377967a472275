"""Strip a JPEG of everything but its picture, without decoding it: the stored pixels are the original's, bit for bit.

What a camera or an editor added (EXIF with its position, XMP, IPTC, comments, thumbnails, further pictures behind the
first) goes; what decoding needs stays. The code is deliberately timid: whatever is not a plain 8-bit baseline or
progressive JPEG is left to re-encoding.
"""

from __future__ import annotations

import re

_SOI, _EOI, _SOS, _COMMENT = 0xD8, 0xD9, 0xDA, 0xFE
_APP0, _APP14, _APP15 = 0xE0, 0xEE, 0xEF
_FRAMES = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended, progressive: Huffman-coded, one picture
_TABLES = frozenset({0xC4, 0xDB, 0xDD})  # Huffman, quantization, restart interval
_RESTARTS = range(0xD0, 0xD8)
_ALONE = frozenset({0x01, _SOI})  # without a length behind them
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # but those that stand amid a scan's data
_MAX_SCANS = 100  # a decoder repeats the whole picture for every scan of a progressive JPEG

_JFIF, _ADOBE = b"JFIF\0", b"Adobe"
_JFIF_SIZE, _ADOBE_SIZE = 14, 12


class _DoubtError(Exception):
    """This is not a JPEG whose every byte is understood."""


def strip(data: bytes) -> bytes | None:
    """The JPEG without metadata; None where there is any doubt, and re-encoding is the safe way."""
    try:
        return _Stripper(data).run()
    except _DoubtError:
        return None


def has_one_scan(data: bytes) -> bool:
    """Whether the first scan holds all components, so that a decoder need not keep coefficients for a later one."""
    position, components = 2, 0
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill
            position += 1
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == _SOS:
            return data[position + 4 : position + 5] == bytes([components])
        if marker in _FRAMES:
            components = data[position + 9] if position + 9 < len(data) else 0
        position += 2 + length
    return False


def has_too_many_scans(data: bytes) -> bool:
    """Whether a progressive JPEG has more scans than any encoder writes: each costs a pass over the whole picture."""
    scans, position = 0, 2
    while found := _MARKER.search(data, position):
        position, marker = found.end(), data[found.start() + 1]
        if marker == _EOI:
            break
        scans += marker == _SOS
        if scans > _MAX_SCANS:
            return True
        if marker not in _ALONE:
            position += max(2, int.from_bytes(data[position : position + 2], "big"))
    return False


class _Stripper:
    """One walk over the markers of a file."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0
        self.head: list[bytes] = []  # JFIF and Adobe segments: at most one of each
        self.body: list[bytes] = []
        self.frames = 0
        self.scans = 0

    def run(self) -> bytes:
        """Walk from SOI to EOI; what follows is not part of the picture."""
        if self._marker() != _SOI:
            raise _DoubtError
        while (marker := self._marker()) != _EOI:
            payload = self._payload()
            if marker in _TABLES:
                self._keep(marker, payload)
            elif marker in _FRAMES:
                self._frame(marker, payload)
            elif marker == _SOS:
                self._scan(payload)
            elif _APP0 <= marker <= _APP15:
                self._application(marker, payload)
            elif marker != _COMMENT:
                raise _DoubtError
        if not self.scans:
            raise _DoubtError
        return b"".join([bytes([0xFF, _SOI]), *self.head, *self.body, bytes([0xFF, _EOI])])

    def _marker(self) -> int:
        """The marker at the position; any number of 0xFF may precede it."""
        if self.data[self.position : self.position + 1] != b"\xff":
            raise _DoubtError
        while self.data[self.position : self.position + 1] == b"\xff":
            self.position += 1
        if self.position >= len(self.data):
            raise _DoubtError
        marker = self.data[self.position]
        self.position += 1
        return marker

    def _payload(self) -> bytes:
        """The bytes of the segment at the position, without its length."""
        length = int.from_bytes(self.data[self.position : self.position + 2], "big")
        payload = self.data[self.position + 2 : self.position + length]
        if length < 2 or len(payload) != length - 2:
            raise _DoubtError
        self.position += length
        return payload

    def _keep(self, marker: int, payload: bytes) -> None:
        self.body.append(_segment(marker, payload))

    def _frame(self, marker: int, payload: bytes) -> None:
        components = payload[5] if len(payload) > 5 else 0
        if self.frames or payload[:1] != b"\x08" or components not in {1, 3} or len(payload) != 6 + 3 * components:
            raise _DoubtError
        self.frames = 1
        self._keep(marker, payload)

    def _application(self, marker: int, payload: bytes) -> None:
        if marker == _APP0 and payload.startswith(_JFIF):
            if len(payload) < _JFIF_SIZE:
                raise _DoubtError
            self._head(_segment(marker, payload[: _JFIF_SIZE - 2] + b"\0\0"))  # no thumbnail
        elif marker == _APP14 and payload.startswith(_ADOBE):
            if len(payload) < _ADOBE_SIZE:
                raise _DoubtError
            self._head(_segment(marker, payload[:_ADOBE_SIZE]))

    def _head(self, segment: bytes) -> None:
        if self.scans or any(other[1] == segment[1] for other in self.head):
            raise _DoubtError  # decoders differ about which one counts
        self.head.append(segment)

    def _scan(self, payload: bytes) -> None:
        """A scan's header and its entropy-coded data, which ends at the next marker that is no restart."""
        self.scans += 1
        if not self.frames or self.scans > _MAX_SCANS:
            raise _DoubtError
        self._keep(_SOS, payload)
        start = end = self.position
        while True:
            end = self.data.find(b"\xff", end)
            if end < 0 or end + 1 >= len(self.data):
                raise _DoubtError
            following = self.data[end + 1]
            if following and following not in _RESTARTS:
                break
            end += 2
        self.body.append(self.data[start:end])
        self.position = end


def _segment(marker: int, payload: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(payload) + 2).to_bytes(2, "big") + payload
