"""Op tags that give a step's pod its GPU, where every step is a pod of its own.

Dagster reads a step pod's shape from op tags alone: run and job tags shape the run's pod, and the job behind the UI's
Materialize and behind backfills has none. So the tags come from the environment, which code server and pods share.
"""

from __future__ import annotations

import os
from typing import Any

from caption_assets.config import ConfigError

EXECUTOR_VARIABLE = "CAPTION_ASSETS_EXECUTOR"
GPUS_VARIABLE = "CAPTION_ASSETS_GPUS"
GPU_CPU_VARIABLE = "CAPTION_ASSETS_GPU_CPU"
GPU_MEMORY_VARIABLE = "CAPTION_ASSETS_GPU_MEMORY"
GPU_NODES_VARIABLE = "CAPTION_ASSETS_GPU_NODES"

GPU_RESOURCE = "nvidia.com/gpu"
K8S_CONFIG_TAG = "dagster-k8s/config"


def gpu_op_tags() -> dict[str, Any]:
    """Tags for an op that loads a model; empty unless steps run as pods.

    The environment says what such a pod gets: `CAPTION_ASSETS_GPUS` (default 1; 0: no GPU, the pod is like any other),
    `CAPTION_ASSETS_GPU_CPU` (4), `CAPTION_ASSETS_GPU_MEMORY` (32Gi) and `CAPTION_ASSETS_GPU_NODES`
    (`label=value,label=value`: only nodes with these labels).

    Raises:
        ConfigError: a variable cannot be used.
    """
    if os.environ.get(EXECUTOR_VARIABLE) != "k8s":
        return {}
    gpus = _gpus()
    return {K8S_CONFIG_TAG: _pod(gpus)} if gpus else {}


def _pod(gpus: int) -> dict[str, Any]:
    """The pod's shape; Dagster merges it into what the code location's pods have."""
    cpu = os.environ.get(GPU_CPU_VARIABLE) or "4"
    memory = os.environ.get(GPU_MEMORY_VARIABLE) or "32Gi"
    pod: dict[str, Any] = {
        "tolerations": [{"key": GPU_RESOURCE, "operator": "Exists", "effect": "NoSchedule"}],
        # A Service named `vllm` would put VLLM_PORT=tcp://… into the environment, which vLLM takes for its own setting.
        "enable_service_links": False,
        # Processes of one model talk through /dev/shm, of which a container has 64 MiB otherwise.
        "volumes": [{"name": "shm", "empty_dir": {"medium": "Memory"}}],
    }
    if nodes := _nodes():
        pod["node_selector"] = nodes
    return {
        "container_config": {
            "resources": {
                "requests": {"cpu": cpu, "memory": memory, GPU_RESOURCE: str(gpus)},
                "limits": {"memory": memory, GPU_RESOURCE: str(gpus)},
            },
            "volume_mounts": [{"name": "shm", "mount_path": "/dev/shm"}],
        },
        "pod_spec_config": pod,
        # Moving this pod to another node costs a load of the model.
        "pod_template_spec_metadata": {"annotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}},
    }


def _gpus() -> int:
    text = os.environ.get(GPUS_VARIABLE) or "1"
    if not text.isdecimal():
        raise ConfigError(f"{GPUS_VARIABLE}={text!r}: give a whole number of GPUs, 0 for none")
    return int(text)


def _nodes() -> dict[str, str]:
    text = os.environ.get(GPU_NODES_VARIABLE) or ""
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if any(not label.strip() or not equals for label, equals, _ in pairs):
        raise ConfigError(f"{GPU_NODES_VARIABLE}={text!r}: give node labels as label=value,label=value")
    return {label.strip(): value.strip() for label, _, value in pairs}
