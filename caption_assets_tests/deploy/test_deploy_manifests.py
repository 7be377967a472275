"""The Kubernetes manifests and Helm values: valid against the API's schemas, and consistent with each other."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from dagster._core.instance.config import dagster_instance_config
from deploy_files import K8S, ROOT, code_location, documents, found, image_has_fixed_tag, manifests, values

from caption_assets.captioning.binding import bind_perspectives
from caption_assets.config import load_config

KUBERNETES_VERSIONS = ("1.29", "1.33", "1.36")
SECRETS = {
    "caption-assets-secrets": {"HF_TOKEN", "VLLM_API_KEY"},
    "caption-assets-postgresql": {"postgresql-password"},
}
"""What deploy/README.md has its reader create."""

CHART_PORT = {"dagster-webserver": 3000, "user-deployments": 4000}
OBJECTS = [
    pytest.param(document, id=f"{document['kind']}-{document['metadata']['name']}") for _, document in manifests()
]


def named(kind: str) -> dict[str, dict[str, Any]]:
    """Our objects of a kind, by name."""
    return {document["metadata"]["name"]: document for _, document in manifests() if document["kind"] == kind}


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("document", OBJECTS)
def test_every_manifest_is_valid(document: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(document, version, strict=True)


def test_validation_is_strict() -> None:
    (vllm,) = named("Deployment").values()
    vllm["spec"]["template"]["spec"]["containers"][0]["resource"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(vllm, KUBERNETES_VERSIONS[0], strict=True)


def test_names_are_unique_within_a_kind() -> None:
    names = [(document["kind"], document["metadata"]["name"]) for _, document in manifests()]
    assert len(set(names)) == len(names)


def test_no_secret_is_in_the_repository() -> None:
    assert not named("Secret")
    assert not list(found(values(), "postgresqlPassword"))


def test_the_kustomization_lists_files_that_exist() -> None:
    (kustomization,) = documents(K8S / "kustomization.yaml")
    assert all((K8S / name).is_file() for name in kustomization["resources"])


@pytest.mark.skipif(not shutil.which("kubectl"), reason="needs kubectl")
def test_the_kustomization_builds() -> None:
    done = subprocess.run(["kubectl", "kustomize", str(K8S)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (kustomization,) = documents(K8S / "kustomization.yaml")
    expected = sum(len(documents(K8S / name)) for name in kustomization["resources"])
    assert len(list(yaml.safe_load_all(done.stdout))) == expected


# ---- references between the objects


@pytest.mark.parametrize("tree", [values(), *(document for _, document in manifests())])
def test_config_maps_secrets_and_claims_that_are_referred_to_exist(tree: dict[str, Any]) -> None:
    references = [each["name"] for key in ("configMap", "configMapRef", "configMapKeyRef") for each in found(tree, key)]
    assert set(references) <= set(named("ConfigMap"))
    claims = [each["claimName"] for each in found(tree, "persistentVolumeClaim")]
    assert set(claims) <= set(named("PersistentVolumeClaim"))
    for reference in found(tree, "secretKeyRef"):
        assert reference["key"] in SECRETS[reference["name"]]
    for sources in found(tree, "envSecrets"):
        assert {each["name"] for each in sources} <= set(SECRETS)
    for key in ("postgresqlSecretName", "existingSecret"):
        assert set(found(tree, key)) <= set(SECRETS)


def test_every_volume_mount_has_a_volume() -> None:
    (vllm,) = named("Deployment").values()
    pods = [(vllm["spec"]["template"]["spec"]["containers"][0], vllm["spec"]["template"]["spec"])]
    for container, pod in [*pods, (code_location(), code_location())]:
        assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in pod["volumes"]}


def test_the_model_server_is_found_at_the_address_that_is_promised() -> None:
    (deployment,), service = named("Deployment").values(), named("Service")["vllm"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    (port,) = service["spec"]["ports"]
    (container_port,) = container["ports"]
    assert port["port"] == container_port["containerPort"] == 8000
    assert port["targetPort"] == container_port["name"]
    assert f"--port={container_port['containerPort']}" in container["args"]
    selectors = [
        service["spec"]["selector"],
        deployment["spec"]["selector"]["matchLabels"],
        named("PodDisruptionBudget")["vllm"]["spec"]["selector"]["matchLabels"],
        named("NetworkPolicy")["vllm"]["spec"]["podSelector"]["matchLabels"],
    ]
    assert all(selector.items() <= labels.items() for selector in selectors)


def test_the_model_server_takes_its_settings_from_the_environment() -> None:
    (deployment,) = named("Deployment").values()
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    variables = set(named("ConfigMap")["vllm"]["data"]) | {each["name"] for each in container["env"]}
    used = {part.split(")")[0] for argument in container["args"] for part in argument.split("$(")[1:]}
    assert "MODEL" in used
    assert used <= variables
    assert image_has_fixed_tag(container["image"])


def test_the_model_server_has_its_gpu_probes_and_shared_memory() -> None:
    (deployment,) = named("Deployment").values()
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert (
        container["resources"]["limits"]["nvidia.com/gpu"]
        == container["resources"]["requests"]["nvidia.com/gpu"]
        == "1"
    )
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/health", "port": "http"}
    assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]
    assert pod["enableServiceLinks"] is False, "the Service's VLLM_PORT would stop vLLM"


def test_a_budget_lets_nodes_be_drained() -> None:
    for budget in named("PodDisruptionBudget").values():
        assert budget["spec"]["maxUnavailable"] >= 1


@pytest.mark.parametrize("name", sorted(named("NetworkPolicy")))
def test_a_policy_opens_the_port_that_its_pods_listen_on(name: str) -> None:
    policy = named("NetworkPolicy")[name]["spec"]
    labels = policy["podSelector"]["matchLabels"]
    component = labels.get("component")
    expected = CHART_PORT[component] if component else 8000
    assert policy["policyTypes"] == ["Ingress"]
    for rule in policy["ingress"]:
        assert rule["from"], "an empty `from` would admit everybody"
        assert [each["port"] for each in rule["ports"]] == [expected]


# ---- the pipeline file


def pipeline(tmp_path: Path) -> Path:
    """The pipeline file as the code location's pods find it."""
    file = tmp_path / "pipeline.yaml"
    file.write_text(named("ConfigMap")["caption-assets-pipeline"]["data"]["pipeline.yaml"])
    return file


