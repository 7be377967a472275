"""A picture's file on disk, or in memory: the same picture; and who waits for memory holds none meanwhile."""

import threading
import time

import numpy as np
import pytest
from PIL import Image

from caption_assets.media import bands
from caption_assets.media.decode import DecodeError, Picture, decode
from caption_assets.media.memory import Held, MemoryGate
from caption_assets.media.original import Original
from caption_assets.sources.spool import Spool
from caption_assets_tests.media.pictures import encode, noise, valid_files

FILES = valid_files()


def on_disk(data: bytes) -> Original:
    spool = Spool(on_disk=True)
    spool.write(data)
    return Original(spool)


def decoded(data: bytes | Original, memory: Held | None = None, most: int = 10**8) -> Picture:
    return decode(data, max_megapixels=10, target_pixels=2000, memory=memory, max_bytes=most)


@pytest.mark.parametrize("name", FILES)
def test_a_file_on_disk_gives_the_same_picture(name: str) -> None:
    expected, original = decoded(FILES[name]), on_disk(FILES[name])
    found = decoded(original)
    assert np.array_equal(found.pixels, expected.pixels)
    assert (found.metadata, found.frames, found.format) == (expected.metadata, expected.frames, expected.format)
    assert original.view()[:] == FILES[name]


@pytest.mark.parametrize("name", ["PNG", "TIFF", "BMP"])
def test_what_is_decoded_in_bands_is_never_loaded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bands, "WHOLE_PIXELS", 1000)
    options = {"compression": "tiff_lzw", "strip_size": 1 << 14} if name == "TIFF" else {}
    data = encode(noise(500, 400), name, **options)
    original = on_disk(data)
    with MemoryGate(10**8).enter() as held:
        found = decoded(original, held)
        assert not original.in_memory
        assert held.size < len(data), "the file does not count"
    assert np.array_equal(found.pixels, decoded(data).pixels)


@pytest.mark.parametrize("name", ["TIFF", "PNG"])
def test_what_has_no_bands_is_loaded_if_it_may(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bands, "bands_of", lambda *_: None)
    monkeypatch.setattr("caption_assets.media.decode.bands_of", lambda *_: None)
    data = encode(noise(500, 400), name)
    original = on_disk(data)
    assert np.array_equal(decoded(original).pixels, decoded(data).pixels)
    assert original.in_memory
    with pytest.raises(DecodeError) as caught:
        decoded(on_disk(data), most=len(data) + 1000)
    assert caught.value.kind == "too_large"


def test_a_big_file_that_must_be_loaded_is_refused_unread() -> None:
    data = encode(noise(500, 400), "JPEG", quality=100)
    original = on_disk(data)
    with pytest.raises(DecodeError) as caught:
        decoded(original, most=len(data) - 1)
    assert caught.value.kind == "too_large"
    assert "media.max_decode_mb" in str(caught.value)
    assert not original.in_memory


@pytest.mark.parametrize("name", FILES)
def test_who_waits_for_memory_has_his_file_on_disk(name: str) -> None:
    data = FILES[name]
    gate, original, found = MemoryGate(10**8), Original(data), []

    def work() -> None:
        with gate.enter() as held:
            assert held.grows_to(len(data))
            found.append(decoded(original, held))
            assert 0 < held.size < 10**8

    with gate.enter() as other:
        assert other.grows_to(10**8 - len(data))
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        deadline = time.monotonic() + 10
        while original.in_memory and time.monotonic() < deadline:
            time.sleep(0.005)
        assert not original.in_memory
        assert found == []
    thread.join(10)
    assert np.array_equal(found[0].pixels, decoded(data).pixels)
    assert gate.takes(10**8), "all was given back"


def test_a_damaged_file_on_disk_is_told_like_any_other() -> None:
    data = encode(Image.new("RGB", (300, 200)), "PNG")
    for part in (data[:40], data[: len(data) // 2], b"", b"<html>"):
        kinds = []
        for each in (part, on_disk(part)):
            with pytest.raises(DecodeError) as caught:
                decoded(each)
            kinds.append((caught.value.kind, str(caught.value)))
        assert kinds[0] == kinds[1]
