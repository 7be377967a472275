"""What a server's answer means: a reply, or a failure that says whether and where to try again."""

from __future__ import annotations

import json
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from caption_assets.engine.protocol import EngineFailure, EngineReply
from caption_assets.engine.vllm_in_process import TOO_LONG
from caption_assets.lake.tables import now

Remedy = Literal["again", "later", "other_format", "other_limit", "leave", "none"]
"""What to do: ask again; ask again when the server has caught its breath; tell it the schema in another way; tell it
`max_tokens` by the other name; give up this server for good; nothing, for the request itself is refused."""

_EXCERPT = 300
_FORMAT_WORDS = ("response_format", "json_schema", "json_object", "schema", "structured", "guided", "grammar")
_LIMIT_WORDS = ("unsupported", "not supported", "instead")
_REFUSAL_WORDS = ("content_filter", "content filter", "content_policy", "content management policy", "moderation")


class ServerFailure(Exception):
    """A server gave no usable answer.

    Attributes:
        failure: what the caller is told where nothing helps.
        remedy: what may help.
        about_format: whether the server complains about the way it is told the schema.
        retry_after: seconds that the server asks to be left alone, where it does.
    """

    def __init__(
        self,
        failure: EngineFailure,
        remedy: Remedy,
        *,
        about_format: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(str(failure))
        self.failure, self.remedy = failure, remedy
        self.about_format, self.retry_after = about_format, retry_after


def transient(message: str, remedy: Remedy = "again", retry_after: float | None = None) -> ServerFailure:
    """A failure of the server or the way to it, not of the request."""
    return ServerFailure(EngineFailure("engine", message, retryable=True), remedy, retry_after=retry_after)


def refused(status: int, body: bytes, retry_after: str | None) -> ServerFailure:
    """The failure that a status other than 200 stands for."""
    told = error_message(body)
    lower = told.lower()
    message = f"HTTP {status}: {told}"
    if status == 429 and "insufficient_quota" not in body.decode(errors="replace"):
        return transient(message, "later", retry_after_seconds(retry_after))
    if status in {503, 529}:
        return transient(message, "later", retry_after_seconds(retry_after))
    if any(word in lower for word in _REFUSAL_WORDS):
        return ServerFailure(EngineFailure("refusal", message, retryable=False), "none")
    if status in {401, 402, 403, 404, 405, 429} or 300 <= status < 400:
        return transient(message, "leave")
    if status == 413 or TOO_LONG.search(told):
        return ServerFailure(EngineFailure("too_long", message, retryable=False), "none")
    if status in {400, 422, 501}:
        if "max_completion_tokens" in lower and any(word in lower for word in _LIMIT_WORDS):
            return ServerFailure(EngineFailure("prompt", message, retryable=False), "other_limit")
        about_format = any(word in lower for word in _FORMAT_WORDS)
        failure = EngineFailure("prompt", message, retryable=False)
        return ServerFailure(failure, "other_format", about_format=about_format)
    return transient(message)


def error_message(body: bytes) -> str:
    """The beginning of what a server says is wrong, from the JSON of an error where it is one."""
    text = body[:65536].decode(errors="replace").strip()
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return text[:_EXCERPT] or "no explanation"
    error = document.get("error", document) if isinstance(document, dict) else document
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error
    return str(error)[:_EXCERPT]


def retry_after_seconds(header: str | None) -> float | None:
    """The value of a Retry-After header, a number of seconds or a date; None where it is neither."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(header) - now()).total_seconds()
        except (TypeError, ValueError):
            return None
    return max(seconds, 0.0) if seconds < float("inf") else None


def parse(body: bytes) -> dict[str, Any]:
    """The answer's JSON object. Raises ServerFailure for HTML, half JSON, and anything else that is none."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        excerpt = body[:_EXCERPT].decode(errors="replace")
        raise transient(f"the answer is not JSON; it begins: {excerpt!r}") from None
    if not isinstance(document, dict):
        raise transient(f"the answer is a JSON {type(document).__name__}, not an object")
    if "error" in document and "choices" not in document:
        raise transient(f"an error came with status 200: {error_message(body)}")
    return document


def is_vllm(models: bytes) -> bool:
    """Whether a list of models is vLLM's: it says so in `owned_by`."""
    try:
        return any(entry["owned_by"] == "vllm" for entry in json.loads(models)["data"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def reply(document: dict[str, Any]) -> EngineReply:
    """A completion as a reply.

    Raises:
        ServerFailure: fields are missing, or the model refused.
    """
    choices = document.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise transient("the answer has no choices")
    message, finish_reason = choices[0].get("message"), choices[0].get("finish_reason")
    if not isinstance(message, dict):
        raise transient("the answer's choice has no message")
    content = message.get("content")
    if message.get("refusal") or finish_reason == "content_filter":
        words = str(message.get("refusal") or content or "finish_reason content_filter")[:_EXCERPT]
        raise ServerFailure(EngineFailure("refusal", f"the model refused: {words}", retryable=False), "none")
    if isinstance(content, list):  # parts, as some servers have it
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    if content is None and isinstance(finish_reason, str):
        content = ""
    if not isinstance(content, str):
        raise transient("the answer's message has no content")
    usage = document.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    details = usage.get("prompt_tokens_details")
    return EngineReply(
        text=content,
        finish_reason=finish_reason if isinstance(finish_reason, str) else "stop",
        prompt_tokens=_count(usage, "prompt_tokens"),
        cached_tokens=_count(details if isinstance(details, dict) else {}, "cached_tokens"),
        completion_tokens=_count(usage, "completion_tokens"),
    )


def _count(usage: dict[str, Any], name: str) -> int:
    value = usage.get(name)
    return value if isinstance(value, int) and 0 <= value < 2**31 else 0
