"""Detection of repetition loops: the way a greedily decoding model most often goes wrong.

The rule. A value counts as looping when

- a text holds a unit of 1 to 12 words back to back at least 4 times, and at least 12 words in all
  ("a red car and a red car and a red car and a red car and"); or
- a text holds a unit of 1 to 32 characters back to back at least 8 times, and at least 48 characters in all
  (for scripts without spaces, rows of digits, endless line breaks); or
- a list of texts, objects or lists holds a unit of 1 to 6 items back to back at least 4 times, and the unit is at least
  16 characters of JSON. Lists of numbers are never judged: equal measurements are no loop.

Three repetitions are never enough ("very, very, very small" is English).
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Sequence
from typing import Any

_MIN_REPEATS = 4
_MAX_UNIT_WORDS = 12
_MIN_RUN_WORDS = 12
_MIN_RUN_CHARACTERS = 48
_GRAM = 8
_MIN_SAME_GRAMS = 35
"""A run of L >= 48 characters of a unit of p <= L / 8 has L - 7 grams of 8 characters, at most p of them different, so
that at least L - 7 - p >= 35 are there again."""
_MAX_UNIT_ITEMS = 6
_MIN_UNIT_JSON = 16
_WORD_RUNS = [(size, max(_MIN_REPEATS, -(-_MIN_RUN_WORDS // size))) for size in range(1, _MAX_UNIT_WORDS + 1)]
"""Words of a unit, and how often it has to stand there."""
_FEWEST_AGAIN = min(size * (repeats - 1) for size, repeats in _WORD_RUNS)
_CHARACTER_RUN = re.compile(r"(.{1,32}?)\1{7,}", re.DOTALL)


def find_repetition(value: Any) -> str | None:
    """Describe the first repetition loop in a parsed JSON value (or in raw text), or return None."""
    if isinstance(value, str):
        return _in_text(value)
    if isinstance(value, dict):
        children: list[Any] = list(value.values())
    elif isinstance(value, list):
        loop = _in_list(value)
        if loop is not None:
            return loop
        children = value
    else:
        return None
    for child in children:
        loop = find_repetition(child)
        if loop is not None:
            return loop
    return None


def _in_text(text: str) -> str | None:
    if len(text) < 2 * _MIN_RUN_WORDS - 1:  # twelve words of one letter, and the spaces between them
        return None
    words = text.split()
    again = len(words) - len(set(words))
    for size, repeats in _WORD_RUNS if again >= _FEWEST_AGAIN else ():
        start = _find_run(words, again, size, repeats)
        if start is not None:
            return f"{_shorten(' '.join(words[start : start + size]))!r} is repeated at least {repeats} times"
    if not _may_run(text):
        return None
    for match in _CHARACTER_RUN.finditer(text):
        if match.end() - match.start() >= _MIN_RUN_CHARACTERS:
            return f"{match.group(1)!r} is repeated {(match.end() - match.start()) // len(match.group(1))} times"
    return None


def _may_run(text: str) -> bool:
    """Whether enough of a text stands in it twice to hold a run of characters: much faster than to look for one."""
    grams = len(text) - _GRAM + 1
    return grams >= _MIN_SAME_GRAMS and (
        grams - len({text[start : start + _GRAM] for start in range(grams)}) >= _MIN_SAME_GRAMS
    )


def _in_list(items: list[Any]) -> str | None:
    if len(items) < _MIN_REPEATS or not all(isinstance(item, str | dict | list) for item in items):
        return None
    texts = [json.dumps(item, ensure_ascii=False, sort_keys=True) for item in items]
    again = len(texts) - len(set(texts))
    for size in range(1, _MAX_UNIT_ITEMS + 1):
        start = _find_run(texts, again, size, _MIN_REPEATS, min_weight=_MIN_UNIT_JSON)
        if start is not None:
            unit = ", ".join(texts[start : start + size])
            return f"the list items {_shorten(unit)} are repeated at least {_MIN_REPEATS} times"
    return None


def _find_run(items: Sequence[Hashable], again: int, size: int, repeats: int, min_weight: int = 0) -> int | None:
    """Return where a unit of `size` items starts that stands back to back `repeats` times, or None.

    Args:
        again: how many items stand there for a second time, or more.
    """
    needed = size * (repeats - 1)
    if again < needed:
        return None  # all but the first unit are there twice
    run = 0
    for index in range(size, len(items)):
        run = run + 1 if items[index] == items[index - size] else 0
        if run >= needed:
            start = index - needed - size + 1
            if sum(len(str(item)) for item in items[start : start + size]) >= min_weight:
                return start
    return None


def _shorten(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."
