"""One attempt to deliver one event: a signed POST to an address that may be asked.

Headers, beside those of HTTP:

    X-Caption-Assets-Delivery   the event's id, the same at each attempt
    X-Caption-Assets-Event      its type
    X-Caption-Assets-Timestamp  seconds since 1970, of this attempt
    X-Caption-Assets-Signature  sha256=<hex of HMAC-SHA256(secret, timestamp + "." + body)>
    Authorization               Bearer <token>
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from caption_assets.config.callbacks import Callback
from caption_assets.events.event import Event
from caption_assets.sources.addresses import BlockedAddressError, GuardedResolver, check_host
from caption_assets.sources.politeness import retry_after

_GONE = 410


@dataclass(frozen=True)
class Keys:
    """What a receiver knows us by."""

    secret: str | None
    token: str | None

    @classmethod
    def of(cls, callback: Callback, field: str) -> Keys:
        """Read the environment. Raises ConfigError, naming the field and the variable."""
        return cls(
            callback.secret.read(f"{field}.secret") if callback.secret else None,
            callback.token.read(f"{field}.token") if callback.token else None,
        )

    def __repr__(self) -> str:
        return "Keys(...)"


@dataclass(frozen=True)
class Answer:
    """How an attempt ended: delivered (no `problem`), or why not."""

    problem: str | None = None
    gone: bool = False
    """Whether the receiver wants nothing any more."""
    retry_after: float = 0.0
    """Seconds that it asks to be left alone."""


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """What proves that a body is ours, and when it was sent."""
    return hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def headers(event: Event, body: bytes, keys: Keys, now: datetime) -> dict[str, str]:
    """The headers of one attempt."""
    sent_at = str(int(now.timestamp()))
    found = {
        "Content-Type": "application/json",
        "X-Caption-Assets-Delivery": event.id,
        "X-Caption-Assets-Event": event.type,
        "X-Caption-Assets-Timestamp": sent_at,
    }
    if keys.secret:
        found["X-Caption-Assets-Signature"] = f"sha256={signature(keys.secret, sent_at, body)}"
    if keys.token:
        found["Authorization"] = f"Bearer {keys.token}"
    return found


def open_session(callback: Callback, resolver: AbstractResolver | None = None) -> aiohttp.ClientSession:
    """A client that follows a name to public addresses only, or to the hosts that the pipeline file allows."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(resolver=GuardedResolver(callback.allow_hosts, resolver)),
        timeout=aiohttp.ClientTimeout(total=callback.timeout_seconds),
        headers={"User-Agent": "caption-assets"},
        cookie_jar=aiohttp.DummyCookieJar(),
    )


async def post(session: aiohttp.ClientSession, callback: Callback, body: bytes, sent: Mapping[str, str]) -> Answer:
    """Send a body once. Whatever goes wrong is an answer, and tells neither keys nor the URL's path."""
    url = URL(callback.url)
    try:
        check_host(url, callback.allow_hosts)
        async with session.post(url, data=body, headers=sent, allow_redirects=False) as response:
            return _answer(response.status, response.headers.get("Retry-After"))
    except BlockedAddressError as error:
        return Answer(str(error))
    except TimeoutError:
        return Answer(f"no answer in {callback.timeout_seconds:g} s")
    except aiohttp.ClientConnectorCertificateError:
        return Answer("its certificate is not valid")
    except (aiohttp.ClientError, OSError, ValueError) as error:
        if isinstance(error.__cause__, BlockedAddressError):
            return Answer(str(error.__cause__))
        return Answer(f"no connection, or it broke ({type(error).__name__})")


def _answer(status: int, wait: str | None) -> Answer:
    if 200 <= status < 300:
        return Answer()
    if status == _GONE:
        return Answer("it answered 410 Gone", gone=True)
    if 300 <= status < 400:
        return Answer(f"it answers {status}, and redirects are not followed")
    return Answer(f"it answers {status}", retry_after=retry_after(wait))
