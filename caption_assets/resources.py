"""Resources: the pipeline file with its lake, and vLLM."""

from collections.abc import Callable, Mapping, Sequence

import dagster as dg

from caption_assets.captioning.binding import BoundPerspective
from caption_assets.captioning.run import CaptionRun
from caption_assets.config import PipelineConfig, load_config
from caption_assets.lake.layout import Shard
from caption_assets.lake.store import Lake


class PipelineResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The pipeline file and the lake it names."""

    config_file: str

    def config(self) -> PipelineConfig:
        """The validated pipeline file."""
        return load_config(self.config_file, check_paths=False)  # a folder that is away concerns its dataset alone

    def lake(self) -> Lake:
        """The lake."""
        return Lake(self.config().lake)


class VllmResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Loads a model when the first picture needs it, and captions shards with it."""

    def caption(
        self,
        config: PipelineConfig,
        lake: Lake,
        selected: Sequence[BoundPerspective],
        bound: Mapping[str, BoundPerspective],
        shards: Sequence[Shard],
        run_id: str,
        *,
        force: bool,
        tell: Callable[[str], None],
    ) -> CaptionRun:
        """A run over these shards; iterate over it for a report per shard."""
        return CaptionRun(config, lake, selected, bound, shards, run_id, force=force, tell=tell)
