"""Processes that a run starts for its engine die with it, whenever and however it dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from importlib.metadata import entry_points

import psutil
import pytest

from caption_assets.engine import orphans

RUN = """
import os, subprocess, sys
from caption_assets.engine.orphans import bind_engines
bind_engines()
if sys.argv[1] == "fork":
    if not (pid := os.fork()):
        import time
        print("ready", os.getpid(), flush=True)
        time.sleep(120)
else:
    subprocess.Popen([sys.executable, "-c", sys.argv[1]])
import time
time.sleep(120)
"""
CHILD = """
import os, time
from caption_assets.engine.orphans import end_with_run
end_with_run()
print("ready", os.getpid(), flush=True)
time.sleep(120)
"""
GRANDCHILD = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {CHILD!r}]).wait()"
LATE = """
import os, time
from caption_assets.engine.orphans import end_with_run
parent = os.getppid()
print("ready", os.getpid(), flush=True)
while os.getppid() == parent:
    time.sleep(0.01)
end_with_run()
time.sleep(120)
"""


@pytest.mark.parametrize("child", [CHILD, GRANDCHILD, LATE, "fork"], ids=["child", "grandchild", "late", "fork"])
def test_a_process_of_an_engine_dies_with_its_run(child: str) -> None:
    run = subprocess.Popen([sys.executable, "-c", RUN, child], stdout=subprocess.PIPE, text=True)
    assert run.stdout
    word, pid = run.stdout.readline().split()
    assert word == "ready"
    process = psutil.Process(int(pid))
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert not psutil.wait_procs([process], timeout=20)[1]


def test_other_processes_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CAPTION_ASSETS_ENGINE_RUN", raising=False)
    before = threading.active_count()
    orphans.end_with_run()
    monkeypatch.setenv("CAPTION_ASSETS_ENGINE_RUN", str(os.getpid()))
    orphans.end_with_run()  # the run itself
    assert threading.active_count() == before


def test_a_list_of_allowed_plugins_lets_ours_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphans, "_bind_forks", lambda: None)  # for the rest of the session
    monkeypatch.setenv("CAPTION_ASSETS_ENGINE_RUN", "")
    for allowed, then in (
        ("", "caption_assets"),
        ("other", "other,caption_assets"),
        ("caption_assets", "caption_assets"),
    ):
        monkeypatch.setenv("VLLM_PLUGINS", allowed)
        orphans.bind_engines()
        assert os.environ["VLLM_PLUGINS"] == then
    orphans.unbind_engines()
    assert "CAPTION_ASSETS_ENGINE_RUN" not in os.environ


def test_vllm_finds_the_plugin() -> None:
    found = entry_points(group="vllm.general_plugins", name="caption_assets")
    assert [each.load() for each in found] == [orphans.end_with_run], "install the package again: pip install -e ."
