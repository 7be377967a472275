"""vLLM's engine arguments: our defaults for CPU and GPU, the pipeline file's on top, checked before a model loads."""

from __future__ import annotations

import ctypes
import difflib
import os
import sys
from pathlib import Path
from typing import Any

from caption_assets.config import TINY_MODEL, ConfigError, PipelineConfig, VllmEngine
from caption_assets.engine.device import cpu_dtype
from caption_assets.engine.models import model_source

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

OWN_ARGS = frozenset({"model", "revision"})
CHAT_ARGS = frozenset({"chat_template", "chat_template_kwargs"})
"""Given among the engine's arguments, used when messages are rendered."""


def engine_args(config: PipelineConfig, engine: VllmEngine, *, gpu: bool) -> dict[str, Any]:
    """All arguments for vLLM's `EngineArgs`, chat arguments left out.

    On a CPU without a dtype of the pipeline file's this imports torch: the environment has to be prepared before. Which
    one the CPU is given is no part of a fingerprint, as batch sizes are not.
    """
    arguments = _COMMON | (_GPU if gpu else _CPU)
    if not gpu and "dtype" not in engine.args:
        arguments |= {"dtype": cpu_dtype()}
    if engine.model == TINY_MODEL:
        arguments |= TINY_ARGS if not gpu else {"max_model_len": 1024}
    chosen = {name: value for name, value in engine.args.items() if name not in CHAT_ARGS}
    return arguments | chosen | {"model": model_source(config, engine), "revision": engine.revision}


def check_args(config: PipelineConfig, name: str, engine: VllmEngine) -> None:
    """Raise ConfigError for an argument that vLLM does not have. Imports vLLM (seconds)."""
    prepare_environment(model_source(config, engine))
    from vllm import EngineArgs

    known = set(EngineArgs.__dataclass_fields__) | CHAT_ARGS
    for argument in engine.args:
        field = f"{config.file}: engines.{name}.args.{argument}"
        if argument in OWN_ARGS:
            raise ConfigError(f"{field}: set it beside args, as engines.{name}.{argument}")
        if argument not in known:
            close = difflib.get_close_matches(argument, sorted(known), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "; see the fields of vLLM's EngineArgs"
            raise ConfigError(f"{field}: vLLM has no such engine argument{hint}")


def prepare_environment(source: str) -> None:
    """Set what vLLM and torch read from the environment when they are imported; what is set already stays."""
    defaults = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "OMP_WAIT_POLICY": "passive",  # idle threads must not spin on the cores that decode pictures
        "TOKENIZERS_PARALLELISM": "false",
    }
    if Path(source).is_dir():
        defaults["HF_HUB_OFFLINE"] = "1"
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
