"""Reading a lake while others write to it: a file may be sealed away between its listing and the look into it."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import duckdb
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random_exponential

_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")


def again_when_sealed(
    *others: type[Exception],
) -> Callable[[Callable[_Args, _Result]], Callable[_Args, _Result]]:
    """A decorator: what it decorates starts over when a file has vanished, and after any of `others`."""
    return retry(
        retry=retry_if_exception_type((duckdb.IOException, FileNotFoundError, *others)),
        stop=stop_after_attempt(10),
        wait=wait_random_exponential(0.05, max=1),
        reraise=True,
    )
