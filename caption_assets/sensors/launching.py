"""Run requests for shards: what sensors hand to Dagster."""

from collections.abc import Mapping, Sequence

import dagster as dg

from caption_assets.lake.layout import Shard

_SHARDS_PER_RUN = 50


def run_requests(
    shards: Sequence[Shard], partitions: Sequence[str], tags: Mapping[str, str], *, run_key: bool = True
) -> list[dg.RunRequest]:
    """One request a range of shards.

    Args:
        shards: what is to be worked on.
        partitions: all keys of shards, in the order in which Dagster knows (or will know) them.
        tags: of each run.
        run_key: whether Dagster is to refuse the same shards a second time, by this sensor.
    """
    return [_request(chunk, tags, run_key) for chunk in contiguous(shards, partitions)]


def contiguous(shards: Sequence[Shard], partitions: Sequence[str]) -> list[list[Shard]]:
    """Cut shards into ranges of partitions, and to what one run may take.

    Dagster's ranges follow the order in which partitions were added: where another dataset's shard stands between two
    of these, a range over both would take it along.
    """
    place = {key: number for number, key in enumerate(partitions)}
    chunks: list[list[Shard]] = []
    for shard in sorted(shards, key=lambda each: place[each.key]):
        follows = bool(chunks) and place[shard.key] == place[chunks[-1][-1].key] + 1
        if follows and len(chunks[-1]) < _SHARDS_PER_RUN:
            chunks[-1].append(shard)
        else:
            chunks.append([shard])
    return chunks


def _request(shards: Sequence[Shard], tags: Mapping[str, str], run_key: bool) -> dg.RunRequest:
    first, last = shards[0].key, shards[-1].key
    key = (first if first == last else f"{first}..{last}") if run_key else None
    if first == last:
        return dg.RunRequest(run_key=key, partition_key=first, tags=dict(tags))
    ranged = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
    return dg.RunRequest(run_key=key, tags={**tags, **ranged})
