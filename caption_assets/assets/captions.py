"""`captions/<perspective>`: one op for all perspectives that one engine answers.

Materializations and checks are logged per shard as each is sealed, so that a range run shows the truth of every shard
at once, and a killed run has told what it finished.
"""

from collections.abc import Iterator, Mapping, Sequence

import dagster as dg

from caption_assets import run_tags
from caption_assets.assets.common import BACKFILL, Events, events_at_end, failure, merged_away, plain_failure, shards_of
from caption_assets.assets.media import COMPLETE, MEDIA
from caption_assets.assets.preview import caption_preview
from caption_assets.captioning import rows
from caption_assets.captioning.binding import BoundPerspective, engine_groups
from caption_assets.captioning.catalog import refresh
from caption_assets.captioning.forms import FormsChanged, forms_of_run
from caption_assets.captioning.loaded import Loaded
from caption_assets.captioning.report import LookReport, ShardReport
from caption_assets.captioning.run import CaptionRun
from caption_assets.captioning.scheduler import BreakerTripped
from caption_assets.captioning.work import MediaMissing
from caption_assets.config import ConfigError, PipelineConfig, prices_of
from caption_assets.engine.protocol import EngineFailure
from caption_assets.k8s_tags import gpu_op_tags
from caption_assets.lake import layout, tables
from caption_assets.lake.current import promote
from caption_assets.lake.store import Lake, LakeFull, table_bytes
from caption_assets.partitions import shards_partitions, within_shard
from caption_assets.resources import VllmResource

GPU_POOL = "gpu"
_NO_MEDIA = "it has no media yet; materialize `media` of this shard first"


class CaptionConfig(dg.Config):
    """Launchpad options."""

    force: bool = False
    """Caption again what has a caption, and try again what failed for good."""


def caption_key(perspective: str) -> dg.AssetKey:
    """The asset of a perspective."""
    return dg.AssetKey(["captions", perspective])


def build_caption_assets(loaded: Loaded) -> list[dg.AssetsDefinition]:
    """One multi-asset for each load of an engine that the enabled perspectives need."""
    groups = engine_groups(loaded.bound)
    names = ["captions"] if len(groups) == 1 else [f"captions_{each[0].engine}_{each[0].stage}" for each in groups]
    return [
        _build_group(name, group, loaded, awaited=_is_awaited(group, loaded.bound))
        for name, group in zip(names, groups, strict=True)
    ]


def _is_awaited(group: Sequence[BoundPerspective], bound: Mapping[str, BoundPerspective]) -> bool:
    """Whether another group's op reads what this one makes."""
    mine = {each.name for each in group}
    return any(mine.intersection(each.inputs) for name, each in bound.items() if name not in mine)


def _spec(bound: BoundPerspective, kind: str) -> dg.AssetSpec:
    upstream = [dg.AssetDep(caption_key(name), partition_mapping=within_shard) for name in bound.inputs]
    perspective = bound.perspective
    return dg.AssetSpec(
        caption_key(bound.name),
        deps=[dg.AssetDep(MEDIA, partition_mapping=within_shard), *upstream],
        code_version=bound.fingerprint,
        skippable=True,
        group_name="captions",
        kinds={kind, "parquet"},
        description=perspective.description or perspective.display_name,
        metadata={
            "prompt": dg.MetadataValue.md(f"```\n{perspective.prompt}\n```"),
            "engine": bound.engine,
            "model": bound.model,
            "revision": bound.revision,
            "inputs": list(bound.inputs),
        },
    )


def _build_group(name: str, group: Sequence[BoundPerspective], loaded: Loaded, *, awaited: bool) -> dg.AssetsDefinition:
    kind = loaded.config.engines[group[0].engine].kind
    loads = kind == "vllm"  # servers have their own devices
    check = "Every picture has a caption or a recorded failure; WARN: some failed."

    @dg.multi_asset(
        name=name,
        specs=[_spec(each, kind) for each in group],
        check_specs=[dg.AssetCheckSpec(COMPLETE, asset=caption_key(each.name), description=check) for each in group],
        can_subset=True,
        partitions_def=shards_partitions,
        backfill_policy=BACKFILL,
        pool=GPU_POOL if loads else None,
        op_tags=gpu_op_tags() if loads else {},
    )
    def captions(context: dg.AssetExecutionContext, vllm: VllmResource, config: CaptionConfig) -> Events:
        settings, lake = loaded.config, Lake(loaded.config.lake)
        bound = _forms(context, lake, loaded)
        selected = [bound[each.name] for each in group if caption_key(each.name) in context.selected_asset_keys]
        with plain_failure():
            lake.remove_strays()
            promote(lake, {each.name: each.fingerprint for each in selected})
        shards = shards_of(context)
        merged = merged_away(lake, shards)
        ready = [shard for shard in shards if shard not in merged and lake.exists(layout.media_index(shard))]
        run = vllm.caption(
            settings, lake, selected, bound, ready, context.run_id, force=config.force, tell=context.log.info
        )
        made = _drive(context, loaded, lake, run)
        keys = [caption_key(each.name) for each in selected]
        yield from _held_back(context, keys, made, all_made=len(ready) == len(shards)) if awaited else made
        if waiting := {shard.key: merged.get(shard, _NO_MEDIA) for shard in shards if shard not in ready}:
            raise failure("no captions", waiting)

    return captions


