"""One round of telling outcomes: find what is new, deliver what is due."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aiohttp.abc import AbstractResolver

from caption_assets.config import PipelineConfig
from caption_assets.events.channels import channels
from caption_assets.events.delivery import BUDGET_SECONDS, deliver
from caption_assets.events.jobs import JobOutcome
from caption_assets.events.lease import lease
from caption_assets.events.looked import Looked
from caption_assets.events.outbox import Clock, Outbox
from caption_assets.events.progress import enroll, needed_from, receiver_of
from caption_assets.lake.store import Lake


def tell_outcomes(
    config: PipelineConfig,
    lake: Lake,
    find_jobs: Callable[[Looked], Sequence[JobOutcome]],
    clock: Clock,
    warn: Callable[[str], None],
    *,
    budget_seconds: float = BUDGET_SECONDS,
    resolver: AbstractResolver | None = None,
) -> list[str]:
    """Tell the receivers of the pipeline file what they do not know yet; returns lines that say what was done.

    What was found and what was told stands in the lake: a round that dies anywhere is made good by the next one.

    Args:
        find_jobs: the runs that ended and changed since `Looked.jobs_since`; those that `Looked.has` may be left out.
        clock: tells the time.
        warn: receives lines for people.
        budget_seconds: after this long no more requests begin.
        resolver: what resolves names; default: the system's.
    """
    with lease(lake, clock) as others_until:
        if others_until:
            return [f"another process delivers, until {others_until:%H:%M:%S} UTC at most"]
        outbox = Outbox(lake, clock, warn)
        receivers = [receiver_of(each) for each in config.callbacks]
        enroll(lake, receivers, outbox.number + 1, clock())  # before there is anything that a new one could miss
        found = outbox.collect(config, find_jobs(outbox.looked))
        told = deliver(config, lake, outbox, clock, budget_seconds=budget_seconds, resolver=resolver)
        outbox.prune(needed_from(lake, [*receivers, *channels(config)], outbox.number))
        return [f"{found} new events", *told]
