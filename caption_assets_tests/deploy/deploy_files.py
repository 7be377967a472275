"""Reads the files under deploy/ for the tests beside it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "deploy" / "docker"
K8S = ROOT / "deploy" / "k8s"
INSTALL_MARK = "# install"


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile, its continued lines joined by newlines."""

    name: str
    argument: str
    marked: bool
    """Whether the comment line right above it is `# install`."""

    @property
    def words(self) -> list[str]:
        """The argument as shell words, options left out."""
        return [word for word in shlex.split(self.argument) if not word.startswith("--")]


def dockerfiles() -> list[Path]:
    """All Dockerfiles."""
    return sorted(DOCKER.glob("Dockerfile*"))


def instructions(dockerfile: Path) -> list[Instruction]:
    """The instructions of a Dockerfile, in order."""
    found: list[Instruction] = []
    comment = ""
    pending: list[str] = []
    for line in dockerfile.read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith("#"):
            comment = line.strip()
            continue
        if not pending and not line.strip():
            comment = ""
            continue
        pending.append(line)
        if line.endswith("\\"):
            continue
        name, _, argument = "\n".join(pending).partition(" ")
        found.append(Instruction(name.upper(), argument.strip(), comment == INSTALL_MARK))
        pending, comment = [], ""
    assert not pending, f"{dockerfile.name} ends in a continued line"
    return found


def environment(dockerfile: Path) -> dict[str, str]:
    """What its ENV instructions set."""
    pairs = [
        word.partition("=")
        for each in instructions(dockerfile)
        if each.name == "ENV"
        for word in shlex.split(each.argument.replace("\\\n", " "))
    ]
    return {name: value for name, _, value in pairs}


def documents(file: Path) -> list[dict[str, Any]]:
    """The YAML documents of a file."""
    return [document for document in yaml.safe_load_all(file.read_text(encoding="utf-8")) if document]


def manifests() -> list[tuple[Path, dict[str, Any]]]:
    """Every Kubernetes object that is ours, with its file."""
    files = sorted(set(K8S.glob("*.yaml")) - {K8S / "values.yaml", K8S / "kustomization.yaml"})
    return [(file, document) for file in files for document in documents(file)]


def values() -> dict[str, Any]:
    """The Helm values."""
    (document,) = documents(K8S / "values.yaml")
    return document


def code_location() -> dict[str, Any]:
    """The one user deployment of the Helm values."""
    (deployment,) = values()["dagster-user-deployments"]["deployments"]
    assert isinstance(deployment, dict)
    return deployment


def found(tree: Any, key: str) -> Iterator[Any]:
    """Every value that stands under `key`, anywhere in a tree of dicts and lists."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            if name == key:
                yield value
            yield from found(value, key)
    elif isinstance(tree, list):
        for value in tree:
            yield from found(value, key)


def image_has_fixed_tag(image: str) -> bool:
    """Whether an image is named with a tag (or digest) that is not `latest`."""
    return bool(re.search(r"(@sha256:|:)[\w.${}-]+$", image)) and not image.endswith(":latest")
