"""The Kubernetes Jobs that Dagster builds for runs and steps of our assets, from our values and our op tags.

The run launcher and the step handler are Dagster's own; only the API server is replaced, by an object that keeps what
is created. The run is of the job that the UI's Materialize and backfills use.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import dagster as dg
import kubernetes_validate
import pytest
import yaml
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import create_execution_plan
from dagster._core.execution.context.system import PlanData, PlanOrchestrationContext
from dagster._core.execution.context_creation_job import create_context_free_log_manager
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.retries import RetryMode
from dagster._core.executor.step_delegating import StepHandlerContext
from dagster._core.launcher import LaunchRunContext
from dagster._core.origin import DEFAULT_DAGSTER_ENTRY_POINT, JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.storage.dagster_run import DagsterRun
from dagster._core.test_utils import create_run_for_test, instance_for_test
from dagster._grpc.types import ExecuteStepArgs
from dagster_k8s import K8sRunLauncher
from dagster_k8s.executor import K8sStepHandler, k8s_job_executor
from deploy_files import code_location, manifests, values
from kubernetes.client import ApiClient  # type: ignore[import-untyped]

from caption_assets.assets.captions import GPU_POOL
from caption_assets.config import load_config
from caption_assets.definitions import build_defs

KUBERNETES_VERSION = "1.33"
GPU = "nvidia.com/gpu"
ASSET_JOB = "__ASSET_JOB"
IMAGE = "{repository}:{tag}".format(**code_location()["image"])


@pytest.fixture
def definitions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dg.Definitions:
    """The definitions as the code location loads them: its environment, and the pipeline file of the ConfigMap."""
    for name, value in code_location()["env"].items():
        monkeypatch.setenv(name, value)
    (config_map,) = [each for _, each in manifests() if each["metadata"]["name"] == "caption-assets-pipeline"]
    file = tmp_path / "pipeline.yaml"
    file.write_text(config_map["data"]["pipeline.yaml"])
    return build_defs(load_config(file, check_paths=False))


@dataclass(frozen=True)
class Cluster:
    """Dagster's launcher and step handler for one run of all assets."""

    launcher: K8sRunLauncher
    handler: K8sStepHandler
    api: MagicMock
    plan: ExecutionPlan
    run: DagsterRun
    instance: dg.DagsterInstance
    job: dg.JobDefinition

    def run_worker(self) -> dict[str, Any]:
        """The Job of the run's worker."""
        self.launcher.launch_run(LaunchRunContext(dagster_run=self.run, workspace=None))
        return self._created()

    def step_worker(self, step: str) -> dict[str, Any]:
        """The Job of a step."""
        context = PlanOrchestrationContext(
            plan_data=PlanData(
                job=InMemoryJob(self.job),
                dagster_run=self.run,
                instance=self.instance,
                execution_plan=self.plan,
                raise_on_error=True,
                retry_mode=RetryMode.DISABLED,
            ),
            log_manager=create_context_free_log_manager(self.instance, self.run),
            executor=MagicMock(),
            output_capture=None,
        )
        assert self.run.job_code_origin
        handler_context = StepHandlerContext(
            instance=self.instance,
            plan_context=context,
            steps=self.plan.steps,  # type: ignore[arg-type]
            execute_step_args=ExecuteStepArgs(
                self.run.job_code_origin, self.run.run_id, [step], print_serialized_events=False
            ),
            dagster_run=self.run,
        )
        list(self.handler.launch_step(handler_context))
        return self._created()

    def _created(self) -> dict[str, Any]:
        (call,) = self.api.create_namespaced_job.call_args_list
        self.api.reset_mock()
        job = ApiClient().sanitize_for_serialization(call.kwargs["body"])
        assert isinstance(job, dict)
        return job


@pytest.fixture
def cluster(definitions: dg.Definitions, tmp_path: Path) -> Iterator[Cluster]:
    """A run of `__ASSET_JOB` in a cluster that is set up by our values."""
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(KUBECONFIG))
    api = MagicMock()
    job = definitions.resolve_implicit_global_asset_job_def()
    with instance_for_test() as instance:
        launcher = K8sRunLauncher(
            service_account_name="dagster",
            instance_config_map="dagster-instance",
            postgres_password_secret=values()["global"]["postgresqlSecretName"],
            dagster_home=values()["global"]["dagsterHome"],
            image_pull_policy="IfNotPresent",
            load_incluster_config=False,
            kubeconfig_file=str(kubeconfig),
            k8s_client_batch_api=api,
            k8s_client_core_api=MagicMock(),
            env_config_maps=["dagster-pipeline-env"],
            run_k8s_config=_snake(values()["runLauncher"]["config"]["k8sRunLauncher"]["runK8sConfig"]),
        )
        launcher.register_instance(instance)
        instance._run_launcher = launcher
        handler = K8sStepHandler(
            image=None,
            container_context=_no_context(),
            load_incluster_config=False,
            kubeconfig_file=str(kubeconfig),
            k8s_client_batch_api=api,
            k8s_client_core_api=MagicMock(),
        )
        origin = JobPythonOrigin(
            job_name=ASSET_JOB,
            repository_origin=RepositoryPythonOrigin(
                executable_path="python",
                code_pointer=ModuleCodePointer("caption_assets.definitions", "defs"),
                container_image=IMAGE,
                entry_point=DEFAULT_DAGSTER_ENTRY_POINT,
                container_context=container_context(),
            ),
        )
        run = create_run_for_test(instance, job_name=ASSET_JOB, job_code_origin=origin)
        yield Cluster(launcher, handler, api, create_execution_plan(job), run, instance, job)


