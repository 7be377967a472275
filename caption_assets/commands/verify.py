"""`caption-assets verify`: reads every stored picture again, and names what is damaged."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from caption_assets.commands.output import table_console
from caption_assets.config import ConfigError, PipelineConfig, load_config
from caption_assets.lake import layout
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.media.verify import Verified, verify_shard
from caption_assets.sources.planner import planned_datasets, planned_shards


def verify(names: Sequence[str]) -> int:
    """Verify datasets and shards, or all there are; returns the exit code: 0, or 1 where a picture is damaged."""
    config = load_config(check_paths=False)  # what is stored can be read without its source
    lake = Lake(config.lake)
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("shard", "pictures", "megabytes", "damaged", "state"):
        table.add_column(column, no_wrap=True)
    damaged = 0
    for shard in _shards(config, lake, names):
        found = verify_shard(lake, shard)
        damaged += len(found.damaged)
        table.add_row(
            shard.key,
            str(found.pictures),
            f"{found.stored_bytes / 1e6:.1f}",
            str(len(found.damaged)),
            _state(lake, found),
        )
        for row in found.rows:
            print(f"{shard.key}: {row['media_id']} {row['uri']}: {found.damaged[row['media_id']]}")
    table_console().print(table)
    if damaged:
        print(
            f"{damaged} pictures are damaged: materialize `media` of their shards with verify: true to make them again"
        )
    return 1 if damaged else 0


def _shards(config: PipelineConfig, lake: Lake, names: Sequence[str]) -> list[Shard]:
    """The shards that these names stand for, each once."""
    datasets = planned_datasets(lake)
    found: dict[Shard, None] = {}
    for name in names or datasets:
        if name in datasets:
            found.update(dict.fromkeys(planned_shards(lake, name)))
        elif shard := _planned(lake, name):
            found[shard] = None
        else:
            known = ", ".join(datasets) or "none"
            raise ConfigError(
                f"{name!r} is neither a dataset nor a shard of {config.lake}; "
                f"give one of its datasets ({known}), or a shard as `caption-assets status` lists them"
            )
    return list(found)


def _planned(lake: Lake, key: str) -> Shard | None:
    try:
        shard = Shard.parse(key)
    except ValueError:
        return None
    return shard if lake.exists(layout.plan_file(shard)) else None


def _state(lake: Lake, found: Verified) -> str:
    if found.damaged:
        return "damaged"
    if found.pictures:
        return "sound"
    return "no pictures" if lake.exists(layout.media_index(found.shard)) else "no media yet"
