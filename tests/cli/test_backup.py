"""What ``medfinder backup`` and ``restore`` propose next can be pasted into a shell."""

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medfinder.artifact import Manifest, write_manifest
from medfinder.cli.app import app


def proposed(*args: str) -> list[str]:
    made = CliRunner().invoke(app, list(args), catch_exceptions=False)
    assert made.exit_code == 0, made.output
    return shlex.split(made.output.partition("Next: ")[2])


def artifact(folder: Path, stage: str) -> Path:
    folder.mkdir()
    (folder / "rows").write_bytes(b"rows")
    write_manifest(folder, Manifest(stage, {}, {}, {}))
    return folder


def test_paths_with_spaces_are_quoted(tmp_path: Path) -> None:
    folder, to = artifact(tmp_path / "ü x", "curate"), tmp_path / "ü bk"
    then = proposed("backup", str(folder), str(to))
    assert then == ["medfinder", "restore", str(to), f"{folder}-restored"]
    assert proposed(*then[1:]) == ["medfinder", "index", f"{folder}-restored", "idx"]


@pytest.mark.parametrize("given", [".", "./", "../here"])
def test_a_copy_is_proposed_beside_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.chdir(artifact(tmp_path / "here", "curate"))
    then = proposed("backup", given, str(tmp_path / "b"))
    assert Path(then[3]).resolve() == tmp_path / "here-restored"


def test_what_follows_is_what_the_artifact_is_for(tmp_path: Path) -> None:
    for stage, then in (
        ("train", ["index", "STUDIES", "idx", "--encoder"]),
        ("export", ["export"]),
    ):
        folder = artifact(tmp_path / stage, stage)
        proposed("backup", str(folder), str(tmp_path / f"{stage}-b"))
        found = proposed("restore", str(tmp_path / f"{stage}-b"), str(tmp_path / f"{stage}-r"))
        assert found[1 : 1 + len(then)] == then
