"""A JPEG of several scans, a component at a time: its decoder holds all coefficients until the last scan.

All scans of AC coefficients are of one component, so those of one make a grey JPEG of their own (ITU-T T.81, G.1.1.1.1)
with its DC coefficients, which alone are interleaved with others', and are coded anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageChops

from caption_assets.media import jpeg_dc
from caption_assets.media.jpeg_segments import (
    EOI,
    FRAMES,
    HUFFMAN,
    PROGRESSIVE,
    RESTART,
    SOI,
    SOS,
    TABLES,
    Segment,
    segment,
    segments,
)
from caption_assets.media.pixels import whole_factor
from caption_assets.sources.spool import Spool

_BLOCK = 8
_SCALES = (8, 4, 2, 1)
"""By how much Pillow lets a JPEG's decoder divide its sides."""
_APP0, _APP14 = 0xE0, 0xEE
_RGB_NAMES = b"RGB"
_BESIDE = 10_000_000
"""Bytes of pieces of the file, and of what a decoder holds of a row of blocks."""
_UNIT = 10
"""Blocks that a unit (MCU) may have (ITU-T T.81, B.2.3)."""


@dataclass(frozen=True)
class _Component:
    """What a frame says of one."""

    name: int
    quantization: int
    size: tuple[int, int]
    """Width and height in samples."""
    spacing: tuple[float, float]
    """How far apart these are, in pixels."""
    grid: jpeg_dc.Grid


class Components:
    """The components of a JPEG.

    Args:
        data: the file.

    Raises:
        ValueError: it is of a kind that is not known here: of fewer than three components, say.
        OSError: it is truncated.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._segments = list(segments(data))
        frames = [each for each in self._segments if each.marker in FRAMES]
        if len(frames) != 1:
            raise ValueError("not one frame")
        self._frame = frames[0]
        self._read_frame(self._frame.payload)
        for scan in self._segments:
            if scan.marker == SOS:
                self._check_scan(scan.payload)

    def working(self, size: tuple[int, int]) -> int:
        """Bytes that `shrunk` takes, besides the file: the coefficients of one component, and what is made of all."""
        coefficients = max(2 * _BLOCK**2 * each.grid.columns * each.grid.rows for each in self._components)
        pixels = self._size[0] * self._size[1] // self._scale(size) ** 2
        return coefficients + _BESIDE + (8 + len(self._components)) * pixels

    def shrunk(self, size: tuple[int, int]) -> tuple[Image.Image, tuple[float, float]]:
        """The picture, averaged down but not below `size` (width, height), RGB or CMYK; and its extent in its pixels.

        Raises:
            OSError: it is damaged.
            FetchError: unreadable, where there is no room for temporary files.
        """
        scale = self._scale(size)
        files = self._files()
        planes: list[Image.Image] = []
        for each in self._components:
            plane, pitch = _plane(files.pop(0), each, scale)
            planes.append(_resized(plane, pitch, planes[0].size) if planes else plane)
        image = self._joined(planes)
        factor = whole_factor(image.size, size)
        extent = self._size[0] / (scale * factor), self._size[1] / (scale * factor)
        return image.reduce(factor) if factor > 1 else image, extent

    def _scale(self, size: tuple[int, int]) -> int:
        return next(each for each in _SCALES if each <= whole_factor(self._size, size))

    def _read_frame(self, payload: bytes) -> None:
        count = payload[5] if len(payload) > 5 else 0
        if payload[:1] != b"\x08" or count not in {3, 4} or len(payload) != 6 + 3 * count:
            raise ValueError("not three or four components of eight bits")
        self._size = int.from_bytes(payload[3:5], "big"), int.from_bytes(payload[1:3], "big")
        told = [payload[start : start + 3] for start in range(6, len(payload), 3)]
        factors = [(factor >> 4, factor & 15) for _, factor, _ in told]
        most = max(h for h, _ in factors), max(v for _, v in factors)
        if 0 in self._size or not all(1 <= h <= 4 and 1 <= v <= 4 for h, v in factors):
            raise ValueError("sizes that make no sense")
        if len({name for name, _, _ in told}) < count:
            raise ValueError("components of the same name")
        self._units = tuple(-(-side // (_BLOCK * factor)) for side, factor in zip(self._size, most, strict=True))
        self._components = []
        for (name, _, quantization), (h, v) in zip(told, factors, strict=True):
            width, height = -(-self._size[0] * h // most[0]), -(-self._size[1] * v // most[1])
            grid = jpeg_dc.Grid(h, v, -(-width // _BLOCK), -(-height // _BLOCK))
            spacing = most[0] / h, most[1] / v
            self._components.append(_Component(name, quantization, (width, height), spacing, grid))
        if self._components[0].size != self._size:
            raise ValueError("a first component of fewer samples than others")

    def _check_scan(self, payload: bytes) -> None:
        """Whether a scan is of one component, or of DC, and of components that there are."""
        count = payload[0] if payload else 0
        if not count or len(payload) != 4 + 2 * count:
            raise ValueError("a scan whose head makes no sense")
        mine = self._of_scan(payload)
        interleaved = self._frame.marker == PROGRESSIVE and payload[-3:-1] == b"\0\0"
        if count > 1 and not (interleaved and sum(each.grid.size for each in mine) <= _UNIT):
            raise ValueError("a scan of several components")

    def _of_scan(self, payload: bytes) -> list[_Component]:
        named = {each.name: each for each in self._components}
        names = payload[1 : 1 + 2 * payload[0] : 2]
        if not set(names) <= named.keys() or len(set(names)) < len(names):
            raise ValueError("a scan of unknown components")
        return [named[name] for name in names]

    def _files(self) -> list[Spool]:
        """Each component as a JPEG of its own, on disk."""
        files = {each.name: Spool(on_disk=True) for each in self._components}
        for spool in files.values():
            spool.write(bytes([0xFF, SOI]))
        codes: dict[int, jpeg_dc.Codes] = {}
        restart = 0
        for each in self._segments:
            if each.marker == SOS:
                self._write_scan(each, files, codes, restart)
                continue
            if each.marker == HUFFMAN:
                codes |= {number: dc for number, dc in jpeg_dc.tables(each.payload) if dc}
            elif each.marker == RESTART:
                restart = int.from_bytes(each.payload[:2], "big")
            for component in self._components:
                if each is self._frame:
                    files[component.name].write(_frame(each, component))
                elif each.marker in TABLES:
                    files[component.name].write(bytes(each))
        for spool in files.values():
            spool.write(bytes([0xFF, EOI]))
        return list(files.values())

    def _write_scan(
        self, scan: Segment, files: dict[int, Spool], codes: dict[int, jpeg_dc.Codes], restart: int
    ) -> None:
        mine = self._of_scan(scan.payload)
        coded = self._data[scan.coded]
        if len(mine) == 1:
            files[mine[0].name].write(bytes(scan))
            files[mine[0].name].write(coded)
            return
        for component, payload, data in zip(mine, *self._apart(scan, coded, mine, codes, restart), strict=True):
            spool = files[component.name]
            spool.write(segment(HUFFMAN, jpeg_dc.EQUAL_CODES))
            spool.write(segment(RESTART, b"\0\0"))
            spool.write(segment(SOS, payload))
            spool.write(data)
            spool.write(segment(RESTART, restart.to_bytes(2, "big")))

    def _apart(
        self,
        scan: Segment,
        coded: bytes,
        mine: Sequence[_Component],
        codes: dict[int, jpeg_dc.Codes],
        restart: int,
    ) -> tuple[list[bytes], list[bytes]]:
        """A scan of DC of several components as scans of one each: heads and data."""
        grids = [each.grid for each in mine]
        across, down = self._units
        heads = [bytes([1, each.name, 0]) + scan.payload[-3:] for each in mine]
        if scan.payload[-1] >> 4:
            bits = jpeg_dc.refining_bits(coded, grids, across * down, restart)
            return heads, [jpeg_dc.scan_data(grid.raster(each, across)) for grid, each in zip(grids, bits, strict=True)]
        selected = [number >> 4 for number in scan.payload[2 : 2 + 2 * len(mine) : 2]]
        if not set(selected) <= codes.keys():
            raise OSError("a scan is damaged: its Huffman table is missing")
        values = jpeg_dc.first_values(coded, [codes[number] for number in selected], grids, across * down, restart)
        return heads, [jpeg_dc.first_scan(grid.raster(each, across)) for grid, each in zip(grids, values, strict=True)]

    def _joined(self, planes: list[Image.Image]) -> Image.Image:
        """The components as an image, as libjpeg and Pillow take them: four are Adobe's, inverted."""
        adobe = [each.payload[11] for each in self._segments if _says(each, _APP14, b"Adobe", 12)]
        if len(planes) == 3:
            named = bytes(each.name for each in self._components) == _RGB_NAMES
            is_rgb = adobe[-1] == 0 if adobe else named
            if is_rgb and not any(_says(each, _APP0, b"JFIF\0", 14) for each in self._segments):
                return Image.merge("RGB", planes)
            return Image.merge("YCbCr", planes).convert("RGB")
        if any(adobe[-1:]):  # CMY is the complement of the RGB that it is decoded to
            colours = Image.merge("YCbCr", planes[:3]).convert("RGB").split()
            return Image.merge("CMYK", [*colours, ImageChops.invert(planes[3])])
        return Image.merge("CMYK", [ImageChops.invert(each) for each in planes])


