"""Perceptual hashes: those of imagehash, which others compare with."""

from __future__ import annotations

import imagehash
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from caption_assets.media.phash import perceptual_hash

Luma = NDArray[np.uint8]


def smooth(seed: int, width: int, height: int) -> Luma:
    """A picture with as many low frequencies as a photograph."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 11), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def theirs(luma: Luma) -> str:
    """imagehash's, of a square that it does not have to shrink, so that no kernel makes a difference."""
    return str(imagehash.phash(Image.fromarray(luma)))


@pytest.mark.parametrize("seed", range(50))
def test_it_is_the_hash_of_imagehash(seed: int) -> None:
    luma = smooth(seed, 32, 32)
    assert perceptual_hash(luma) == theirs(luma)


@pytest.mark.parametrize("level", [0, 1, 127, 255])
def test_one_colour_has_a_hash_of_its_own(level: int) -> None:
    luma = np.full((32, 32), level, np.uint8)
    assert perceptual_hash(luma) == theirs(luma) == ("8000000000000000" if level else "0000000000000000")


def test_equal_frequencies_are_equal_whatever_is_rounded() -> None:
    """Of stripes only the frequencies of one direction are there: the others are 0, none of them above another."""
    luma = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (32, 1))
    assert int(perceptual_hash(luma), 16) & 0x00FFFFFFFFFFFFFF == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 256), (256, 1), (7, 3), (256, 171)])
def test_any_size_has_one(size: tuple[int, int]) -> None:
    digits = perceptual_hash(smooth(1, *size))
    assert len(digits) == 16
    assert int(digits, 16) >= 0


def test_a_smaller_copy_is_near_and_another_picture_is_not() -> None:
    def bits(one: Luma, other: Luma) -> int:
        return (int(perceptual_hash(one), 16) ^ int(perceptual_hash(other), 16)).bit_count()

    assert bits(smooth(1, 256, 171), smooth(1, 128, 85)) <= 2
    assert bits(smooth(1, 256, 171), smooth(2, 256, 171)) >= 16
