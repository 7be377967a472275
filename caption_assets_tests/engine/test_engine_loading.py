"""Opening engines: arguments, the device's lock, models that cannot be loaded, and the asynchronous engine."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from caption_assets.captioning.binding import bind_perspectives
from caption_assets.captioning.run import CaptionRun
from caption_assets.config import ConfigError, PipelineConfig
from caption_assets.engine.device import device_lock
from caption_assets.engine.loading import open_engine
from caption_assets.engine.models import engine_identity, folder_digest, model_label
from caption_assets.engine.parallelism import Gpus
from caption_assets.engine.protocol import EngineFailure, EngineReply, EngineRequest
from caption_assets.engine.vllm_args import engine_args
from caption_assets.lake.store import Lake
from caption_assets_tests.support import ingest

MakeConfig = Callable[..., PipelineConfig]


@pytest.fixture
def other_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks of the test's own: the session's engine holds the device already."""
    monkeypatch.setenv("CAPTION_ASSETS_LOCKS", str(tmp_path))


def test_the_pipeline_files_arguments_win_over_the_defaults(make_config: MakeConfig) -> None:
    engine = {"kind": "vllm", "model": "tiny", "args": {"max_num_seqs": 5, "chat_template": "x"}}
    config = make_config(engines={"default": engine})
    arguments = engine_args(config, config.engines["default"], Gpus())
    assert arguments["max_num_seqs"] == 5
    assert arguments["block_size"] == 32
    assert "chat_template" not in arguments
    assert engine_args(config, config.engines["default"], Gpus(2))["max_num_seqs"] == 5


