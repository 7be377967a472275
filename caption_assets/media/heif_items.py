"""How the picture of an AVIF or HEIC file is coded: its tiles, its alpha, its colours (ISO/IEC 23008-12)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

from caption_assets.media.isobmff import Extent, Numbers, boxes, extents

_CODECS = {b"av01": b"av1C", b"hvc1": b"hvcC"}
_ALPHA = (b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", b"urn:mpeg:hevc:2015:auxid:1")
_UNTOUCHED = frozenset(
    {b"ispe", b"pixi", b"av1C", b"hvcC", b"colr", b"auxC", b"irot", b"imir", b"clap", b"pasp", b"clli", b"mdcv"}
)
"""Properties that change no pixels beyond what is done here."""
_TURNED = (1, 8, 3, 6)
"""Orientation as EXIF has it (TIFF 6.0, tag 274), by quarter turns anticlockwise."""
_MIRRORED = (2, 5, 4, 7)
"""The same of what is first mirrored from left to right, then turned."""
_CHANGES = frozenset({b"irot", b"imir", b"clap"})
"""Those that change which pixels are shown, and where."""
_IN_FILE, _IN_META = 0, 1
_MOST_TILES = 10_000
_BEGINNING = 256
_MATRICES = frozenset({0, 1, 2, 5, 6, 9})
"""How colours may be made of luma and chroma, by matrix coefficients (ISO/IEC 23091-2)."""


class UnknownKindError(ValueError):
    """A file's picture is of a kind, or damaged in a way, that is not known here."""


