"""Run requests for shards: what sensors hand to Dagster, in the order in which its queue is to take them."""

from collections.abc import Mapping, Sequence

import dagster as dg
from dagster import DagsterRunStatus, RunsFilter

from caption_assets import run_tags
from caption_assets.lake.layout import Shard
from caption_assets.run_tags import Cause

_SHARDS_PER_RUN = 50
_PRIORITY = "dagster/priority"
_RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
WAITING = [DagsterRunStatus.NOT_STARTED, DagsterRunStatus.QUEUED]
ACTIVE = [*WAITING, DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]


class Turns:
    """Priorities that let datasets take turns within a cause, as in fair queueing.

    A dataset's runs get one less each; its first one starts where the queue's front is. So three runs of one dataset
    overtake all but three of the hundred that another one has waiting, and nobody who waits is overtaken for ever.
    """

    def __init__(self, instance: dg.DagsterInstance, cause: Cause) -> None:
        self._lowest: dict[str, int] = {}
        self._last = cause.value - run_tags.CLASS_WIDTH + 1
        waiting = RunsFilter(statuses=WAITING, tags={run_tags.CAUSE: cause.label})
        queued = [(_dataset(run.tags), _priority(run.tags, cause)) for run in instance.get_runs(waiting)]
        self._front = max((priority for _, priority in queued), default=cause.value)
        for dataset, priority in queued:
            self._lowest[dataset] = min(priority, self._lowest.get(dataset, priority))

    def next(self, dataset: str) -> int:
        """The priority of a dataset's next run."""
        lowest = self._lowest.get(dataset)
        turn = self._front if lowest is None else max(lowest - 1, self._last)
        self._lowest[dataset] = turn
        return turn


def run_requests(
    instance: dg.DagsterInstance,
    cause: Cause,
    shards: Sequence[Shard],
    partitions: Sequence[str],
    tags: Mapping[str, str],
    *,
    run_key: bool = True,
    assets: Sequence[dg.AssetKey] | None = None,
    shards_per_run: int = _SHARDS_PER_RUN,
    turns: Turns | None = None,
) -> list[dg.RunRequest]:
    """One request a range of shards.

    Args:
        instance: where runs wait already.
        cause: how urgent they are.
        shards: what is to be worked on.
        partitions: all keys of shards, in the order in which Dagster knows (or will know) them.
        tags: of each run, besides those of cause, dataset and priority.
        run_key: whether Dagster is to refuse the same shards a second time, by this sensor.
        assets: what of the job is to be made; default: all.
        shards_per_run: the most shards that one run may take.
        turns: where requests of one tick are made in several calls: theirs.
    """
    turns = turns or Turns(instance, cause)
    requests = []
    for chunk in contiguous(shards, partitions, shards_per_run):
        dataset = chunk[0].dataset
        own = {
            run_tags.CAUSE: cause.label,
            run_tags.DATASET: dataset,
            _PRIORITY: str(turns.next(dataset)),
        }
        requests.append(_request(chunk, {**tags, **own}, run_key, assets))
    return requests


def contiguous(shards: Sequence[Shard], partitions: Sequence[str], most: int = _SHARDS_PER_RUN) -> list[list[Shard]]:
    """Cut shards into ranges of partitions of one dataset, and to what one run may take.

    Dagster's ranges follow the order in which partitions were added: where another dataset's shard stands between two
    of these, a range over both would take it along.
    """
    place = {key: number for number, key in enumerate(partitions)}
    chunks: list[list[Shard]] = []
    for shard in sorted(shards, key=lambda each: place[each.key]):
        last = chunks[-1][-1] if chunks else None
        follows = last and last.dataset == shard.dataset and place[shard.key] == place[last.key] + 1
        if follows and len(chunks[-1]) < most:
            chunks[-1].append(shard)
        else:
            chunks.append([shard])
    return chunks


def _request(
    shards: Sequence[Shard], tags: Mapping[str, str], run_key: bool, assets: Sequence[dg.AssetKey] | None
) -> dg.RunRequest:
    first, last = shards[0].key, shards[-1].key
    key = (first if first == last else f"{first}..{last}") if run_key else None
    if first == last:
        return dg.RunRequest(run_key=key, partition_key=first, tags=dict(tags), asset_selection=assets)
    ranged = dict(zip(_RANGE, (first, last), strict=True))
    return dg.RunRequest(run_key=key, tags={**tags, **ranged}, asset_selection=assets)


def _dataset(tags: Mapping[str, str]) -> str:
    return tags.get(run_tags.DATASET, "")


def _priority(tags: Mapping[str, str], cause: Cause) -> int:
    try:
        return int(tags.get(_PRIORITY, ""))
    except ValueError:  # somebody changed it by hand
        return cause.value
