"""vLLM's engine arguments: our defaults for a CPU, a GPU and many, and the pipeline file's on top."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

from caption_assets.config import TINY_MODEL, PipelineConfig, VllmEngine
from caption_assets.engine.device import cpu_dtype
from caption_assets.engine.models import model_source
from caption_assets.engine.parallelism import Gpus, spread, weight_bytes

_COMMON: dict[str, Any] = {
    "limit_mm_per_prompt": {"image": 1},
    "generation_config": "vllm",  # sampling comes from the perspective alone
    "enable_prefix_caching": True,
    "scheduling_policy": "priority",
    "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
    "disable_log_stats": True,
}
_CPU: dict[str, Any] = {
    "enforce_eager": True,
    "block_size": 32,  # the default of 128 would leave short image prefixes out of the prefix cache
    "max_num_seqs": 64,
    "kv_cache_memory_bytes": 1 << 30,  # no profiling run, and no guess at the machine's memory
}
TINY_ARGS: dict[str, Any] = {
    "max_model_len": 1024,
    "kv_cache_memory_bytes": 256 << 20,
    "skip_mm_profiling": True,
    "mm_processor_cache_gb": 0.1,
}
_GPU: dict[str, Any] = {"gpu_memory_utilization": 0.92, "max_num_seqs": 256, "max_num_batched_tokens": 16384}

CHAT_ARGS = frozenset({"chat_template", "chat_template_kwargs"})
"""Given among the engine's arguments, used when messages are rendered."""


def engine_args(config: PipelineConfig, engine: VllmEngine, gpus: Gpus) -> dict[str, Any]:
    """All arguments for vLLM's `EngineArgs` on such GPUs, or on a CPU where there are none; chat arguments left out.

    On a CPU without a dtype of the pipeline file's this imports torch: the environment has to be prepared before. Which
    one the CPU is given is no part of a fingerprint, as batch sizes are not.
    """
    source = model_source(config, engine)
    arguments = _COMMON | (_GPU if gpus.count else _CPU)
    if not gpus.count and "dtype" not in engine.args:
        arguments |= {"dtype": cpu_dtype()}
    if engine.model == TINY_MODEL:
        arguments |= {"max_model_len": 1024} if gpus.count else TINY_ARGS
    arguments |= spread(
        gpus, weight_bytes(source, engine.revision, engine.args), engine.args, copies=runs_apart(engine, gpus)
    )
    chosen = {name: value for name, value in engine.args.items() if name not in CHAT_ARGS}
    return arguments | chosen | {"model": source, "revision": engine.revision}


def runs_apart(engine: VllmEngine, gpus: Gpus) -> bool:
    """Whether the model runs in processes of its own."""
    return engine.mode == "async" or (engine.mode == "auto" and gpus.count > 0)


def prepare_environment() -> None:
    """Set what vLLM and torch read from the environment when they are imported; what is set already stays.

    Nothing that would keep the process from the hub: its datasets may be read there, too.
    """
    defaults = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "GOMP_SPINCOUNT": "100000",  # a millisecond: sooner, to wake them takes longer; later, others want their cores
        "TOKENIZERS_PARALLELISM": "false",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    _load_own_numa()


def _load_own_numa() -> None:
    """Use the libnuma that the installation put into the environment, on machines that have none of their own."""
    own = Path(sys.prefix) / "lib" / "libnuma.so.1"
    if own.exists():
        ctypes.CDLL(str(own), mode=ctypes.RTLD_GLOBAL)
        paths = [str(own.parent), *os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)]
        os.environ["LD_LIBRARY_PATH"] = os.pathsep.join(
            dict.fromkeys(filter(None, paths))
        )  # for the engine's processes
