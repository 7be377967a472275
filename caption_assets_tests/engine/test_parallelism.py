"""What a machine's GPUs are used for where the pipeline file does not say, and which copy a picture goes to."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from caption_assets.config import PipelineConfig
from caption_assets.engine.copies import Copies
from caption_assets.engine.parallelism import Gpus, spread, weight_bytes
from caption_assets.engine.vllm_args import engine_args

GB = 1 << 30
H100, L4 = 80 * GB, 24 * GB


def both(tensor: int, data: int) -> dict[str, int]:
    return {"tensor_parallel_size": tensor, "data_parallel_size": data}


@pytest.mark.parametrize(
    ("count", "memory", "billions", "expected"),
    [
        (0, None, 3, {}),
        (1, H100, 3, {}),
        (1, H100, 72, {}),
        (8, H100, 3, both(1, 8)),
        (8, H100, 8, both(1, 8)),
        (4, L4, 8, both(1, 4)),
        (8, H100, 32, both(2, 4)),
        (8, H100, 72, both(4, 2)),
        (6, H100, 32, both(2, 3)),
        (3, H100, 72, both(2, 1)),
        (2, H100, 400, both(2, 1)),
        (8, L4, 32, both(4, 2)),
        (8, None, 72, both(1, 8)),
        (8, H100, None, both(1, 8)),
    ],
)
def test_copies_come_before_splitting_a_model(
    count: int, memory: int | None, billions: int | None, expected: dict[str, int]
) -> None:
    weights = None if billions is None else 2 * billions * 10**9
    assert spread(Gpus(count, memory), weights, {}, copies=True) == expected


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({"tensor_parallel_size": 2}, {"data_parallel_size": 4}),
        ({"tensor_parallel_size": 8}, {"data_parallel_size": 1}),
        ({"data_parallel_size": 2}, {"tensor_parallel_size": 4}),
        ({"data_parallel_size": 8}, {"tensor_parallel_size": 1}),
        (both(2, 2), {}),
        ({"pipeline_parallel_size": 2}, {}),
        ({"distributed_executor_backend": "ray"}, {}),
        ({"gpu_memory_utilization": 0.5}, both(8, 1)),
    ],
)
def test_what_the_pipeline_file_says_stays_and_the_rest_follows(args: dict[str, Any], expected: dict[str, int]) -> None:
    assert spread(Gpus(8, H100), 144 * 10**9, args, copies=True) == expected


def test_one_process_holds_no_copies() -> None:
    assert spread(Gpus(8, H100), 6 * 10**9, {}, copies=False) == {"tensor_parallel_size": 1}
    assert spread(Gpus(8, H100), 144 * 10**9, {}, copies=False) == {"tensor_parallel_size": 4}


@pytest.mark.parametrize(
    ("name", "args", "billions"),
    [
        ("Qwen/Qwen2.5-VL-3B-Instruct", {}, 6),
        ("Qwen/Qwen2.5-VL-72B-Instruct-AWQ", {}, 43.2),
        ("Qwen/Qwen3-VL-30B-A3B-Instruct-FP8", {}, 30),
        ("OpenGVLab/InternVL3-8B", {"quantization": "fp8"}, 8),
        ("HuggingFaceTB/SmolVLM-256M-Instruct", {}, 0.512),
        ("google/gemma-3-27b-it", {}, 54),
        ("some/model-v2", {}, None),
        ("some/phi-3.5-vision", {}, None),
    ],
)
def test_a_models_size_is_read_from_its_name(name: str, args: dict[str, Any], billions: float | None) -> None:
    assert weight_bytes(name, None, args) == (None if billions is None else int(billions * 10**9))


def test_a_models_size_is_that_of_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "model-70B"
    folder.mkdir()
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"x" * 1000)
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"x" * 500)
    (folder / "tokenizer.json").write_bytes(b"x" * 9000)
    assert weight_bytes(str(folder), None, {}) == 1500


def test_defaults_for_a_cpu_a_gpu_and_many(make_config: Callable[..., PipelineConfig]) -> None:
    def arguments(gpus: Gpus, **engine: object) -> dict[str, Any]:
        model = {"kind": "vllm", "model": "Qwen/Qwen2.5-VL-3B-Instruct", **engine}
        config = make_config(engines={"default": model})
        return engine_args(config, config.engines["default"], gpus)

    cpu, one, many = arguments(Gpus()), arguments(Gpus(1, H100)), arguments(Gpus(4, H100))
    assert (cpu["enforce_eager"], cpu["block_size"]) == (True, 32)
    assert cpu["dtype"] in {"bfloat16", "float32"}, "what this one is fast at"
    assert "kv_cache_memory_bytes" in cpu
    assert one["max_num_batched_tokens"] > 8192
    assert "enforce_eager" not in one, "CUDA graphs"
    assert "dtype" not in one, "as the model is stored"
    assert many == one | both(1, 4)
    assert all(each["enable_prefix_caching"] for each in (cpu, one, many))
    assert arguments(Gpus(4, H100), args={"data_parallel_size": 2}) == one | both(1, 2)
    assert arguments(Gpus(4, H100), mode="in_process") == one | {"tensor_parallel_size": 1}


def test_a_pictures_requests_share_a_copy_and_pictures_spread() -> None:
    copies = Copies(3)
    with ExitStack() as under_way:

        def ask(image_id: str | None) -> int | None:
            return under_way.enter_context(copies.place(image_id))

        homes = {name: {ask(name) for _ in range(4)} for name in ("a", "b", "c")}
        assert homes == {"a": {0}, "b": {1}, "c": {2}}
        under_way.enter_context(copies.place("a"))
        assert ask(None) in (1, 2), "text goes where least is to be done"
    assert [copies.place("a").__enter__() for _ in range(3)] == [0, 0, 0], "known, though nothing is under way"


def test_a_copy_that_is_far_behind_gets_no_more() -> None:
    copies = Copies(2)
    with ExitStack() as under_way:
        asked = [under_way.enter_context(copies.place("a")) for _ in range(40)]
    assert asked[:17] == [0] * 17
    assert 1 in asked


def test_a_single_model_is_not_told_apart() -> None:
    with Copies(1).place("a") as copy:
        assert copy is None
