"""The asset graph as an explicit structure: a change here is a change of what users see and of what runs wait for."""

from __future__ import annotations

from collections.abc import Callable

import dagster as dg
import pytest

from caption_assets.assets.captions import build_caption_assets
from caption_assets.captioning.loaded import load
from caption_assets.config import PipelineConfig
from caption_assets.definitions import build_defs
from caption_assets.jobs import CAPTION_JOB, EXPORT_JOB, INGEST_JOB, NEAR_DUPLICATES_JOB
from caption_assets_tests.support import bound_of

LOOKS = ["captions/scene_caption", "captions/scene_count", "captions/scene_objects"]
CAPTIONS = sorted([*LOOKS, "captions/synthesized_caption"])

# key → (what it reads, group, partitions)
GRAPH: dict[str, tuple[list[str], str, str | None]] = {
    "datasets": ([], "ingest", "datasets"),
    "media": (["datasets"], "ingest", "shards"),
    "captions/scene_caption": (["media"], "captions", "shards"),
    "captions/scene_objects": (["media"], "captions", "shards"),
    "captions/scene_count": (["media"], "captions", "shards"),
    "captions/synthesized_caption": ([*LOOKS, "media"], "captions", "shards"),
    "near_duplicates": (["media"], "ingest", None),
    "catalog": (CAPTIONS, "exports", None),
    "exports/jsonl": (CAPTIONS, "exports", "datasets"),
    "exports/webdataset": (CAPTIONS, "exports", "datasets"),
}


def _partitions(definition: dg.PartitionsDefinition | None) -> str | None:
    if isinstance(definition, dg.DynamicPartitionsDefinition):
        return definition.name
    return None if definition is None else "datasets"


def test_the_graph_is_as_designed(make_config: Callable[..., PipelineConfig]) -> None:
    graph = build_defs(make_config()).resolve_asset_graph()
    found = {
        key.to_user_string(): (
            sorted(parent.to_user_string() for parent in graph.get(key).parent_keys),
            graph.get(key).group_name,
            _partitions(graph.get(key).partitions_def),
        )
        for key in graph.get_all_asset_keys()
    }
    assert found == GRAPH


def test_checks_stand_on_media_and_captions(make_config: Callable[..., PipelineConfig]) -> None:
    graph = build_defs(make_config()).resolve_asset_graph()
    checks = {(key.asset_key.to_user_string(), key.name) for key in graph.asset_check_keys}
    assert checks == {(asset, "complete") for asset in ["media", *CAPTIONS]}


def test_a_fingerprint_is_the_code_version(make_config: Callable[..., PipelineConfig]) -> None:
    config = make_config()
    graph = build_defs(config).resolve_asset_graph()
    for name, bound in bound_of(config).items():
        assert graph.get(dg.AssetKey(["captions", name])).code_version == bound.fingerprint


def test_one_engine_is_one_op(make_config: Callable[..., PipelineConfig]) -> None:
    defs = build_defs(make_config())
    assert {node.name for node in defs.resolve_job_def(CAPTION_JOB).nodes} == {"media", "captions"}


def test_an_op_that_only_talks_to_servers_takes_no_gpu(
    make_config: Callable[..., PipelineConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAPTION_ASSETS_EXECUTOR", "k8s")
    pool = {"kind": "openai", "model": "m", "servers": ["http://127.0.0.1:9/v1"]}
    for engine, gpu in ((pool, False), ({"kind": "vllm", "model": "tiny"}, True)):
        op = build_caption_assets(load(make_config(engines={"default": engine})))[0].op
        assert (op.pool == "gpu") is gpu
        assert ("dagster-k8s/config" in op.tags) is gpu


def test_jobs_select_what_they_are_for(make_config: Callable[..., PipelineConfig]) -> None:
    defs = build_defs(make_config())
    selected = {
        name: {key.to_user_string() for key in defs.resolve_job_def(name).asset_layer.selected_asset_keys}
        for name in (INGEST_JOB, CAPTION_JOB, EXPORT_JOB, NEAR_DUPLICATES_JOB)
    }
    assert selected == {
        INGEST_JOB: {"datasets"},
        CAPTION_JOB: {"media", *CAPTIONS},
        EXPORT_JOB: {"exports/jsonl", "exports/webdataset"},
        NEAR_DUPLICATES_JOB: {"near_duplicates"},
    }


def test_every_partitioned_asset_shares_one_backfill_policy(make_config: Callable[..., PipelineConfig]) -> None:
    graph = build_defs(make_config()).resolve_asset_graph()
    policies = {
        graph.get(key).backfill_policy
        for key in graph.get_all_asset_keys()
        if graph.get(key).partitions_def is not None
    }
    assert policies == {dg.BackfillPolicy.multi_run(max_partitions_per_run=50)}


def test_dependencies_between_datasets_and_shards_are_on_all(make_config: Callable[..., PipelineConfig]) -> None:
    graph = build_defs(make_config()).resolve_asset_graph()

    def mapping(child: str, parent: str) -> str:
        keys = [dg.AssetKey.from_user_string(key) for key in (child, parent)]
        return type(graph.get_partition_mapping(*keys)).__name__

    assert mapping("media", "datasets") == "AllPartitionMapping"
    assert mapping("captions/scene_count", "media") == "IdentityPartitionMapping"
    assert mapping("captions/synthesized_caption", "captions/scene_count") == "IdentityPartitionMapping"
    assert mapping("exports/jsonl", "captions/scene_count") == "AllPartitionMapping"
    assert mapping("near_duplicates", "media") == "AllPartitionMapping"


def test_only_watched_datasets_have_a_sensor(make_config: Callable[..., PipelineConfig]) -> None:
    config = make_config()
    names = {"street": False, "a-b": True, "c.d": True}
    datasets = {
        name: {"kind": "folder", "path": str(config.dataset_path("demo")), "watch": watch}
        for name, watch in names.items()
    }
    sensors = build_defs(make_config(datasets=datasets)).sensors or []
    assert [sensor.name for sensor in sensors if "arrivals" in sensor.name] == ["arrivals_a_b", "arrivals_c_d"]


def test_metadata_of_the_assets_holds_no_path_of_this_machine(make_config: Callable[..., PipelineConfig]) -> None:
    config = make_config()
    graph = build_defs(config).resolve_asset_graph()
    told = [str(graph.get(key).metadata) for key in graph.get_all_asset_keys() if key.path[0] == "captions"]
    assert len(told) == 4
    assert not [text for text in told if str(config.base_dir) in text]
