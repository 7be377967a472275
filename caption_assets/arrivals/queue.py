"""The queue that tells of new objects: received for a few seconds, acknowledged once what it told is durable."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from fsspec.asyn import get_loop, sync

from caption_assets.arrivals.notices import Change, changes_in
from caption_assets.config.datasets import Sqs

RECEIVE_SECONDS = 3.0
MOST = 2000
"""Messages a tick takes."""
_AT_ONCE = 10
HIDDEN_SECONDS = 120
"""For so long nobody else gets a message that was received: longer than a tick."""
_GIVE_UP_AFTER = 5
"""So often a message that cannot be understood is left to the queue, which may have a better place for it."""

_log = logging.getLogger(__name__)


@dataclass
class Received:
    """What a queue told."""

    changes: list[Change] = field(default_factory=list)
    """Each object once."""
    receipts: list[str] = field(default_factory=list)
    """Of the messages that told it, those that told nothing, and those that nobody will ever understand."""
    unclear: int = 0
    """Messages that could not be understood."""


class Queue:
    """A queue of SQS.

    Args:
        settings: where it is.
        options: of the bucket's filesystem: its credentials serve here, too.
    """

    def __init__(self, settings: Sqs, options: Mapping[str, Any]) -> None:
        self._settings, self._options = settings, options

    def receive(self) -> Received:
        """What there is, within a few seconds. Raises OSError where the queue cannot be read."""
        return cast(Received, sync(get_loop(), self._receive))

    def acknowledge(self, receipts: Sequence[str]) -> None:
        """Delete messages; one that cannot be deleted comes again. Raises OSError."""
        if receipts:
            sync(get_loop(), self._acknowledge, receipts)

    async def _receive(self) -> Received:
        received, until, count = Received(), time.monotonic() + RECEIVE_SECONDS, 0
        seen: dict[Change, None] = {}
        async with self._client() as client:
            while count < MOST and time.monotonic() < until:
                answers = await asyncio.gather(*(self._batch(client) for _ in range(_AT_ONCE if count else 1)))
                messages = [message for answer in answers for message in answer]
                for message in messages:
                    self._read(message, received, seen)
                count += len(messages)
                if not messages:
                    break
        received.changes = list(seen)
        return received

    async def _batch(self, client: Any) -> list[dict[str, Any]]:
        answer = await client.receive_message(
            QueueUrl=self._settings.queue,
            MaxNumberOfMessages=10,
            WaitTimeSeconds=1,  # asks all of the queue's servers, where 0 asks some of them
            VisibilityTimeout=HIDDEN_SECONDS,
            MessageSystemAttributeNames=["ApproximateReceiveCount"],
        )
        return list(answer.get("Messages", ()))

    def _read(self, message: Mapping[str, Any], received: Received, seen: dict[Change, None]) -> None:
        try:
            seen.update(dict.fromkeys(changes_in(message["Body"])))
        except ValueError as error:
            received.unclear += 1
            times = int(message.get("Attributes", {}).get("ApproximateReceiveCount", 1))
            _log.warning("%s: message %s: %s", self._settings.queue, message["MessageId"], error)
            if times < _GIVE_UP_AFTER:
                return
            _log.warning("%s: message %s came %s times: deleted", self._settings.queue, message["MessageId"], times)
        received.receipts.append(message["ReceiptHandle"])

    async def _acknowledge(self, receipts: Sequence[str]) -> None:
        tens = [receipts[start : start + 10] for start in range(0, len(receipts), 10)]
        async with self._client() as client:
            for start in range(0, len(tens), _AT_ONCE):
                await asyncio.gather(*(self._delete(client, ten) for ten in tens[start : start + _AT_ONCE]))

    async def _delete(self, client: Any, receipts: Sequence[str]) -> None:
        entries = [{"Id": str(number), "ReceiptHandle": receipt} for number, receipt in enumerate(receipts)]
        await client.delete_message_batch(QueueUrl=self._settings.queue, Entries=entries)

    def _client(self) -> Any:
        from aiobotocore.config import AioConfig  # of the optional package s3
        from aiobotocore.session import AioSession

        named = self._options.get("client_kwargs", {})
        told = re.match(r"https?://sqs\.([a-z0-9-]+)\.", self._settings.queue)
        session = AioSession(profile=self._options.get("profile"))
        return _Translated(
            session.create_client(
                "sqs",
                region_name=self._settings.region or (told[1] if told else named.get("region_name")),
                endpoint_url=self._settings.endpoint_url,
                aws_access_key_id=self._options.get("key"),
                aws_secret_access_key=self._options.get("secret"),
                aws_session_token=self._options.get("token"),
                config=AioConfig(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 2}),
            )
        )


class _Translated:
    """A client whose errors are OSErrors."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def __aenter__(self) -> Any:
        with _os_errors():
            return await self._client.__aenter__()

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        await self._client.__aexit__(kind, error, trace)
        with _os_errors():
            if error:
                raise error


@contextmanager
def _os_errors() -> Iterator[None]:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise OSError(f"the queue cannot be used: {error}") from None
