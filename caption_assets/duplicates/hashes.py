"""The perceptual hashes of a lake: read from its media, and written as the tables hold them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import duckdb
import numpy as np
import pyarrow as pa

from caption_assets.duplicates.hamming import Hashes
from caption_assets.lake import layout
from caption_assets.lake.layout import Shard

_DIGITS = "[0-9a-f]{16}"
# No column but numbers: what is held is a few bytes for each distinct hash, whatever else the media have.
_HASHES = f"""
SELECT CASE WHEN regexp_full_match(phash, '{_DIGITS}') THEN CAST('0x' || phash AS UBIGINT) END AS hash,
       count(*) AS rows, count(phash) AS told, min(hash(media_id)) <> max(hash(media_id)) AS shared
FROM media GROUP BY ALL ORDER BY hash
"""
_UNUSABLE = f"SELECT shard, phash FROM media WHERE NOT regexp_full_match(phash, '{_DIGITS}') LIMIT 1"


@dataclass(frozen=True)
class LakeHashes:
    """The hashes of all media rows of a lake.

    Attributes:
        distinct: each hash once, ascending.
        shared: those that several pictures have, ascending.
        rows: media rows with a hash.
        without: media rows that have none.
    """

    distinct: Hashes
    shared: Hashes
    rows: int
    without: int


def read_hashes(views: duckdb.DuckDBPyConnection) -> LakeHashes:
    """Read the hashes through the `media` view.

    Raises:
        ValueError: what stands for a hash in an index is none.
    """
    table = views.sql(_HASHES).to_arrow_table()
    hashes, rows = table["hash"], table["rows"].to_numpy()
    absent = hashes.is_null().to_numpy()
    if table["told"].to_numpy()[absent].any():
        shard, phash = cast(tuple[str, str], views.execute(_UNUSABLE).fetchone())
        raise ValueError(
            f"{layout.media_index(Shard.parse(shard))}: phash: {phash!r} is not 16 hex digits; "
            "materialize `media` of this shard with force: true"
        )
    distinct = hashes.drop_null().to_numpy()
    shared = table["shared"].to_numpy().astype(bool)[~absent]
    return LakeHashes(distinct, distinct[shared], int(rows[~absent].sum()), int(rows[absent].sum()))


def hex_digits(hashes: Hashes) -> pa.Array:
    """Hashes as strings of 16 hex digits: an Arrow array of that length, to a hundred million."""
    digits = hashes.astype(">u8").tobytes().hex().encode()
    offsets = np.arange(0, len(digits) + 1, 16, dtype=np.int32)
    return pa.StringArray.from_buffers(len(hashes), pa.py_buffer(offsets), pa.py_buffer(digits))
