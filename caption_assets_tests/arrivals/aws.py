"""Buckets and queues on a server of the tests' own."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote_plus

import boto3

from caption_assets_tests.sources.servers import s3_server


class Aws:
    """S3 and SQS at a URL."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.options = {"endpoint_url": url, "key": "test", "secret": "test"}
        known = {"endpoint_url": url, "aws_access_key_id": "test", "aws_secret_access_key": "test"}
        self.s3 = boto3.client("s3", region_name="us-east-1", **known)
        self.sqs = boto3.client("sqs", region_name="us-east-1", **known)

    def bucket(self) -> str:
        """A new bucket's name."""
        name = f"b{uuid.uuid4().hex}"
        self.s3.create_bucket(Bucket=name)
        return name

    def queue(self, **attributes: str) -> str:
        """A new queue's URL."""
        return str(self.sqs.create_queue(QueueName=f"q{uuid.uuid4().hex}", Attributes=attributes)["QueueUrl"])

    def notify(self, bucket: str, queue: str) -> None:
        """Let a bucket tell a queue of everything; it sends its test event at once."""
        arn = self.sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        events = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]
        told = {"QueueConfigurations": [{"QueueArn": arn, "Events": events}]}
        self.s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration=told)

    def put(self, bucket: str, key: str, data: bytes = b"x") -> None:
        """Put an object."""
        self.s3.put_object(Bucket=bucket, Key=key, Body=data)

    def send(self, queue: str, body: str) -> None:
        """Send a message."""
        self.sqs.send_message(QueueUrl=queue, MessageBody=body)

    def left(self, queue: str) -> int:
        """Messages in a queue, those received and not deleted included."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=names)["Attributes"]
        return sum(int(found[name]) for name in names)

    def wait_until_empty(self, queue: str) -> None:
        """Return once no message is left."""
        deadline = time.monotonic() + 20
        while self.left(queue):
            assert time.monotonic() < deadline, "messages are left"
            time.sleep(0.1)

    @staticmethod
    def created(bucket: str, key: str, event: str = "ObjectCreated:Put") -> dict[str, Any]:
        """A bucket's own notification."""
        s3 = {"bucket": {"name": bucket}, "object": {"key": quote_plus(key, safe="/"), "size": 1}}
        return {"Records": [{"eventSource": "aws:s3", "eventName": event, "s3": s3}]}

    @staticmethod
    def by_sns(document: dict[str, Any]) -> dict[str, Any]:
        """The same, wrapped by SNS."""
        return {"Type": "Notification", "MessageId": "1", "Message": json.dumps(document)}

    @staticmethod
    def by_event_bridge(bucket: str, key: str, kind: str = "Object Created") -> dict[str, Any]:
        """An event of EventBridge."""
        detail = {"bucket": {"name": bucket}, "object": {"key": key, "size": 1}}
        return {"version": "0", "source": "aws.s3", "detail-type": kind, "detail": detail}


@contextmanager
def aws() -> Iterator[Aws]:
    """A server."""
    with s3_server() as url:
        yield Aws(url)