@pytest.mark.parametrize(("capability", "dtype"), [("AVX2", "float32"), ("AVX512", "bfloat16")])
def test_a_cpu_computes_in_what_it_is_fast_at_unless_told(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capability: str, dtype: str
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    config = make_config()
    assert engine_args(config, config.engines["default"], Gpus())["dtype"] == dtype
    assert "dtype" not in engine_args(config, config.engines["default"], Gpus(1))
    told = make_config(engines={"default": {"kind": "vllm", "model": "tiny", "args": {"dtype": "float16"}}})
    assert engine_args(told, told.engines["default"], Gpus())["dtype"] == "float16"


@pytest.mark.usefixtures("other_device")
def test_arguments_that_cannot_be_end_the_run_before_anything_is_loaded(make_config: MakeConfig) -> None:
    config = make_config(engines={"default": {"kind": "vllm", "model": "tiny", "args": {"max_num_seq": 5}}})
    lake, told = Lake(config.lake), list[str]()
    bound = bind_perspectives(config)
    run = CaptionRun(config, lake, list(bound.values()), bound, ingest(config, lake), "run", tell=told.append)
    with pytest.raises(ConfigError, match=r"pipeline.yaml: engines.default.args.max_num_seq: .*'max_num_seqs'"):
        list(run)
    assert not any("loaded in" in line for line in told)


@pytest.mark.usefixtures("other_device")
def test_what_does_not_fit_the_model_is_not_tried_again(make_config: MakeConfig) -> None:
    config = make_config(engines={"default": {"kind": "vllm", "model": "tiny", "args": {"max_model_len": 1 << 20}}})
    with pytest.raises(EngineFailure, match=r"could not be loaded: .*max_model_len") as raised:
        open_engine(config, "default").__enter__()
    assert raised.value.fatal
    assert not raised.value.retryable


def test_what_decides_outputs_is_in_the_identity_and_the_rest_is_not(make_config: MakeConfig) -> None:
    def identity(**engine: object) -> dict[str, object]:
        config = make_config(engines={"default": {"kind": "vllm", "model": "tiny", **engine}})
        return engine_identity(config, config.engines["default"])

    plain = identity()
    assert identity(args={"max_num_seqs": 7, "gpu_memory_utilization": 0.5}) == plain
    assert identity(args={"dtype": "float32"}) != plain
    assert identity(args={"quantization": "fp8"}) != plain
    assert identity(model="some/model") != plain
    assert identity(model="some/model", revision="abc") != identity(model="some/model")


def test_the_identity_of_a_pool_is_its_model_never_its_servers(make_config: MakeConfig) -> None:
    def identity(**engine: object) -> dict[str, object]:
        pool = {"kind": "openai", "model": "m", "servers": ["http://a/v1"], **engine}
        config = make_config(engines={"default": pool})
        return engine_identity(config, config.engines["default"])

    plain = identity()
    others = {
        "servers": ["http://b/v1"],
        "api_key": {"env": "K"},
        "max_in_flight": 3,
        "prices": {},
        "structured": "auto",
    }
    assert identity(**others) == plain
    deciding = ({"model": "n"}, {"revision": "2"}, {"structured": "prompt"}, {"extra_body": {"x": 1}})
    assert all(identity(**change) != plain for change in deciding)


def test_a_local_models_identity_is_its_files_not_its_place(tmp_path: Path, make_config: MakeConfig) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(b"weights")
    assert folder_digest(tmp_path / "one") == folder_digest(tmp_path / "two")
    config = make_config(engines={"default": {"kind": "vllm", "model": "./one"}})
    assert model_label(config.engines["default"]) == "one"
    before = engine_identity(config, config.engines["default"])
    (tmp_path / "one" / "model.safetensors").write_bytes(b"other weights")
    assert engine_identity(config, config.engines["default"]) != before


@pytest.mark.usefixtures("other_device")
def test_a_model_that_cannot_be_loaded_is_a_fatal_engine_failure(tmp_path: Path, make_config: MakeConfig) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text('{"model_type": "no such thing"}')
    config = make_config(engines={"default": {"kind": "vllm", "model": "./broken"}})
    with pytest.raises(EngineFailure, match="the model could not be loaded") as raised, open_engine(config, "default"):
        pass
    assert raised.value.fatal


@pytest.mark.usefixtures("other_device")
def test_the_device_is_held_by_one_and_freed_by_death() -> None:
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    holder = context.Process(target=_hold, args=(os.environ["CAPTION_ASSETS_LOCKS"], held))
    holder.start()
    assert held.wait(60)
    waiting = threading.Event()

    def kill_when_waited_for() -> None:
        waiting.set()
        holder.kill()

    with device_lock("test-device", kill_when_waited_for):
        assert waiting.is_set(), "the second one had to wait"
    holder.join()


def _hold(folder: str, held: multiprocessing.synchronize.Event) -> None:
    os.environ["CAPTION_ASSETS_LOCKS"] = folder
    with device_lock("test-device"):
        held.set()
        threading.Event().wait()


@pytest.mark.slow
@pytest.mark.usefixtures("other_device")
def test_the_asynchronous_engine_answers_too(make_config: MakeConfig) -> None:
    config = make_config(engines={"default": {"kind": "vllm", "model": "tiny", "mode": "async"}})
    image = Image.new("RGB", (100, 100), (30, 30, 200))

    async def ask() -> list[EngineReply | BaseException]:
        loop = asyncio.get_running_loop()
        opened = open_engine(config, "default")
        engine = await loop.run_in_executor(None, opened.__enter__)
        try:
            return await asyncio.gather(
                engine.generate(EngineRequest("a", "Count.", image, "blue", None, max_tokens=12)),
                engine.generate(EngineRequest("b", "Count.", image, "blue", None, max_tokens=12)),
                engine.generate(EngineRequest("c", "long " * 4000, image, "blue", None)),
                return_exceptions=True,
            )
        finally:
            await loop.run_in_executor(None, opened.__exit__, None, None, None)

    first, second, refused = asyncio.run(ask())
    assert isinstance(first, EngineReply)
    assert isinstance(second, EngineReply)
    assert first.text == second.text
    assert isinstance(refused, EngineFailure)
    assert refused.kind == "too_long"
