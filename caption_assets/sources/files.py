"""What a folder and a bucket have in common: which files are pictures, and the sidecars beside them."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any

from fsspec.utils import glob_translate

from caption_assets.sources.base import Item

EXTENSIONS = frozenset(
    [".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif", ".jxl"]
)
SIDECAR_EXTENSIONS = (".json", ".txt")
SIDECAR_LIMIT = 1 << 20
"""A longer sidecar is left out: a plan holds the columns of a thousand items."""

_READERS = 16
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FileFilter:
    """Which files are pictures.

    Args:
        include: globs of which one must match; none: all do. Without '/' a glob means the name, else the whole path
            below the root, where ** crosses folders.
        exclude: globs of which none may match.
        sidecars: whether `.txt` and `.json` beside a picture belong to it.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    sidecars: bool = True
    _included: Callable[[str], bool] = field(init=False, repr=False, compare=False)
    _excluded: Callable[[str], bool] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_included", _matcher(self.include) if self.include else lambda path: True)
        object.__setattr__(self, "_excluded", _matcher(self.exclude) if self.exclude else lambda path: False)

    def is_picture(self, relative: str) -> bool:
        """Whether the file of this path below the root counts."""
        is_named_so = relative[relative.rfind(".") :].lower() in EXTENSIONS
        return is_named_so and self._included(relative) and not self._excluded(relative)

    def pictures(self, folder: str, names: list[str]) -> list[str]:
        """Those names of files in a folder that are a picture's.

        Args:
            folder: its path below the root, and a slash; "" is the root.
        """
        named_so = [
            name for name in names if (end := name[name.rfind(".") :]) in EXTENSIONS or end.lower() in EXTENSIONS
        ]
        if not self.include and not self.exclude:
            return named_so
        return [name for name in named_so if self.is_picture(folder + name)]

    def is_sidecar(self, relative: str) -> bool:
        """Whether the file may belong to a picture."""
        return self.sidecars and extension(relative) in SIDECAR_EXTENSIONS


def extension(path: str) -> str:
    """The extension of a path's name in lower case, also of a name that is nothing else."""
    name = path[path.rfind("/") + 1 :]
    return name[name.rfind(".") :].lower() if "." in name else ""


@dataclass
class _Group:
    """Files of one name with different extensions."""

    prefix: str
    before: str
    """The path that came before the first of them."""
    pictures: list[Item] = field(default_factory=list)
    sidecars: list[str] = field(default_factory=list)

    def items(self) -> Iterator[Item]:
        for picture in self.pictures:
            yield replace(picture, sidecars=tuple(self.sidecars)) if self.sidecars else picture


class SidecarJoin:
    """Gives each picture the sidecars of its name, holding no more than the names that are still open.

    Args:
        before: the path behind which paths begin to come.
    """

    def __init__(self, before: str = "") -> None:
        self._open: list[_Group] = []
        self._last = before

    @property
    def resume(self) -> str:
        """The path behind which to begin anew, so that no picture and no sidecar is missed."""
        return self._open[0].before if self._open else self._last

    def add_all(self, entries: Sequence[tuple[str, Item | str | None]]) -> list[Item]:
        """`add` of paths in their order, quick where a path's name is no other's."""
        found: list[Item] = []
        for (path, entry), (following, _) in pairwise(entries):
            if self._open:
                found += self._close(path)
            if isinstance(entry, Item) and not self._open and not following.startswith(path[: path.rindex(".") + 1]):
                self._last = path
                found.append(entry)
            else:
                found += self.add(path, entry)
        for path, entry in entries[-1:]:
            found += self.add(path, entry)
        return found

    def add(self, path: str, entry: Item | str | None = None) -> Iterator[Item]:
        """Take the next path; gives pictures that are complete.

        Args:
            path: in the order of the paths, so that all paths which begin alike stand together.
            entry: a picture or, for a sidecar, where it is; None for any other path.
        """
        yield from self._close(path)
        before, self._last = self._last, path
        if entry is None:
            return
        prefix = path[: path.rindex(".") + 1]
        group = next((each for each in self._open if each.prefix == prefix), None)
        if group is None:
            group = _Group(prefix, before)
            self._open.append(group)
        if isinstance(entry, Item):
            group.pictures.append(entry)
        else:
            group.sidecars.append(entry)

    def _close(self, path: str) -> Iterator[Item]:
        """The pictures whose names this path, and so all later ones, are not part of."""
        while self._open and not path.startswith(self._open[-1].prefix):
            yield from self._open.pop().items()

    def finish(self) -> Iterator[Item]:
        """The pictures that are left."""
        while self._open:
            yield from self._open.pop().items()


def join_sidecars(entries: Iterable[tuple[str, Item | str]]) -> Iterator[Item]:
    """`SidecarJoin` of all paths and entries of a listing."""
    join = SidecarJoin()
    for path, entry in entries:
        yield from join.add(path, entry)
    yield from join.finish()


def with_columns(items: Sequence[Item], read: Callable[[str], bytes]) -> list[Item]:
    """The items with what their sidecars say as source columns, read by several threads.

    A sidecar that cannot be used is told in the column `sidecar_error`: it must not cost the picture.

    Args:
        read: the first bytes of a sidecar, at least one more than SIDECAR_LIMIT of a longer one.
    """
    if not any(item.sidecars for item in items):
        return list(items)
    with ThreadPoolExecutor(_READERS, thread_name_prefix="sidecars") as pool:
        return list(pool.map(lambda item: _with_columns(item, read), items))


def _with_columns(item: Item, read: Callable[[str], bytes]) -> Item:
    columns: dict[str, Any] = {}
    for place in item.sidecars:
        name = PurePosixPath(place).name
        try:
            columns.update(sidecar_columns(extension(place).removeprefix("."), read(place)))
        except FileNotFoundError:
            continue  # deleted since it was listed
        except (ValueError, OSError) as error:
            _log.warning("%s: its sidecar %s is left out: %s", item.uri, name, error)
            columns["sidecar_error"] = f"{name}: {error}" if isinstance(error, ValueError) else f"{name}: unreadable"
    return replace(item, source={**item.source, **columns})


def sidecar_columns(kind: str, data: bytes) -> dict[str, Any]:
    """A sidecar as source columns: the keys of a JSON object; else one column named `kind`.

    Raises:
        ValueError: it is too long, no UTF-8 text, or no JSON where that is its kind.
    """
    if len(data) > SIDECAR_LIMIT:
        raise ValueError(f"longer than {SIDECAR_LIMIT} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None
    if kind != "json":
        return {kind: text.strip()}
    value = parse_json(text)
    return value if isinstance(value, dict) else {kind: value}


def parse_json(text: str) -> Any:
    """A JSON document that a plan can hold: no NaN, and no lone surrogates. Raises ValueError."""
    try:
        value = json.loads(text, parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("not valid Unicode") from None
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from None
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _matcher(globs: Sequence[str]) -> Callable[[str], bool]:
    names = [re.compile(glob_translate(glob)) for glob in globs if "/" not in glob]
    paths = [re.compile(glob_translate(glob)) for glob in globs if "/" in glob]

    def matches(path: str) -> bool:
        name = path.rpartition("/")[2]
        return any(each.match(name) for each in names) or any(each.match(path) for each in paths)

    return matches
