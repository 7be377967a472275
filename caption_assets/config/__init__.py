"""The pipeline file: one YAML document that says what to caption, how, and where the lake is.

A module each for what a section may hold; `load_config()` reads the file named by `CAPTION_ASSETS_CONFIG` (unset: the
demo's). What most of the code needs can be imported from here.
"""

from caption_assets.config.datasets import (
    BucketDataset,
    FolderDataset,
    HuggingFaceDataset,
    JsonlDataset,
    UrlListDataset,
    WebDatasetDataset,
)
from caption_assets.config.engines import (
    ENGINE_KINDS,
    TINY_MODEL,
    OpenAIEngine,
    Prices,
    SentImage,
    VllmEngine,
    prices_of,
)
from caption_assets.config.errors import ConfigError
from caption_assets.config.kafka import KafkaDataset
from caption_assets.config.kinds import DATASET_KINDS
from caption_assets.config.loading import CONFIG_VARIABLE, LAKE_VARIABLE, load_config
from caption_assets.config.pipeline import (
    DEMO_CONFIG,
    Captions,
    Media,
    NearDuplicates,
    Perspectives,
    PipelineConfig,
    check_name,
)

__all__ = [
    "CONFIG_VARIABLE",
    "DATASET_KINDS",
    "DEMO_CONFIG",
    "ENGINE_KINDS",
    "LAKE_VARIABLE",
    "TINY_MODEL",
    "BucketDataset",
    "Captions",
    "ConfigError",
    "FolderDataset",
    "HuggingFaceDataset",
    "JsonlDataset",
    "KafkaDataset",
    "Media",
    "NearDuplicates",
    "OpenAIEngine",
    "Perspectives",
    "PipelineConfig",
    "Prices",
    "SentImage",
    "UrlListDataset",
    "VllmEngine",
    "WebDatasetDataset",
    "check_name",
    "load_config",
    "prices_of",
]
