"""Reading the pipeline file: every mistake in it is one `ConfigError` that names the file, the field and the remedy."""

from __future__ import annotations

import os
from glob import has_magic
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from caption_assets.config.datasets import FolderDataset, HuggingFaceDataset, WebDatasetDataset
from caption_assets.config.engines import ENGINE_KINDS
from caption_assets.config.errors import ConfigError, UniqueKeyLoader, explain
from caption_assets.config.kinds import DATASET_KINDS
from caption_assets.config.paths import absolute
from caption_assets.config.pipeline import DEMO_CONFIG, PipelineConfig

CONFIG_VARIABLE = "CAPTION_ASSETS_CONFIG"
LAKE_VARIABLE = "CAPTION_ASSETS_LAKE"


def load_config(path: str | Path | None = None, *, check_paths: bool = True) -> PipelineConfig:
    """Read the pipeline file.

    Args:
        path: the file; default: what `CAPTION_ASSETS_CONFIG` names, else the demo's.
        check_paths: whether an absent folder of a dataset is an error (the demo's is made on first use).

    Raises:
        ConfigError: the file is absent, is no YAML, or has an unusable value.
    """
    file = absolute(Path(path or os.environ.get(CONFIG_VARIABLE) or DEMO_CONFIG), Path.cwd())
    document = _read(file)
    if override := os.environ.get(LAKE_VARIABLE):
        document["lake"] = override if "://" in override else str(absolute(Path(override), Path.cwd()))
    try:
        config = PipelineConfig.model_validate(document)
    except ValidationError as error:
        lines = explain(error, document, PipelineConfig, {"datasets": DATASET_KINDS, "engines": ENGINE_KINDS})
        raise ConfigError("\n".join(f"{file}: {line}" for line in lines)) from None
    if "://" not in config.lake:
        config = config.model_copy(update={"lake": str(absolute(Path(config.lake), file.parent))})
    config.set_file(file)
    if check_paths and file != DEMO_CONFIG:
        _check_dataset_paths(config)
    return config


def _read(file: Path) -> dict[str, Any]:
    try:
        document = yaml.load(file.read_text(encoding="utf-8-sig"), UniqueKeyLoader)
    except FileNotFoundError:
        raise ConfigError(f"{file}: there is no such pipeline file; set {CONFIG_VARIABLE} to an existing one") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(f"{file}: cannot be read: {reason}; set {CONFIG_VARIABLE} to a readable file") from None
    except (UnicodeDecodeError, yaml.reader.ReaderError):
        raise ConfigError(f"{file}: is not UTF-8 text; save it as UTF-8") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: is not valid YAML: {' '.join(str(error).split())}") from None
    except (ValueError, RecursionError) as error:  # brackets without end
        raise ConfigError(f"{file}: is not valid YAML: {error}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{file}: must be a YAML mapping with lake, datasets, perspectives and engines")
    return document


def _check_dataset_paths(config: PipelineConfig) -> None:
    for name, dataset in config.datasets.items():
        place = config.dataset_place(name)
        if "://" in place or (isinstance(dataset, HuggingFaceDataset) and not dataset.local):
            continue  # what is elsewhere is looked for when it is read
        wants_folder = isinstance(dataset, FolderDataset)
        path = Path(place)
        several = isinstance(dataset, WebDatasetDataset | HuggingFaceDataset) and has_magic(place)
        if not (path.is_dir() if wants_folder else several or path.exists()):
            reason = "is not a folder" if path.exists() else "does not exist"
            raise ConfigError(
                f"{config.file}: datasets.{name}.path: {path} {reason}; "
                "create it, or correct the path (relative paths start at the pipeline file)"
            )
