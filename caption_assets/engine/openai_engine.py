"""An engine over OpenAI-compatible servers: one client session, a pool of servers, and no trust in what they answer.

What servers and networks do is dealt with here, on another server where there is one: failures of theirs reach the
caller only when several tries met them. What a request itself is at fault for, the caller is told at once.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import uuid
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import aiohttp

from caption_assets.config import OpenAIEngine
from caption_assets.engine import openai_reply
from caption_assets.engine.openai_limits import TokenBucket
from caption_assets.engine.openai_payload import FORMATS, Format, Pieces, Template
from caption_assets.engine.openai_pictures import Home, Homes, Picture, PictureCache
from caption_assets.engine.openai_pool import Server, ServerPool
from caption_assets.engine.openai_reply import ServerFailure, transient
from caption_assets.engine.protocol import EngineFailure, EngineReply, EngineRequest

PROBE_SECONDS = 5.0
_MAX_BODY = 2 << 20
_TRIES = 5
_LATER_TRIES = 30
_PAUSE_SECONDS = 0.1
_PICTURE_TOKENS = 1000
_GREETING_SECONDS = 1.0
"""How long the first pictures wait to hear which servers keep them."""
_FREE_MISSES = 4

_log = logging.getLogger(__name__)


class OpenAIServers:
    """Answers requests by a pool of servers.

    Args:
        section: the engine's section of the pipeline file.
        api_key: the secret that goes with each request, if there is one.
        tell: receives lines for people.
    """

    load_seconds = 0.0

    def __init__(self, section: OpenAIEngine, api_key: str | None, tell: Callable[[str], None] = _log.warning) -> None:
        self._section, self._key = section, api_key
        self.max_in_flight = 2 * section.max_in_flight  # as many again wait, so that a free place never does
        self._template = Template(section.model, section.extra_body)
        self._pictures = PictureCache(section.image)
        self._requests = TokenBucket(section.requests_per_minute)
        self._tokens = TokenBucket(section.tokens_per_minute)
        self._pool = ServerPool(
            section.servers,
            section.max_in_flight,
            section.give_up_seconds,
            self._healthy,
            tell,
        )
        self._homes = Homes()
        self._greeted = asyncio.Event()
        self._answered = self._failed = 0
        self._nonce, self._numbers = uuid.uuid4().hex[:12], count()
        self._own_id = re.compile(rf"{self._nonce}-(\d+)")
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._life: asyncio.Task[None] | None = None
        self._mean_tokens = 0.0
        self._closed = False

    @property
    def servers(self) -> list[Server]:
        """The servers and their state."""
        return self._pool.servers

    async def generate(self, request: EngineRequest) -> EngineReply:
        """Answer a request; cancelling the caller closes its connection.

        Raises:
            EngineFailure: no server gave a usable answer; fatal when all of them are away for good.
        """
        if self._closed:
            raise EngineFailure("engine", "the engine was closed", retryable=True, fatal=True)
        if self._session is None:
            self._open()
        try:
            picture = await self._pictures.picture(request)
        except OSError as error:
            raise EngineFailure("prompt", f"the picture cannot be encoded: {error}", retryable=False) from None
        try:
            return await self._ask(request, picture)
        except ServerFailure as error:
            failure = error.failure
            told = self._redact(str(failure))
            raise EngineFailure(failure.kind, told, retryable=failure.retryable, own=failure.own) from None

    def close(self) -> None:
        """Close all connections. Requests under way fail."""
        self._closed = True
        self._pictures.clear()
        if self._life is not None and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._life.cancel)

    def _open(self) -> None:
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", **authorization(self._key)}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, limit_per_host=0, keepalive_timeout=30),
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self._section.timeout_seconds, sock_connect=PROBE_SECONDS),
        )
        self._loop = asyncio.get_running_loop()
        self._life = self._loop.create_task(self._live(self._session), name="openai servers")

    async def _live(self, session: aiohttp.ClientSession) -> None:
        async with session:  # closed in the loop's own time, whoever cancels this
            async with asyncio.TaskGroup() as group:
                greetings = [group.create_task(self._healthy(each)) for each in self._pool.servers]
                await asyncio.wait(greetings, timeout=_GREETING_SECONDS)
                self._greeted.set()
                await self._pool.watch()
            await asyncio.Event().wait()

    async def _ask(self, request: EngineRequest, picture: Picture | None) -> EngineReply:
        """Try until there is an answer; one request about a picture goes before the others where that helps."""
        if request.image_id is None or picture is None:
            return await self._insist(request, picture, Home())
        await self._greeted.wait()
        home = self._homes.of(request.image_id)
        leads = home.lead()
        if not leads and any(each.keeps_pictures for each in self._pool.servers):
            await home.wait()
        try:
            return await self._insist(request, picture, home)
        finally:
            if leads:
                home.settle()

    async def _insist(self, request: EngineRequest, picture: Picture | None, home: Home) -> EngineReply:
        """Try until there is an answer, on whatever server, or it is clear that there will be none."""
        tries = later = 0
        form: Format | None = None
        others = self._answered - self._failed
        while True:
            server = await self._pool.acquire(lambda: home.server)
            how = home.how(server)
            try:
                used = form or self._form(server, request)
                home.sent(server, how)
                reply = await self._attempt(server, request, picture.part(how) if picture else (), used)
                home.heard(server)
                server.named += how == "name"
                if not (better := self._unheeded(server, request, used, reply)):
                    return reply
                form = server.first_form = better
            except ServerFailure as error:
                if how == "named" or error.remedy != "later":
                    surprising = home.forget(server)
                    if how == "name" and error.failure.kind == "prompt":
                        _missed(server, surprising)
                        continue  # with the picture
                if error.remedy == "other_limit" and server.limit_field == "max_tokens":
                    server.limit_field = "max_completion_tokens"
                    continue
                if error.remedy == "other_format" and (form := self._next_form(server, request, used, error)):
                    continue
                if error.remedy in {"none", "other_format", "other_limit"}:
                    raise
                tries += error.remedy == "again"
                later += error.remedy == "later"
                if tries >= _TRIES or later >= _LATER_TRIES:
                    error.failure.own = self._answered - self._failed + tries > others
                    raise
            finally:
                self._pool.release(server)
            if tries:
                await asyncio.sleep(_PAUSE_SECONDS * 2 ** (tries - 1) * random.uniform(0.5, 1.5))

    async def _attempt(
        self, server: Server, request: EngineRequest, part: Sequence[bytes], form: Format
    ) -> EngineReply:
        """Ask one server once, and tell the pool how it went."""
        estimate = self._estimate(request)
        await self._requests.take(1)
        await self._tokens.take(estimate)
        assert self._loop is not None
        started, spent = self._loop.time(), 0.0
        try:
            reply = await self._post(server, self._template.body(request, part, form, server.limit_field))
            spent = float(reply.prompt_tokens + reply.completion_tokens) or estimate
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            spent = estimate
            unreachable = isinstance(error, aiohttp.ClientConnectorError)
            message = self._redact(f"{server.url}: {_told(error, self._section.timeout_seconds)}")
            self._failed += 1
            self._pool.failed(server, message, at_once=unreachable)
            raise transient(message) from None
        except ServerFailure as error:
            spent = estimate if error.remedy == "again" else 0.0
            self._learn(server, error, started)
            raise
        except asyncio.CancelledError:
            spent = estimate
            raise
        finally:
            self._tokens.settle(estimate, spent)
        self._answered += 1
        self._pool.succeeded(server, self._loop.time() - started)
        self._remember(server, request, form, spent, reply)
        return reply

    async def _post(self, server: Server, body: Pieces) -> EngineReply:
        """One request on the wire. Raises ServerFailure, and whatever the client raises for connections."""
        assert self._session is not None
        number = next(self._numbers)
        headers = {"X-Request-Id": f"{self._nonce}-{number}"}
        async with self._session.post(
            server.completions, data=body, headers=headers, allow_redirects=False
        ) as response:
            answer = await read_bounded(response)
            if response.status != 200:
                raise openai_reply.refused(response.status, answer, response.headers.get("Retry-After"))
        document = openai_reply.parse(answer)
        self._check_identity(server, document, number)
        reply = openai_reply.reply(document)
        if self._key and self._key in reply.text:
            raise transient("the answer holds the API key")
        return reply

    def _check_identity(self, server: Server, document: dict[str, Any], number: int) -> None:
        """Raise ServerFailure for the answer to another request, or by another model.

        Servers that repeat request ids and model names (vLLM does both) are held to it once they have done so.
        """
        found = self._own_id.search(str(document.get("id")))
        if (found and int(found[1]) != number) or (server.echoes_id and not found):
            raise transient("the answer to another request came")
        asked, model = self._section.model, document.get("model")
        if server.echoes_model and model != asked:
            raise transient(f"the answer of another model came, {str(model)[:100]!r}")
        server.echoes_id = server.echoes_id or found is not None
        server.echoes_model = server.echoes_model or model == asked

    def _learn(self, server: Server, error: ServerFailure, started: float) -> None:
        message = self._redact(f"{server.url}: {error.failure}")
        if error.remedy == "later":
            self._pool.overloaded(server, started, error.retry_after)
        elif error.remedy == "leave":
            self._pool.dismiss(server, message)
        elif error.remedy == "again":
            self._failed += 1
            self._pool.failed(server, message, at_once=False)

    def _remember(
        self, server: Server, request: EngineRequest, form: Format, tokens: float, reply: EngineReply
    ) -> None:
        self._mean_tokens += 0.1 * (tokens - self._mean_tokens) if self._mean_tokens else tokens
        if request.json_schema is not None and _holds_json(reply):
            if server.form is None or FORMATS.index(form) < FORMATS.index(server.form):
                server.form = form
            elif form != server.form:  # a schema of its own kind
                server.schema_forms[id(request.json_schema)] = form

    def _form(self, server: Server, request: EngineRequest) -> Format:
        """How this server is told a schema."""
        if self._section.structured != "auto":
            return self._section.structured
        return server.schema_forms.get(id(request.json_schema)) or server.form or server.first_form

    def _unheeded(self, server: Server, request: EngineRequest, used: Format, reply: EngineReply) -> Format | None:
        """What to try when a server has answered as if it had not been told a schema; None: nothing, or it has shown
        that it takes the format. Many take no notice of fields that they do not know."""
        if request.json_schema is None or self._section.structured != "auto" or used == FORMATS[-1]:
            return None
        if server.form == used or reply.finish_reason == "length" or _holds_json(reply):
            return None
        return FORMATS[FORMATS.index(used) + 1]

    def _next_form(self, server: Server, request: EngineRequest, used: Format, error: ServerFailure) -> Format | None:
        """What to try when a server refuses a request for what may be its format; None: that is not the reason."""
        if request.json_schema is None or self._section.structured != "auto" or used == FORMATS[-1]:
            return None
        if server.form == used and not error.about_format:
            return None  # it takes this format, so it is the request that it does not take
        return FORMATS[FORMATS.index(used) + 1]

    def _estimate(self, request: EngineRequest) -> float:
        if self._mean_tokens:
            return self._mean_tokens
        pictures = 0 if request.image is None and request.image_file is None else 1
        return len(request.text) / 4 + _PICTURE_TOKENS * pictures + request.max_tokens / 4

    async def _healthy(self, server: Server) -> bool:
        """Whether a server answers /models, or /health beside the API where it has no /models."""
        assert self._session is not None
        timeout = aiohttp.ClientTimeout(total=PROBE_SECONDS)
        for address in (f"{server.url}/models", f"{server.url.removesuffix('/v1')}/health"):
            try:
                async with self._session.get(address, timeout=timeout, allow_redirects=False) as response:
                    if response.status == 200:
                        if self._section.image.once and openai_reply.is_vllm(await read_bounded(response)):
                            server.keeps_pictures = server.missed <= _FREE_MISSES
                        return True
            except ServerFailure:
                return True  # a long list of models
            except (aiohttp.ClientError, OSError, TimeoutError):
                return False
        return False

    def _redact(self, message: str) -> str:
        return message.replace(self._key, "[the key]") if self._key else message


def _holds_json(reply: EngineReply) -> bool:
    """Whether there may be a JSON object in it."""
    return "{" in reply.text


def authorization(api_key: str | None) -> dict[str, str]:
    """The header that shows a server the key."""
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


async def read_bounded(response: aiohttp.ClientResponse) -> bytes:
    """A response's body. Raises ServerFailure as soon as it is clear that it is too large."""
    if (response.content_length or 0) <= _MAX_BODY:
        chunks, size = [], 0
        async for chunk in response.content.iter_any():
            chunks.append(chunk)
            size += len(chunk)
            if size > _MAX_BODY:
                break
        else:
            return b"".join(chunks)
    response.close()  # the connection goes, too: nobody wants the rest
    raise transient(f"the answer is larger than {_MAX_BODY >> 20} MB")


def _missed(server: Server, surprising: bool) -> None:
    """Learn that a server did not know a picture by name: it may keep few, or be several behind one address."""
    server.missed += surprising
    if server.missed > _FREE_MISSES + server.named // 4:
        server.keeps_pictures = False


def _told(error: Exception, timeout_seconds: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout_seconds:g} s"
    return f"{type(error).__name__}: {error}"[:300]
