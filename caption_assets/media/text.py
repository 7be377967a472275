"""Text and JSON out of pictures' metadata: always valid, always bounded, whatever the file says."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from typing import Any

_READ = 8
"""So many times its limit is read of a text: what is cut away may be blank, or more bytes than characters."""

_SPACES = frozenset({"Cc", "Zl", "Zp"})
_NOTHING = frozenset({"Cs", "Co", "Cn"})
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""They would change the order of the text around."""


sorted_json = json.JSONEncoder(ensure_ascii=False, sort_keys=True).encode
"""A value as JSON whose bytes depend on nothing but the value; an encoder made for each takes longer than to encode."""


def clean(value: object, limit: int) -> str:
    """A value as one line of text: up to the first NUL, without control characters or halves of characters.

    Args:
        value: text, or bytes in UTF-8 or Latin-1; of a sequence, the first. Anything else but a number is "".
        limit: the most characters of the result.
    """
    if isinstance(value, tuple | list) and value:
        value = value[0]
    if isinstance(value, bytes):
        value = _decoded(value, _READ * limit)
    elif isinstance(value, bool) or not isinstance(value, str):
        value = repr(value) if isinstance(value, int | float) else ""
    text = value[: _READ * limit].strip("\0 ").split("\0", 1)[0]
    if not text.isprintable():
        text = "".join(map(_printable, text))
    return text.strip()[:limit].rstrip()


def mended(text: str) -> str:
    """What a reader took for Latin-1 is UTF-8 in nearly all files with other than ASCII characters."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def bounded_json(fields: Mapping[str, Any], limit: int) -> str | None:
    """A JSON object of the fields that fit, in their order; None where there is none.

    Args:
        fields: of strings, finite numbers, lists and objects.
        limit: the most characters of the result; a field that does not fit is left out.
    """
    kept, length = [], 2
    for name, value in fields.items():
        text = f"{sorted_json(name)}: {sorted_json(value)}"
        if length + len(text) + 2 <= limit:
            kept.append(text)
            length += len(text) + 2
    return "{" + ", ".join(kept) + "}" if kept else None


def _decoded(data: bytes, limit: int) -> str:
    head = data[:limit]
    try:
        return head.decode("utf-8")
    except UnicodeDecodeError as error:
        cut = len(data) > limit and error.start > limit - 4  # within a character
        return head[: error.start].decode("utf-8") if cut else head.decode("latin-1")


def _printable(character: str) -> str:
    category = unicodedata.category(character)
    if category in _SPACES:
        return " "
    return "" if category in _NOTHING or character in _TURNING else character