def _forms(context: dg.AssetExecutionContext, lake: Lake, loaded: Loaded) -> dict[str, BoundPerspective]:
    """The perspectives as the run began with them, which its tag tells; a change of the files is another run's."""
    try:
        with plain_failure():
            bound = forms_of_run(lake, context.run_id, loaded.bound)
    except FormsChanged as error:
        remedy = "what is done stays, the rest is for a new run"
        raise dg.Failure(f"{error}; {remedy}", allow_retries=False) from None
    told = " ".join(f"{each.name}={each.fingerprint}" for each in bound.values())
    context.instance.add_run_tags(context.run_id, {run_tags.FINGERPRINTS: told})
    return bound


def _drive(
    context: dg.AssetExecutionContext, loaded: Loaded, lake: Lake, run: CaptionRun
) -> Iterator[dg.AssetMaterialization]:
    """Turn a run's reports into events; the catalog is fresh when this ends, however it ends."""
    settings = loaded.config
    try:
        for report in run:
            _price(settings, report)
            _write_runs(context, settings, lake, report)
            for look in report.looks.values():
                yield _materialization(context.instance, lake, look)
                _log_check(context, look)
    except (BreakerTripped, ConfigError, MediaMissing, LakeFull) as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    except EngineFailure as error:
        raise dg.Failure(str(error), allow_retries=error.retryable) from None
    finally:
        with plain_failure():
            refresh(settings, lake, loaded.bound)


def _price(settings: PipelineConfig, report: ShardReport) -> None:
    for look in report.looks.values():
        look.prices = prices_of(settings.engines[look.bound.engine])


def _held_back(
    context: dg.AssetExecutionContext,
    keys: Sequence[dg.AssetKey],
    events: Iterator[dg.AssetMaterialization],
    *,
    all_made: bool,
) -> Events:
    """The events of an op that another op of captions waits for: at its end, inputs first, as Dagster wants it."""
    made: list[dg.AssetMaterialization] = []
    try:
        for event in events:
            made.append(event)  # noqa: PERF402  (what is there when it fails counts)
    except dg.Failure:
        yield from made
        raise
    yield from events_at_end(context, keys, made, all_made=all_made)


def _materialization(instance: dg.DagsterInstance, lake: Lake, look: LookReport) -> dg.AssetMaterialization:
    seconds = max(look.seconds, 1e-9)
    kinds = ", ".join(f"{kind}: {count}" for kind, count in sorted(look.failure_kinds.items()))
    return dg.AssetMaterialization(
        caption_key(look.bound.name),
        partition=look.shard.key,
        metadata={
            "pictures": look.total,
            "new": look.done,
            "reused": look.reused,
            "already there": look.there,
            "failed": look.failed,
            "failure kinds": kinds or "none",
            **({"shown smaller": look.smaller} if look.smaller else {}),
            "pictures per second": round(look.rate, 1),
            "tokens per second": round(look.completion_tokens / seconds, 1),
            "prompt tokens": look.prompt_tokens,
            "prompt tokens from cache": look.cached_tokens,
            "completion tokens": look.completion_tokens,
            "seconds": round(look.seconds, 2),
            "model load seconds": round(look.load_seconds, 2),
            **({"engine restarts": look.restarts} if look.restarts else {}),
            **_cost(look),
            "fingerprint": look.bound.fingerprint,
            "preview": dg.MetadataValue.md(caption_preview(lake, look.shard, look.bound)),
        },
        tags={
            "dagster/code_version": look.bound.fingerprint,
            "dagster/data_version": rows.contents_digest(lake, look.bound, look.shard),
            "dagster/data_version_is_user_provided": "true",
            **_lineage(instance, look),
        },
    )


def _cost(look: LookReport) -> dict[str, float]:
    if look.cost is None:
        return {}
    cost = {"cost": round(look.cost, 6)}
    return cost | ({"cost per 1,000 pictures": round(1000 * look.cost / look.done, 4)} if look.done else {})


def _lineage(instance: dg.DagsterInstance, look: LookReport) -> dict[str, str]:
    """Tags that say which versions were read; without them Dagster would call a fresh caption out of sync."""
    tags: dict[str, str] = {}
    for key in (MEDIA, *(caption_key(name) for name in look.bound.inputs)):
        record = instance.get_latest_data_version_record(key, partition_key=look.shard.key)
        version = (record.event_log_entry.tags or {}).get("dagster/data_version") if record else None
        tags[f"dagster/input_data_version/{key.to_user_string()}"] = version or "INITIAL"
        tags[f"dagster/input_event_pointer/{key.to_user_string()}"] = str(record.storage_id) if record else "NULL"
    return tags


def _log_check(context: dg.AssetExecutionContext, look: LookReport) -> None:
    key = caption_key(look.bound.name)
    if dg.AssetCheckKey(key, COMPLETE) not in context.selected_asset_check_keys:
        return
    context.log_event(
        dg.AssetCheckEvaluation(
            asset_key=key,
            check_name=COMPLETE,
            passed=look.complete and not look.failed,
            severity=dg.AssetCheckSeverity.WARN if look.complete else dg.AssetCheckSeverity.ERROR,
            metadata={"pictures": look.total, "captions": look.total - look.failed, "failed": look.failed},
            partition=look.shard.key,
        )
    )


def _write_runs(context: dg.AssetExecutionContext, settings: PipelineConfig, lake: Lake, report: ShardReport) -> None:
    looks = [look for look in report.looks.values() if look.done or look.reused or look.failed]
    if not looks:
        return
    contributor, cause = settings.captions.contributor, context.run.tags.get(run_tags.CAUSE)
    table = tables.table([look.run_row(context.run_id, contributor, cause) for look in looks], tables.RUNS)
    step = f"{context.op_def.name}-{report.shard.key}"  # a run may have an op for each engine
    path = layout.run_file(looks[0].started_at.strftime("%Y-%m-%d"), context.run_id, step)
    lake.write(path, table_bytes(table))