def _says(each: Segment, marker: int, name: bytes, length: int) -> bool:
    return each.marker == marker and each.payload.startswith(name) and len(each.payload) >= length


def _frame(frame: Segment, component: _Component) -> bytes:
    """The frame of a picture that has no other component."""
    width, height = component.size
    payload = b"\x08" + height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return segment(frame.marker, payload + bytes([1, component.name, 0x11, component.quantization]))


def _plane(file: Spool, component: _Component, scale: int) -> tuple[Image.Image, tuple[float, float]]:
    """A component's samples, where the first's sides are divided by `scale`, and how far apart they are, by its."""
    wide, high = component.spacing
    own = next((each for each in _SCALES if each * max(wide, high) <= scale), 1)
    with file.open() as opened, Image.open(opened, formats=("JPEG",)) as image:
        image.draft("L", tuple(max(1, side // own) for side in component.size))  # type: ignore[arg-type]
        image.load()
        plane = image.copy()
    file.close()
    return plane, (own * wide / scale, own * high / scale)


def _resized(plane: Image.Image, pitch: tuple[float, float], size: tuple[int, int]) -> Image.Image:
    """A component's samples where the first's are, of which there are `size`."""
    values = np.asarray(plane)
    if pitch != (1, 1):
        how = cv2.INTER_AREA if pitch[0] * pitch[1] < 1 else cv2.INTER_LINEAR
        values = np.asarray(cv2.resize(values, None, fx=pitch[0], fy=pitch[1], interpolation=how), np.uint8)
    missing = max(0, size[1] - values.shape[0]), max(0, size[0] - values.shape[1])
    values = np.pad(values, [(0, each) for each in missing], mode="edge")[: size[1], : size[0]]
    return Image.fromarray(np.ascontiguousarray(values))
