"""The pipeline file: what is accepted, and that every mistake is named with its file, field and remedy."""

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caption_assets import config as module
from caption_assets.config import (
    CONFIG_VARIABLE,
    DATASET_KINDS,
    ENGINE_KINDS,
    LAKE_VARIABLE,
    ConfigError,
    PipelineConfig,
    check_name,
    load_config,
)
from caption_assets_tests.pipeline_files import complaints, document, write


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CONFIG_VARIABLE, raising=False)
    monkeypatch.delenv(LAKE_VARIABLE, raising=False)


def test_a_good_file(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, document()))
    assert config.file == tmp_path / "pipeline.yaml"
    assert config.base_dir == tmp_path
    assert config.lake == str(tmp_path / "lake")
    assert config.dataset_path("d") == tmp_path / "pictures"
    assert (config.media.max_pixels, config.media.quality, config.datasets["d"].shard_size) == (2048, 90, 1000)


def test_the_demo_is_the_default() -> None:
    assert load_config().file == module.DEMO_CONFIG
    assert load_config(check_paths=False).datasets


def test_the_file_named_by_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONFIG_VARIABLE, str(write(tmp_path, document())))
    assert load_config().base_dir == tmp_path
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(CONFIG_VARIABLE, "pipeline.yaml")
    assert load_config().lake == str(tmp_path / "lake")


@pytest.mark.parametrize(
    ("lake", "expected"),
    [
        ("sub/../lake", "{base}/lake"),
        ("../lake", "{parent}/lake"),
        ("/absolute/lake", "/absolute/lake"),
        ("~/lake", "{home}/lake"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        ("memory://x", "memory://x"),
        ("lake 100% “ü”", "{base}/lake 100% “ü”"),
    ],
)
def test_where_the_lake_is(tmp_path: Path, lake: str, expected: str) -> None:
    names = {"base": str(tmp_path), "parent": str(tmp_path.parent), "home": str(Path.home())}
    assert load_config(write(tmp_path, document(lake=lake))).lake == expected.format(**names)


def test_the_variable_overrides_the_lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, document())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for override, expected in [
        ("s3://other/lake", "s3://other/lake"),
        ("/other/lake", "/other/lake"),
        ("lake", str(tmp_path / "elsewhere" / "lake")),
        ("../lake", str(tmp_path / "lake")),
        ("", str(tmp_path / "lake")),
    ]:
        monkeypatch.setenv(LAKE_VARIABLE, override)
        assert load_config(file).lake == expected
    monkeypatch.setenv(LAKE_VARIABLE, "/other/lake")
    assert load_config(write(tmp_path, document(lake=None))).lake == "/other/lake"


def test_paths_of_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "p").mkdir(parents=True)
    config = load_config(write(tmp_path, document(datasets__d__path="~/p")))
    assert config.dataset_path("d") == tmp_path / "home" / "p"
    (line,) = complaints(tmp_path, document(datasets__d__path="no/such"))
    assert line.startswith(f"datasets.d.path: {tmp_path}/no/such does not exist; create it, or correct the path")
    (line,) = complaints(tmp_path, document(datasets__d__path="pipeline.yaml"))
    assert "is not a folder" in line
    (line,) = complaints(tmp_path, document(datasets__d__path="~no-such-user-here/p"))
    assert "does not exist" in line
    assert load_config(write(tmp_path, document(datasets__d__path="no/such")), check_paths=False)


UNKNOWN = [
    ("lakes", "x", "lakes: unknown key; did you mean 'lake'?"),
    ("dataset", {}, "dataset: unknown key; did you mean 'datasets'?"),
    ("datasets__d__recursiv", True, "datasets.d.recursiv: unknown key; did you mean 'recursive'?"),
    (
        "datasets__d__model",
        "x",
        "datasets.d.model: unknown key; the keys here are 'exclude', 'include', 'kind', ",
    ),
    ("perspectives__enable", [], "perspectives.enable: unknown key; did you mean 'enabled'?"),
    ("media__maxpixels", 1, "media.maxpixels: unknown key; did you mean 'max_pixels'?"),
    ("engines__default__arg", {}, "engines.default.arg: unknown key; did you mean 'args'?"),
    ("captions__max_attempt", 1, "captions.max_attempt: unknown key; did you mean 'max_attempts'?"),
    ("captions__zzz", 1, "captions.zzz: unknown key; the keys here are 'breaker_after', 'contributor', "),
]


@pytest.mark.parametrize(("key", "value", "expected"), UNKNOWN)
def test_unknown_keys_are_named_with_what_was_meant(tmp_path: Path, key: str, value: object, expected: str) -> None:
    (line,) = complaints(tmp_path, document(**{key: value}))
    assert line.startswith(expected)


