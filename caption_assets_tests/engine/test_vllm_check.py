"""Engine arguments are checked by vLLM's own declarations, before anything is loaded."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from caption_assets.config import ConfigError, PipelineConfig
from caption_assets.engine.vllm_check import check_args

MakeConfig = Callable[..., PipelineConfig]


def checked(make_config: MakeConfig, args: dict[str, Any]) -> None:
    config = make_config(engines={"default": {"kind": "vllm", "model": "tiny", "args": args}})
    check_args(config, "default", config.engines["default"])


@pytest.mark.parametrize(
    "args",
    [
        {"quantization": "fp8", "kv_cache_dtype": "fp8", "dtype": "float16"},
        {"max_num_seqs": 64, "max_num_batched_tokens": 16384, "max_model_len": 4096},
        {"tensor_parallel_size": 2, "data_parallel_size": 4, "pipeline_parallel_size": 1},
        {"gpu_memory_utilization": 1, "kv_cache_memory_bytes": 1 << 30, "block_size": 16},
        {"mm_processor_kwargs": {"max_pixels": 602112}, "limit_mm_per_prompt": {"image": 1}},
        {"mm_processor_cache_gb": 0.5, "mm_encoder_tp_mode": "data", "enforce_eager": False},
        {"compilation_config": {"cudagraph_capture_sizes": [1, 2, 4]}, "hf_overrides": {"x": 1}},
        {"structured_outputs_config": {"backend": "xgrammar"}, "load_format": "dummy", "seed": 7},
        {"chat_template": "x", "chat_template_kwargs": {"enable_thinking": False}},
        {"max_model_len": None, "tokenizer": None},
    ],
)
def test_whatever_vllm_takes_is_let_through(make_config: MakeConfig, args: dict[str, Any]) -> None:
    checked(make_config, args)


@pytest.mark.parametrize(
    ("argument", "value", "told"),
    [
        ("max_num_seq", 5, "no such engine argument; did you mean 'max_num_seqs'"),
        ("zzz", 5, "no such engine argument; see the fields"),
        ("model", "x", "set it beside args"),
        ("max_num_seqs", "5", "must be a whole number, not '5'"),
        ("max_num_seqs", 5.5, "whole number"),
        ("max_num_seqs", 0, "greater than or equal to 1"),
        ("max_num_batched_tokens", -1, "greater than or equal to 1"),
        ("gpu_memory_utilization", 1.5, "less than or equal to 1"),
        ("gpu_memory_utilization", "most", "must be a number"),
        ("tensor_parallel_size", 0, "greater than or equal to 1"),
        ("kv_cache_dtype", "fp9", "did you mean 'fp8'"),
        ("dtype", "bfloat61", "did you mean 'bfloat16'"),
        ("enforce_eager", "yes", "must be true or false"),
        ("mm_processor_kwargs", ["max_pixels"], "mapping"),
        ("limit_mm_per_prompt", 3, "mapping"),
        ("block_size", "32", "whole number"),
        ("structured_outputs_config", {"backend": "xgrammarr"}, "backend: must be one of"),
        ("compilation_config", {"cudagraph_capture_size": [1]}, "cudagraph_capture_size: Unexpected"),
    ],
)
def test_what_it_cannot_take_names_field_value_and_remedy(
    make_config: MakeConfig, argument: str, value: Any, told: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        checked(make_config, {argument: value})
    assert f"pipeline.yaml: engines.default.args.{argument}: " in str(raised.value)
    assert told in str(raised.value)


def test_the_hub_stays_within_reach(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A code server checks arguments, and asks the hub for new revisions of datasets."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    checked(make_config, {"max_num_seqs": 64})
    assert "HF_HUB_OFFLINE" not in os.environ
