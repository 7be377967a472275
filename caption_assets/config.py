"""The pipeline file: one YAML document that says what to caption, how, and where the lake is.

`load_config()` reads the file named by `CAPTION_ASSETS_CONFIG` (unset: the demo's), and turns every mistake into one
`ConfigError` that names the file, the field and the remedy.
"""

from __future__ import annotations

import json
import os
import re
from glob import has_magic
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import Field, PrivateAttr, ValidationError, ValidationInfo, field_validator

from caption_assets.config_alerts import Alerts
from caption_assets.config_callbacks import Callback
from caption_assets.config_consolidation import Consolidation
from caption_assets.config_datasets import BucketDataset as BucketDataset
from caption_assets.config_datasets import FolderDataset as FolderDataset
from caption_assets.config_datasets import HuggingFaceDataset as HuggingFaceDataset
from caption_assets.config_datasets import JsonlDataset as JsonlDataset
from caption_assets.config_datasets import Strict
from caption_assets.config_datasets import UrlListDataset as UrlListDataset
from caption_assets.config_datasets import WebDatasetDataset as WebDatasetDataset
from caption_assets.config_errors import ConfigError as ConfigError
from caption_assets.config_errors import UniqueKeyLoader, explain
from caption_assets.config_kafka import Kafka, KafkaConnection, KafkaSecurity, check_kafka
from caption_assets.config_kafka import KafkaDataset as KafkaDataset
from caption_assets.config_kinds import DATASET_KINDS, Dataset
from caption_assets.config_recaption import Recaption, check_recaption
from caption_assets.config_secrets import EnvironmentSecret as EnvironmentSecret
from caption_assets.config_secrets import by_reference

CONFIG_VARIABLE = "CAPTION_ASSETS_CONFIG"
LAKE_VARIABLE = "CAPTION_ASSETS_LAKE"
DEMO_CONFIG = Path(__file__).parent / "demo" / "pipeline.yaml"
TINY_MODEL = "tiny"

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,100}")
_OWN_FIELDS = frozenset({"model", "messages", "response_format", "stream", "n"})
"""Fields of a request that `extra_body` must leave alone."""


def check_name(value: str) -> str:
    """Return `value` if it can be a dataset's name: a folder, a partition key and part of a URL."""
    if not _NAME.fullmatch(value) or ".." in value:
        raise ValueError(
            f"{value!r} is not a usable name: use a-z, 0-9, '.', '_' and '-', starting with a letter or digit"
        )
    return value


class Perspectives(Strict):
    """Which perspectives are looked for, and which are used."""

    library: list[str] = Field(default=["builtin"])
    enabled: list[str] = Field(min_length=1)
    inputs: dict[str, list[str]] = Field(default={})


class Media(Strict):
    """How pictures are stored: the largest size kept, and the limits of what is decoded at all."""

    max_pixels: int = Field(default=1_003_520, ge=1024)
    max_megapixels: float = Field(default=100.0, gt=0)
    """A picture whose header promises more than this is a failure `too_large`, before a pixel is allocated."""
    max_file_mb: float = Field(default=500.0, gt=0)
    """A bigger file is a failure `too_large`, before it is read."""
    max_decode_mb: float = Field(default=400.0, gt=0)
    """A picture whose file and decoding take more memory than this is a failure `too_large`, before they take it; all
    that are decoded at once stay within it, too."""
    quality: int = Field(default=90, ge=1, le=100)
    gps: bool = False
    """Whether the lake may hold where a picture was taken: columns, and what EXIF and XMP say of it."""
    allow_truncated: bool = False
    """Whether a truncated file is a picture, its missing part grey, rather than a failure `truncated`."""
    keep_originals: bool = False
    """Store each original's bytes as well, with all their metadata, positions included."""


class NearDuplicates(Strict):
    """Which pictures are near duplicates: those whose perceptual hashes, of 64 bits, differ in a few."""

    distance: int = Field(default=6, ge=0, le=16)
    """The most bits that may differ; 0: equal hashes only."""
    max_pairs: int = Field(default=10_000_000, ge=1, le=100_000_000)
    """Pairs of different hashes that are stored, the closest first; the run tells how many were left out."""


class VllmEngine(Strict):
    """vLLM in the process of the run: on its GPU, or on the CPU where there is none."""

    kind: Literal["vllm"]
    model: str
    revision: str | None = None
    mode: Literal["auto", "in_process", "async"] = "auto"
    """`in_process`: stepped by one thread, starts fast; `async`: own process; auto: async on a GPU, else in_process."""
    args: dict[str, Any] = Field(default={})
    """vLLM's engine arguments, by the names of its `EngineArgs`."""


class SentImage(Strict):
    """How pictures travel to servers. What the lake stores in this format is sent as it is, the rest is encoded."""

    format: Literal["jpeg", "png"] = "jpeg"
    quality: int = Field(default=90, ge=1, le=100)
    once: bool = True
    """Whether servers that keep pictures by name (vLLM's) are sent each one once."""


