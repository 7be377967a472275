"""Reading a lake while others write to it: a file may be sealed away between its listing and the look into it."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import duckdb
from tenacity import RetryCallState, retry, retry_if_exception_type, wait_random_exponential

_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")

ATTEMPTS = 10
SECONDS = 30.0
"""How long reading starts over while one file after another vanishes: a view opens every file that it is made over."""


def again_when_sealed(
    *others: type[Exception],
) -> Callable[[Callable[_Args, _Result]], Callable[_Args, _Result]]:
    """A decorator: what it decorates starts over when a file has vanished, and after any of `others`."""
    return retry(
        retry=retry_if_exception_type((duckdb.IOException, FileNotFoundError, *others)),
        stop=_enough,
        wait=wait_random_exponential(0.05, max=1),
        reraise=True,
    )


def _enough(state: RetryCallState) -> bool:
    error = state.outcome.exception() if state.outcome else None
    vanished = isinstance(error, FileNotFoundError) or "No such file" in str(error)
    lasted = state.seconds_since_start or 0.0
    return state.attempt_number >= ATTEMPTS and not (vanished and lasted < SECONDS)
