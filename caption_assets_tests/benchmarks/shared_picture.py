"""What five perspectives on one picture share: `python -m caption_assets_tests.benchmarks.shared_picture`.

The model is an Idefics3 with random weights that sees a picture as 400 tokens (320 pixels a side, patches of 16); the
perspectives are plain text, 16 tokens each; the KV cache holds a fifth of the pictures. All perspectives together, as
the caption op asks for them, against a run of the op for each perspective. Printed: how often the encoder ran for a
picture, the share of the image tokens of a picture's later four requests that came from the cache, and the ratio of
requests a second, median over repetitions in turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from caption_assets.config import PipelineConfig, load_config
from caption_assets.demo.scenes import write_scenes
from caption_assets.engine.device import cpu_dtype, has_gpu
from caption_assets.engine.loading import open_engine
from caption_assets.engine.models import TINY_FOLDER
from caption_assets.engine.protocol import Engine, EngineReply, EngineRequest
from caption_assets.engine.vllm_args import prepare_environment
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets_tests.support import caption, ingest, lent

SIDE, PATCH = 320, 16
IMAGE_TOKENS = (SIDE // PATCH) ** 2
_BEFORE_IMAGE = 4
"""Tokens that stand before the image's: start, user, and the processor's two markers."""
_ANSWER_TOKENS = 16
_PERSPECTIVES = 5
_KV_NUMBERS_PER_TOKEN = 4 * 2 * 2 * 64
"""Layers x keys and values x heads x head width."""


@dataclass
class PlainTextEngine:
    """Asks for sixteen tokens of plain text, whatever the schema, and counts what the cache gave."""

    engine: Engine
    salt: str
    cached: dict[str, list[int]] = field(default_factory=dict)
    load_seconds: float = 0.0
    requests: int = 0

    @property
    def max_in_flight(self) -> int:
        """As the engine's."""
        return self.engine.max_in_flight

    async def generate(self, request: EngineRequest) -> EngineReply:
        """Answer a request with the schema's one field."""
        own = f"{self.salt}-{request.image_id}"
        plain = replace(
            request,
            request_id=f"{self.salt}-{request.request_id}",
            image_id=own,
            json_schema=None,
            max_tokens=_ANSWER_TOKENS,
        )
        reply = await self.engine.generate(plain)
        if reply.completion_tokens != _ANSWER_TOKENS:
            raise RuntimeError(f"{reply.completion_tokens} tokens, not {_ANSWER_TOKENS}")
        self.requests += 1
        of_image = min(max(reply.cached_tokens - _BEFORE_IMAGE, 0), IMAGE_TOKENS)
        self.cached.setdefault(own, []).append(of_image)
        return replace(reply, text=json.dumps({"text": f"answer {self.requests}"}), finish_reason="stop")

    def close(self) -> None:
        """Leave the engine to the benchmark."""

    def share_of_later(self) -> float:
        """The share of the image tokens of all but each picture's first request that came from the cache."""
        later = [sorted(each)[1:] for each in self.cached.values()]
        return sum(map(sum, later)) / (IMAGE_TOKENS * sum(map(len, later)))