KUBECONFIG: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Config",
    "current-context": "test",
    "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    "clusters": [{"name": "test", "cluster": {"server": "https://localhost:1"}}],
    "users": [{"name": "test", "user": {}}],
}


def _no_context() -> Any:
    from dagster_k8s.container_context import K8sContainerContext

    return K8sContainerContext()


def _snake(section: Mapping[str, Any]) -> dict[str, Any]:
    """The chart's names of the launcher's raw sections, as dagster.yaml has them."""
    return {"".join("_" + c.lower() if c.isupper() else c for c in name): value for name, value in section.items()}


def container_context() -> dict[str, Any]:
    """What the chart passes from a user deployment to its runs."""
    location = code_location()
    return {
        "k8s": {
            "image_pull_policy": location["image"]["pullPolicy"],
            "env_config_maps": [f"dagster-{location['name']}-user-env"],
            "env_secrets": [each["name"] for each in location["envSecrets"]],
            "volume_mounts": location["volumeMounts"],
            "volumes": location["volumes"],
            "resources": location["resources"],
            "namespace": "caption-assets",
            "service_account_name": "dagster-user-deployments",
            "run_k8s_config": {"pod_spec_config": {"automount_service_account_token": True}},
        }
    }


def pod(job: Mapping[str, Any]) -> dict[str, Any]:
    """The pod that a Job asks for."""
    spec = job["spec"]["template"]["spec"]
    assert isinstance(spec, dict)
    return spec


def container(job: Mapping[str, Any]) -> dict[str, Any]:
    """A Job's one container."""
    (one,) = pod(job)["containers"]
    assert isinstance(one, dict)
    return one


def asks_for_gpu(job: Mapping[str, Any]) -> bool:
    """Whether a GPU is anywhere in a Job."""
    return GPU in json.dumps(container(job)["resources"])


def test_the_default_executor_starts_a_pod_a_step(definitions: dg.Definitions) -> None:
    assert definitions.executor is k8s_job_executor
    assert definitions.resolve_implicit_global_asset_job_def().executor_def is k8s_job_executor


def test_the_captions_step_gets_the_gpu(cluster: Cluster) -> None:
    job = cluster.step_worker("captions")
    kubernetes_validate.validate(job, KUBERNETES_VERSION, strict=True)
    resources = container(job)["resources"]
    assert resources["limits"] == {"memory": "32Gi", GPU: "1"}
    assert resources["requests"] == {"cpu": "4", "memory": "32Gi", GPU: "1"}
    assert {"key": GPU, "operator": "Exists", "effect": "NoSchedule"} in pod(job)["tolerations"]
    assert {"name": "shm", "emptyDir": {"medium": "Memory"}} in pod(job)["volumes"]
    assert {"name": "shm", "mountPath": "/dev/shm"} in container(job)["volumeMounts"]


def test_other_steps_get_no_gpu(cluster: Cluster) -> None:
    steps = {step.key for step in cluster.plan.steps} - {"captions"}
    assert {"media", "datasets", "catalog"} <= steps
    for step in sorted(steps):
        job = cluster.step_worker(step)
        kubernetes_validate.validate(job, KUBERNETES_VERSION, strict=True)
        assert not asks_for_gpu(job), step
        assert container(job)["resources"] == code_location()["resources"]


def test_the_run_worker_gets_no_gpu(cluster: Cluster) -> None:
    job = cluster.run_worker()
    kubernetes_validate.validate(job, KUBERNETES_VERSION, strict=True)
    assert not asks_for_gpu(job)
    assert "tolerations" not in pod(job)


@pytest.mark.parametrize("step", [None, "media", "captions"], ids=["run worker", "media", "captions"])
def test_every_pod_has_the_code_location_s_image_environment_and_volumes(cluster: Cluster, step: str | None) -> None:
    job = cluster.step_worker(step) if step else cluster.run_worker()
    location = code_location()
    assert container(job)["image"] == IMAGE
    sources = container(job)["envFrom"]
    assert {"configMapRef": {"name": f"dagster-{location['name']}-user-env"}} in sources
    assert {"secretRef": {"name": "caption-assets-secrets"}} in sources
    mounts = {each["mountPath"] for each in container(job)["volumeMounts"]}
    assert {each["mountPath"] for each in location["volumeMounts"]} <= mounts
    assert mounts >= {"/lake", "/pictures", "/models"}
    assert {each["name"] for each in container(job)["volumeMounts"]} <= {each["name"] for each in pod(job)["volumes"]}
    assert pod(job)["securityContext"]["runAsNonRoot"] is True
    assert container(job)["securityContext"]["allowPrivilegeEscalation"] is False
    assert pod(job)["enableServiceLinks"] is False


def test_the_network_policies_know_the_pods_by_the_labels_that_dagster_gives(cluster: Cluster) -> None:
    policies = {each["metadata"]["name"]: each["spec"] for _, each in manifests() if each["kind"] == "NetworkPolicy"}
    selectors = [policies["caption-assets-runs"]["podSelector"]]
    selectors += [peer["podSelector"] for rule in policies["vllm"]["ingress"] for peer in rule["from"]]
    for job in (cluster.run_worker(), cluster.step_worker("captions")):
        labels = job["spec"]["template"]["metadata"]["labels"]
        for selector in selectors:
            assert selector["matchLabels"].items() <= labels.items()
            for expression in selector["matchExpressions"]:
                assert labels[expression["key"]] in expression["values"]


def test_captions_stay_in_the_pool_that_the_values_limit(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_implicit_global_asset_job_def().graph
    pools = {node.name: node.definition.pools for node in graph.nodes}
    assert pools["captions"] == {GPU_POOL}
    assert values()["concurrency"]["pools"]["granularity"] == "run"
