"""The kinds of dataset that a pipeline file may name, one model each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from fsspec.registry import known_implementations, registry
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator


def check_url(value: str) -> str:
    """Return `value` if it is a URL of a filesystem. Raises ValueError."""
    protocol, separator, rest = value.partition("://")
    if not separator or not rest:
        raise ValueError(f"{value!r} is not a URL; write one like s3://bucket/prefix, or use kind folder for a folder")
    if protocol not in known_implementations and protocol not in registry:
        raise ValueError(f"there is no filesystem for {protocol}://; use s3, gs, abfs, http, https, file, ...")
    return value


Url = Annotated[str, AfterValidator(check_url)]
Place = Annotated[str, Field(min_length=1), AfterValidator(lambda value: check_url(value) if "://" in value else value)]
"""A path on this machine, or a URL that fsspec knows."""


class Strict(BaseModel):
    """Base of all sections: unknown keys are errors, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class AnyDataset(Strict):
    """What every kind of dataset has."""

    watch: bool = False
    """Look for new items every 30 seconds, and caption them."""
    shard_size: int = Field(default=1000, ge=1, le=100_000)
    retain: bool = False
    """Whether items that are deleted or replaced in the source stay in views and exports, with their captions."""


class FetchesAhead(Strict):
    """How much is fetched before its turn comes."""

    at_once: int = Field(default=32, ge=1, le=1024)
    """Fetches under way."""
    ahead_mb: float = Field(default=96.0, gt=0)
    """Megabytes of what waits for its turn or is being read; a bigger picture is fetched when its turn comes."""


class Files(AnyDataset):
    """Which files of a tree are pictures, and what is known of them beside them."""

    recursive: bool = True
    include: list[str] = []
    """Globs of which a picture must match one; without '/' they mean names, else whole paths below the root."""
    exclude: list[str] = []
    """Globs of which it must match none."""
    sidecars: bool = True
    """Whether a `.txt` or `.json` of the same name beside a picture becomes source columns."""
    max_wait_seconds: float = Field(default=30.0, ge=0, le=3600)
    """With `watch`: how long a new picture waits for others to share its shard; longer, up to an hour, on a day that
    has brought many small shards. 0: never."""
    scan_seconds: float = Field(default=0.3, gt=0, le=5)
    """With `watch`: how long a tick goes on looking at everything while it finds nothing new."""

    @field_validator("include", "exclude")
    @classmethod
    def _globs(cls, value: list[str]) -> list[str]:
        for glob in value:
            if not glob or glob.startswith("/"):
                raise ValueError(f"{glob!r} matches nothing; write a name like '*.jpg' or a path like 'train/**'")
        return value


class FolderDataset(Files):
    """Pictures in a folder on this machine (or a mounted one)."""

    kind: Literal["folder"]
    path: Path
    settle_seconds: float = Field(default=2.0, ge=0)
    """A file younger than this is left for the next look: it may still be being written."""


class Sqs(Strict):
    """A queue of Amazon's that is told of new objects: by the bucket itself, through SNS, or through EventBridge."""

    queue: str
    """Its URL."""
    region: str | None = None
    """Default: what the URL says, else what the environment says."""
    endpoint_url: str | None = None
    """Where the service is, if it is not Amazon's."""

    @field_validator("queue", "endpoint_url")
    @classmethod
    def _urls(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("https://", "http://")):
            raise ValueError(f"{value!r} is not a URL; write https://sqs.REGION.amazonaws.com/ACCOUNT/NAME, not an ARN")
        return value


class Notifications(Strict):
    """Who tells of new objects, so that they need not be looked for; they are looked for all the same, less often."""

    sqs: Sqs


class BucketDataset(Files, FetchesAhead):
    """Pictures under a URL that fsspec knows: s3, gs, abfs, http (a listing), memory, file, ..."""

    kind: Literal["bucket"]
    url: Url
    options: dict[str, Any] = {}
    """Passed to the filesystem, as `anon: true` or `endpoint_url` for s3."""
    notifications: Notifications | None = None

    @field_validator("notifications")
    @classmethod
    def _of_s3(cls, value: Notifications | None, others: ValidationInfo) -> Notifications | None:
        url = str(others.data.get("url", "s3://"))
        if value and not url.startswith(("s3://", "s3a://")):
            raise ValueError(f"only buckets on S3 notify by SQS, and {url} is none; leave it out")
        if value and not others.data.get("recursive", True):
            raise ValueError("needs `recursive: true`; leave one of them out")
        return value


