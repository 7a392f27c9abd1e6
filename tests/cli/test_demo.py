"""The demo with the checkpoint that ships: nothing → phantoms, found by what their CTs show."""

import json
import sys
from pathlib import Path

import pytest

from medfinder.cli.app import main
from medfinder.cli.demo import LONGER, SENTENCE, SIZE
from medfinder.model.encoder import encoders
from medfinder.phantom.case import CaseSpec, case_from_dict
from medfinder.search.finder import Finder, open_index
from medfinder.volume.read import read_volume

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``medfinder demo --no-serve`` leaves."""
    out = tmp_path_factory.mktemp("demo") / "demo"
    arguments, sys.argv = sys.argv, ["medfinder", "demo", str(out), "--no-serve"]
    code: object = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code
    finally:
        sys.argv = arguments
    assert not code
    return out


@pytest.fixture(scope="module")
def finder(folder: Path) -> Finder:
    return open_index(folder / "index")


@pytest.fixture(scope="module")
def cases(folder: Path) -> dict[str, CaseSpec]:
    """What each phantom was drawn from, by study."""
    lines = (folder / "phantoms" / "truth.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["study_id"]: case_from_dict(row["case"]) for row in map(json.loads, lines)}


def has(case: CaseSpec, name: str, **wanted: str) -> bool:
    finding = case.get(name)
    return finding is not None and all(
        getattr(finding, key) in (value, "bilateral") for key, value in wanted.items()
    )


def test_the_demo_indexes_with_the_checkpoint_that_ships(finder: Finder) -> None:
    assert "medfinder" in encoders
    assert finder.has_joint_space


@pytest.mark.parametrize("asked", [SENTENCE, "derrame pleural izquierdo"])
def test_a_sentence_finds_its_side_in_the_cts_alone(
    finder: Finder, cases: dict[str, CaseSpec], asked: str
) -> None:
    hits = finder.search(asked, by="volume", k=3)
    assert [has(cases[hit.study_id], "pleural effusion", side="left") for hit in hits] == [True] * 3


@pytest.mark.parametrize("by", [None, "volume"])
def test_a_longer_sentence_finds_the_nodule_and_shuns_what_it_denies(
    finder: Finder, cases: dict[str, CaseSpec], by: str | None
) -> None:
    """With the reports among the rankers, and by the CTs alone."""
    (hit,) = finder.search(LONGER, by=by, k=1)
    found = cases[hit.study_id]
    assert has(found, "nodule", side="right", lobe="upper")
    assert not found.has("adenopathy")


def test_a_keyword_finds_cts_without_a_word_of_their_reports(
    finder: Finder, cases: dict[str, CaseSpec]
) -> None:
    hits = finder.search(keyword="cardiomegaly", by="volume", k=3)
    assert [cases[hit.study_id].has("cardiomegaly") for hit in hits] == [True] * 3


def test_a_ct_without_a_report_finds_reports_that_tell_what_it_shows(
    folder: Path, finder: Finder, cases: dict[str, CaseSpec]
) -> None:
    (path,) = (folder / "another" / "volumes").iterdir()
    line = (folder / "another" / "truth.jsonl").read_text(encoding="utf-8")
    shown = {finding.name for finding in case_from_dict(json.loads(line)["case"]).findings}
    volume = read_volume(path)
    assert volume.stored.shape == SIZE
    hits = finder.search(volume=volume, by="joint", k=3)
    assert all(shown & {f.name for f in cases[hit.study_id].findings} for hit in hits)
