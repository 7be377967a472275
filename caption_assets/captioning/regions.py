"""Looks at the regions of a picture: a request a crop, and of all of them one row.

A crop that fails makes the picture a failure, whose row keeps what the others said (`partial`), so that the next run
asks for what is missing only.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from typing import Any

from PIL import Image

from caption_assets.captioning.asking import (
    Answered,
    AskFailure,
    Earlier,
    Spent,
    ask,
    decoded,
    first_request,
    is_final,
    unreadable,
)
from caption_assets.captioning.binding import BoundPerspective
from caption_assets.captioning.crops import Region, cut_regions
from caption_assets.captioning.rows import Digests
from caption_assets.engine.protocol import Engine, EngineReply

Stored = Image.Image | bytes
Text = Callable[[Mapping[str, Any] | None], str]
"""The text that asks about a region. Raises AskFailure."""


@dataclass(frozen=True)
class RegionLook:
    """One perspective's look at the regions of one picture.

    Attributes:
        media: the picture's row.
        inputs: the outputs that the perspective reads.
        partial: what an earlier run finished, as its failure row has it.
        earlier: what earlier runs tried in vain.
        stored: gives the picture, decoded or as its file. Raises AskFailure.
    """

    bound: BoundPerspective
    request_id: str
    media: Mapping[str, Any]
    inputs: Mapping[str, Mapping[str, Any]]
    digests: Digests
    partial: str | None
    earlier: Earlier
    text: Text
    stored: Callable[[], Awaitable[Stored]]


@dataclass(frozen=True)
class _Crop:
    """What was said of a crop, and what it took."""

    output: Mapping[str, Any]
    finish_reason: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    attempts: int


class RegionAsker:
    """Asks an engine about crops; of all pictures together no more at once than keep it busy.

    Args:
        max_attempts: requests a crop, over all runs.
        decoders: threads for pictures that come as files.
    """

    def __init__(self, engine: Engine, max_attempts: int, decoders: Executor) -> None:
        self._engine, self._max_attempts, self._decoders = engine, max_attempts, decoders
        self._size = engine.max_in_flight
        self._room = asyncio.Semaphore(self._size)

    async def ask(self, look: RegionLook) -> Answered:
        """Ask about all regions at once. Without any region there is no request, and the answer is an empty list.

        Raises:
            AskFailure: of the first region that failed for good, else of the first that failed.
            EngineFailure: the engine is gone (fatal); in an exception group.
        """
        options = look.bound.perspective.regions
        assert options is not None  # the lint sees to it
        found = look.inputs[options.input].get(options.field) or []
        regions, left_out = cut_regions(options, found, look.media)
        done = _finished(look)
        failures: dict[int, AskFailure] = {}
        spent = Spent()
        missing = [region for region in regions if region.index not in done]
        if missing:
            self._widen()
            picture = await self._decoded(await look.stored())
            async with asyncio.TaskGroup() as group:
                for region in missing:
                    group.create_task(self._one(look, picture, region, done, failures, spent))
        crops = [done[region.index] for region in regions if region.index in done]
        if failures:
            raise _failure(look, regions, done, failures, spent, self._max_attempts)
        said = [{**region.values, **crop.output} for region, crop in zip(regions, crops, strict=True)]
        attempts = max((crop.attempts for crop in crops), default=0)
        return Answered({"regions": said, **left_out}, _together(crops), attempts, spent)

    async def _one(
        self,
        look: RegionLook,
        picture: Image.Image,
        region: Region,
        done: dict[int, _Crop],
        failures: dict[int, AskFailure],
        spent: Spent,
    ) -> None:
        """Bring one region to its end: in `done`, or in `failures`."""
        async with self._room:
            try:
                place = ",".join(map(str, region.crop))
                image_id = f"{look.media['media_id']}@{place}"  # the same pixels for every perspective on these boxes
                text, crop = look.text(region.values), picture.crop(region.crop)
                request = first_request(look.bound, f"{look.request_id}[{region.index}]", text, crop, image_id)
                answered = await ask(self._engine, look.bound, request, self._max_attempts, look.earlier)
            except AskFailure as failure:
                failures[region.index] = failure
                spent.add(failure.spent)
                return
        spent.add(answered.spent)
        reply = answered.reply
        done[region.index] = _Crop(
            answered.output,
            reply.finish_reason,
            reply.prompt_tokens,
            reply.cached_tokens,
            reply.completion_tokens,
            answered.attempts,
        )

    def _widen(self) -> None:
        """Let in as many as the engine takes, which is known once it is loaded."""
        for _ in range(self._engine.max_in_flight - self._size):
            self._room.release()
        self._size = max(self._size, self._engine.max_in_flight)

    async def _decoded(self, stored: Stored) -> Image.Image:
        if isinstance(stored, Image.Image):
            return stored
        try:
            return await asyncio.get_running_loop().run_in_executor(self._decoders, decoded, stored)
        except (OSError, ValueError, SyntaxError) as error:
            raise unreadable(error) from None


def _together(crops: list[_Crop]) -> EngineReply:
    """All replies as one, for the picture's row: an earlier run's, too."""
    return EngineReply(
        text="",
        finish_reason="length" if any(crop.finish_reason == "length" for crop in crops) else "stop",
        prompt_tokens=sum(crop.prompt_tokens for crop in crops),
        cached_tokens=sum(crop.cached_tokens for crop in crops),
        completion_tokens=sum(crop.completion_tokens for crop in crops),
    )


def _failure(
    look: RegionLook,
    regions: list[Region],
    done: dict[int, _Crop],
    failures: dict[int, AskFailure],
    spent: Spent,
    max_attempts: int,
) -> AskFailure:
    """The picture's failure: while one region can never have an answer, trying the others again gains nothing."""

    def goes_on(index: int) -> bool:
        attempts = look.earlier.attempts + failures[index].attempts
        return not is_final(failures[index].kind, attempts, max_attempts)

    index = min(failures, key=lambda each: (goes_on(each), each))
    first = failures[index]
    box = next(region.values["box_pixels"] for region in regions if region.index == index)
    message = f"region {index}, box {box} of the original: {first} ({len(failures)} of {len(regions)} regions failed)"
    attempts = max(failure.attempts for failure in failures.values())
    failure = AskFailure(first.kind, message, attempts=attempts)
    failure.spent = spent
    if done:
        crops = {str(index): asdict(crop) for index, crop in sorted(done.items())}
        failure.partial = json.dumps({"read": look.digests, "crops": crops}, ensure_ascii=False, separators=(",", ":"))
    return failure


def _finished(look: RegionLook) -> dict[int, _Crop]:
    """What an earlier run was told of the regions, by index, if it read what there is to read now."""
    kept = json.loads(look.partial) if look.partial else {}
    if kept.get("read") != list(look.digests):
        return {}
    return {int(index): _Crop(**crop) for index, crop in kept["crops"].items()}
