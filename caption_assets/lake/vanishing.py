"""Reading a lake while others write to it: a file may be sealed away between its listing and the look into it."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import duckdb
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random_exponential

_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")

again_at_once = retry(retry=retry_if_exception_type(FileNotFoundError), stop=stop_after_attempt(100), reraise=True)
"""A decorator for what lists files and reads them: it looks again when one has vanished in between.

Who removes files has put all that was in them into another one before, and is further at each look: there are as many
looks as files in a large folder. Raises FileNotFoundError if it never holds still.
"""


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
