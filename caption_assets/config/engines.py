"""The `engines` section of a pipeline file: what answers prompts."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from caption_assets.config.datasets import Strict
from caption_assets.config.secrets import EnvironmentSecret, by_reference

TINY_MODEL = "tiny"
"""The name of the bundled model."""

_OWN_FIELDS = frozenset({"model", "messages", "response_format", "stream", "n"})
"""Fields of a request that `extra_body` must leave alone."""


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


def prices_of(engine: Engine) -> Prices | None:
    """What its tokens cost, where that is known."""
    return engine.prices if isinstance(engine, OpenAIEngine) else None
