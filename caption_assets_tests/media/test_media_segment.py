"""Segments: any TAR reader reads them, offsets are exact, the same pictures give the same bytes."""

import hashlib
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
import webdataset
from hypothesis import example, given, settings
from hypothesis import strategies as st

from caption_assets.media.segment import SegmentWriter, _any_header, _header


def write(path: Path, members: list[tuple[str, bytes]]) -> list[int]:
    with SegmentWriter(path) as segment:
        return [segment.add(name, data) for name, data in members]


def sample(number: int) -> tuple[str, bytes, dict[str, Any]]:
    data = hashlib.sha512(str(number).encode()).digest() * (number * 7 + 1)
    return hashlib.sha256(data).hexdigest(), data, {"number": number, "uri": "“ü”\n"}


@pytest.fixture
def segment(tmp_path: Path) -> Path:
    path = tmp_path / "s.tar"
    with SegmentWriter(path) as writer:
        for number in range(12):
            key, data, record = sample(number)
            writer.add(f"{key}.jpg", data)
            writer.add_json(f"{key}.json", record)
    return path


def test_tarfile_reads_it(segment: Path) -> None:
    with tarfile.open(segment) as tar:
        members = tar.getmembers()
        assert len(members) == 24
        for member in members:
            assert (member.mtime, member.uid, member.gid, member.uname, member.mode) == (0, 0, 0, "", 0o644)
        for number in range(12):
            key, data, _ = sample(number)
            file = tar.extractfile(f"{key}.jpg")
            assert file is not None
            assert file.read() == data


def test_the_tar_program_reads_it(segment: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    done = subprocess.run(["tar", "-xvf", segment, "-C", out], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 24
    for number in range(12):
        key, data, _ = sample(number)
        assert (out / f"{key}.jpg").read_bytes() == data


def test_webdataset_reads_it(segment: Path) -> None:
    samples = list(webdataset.WebDataset(str(segment), shardshuffle=False))
    assert len(samples) == 12
    for number, each in enumerate(samples):
        key, data, record = sample(number)
        assert each["__key__"] == key
        assert each["jpg"] == data
        assert json.loads(each["json"]) == record


@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(max_size=3000), max_size=8))
def test_offsets_are_exact(tmp_path_factory: pytest.TempPathFactory, contents: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("s") / "s.tar"
    offsets = write(path, [(f"{number}.jpg", data) for number, data in enumerate(contents)])
    whole = path.read_bytes()
    assert [whole[offset : offset + len(data)] for offset, data in zip(offsets, contents)] == contents
    with tarfile.open(path) as tar:
        assert [member.offset_data for member in tar.getmembers()] == offsets


@given(st.text(st.characters(codec="ascii", exclude_characters="\0/"), max_size=100), st.integers(0, 2**33))
@example("x" * 100, 0)
@example("x" * 101 + "/é", 1)
@example("x", 2**33 - 1)
@example("x", 2**33)
def test_headers_are_those_of_tarfile(name: str, size: int) -> None:
    try:
        wanted = _any_header(name, size)
    except ValueError:
        with pytest.raises(ValueError, match=r"too long|overflow"):
            _header(name, size)
    else:
        assert _header(name, size) == wanted


def test_the_same_members_give_the_same_bytes(tmp_path: Path) -> None:
    members = [(f"{number}.jpg", bytes([number]) * number) for number in range(20)]
    for name in ("a.tar", "b.tar"):
        write(tmp_path / name, members)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_an_empty_segment_is_a_tar(tmp_path: Path) -> None:
    write(tmp_path / "s.tar", [])
    with tarfile.open(tmp_path / "s.tar") as tar:
        assert tar.getmembers() == []


@pytest.mark.parametrize("name", ["Größe.jpg", "x" * 100, "d/" + "x" * 90 + ".jpg", "x" * 60 + "/" + "y" * 60])
def test_long_and_foreign_names_keep_their_offsets(tmp_path: Path, name: str) -> None:
    offsets = write(tmp_path / "s.tar", [(name, b"one"), ("after", b"two")])
    whole = (tmp_path / "s.tar").read_bytes()
    assert [whole[offset : offset + 3] for offset in offsets] == [b"one", b"two"]
    with tarfile.open(tmp_path / "s.tar") as tar:
        assert tar.getnames() == [name, "after"]


def test_a_name_that_ustar_cannot_hold_is_an_error(tmp_path: Path) -> None:
    with SegmentWriter(tmp_path / "s.tar") as segment:
        with pytest.raises(ValueError, match="too long"):
            segment.add("x" * 300, b"")
        assert segment.add("a", b"1") == 512
