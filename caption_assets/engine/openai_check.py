"""Looks at a pool's servers before a run: do they answer, and do they serve the model?"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass

import aiohttp

from caption_assets.config import OpenAIEngine
from caption_assets.engine.openai_engine import PROBE_SECONDS, authorization, read_bounded
from caption_assets.engine.openai_reply import ServerFailure

_SHOWN_MODELS = 5


@dataclass(frozen=True)
class ServerState:
    """A server, and what is wrong with it; None: it serves the model."""

    url: str
    problem: str | None


def look_at_servers(section: OpenAIEngine, api_key: str | None) -> list[ServerState]:
    """Ask every server for its models, five seconds long at most."""
    return asyncio.run(_look(section, api_key))


async def _look(section: OpenAIEngine, api_key: str | None) -> list[ServerState]:
    timeout = aiohttp.ClientTimeout(total=PROBE_SECONDS)
    async with aiohttp.ClientSession(headers=authorization(api_key), timeout=timeout) as session:
        problems = await asyncio.gather(*(_problem(session, url, section.model) for url in section.servers))
    return [ServerState(url, problem) for url, problem in zip(section.servers, problems, strict=True)]


async def _problem(session: aiohttp.ClientSession, url: str, model: str) -> str | None:
    try:
        async with session.get(f"{url}/models", allow_redirects=False) as response:
            body = await read_bounded(response)
            status = response.status
    except ServerFailure as error:
        return str(error)
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        reason = "TimeoutError" if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"
        return f"does not answer ({reason}); start it, or correct the address"
    if status in {401, 403}:
        return f"refuses the key (HTTP {status}); correct api_key"
    if status != 200:
        return f"/models answers HTTP {status}, so the model could not be looked up"
    served = _served(body)
    if served is None:
        return "/models answers something else than a list of models; correct the address (it ends in /v1 mostly)"
    if model not in served:
        return f"serves no model {model!r}, only {', '.join(served[:_SHOWN_MODELS])}; correct the name"
    return None


def _served(body: bytes) -> list[str] | None:
    try:
        entries = json.loads(body)["data"]
        return [str(entry["id"]) for entry in entries]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
