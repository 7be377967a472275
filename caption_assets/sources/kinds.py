"""Opens a dataset of the pipeline file, whatever its kind."""

from __future__ import annotations

from caption_assets.config import (
    BucketDataset,
    ConfigError,
    FolderDataset,
    HuggingFaceDataset,
    JsonlDataset,
    KafkaDataset,
    PipelineConfig,
    UrlListDataset,
    WebDatasetDataset,
)
from caption_assets.config.datasets import FetchesAhead
from caption_assets.config.kinds import Dataset
from caption_assets.kafka.client import Cluster
from caption_assets.sources.ahead import Ahead
from caption_assets.sources.base import FetchError, FieldError, Source
from caption_assets.sources.bucket import BucketSource
from caption_assets.sources.files import FileFilter
from caption_assets.sources.folder import FolderSource
from caption_assets.sources.jsonl import JsonlSource
from caption_assets.sources.kafka import Answering, KafkaSource
from caption_assets.sources.named import NamedPictures
from caption_assets.sources.rows import raise_if_bad
from caption_assets.sources.url_list import UrlListSource
from caption_assets.sources.web import WebFetcher
from caption_assets.sources.webdataset import WebDatasetSource


def open_source(config: PipelineConfig, name: str, *, settle: bool = False) -> Source:
    """The source of a dataset.

    Args:
        config: the pipeline file.
        name: the dataset's.
        settle: leave out files that may still be being written.

    Raises:
        ConfigError: it needs a package that is not installed, or options that its filesystem refuses.
    """
    dataset = config.datasets[name]
    if isinstance(dataset, FolderDataset):
        return FolderSource(
            config.dataset_path(name),
            recursive=dataset.recursive,
            settle_seconds=dataset.settle_seconds if settle else 0.0,
            files=_filter(dataset),
        )
    try:
        return _open_kafka(config, name, dataset, settle) if isinstance(dataset, KafkaDataset) else _open(config, name)
    except (ImportError, ValueError, TypeError) as error:
        where = f"datasets.{name}.{_field(dataset)}: {config.dataset_place(name)}"
        raise ConfigError(
            f"{config.file}: {where} cannot be opened: {error}; "
            "install what is missing, or correct the place and its options"
        ) from None


def look(config: PipelineConfig, name: str) -> str | None:
    """Open a dataset and look at its first item.

    Returns:
        What is odd about it without being wrong; None: nothing. A set of the hub that would have to be stored here
        first is not looked at.

    Raises:
        ConfigError: it cannot be opened or read; the message names the field.
    """
    dataset, place = config.datasets[name], config.dataset_place(name)
    source = open_source(config, name)
    if isinstance(dataset, HuggingFaceDataset) and not (dataset.local or dataset.streaming):
        return None
    try:
        first = next(iter(source.scan()), None)
    except Exception as error:  # any filesystem's and any library's own
        field = error.field if isinstance(error, FieldError) else _field(dataset)
        told = (
            str(error) if isinstance(error, FieldError) else f"{place} cannot be read: {error or type(error).__name__}"
        )
        raise ConfigError(
            f"{config.file}: datasets.{name}.{field}: {told}; correct it, or allow access to it"
        ) from None
    if first is None:
        return None if isinstance(dataset, KafkaDataset) else "there is nothing in it yet"
    try:
        raise_if_bad(first.etag)
    except FetchError as error:
        return f"its first entry is unusable: {error}"
    return None


def _field(dataset: Dataset) -> str:
    """The field that says where a dataset is."""
    if isinstance(dataset, KafkaDataset):
        return "topic"
    return "url" if isinstance(dataset, BucketDataset) else "path"


def _open(config: PipelineConfig, name: str) -> Source:
    """The source of a dataset that is no folder. Raises ImportError, ValueError, TypeError."""
    dataset, place = config.datasets[name], config.dataset_place(name)
    limit = int(config.media.max_file_mb * 1e6)
    if isinstance(dataset, BucketDataset):
        files, fetches = _filter(dataset), _ahead(dataset, limit)
        return BucketSource(place, recursive=dataset.recursive, files=files, options=dataset.options, fetches=fetches)
    if isinstance(dataset, WebDatasetDataset):
        return WebDatasetSource(place, options=dataset.options, fetches=_ahead(dataset, limit))
    if isinstance(dataset, HuggingFaceDataset):
        return _open_hugging_face(dataset, place)
    assert isinstance(dataset, UrlListDataset | JsonlDataset)
    web = WebFetcher(dataset.web, _ahead(dataset.web, limit))
    if isinstance(dataset, UrlListDataset):
        version = dataset.version_column
        return UrlListSource(place, web, column=dataset.column, version_column=version, options=dataset.options)
    root = config.absolute(dataset.root) if dataset.root else None
    return JsonlSource(place, root=root, columns=dataset.columns, options=dataset.options, web=web)


def _open_hugging_face(dataset: HuggingFaceDataset, place: str) -> Source:
    from caption_assets.sources.huggingface import HuggingFaceSource, HuggingFaceStream  # slow to import, needed by few

    named = {"name": dataset.config_name, "revision": dataset.revision}
    options = {key: value for key, value in named.items() if value}
    kind = HuggingFaceStream if dataset.streaming else HuggingFaceSource
    return kind(place, split=dataset.split, image=dataset.image, columns=dataset.columns, options=options)


def _open_kafka(config: PipelineConfig, name: str, dataset: KafkaDataset, settle: bool) -> Source:
    """The source of a Kafka dataset. Raises ImportError, ValueError, TypeError, ConfigError."""
    field = f"datasets.{name}" if dataset.brokers else "kafka"
    cluster = Cluster(config.kafka_connection(name), f"{config.file}: {field}", config.base_dir)
    web = WebFetcher(dataset.web, _ahead(dataset.web, int(config.media.max_file_mb * 1e6)))
    root = config.absolute(dataset.root) if dataset.root else None
    out, same = config.kafka, not dataset.brokers
    failures = out.topic("captions.failed") if out and same and "captions.failed" in out.topics else None
    answering = Answering(frozenset(config.perspectives.enabled), failures, out.producer if out else "caption-assets")
    return KafkaSource(name, dataset, cluster, NamedPictures(root, dataset.options, web), answering, settle=settle)


def _ahead(limits: FetchesAhead, limit: int) -> Ahead:
    return Ahead(limits.at_once, int(limits.ahead_mb * 1e6), limit)


def _filter(dataset: FolderDataset | BucketDataset) -> FileFilter:
    return FileFilter(dataset.include, dataset.exclude, dataset.sidecars)