class Web(FetchesAhead):
    """Manners and limits of fetching from the web."""

    allow_hosts: list[str] = []
    """Hosts, as URLs write them, that may have private addresses. All others must be public."""
    at_once: int = Field(default=64, ge=1, le=1024)
    """Fetches under way."""
    per_host: int = Field(default=8, ge=1)
    """Of which to one host."""
    per_second: float = Field(default=50.0, gt=0)
    """Requests a second to one host."""
    timeout_seconds: float = Field(default=30.0, gt=0)
    """For one attempt."""
    connect_seconds: float = Field(default=10.0, gt=0)
    """Of which until there is a connection."""
    attempts: int = Field(default=3, ge=1)
    backoff_seconds: float = Field(default=1.0, ge=0)
    """Before the second attempt; twice that before the third, ..."""
    max_wait_seconds: float = Field(default=60.0, ge=0)
    """A server that asks to wait longer is left for the next run."""
    dead_after: int = Field(default=5, ge=1)
    """A host that gives no answer so many times in a row..."""
    dead_seconds: float = Field(default=300.0, ge=0)
    """... is left alone for so long: its URLs are failures `unreachable` at once, which the next run tries again."""
    redirects: int = Field(default=5, ge=0)
    robots: bool = True
    """Whether robots.txt is honoured."""
    opt_out: list[str] = ["noai", "noimageai", "noindex", "noimageindex", "none"]
    """Directives of X-Robots-Tag that are honoured."""
    user_agent: str = "Mozilla/5.0 (compatible; caption-assets)"

    @field_validator("allow_hosts", "opt_out")
    @classmethod
    def _lower(cls, value: list[str]) -> list[str]:
        return [each.lower() for each in value]  # so are both where they are looked up


NAMES = ("path", "url", "file_name", "filename", "urls")
"""Keys by which lines name pictures: in lists of one's own, in the hub's folders (`file_name`), in uploads to the Open
Model Initiative (`filename`), and in what it publishes (`urls`)."""


class JsonlDataset(AnyDataset):
    """Pictures named by the lines of a JSON Lines file, `.gz` too; whatever else a line says becomes source columns."""

    kind: Literal["jsonl"]
    path: Place
    """The file, or a URL that fsspec knows."""
    root: Place | None = None
    """The folder or URL that the lines' paths are relative to, and may not leave; default: the file's folder."""
    columns: list[str] = Field(default=[*NAMES], min_length=1)
    """Keys of a line of which the first that is there names the picture: by a text, or the first of a list of texts."""
    web: Web = Web()
    options: dict[str, Any] = {}
    """Passed to the filesystem of a URL."""


class UrlListDataset(AnyDataset):
    """Pictures on the web, named by a table: Parquet, CSV, TSV, JSON Lines, or a URL a line; `.gz`, too."""

    kind: Literal["url_list"]
    path: Place
    """The table, or a URL of it that fsspec knows."""
    column: str = Field(default="url", min_length=1)
    """The column that holds the URLs; the others become source columns."""
    version_column: str | None = Field(default=None, min_length=1)
    """The column that says which picture a URL stands for: a new value is a new item, and nothing else is. None: any
    change of the row is."""
    web: Web = Web()
    options: dict[str, Any] = {}
    """Passed to the filesystem of a URL."""


class WebDatasetDataset(AnyDataset, FetchesAhead):
    """Pictures in tar files, `.tar.gz` too; `.json`, `.txt` and `.cls` of the same key become source columns."""

    kind: Literal["webdataset"]
    path: Place
    """The tar files: a path or URL, with * ? [] and ** for several."""
    options: dict[str, Any] = {}
    """Passed to the filesystem of a URL."""


class HuggingFaceDataset(AnyDataset):
    """Pictures in a column of a dataset of the Hugging Face hub, of a copy of one, of a folder `save_to_disk` wrote, or
    of Parquet."""

    kind: Literal["huggingface"]
    path: str = Field(min_length=1)
    """A name on the hub; what begins with '/', './', '../' or '~' or ends in .parquet is on this machine. Parquet may
    be several files: * ? [] and **."""
    split: str = "train"
    image: str = "image"
    """The column that holds the pictures."""
    columns: list[str] = []
    """Those that become source columns; none: all but the pictures."""
    config_name: str | None = None
    revision: str | None = None
    streaming: bool = False
    """Read rows as they come instead of storing the set here first; planning and fetching each read it once."""

    @field_validator("streaming")
    @classmethod
    def _can_stream(cls, value: bool, others: ValidationInfo) -> bool:
        path = others.data.get("path", "")
        if value and _is_local(path) and not path.endswith(".parquet"):
            raise ValueError("streaming is for the hub and for Parquet; a saved folder is read in place: leave it out")
        return value

    @property
    def local(self) -> bool:
        """Whether it is on this machine."""
        return _is_local(self.path)


def _is_local(path: str) -> bool:
    return path.startswith(("/", "./", "../", "~")) or path.endswith(".parquet")
