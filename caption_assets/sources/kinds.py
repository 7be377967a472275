"""Opens a dataset of the pipeline file, whatever its kind."""

from __future__ import annotations

from caption_assets.config import BucketDataset, ConfigError, PipelineConfig
from caption_assets.sources.base import Source
from caption_assets.sources.bucket import BucketSource
from caption_assets.sources.files import FileFilter
from caption_assets.sources.folder import FolderSource


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
    files = FileFilter(dataset.include, dataset.exclude, dataset.sidecars)
    if isinstance(dataset, BucketDataset):
        try:
            return BucketSource(dataset.url, recursive=dataset.recursive, files=files, options=dataset.options)
        except (ImportError, ValueError, TypeError) as error:
            raise ConfigError(
                f"{config.file}: datasets.{name}.url: {dataset.url} cannot be opened: {error}; "
                "install what is missing, or correct url and options"
            ) from None
    return FolderSource(
        config.dataset_path(name),
        recursive=dataset.recursive,
        settle_seconds=dataset.settle_seconds if settle else 0.0,
        files=files,
    )
