"""Whether an AVIF has film grain is known before it is decoded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caption_assets.media.av1 import may_have_grain
from caption_assets.media.heif_items import Items
from caption_assets_tests.media.pictures import encode, noise

GRAIN = {"advanced": {"film-grain-test": "1"}}


def beginning(**options: object) -> bytes:
    items = Items(encode(noise(70, 50), "AVIF", speed=10, **options))
    return items.beginning(items.picture().tiles[0])


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
@pytest.mark.parametrize(("options", "grain"), [(GRAIN, True), ({}, False)])
def test_the_sequence_header_tells(options: dict[str, object], grain: bool, subsampling: str) -> None:
    assert may_have_grain(beginning(subsampling=subsampling, **options)) is grain


def test_units_before_it_are_passed_over() -> None:
    units = beginning(**GRAIN)
    padding = bytes([15 << 3 | 1 << 2 | 1 << 1, 0, 0x81, 0x00]) + bytes(1)  # extended; its size, one, in two bytes
    assert may_have_grain(padding + units)


def test_a_unit_without_a_size_goes_to_the_end() -> None:
    assert may_have_grain(bytes([1 << 3, 0b1100_0000]))
    assert not may_have_grain(bytes([1 << 3, 0b0100_0000]))


@given(st.binary(max_size=300))
def test_whatever_stands_there_is_no_error(data: bytes) -> None:
    assert may_have_grain(data) in (True, False)
