"""How a model is spread over GPUs: over as few as hold it, and a copy of it on each such group.

Copies share nothing, so they lose no time on each other; what holds a model together over several GPUs does. Those of
up to 8 billion parameters fit on one GPU nearly everywhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_UTILIZATION = 0.92
_FOR_WEIGHTS = 0.75
"""Of the memory that vLLM may take on a GPU: the rest is for the KV cache, pictures and activations."""
_FOUR_BIT_BYTES = 0.6
"""Bytes a parameter, scales included."""

_SIZE = re.compile(r"(?<![0-9a-z.])(\d+(?:\.\d+)?)([bm])(?![a-z0-9])", re.I)
_EIGHT_BITS = re.compile(r"fp8|int8|w8a8|8bit", re.I)
_FOUR_BITS = re.compile(r"awq|gptq|int4|w4a16|4bit|fp4|bnb|bitsandbytes", re.I)
_OWN_PLAN = frozenset(
    {"pipeline_parallel_size", "data_parallel_rank", "data_parallel_size_local", "data_parallel_external_lb"}
    | {"data_parallel_hybrid_lb", "nnodes", "device_ids", "distributed_executor_backend"}
)
"""Arguments that say that somebody has a plan of their own for the GPUs."""


@dataclass(frozen=True)
class Gpus:
    """The GPUs that a run may use; none: it is on a CPU."""

    count: int = 0
    memory: int | None = None
    """Bytes of one, where that is known."""


def spread(gpus: Gpus, weights: int | None, args: Mapping[str, Any], *, copies: bool) -> dict[str, int]:
    """vLLM's `tensor_parallel_size` and `data_parallel_size` for a machine, what is in `args` left as it is.

    Args:
        weights: bytes of the model; None: unknown, and taken for little.
        args: engine arguments of the pipeline file.
        copies: whether the engine can run several copies of a model.
    """
    if gpus.count < 2 or _OWN_PLAN & args.keys():
        return {}
    room = gpus.count // int(args.get("data_parallel_size", 1))
    tensor = int(args.get("tensor_parallel_size") or _least(room, gpus.memory, weights, args))
    chosen = {"tensor_parallel_size": tensor}
    if copies:
        chosen["data_parallel_size"] = max(gpus.count // tensor, 1)
    return {name: value for name, value in chosen.items() if name not in args}


def _least(gpus: int, memory: int | None, weights: int | None, args: Mapping[str, Any]) -> int:
    """The least number of GPUs, a power of two, that holds the model with room for its work; or all there are."""
    if memory is None or weights is None:
        return 1
    each = memory * float(args.get("gpu_memory_utilization", _UTILIZATION)) * _FOR_WEIGHTS
    tensor = 1
    while tensor * each < weights and 2 * tensor <= gpus:
        tensor *= 2
    return tensor


def weight_bytes(source: str, revision: str | None, args: Mapping[str, Any]) -> int | None:
    """How large a model is, without asking anybody: from its files, local or in the hub's cache, else from its name.

    Args:
        source: a folder, or the hub's name.
        args: engine arguments of the pipeline file; a quantization that is made while loading counts.
    """
    folder = Path(source)
    stored = _in_folder(folder) if folder.is_dir() else _in_cache(source, revision)
    return stored or _by_name(f"{folder.name} {args.get('quantization') or ''}")


def _in_folder(folder: Path) -> int | None:
    for pattern in ("*.safetensors", "*.bin"):
        if size := sum(file.stat().st_size for file in folder.glob(pattern)):
            return size
    return None


def _in_cache(name: str, revision: str | None) -> int | None:
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(name, "model.safetensors.index.json", revision=revision)
    if isinstance(index, str):
        return int(json.loads(Path(index).read_text())["metadata"]["total_size"])
    whole = try_to_load_from_cache(name, "model.safetensors", revision=revision)
    return Path(whole).stat().st_size if isinstance(whole, str) else None


def _by_name(name: str) -> int | None:
    """From the first number of parameters in a name, as in `Qwen2.5-VL-72B-Instruct-AWQ`."""
    found = _SIZE.search(name)
    if found is None:
        return None
    parameters = float(found[1]) * (1e9 if found[2] in "bB" else 1e6)
    if _FOUR_BITS.search(name):
        return int(parameters * _FOUR_BIT_BYTES)
    return int(parameters * (1 if _EIGHT_BITS.search(name) else 2))
