"""The Dockerfiles: their shape, what they copy, the commands they name, and their install lines run for real."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from deploy_files import ROOT, dockerfiles, environment, image_has_fixed_tag, instructions

DOCKERFILES = pytest.mark.parametrize("dockerfile", dockerfiles(), ids=lambda file: str(file.name))
CPU = ROOT / "deploy" / "docker" / "Dockerfile.cpu"
CUDA = ROOT / "deploy" / "docker" / "Dockerfile.cuda"


def test_there_is_an_image_for_cpu_and_one_for_cuda() -> None:
    assert dockerfiles() == [CPU, CUDA]


@DOCKERFILES
def test_the_base_image_has_a_fixed_tag(dockerfile: Path) -> None:
    bases = [each.argument for each in instructions(dockerfile) if each.name == "FROM"]
    assert bases
    assert all(image_has_fixed_tag(base) for base in bases)


@DOCKERFILES
def test_it_runs_as_a_numbered_user_without_rights(dockerfile: Path) -> None:
    steps = instructions(dockerfile)
    users = [each.argument for each in steps if each.name == "USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1]), "Kubernetes can only verify runAsNonRoot for a number"
    after = steps[max(index for index, each in enumerate(steps) if each.name == "USER") :]
    assert not {"RUN", "COPY", "ADD"} & {each.name for each in after}


@DOCKERFILES
def test_it_bakes_in_no_secret(dockerfile: Path) -> None:
    text = "\n".join(f"{each.name} {each.argument}" for each in instructions(dockerfile) if each.name in {"ENV", "ARG"})
    assert not re.search(r"TOKEN|SECRET|PASSWORD|API_KEY|ACCESS_KEY", text, re.IGNORECASE)


@DOCKERFILES
def test_what_it_copies_exists_and_reaches_the_build(dockerfile: Path) -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    sources = [word for each in instructions(dockerfile) if each.name in {"COPY", "ADD"} for word in each.words[:-1]]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert source in allowed, f"{source} is left out by .dockerignore"


@DOCKERFILES
def test_code_is_copied_after_the_dependencies_are_installed(dockerfile: Path) -> None:
    steps = instructions(dockerfile)
    code = next(i for i, each in enumerate(steps) if each.name == "COPY" and "caption_assets" in each.words)
    dependencies = next(i for i, each in enumerate(steps) if each.marked and "k8s,kafka,s3]" in each.argument)
    assert dependencies < code
    later = [each.argument for each in steps[code:] if each.marked]
    assert later
    assert all("--no-deps" in argument for argument in later)


@DOCKERFILES
def test_every_line_that_installs_packages_is_marked(dockerfile: Path) -> None:
    assert all(each.marked for each in instructions(dockerfile) if each.name == "RUN" and "pip" in each.argument)


def test_the_vllm_of_the_cuda_image_is_one_that_the_package_allows() -> None:
    import tomllib

    from packaging.requirements import Requirement

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (required,) = [Requirement(each) for each in extras["gpu"] if Requirement(each).name == "vllm"]
    (version,) = [each.argument.removeprefix("VLLM_VERSION=") for each in instructions(CUDA) if each.name == "ARG"]
    assert version in required.specifier


def test_both_images_run_and_check_the_same_command() -> None:
    commands = [
        {
            each.name: each.argument
            for each in instructions(file)
            if each.name in {"CMD", "HEALTHCHECK", "EXPOSE", "USER"}
        }
        for file in (CPU, CUDA)
    ]
    assert commands[0] == commands[1]


def test_the_code_server_starts_and_passes_the_health_check(tmp_path: Path) -> None:
    steps = {each.name: each.argument for each in instructions(CPU)}
    command: list[str] = json.loads(steps["CMD"])
    check: list[str] = json.loads(steps["HEALTHCHECK"].partition("CMD")[2])
    assert command[command.index("--port") + 1] == check[check.index("--port") + 1] == steps["EXPOSE"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    dagster = str(Path(sys.executable).parent / "dagster")
    run = [dagster, *command[1:]]
    run[run.index("--port") + 1] = port
    run[run.index("--host") + 1] = "127.0.0.1"
    ask = [dagster, *check[1:]]
    ask[ask.index("--port") + 1] = port
    environ = {**os.environ, "DAGSTER_HOME": str(tmp_path), "CAPTION_ASSETS_LAKE": str(tmp_path / "lake")}
    environ.pop("CAPTION_ASSETS_CONFIG", None)  # the demo's
    server = subprocess.Popen(run, env=environ, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert subprocess.run(ask, env=environ, cwd=tmp_path, capture_output=True).returncode != 0
        deadline = time.monotonic() + 90
        while subprocess.run(ask, env=environ, cwd=tmp_path, capture_output=True).returncode != 0:
            assert server.poll() is None, "the code server ended"
            assert time.monotonic() < deadline
    finally:
        server.terminate()
        server.wait(120)  # it ends the calls under way first


def test_the_installed_package_has_every_file_of_the_source(tmp_path: Path) -> None:
    _copy("caption_assets", tmp_path)
    _copy("pyproject.toml", tmp_path)
    _copy("README.md", tmp_path)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", "out", "."],
        cwd=tmp_path,
        check=True,
    )
    (wheel,) = (tmp_path / "out").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    git = subprocess.run(["git", "ls-files", "caption_assets"], cwd=ROOT, capture_output=True, text=True)
    tracked = {name for name in git.stdout.split() if (ROOT / name).exists()}
    if not tracked:
        pytest.skip("no git checkout")
    assert tracked <= packed, sorted(tracked - packed)


@pytest.fixture
def fresh_venv(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A new virtual environment; it is deleted afterwards, for it takes gigabytes."""
    folder = tmp_path_factory.mktemp("image")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    yield folder
    shutil.rmtree(folder)


