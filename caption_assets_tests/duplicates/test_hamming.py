"""The search for close hashes against brute force: exact at every distance, and bounded where all are alike."""

from __future__ import annotations

import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caption_assets.duplicates.hamming import BITS, MAX_DISTANCE, Hashes, Pairs, divide, near_pairs

RANDOM = np.random.default_rng(20_000)
COUNTS = (0, 1, 2, 100, 5_000, 20_000, 300_000, 1_000_000, 50_000_000)


def randoms(count: int) -> Hashes:
    """Hashes all of whose bits are random."""
    return RANDOM.integers(0, 2**BITS, count, dtype=np.uint64)


def moved(hashes: Hashes, bits: int) -> Hashes:
    """The hashes, each with so many random bits flipped."""
    flipped = np.argsort(RANDOM.random((len(hashes), BITS)), axis=1)[:, :bits].astype(np.uint64)
    return hashes ^ np.bitwise_or.reduce(np.uint64(1) << flipped, axis=1, initial=np.uint64(0))


def found(blocks: list[Pairs]) -> set[tuple[int, int, int]]:
    """(a, b, distance) of all blocks; a pair that comes twice is an error."""
    pairs = [pair for each in blocks for pair in zip(each.a.tolist(), each.b.tolist(), each.distance.tolist())]
    assert len(set(pairs)) == len(pairs)
    return set(pairs)


def brute_force(hashes: Hashes, distance: int) -> set[tuple[int, int, int]]:
    """Every hash compared with every later one."""
    pairs: set[tuple[int, int, int]] = set()
    for a in range(len(hashes)):
        apart = np.bitwise_count(hashes[a] ^ hashes[a + 1 :])
        close = np.flatnonzero(apart <= distance)
        pairs.update(zip([a] * len(close), (close + a + 1).tolist(), apart[close].tolist()))
    return pairs


def test_all_pairs_of_20000_hashes() -> None:
    base = randoms(18_200)
    planted = [moved(base[200 * bits : 200 * (bits + 1)], bits) for bits in range(9)]
    hashes = RANDOM.permutation(np.concatenate([base, *planted]))
    assert len(hashes) == 20_000
    pairs = found(list(near_pairs(hashes, 6)))
    assert pairs == brute_force(hashes, 6)
    counts = Counter(distance for _, _, distance in pairs)
    assert sorted(counts) == [*range(7)]
    assert min(counts.values()) >= 200


@st.composite
def crowds(draw: st.DrawFn) -> Hashes:
    """Hashes near a few others, so that every small distance occurs, and equal ones."""
    bit = st.integers(0, BITS - 1)
    centres = draw(st.lists(st.integers(0, 2**BITS - 1), min_size=1, max_size=4))
    flips = draw(st.lists(st.tuples(st.sampled_from(centres), st.sets(bit, max_size=10)), max_size=40))
    return np.array([centre ^ sum(1 << bit for bit in bits) for centre, bits in flips], dtype=np.uint64)


@given(crowds(), st.integers(0, MAX_DISTANCE))
@settings(deadline=None)  # a busy machine is not an error
def test_few_hashes(hashes: Hashes, distance: int) -> None:
    assert found(list(near_pairs(hashes, distance))) == brute_force(hashes, distance)


@given(crowds(), st.integers(0, 8), st.sampled_from([5_000, 20_000, 200_000]))
@settings(max_examples=50, deadline=None)
def test_few_hashes_searched_as_many_are(hashes: Hashes, distance: int, count: int) -> None:
    assert found(list(near_pairs(hashes, distance, chunks=divide(count, distance)))) == brute_force(hashes, distance)


@pytest.mark.parametrize("distance", range(MAX_DISTANCE + 1))
def test_every_division_finds_all(distance: int) -> None:
    """The chunks hold each bit once, and a pair that no chunk would find is further apart than asked."""
    for count in COUNTS:
        chunks = divide(count, distance)
        assert sum(chunk.flips + 1 for chunk in chunks) == distance + 1
        assert [bit for chunk in chunks for bit in range(chunk.shift, chunk.shift + chunk.width)] == [*range(BITS)]


def test_a_crowd_takes_no_more_memory_than_its_blocks() -> None:
    centre = randoms(1)
    crowd = np.unique(moved(np.repeat(centre, 5_000), 3))
    within = 0
    tracemalloc.start()
    try:
        for block in near_pairs(crowd, 6):
            within += len(block.a)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert within == len(crowd) * (len(crowd) - 1) // 2 > 10_000_000
    assert peak < 40e6


def test_progress_ends_with_the_last_probe() -> None:
    told: list[tuple[int, int]] = []
    assert list(near_pairs(randoms(50), 6, progress=lambda done, total: told.append((done, total)))) == []
    total = told[-1][1]
    assert told == [(done, total) for done in range(1, total + 1)]


@pytest.mark.parametrize("distance", [-1, 17])
def test_other_distances_are_refused(distance: int) -> None:
    with pytest.raises(ValueError, match="use 0 to 16"):
        list(near_pairs(randoms(2), distance))
