"""Perspective files on disk: JSON, or JSON with `//` comments where the file's name ends in `.jsonc`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

SUFFIXES = (".json", ".jsonc")

_STRING_OR_COMMENT = re.compile(r'"(?:[^"\\\n]|\\.)*"|//[^\n]*')


def strip_comments(text: str) -> str:
    """Remove `//` comments outside of strings; line numbers and columns of what remains do not change."""
    return _STRING_OR_COMMENT.sub(lambda match: match.group() if match.group().startswith('"') else "", text)


def read_json(path: Path) -> tuple[Any, list[str]]:
    """Read a `.json` or `.jsonc` file; return its value and the keys that stand twice in one object.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is no JSON, or not UTF-8.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error}") from error
    if path.suffix == ".jsonc":
        text = strip_comments(text)
    twice: list[str] = []

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for key, item in pairs:
            if key in value:
                twice.append(key)
            value[key] = item
        return value

    try:
        value = json.loads(text, object_pairs_hook=collect, parse_constant=_reject_constant)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except UnicodeEncodeError as error:
        raise ValueError("a text holds a lone surrogate, which no UTF-8 can store") from error
    return value, twice


def _reject_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
