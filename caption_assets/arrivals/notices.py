"""Messages that say what changed in a bucket, in the three forms in which SQS brings them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

_CHANGES = ("ObjectCreated:", "ObjectRemoved:", "ObjectRestore:", "LifecycleExpiration:")
_DETAILS = ("Object Created", "Object Deleted", "Object Restore Completed")


@dataclass(frozen=True)
class Change:
    """An object that was created, replaced or removed; which of them, only a look at it can tell.

    Messages come late, twice, and in any order.
    """

    bucket: str
    key: str

    @property
    def uri(self) -> str:
        """As items name it."""
        return f"s3://{self.bucket}/{self.key}"


def changes_in(body: str) -> list[Change]:
    """What a message tells of: the bucket's own notification, one wrapped by SNS, or an event of EventBridge.

    A message of S3 that tells of no object (its test event, say) gives none.

    Raises:
        ValueError: it is no such message.
    """
    try:
        document = json.loads(body)
        if document.get("Type") == "Notification" and "Message" in document:
            document = json.loads(document["Message"])
        return list(dict.fromkeys(_changes(document)))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a message of S3 ({type(error).__name__}: {error})") from None


def _changes(document: dict[str, Any]) -> Iterable[Change]:
    if document.get("Event") == "s3:TestEvent":
        return
    if "detail" in document:
        if document["source"] != "aws.s3":
            raise ValueError(f"an event of {document['source']}, not of S3")
        if document["detail-type"] in _DETAILS:
            yield Change(document["detail"]["bucket"]["name"], document["detail"]["object"]["key"])
        return
    for record in document["Records"]:
        if record["eventName"].removeprefix("s3:").startswith(_CHANGES):
            s3 = record["s3"]
            yield Change(s3["bucket"]["name"], unquote_plus(s3["object"]["key"]))  # in this form alone it is escaped
