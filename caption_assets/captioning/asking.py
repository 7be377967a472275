"""One question to the engine, with its ladder of retries: an answer that passes the schema, or a failure with a kind.

| what went wrong | what is tried |
|---|---|
| engine (transient) | the same request again, after a pause with jitter |
| truncated (`max_tokens` reached) | once with twice the budget |
| empty, not_json, schema, repetition, refusal | another seed, at a temperature above zero |
| too_long | half the picture's pixels |
| prompt | nothing: the same request would be refused again |

Every request counts as an attempt, over all runs, but those that came to nothing for no fault of the picture's: the
engine was away or overloaded, or answered nobody.
"""

from __future__ import annotations

import asyncio
import io
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from caption_assets.captioning.binding import BoundPerspective
from caption_assets.captioning.rows import NOTHING_READ, Digests
from caption_assets.engine.protocol import Engine, EngineFailure, EngineReply, EngineRequest
from caption_assets.lake.tables import CaptionFailureKind
from caption_assets.perspectives import InvalidOutput, validate_output

_RETRY_TEMPERATURE = 0.7
_PAUSE_SECONDS = 0.5
_TRANSIENT_TRIES = 3
"""Requests in one run that may come to nothing by the engine's fault."""
_LEAST_PIXELS = 32 * 32
_FIRST = "#1"
"""Ends the names of the requests that come first."""
_EXCERPT = 300

_REPEATS_ITSELF = frozenset({"truncated", "prompt", "too_long"})
_WAITS = frozenset({"input_missing", "media_missing"})
_MAY_DIFFER = frozenset({"empty", "not_json", "schema", "repetition", "refusal"})


def decoded(stored: bytes) -> Image.Image:
    """The RGB pixels of a stored picture. Raises whatever Pillow does."""
    with Image.open(io.BytesIO(stored)) as image:
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")  # which would copy


def unreadable(error: Exception) -> AskFailure:
    """The failure of a picture whose stored bytes cannot be had, or cannot be decoded."""
    return AskFailure(
        "media_missing", f"the stored picture cannot be read: {type(error).__name__}: {error}", attempts=0
    )


def is_final(kind: str, attempts: int, max_attempts: int) -> bool:
    """Whether a failure is settled: asking again would repeat it, or it has had all its attempts."""
    return kind in _REPEATS_ITSELF or (attempts >= max_attempts and kind not in _WAITS)


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
    """No valid answer; `attempts` requests were made for it, those not counted that failed by the engine's fault."""

    def __init__(self, kind: CaptionFailureKind, message: str, *, attempts: int) -> None:
        super().__init__(message)
        self.kind: CaptionFailureKind = kind
        self.attempts = attempts
        self.spent = Spent()
        self.partial: str | None = None
        """JSON: what is done of a picture whose regions are looked at one by one."""
        self.read: Digests | None = None
        """What the prompt read, where that came to be known."""


@dataclass(frozen=True)
class Earlier:
    """What earlier runs tried in vain: how often, how that ended, and what the prompt read."""

    attempts: int = 0
    kind: str | None = None
    read: Digests = NOTHING_READ


NEVER = Earlier()
"""Nothing was tried."""


@dataclass(frozen=True)
class Answered:
    """A valid output, the reply it came in, and how many requests it took."""

    output: Mapping[str, Any]
    reply: EngineReply
    attempts: int
    spent: Spent
    smaller: bool = False
    """Whether the picture had to be shown smaller than it is stored."""


def first_request(
    bound: BoundPerspective, request_id: str, text: str, image: Image.Image | bytes | None, image_id: str | None
) -> EngineRequest:
    """The request of a first attempt; the picture is pixels, or the bytes of its file.

    What looks at pictures goes first: text can wait without losing the cache that a picture's perspectives share, and
    what has waited fills the engine while the last pictures, and what reads them, come to their ends.
    """
    sampling = bound.perspective.sampling
    return EngineRequest(
        request_id=request_id + _FIRST,
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
        priority=0 if bound.perspective.image else 1,
    )