def write_model(folder: Path) -> None:
    """A model folder with random weights and the bundled model's tokenizer."""
    import torch
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration

    from caption_assets.demo.tokenizer import load_tokenizer

    settings: dict[str, Any] = json.loads((TINY_FOLDER / "config.json").read_text())
    settings["vision_config"] |= {"image_size": SIDE, "patch_size": PATCH}
    settings["text_config"] |= {"max_position_embeddings": 2048, "eos_token_id": 0}  # it goes on to the last token
    torch.manual_seed(1)
    model: Any = Idefics3ForConditionalGeneration(Idefics3Config(**settings))  # type: ignore[no-untyped-call]
    model.to(torch.bfloat16).save_pretrained(folder)
    load_tokenizer(TINY_FOLDER).save_pretrained(folder)
    processor = json.loads((TINY_FOLDER / "preprocessor_config.json").read_text())
    processor |= {"size": {"longest_edge": SIDE}, "max_image_size": {"longest_edge": SIDE}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    whole = json.loads((TINY_FOLDER / "processor_config.json").read_text()) | {"image_seq_len": IMAGE_TOKENS}
    (folder / "processor_config.json").write_text(json.dumps(whole))
    generation = {"bos_token_id": 1, "eos_token_id": 0, "pad_token_id": 0, "do_sample": False}
    (folder / "generation_config.json").write_text(json.dumps(generation))


def prepare(folder: Path, pictures: int) -> PipelineConfig:
    """Model, perspectives, pictures and a pipeline file: one shard."""
    write_model(folder / "model")
    write_scenes(folder / "pictures", pictures, 5)
    (folder / "perspectives").mkdir()
    names = [f"view_{number}" for number in range(_PERSPECTIVES)]
    for number, name in enumerate(names):
        perspective = {
            "name": name,
            "prompt": f"Look at the picture in way number {number}, and write about it.",
            "schema_fields": [{"name": "text", "type": "str"}],
            "describe_schema": False,
        }
        (folder / "perspectives" / f"{name}.json").write_text(json.dumps(perspective))
    dtype = "bfloat16" if has_gpu() else cpu_dtype()
    per_token = {"bfloat16": 2, "float32": 4}[dtype] * _KV_NUMBERS_PER_TOKEN
    arguments = {
        "max_model_len": 1024,
        "skip_mm_profiling": True,
        "dtype": dtype,
        "kv_cache_memory_bytes": per_token * (IMAGE_TOKENS + 60) * pictures // 5,
    }
    document = {
        "lake": "./lake",
        "datasets": {"bench": {"kind": "folder", "path": "./pictures", "shard_size": pictures}},
        "perspectives": {"library": ["./perspectives"], "enabled": names},
        "engines": {"default": {"kind": "vllm", "model": "./model", "mode": "in_process", "args": arguments}},
    }
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(document))
    return load_config(folder / "pipeline.yaml")


class EncoderRuns:
    """Counts the pictures that the vision encoder is given."""

    def __init__(self) -> None:
        from vllm.model_executor.models.idefics3 import Idefics3ForConditionalGeneration as Model

        self.pictures = 0
        encode = Model.embed_multimodal

        def counted(model: Any, **inputs: Any) -> Any:
            embeddings = encode(model, **inputs)
            self.pictures += len(embeddings)
            return embeddings

        Model.embed_multimodal = counted


def measure(config: PipelineConfig, pictures: int, repeat: int) -> None:
    """Run all perspectives together and one by one in turn, and print the figures."""
    lake = Lake(config.lake)
    (shard,) = ingest(config, lake, "bench")
    names = config.perspectives.enabled
    together: list[float] = []
    apart: list[float] = []
    encoder: list[float] = []
    shares: list[float] = []
    with open_engine(config, "default") as engine:
        runs = EncoderRuns()
        for turn in range(repeat + 1):
            before, plain = runs.pictures, PlainTextEngine(engine, f"all{turn}")
            rate = _rate(config, lake, shard, plain, [names])
            one_by_one = PlainTextEngine(engine, f"each{turn}")
            encoded = (runs.pictures - before) / pictures
            other = _rate(config, lake, shard, one_by_one, [[name] for name in names])
            if turn:  # the first of each warms up
                together.append(rate)
                apart.append(other)
                encoder.append(encoded)
                shares.append(plain.share_of_later())
    ratio = statistics.median(one / other for one, other in zip(together, apart, strict=True))
    table = Table(
        "figure", "value", "wanted", title=f"{pictures} pictures, {_PERSPECTIVES} perspectives, {repeat} turns"
    )
    table.add_row("encoder runs a picture", f"{max(encoder):.3f}", "1")
    table.add_row("image tokens of the later four from the cache", f"{min(shares):.3f}", "0.90")
    table.add_row("requests/s together", f"{statistics.median(together):.1f}", "")
    table.add_row("requests/s in separate passes", f"{statistics.median(apart):.1f}", "")
    table.add_row("together / separate", f"{ratio:.2f}", "2")
    Console().print(table)


def _rate(config: PipelineConfig, lake: Lake, shard: Shard, engine: PlainTextEngine, passes: list[list[str]]) -> float:
    """Requests a second of the op, over one or more passes."""
    lake.remove_folder("captions")
    started = time.perf_counter()
    for names in passes:
        caption(config, lake, [shard], lent(engine), run_id=f"{engine.salt}-{names[0]}", only=names)
    return engine.requests / (time.perf_counter() - started)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=80)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    prepare_environment()  # before torch is imported, which the drawing of weights does
    with tempfile.TemporaryDirectory() as folder:
        measure(prepare(Path(folder), options.pictures), options.pictures, options.repeat)


if __name__ == "__main__":
    main()