class Prices(Strict):
    """What a million tokens cost, in whatever currency."""

    prompt: float = Field(default=0.0, ge=0)
    completion: float = Field(default=0.0, ge=0)


class OpenAIEngine(Strict):
    """A pool of servers that speak OpenAI's chat completions: vLLM's own, or any provider's."""

    kind: Literal["openai"]
    model: str = Field(min_length=1)
    revision: str | None = None
    """Anything that tells one state of the model from another; change it to caption anew."""
    servers: list[str] = Field(min_length=1)
    """Base URLs: what stands before `/chat/completions`."""
    api_key: EnvironmentSecret | None = None
    max_in_flight: int = Field(default=64, ge=1, le=4096)
    """Requests under way at once, over all servers."""
    requests_per_minute: float | None = Field(default=None, gt=0)
    tokens_per_minute: float | None = Field(default=None, gt=0)
    timeout_seconds: float = Field(default=120.0, gt=0)
    give_up_seconds: float = Field(default=300.0, gt=0)
    """The run ends once all servers have been away for this long."""
    image: SentImage = SentImage()
    structured: Literal["auto", "json_schema", "json_object", "prompt"] = "auto"
    """How a server is told the schema; auto: by the first of these that it takes."""
    prices: Prices | None = None
    extra_body: dict[str, Any] = Field(default={})
    """Further fields of each request, such as `chat_template_kwargs`."""

    @field_validator("api_key", mode="before")
    @classmethod
    def _no_literal_key(cls, value: object) -> object:
        return by_reference(value)

    @field_validator("servers")
    @classmethod
    def _urls(cls, value: list[str]) -> list[str]:
        for number, server in enumerate(value):
            try:
                url = urlsplit(server)
                usable = url.scheme in {"http", "https"} and bool(url.hostname) and (url.port is None or url.port > 0)
            except ValueError:
                usable = False
            if not usable:
                raise ValueError(f"entry {number} is no URL; write http://host:port/v1")
            if url.username or url.password or url.query or url.fragment:
                raise ValueError(f"entry {number} holds more than an address; a key goes into api_key: {{env: NAME}}")
        servers = [server.rstrip("/") for server in value]
        if len(set(servers)) != len(servers):
            raise ValueError("a server is there twice; remove one")
        return servers

    @field_validator("extra_body")
    @classmethod
    def _not_ours(cls, value: dict[str, Any]) -> dict[str, Any]:
        if ours := sorted(_OWN_FIELDS & value.keys()):
            raise ValueError(f"{ours[0]!r} is set by the pipeline; leave it out")
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise ValueError("holds a value that JSON cannot; use text, numbers, lists and mappings") from None
        return value


Engine = Annotated[VllmEngine | OpenAIEngine, Field(discriminator="kind")]
ENGINE_KINDS: dict[str, type[Strict]] = {"vllm": VllmEngine, "openai": OpenAIEngine}


class Captions(Strict):
    """Limits and retries of the caption assets."""

    max_attempts: int = Field(default=3, ge=1)
    """Requests per picture and perspective, over all runs, before a failure is left alone; `force` starts over."""
    max_failure_share: float = Field(default=0.5, ge=0, le=1)
    """Share of failed pictures above which a run stops early..."""
    breaker_after: int = Field(default=50, ge=1)
    """... once this many outcomes are known."""
    contributor: str = "local"