async def ask(
    engine: Engine, bound: BoundPerspective, first: EngineRequest, max_attempts: int, earlier: Earlier | None = None
) -> Answered:
    """Ask until the answer is valid.

    Args:
        max_attempts: attempts allowed, those of earlier runs included.
        earlier: what earlier runs tried.

    Raises:
        AskFailure: no attempt gave a valid answer.
        EngineFailure: the engine is gone (fatal).
    """
    ladder = _Ladder(first, max_attempts, earlier or NEVER)
    spent = Spent()
    while True:
        try:
            reply = await engine.generate(ladder.next_request())
        except EngineFailure as error:
            if error.fatal:
                raise
            goes_on = await ladder.refused(error)
        else:
            spent.add(reply)
            try:
                output = validate_output(bound.perspective, reply.text)
                return Answered(output, reply, ladder.attempts + 1, spent, ladder.smaller)
            except InvalidOutput as error:
                goes_on = ladder.unusable(error, reply)
        if not goes_on:
            assert ladder.failure is not None
            ladder.failure.spent = spent
            raise ladder.failure


class _Ladder:
    """The next request, by what became of the ones before."""

    def __init__(self, first: EngineRequest, max_attempts: int, earlier: Earlier) -> None:
        self._first, self._request, self._max, self._before = first, first, max_attempts, earlier.attempts
        self.attempts = self._transient = self._sent = 0
        self.smaller = False
        self.failure: AskFailure | None = None
        if earlier.kind in _MAY_DIFFER:
            self._vary()

    def next_request(self) -> EngineRequest:
        """What to ask now, under a name of its own."""
        self._sent += 1
        if self._sent == 1 and self._request is self._first:
            return self._first
        name = self._first.request_id.removesuffix(_FIRST)
        return replace(self._request, request_id=f"{name}#{self._sent}")

    async def refused(self, error: EngineFailure) -> bool:
        """Climb after a request without a reply; False: this is the end."""
        blameless = error.kind == "engine" and not error.own
        self.attempts += not blameless
        self._transient += blameless
        outgrown = error.kind == "too_long" and self._request.max_tokens > self._first.max_tokens
        if not (outgrown and self.failure):  # else the answer stays truncated: a larger budget has no room
            self.failure = AskFailure(error.kind, str(error), attempts=self.attempts)
        self.failure.attempts = self.attempts
        if outgrown or self._exhausted() or self._transient >= _TRANSIENT_TRIES:
            return False
        if error.kind == "refusal":
            self._vary()
            return True
        if error.kind == "too_long":
            return await asyncio.to_thread(self._shrink)
        if not error.retryable:
            return False
        await asyncio.sleep(_PAUSE_SECONDS * 2 ** (self._transient + self.attempts - 1) * random.uniform(0.5, 1.5))
        return True

    def unusable(self, error: InvalidOutput, reply: EngineReply) -> bool:
        """Climb after a reply that is no caption; False: this is the end."""
        self.attempts += 1
        cut = {"not_json", "schema"} | ({"empty"} if not reply.text else set())  # all went into what is not shown
        truncated = reply.finish_reason == "length" and error.kind in cut
        kind: CaptionFailureKind = "truncated" if truncated else error.kind
        message = f"{error.message}; the reply begins: {reply.text[:_EXCERPT]!r}"
        self.failure = AskFailure(kind, message, attempts=self.attempts)
        if self._exhausted():
            return False
        if not truncated:
            self._vary()
            return True
        larger = self._request.max_tokens > self._first.max_tokens
        self._request = replace(self._request, max_tokens=2 * self._first.max_tokens)
        return not larger

    def _exhausted(self) -> bool:
        return self._before + self.attempts >= self._max

    def _vary(self) -> None:
        """Another seed, at a temperature above zero."""
        temperature = max(self._first.temperature, _RETRY_TEMPERATURE)
        seed = (self._first.seed or 0) + self._before + self.attempts
        self._request = replace(self._request, temperature=temperature, seed=seed)

    def _shrink(self) -> bool:
        """Half the pixels; False where there is no picture, or little left of it."""
        request = self._request
        image = Image.open(io.BytesIO(request.image_file)) if request.image_file is not None else request.image
        if image is None or image.width * image.height < 2 * _LEAST_PIXELS:
            return False
        width, height = (max(1, round(side * math.sqrt(0.5))) for side in image.size)
        small = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
        name = self._first.image_id and f"{self._first.image_id}-{width}x{height}"  # other pixels, so another name
        self._request = replace(request, image=small, image_file=None, image_id=name)
        self.smaller = True
        return True
