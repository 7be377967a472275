"""`gpu_op_tags`: nothing outside Kubernetes, and there what the environment asks for."""

from __future__ import annotations

import json
import os

import pytest

from caption_assets.config import ConfigError
from caption_assets.definitions import EXECUTOR_VARIABLE
from caption_assets.k8s_tags import EXECUTOR_VARIABLE as TAGS_EXECUTOR_VARIABLE
from caption_assets.k8s_tags import K8S_CONFIG_TAG, gpu_op_tags


@pytest.fixture(autouse=True)
def _k8s(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in os.environ if each.startswith("CAPTION_ASSETS_GPU")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv(EXECUTOR_VARIABLE, "k8s")


def test_the_variable_is_the_one_that_chooses_the_executor() -> None:
    assert TAGS_EXECUTOR_VARIABLE == EXECUTOR_VARIABLE


@pytest.mark.parametrize("executor", [None, "", "in_process", "multiprocess"])
def test_other_executors_get_no_tags(executor: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if executor is None:
        monkeypatch.delenv(EXECUTOR_VARIABLE)
    else:
        monkeypatch.setenv(EXECUTOR_VARIABLE, executor)
    assert gpu_op_tags() == {}


def test_one_gpu_by_default() -> None:
    resources = gpu_op_tags()[K8S_CONFIG_TAG]["container_config"]["resources"]
    assert resources["limits"] == {"memory": "32Gi", "nvidia.com/gpu": "1"}
    assert resources["requests"] == {"cpu": "4", "memory": "32Gi", "nvidia.com/gpu": "1"}


def test_the_environment_says_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPTION_ASSETS_GPUS", "2")
    monkeypatch.setenv("CAPTION_ASSETS_GPU_CPU", "12")
    monkeypatch.setenv("CAPTION_ASSETS_GPU_MEMORY", "96Gi")
    monkeypatch.setenv("CAPTION_ASSETS_GPU_NODES", "gpu=h200, zone = a")
    config = gpu_op_tags()[K8S_CONFIG_TAG]
    assert config["container_config"]["resources"]["limits"] == {"memory": "96Gi", "nvidia.com/gpu": "2"}
    assert config["container_config"]["resources"]["requests"]["cpu"] == "12"
    assert config["pod_spec_config"]["node_selector"] == {"gpu": "h200", "zone": "a"}


def test_zero_gpus_leave_the_pod_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPTION_ASSETS_GPUS", "0")
    assert gpu_op_tags() == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CAPTION_ASSETS_GPUS", "one"),
        ("CAPTION_ASSETS_GPUS", "-1"),
        ("CAPTION_ASSETS_GPUS", "0.5"),
        ("CAPTION_ASSETS_GPU_NODES", "h200"),
        ("CAPTION_ASSETS_GPU_NODES", "=h200"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"{name}='{value}'"):
        gpu_op_tags()


def test_the_tags_survive_dagster_s_json() -> None:
    assert json.loads(json.dumps(gpu_op_tags())) == gpu_op_tags()
