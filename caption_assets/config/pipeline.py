"""The whole pipeline file: what to caption, how, and where the lake is."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator

from caption_assets.config.alerts import Alerts
from caption_assets.config.callbacks import Callback
from caption_assets.config.consolidation import Consolidation
from caption_assets.config.datasets import BucketDataset, FolderDataset, HuggingFaceDataset, Strict
from caption_assets.config.engines import Engine, prices_of
from caption_assets.config.kafka import Kafka, KafkaConnection, KafkaDataset, KafkaSecurity, check_kafka
from caption_assets.config.kinds import Dataset
from caption_assets.config.paths import absolute
from caption_assets.config.recaption import Recaption, check_recaption

DEMO_CONFIG = Path(__file__).parents[1] / "demo" / "pipeline.yaml"

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,100}")


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
    max_decode_mb: float = Field(default=370.0, gt=0)
    """A picture whose decoding, and its file unless it is decoded from disk, take more memory than this is a failure
    `too_large`, before they take it; all that are worked on at once stay within seven tenths of it."""
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

    def set_file(self, file: Path) -> None:
        """Say which file this was read from."""
        self._file = file

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
        priced = any(prices_of(each) for each in info.data["engines"].values())
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
        return absolute(dataset.path, self.base_dir)

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
        return place if "://" in place else str(absolute(Path(place), self.base_dir))
