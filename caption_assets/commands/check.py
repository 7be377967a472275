"""`caption-assets check`: everything that can be known to be wrong before a run."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from yarl import URL

from caption_assets.captioning.binding import bind_perspectives
from caption_assets.config import LAKE_VARIABLE, ConfigError, OpenAIEngine, PipelineConfig, load_config
from caption_assets.engine.device import device_name
from caption_assets.engine.loading import api_key
from caption_assets.engine.models import model_revision
from caption_assets.engine.openai_check import look_at_servers
from caption_assets.engine.vllm_check import check_args
from caption_assets.events.webhooks import Keys
from caption_assets.kafka.client import Cluster, KafkaAway, absent_topics
from caption_assets.lake.store import Lake
from caption_assets.perspectives import LibraryError, lint, load_library
from caption_assets.sources.addresses import BlockedAddressError, check_host
from caption_assets.sources.kinds import look
from caption_assets.sources.planner import planned_shards

_out = Console(highlight=False, soft_wrap=True)


def check_library(folder: Path) -> int:
    """Lint a folder of perspectives; returns the exit code."""
    try:
        library = load_library([folder.absolute()], Path.cwd())
    except LibraryError as error:
        _tell(error)
        return 1
    findings = lint(library)
    for name in sorted(library.perspectives):
        _out.print(f"perspective {name}: {library.perspectives[name].description or 'no description'}", markup=False)
    for note in library.notes:
        _out.print(note, style="yellow", markup=False)
    for finding in findings:
        _out.print(str(finding), style="red" if finding.level == "error" else "yellow", markup=False)
    errors = sum(finding.level == "error" for finding in findings)
    warnings = sum(finding.level == "warning" for finding in findings)
    _out.print(f"{len(library.perspectives)} perspectives, {errors} errors, {warnings} warnings")
    return 1 if errors else 0


def check_pipeline() -> int:
    """Check what the pipeline file names; returns the exit code."""
    config = load_config()
    _out.print(f"pipeline file {config.file}: ok", markup=False)
    failures = sum([_section(part, config) for part in (_lake, _datasets, _perspectives, _engines, _callbacks, _kafka)])
    _out.print(
        "all good" if not failures else f"sections with errors: {failures}", style="red" if failures else "green"
    )
    return 1 if failures else 0


def _section(part: Callable[[PipelineConfig], bool], config: PipelineConfig) -> bool:
    """Whether a section has errors; a section that raises has told its error."""
    try:
        return part(config)
    except (ConfigError, LibraryError, OSError) as error:
        _tell(error)
        return True


def _tell(error: Exception) -> None:
    """Print an error, which may be several, on a line each."""
    for line in str(error).splitlines():
        _out.print(f"error: {line}", style="red", markup=False)


def _datasets(config: PipelineConfig) -> bool:
    """List every dataset; one that cannot be read does not hide what is wrong with the others."""
    wrong = False
    for name, dataset in sorted(config.datasets.items()):
        watched = ", watched" if dataset.watch else ""
        _out.print(f"dataset {name}: {dataset.kind} {config.dataset_place(name)}{watched}", markup=False)
        try:
            if note := look(config, name):
                _out.print(f"warning: {config.file}: datasets.{name}: {note}", style="yellow", markup=False)
        except ConfigError as error:
            wrong = True
            _tell(error)
    return wrong


def _perspectives(config: PipelineConfig) -> bool:
    library = load_library(config.perspectives.library, config.base_dir)
    bound = bind_perspectives(config)
    for name in sorted(library.perspectives):
        each = bound.get(name)
        reads = f", reads {', '.join(each.inputs)}" if each and each.inputs else ""
        state = f"enabled, engine {each.engine}, fingerprint {each.fingerprint}{reads}" if each else "not enabled"
        _out.print(f"perspective {name}: {state}", markup=False)
    findings = lint(library)
    enabled = {library.files[name] for name in bound}
    errors = 0
    for note in library.notes:
        _out.print(note, style="yellow", markup=False)
    for finding in findings:
        wrong = finding.level == "error" and (finding.file is None or finding.file in enabled)
        errors += wrong
        _out.print(str(finding), style="red" if wrong else "yellow", markup=False)
    return errors > 0


def _engines(config: PipelineConfig) -> bool:
    for name, engine in sorted(config.engines.items()):
        if isinstance(engine, OpenAIEngine):
            _servers(config, name, engine)
            continue
        try:
            check_args(config, name, engine)
            note = ""
        except ImportError:
            note = " (vLLM is not installed here, so its arguments were not checked: pip install 'caption-assets[cpu]')"
        revision = model_revision(config, engine)
        _out.print(f"engine {name}: {engine.kind} {engine.model} ({revision}) on {device_name()}{note}", markup=False)
        if revision == "main":
            _out.print(
                f"warning: {config.file}: engines.{name}.revision: the model is not pinned, so a new upload under the "
                "same name goes unnoticed; set a commit",
                style="yellow",
                markup=False,
            )
    return False


def _servers(config: PipelineConfig, name: str, engine: OpenAIEngine) -> None:
    """Tell which servers answer. One that does not is no error: it may be started with the run."""
    found = look_at_servers(engine, api_key(config, name, engine))
    told = f"{len(found)} servers, {sum(each.problem is None for each in found)} ready"
    _out.print(
        f"engine {name}: {engine.kind} {engine.model} ({model_revision(config, engine)}) on {told}", markup=False
    )
    for each in found:
        if each.problem:
            _out.print(
                f"warning: {config.file}: engines.{name}.servers: {each.url}: {each.problem}",
                style="yellow",
                markup=False,
            )


def _callbacks(config: PipelineConfig) -> bool:
    """Tell who is told of outcomes. A secret that is not set here may be set where the daemon runs."""
    wrong = False
    for number, callback in enumerate(config.callbacks):
        field = f"callbacks.{number}"
        signed = "signed" if callback.secret else "unsigned"
        events = ", ".join(callback.events) or "all events"
        datasets = ", ".join(callback.datasets) or "all datasets"
        _out.print(f"callback {callback.host}: {signed}, {events} of {datasets}", markup=False)
        try:
            check_host(URL(callback.url), callback.allow_hosts)
            Keys.of(callback, field)
        except BlockedAddressError as error:
            wrong = True
            _out.print(f"error: {config.file}: {field}.url: {error}", style="red", markup=False)
        except ConfigError as error:
            _out.print(f"warning: {config.file}: {error}", style="yellow", markup=False)
    return wrong


def _kafka(config: PipelineConfig) -> bool:
    """Tell what is published. A cluster that is away, or a topic that is not there yet, stops no captioning."""
    if config.kafka is None:
        return False
    names = [config.kafka.topic(topic) for topic in config.kafka.topics]
    _out.print(f"kafka {', '.join(config.kafka.brokers)}: {', '.join(names) or 'no topics'}", markup=False)
    try:
        absent = absent_topics(Cluster(config.kafka, f"{config.file}: kafka", config.base_dir), names)
    except ImportError as error:
        _out.print(f"error: {config.file}: kafka: {error}", style="red", markup=False)
        return True
    except (ConfigError, KafkaAway) as error:
        _out.print(f"warning: {error}", style="yellow", markup=False)
        return False
    if absent:
        told = f"there is no topic {', '.join(absent)}; create it, unless the brokers do that by themselves"
        _out.print(f"warning: {config.file}: kafka.topics: {told}", style="yellow", markup=False)
    return False


def _lake(config: PipelineConfig) -> bool:
    probe = f".scratch/check-{uuid.uuid4().hex}"
    try:
        lake = Lake(config.lake)
        lake.write(probe, b"probe")
        if lake.create(probe, b"second") or lake.read(probe) != b"probe":
            raise ConfigError(
                f"{config.file}: lake: {config.lake} does not honour create-if-absent; use a store that does"
            )
        lake.remove(probe)
        shards = sum(len(planned_shards(lake, name)) for name in config.datasets)
    except ConfigError:
        raise
    except Exception as error:  # any backend's own errors: access, network, region, a protocol without its package, ...
        raise ConfigError(
            f"{config.file}: lake: {config.lake} cannot be used: {type(error).__name__}: {error}; "
            f"correct it, or set {LAKE_VARIABLE}"
        ) from None
    _out.print(f"lake {config.lake}: readable and writable, {shards} shards planned", markup=False)
    return False