class PipelineConfig(Strict):
    """The whole pipeline file, validated; relative paths are relative to the file's folder."""

    lake: str = Field(min_length=1)
    datasets: dict[str, Dataset] = Field(min_length=1)
    perspectives: Perspectives
    media: Media = Media()
    near_duplicates: NearDuplicates = NearDuplicates()
    engines: dict[str, Engine] = Field(min_length=1)
    captions: Captions = Captions()
    consolidation: Consolidation = Consolidation()
    callbacks: list[Callback] = Field(default=[])
    kafka: Kafka | None = Field(default=None, validate_default=True)
    recaption: Recaption = Recaption()
    alerts: Alerts | None = None
    _file: Path = PrivateAttr(default=DEMO_CONFIG)

    @property
    def file(self) -> Path:
        """The file this was read from."""
        return self._file

    @property
    def base_dir(self) -> Path:
        """The folder that relative paths refer to."""
        return self._file.parent

    @field_validator("datasets")
    @classmethod
    def _dataset_names(cls, value: dict[str, Dataset]) -> dict[str, Dataset]:
        alike: dict[str, str] = {}
        for name in value:
            check_name(name)
            other = alike.setdefault(re.sub(r"[._-]", "_", name), name)
            if other != name:  # sensors cannot have '-' or '.' in their names
                raise ValueError(f"{other!r} and {name!r} differ in punctuation only; rename one")
        return value

    @field_validator("callbacks")
    @classmethod
    def _callbacks(cls, value: list[Callback], info: ValidationInfo) -> list[Callback]:
        known = info.data.get("datasets", {})
        for number, callback in enumerate(value):
            if unknown := [name for name in callback.datasets if known and name not in known]:
                names = ", ".join(repr(name) for name in sorted(known))
                raise ValueError(f"entry {number}: there is no dataset {unknown[0]!r}; the datasets are {names}")
            if callback.url in {other.url for other in value[:number]}:
                raise ValueError(f"entry {number}: its url is there twice; join the two entries")
        return value

    @field_validator("kafka")
    @classmethod
    def _kafka(cls, value: Kafka | None, info: ValidationInfo) -> Kafka | None:
        datasets = info.data.get("datasets", {}).items()
        return check_kafka(value, [name for name, each in datasets if each.kind == "kafka" and not each.brokers])

    @field_validator("recaption")
    @classmethod
    def _recaption(cls, value: Recaption, info: ValidationInfo) -> Recaption:
        if not {"perspectives", "engines"} <= info.data.keys():
            return value  # what is wrong there is said there
        priced = any(isinstance(each, OpenAIEngine) and each.prices for each in info.data["engines"].values())
        return check_recaption(value, info.data["perspectives"].enabled, priced)

    @field_validator("alerts")
    @classmethod
    def _alerts(cls, value: Alerts | None, info: ValidationInfo) -> Alerts | None:
        known = info.data.get("datasets", {})
        if unknown := [name for name in (value.arrivals if value else ()) if known and name not in known]:
            names = ", ".join(repr(name) for name in sorted(known))
            raise ValueError(f"arrivals: there is no dataset {unknown[0]!r}; the datasets are {names}")
        return value

    @field_validator("engines")
    @classmethod
    def _default_engine(cls, value: dict[str, Engine]) -> dict[str, Engine]:
        if "default" not in value:
            names = ", ".join(repr(name) for name in sorted(value))
            raise ValueError(f"there is no engine named 'default', only {names}; add it, or rename one")
        return value

    def dataset_path(self, name: str) -> Path:
        """Absolute folder of a `folder` dataset. Raises ValueError for one that is elsewhere."""
        dataset = self.datasets[name]
        if not isinstance(dataset, FolderDataset):
            raise ValueError(f"{name} is a {dataset.kind}, not a folder")
        return _absolute(dataset.path, self.base_dir)

    def dataset_place(self, name: str) -> str:
        """Where a dataset is, as its owner would write it: an absolute path, or a URL."""
        dataset = self.datasets[name]
        if isinstance(dataset, HuggingFaceDataset) and not dataset.local:
            return dataset.path
        if isinstance(dataset, KafkaDataset):
            return f"kafka://{self.kafka_connection(name).brokers[0]}/{dataset.topic}"
        return self.absolute(dataset.url if isinstance(dataset, BucketDataset) else str(dataset.path))

    def kafka_connection(self, name: str) -> KafkaConnection:
        """The cluster of a `kafka` dataset."""
        dataset = self.datasets[name]
        assert isinstance(dataset, KafkaDataset)
        if dataset.brokers:
            return KafkaConnection(brokers=dataset.brokers, security=dataset.security or KafkaSecurity())
        assert self.kafka is not None, "validation sees to it"
        return self.kafka.connection()

    def absolute(self, place: str) -> str:
        """A path or URL as the pipeline file names it, as one that does not depend on where it is read."""
        return place if "://" in place else str(_absolute(Path(place), self.base_dir))


def _absolute(path: Path, base: Path) -> Path:
    path = _expanded(path)
    return Path(os.path.normpath(path if path.is_absolute() else base / path))


def _expanded(path: Path) -> Path:
    """The path with `~` replaced; as it is where there is no such user."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def load_config(path: str | Path | None = None, *, check_paths: bool = True) -> PipelineConfig:
    """Read the pipeline file.

    Args:
        path: the file; default: what `CAPTION_ASSETS_CONFIG` names, else the demo's.
        check_paths: whether an absent folder of a dataset is an error (the demo's is made on first use).

    Raises:
        ConfigError: the file is absent, is no YAML, or has an unusable value.
    """
    file = _absolute(Path(path or os.environ.get(CONFIG_VARIABLE) or DEMO_CONFIG), Path.cwd())
    document = _read(file)
    if override := os.environ.get(LAKE_VARIABLE):
        document["lake"] = override if "://" in override else str(_absolute(Path(override), Path.cwd()))
    try:
        config = PipelineConfig.model_validate(document)
    except ValidationError as error:
        lines = explain(error, document, PipelineConfig, {"datasets": DATASET_KINDS, "engines": ENGINE_KINDS})
        raise ConfigError("\n".join(f"{file}: {line}" for line in lines)) from None
    if "://" not in config.lake:
        config = config.model_copy(update={"lake": str(_absolute(Path(config.lake), file.parent))})
    config._file = file
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
