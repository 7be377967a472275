"""`caption-assets new-perspective`: a file to start from that works as it is, and nothing overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from caption_assets.cli import main


def new(*arguments: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(main, ["new-perspective", *arguments])


def test_the_file_it_writes_passes_check(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    result = new("street_signs", "--folder", str(folder))
    assert result.exit_code == 0
    assert f"Wrote {folder}/street_signs.jsonc" in result.output
    checked = CliRunner().invoke(main, ["check", "--library", str(folder)])
    assert checked.exit_code == 0, checked.output
    assert checked.output.endswith("1 perspectives, 0 errors, 0 warnings\n")


def test_a_pair_for_regions_passes_check(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    result = new("species", "--region", "--folder", str(folder))
    assert result.exit_code == 0
    assert "name 'species' and 'species_boxes' under perspectives.enabled" in result.output
    checked = CliRunner().invoke(main, ["check", "--library", str(folder)])
    assert checked.exit_code == 0, checked.output
    assert checked.output.endswith("2 perspectives, 0 errors, 0 warnings\n")
    (folder / "species.jsonc").unlink()
    assert new("species", "--region", "--folder", str(folder)).exit_code == 1
    assert [file.name for file in folder.iterdir()] == ["species_boxes.jsonc"], "both or none"


def test_the_folder_is_perspectives_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert new("street_signs").exit_code == 0
    assert (tmp_path / "perspectives" / "street_signs.jsonc").exists()


@pytest.mark.parametrize("existing", ["street_signs.json", "street_signs.jsonc"])
def test_it_overwrites_nothing(tmp_path: Path, existing: str) -> None:
    (tmp_path / existing).write_text("mine")
    result = new("street_signs", "--folder", str(tmp_path))
    assert result.exit_code == 1
    assert result.stderr == f"error: {tmp_path}/{existing} exists already\n"
    assert (tmp_path / existing).read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_name_that_cannot_be_one(tmp_path: Path) -> None:
    result = new("../Street Signs", "--folder", str(tmp_path / "mine"))
    assert result.exit_code == 1
    assert "use lower-case letters, digits and underscores" in result.stderr
    assert not (tmp_path / "mine").exists()
