"""A million pictures, from their indexes to the file, in a process of their own, for memory is a process's."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, sys, time
import numpy as np
import pyarrow as pa
from caption_assets.config import NearDuplicates
from caption_assets.duplicates.hashes import hex_digits
from caption_assets.duplicates.pairs import find_near_duplicates
from caption_assets.lake import layout, tables
from caption_assets.lake.catalog import connect
from caption_assets.lake.definition import Wanted, Wants
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake, table_bytes
from caption_assets_tests import resident

random = np.random.default_rng(1_000_000)

def noisy(hashes, share):
    for bit in range(64):
        hashes = hashes ^ ((random.random(len(hashes)) < share).astype(np.uint64) << np.uint64(bit))
    return hashes

def moved(hashes, bits):
    places = np.argsort(random.random((len(hashes), 64)), axis=1)[:, :bits].astype(np.uint64)
    return hashes ^ np.bitwise_or.reduce(np.uint64(1) << places, axis=1, initial=np.uint64(0))

lone = random.integers(0, 2**64, 500_000, dtype=np.uint64)
planted = [moved(lone[20_000 * bits : 20_000 * (bits + 1)], bits) for bits in range(9)]
centres = random.integers(0, 2**64, 300, dtype=np.uint64)
crowds = noisy(np.repeat(centres, 1_000), 0.1)
hashes = np.concatenate([lone, *planted, crowds, np.zeros(20_000, np.uint64)])
lake = Lake(sys.argv[1])
for number, part in enumerate(np.split(random.permutation(hashes), 1_000)):
    shard = Shard("d", number)
    ids = pa.array([f"{number:032x}{each:032x}" for each in range(len(part))])
    columns = {"media_id": ids, "uri": ids, "phash": hex_digits(part)}
    rows = [columns.get(each.name, pa.nulls(len(part), each.type)) for each in tables.MEDIA]
    lake.write(layout.media_index(shard), table_bytes(pa.Table.from_arrays(rows, schema=tables.MEDIA)))

with connect(lake, Wants({"look": Wanted("f", (), pa.struct([("caption", pa.string())]))})) as views:
    wall, cpu = time.monotonic(), time.process_time()
    report = find_near_duplicates(lake, views, NearDuplicates())
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
megabytes = round(resident.most())

stored = lake.read_table(layout.NEAR_DUPLICATES)
ends = [np.array([int(each, 16) for each in stored[name].to_pylist()], np.uint64) for name in ("phash_a", "phash_b")]
exact = bool((np.bitwise_count(ends[0] ^ ends[1]) == stored["distance"].to_numpy()).all())
known = set(zip(ends[0].tolist(), ends[1].tolist()))
lost = {}
for bits in range(1, 9):
    pairs = zip(lone[20_000 * bits : 20_000 * (bits + 1)].tolist(), planted[bits].tolist())
    lost[bits] = sum((min(pair), max(pair)) not in known for pair in pairs)
told = dict(hashes=report.hashes.rows, distinct=len(report.hashes.distinct), found=report.found)
told |= dict(left_out=report.left_out, wall=wall, cpu=cpu, megabytes=megabytes, exact=exact, lost=lost)
print(json.dumps(told))
"""


@pytest.mark.slow
def test_a_million_hashes_in_a_minute_and_one_and_a_half_gigabytes(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    print(told)
    assert told["hashes"] == 1_000_000
    assert told["distinct"] > 900_000
    assert told["exact"]
    assert told["lost"] == {**{str(bits): 0 for bits in range(1, 7)}, "7": 20_000, "8": 20_000}
    assert told["left_out"] == 0
    assert told["cpu"] <= 60
    assert told["wall"] <= 60
    assert told["megabytes"] <= 1500
