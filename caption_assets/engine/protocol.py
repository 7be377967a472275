"""The protocol over all engines: submit a request, await its reply. Batching is the engine's business."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from PIL import Image

from caption_assets.lake.tables import CaptionFailureKind


@dataclass(frozen=True)
class EngineRequest:
    """One prompt, with or without a picture. The picture stands before the text, so that its tokens can be shared."""

    request_id: str
    text: str
    image: Image.Image | None
    image_id: str | None
    """Stable name of the picture's pixels: requests with the same one share the encoder's work."""
    json_schema: dict[str, Any] | None
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 512
    seed: int | None = None
    repetition_penalty: float = 1.0
    image_file: bytes | None = None
    """The picture as it is stored, instead of `image`, for engines that only pass it on."""
    priority: int = 0
    """Of waiting requests, those with the lowest go first where the engine sees to it."""


@dataclass(frozen=True)
class EngineReply:
    """What the engine answered."""

    text: str
    finish_reason: str
    """`stop`, or `length` where `max_tokens` ended it."""
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


class EngineFailure(Exception):
    """A request got no reply.

    Attributes:
        kind: the caption failure kind.
        retryable: whether the same request may succeed later.
        fatal: whether the engine is gone, and further requests are pointless.
        died: whether it is gone because it broke down, so that loading it again may help.
        own: for kind `engine`: whether other requests were answered meanwhile, so that this one is the likely cause.
    """

    def __init__(
        self,
        kind: CaptionFailureKind,
        message: str,
        *,
        retryable: bool,
        fatal: bool = False,
        died: bool = False,
        own: bool = False,
    ) -> None:
        super().__init__(message)
        self.kind: CaptionFailureKind = kind
        self.retryable = retryable
        self.fatal, self.died, self.own = fatal, died, own


class Engine(Protocol):
    """A loaded model, ready for requests from one event loop."""

    max_in_flight: int
    """Requests that keep it busy: more waiting than this gains nothing."""
    load_seconds: float

    async def generate(self, request: EngineRequest) -> EngineReply:
        """Answer a request. Raises EngineFailure."""

    def close(self) -> None:
        """Free the device. Requests under way fail."""


@runtime_checkable
class SharesCores(Protocol):
    """An engine whose model may work on the cores that we work on."""

    def wait_for_core(self) -> None:
        """Return when work that can wait disturbs the model least, or has waited long. For any thread but a loop's."""


def wait_for_core(engine: Engine | None) -> None:
    """As `SharesCores` has it; at once where the engine does not, or is not there."""
    if isinstance(engine, SharesCores):
        engine.wait_for_core()