WRONG = [
    ("lake", 5, "lake: must be text, not 5; put it in quotes"),
    ("lake", "", "lake: must not be empty; give a value"),
    ("lake", None, "lake: is missing; add it"),
    ("datasets", None, "datasets: is missing; add it"),
    ("datasets", {}, "datasets: must not be empty; add at least one entry"),
    ("datasets", [1], "datasets: must be a mapping, not [1]; write 'name: value' lines below it"),
    ("datasets__d", "pictures", "datasets.d: must be a mapping, not 'pictures'; write 'name: value' lines below it"),
    ("datasets__d__path", None, "datasets.d.path: is missing; add it"),
    ("datasets__d__path", 7, "datasets.d.path: must be a path, not 7; write it as text"),
    ("datasets__d__shard_size", "many", "datasets.d.shard_size: must be a whole number, not 'many'; write digits only"),
    ("datasets__d__shard_size", 1.5, "datasets.d.shard_size: must be a whole number, not 1.5; write digits only"),
    ("datasets__d__shard_size", 0, "datasets.d.shard_size: must be greater than or equal to 1, not 0"),
    ("datasets__d__watch", "maybe", "datasets.d.watch: must be true or false, not 'maybe'; write one of them"),
    (
        "datasets__d__settle_seconds",
        float("nan"),
        "datasets.d.settle_seconds: must be a finite number, not nan; write ",
    ),
    (
        "datasets__d__settle_seconds",
        float("inf"),
        "datasets.d.settle_seconds: must be a finite number, not inf; write ",
    ),
    ("datasets__d__settle_seconds", "x" * 200, "datasets.d.settle_seconds: must be a number, not 'xxxx"),
    ("perspectives", None, "perspectives: is missing; add it"),
    ("perspectives__enabled", [], "perspectives.enabled: must not be empty; add at least one entry"),
    ("perspectives__enabled", "a", "perspectives.enabled: must be a list, not 'a'; write [a, b], or a line '- a'"),
    ("perspectives__enabled", [1], "perspectives.enabled.0: must be text, not 1; put it in quotes"),
    ("perspectives__inputs", {"a": "b"}, "perspectives.inputs.a: must be a list, not 'b'; write"),
    ("media", "big", "media: must be a mapping, not 'big'; write 'name: value' lines below it"),
    ("media__quality", 101, "media.quality: must be less than or equal to 100, not 101"),
    ("near_duplicates", {"distance": 17}, "near_duplicates.distance: must be less than or equal to 16, not 17"),
    ("near_duplicates", {"distance": -1}, "near_duplicates.distance: must be greater than or equal to 0, not -1"),
    ("near_duplicates", {"max_pairs": 0}, "near_duplicates.max_pairs: must be greater than or equal to 1, not 0"),
    ("engines", {"pool": {"kind": "vllm", "model": "m"}}, "engines: there is no engine named 'default', only 'pool'; "),
    ("engines__default__model", None, "engines.default.model: is missing; add it"),
    (
        "engines__default__mode",
        "fast",
        "engines.default.mode: must be one of 'auto', 'in_process', 'async', not 'fast'",
    ),
    ("engines__default__args", "a=1", "engines.default.args: must be a mapping, not 'a=1'; write"),
    ("engines__default", "vllm", "engines.default: must be a mapping, not 'vllm'; write 'name: value' lines below it"),
    ("captions__max_failure_share", 2, "captions.max_failure_share: must be less than or equal to 1, not 2"),
]


@pytest.mark.parametrize(("key", "value", "expected"), WRONG)
def test_wrong_values_are_named_with_the_remedy(tmp_path: Path, key: str, value: object, expected: str) -> None:
    (line,) = complaints(tmp_path, document(**{key: value}))
    assert line.startswith(expected)
    assert len(line) < 250


@pytest.mark.parametrize(
    ("section", "name", "kinds"),
    [
        ("datasets", "d", ", ".join(repr(kind) for kind in sorted(DATASET_KINDS))),
        ("engines", "default", "'openai', 'vllm'"),
    ],
)
def test_an_unknown_kind_says_which_there_are_and_nothing_else(
    tmp_path: Path, section: str, name: str, kinds: str
) -> None:
    for entry in ({"kind": "ftp", "host": "x", "port": 1}, {"kind": "ftp"}):
        (line,) = complaints(tmp_path, document(**{f"{section}__{name}": entry}))
        assert line == f"{section}.{name}.kind: there is no kind 'ftp'; the kinds are {kinds}"
    (line,) = complaints(tmp_path, document(**{f"{section}__{name}": {"kind": ["folder"]}}))
    assert line == f"{section}.{name}.kind: there is no kind ['folder']; the kinds are {kinds}"
    (line,) = complaints(tmp_path, document(**{f"{section}__{name}": {"path": "x", "model": "y"}}))
    assert line == f"{section}.{name}.kind: is missing; add it: the kinds are {kinds}"


def test_the_named_kinds_are_those_that_exist() -> None:
    for kinds in (DATASET_KINDS, ENGINE_KINDS):
        for kind, model in kinds.items():
            assert model.model_fields["kind"].annotation.__args__ == (kind,)  # type: ignore[union-attr]


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    bad = document(lake=5, media__quality=0, datasets__d__kind="ftp", captions__zzz=1, engines__default__model=None)
    fields = [line.split(":")[0] for line in complaints(tmp_path, bad)]
    assert sorted(fields) == sorted(
        ["lake", "media.quality", "datasets.d.kind", "captions.zzz", "engines.default.model"]
    )


