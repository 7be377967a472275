"""One question to the engine, with its ladder of retries: an answer that passes the schema, or a failure with a kind.

| what went wrong | what is tried |
|---|---|
| engine (transient) | the same request again, after a pause with jitter |
| truncated (`max_tokens` reached) | once with twice the budget |
| empty, not_json, schema, repetition, refusal | another seed, at a temperature above zero |
| prompt, too_long | nothing: the same request would be refused again |
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from caption_assets.captioning.binding import BoundPerspective
from caption_assets.engine.protocol import Engine, EngineFailure, EngineReply, EngineRequest
from caption_assets.lake.tables import CaptionFailureKind
from caption_assets.perspectives import InvalidOutput, validate_output

_RETRY_TEMPERATURE = 0.7
_PAUSE_SECONDS = 0.5
_EXCERPT = 300


@dataclass
class Spent:
    """Tokens of all replies to a question, the unusable ones included: what is paid for."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(self, other: EngineReply | Spent) -> None:
        """Count more."""
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens


class AskFailure(Exception):
    """No valid answer; `attempts` requests were made for it."""

    def __init__(self, kind: CaptionFailureKind, message: str, *, attempts: int, retryable: bool) -> None:
        super().__init__(message)
        self.kind: CaptionFailureKind = kind
        self.attempts = attempts
        self.retryable = retryable
        self.spent = Spent()
        self.partial: str | None = None
        """JSON: what is done of a picture whose regions are looked at one by one."""


@dataclass(frozen=True)
class Answered:
    """A valid output, the reply it came in, and how many requests it took."""

    output: Mapping[str, Any]
    reply: EngineReply
    attempts: int
    spent: Spent


def first_request(
    bound: BoundPerspective, request_id: str, text: str, image: Image.Image | bytes | None, image_id: str | None
) -> EngineRequest:
    """The request of a first attempt; the picture is pixels, or the bytes of its file."""
    sampling = bound.perspective.sampling
    return EngineRequest(
        request_id=request_id,
        text=text,
        image=None if isinstance(image, bytes) else image,
        image_file=image if isinstance(image, bytes) else None,
        image_id=image_id,
        json_schema=bound.guided_schema,
        temperature=sampling.temperature,
        top_p=1.0 if sampling.top_p is None else sampling.top_p,
        top_k=0 if sampling.top_k is None else sampling.top_k,
        max_tokens=sampling.max_tokens,
        seed=sampling.seed,
        repetition_penalty=1.0 if sampling.repetition_penalty is None else sampling.repetition_penalty,
    )


async def ask(engine: Engine, bound: BoundPerspective, first: EngineRequest, max_attempts: int) -> Answered:
    """Ask until the answer is valid.

    Raises:
        AskFailure: no attempt gave a valid answer.
        EngineFailure: the engine is gone (fatal).
    """
    request = first
    failure: AskFailure | None = None
    spent = Spent()
    for attempt in range(1, max_attempts + 1):
        request = replace(request, request_id=f"{first.request_id}#{attempt}")
        try:
            reply = await engine.generate(request)
        except EngineFailure as error:
            if error.fatal:
                raise
            failure = AskFailure(error.kind, str(error), attempts=attempt, retryable=error.retryable)
            if error.kind == "refusal":
                request = _varied(request, first, attempt)
                continue
            if not error.retryable:
                break
            await asyncio.sleep(_PAUSE_SECONDS * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
            continue
        spent.add(reply)
        try:
            return Answered(validate_output(bound.perspective, reply.text), reply, attempt, spent)
        except InvalidOutput as error:
            failure = _invalid(error, reply, attempt)
        if failure.kind == "truncated":
            if request.max_tokens != first.max_tokens:
                break
            request = replace(request, max_tokens=2 * first.max_tokens)
        else:
            request = _varied(request, first, attempt)
    assert failure is not None  # max_attempts is at least 1
    failure.spent = spent
    raise failure


def _varied(request: EngineRequest, first: EngineRequest, attempt: int) -> EngineRequest:
    """The request at another seed and temperature."""
    temperature = max(first.temperature, _RETRY_TEMPERATURE)
    return replace(request, temperature=temperature, seed=(first.seed or 0) + attempt)


def _invalid(error: InvalidOutput, reply: EngineReply, attempt: int) -> AskFailure:
    truncated = reply.finish_reason == "length" and error.kind in {"not_json", "schema"}
    kind: CaptionFailureKind = "truncated" if truncated else error.kind
    message = f"{error.message}; the reply begins: {reply.text[:_EXCERPT]!r}"
    return AskFailure(kind, message, attempts=attempt, retryable=False)
