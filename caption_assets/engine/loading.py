"""Opens the engine that the pipeline file names; one that loads a model holds the device's lock meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from caption_assets.config import OpenAIEngine, PipelineConfig, VllmEngine
from caption_assets.engine.device import device_lock, device_name, visible_gpus
from caption_assets.engine.protocol import Engine
from caption_assets.engine.vllm_args import CHAT_ARGS, engine_args, runs_apart
from caption_assets.engine.vllm_check import check_args


@contextmanager
def open_engine(config: PipelineConfig, name: str, waiting: Callable[[], None] = lambda: None) -> Iterator[Engine]:
    """Load an engine; it is closed at the end of the block.

    Args:
        name: the engine's name in the pipeline file.
        waiting: called again and again while another process holds the device; what it raises ends the waiting.

    Raises:
        EngineFailure: the model cannot be loaded.
        ConfigError: vLLM does not take an argument; the environment variable of an API key is not set.
    """
    section = config.engines[name]
    if isinstance(section, OpenAIEngine):
        with _open_servers(config, name, section) as engine:
            yield engine
    else:
        with _open_vllm(config, name, section, waiting) as engine:
            yield engine


@contextmanager
def _open_servers(config: PipelineConfig, name: str, section: OpenAIEngine) -> Iterator[Engine]:
    from caption_assets.engine.openai_engine import OpenAIServers

    engine = OpenAIServers(section, api_key(config, name, section))
    try:
        yield engine
    finally:
        engine.close()


def api_key(config: PipelineConfig, name: str, section: OpenAIEngine) -> str | None:
    """An engine's secret, if it has one. Raises ConfigError where its environment variable is not set."""
    return section.api_key.read(f"{config.file}: engines.{name}.api_key") if section.api_key else None


@contextmanager
def _open_vllm(config: PipelineConfig, name: str, section: VllmEngine, waiting: Callable[[], None]) -> Iterator[Engine]:
    check_args(config, name, section)
    gpus = visible_gpus()
    arguments = engine_args(config, section, gpus)
    chat = {key: value for key, value in section.args.items() if key in CHAT_ARGS}
    with device_lock(device_name(), waiting):
        engine: Engine
        if runs_apart(section, gpus):
            from caption_assets.engine.vllm_async import AsyncEngine

            engine = AsyncEngine(arguments, chat)
        else:
            from caption_assets.engine.vllm_in_process import InProcessEngine

            engine = InProcessEngine(arguments, chat)
        try:
            yield engine
        finally:
            engine.close()
