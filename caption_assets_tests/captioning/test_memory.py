"""The memory of a captioning run does not grow with the shard: read-ahead is bounded in bytes."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from caption_assets.captioning import rows
from caption_assets.config import PipelineConfig
from caption_assets.lake import layout, tables
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake, table_bytes
from caption_assets.media.segment import SegmentWriter
from caption_assets_tests.captioning.processes import engines
from caption_assets_tests.engine.stub_server import Call, StubServer
from caption_assets_tests.support import bound_of

MakeConfig = Callable[..., PipelineConfig]
SIDE = 1024
ALLOWED_MB = 1500
SHARD = Shard("demo", 0)


def jpegs(count: int) -> list[bytes]:
    """Pictures of 1024² with different pixels, cheap to decode."""
    ramp = np.linspace(0, 255, SIDE, dtype=np.uint8)
    made = []
    for number in range(count):
        pixels = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, :], np.uint8(number)), axis=-1)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "jpeg", quality=80)
        made.append(buffer.getvalue())
    return made


def stock(lake: Lake, count: int) -> None:
    """Put the media of a shard in place: so many pictures, all different, if only by a comment."""
    different = jpegs(200)
    index = []
    with lake.scratch() as file:
        with SegmentWriter(file) as segment:
            for number in range(count):
                comment = f"{number:08d}".encode()
                data = different[number % len(different)]
                data = data[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + data[2:]
                media_id = hashlib.sha256(data).hexdigest()
                index.append(
                    {
                        "media_id": media_id,
                        "dataset": SHARD.dataset,
                        "shard": SHARD.key,
                        "uri": f"/pictures/{number}.jpg",
                        "etag": "1",
                        "segment": layout.segment(SHARD).rsplit("/", 1)[-1],
                        "member": f"{media_id}.jpg",
                        "offset": segment.add(f"{media_id}.jpg", data),
                        "length": len(data),
                        "bytes_sha256": media_id,
                        "width": SIDE,
                        "height": SIDE,
                        "source": "{}",
                    }
                )
        lake.put(file, layout.segment(SHARD))
    lake.write(layout.media_index(SHARD), table_bytes(tables.table(index, tables.MEDIA)))


async def forget(call: Call) -> None:
    """The usual answer; the server keeps none of ten thousand pictures."""
    del call
    forget.server.calls.clear()  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pixels", "files"])
def test_memory_is_bounded_and_flat(make_config: MakeConfig, kind: str) -> None:
    growth: dict[int, float] = {}
    with StubServer(forget) as server:
        forget.server = server  # type: ignore[attr-defined]
        sections = {"engines": engines(server)} if kind == "files" else {}
        for count in (1_000, 10_000):
            perspectives = {"library": ["demo"], "enabled": ["scene_count"]}
            config = make_config(lake=f"./lake{count}", perspectives=perspectives, **sections)
            lake = Lake(config.lake)
            stock(lake, count)
            command = [sys.executable, "-m", "caption_assets_tests.captioning.memory", str(config.file)]
            printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            before, most, waiting = map(int, printed.split())
            growth[count] = most - before
            print(f"{kind}, {count} pictures: {before} MB at the start, {most} MB at most, {waiting} waiting at most")
            assert len(rows.read_rows(lake, bound_of(config)["scene_count"], SHARD, [])) == count
            lake.remove_folder("")
    assert growth[10_000] < ALLOWED_MB
    assert growth[10_000] < growth[1_000] + 250, "it does not grow with the shard, but for its rows"
