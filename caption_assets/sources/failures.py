"""What it is when a source does not give an item."""

from __future__ import annotations

from caption_assets.lake.tables import MediaFailureKind


class FetchError(Exception):
    """An item's bytes could not be had; `kind` is a media failure kind."""

    def __init__(self, kind: MediaFailureKind, message: str) -> None:
        super().__init__(message)
        self.kind: MediaFailureKind = kind
