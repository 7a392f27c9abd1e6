"""A checkpoint's folder wherever the command line takes an encoder."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medfinder.cli.app import main
from medfinder.curate.curate import CurateConfig, curate
from medfinder.curate.sources.folder import FolderSource
from medfinder.model.checkpoint import read_checkpoint, save_checkpoint
from medfinder.phantom.phantom import write_phantoms
from stubs.dual_streams import tiny


class Medfinder:
    """Runs ``medfinder ARGUMENTS`` in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys
        monkeypatch.setenv("COLUMNS", "500")

    def __call__(self, *arguments: object) -> tuple[object, str, str]:
        """Return the exit code, stdout and stderr."""
        self.monkeypatch.setattr(sys, "argv", ["medfinder", *map(str, arguments)])
        self.capsys.readouterr()
        code: object = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        return (code, *self.capsys.readouterr())

    def json(self, *arguments: object) -> Any:
        code, out, err = self(*arguments)
        assert code == 0, err
        return json.loads(out)


@pytest.fixture
def medfinder(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Medfinder:
    return Medfinder(monkeypatch, capsys)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds raw phantoms, the studies made of them, and a checkpoint."""
    made = tmp_path_factory.mktemp("cli")
    write_phantoms(made / "raw", 4, 2, size=(32, 40, 40), workers=1)
    source = FolderSource(made / "raw", made / "raw" / "studies.csv")
    curate(source, made / "studies", CurateConfig(workers=1))
    save_checkpoint(tiny(), made / "checkpoint")
    return made


def a_ct(folder: Path) -> Path:
    return min((folder / "raw").rglob("*.nii.gz"))


def test_index_and_search_take_a_checkpoint_s_folder(
    folder: Path, medfinder: Medfinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    made = medfinder.json(
        "index", "studies", "idx", "--encoder", "checkpoint", "--text-encoder", "none", "--json"
    )
    assert made["embedded"] == 4
    monkeypatch.chdir(folder / "raw")  # the index remembers where the checkpoint lies
    search = partial(medfinder.json, "search", folder / "idx", "--k", 4, "--json")
    assert all("volume" in hit["why"]["parts"] for hit in search("left pleural effusion"))
    first = search("--volume", a_ct(folder))[0]
    assert first["why"]["parts"].keys() == {"volume", "joint"}
    assert first["why"]["sentences"]


def test_encode_takes_a_ct_or_a_text(folder: Path, medfinder: Medfinder) -> None:
    model_id = read_checkpoint(folder / "checkpoint").info().model_id
    for query in ((a_ct(folder),), ("--text", "left pleural effusion")):
        made = medfinder.json("encode", *query, "--encoder", folder / "checkpoint")
        assert made["model_id"] == model_id
        assert np.linalg.norm(made["vector"]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "Give either a CT or --text"),
        (("ct.nii", "--text", "nodule"), "Give either a CT or --text"),
        (("--text", "nodule", "--regions", "r.npy"), "A text has no region features"),
        (("--text", " ", "--encoder", "checkpoint"), "The text --text is empty"),
        (("--text", "nodule", "--encoder", "./nowhere"), "There is no checkpoint at 'nowhere'"),
        (("--text", "nodule", "--encoder", "studies"), "has no config.json: it is no checkpoint"),
    ],
)
def test_a_bad_query_exits_with_2_and_says_what_to_do(
    folder: Path,
    medfinder: Medfinder,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    text: str,
) -> None:
    monkeypatch.chdir(folder)
    code, out, err = medfinder("encode", *arguments)
    assert (code, out) == (2, "")
    assert text in err
