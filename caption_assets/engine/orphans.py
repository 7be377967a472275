"""No process of an engine outlives the run that started it, however the run ends.

vLLM's engine core does not notice when the process that talks to it is killed: it would keep the device's memory for
ever. vLLM loads `end_with_run` as a plugin (an entry point in pyproject.toml) in each of its processes.
"""

from __future__ import annotations

import functools
import os
import select
import signal
import threading

_PLUGIN = "caption_assets"
_PLUGINS = "VLLM_PLUGINS"
_RUN = "CAPTION_ASSETS_ENGINE_RUN"


def bind_engines() -> None:
    """Make the engine processes that are started from now on end with this process. Linux only."""
    os.environ[_RUN] = str(os.getpid())
    if (allowed := os.environ.get(_PLUGINS)) is not None:
        os.environ[_PLUGINS] = ",".join(dict.fromkeys([*filter(None, allowed.split(",")), _PLUGIN]))
    _bind_forks()


def unbind_engines() -> None:
    """Let what is started from now on live as long as it likes."""
    os.environ.pop(_RUN, None)


@functools.cache  # once a process: there is no way to take it back
def _bind_forks() -> None:
    os.register_at_fork(after_in_child=end_with_run)  # a forked engine takes vLLM's plugins for loaded


def end_with_run() -> None:
    """In a process of an engine: be killed as soon as the run is no more. Nothing in any other process."""
    run = int(os.environ.get(_RUN, "0"))
    if not run or run == os.getpid() or not hasattr(os, "pidfd_open"):
        return
    try:
        handle = os.pidfd_open(run)
    except ProcessLookupError:  # it died while we were starting
        os.kill(os.getpid(), signal.SIGKILL)
        return
    threading.Thread(target=_watch, args=(handle,), name="end with the run", daemon=True).start()


def _watch(handle: int) -> None:
    poll = select.poll()
    poll.register(handle, select.POLLIN)  # readable once the process has ended
    poll.poll()
    os.kill(os.getpid(), signal.SIGKILL)
