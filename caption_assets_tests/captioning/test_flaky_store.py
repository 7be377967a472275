"""The lake on an S3 store that fails a third of its requests: everything completes, as if it had not."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import s3fs

from caption_assets.config import PipelineConfig
from caption_assets.lake.store import Lake
from caption_assets_tests import invariants
from caption_assets_tests.captioning.attacked import whole_path
from caption_assets_tests.captioning.processes import engines
from caption_assets_tests.engine.stub_server import StubServer
from caption_assets_tests.flaky_proxy import FlakyProxy
from caption_assets_tests.sources.servers import s3_server

MakeConfig = Callable[..., PipelineConfig]
SHARE = 1 / 3


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[FlakyProxy]:
    """A proxy before an S3 store with the empty bucket `lake`, still at peace."""
    with s3_server() as url, FlakyProxy(url, 0.0, seed=1) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # the client's own five tries wait for seconds between them
        s3fs.S3FileSystem().mkdir("lake")
        yield proxy


def test_a_run_completes_on_a_store_that_fails_a_third_of_its_requests(
    make_config: MakeConfig, proxy: FlakyProxy
) -> None:
    with StubServer() as server:
        config = make_config(engines=engines(server), lake="./undisturbed")
        whole_path(str(config.file), "undisturbed")
        undisturbed = invariants.contents(config, Lake(config.lake))

        config = make_config(engines=engines(server), lake="s3://lake/captions")
        server.calls.clear()
        proxy.share = SHARE
        whole_path(str(config.file), "run")
    proxy.share = 0.0
    failed, requests = proxy.failed.total(), proxy.requests
    assert failed > 0.25 * requests > 25, "it was disturbed"
    assert len(proxy.failed) == len(proxy.misdeeds)
    assert len(server.calls) == 4 * 24, "nothing was asked twice"
    lake = Lake(config.lake)
    assert invariants.contents(config, lake) == undisturbed
    invariants.hold(config, lake)
    invariants.complete(config, lake)
    print(f"{failed} of {requests} requests failed: {dict(proxy.failed)}")


@pytest.mark.parametrize("misdeed", ["lost answer", pytest.param("500 after all", marks=pytest.mark.slow)])
def test_a_claim_whose_answer_is_lost_is_won(proxy: FlakyProxy, misdeed: str) -> None:
    lake = Lake("s3://lake/captions")
    assert lake.create("peace", b"")  # the connection stands
    proxy.misdeeds, proxy.share = (misdeed,), 0.5  # type: ignore[assignment]
    for number in range(10):
        assert lake.create(f"claims/{number}", b"same")
        assert not lake.create(f"claims/{number}", b"same"), "another claim with the same bytes is another claim"
        with lake.scratch() as file:
            file.write_bytes(b"same")
            assert lake.put(file, f"puts/{number}", exclusive=True)
            assert not lake.put(file, f"puts/{number}", exclusive=True)
    assert proxy.failed[misdeed] > 10
