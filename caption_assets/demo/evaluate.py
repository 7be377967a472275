"""Measures a demo model through vLLM: `python -m caption_assets.demo.evaluate --count 500 --seed 7`.

Exits with 1 when a figure lies below its gate.
"""

import argparse
import asyncio
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image
from rich.console import Console
from rich.table import Table

from caption_assets.config import FolderDataset, Perspectives, PipelineConfig, VllmEngine
from caption_assets.demo.answers import IMAGE_PERSPECTIVES, SYNTHESIS, Answer
from caption_assets.demo.prompts import image_prompt, perspectives, synthesis_prompt
from caption_assets.demo.scenes import pictures
from caption_assets.demo.scoring import (
    GATES,
    evaluate_outputs,
    evaluate_synthesis,
    failed_gates,
    parse_answer,
    true_words,
)
from caption_assets.engine.loading import open_engine
from caption_assets.engine.models import TINY_FOLDER
from caption_assets.engine.protocol import Engine, EngineRequest
from caption_assets.engine.vllm_args import TINY_ARGS
from caption_assets.perspectives import guided_schema

PHOTOGRAPH_FOLDER: Final = Path(__file__).parent / "photographs"
EDITS: Final = (" Please.", " Be brief.", " Answer in JSON.")


@dataclass(frozen=True)
class Request:
    """One question: a perspective's prompt, with or without a picture, answered under the perspective's schema."""

    perspective: str
    prompt: str
    image: Image.Image | None = None


Ask = Callable[[Sequence[Request]], Sequence[str]]
"""Answers requests, in their order, under each perspective's schema and sampling."""


@dataclass(frozen=True)
class Photograph:
    """A photograph and the words that are true of it."""

    file: Path
    title: str
    colors: tuple[str, ...]
    light: tuple[str, ...]


def photographs() -> list[Photograph]:
    """The bundled photographs."""
    entries = json.loads((PHOTOGRAPH_FOLDER / "photographs.json").read_text(encoding="utf-8"))
    return [
        Photograph(
            PHOTOGRAPH_FOLDER / entry["file"],
            entry["title"],
            tuple(entry["acceptable"]["colors"]),
            tuple(entry["acceptable"]["light"]),
        )
        for entry in entries
    ]


def ask_photographs(ask: Ask) -> tuple[dict[str, float], list[str]]:
    """Share of photographs whose caption holds only true words, and the captions."""
    shown = photographs()
    requests = [
        Request(name, image_prompt(name), Image.open(photograph.file).convert("RGB"))
        for photograph in shown
        for name in IMAGE_PERSPECTIVES
    ]
    replies = list(ask(requests))
    valid = [parse_answer(request.perspective, reply) for request, reply in zip(requests, replies, strict=True)]
    captions = [str((answer or {}).get("caption", "")) for answer in valid[:: len(IMAGE_PERSPECTIVES)]]
    true = [
        true_words(caption, {"colors": photograph.colors, "light": photograph.light})
        for photograph, caption in zip(shown, captions, strict=True)
    ]
    figures = {
        "photographs": sum(true) / len(true),
        "valid_photographs": sum(answer is not None for answer in valid) / len(valid),
    }
    return figures, captions


def _synthesis_figures(ask: Ask, read: list[dict[str, Answer]]) -> dict[str, float]:
    """Syntheses of the model's own answers, and of answers about three different pictures."""
    mixed = [
        {name: read[(index + shift) % len(read)][name] for shift, name in enumerate(IMAGE_PERSPECTIVES)}
        for index in range(len(read))
    ]
    figures: dict[str, float] = {}
    valid: list[float] = []
    for kind, inputs in (("synthesis_own", read), ("synthesis_mixed", mixed)):
        replies = ask([Request(SYNTHESIS, synthesis_prompt(one)) for one in inputs])
        part = evaluate_synthesis(kind, inputs, replies)
        valid.append(part.pop("valid_synthesis"))
        figures |= part
    return {**figures, "valid_synthesis": min(valid)}


