"""All kinds of dataset, by the name that a pipeline file gives them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from caption_assets.config.datasets import (
    BucketDataset,
    FolderDataset,
    HuggingFaceDataset,
    JsonlDataset,
    Strict,
    UrlListDataset,
    WebDatasetDataset,
)
from caption_assets.config.kafka import KafkaDataset

Dataset = Annotated[
    FolderDataset
    | BucketDataset
    | JsonlDataset
    | WebDatasetDataset
    | UrlListDataset
    | HuggingFaceDataset
    | KafkaDataset,
    Field(discriminator="kind"),
]
DATASET_KINDS: dict[str, type[Strict]] = {
    "folder": FolderDataset,
    "bucket": BucketDataset,
    "jsonl": JsonlDataset,
    "webdataset": WebDatasetDataset,
    "url_list": UrlListDataset,
    "huggingface": HuggingFaceDataset,
    "kafka": KafkaDataset,
}
