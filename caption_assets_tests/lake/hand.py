"""A lake made by hand: what its catalog is looked at through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from caption_assets.lake import layout, tables
from caption_assets.lake.catalog import connect
from caption_assets.lake.definition import Wanted, Wants
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake, table_bytes

TEXT = pa.struct([("caption", pa.string())])
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ONE = Shard("demo", 0)
TWO = Shard("demo", 1)


@dataclass
class Hand:
    """Writes a lake by hand, file by file."""

    lake: Lake

    def media(self, shard: Shard, *media_ids: str, normalisation: str = "n") -> None:
        """A shard's plan and index."""
        head = {"dataset": shard.dataset, "shard": shard.key}
        plan = [{**head, "uri": each, "etag": "1", "planned_at": NOON} for each in media_ids]
        stored = {"etag": "1", "normalisation": normalisation}
        index = [{**head, **stored, "uri": each, "media_id": each} for each in media_ids]
        self.lake.write(layout.plan_file(shard), table_bytes(tables.table(plan, tables.PLAN)))
        self.lake.write(layout.media_index(shard), table_bytes(tables.table(index, tables.MEDIA)))

    def captions(
        self,
        name: str,
        fingerprint: str,
        type_: pa.DataType,
        outputs: dict[str, Any],
        shard: Shard = ONE,
        minute: int = 0,
        **columns: Any,
    ) -> None:
        """Rows of a perspective: outputs by media_id."""
        rows = [
            {
                "media_id": media_id,
                "dataset": shard.dataset,
                "shard": shard.key,
                "perspective": name,
                "fingerprint": fingerprint,
                "output_digest": f"digest of {output}",
                "output": output,
                "created_at": NOON + timedelta(minutes=minute),
                "contributor": "local",
                **columns,
            }
            for media_id, output in outputs.items()
        ]
        folder = layout.captions_folder(name, fingerprint, shard)
        table = tables.table(rows, tables.captions_schema(type_))
        self.lake.write(f"{folder}/part-{minute}-{len(self.lake.list(folder))}.parquet", table_bytes(table))

    def failures(
        self, stage: str, fingerprint: str, media_ids: Sequence[str], shard: Shard = ONE, **columns: Any
    ) -> None:
        """Failure rows of a perspective."""
        rows = [
            {
                "stage": stage,
                "dataset": shard.dataset,
                "shard": shard.key,
                "media_id": media_id,
                "fingerprint": fingerprint,
                "kind": "empty",
                "created_at": NOON,
                **columns,
            }
            for media_id in media_ids
        ]
        self.lake.write(layout.failures_file(stage, shard), table_bytes(tables.table(rows, tables.FAILURES)))


def look(fingerprint: str = "f2", inputs: tuple[str, ...] = (), type_: pa.DataType = TEXT) -> Wanted:
    """What the pipeline file asks of a perspective."""
    return Wanted(fingerprint, inputs, type_)


def rows(lake: Lake, wanted: dict[str, Wanted], sql: str) -> list[tuple[Any, ...]]:
    """Rows of a query over the views as they are now."""
    with connect(lake, Wants(wanted)) as views:
        return views.execute(sql).fetchall()