def test_the_pipeline_file_is_one(tmp_path: Path) -> None:
    config = load_config(pipeline(tmp_path), check_paths=False)
    assert len(bind_perspectives(config)) == len(config.perspectives.enabled)


def test_pods_mount_all_that_the_pipeline_file_names(tmp_path: Path) -> None:
    location = code_location()
    mounts = {each["mountPath"]: each["name"] for each in location["volumeMounts"]}
    file = Path(location["env"]["CAPTION_ASSETS_CONFIG"])
    volumes = {each["name"]: each for each in location["volumes"]}
    config_map = volumes[mounts[str(file.parent)]]["configMap"]["name"]
    assert file.name in named("ConfigMap")[config_map]["data"]
    config = load_config(pipeline(tmp_path), check_paths=False)
    assert config.lake == location["env"]["CAPTION_ASSETS_LAKE"]
    assert config.lake in mounts
    assert {str(dataset.path) for dataset in config.datasets.values()} <= set(mounts)
    assert any(location["env"]["HF_HOME"].startswith(f"{mount}/") for mount in mounts)


# ---- the Helm values

CHART_FIELDS: dict[str, set[str]] = {
    "": {
        "global",
        "generatePostgresqlPasswordSecret",
        "postgresql",
        "dagsterWebserver",
        "dagsterDaemon",
        "concurrency",
        "additionalInstanceConfig",
        "telemetry",
        "runLauncher",
        "dagster-user-deployments",
    },
    "dagsterWebserver": {"image", "service", "readinessProbe", "podSecurityContext", "securityContext", "resources"},
    "dagsterDaemon": {
        "enabled",
        "image",
        "podSecurityContext",
        "securityContext",
        "resources",
        "runCoordinator",
        "runMonitoring",
        "runRetries",
    },
    "runLauncher": {"type", "config"},
    "concurrency": {"enabled", "pools", "runs"},
    "dagster-user-deployments": {"enabled", "enableSubchart", "deployments"},
}
"""The chart's fields that the values rely on; the chart refuses unknown ones in these sections."""

DEPLOYMENT_FIELDS = {
    "name",
    "image",
    "codeServerArgs",
    "port",
    "includeConfigInLaunchedRuns",
    "env",
    "envSecrets",
    "podSecurityContext",
    "securityContext",
    "resources",
    "startupProbe",
    "volumeMounts",
    "volumes",
}


