"""Pictures in the listings of a web server: pages of links, as servers write them for folders."""

from __future__ import annotations

import html
from typing import Any
from urllib.parse import unquote

from caption_assets.sources.stores import AnyStore


class HttpStore(AnyStore):
    """The files that are linked to from the listing of a URL, and of those below it. Nothing above it is looked at."""

    def _listed(self, folder: str) -> list[dict[str, Any]]:
        found = {}
        for each in self._fs.ls(f"{folder}/", detail=True):
            name = html.unescape(each["name"])
            parts = name[len(folder) + 1 :].split("/")
            if name.startswith(f"{folder}/") and ".." not in unquote("/".join(parts)).split("/"):
                name = f"{folder}/{'/'.join(part for part in parts if unquote(part) != '.')}"
                found[name] = {**each, "name": name}
        return list(found.values())

    def _uri(self, path: str) -> str:
        return path

    def _path(self, uri: str) -> str:
        return uri
