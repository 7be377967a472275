"""The `callbacks` section of a pipeline file: who is told of outcomes, and of which."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from caption_assets.config.datasets import Strict
from caption_assets.config.secrets import EnvironmentSecret, by_reference

AlertType = Literal["alert.arrivals", "alert.failures", "alert.breaker", "alert.queue"]
EventType = Literal[
    "shard.media",
    "shard.captions",
    "dataset.completed",
    "job.succeeded",
    "job.failed",
    "job.cancelled",
    "job.created",
    "job.started",
    "perspective.updated",
    "system.metrics",
    "alert.arrivals",
    "alert.failures",
    "alert.breaker",
    "alert.queue",
]
ON_REQUEST: frozenset[EventType] = frozenset({"job.created", "job.started", "perspective.updated", "system.metrics"})
"""Events that are looked for where somebody names them, and go to nobody else."""


class Callback(Strict):
    """A receiver of events: a URL that takes POST requests."""

    url: str
    secret: EnvironmentSecret | None = None
    """What signs the requests; without it they are unsigned."""
    token: EnvironmentSecret | None = None
    """Sent as `Authorization: Bearer`."""
    datasets: list[str] = Field(default=[])
    """Whose events it gets; none: those of all, and those of jobs that concern no dataset."""
    events: list[EventType] = Field(default=[])
    """Which events it gets; none: all but those in `ON_REQUEST`."""
    allow_hosts: list[str] = Field(default=[])
    """Hosts, as URLs write them, that may have private addresses. All others must be public."""
    timeout_seconds: float = Field(default=10.0, gt=0, le=20)

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        try:
            url = urlsplit(value)
            usable = url.scheme in {"http", "https"} and bool(url.hostname) and (url.port is None or url.port > 0)
        except ValueError:
            usable = False
        if not usable:  # it is not shown: some hosts put a key into the path
            raise ValueError("is no URL; write https://host/path")
        if url.username or url.password:
            raise ValueError("holds a user or a password; put a key into token: {env: NAME}")
        if url.fragment:
            raise ValueError("holds a '#', which is never sent; remove that part")
        return value

    @field_validator("secret", "token", mode="before")
    @classmethod
    def _no_literal_key(cls, value: object) -> object:
        return by_reference(value)

    @model_validator(mode="after")
    def _no_token_in_the_clear(self) -> Callback:
        url = urlsplit(self.url)
        if self.token and url.scheme == "http" and url.hostname not in self.allow_hosts:
            raise ValueError("a token over http can be read on the way; use https, or name the host in allow_hosts")
        return self

    @property
    def host(self) -> str:
        """The receiver as a person may see it: its path may be a secret."""
        return urlsplit(self.url).netloc
