"""Shard keys and file names, both ways."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caption_assets.config import check_name
from caption_assets.lake import layout
from caption_assets.lake.layout import Shard

NAMES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,30}", fullmatch=True).filter(lambda name: ".." not in name)


@given(NAMES, st.integers(0, 10**9))
def test_a_key_parses_to_its_shard(dataset: str, number: int) -> None:
    check_name(dataset)
    assert Shard.parse(Shard(dataset, number).key) == Shard(dataset, number)


@given(NAMES, st.integers(0, 10**7), NAMES, st.integers(0, 10**7))
def test_no_two_shards_share_a_key_or_a_file(a: str, i: int, b: str, j: int) -> None:
    first, second = Shard(a, i), Shard(b, j)
    for name in (lambda shard: shard.key, layout.plan_file, layout.media_index, layout.segment):
        assert (name(first) == name(second)) == (first == second)


@pytest.mark.parametrize(
    "key",
    [
        *[
            "",
            "a",
            "a-",
            "a-1",
            "a-00001",
            "A-000001",
            "a-0000001",
            "a-000001 ",
            "a-000001\n",
            "-000001",
            "../x-000001",
        ],
        *["a/b-000001", "a..b-000001", "a-٠٠٠٠٠١", "_-000001", "a-000001.parquet"],
    ],
)
def test_other_keys_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match="is not a shard: expected"):
        Shard.parse(key)


def test_shards_sort_by_number_beyond_six_digits() -> None:
    assert sorted([Shard("a", 1_000_000), Shard("a", 999_999), Shard("a", 2)])[0] == Shard("a", 2)
    assert Shard.parse("a-1000000") > Shard.parse("a-999999")


@given(NAMES, st.integers(0, 10**7), st.integers(0, 10**4))
def test_a_segment_tells_its_generation(dataset: str, number: int, generation: int) -> None:
    shard = Shard(dataset, number)
    name = layout.segment(shard, generation).rsplit("/", 1)[-1]
    assert layout.segment_generation(shard, name) == generation


@pytest.mark.parametrize(
    "name", ["a-000001.parquet", "a-000001.0.tar", "a-000001.x.tar", "a-000002.tar", "b-000001.tar"]
)
def test_other_files_are_no_segment_of_the_shard(name: str) -> None:
    assert layout.segment_generation(Shard("a", 1), name) is None