@pytest.mark.parametrize("name", ["D", "ä", "a b", "a/b", "-a", "_a", ".a", "a..b", "", "a" * 102, "a\n", "a'b"])
def test_names_that_cannot_be_a_folder_or_a_key(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="is not a usable name: use"):
        check_name(name)
    (line,) = complaints(tmp_path, document(datasets={name: {"kind": "folder", "path": "pictures"}}))
    assert line.startswith(f"datasets: {name!r} is not a usable name")


def test_names_that_differ_in_punctuation_only(tmp_path: Path) -> None:
    entry = {"kind": "folder", "path": "pictures"}
    (line,) = complaints(tmp_path, document(datasets={"a-b": entry, "a.b": entry}))
    assert line == "datasets: 'a-b' and 'a.b' differ in punctuation only; rename one"
    assert load_config(write(tmp_path, document(datasets={"a-b": entry, "ab": entry})))


BROKEN = [
    ("", "must be a YAML mapping with lake, datasets, perspectives and engines"),
    ("- a\n- b", "must be a YAML mapping"),
    ("lake: [", "is not valid YAML: "),
    ("lake: x\n\tmedia: y", "is not valid YAML: "),
    ("lake: !!python/object/apply:os.system [true]", "is not valid YAML: "),
    ("lake: x\nlake: y", "is not valid YAML: the key 'lake' is there twice; remove or rename one"),
    ("datasets:\n  d: {kind: a}\n  d: {kind: b}", "is not valid YAML: the key 'd' is there twice"),
    ("lake: " + "[" * 5000, "is not valid YAML: "),
    ("lake: \0", "is not UTF-8 text; save it as UTF-8"),
    ("a: &a [*a]", "a: unknown key; "),
    ("1: x", "names must be text; put it in quotes"),
]


@pytest.mark.parametrize(("text", "expected"), BROKEN)
def test_files_that_are_no_pipeline(tmp_path: Path, text: str, expected: str) -> None:
    assert any(expected in line for line in complaints(tmp_path, text))


def test_numbers_as_names_are_explained(tmp_path: Path) -> None:
    lines = complaints(tmp_path, document(datasets={1: {"kind": "folder", "path": "pictures"}}))
    assert lines == ["datasets.1: names must be text; put 1 in quotes"]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"there is no such pipeline file; set {CONFIG_VARIABLE} to an existing one"):
        load_config(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match=rf"cannot be read: Is a directory; set {CONFIG_VARIABLE} to a readable file"):
        load_config(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("lake: Größe".encode("latin-1"))
    with pytest.raises(ConfigError, match="is not UTF-8 text; save it as UTF-8"):
        load_config(tmp_path / "latin.yaml")


def test_a_byte_order_mark_and_anchors_are_fine(tmp_path: Path) -> None:
    text = (
        "x: &x {kind: folder, path: pictures}\n".replace("x: &x", "datasets: {a: &x").rstrip()
        + ", b: {<<: *x, watch: true}}\n"
    )
    rest = yaml.safe_dump(document(datasets=None))
    config = load_config(write(tmp_path, "\ufeff" + text + rest))
    assert (config.datasets["a"].watch, config.datasets["b"].watch) == (False, True)


def test_a_loaded_file_cannot_be_changed(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, document()))
    with pytest.raises(ValueError, match="frozen"):
        config.lake = "x"
    with pytest.raises(ValueError, match="frozen"):
        config.media.quality = 5


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(0, 3), inner, max_size=3)
    ),
    max_leaves=5,
)
PLACES = [
    ("lake",), ("datasets",), ("datasets", "d"), ("datasets", "d", "kind"), ("datasets", "d", "path"),
    ("perspectives",), ("perspectives", "enabled"), ("perspectives", "inputs"), ("media",), ("media", "max_pixels"),
    ("engines",), ("engines", "default"), ("engines", "default", "kind"), ("engines", "default", "args"), ("captions",),
]  # fmt: skip


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(PLACES), VALUES)
def test_whatever_stands_there_the_answer_is_a_config_or_a_clear_error(
    tmp_path: Path, place: tuple[str, ...], value: object
) -> None:
    content = document()
    section = content
    for step in place[:-1]:
        section = section[step]
    section[place[-1]] = value
    file = write(tmp_path, content)
    try:
        assert isinstance(load_config(file, check_paths=False), PipelineConfig)
    except ConfigError as error:
        for line in str(error).split("\n"):
            assert line.startswith(f"{file}: ")
            assert not re.search(r"pydantic|Input should|FolderDataset|VllmEngine|instance of", line), line


def test_a_name_of_several_lines_stays_on_one(tmp_path: Path) -> None:
    content = document()
    content["datasets"]["a\nb"] = {"kind": "folder"}
    assert complaints(tmp_path, content)[0].startswith("datasets.'a\\nb'.path: ")


def test_dates_are_texts(tmp_path: Path) -> None:
    assert not any("lake" in line for line in complaints(tmp_path, "lake: 2024-01-31"))
