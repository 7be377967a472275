"""What a kind of dataset offers: a scan that lists items, and a fetch that reads one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

from caption_assets.sources.failures import FetchError as FetchError
from caption_assets.sources.spool import Body

CHANGED = "the object has changed since it was planned; the new one is an item of its own"
GONE = "the object is no longer there"


@dataclass(frozen=True)
class Item:
    """One thing to caption, as its source names it. Its identity in a dataset is (uri, etag)."""

    uri: str
    etag: str
    size: int
    modified: datetime | None = None
    source: dict[str, Any] = field(default_factory=dict)
    sidecars: tuple[str, ...] = field(default=(), compare=False)
    """Where further source columns are to be read from, once it is known that the item is new; never planned."""

    @property
    def key(self) -> tuple[str, str]:
        """What makes an item this one in its dataset."""
        return self.uri, self.etag


class FieldError(ValueError):
    """A dataset does not have what a field of the pipeline file says; `field` is the field's name."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Source(Protocol):
    """A dataset that can be listed and read."""

    def scan(self) -> Iterator[Item]:
        """All items that are there now, in a stable order."""

    def fetch(self, uri: str, etag: str) -> Body:
        """The bytes of a planned item, which may be on disk where they are many. Raises FetchError."""


@dataclass(frozen=True)
class Run:
    """Neighbours in a listing, recognised together: their items need to be made only where they are not known."""

    digest: bytes
    """16 bytes, the same as long as these are the same items."""
    count: int
    items: Callable[[], list[Item]]
    """Makes them."""


@dataclass(frozen=True)
class Page:
    """A piece of a listing."""

    items: list[Item]
    after: str
    """The place behind which the listing goes on. What stood before it may come again, in another page."""
    last: bool = False
    """Whether nothing comes behind it."""
    unsettled: Sequence[Item] = ()
    """Items that are there, but may still be being written."""
    whole: bool = True
    """Whether everything could be looked at."""
    runs: Sequence[Run] = ()
    """Settled items that are not among `items`."""


@runtime_checkable
class ListsInPages(Protocol):
    """A source that can be listed a piece at a time, from any place on."""

    def pages(self, after: str = "", until: str = "") -> Iterator[Page]:
        """What is there now, in a stable order, which is also that of places.

        Args:
            after: a page's place; "": from the beginning.
            until: the last place that belongs to it; "": to the end. Ignored unless `keys` is there.

        Raises:
            FileNotFoundError: the source itself is gone.
            OSError: it cannot be listed.
        """

    @property
    def keys(self) -> SortedKeys | None:
        """Where places are keys, and a listing from any of them on costs no more than what it gives."""


class SortedKeys(Protocol):
    """What an object store can do whose listings are sorted by key."""

    def splits(self) -> list[str]:
        """Places that cut a listing into pieces to be listed side by side; maybe none."""

    def ends(self) -> dict[str, str]:
        """By folder, a place near its last key: where keys that sort by arrival will stand. "" is the whole source."""

    def pages_at_end(self, after: str, until: str) -> Iterator[Page]:
        """`pages` for where little is expected. Raises OSError."""

    def look(self, uris: Sequence[str]) -> list[Item | None]:
        """The pictures with these URIs as they are now. None: it is none, not there, or not of this source."""


@runtime_checkable
class CompletesItems(Protocol):
    """A source some of whose columns are dear to read, so that they are read for new items only."""

    def complete(self, items: Sequence[Item]) -> list[Item]:
        """The same items in the same order, with all their source columns."""


class Fetching(Future[bytes]):
    """A fetch under way whose body, once it is there, is handed over by `result()` or `body()` and not before."""

    def size(self) -> int:
        """Bytes of the body, once it is there; 0 where there will be none."""
        raise NotImplementedError

    def body(self, timeout: float | None = None) -> Body:
        """The body as it waits, in memory or on disk. Raises FetchError."""
        raise NotImplementedError


@runtime_checkable
class StartsFetches(Protocol):
    """A source that fetches many items at once without a thread for each."""

    @property
    def ahead(self) -> int:
        """How many fetches it is worth to have under way."""

    def start(self, uri: str, etag: str) -> Future[bytes] | None:
        """Begin to fetch a planned item; the future's result is its bytes, or FetchError. None: `fetch` is the way.

        Raises FetchError where nothing can come of it.
        """


@runtime_checkable
class GivesOnce(Protocol):
    """A source that gives an item until it is told that the item is planned, and may hold back what is not enough for
    a shard."""

    def closes(self, items: Sequence[Item]) -> bool:
        """Whether these, too few for a whole shard, are to be one now."""

    def planned(self, held: Sequence[Item]) -> list[str]:
        """Take note that all items of the last scan are in plans that will last, but those held back.

        Returns lines for people.
        """


@runtime_checkable
class HasManners(Protocol):
    """A source that leaves items alone where their publishers ask for it."""

    @property
    def manners(self) -> str:
        """Names the settings on which that depends: under others, a failure `opted_out` is to be tried again."""
