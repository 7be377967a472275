"""Which model an engine runs, and what of it decides an output."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from caption_assets.config import TINY_MODEL, ConfigError, OpenAIEngine, PipelineConfig, VllmEngine

TINY_FOLDER = Path(__file__).parents[1] / "demo" / "model"

_DECIDING_ARGS = (
    "dtype",
    "quantization",
    "kv_cache_dtype",
    "mm_processor_kwargs",
    "hf_overrides",
    "tokenizer",
    "tokenizer_revision",
    "chat_template",
    "chat_template_kwargs",
)
"""Engine arguments that change what is generated. Batch sizes, memory and parallelism do not."""


def model_source(config: PipelineConfig, engine: VllmEngine) -> str:
    """What to load: an absolute folder where the model is local, else the hub's name."""
    if engine.model == TINY_MODEL:
        return str(TINY_FOLDER)
    local = Path(engine.model).expanduser()
    local = local if local.is_absolute() else config.base_dir / local
    if local.is_dir():
        return str(local)
    if engine.model.startswith((".", "/", "~")):
        raise ConfigError(
            f"{config.file}: engines: model: {local} is not a folder; correct the path, or name a hub model"
        )
    return engine.model


def model_label(engine: VllmEngine | OpenAIEngine) -> str:
    """The model's name in caption rows: never a path of this machine."""
    return Path(engine.model).name if engine.model.startswith((".", "/", "~")) else engine.model


def model_revision(config: PipelineConfig, engine: VllmEngine | OpenAIEngine) -> str:
    """What pins the weights: a digest of local files, else the revision asked for (`main` where none is)."""
    if isinstance(engine, OpenAIEngine):
        return engine.revision or "main"
    source = model_source(config, engine)
    if Path(source).is_dir():
        return folder_digest(Path(source))
    return engine.revision or "main"


def engine_identity(config: PipelineConfig, engine: VllmEngine | OpenAIEngine) -> dict[str, Any]:
    """The engine's part of a fingerprint: model, revision and the arguments that decide outputs; never servers."""
    if isinstance(engine, OpenAIEngine):
        return {
            "model": engine.model,
            "revision": model_revision(config, engine),
            "max_pixels": config.media.max_pixels,
            **({"structured": engine.structured} if engine.structured != "auto" else {}),
            **({"extra_body": engine.extra_body} if engine.extra_body else {}),
        }
    local = Path(model_source(config, engine)).is_dir()
    return {
        "model": None if local else engine.model,
        "revision": model_revision(config, engine),
        "max_pixels": config.media.max_pixels,
        **{name: engine.args[name] for name in _DECIDING_ARGS if name in engine.args},
    }


def folder_digest(folder: Path) -> str:
    """First 16 hex digits of a SHA-256 over the names and contents of a model's files."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and _decides(file.name))
    if not files:
        raise ConfigError(f"{folder}: holds no model files; expected config.json, tokenizer.json and *.safetensors")
    return _digest(tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files))


def _decides(name: str) -> bool:
    return not name.startswith(".") and name.endswith((".json", ".jinja", ".safetensors", ".bin", ".model", ".txt"))


@lru_cache(maxsize=16)
def _digest(files: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for name, size, _ in files:
        digest.update(f"{Path(name).name}\0{size}\0".encode())
        with open(name, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
