"""Pages of an S3 listing, read by the XML parser alone: the client's way through its models takes most of a scan."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from datetime import datetime
from typing import Any, cast

from aiobotocore.session import AioSession
from botocore.utils import parse_timestamp


def read_pages_fast(session: AioSession) -> None:
    """Let the clients that a session makes from now on read the objects of a page this way; all else as they would."""
    session.register("before-parse.s3.ListObjectsV2", _take_contents)


def _take_contents(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **others: object) -> None:
    """Move the objects out of an answer, before the client reads it. One that is no page is left to the client."""
    del others
    if response_dict["status_code"] != 200:
        return
    try:
        root = ET.fromstring(response_dict["body"])
    except ET.ParseError:
        return
    space = root.tag.rpartition("ListBucketResult")[0]
    tag = f"{space}Contents"
    objects = root.findall(tag)
    if objects:
        customized_response_dict["Contents"] = [
            _entry({child.tag: child.text or "" for child in each}, space) for each in objects
        ]
        root[:] = [child for child in root if child.tag != tag]
        response_dict["body"] = ET.tostring(root)


def _entry(told: Mapping[str, str], space: str) -> dict[str, Any]:
    """An object as the client gives it, but for what no scan needs."""
    return {
        "Key": told[f"{space}Key"],
        "ETag": told[f"{space}ETag"],
        "Size": int(told[f"{space}Size"]),
        "LastModified": _moment(told[f"{space}LastModified"]),
    }


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return cast(datetime, parse_timestamp(text))
