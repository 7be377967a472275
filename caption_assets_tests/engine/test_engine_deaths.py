"""Engines that die, in a process of their own: vLLM's engines share state, and one's end would be the session's."""

import subprocess
import sys
from pathlib import Path

import pytest

_CASES = Path(__file__).with_name("engine_deaths.py")


@pytest.mark.parametrize("kind", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_engines_that_die(kind: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", kind, str(_CASES)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=550)
    assert told.returncode == 0, told.stdout[-8000:]
    assert "passed" in told.stdout
