"""`code_reload`: a saved perspective or pipeline file is loaded without a restart.

The server that runs this tick holds what it read when it was started. When the files differ from that, and are valid,
it asks whatever manages it for a successor: Dagster's code server (`dagster dev`, `dagster code-server start`) takes
the request itself; one that a webserver started takes it through the webserver. Webserver and daemon notice a new
server within seconds. Runs under way are processes of their own and go on.
"""

import json
import os
import time
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

import dagster as dg
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin
from dagster._grpc.client import DagsterGrpcClient

from caption_assets.captioning.binding import bind_perspectives
from caption_assets.captioning.loaded import Loaded, files_digest
from caption_assets.config import ConfigError, load_config

CODE_RELOAD = "code_reload"
WEBSERVER_VARIABLE = "CAPTION_ASSETS_WEBSERVER"
_WEBSERVER = "http://localhost:3000"
_INTERVAL_SECONDS = 15
_RELOAD_SECONDS = 50
"""A tick may take 60 s."""
_PATIENCE_SECONDS = 120
_CURSOR_VERSION = 1
_REMEDY = "one started by `dagster api grpc` has to be restarted, `dagster code-server start` needs no restart"


def build_code_reload_sensor(loaded: Loaded) -> dg.SensorDefinition:
    """The sensor.

    Args:
        loaded: what the definitions beside it were built from.
    """

    @dg.sensor(
        name=CODE_RELOAD,
        minimum_interval_seconds=_INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Every {_INTERVAL_SECONDS} s: loads changed perspective files and a changed pipeline file.",
    )
    def code_reload(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        digest = files_digest(loaded.config)
        if digest == loaded.digest:
            return dg.SkipReason("perspectives and pipeline file are as they were loaded")
        seen = _Seen.read(context.cursor)
        if seen.digest == digest and seen.state == "refused":
            return dg.SkipReason("the files are as they were refused; the earlier ones stay loaded")
        if refusal := _refusal(loaded):
            context.log.error(refusal)
            return _told(f"not loaded: {refusal}", "refused", digest)
        if seen.digest == digest and seen.state == "asked" and time.time() < seen.at + _PATIENCE_SECONDS:
            return dg.SkipReason(f"a reload was asked for, but this server still has the earlier files; {_REMEDY}")
        return _told(_reload(context), "asked", digest)

    return code_reload


@dataclass(frozen=True)
class _Seen:
    """The changed files of an earlier tick, and what became of them: `refused` or `asked` (for a reload)."""

    state: str
    digest: str
    at: float

    @classmethod
    def read(cls, cursor: str | None) -> Self:
        """From a cursor; nothing seen where there is none, or one that is not ours."""
        try:
            value = json.loads(cursor or "")
            if value["version"] == _CURSOR_VERSION:
                return cls(str(value["state"]), str(value["digest"]), float(value["at"]))
        except (ValueError, KeyError, TypeError):
            pass
        return cls("", "", 0.0)


def _told(what: str, state: str, digest: str) -> dg.SensorResult:
    """A tick that says something, and is remembered."""
    cursor = json.dumps({"version": _CURSOR_VERSION, "state": state, "digest": digest, "at": time.time()})
    return dg.SensorResult(skip_reason=what, cursor=cursor)


def _refusal(loaded: Loaded) -> str | None:
    """What is wrong with the files; None where they can be loaded."""
    try:
        bind_perspectives(load_config(loaded.config.file))
    except ConfigError as error:
        return str(error)
    return None


def _reload(context: dg.SensorEvaluationContext) -> str:
    """Ask for a new server; what came of it, in words. This server answers its last tick, and ends with its runs."""
    origin, began = context.code_location_origin, time.monotonic()
    try:
        if isinstance(origin, GrpcServerCodeLocationOrigin):
            _client(origin).reload_code(timeout=_RELOAD_SECONDS)
            return "the files have changed: the code location is loaded again"
        if origin is None:
            return "the files have changed, but this process is no server: restart it"
        _ask_webserver(origin.location_name)
    except (OSError, dg.DagsterError, ReloadRefused) as error:
        if time.monotonic() - began >= _RELOAD_SECONDS:
            return f"the files have changed: the code location takes longer than {_RELOAD_SECONDS} s to load again"
        return f"the files have changed, but the code location could not be loaded again: {error}"
    return f"the files have changed: {_webserver()} loads the code location again; restart a daemon that has its own"


def _client(origin: GrpcServerCodeLocationOrigin) -> DagsterGrpcClient:
    """The server above this process. It is on this machine, where no network policy stands between the two."""
    if origin.socket or origin.use_ssl:
        return origin.create_client()
    return DagsterGrpcClient(port=origin.port, host="localhost")


class ReloadRefused(Exception):
    """The webserver did not reload the code location; the message says why."""


def _ask_webserver(location: str) -> None:
    """Have the webserver reload a code location. Raises ReloadRefused."""
    from dagster_graphql import DagsterGraphQLClient, DagsterGraphQLClientError, ReloadRepositoryLocationStatus

    url = urlsplit(_webserver())
    try:
        client = DagsterGraphQLClient(
            url.hostname or "localhost",
            port_number=url.port,
            use_https=url.scheme == "https",
            timeout=_RELOAD_SECONDS,
            path_prefix=url.path.rstrip("/"),
        )
        outcome = client.reload_repository_location(location)
    except (DagsterGraphQLClientError, OSError) as error:
        raise ReloadRefused(f"{_webserver()} does not answer ({error}); set {WEBSERVER_VARIABLE}") from None
    if outcome.status is not ReloadRepositoryLocationStatus.SUCCESS:
        raise ReloadRefused(f"{_webserver()}: {outcome.message or outcome.failure_type}")


def _webserver() -> str:
    return os.environ.get(WEBSERVER_VARIABLE) or _WEBSERVER