@dataclass(frozen=True)
class Coded:
    """A picture as it is coded: tiles of one size, line by line, that cover it from its top left corner on."""

    width: int
    height: int
    columns: int
    tile: tuple[int, int]
    """Width and height of each tile."""
    tiles: list[list[Extent]]
    codec: bytes
    """av01 or hvc1."""
    config: bytes
    """What a decoder needs before a tile: the content of av1C or hvcC."""
    matrix: int
    """How colours are made of luma and chroma (ISO/IEC 23091-2); 2: the coded picture says."""
    full_range: bool | None
    """Whether values go to 255; None: the coded picture says."""
    orientation: int = 1
    """How it is to be turned and mirrored, as EXIF has it (TIFF 6.0, tag 274)."""
    crop: tuple[int, int, int, int] | None = None
    """Left, top, right and bottom of the part that is to be shown, before it is turned."""
    alpha: Coded | None = None

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of what is to be shown: all, where nothing is cropped."""
        return self.crop or (0, 0, self.width, self.height)

    @property
    def shown(self) -> tuple[int, int]:
        """Width and height of what is to be shown, not turned."""
        left, top, right, bottom = self.box
        return right - left, bottom - top

    @property
    def shape(self) -> tuple[int, ...]:
        """How many tiles there are, and their measures."""
        return len(self.tiles), self.columns, *self.tile


class Items:
    """The items of a file.

    Raises:
        UnknownKindError: it has none that can be read.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._inside: tuple[int, int] = (0, 0)
        self._kinds: dict[int, bytes] = {}
        self._extents: dict[int, list[Extent]] = {}
        self._properties: list[tuple[bytes, bytes]] = []
        self._of_item: dict[int, list[int]] = {}
        self._references: list[tuple[bytes, int, list[int]]] = []
        self._primary = -1
        for kind, start, end in boxes(data, 0, len(data)):
            if kind == b"meta" and end <= len(data):
                self._read(start + 4, end)

    def picture(self) -> Coded:
        """The picture that the file is for. Raises UnknownKindError."""
        found = self._coded(self._primary)
        masks = [item for kind, item, of in self._references if kind == b"auxl" and self._primary in of]
        alphas = [item for item in masks if self._property(item, b"auxC")[4:].split(b"\0")[0] in _ALPHA]
        if not alphas:
            return found
        alpha = self._coded(alphas[0])
        if len(alphas) > 1 or any(kind == b"prem" for kind, _, _ in self._references):
            raise UnknownKindError("alpha of another kind")
        changes = {(1, None), (found.orientation, found.crop)}
        if alpha.shape != found.shape or (alpha.orientation, alpha.crop) not in changes:
            raise UnknownKindError("alpha of another size, or turned by itself")
        return replace(found, alpha=alpha)

    def content(self, parts: list[Extent]) -> bytes:
        """The bytes of an item."""
        if sum(part.length for part in parts) > len(self._data):
            raise UnknownKindError("data that comes again and again")
        found = []
        for part in parts:
            place, end = self._place(part)
            if not 0 < part.length <= end - place:
                raise UnknownKindError("data that is elsewhere")
            found.append(self._data[place : place + part.length])
        return b"".join(found)

    def beginning(self, parts: list[Extent]) -> bytes:
        """The first bytes of an item, as far as they are there."""
        if not parts:
            return b""
        place, end = self._place(parts[0])
        return self._data[place : min(place + min(parts[0].length, _BEGINNING), end)]

    def _place(self, part: Extent) -> tuple[int, int]:
        """Where a part begins, and where what it lies in ends."""
        start, end = {_IN_FILE: (0, len(self._data)), _IN_META: self._inside}.get(part.construction, (0, 0))
        return start + part.place, end

    def _read(self, start: int, end: int) -> None:
        for kind, place, stop in boxes(self._data, start, end):
            if stop > end:
                raise UnknownKindError("a box that breaks off")
            numbers = Numbers(self._data, place, stop)
            if kind == b"pitm":
                numbers.next(4)  # version and flags
                self._primary = numbers.next(4 if self._data[place] else 2)
            elif kind == b"iinf":
                self._read_kinds(place, stop)
            elif kind == b"iloc":
                for extent in extents(self._data, place, stop):
                    self._extents.setdefault(extent.item, []).append(extent)
            elif kind == b"idat":
                self._inside = place, stop
            elif kind == b"iref":
                self._read_references(place, stop)
            elif kind == b"iprp":
                self._read_properties(place, stop)

    def _read_kinds(self, start: int, end: int) -> None:
        """Item information (ISO/IEC 14496-12, 8.11.6)."""
        entries = start + (8 if self._data[start] else 6)
        for kind, place, stop in boxes(self._data, entries, end):
            version = self._data[place]
            if kind == b"infe" and version in (2, 3):
                numbers = Numbers(self._data, place + 4, stop)
                item = numbers.next(4 if version == 3 else 2)
                self._kinds[item] = self._data[numbers.place + 2 : numbers.place + 6]

    def _read_references(self, start: int, end: int) -> None:
        """Item references (ISO/IEC 14496-12, 8.11.12)."""
        wide = 4 if self._data[start] else 2
        for kind, place, stop in boxes(self._data, start + 4, end):
            numbers = Numbers(self._data, place, stop)
            item, count = numbers.next(wide), numbers.next(2)
            self._references.append((kind, item, [numbers.next(wide) for _ in range(min(count, _MOST_TILES))]))

    def _read_properties(self, start: int, end: int) -> None:
        """Item properties, and whose they are (ISO/IEC 23008-12, 9.3)."""
        for kind, place, stop in boxes(self._data, start, end):
            if kind == b"ipco":
                self._properties = [
                    (name, self._data[first:last]) for name, first, last in boxes(self._data, place, stop)
                ]
            elif kind == b"ipma":
                version, flags = self._data[place], self._data[place + 3]
                numbers = Numbers(self._data, place + 4, stop)
                for _ in range(numbers.next(4)):
                    item = numbers.next(4 if version else 2)
                    wide = 2 if flags & 1 else 1
                    some = [numbers.next(wide) & (0x7FFF if wide == 2 else 0x7F) for _ in range(numbers.next(1))]
                    self._of_item.setdefault(item, []).extend(some)
                    if numbers.is_at_end:
                        break

    def _properties_of(self, item: int) -> Iterator[tuple[bytes, bytes]]:
        for number in self._of_item.get(item, []):
            if 0 < number <= len(self._properties):
                yield self._properties[number - 1]

    def _property(self, item: int, kind: bytes) -> bytes:
        return next((content for name, content in self._properties_of(item) if name == kind), b"")

    def _size(self, item: int) -> tuple[int, int]:
        content = self._property(item, b"ispe")
        return int.from_bytes(content[4:8], "big"), int.from_bytes(content[8:12], "big")

    def _coded(self, item: int) -> Coded:
        tiles, columns = [item], 1
        width, height = self._size(item)
        if self._kinds.get(item) == b"grid":
            tiles, columns, width, height = self._grid(item)
        first = tiles[0]
        codec = self._kinds.get(first, b"")
        config = self._property(first, _CODECS.get(codec, b""))
        strange = {name for each in {item, *tiles} for name, _ in self._properties_of(each)} - _UNTOUCHED
        if not config or strange or any(self._is_changed(tile) for tile in tiles if tile != item):
            raise UnknownKindError(f"an item of the kind {codec!r} with {sorted(strange)}")
        if any(
            (self._size(tile), self._kinds.get(tile), self._property(tile, _CODECS[codec]))
            != (self._size(first), codec, config)
            for tile in tiles
        ):
            raise UnknownKindError("tiles that differ")
        tile_width, tile_height = self._size(first)
        lines = len(tiles) // columns
        across, down = tile_width * columns, tile_height * lines
        if not (across - tile_width < width <= across and down - tile_height < height <= down):
            raise UnknownKindError("tiles that cover less than the picture, or more")
        matrix, full_range = self._colours(item)
        if matrix == 2 and full_range is None and item != first:
            matrix, full_range = self._colours(first)
        if matrix not in _MATRICES:
            raise UnknownKindError(f"colours of the kind {matrix}")
        parts = [self._extents.get(tile, []) for tile in tiles]
        return Coded(
            width,
            height,
            columns,
            (tile_width, tile_height),
            parts,
            codec,
            config,
            matrix,
            full_range,
            self._orientation(item),
            self._crop(item, width, height),
        )

    def _is_changed(self, item: int) -> bool:
        return any(name in _CHANGES for name, _ in self._properties_of(item))

    def _orientation(self, item: int) -> int:
        """What comes of an item's turns and mirrors, one after the other (ISO/IEC 23008-12, 6.5.10 and 6.5.12)."""
        turns, mirrored = 0, False
        for name, content in self._properties_of(item):
            if name == b"irot":
                turns += (content or b"\0")[0]
            elif name == b"imir":  # 1: left and right change places, 0: top and bottom
                turns, mirrored = (0 if (content or b"\0")[0] & 1 else 2) - turns, not mirrored
            elif name == b"clap" and (turns % 4 or mirrored):
                raise UnknownKindError("a crop of what was turned")
        return (_MIRRORED if mirrored else _TURNED)[turns % 4]

    def _crop(self, item: int, width: int, height: int) -> tuple[int, int, int, int] | None:
        """The part that is shown (clean aperture, ISO/IEC 14496-12, 12.1.4)."""
        content = self._property(item, b"clap")
        if not content:
            return None
        across, down, right, below = (
            Fraction(int.from_bytes(content[at : at + 4], "big", signed=True), denominator)
            if (denominator := int.from_bytes(content[at + 4 : at + 8], "big", signed=True))
            else Fraction(-1)
            for at in range(0, 32, 8)
        )
        left, top = (width - across) / 2 + right, (height - down) / 2 + below
        box = left, top, left + across, top + down
        if any(place.denominator != 1 for place in box) or not (
            0 <= left < left + across <= width and 0 <= top < top + down <= height
        ):
            raise UnknownKindError("a crop between pixels, or outside of the picture")
        return int(left), int(top), int(left + across), int(top + down)

    def _grid(self, item: int) -> tuple[list[int], int, int, int]:
        """The tiles of a grid, its columns, its width and height (ISO/IEC 23008-12, 6.6.2.3)."""
        content = self.content(self._extents.get(item, []))
        if len(content) < 8:
            raise UnknownKindError("a grid that breaks off")
        wide = 4 if content[1] & 1 else 2
        lines, columns = content[2] + 1, content[3] + 1
        width, height = (int.from_bytes(content[at : at + wide], "big") for at in (4, 4 + wide))
        tiles = next((of for kind, whose, of in self._references if kind == b"dimg" and whose == item), [])
        if len(tiles) != lines * columns:
            raise UnknownKindError("a grid with tiles missing")
        return tiles, columns, width, height

    def _colours(self, item: int) -> tuple[int, bool | None]:
        """Matrix, and whether the range is full, where the file says so beside the coded picture."""
        for name, content in self._properties_of(item):
            if name == b"colr" and content[:4] == b"nclx" and len(content) >= 11:
                return int.from_bytes(content[8:10], "big"), bool(content[10] & 0x80)
        return 2, None
