"""Which device there is, and the lock that keeps two processes from loading a model on it at once.

Dagster's pools bound how many runs use a GPU, but a step that outlives its crashed run is outside every pool: the lock
of the operating system is what holds then, for it goes with the process.
"""

from __future__ import annotations

import fcntl
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from caption_assets.engine.parallelism import Gpus


def has_gpu() -> bool:
    """Whether CUDA devices are visible, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in {"", "-1"}:
        return False
    return Path("/proc/driver/nvidia/version").exists() and any(Path("/dev").glob("nvidia[0-9]*"))


def visible_gpus() -> Gpus:
    """The GPUs that this process may use. Imports vLLM where there are any."""
    if not has_gpu():
        return Gpus()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    named = visible.split(",") if visible is not None else list(map(str, Path("/dev").glob("nvidia[0-9]*")))
    from vllm.platforms import current_platform

    try:
        memory = int(current_platform.get_device_total_memory())
    except (NotImplementedError, RuntimeError):  # a platform that does not tell
        return Gpus(len(named))
    return Gpus(len(named), memory)


def cpu_dtype() -> str:
    """In what a CPU computes fast, by torch's name: below AVX-512 bfloat16 is emulated, 30 times slower than float32.

    Imports torch: the environment has to be prepared before.
    """
    import torch

    slow = platform.machine() in {"x86_64", "AMD64"} and "AVX512" not in torch.backends.cpu.get_cpu_capability()
    return "float32" if slow else "bfloat16"


def device_name() -> str:
    """Name of what a model would be loaded on: `cpu`, or the visible GPUs."""
    if not has_gpu():
        return "cpu"
    return "cuda-" + os.environ.get("CUDA_VISIBLE_DEVICES", "all").replace(",", "-").replace("/", "_")


@contextmanager
def device_lock(device: str, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the device; blocks while another process does, calling `waiting` again and again meanwhile."""
    folder = Path(os.environ.get("CAPTION_ASSETS_LOCKS") or tempfile.gettempdir())
    path = folder / f"caption-assets-{os.getuid()}-{device}.lock"
    with path.open("a") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waiting()
                time.sleep(0.2)
        try:
            yield
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)
