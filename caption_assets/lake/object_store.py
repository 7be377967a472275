"""What object stores ask for beyond fsspec: patience with requests that fail, and claims that know their own.

The answer to a request can be lost after it was carried out. Its repetition then meets its own object, which must not
pass for somebody else's: a claim on S3 puts a mark of its own into the object's metadata.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import fsspec

_TRIES = 10
"""Over the store's client's own: at a third of failures one request in 60,000 is given up even where it has none."""
_MARK = "claim"


def open_store(url: str) -> tuple[Any, str]:
    """The filesystem of a URL, and the root's path in it."""
    fs, base = fsspec.core.url_to_fs(url)
    if is_s3(fs):
        from s3fs.core import set_custom_error_handler

        fs.retries = _TRIES
        set_custom_error_handler(_may_pass)
    return fs, base.rstrip("/")


def claim(fs: Any, path: str, put: Callable[..., object]) -> bool:
    """Make an object only if there is none: False when somebody else was first.

    Args:
        put: makes it, in fsspec's mode `create`; takes further arguments for the request.
    """
    mark = uuid.uuid4().hex
    try:
        put(mode="create", **({"Metadata": {_MARK: mark}} if is_s3(fs) else {}))
    except OSError as error:
        refused = isinstance(error, FileExistsError) or _code(error.__cause__) in {"PreconditionFailed", "412"}
        if is_s3(fs) and _mark_of(fs, path) == mark:
            return True
        if refused:
            return False
        raise
    return True


def _mark_of(fs: Any, path: str) -> str | None:
    try:
        return cast("str | None", fs.metadata(path).get(_MARK))
    except FileNotFoundError:
        return None


def list_objects_after(fs: Any, path: str, name: str) -> list[str]:
    """Names of the objects in a folder of S3 that sort behind a name."""
    prefix = f"{path.partition('/')[2].rstrip('/')}/"
    pages = _pages(fs, path, Delimiter="/", StartAfter=f"{prefix}{name}")
    return [each["Key"].removeprefix(prefix) for page in pages for each in page.get("Contents", ())]


def list_objects(fs: Any, path: str, after: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """All objects under a folder of S3, at any depth, with what S3 says of them: a page of 1,000 is held at a time.

    Args:
        after: in the folder; only what sorts behind it is listed.
    """
    bucket, _, prefix = path.partition("/")
    for page in _pages(fs, path, **({"StartAfter": f"{prefix.rstrip('/')}/{after}"} if after else {})):
        for each in page.get("Contents", ()):
            yield f"{bucket}/{each['Key']}", {**each, "size": each["Size"]}


def _pages(fs: Any, path: str, **where: str) -> Iterator[Mapping[str, Any]]:
    bucket, _, prefix = path.partition("/")
    where |= {"Bucket": bucket, "Prefix": f"{prefix.rstrip('/')}/"}
    while True:
        page = fs.call_s3("list_objects_v2", **where)
        yield page
        if not page.get("IsTruncated"):
            return
        where["ContinuationToken"] = page["NextContinuationToken"]


def is_s3(fs: Any) -> bool:
    """Whether a filesystem is s3fs'."""
    return "s3" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)


def _may_pass(error: Exception) -> bool:
    """Whether a failure of S3 is worth another try, beyond those that s3fs takes for it."""
    import aiohttp

    if isinstance(error, aiohttp.ClientError | ConnectionError):
        return True
    status = getattr(error, "response", {}).get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status in {408, 429} or status >= 500 or _code(error) == "ConditionalRequestConflict"


def _code(error: BaseException | None) -> str:
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))