def _copy(source: str, to: Path) -> None:
    if (ROOT / source).is_dir():
        shutil.copytree(ROOT / source, to / source, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(ROOT / source, to / source)


def _environment(dockerfile: Path, folder: Path) -> dict[str, str]:
    """That of a build: the Dockerfile's, with the virtual environment's pip and python, and an empty home."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    path = f"{folder / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    early = {name: value for name, value in environment(dockerfile).items() if name.startswith(("PIP_", "PYTHON"))}
    return inherited | early | {"PATH": path, "HOME": str(home)}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_install_lines_of_the_cpu_image_give_a_working_installation(fresh_venv: Path) -> None:
    build = fresh_venv / "build"
    build.mkdir()
    environ = _environment(CPU, fresh_venv)
    for step in instructions(CPU):
        if step.name == "COPY":
            for source in step.words[:-1]:
                _copy(source, build)
        elif step.name == "RUN" and step.marked:
            subprocess.run(["/bin/sh", "-c", step.argument], cwd=build, env=environ, check=True)
    program = (
        "import vllm, dagster_k8s, dagster_postgres, s3fs, dagster_webserver\n"
        "from vllm import LLM\n"
        "from caption_assets.definitions import defs\n"
        "import caption_assets\n"
        "assert 'site-packages' in caption_assets.__file__, caption_assets.__file__\n"
        "assert defs.executor.name == 'k8s'\n"
        "print(len(defs.resolve_all_asset_specs()))\n"
    )
    environ |= {"CAPTION_ASSETS_EXECUTOR": "k8s", "VLLM_LOGGING_LEVEL": "ERROR"}
    environ.pop("CAPTION_ASSETS_CONFIG", None)
    command = [str(fresh_venv / "venv" / "bin" / "python"), "-c", program]
    done = subprocess.run(command, cwd=fresh_venv, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split()[-1]) > 5


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_install_lines_of_the_cuda_image_can_be_resolved(fresh_venv: Path) -> None:
    """As a dry run: the real thing takes a CUDA base image and some ten gigabytes."""
    build = fresh_venv / "build"
    build.mkdir()
    environ = _environment(CUDA, fresh_venv)
    for source in ("pyproject.toml", "README.md"):
        _copy(source, build)
    marked = [each for each in instructions(CUDA) if each.marked]
    for step in marked[:2]:
        line = step.argument.replace("pip install ", "pip install --dry-run ")
        done = subprocess.run(["/bin/sh", "-c", line], cwd=build, env=environ, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"Would install .*\bvllm-0\.\d+", done.stdout)
