"""Tags of runs: why each was launched, how urgent it is, for which dataset, and with which forms of perspectives."""

from __future__ import annotations

from enum import Enum

CAUSE = "caption_assets/cause"
WHY = "caption_assets/why"
"""What the tick that launched it saw, in words: with a tick the UI shows its runs' tags, but not what it logged."""
DATASET = "caption_assets/dataset"
"""`tag_concurrency_limits` in dagster.yaml keeps a slot free for other datasets by this tag."""
PICTURES = "caption_assets/pictures"
"""What a run was given to caption again, as the daily limit counts it."""
COST = "caption_assets/cost"
FINGERPRINTS = "caption_assets/fingerprints"
"""`name=fingerprint` of every perspective, as they were when the run began."""

CLASS_WIDTH = 1_000_000


class Cause(Enum):
    """Why a sensor launches a run. The value is the highest `dagster/priority` of such runs; the lowest is a million
    below, so that the classes never mix. Runs without a cause, launched by people, have 0: between the first two."""

    ARRIVAL = CLASS_WIDTH
    REPAIR = -1
    RECAPTIONING = -1 - CLASS_WIDTH

    @property
    def label(self) -> str:
        """As tags and the `runs` table have it."""
        return self.name.lower()