def evaluate(ask: Ask, count: int, seed: int) -> dict[str, float]:
    """All figures of a model on `count` pictures of a folder seed, and on the photographs."""
    drawn = list(pictures(count, seed))
    # picture first, prompt after: the engine then computes a picture's tokens once
    requests = [Request(name, image_prompt(name), one.image) for one in drawn for name in IMAGE_PERSPECTIVES]
    replies = list(ask(requests))
    outputs = {name: replies[place :: len(IMAGE_PERSPECTIVES)] for place, name in enumerate(IMAGE_PERSPECTIVES)}
    figures = evaluate_outputs([one.scene for one in drawn], outputs)

    edited = drawn[: max(1, count // 5)]
    prompts = [image_prompt("scene_caption") + EDITS[index % len(EDITS)] for index in range(len(edited))]
    texts = ask([Request("scene_caption", p, one.image) for p, one in zip(prompts, edited, strict=True)])
    unedited = {name: outputs[name][: len(edited)] for name in IMAGE_PERSPECTIVES}
    with_edit = evaluate_outputs([one.scene for one in edited], {**unedited, "scene_caption": list(texts)})
    figures["edited_prompt_objects"] = with_edit["caption_objects"]

    answered = [{name: parse_answer(name, outputs[name][index]) for name in outputs} for index in range(count)]
    read = [
        {name: answer for name, answer in answers.items() if answer is not None}
        for answers in answered
        if None not in answers.values()
    ]
    figures |= _synthesis_figures(ask, read)
    seen, _ = ask_photographs(ask)
    figures |= seen
    figures["valid"] = min(figures[name] for name in ("valid", "valid_synthesis", "valid_photographs"))
    return figures


def engine_ask(engine: Engine) -> Ask:
    """Ask an engine as the pipeline does: the same schema, sampling and order."""

    def request(number: int, one: Request) -> EngineRequest:
        perspective = perspectives()[one.perspective]
        return EngineRequest(
            request_id=f"evaluate-{number}",
            text=one.prompt,
            image=one.image,
            image_id=None if one.image is None else hashlib.sha256(one.image.tobytes()).hexdigest(),
            json_schema=guided_schema(perspective),
            max_tokens=perspective.sampling.max_tokens,
        )

    async def answer(requests: Sequence[Request]) -> list[str]:
        replies = await asyncio.gather(*(engine.generate(request(n, one)) for n, one in enumerate(requests)))
        return [reply.text for reply in replies]

    return lambda requests: asyncio.run(answer(requests))


@contextmanager
def open_model(folder: Path) -> Iterator[Engine]:
    """Load a demo model with the arguments that the pipeline uses for the bundled one."""
    config = PipelineConfig(
        lake="unused",
        datasets={"unused": FolderDataset(kind="folder", path=folder)},
        perspectives=Perspectives(library=["demo"], enabled=list(perspectives())),
        engines={"default": VllmEngine(kind="vllm", model=str(folder.absolute()), args=TINY_ARGS)},
    )
    with open_engine(config, "default") as engine:
        yield engine


def _table(figures: dict[str, float]) -> Table:
    table = Table("figure", "value", "gate", title="Demo model")
    for name in sorted(figures, key=lambda one: (one not in GATES, one)):
        gate, value = GATES.get(name), figures[name]
        color = "white" if gate is None else "green" if value >= gate else "red"
        table.add_row(name, f"[{color}]{value:.4f}[/]", "" if gate is None else f"{gate:.2f}")
    return table


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Measure a demo model through vLLM.")
    parser.add_argument("--model", type=Path, default=TINY_FOLDER)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    console = Console()
    with open_model(arguments.model) as engine:
        ask = engine_ask(engine)
        start = time.monotonic()
        figures = evaluate(ask, arguments.count, arguments.seed)
        seconds = time.monotonic() - start
        _, captions = ask_photographs(ask)
    console.print(_table(figures))
    console.print(f"{arguments.count} pictures of seed {arguments.seed} in {seconds:.0f} s")
    for photograph, caption in zip(photographs(), captions, strict=True):
        console.print(f"{photograph.title}: {caption}", highlight=False)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if failed := failed_gates(figures):
        console.print(f"[red]below the gate: {', '.join(failed)}")
        sys.exit(1)


if __name__ == "__main__":
    main()
