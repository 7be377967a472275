"""Publishing: what the outbox holds goes to Kafka, channel by channel, in order, at least once.

Events of shards stand for their pictures: what of these is told is what the lake says of them by then, less what Kafka
has. That is kept in a file a shard, and so nothing is lost where a run died before it could tell of its rows.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from caption_assets.captioning.binding import BoundPerspective, bind_perspectives
from caption_assets.config import ConfigError, PipelineConfig
from caption_assets.config.kafka import KafkaConnection
from caption_assets.events.channels import channels, replied_dataset, replies_channel, topic_channel
from caption_assets.events.event import Event
from caption_assets.events.jobs import BEGINNINGS
from caption_assets.events.looked import FIRST_LOOK_BACK, LOOK_BACK
from caption_assets.events.messages import Message, event_messages
from caption_assets.events.outbox import Batch, Clock, Outbox
from caption_assets.events.pictures import PICTURE_TOPICS, Form, ShardPictures, is_due
from caption_assets.events.progress import Progress, load_progress
from caption_assets.events.published import Published
from caption_assets.kafka.client import Cluster, KafkaAway
from caption_assets.kafka.sender import Outcome, Outgoing, Sender
from caption_assets.lake.current import read_current
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake
from caption_assets.sources.planner import planned_shards

BUDGET_SECONDS = 20.0
"""After this long no more events begin."""
_SEND_SECONDS = 15.0


def publish(
    config: PipelineConfig, lake: Lake, outbox: Outbox, clock: Clock, warn: Callable[[str], None], seconds: float
) -> list[str]:
    """Publish what is due to channels, which are enrolled; returns lines that say what was done.

    Args:
        clock: tells the time.
        warn: receives lines for people.
        seconds: after this long no more events begin.
    """
    return _Round(config, lake, channels(config), clock, warn).publish(outbox, seconds)


@dataclass
class _Channel:
    """A channel, and how far it is."""

    name: str
    progress: Progress
    stored: dict[str, object]
    trouble: str | None = None
    sent: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def lacks(self, batch: Batch, event: Event) -> bool:
        """Whether it is still to be told of an event, and can be."""
        behind = batch.number >= self.progress.position and event.id not in self.progress.settled
        return behind and self.trouble is None

    @property
    def since(self) -> datetime | None:
        """Rows that are older are not told."""
        return self.progress.since - FIRST_LOOK_BACK if self.progress.since else None


class _Round:
    """One round of publishing."""

    def __init__(
        self, config: PipelineConfig, lake: Lake, names: Sequence[str], clock: Clock, warn: Callable[[str], None]
    ) -> None:
        self._config, self._lake, self._clock, self._warn = config, lake, clock, warn
        progresses = {name: load_progress(lake, name) for name in names}
        self._channels = {name: _Channel(name, each, each.document()) for name, each in progresses.items()}
        self._senders: dict[str, Sender] = {}
        self._looked_at: set[tuple[Shard, Form | None, str]] = set()
        self._bound: dict[str, BoundPerspective] = {}

    def publish(self, outbox: Outbox, seconds: float) -> list[str]:
        """Publish what is due; returns a line for people."""
        behind = min(each.progress.position for each in self._channels.values())
        if behind > outbox.number:
            return [self._summary([])]
        try:
            self._bound = bind_perspectives(self._config)
        except ConfigError as error:  # what the lake says of perspectives cannot be told without them
            return [f"kafka: nothing is sent: {error}"]
        self._connect()
        if not self._senders:  # what waits is not read at each tick of an hour
            return [self._summary([])]
        batches = outbox.batches(behind)
        now, deadline = self._clock(), time.monotonic() + seconds
        for batch in batches:
            for event in batch.events:
                lacking = {name for name, each in self._channels.items() if each.lacks(batch, event)}
                if lacking and time.monotonic() < deadline:
                    self._tell(event, lacking, last_chance=batch.made_at + LOOK_BACK < now)
        for channel in self._channels.values():
            self._save(channel, batches, outbox.number)
        return [self._summary(batches)]

    def _connect(self) -> None:
        """Open a producer for each cluster; channels of one that is away have trouble."""
        clusters: dict[str, Sender | str] = {}
        for name, channel in self._channels.items():
            connection, place = self._cluster(name)
            key = connection.model_dump_json()
            if key not in clusters:
                try:
                    clusters[key] = Sender(Cluster(connection, f"{self._config.file}: {place}", self._config.base_dir))
                except (KafkaAway, ConfigError, ImportError) as error:
                    clusters[key] = str(error)
            sender = clusters[key]
            if isinstance(sender, str):
                channel.trouble = sender
            else:
                self._senders[name] = sender

    def _cluster(self, channel: str) -> tuple[KafkaConnection, str]:
        dataset = replied_dataset(channel)
        if dataset is not None:
            return self._config.kafka_connection(dataset), f"datasets.{dataset}"
        assert self._config.kafka is not None, "it has the topic"
        return self._config.kafka.connection(), "kafka"

    def _tell(self, event: Event, lacking: Collection[str], *, last_chance: bool) -> None:
        """Tell some channels of an event; those that have all of it then have settled it.

        `last_chance`: should the lake's files make that impossible, it is given up.
        """
        try:
            if self._config.kafka:
                mine = [each for each in event_messages(self._config.kafka, event) if each.channel in lacking]
                self._send(mine)
            for shard, forms in self._shards(event):
                self._tell_of(shard, forms, lacking)
        except Exception as error:  # whatever ails a shard's files: it is tried again, and others are told of meanwhile
            self._warn(f"event {event.id} ({event.type}) cannot be told: {type(error).__name__}: {error}")
            if not last_chance:
                return
        for name in lacking:
            if self._channels[name].trouble is None:
                self._channels[name].progress.settled.add(event.id)

    def _shards(self, event: Event) -> list[tuple[Shard, set[Form]]]:
        """The shards whose pictures an event may have changed, and the forms that it names.

        A job that ended stands for all of its shards: it may have died before it wrote down what it did.
        """
        if event.type in ("shard.media", "shard.captions"):
            named = {(each["perspective"], each["fingerprint"]) for each in event.data.get("perspectives", [])}
            return [(Shard.parse(event.data["shard"]), {self._form(*each) for each in named})]
        if not event.type.startswith("job.") or event.type in BEGINNINGS:
            return []
        try:
            first, last = (Shard.parse(event.data["partitions"][name] or "") for name in ("first", "last"))
        except ValueError:
            return []
        planned = planned_shards(self._lake, first.dataset)
        if first.dataset != last.dataset:  # a range over several: its runs table says what it did
            return [(first, set()), (last, set())]
        return [(shard, set()) for shard in planned if first.number <= shard.number <= last.number]

    def _form(self, perspective: str, fingerprint: str) -> Form:
        bound = self._bound.get(perspective)
        return Form(perspective, fingerprint, bound if bound and bound.fingerprint == fingerprint else None)

    def _tell_of(self, shard: Shard, named: set[Form], lacking: Collection[str]) -> None:
        """Tell of a shard's pictures what is not told yet."""
        wanted = {topic_channel(topic) for topic in PICTURE_TOPICS} | {replies_channel(shard.dataset)}
        wanted &= {name for name in lacking if self._channels[name].trouble is None}
        forms = named | {self._form(*each) for each in read_current(self._lake).items()}
        keys = {(shard, form, name) for form in (None, *forms) for name in wanted}
        if keys <= self._looked_at:  # in this round, so after the event happened
            return
        pictures = ShardPictures(self._config, self._lake, shard, forms, list(self._bound), wanted)
        published = Published(self._lake, shard)
        due = [
            each
            for each in pictures.messages()
            if is_due(each, self._channels[each.channel].since) and not published.has(each.envelope.id)
        ]
        for result, failure in pictures.replies():
            if result and not published.has(result.envelope.id):
                due.append(result)
            elif failure and not published.has(failure.envelope.id):
                due.append(failure)
        try:
            published.add(self._send(due))
        finally:
            published.save()
        if all(self._channels[name].trouble is None for name in wanted):
            self._looked_at |= keys

    def _send(self, messages: Sequence[Message]) -> list[str]:
        """Send messages; returns the ids of those that are delivered, or never can be."""
        by_sender: dict[Sender, list[Message]] = {}
        for message in messages:
            if self._channels[message.channel].trouble is None:
                by_sender.setdefault(self._senders[message.channel], []).append(message)
        done: list[str] = []
        for sender, mine in by_sender.items():
            outcomes = sender.send([self._outgoing(each) for each in mine], _SEND_SECONDS)
            done += [
                each.envelope.id for each, outcome in zip(mine, outcomes, strict=True) if self._ends(each, outcome)
            ]
        return done

    def _ends(self, message: Message, outcome: Outcome) -> bool:
        """Record how a message ended; returns whether it is settled."""
        channel = self._channels[message.channel]
        if outcome.problem is None:
            channel.sent += 1
            channel.progress.delivered += 1
            return True
        wrong_reply = replied_dataset(message.channel) is not None and outcome.topic_refused
        if outcome.hopeless or wrong_reply:  # who asked for replies at a topic that is not there waits for nothing
            channel.dropped[outcome.problem] += 1
            channel.progress.given_up += 1
            return True
        hint = "; create it, or leave it out of kafka.topics" if outcome.topic_refused else ""
        channel.trouble = f"{message.topic}: {outcome.problem}{hint}"
        return False

    def _outgoing(self, message: Message) -> Outgoing:
        producer = self._config.kafka.producer if self._config.kafka else "caption-assets"
        return Outgoing(message.topic, message.envelope.key.encode(), message.envelope.body(producer))

    def _save(self, channel: _Channel, batches: Iterable[Batch], last: int) -> None:
        """Move the channel on to the first file of which it lacks something."""
        progress = channel.progress
        mine = [batch for batch in batches if batch.number >= progress.position]
        lacking = [batch for batch in mine if any(event.id not in progress.settled for event in batch.events)]
        progress.position = lacking[0].number if lacking else last + 1
        held = {event.id for batch in lacking for event in batch.events}
        progress.settled &= held
        if progress.document() != channel.stored:
            progress.save(self._lake, channel.name)

    def _summary(self, batches: Sequence[Batch]) -> str:
        """What happened, in a line."""
        sent = {name.removeprefix("kafka-"): each.sent for name, each in self._channels.items() if each.sent}
        parts = [", ".join(f"{count} {name}" for name, count in sent.items()) or "nothing sent"]
        troubles: dict[str, list[str]] = {}
        for name, channel in self._channels.items():
            if channel.trouble:
                troubles.setdefault(channel.trouble, []).append(name.removeprefix("kafka-"))
            parts += [f"{count} {name} given up: {problem}" for problem, count in channel.dropped.items()]
        parts += [f"{', '.join(names)} waiting: {problem}" for problem, names in troubles.items()]
        events = [(batch, event) for batch in batches for event in batch.events]
        waiting = sum(any(each.lacks(*one) for each in self._channels.values()) for one in events)
        return "kafka: " + "; ".join([*parts, *([f"{waiting} events left for the next tick"] if waiting else [])])
