"""Jobs: what is launched by name, from the UI, a sensor or CI."""

from __future__ import annotations

from typing import Any

import dagster as dg

from caption_assets.assets.captions import caption_key
from caption_assets.assets.datasets import DATASETS
from caption_assets.assets.media import MEDIA
from caption_assets.assets.near_duplicates import NEAR_DUPLICATES
from caption_assets.captioning.loaded import Loaded
from caption_assets.exports.formats import FORMATS
from caption_assets.partitions import datasets_partitions, shards_partitions

INGEST_JOB = "ingest_job"
CAPTION_JOB = "caption_job"
EXPORT_JOB = "export_job"
NEAR_DUPLICATES_JOB = "near_duplicates_job"


def build_jobs(loaded: Loaded) -> list[Any]:
    """`ingest_job` and `export_job` (datasets), `caption_job` (media and captions of shards), `near_duplicates_job`."""
    captions = dg.AssetSelection.assets(MEDIA, *(caption_key(name) for name in loaded.bound))
    datasets = datasets_partitions(loaded.config)
    exports = dg.AssetSelection.assets(*(dg.AssetKey(["exports", each.name]) for each in FORMATS))
    return [
        dg.define_asset_job(
            INGEST_JOB,
            dg.AssetSelection.assets(DATASETS),
            partitions_def=datasets,
            description="Plan what is new in a dataset and register its shards.",
        ),
        dg.define_asset_job(
            CAPTION_JOB,
            captions,
            partitions_def=shards_partitions,
            description="Bring the media and captions of shards up to date.",
        ),
        dg.define_asset_job(
            EXPORT_JOB,
            exports,
            partitions_def=datasets,
            description="Export the captioned pictures of a dataset.",
        ),
        dg.define_asset_job(
            NEAR_DUPLICATES_JOB,
            dg.AssetSelection.assets(NEAR_DUPLICATES),
            description="Find the pictures of all datasets that look alike.",
        ),
    ]
