"""What the bundled model can do, through the pipeline's own engine, on scenes that it was never trained on."""

from __future__ import annotations

import pytest

from caption_assets.demo.evaluate import engine_ask, evaluate
from caption_assets.demo.scoring import failed_gates
from caption_assets_tests.support import SharedEngine

_HELD_OUT_SEED = 20_261


@pytest.mark.slow
def test_the_bundled_model_passes_its_gates(shared_engine: SharedEngine) -> None:
    figures = evaluate(engine_ask(shared_engine), count=500, seed=_HELD_OUT_SEED)
    assert failed_gates(figures) == {}, figures