@pytest.mark.parametrize("section", CHART_FIELDS)
def test_the_values_use_fields_that_the_chart_has(section: str) -> None:
    tree = values()[section] if section else values()
    assert set(tree) == CHART_FIELDS[section]


def test_the_user_deployment_uses_fields_that_the_chart_has() -> None:
    assert set(code_location()) == DEPLOYMENT_FIELDS
    assert all(isinstance(value, str) for value in code_location()["env"].values()), "a ConfigMap holds strings"


def test_all_images_have_fixed_tags() -> None:
    tags = [image["tag"] for image in found(values(), "image")]
    assert len(tags) == 3
    assert "latest" not in tags


def test_runs_and_steps_are_pods_with_the_code_location_s_settings() -> None:
    tree = values()
    assert tree["runLauncher"]["type"] == "K8sRunLauncher"
    assert code_location()["env"]["CAPTION_ASSETS_EXECUTOR"] == "k8s"
    assert code_location()["includeConfigInLaunchedRuns"]["enabled"]
    assert code_location()["codeServerArgs"][-1] == "caption_assets.definitions"


def test_ports_agree_with_the_policies_and_the_image() -> None:
    webserver = values()["dagsterWebserver"]
    assert (
        webserver["service"]["port"]
        == webserver["readinessProbe"]["httpGet"]["port"]
        == CHART_PORT["dagster-webserver"]
    )
    assert code_location()["port"] == CHART_PORT["user-deployments"]


def test_nobody_runs_as_root() -> None:
    tree = values()
    launcher = tree["runLauncher"]["config"]["k8sRunLauncher"]["runK8sConfig"]
    (vllm,) = named("Deployment").values()
    pods = [tree["dagsterWebserver"], tree["dagsterDaemon"], code_location()]
    pod_contexts = [each["podSecurityContext"] for each in pods]
    contexts = [each["securityContext"] for each in pods]
    pod_contexts += [launcher["podSpecConfig"]["securityContext"], vllm["spec"]["template"]["spec"]["securityContext"]]
    contexts += [launcher["containerConfig"]["securityContext"]]
    contexts += [each["securityContext"] for each in vllm["spec"]["template"]["spec"]["containers"]]
    assert all(each["runAsNonRoot"] and each["runAsUser"] > 0 for each in pod_contexts)
    assert all(not each["allowPrivilegeEscalation"] and each["capabilities"]["drop"] == ["ALL"] for each in contexts)


def test_dagster_accepts_the_instance_that_the_values_describe(tmp_path: Path) -> None:
    """What the chart writes into dagster.yaml of these sections, read by Dagster itself."""
    tree = values()
    monitoring, pools = tree["dagsterDaemon"]["runMonitoring"], tree["concurrency"]["pools"]
    runs = tree["concurrency"]["runs"]
    assert not tree["dagsterDaemon"]["runCoordinator"]["enabled"], (
        "its max_concurrent_runs conflicts with `concurrency`"
    )
    assert not tree["dagsterDaemon"]["runRetries"]["enabled"], "it would be in dagster.yaml twice"
    instance = {
        "concurrency": {
            "pools": {"granularity": pools["granularity"], "default_limit": pools["defaultLimit"]},
            "runs": {
                "max_concurrent_runs": runs["maxConcurrentRuns"],
                "tag_concurrency_limits": runs["tagConcurrencyLimits"],
            },
        },
        "run_monitoring": {
            "enabled": monitoring["enabled"],
            "start_timeout_seconds": monitoring["startTimeoutSeconds"],
            "cancel_timeout_seconds": monitoring["cancelTimeoutSeconds"],
            "max_resume_run_attempts": monitoring["maxResumeRunAttempts"],
            "poll_interval_seconds": monitoring["pollIntervalSeconds"],
            "free_slots_after_run_end_seconds": monitoring["freeSlotsAfterRunEndSeconds"],
        },
        "telemetry": tree["telemetry"],
        **tree["additionalInstanceConfig"],
    }
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(instance))
    settings, _ = dagster_instance_config(str(tmp_path))
    assert settings["run_retries"] == {"enabled": True, "max_retries": 2, "retry_on_asset_or_op_failure": False}
    assert settings["concurrency"]["pools"]["default_limit"] == 1


def test_the_readme_has_its_reader_create_the_secrets() -> None:
    text = (ROOT / "deploy" / "README.md").read_text(encoding="utf-8")
    for secret in SECRETS:
        assert f"create secret generic {secret}" in text
