"""``medfinder index IDX --check`` and ``--repair``."""

import json
import shlex
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from cli.conftest import Run
from medfinder.index.store import Index, Stream
from medfinder.records import Report, Study


class Batch(NamedTuple):
    ids: tuple[str, ...]
    vectors: np.ndarray
    model_id: str = "m@1"


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """A finished index of five studies."""
    made = Index.create(tmp_path / "idx", {"volume": Stream("m", "m@1", 8)})
    studies = [
        Study(
            study_id=f"s{i}", patient_id=f"p{i}", series_id="1.2", volume_path="/v",
            volume_hash=f"{i:064x}", shape=(10, 20, 20), spacing_mm=(1.0, 1.0, 1.0),
            report=Report(f"Report {i}."),
        )
        for i in range(5)
    ]  # fmt: skip
    vectors = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    made.add(studies, {"volume": Batch(tuple(s.study_id for s in studies), vectors)})
    made.finish()
    return tmp_path / "idx"


@pytest.fixture
def medfinder(command_line: Run) -> Run:
    """Return a function that runs ``medfinder index ARGUMENTS``."""
    return partial(command_line, "index")


def test_a_sound_index_is_said_to_be_sound(medfinder, index: Path) -> None:
    code, out, err = medfinder(index, "--check", "--json")
    assert code == 0
    said = json.loads(out)
    assert said["sound"]
    assert (said["studies"], said["vectors"], said["defects"]) == (5, 5, [])
    assert "sound" in err


def test_damage_is_told_and_mended(medfinder, index: Path) -> None:
    record = index / "derived" / "volume.json"
    record.write_bytes(record.read_bytes().replace(b"0.", b"1.", 1) + b" ")
    code, _, err = medfinder(index, "--check")
    assert code == 1
    assert "derived/volume.json" in err
    assert "--repair" in err
    code, out, err = medfinder(index, "--repair", "--json")
    assert code == 0, err
    said = json.loads(out)
    assert said["sound"]
    assert said["defects"]
    assert said["dropped"] == []
    assert medfinder(index, "--check")[0] == 0
    assert Index.open(index).count() == 5


def test_what_makes_no_sense_is_refused(medfinder, index: Path) -> None:
    for arguments, words in (
        ((index, index, "--check"), "take one index"),
        ((index,), "Where is the index to lie"),
        (("postgresql://host.invalid/db", "--check"), "does not answer"),
        ((index / "none", "--check"), "no index folder"),
    ):
        code, _, err = medfinder(*arguments)
        assert code == 2, arguments
        assert words in err


def test_what_comes_next_can_be_pasted_into_a_shell(medfinder, index: Path, tmp_path: Path) -> None:
    apart = tmp_path / "my index & more"
    index.rename(apart)
    _, _, err = medfinder(apart, "--check")
    assert shlex.split(err.splitlines()[-1])[1:] == ["medfinder", "serve", str(apart)]


def test_a_repair_that_would_not_help_is_not_named(medfinder, index: Path) -> None:
    for name in ("manifest.json", "streams.json"):
        (index / name).write_text("{")
    code, _, err = medfinder(index, "--check")
    assert code == 1
    assert "Next: medfinder restore BACKUP" in err.splitlines()[-1]


def test_an_index_that_lost_all_its_rows_is_not_to_be_served(medfinder, index: Path) -> None:
    made = Index.open(index)
    made.delete(made.ids())
    made.finish()
    code, _, err = medfinder(index, "--check")
    assert code == 0
    assert "Next: medfinder index STUDIES" in err.splitlines()[-1]


def test_a_run_that_is_stopped_says_how_to_go_on(
    medfinder, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("medfinder.index.open.check_index", stopped)
    code, _, err = medfinder(index, "--check")
    assert code == 130
    assert "Run the same command again to go on" in err


def test_a_path_that_cannot_be_used_is_named(
    medfinder, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(index))

    monkeypatch.setattr("medfinder.index.open.check_index", refused)
    code, _, err = medfinder(index, "--check")
    assert code == 2
    assert f"{str(index)!r}: Permission denied" in err
