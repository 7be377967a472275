"""Rounds of telling outcomes, to receivers of callbacks and on Kafka: find what is new, tell what is due.

What was found and what was told stands in the lake: a round that dies anywhere is made good by the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aiohttp.abc import AbstractResolver

from caption_assets.config import PipelineConfig
from caption_assets.events import delivery, publishing
from caption_assets.events.channels import channels
from caption_assets.events.jobs import JobOutcome
from caption_assets.events.lease import lease
from caption_assets.events.looked import Looked
from caption_assets.events.outbox import Clock, Outbox
from caption_assets.events.progress import enroll, needed_from, receiver_of
from caption_assets.lake import layout
from caption_assets.lake.store import Lake


@dataclass(frozen=True)
class Teller:
    """Tells what happened in a lake to those whom the pipeline file names.

    `find_jobs`: what happened to runs since `Looked.jobs_since`; what `Looked.has` may be left out. `clock` tells the
    time, and `warn` receives lines for people.
    """

    config: PipelineConfig
    lake: Lake
    find_jobs: Callable[[Looked], Sequence[JobOutcome]]
    clock: Clock
    warn: Callable[[str], None]

    def call_back(
        self, *, budget_seconds: float = delivery.BUDGET_SECONDS, resolver: AbstractResolver | None = None
    ) -> list[str]:
        """Tell the receivers of callbacks what they do not know yet; returns lines that say what was done.

        Args:
            budget_seconds: after this long no more requests begin.
            resolver: what resolves names; default: the system's.
        """

        def tell(outbox: Outbox) -> list[str]:
            return delivery.deliver(
                self.config, self.lake, outbox, self.clock, budget_seconds=budget_seconds, resolver=resolver
            )

        return self._round(layout.LEASES, self._receivers, tell)

    def publish(self, *, budget_seconds: float = publishing.BUDGET_SECONDS) -> list[str]:
        """Tell Kafka what it does not know yet; returns lines that say what was done.

        Args:
            budget_seconds: after this long no more events begin.
        """

        def tell(outbox: Outbox) -> list[str]:
            return publishing.publish(self.config, self.lake, outbox, self.clock, self.warn, budget_seconds)

        return self._round(layout.KAFKA_LEASES, channels(self.config), tell)

    @property
    def _receivers(self) -> list[str]:
        return [receiver_of(each) for each in self.config.callbacks]

    def _round(self, leases: str, listeners: Sequence[str], tell: Callable[[Outbox], list[str]]) -> list[str]:
        with lease(self.lake, self.clock, leases) as others_until:
            if others_until:
                return [f"another process is telling, until {others_until:%H:%M:%S} UTC at most"]
            outbox = Outbox(self.lake, self.clock, self.warn)
            # before there is anything that a new one could miss
            enroll(self.lake, listeners, outbox.number + 1, self.clock())
            found = outbox.collect(self.config, self.find_jobs(outbox.looked))
            told = tell(outbox)
            everybody = [*self._receivers, *channels(self.config)]
            outbox.prune(needed_from(self.lake, everybody, outbox.number))
            return [f"{found} new events", *told]
