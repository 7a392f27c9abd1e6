"""Every source on a phantom archive in its layout: what was planted for sources is found, nothing else."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from medfinder.curate.sources.bimcv import BimcvSource
from medfinder.curate.sources.bimcv_r import BimcvRSource
from medfinder.curate.sources.ct_rate import CtRateSource
from medfinder.curate.sources.merlin import MerlinSource
from medfinder.curate.sources.source import Facts, Source, TableRow
from medfinder.phantom.archive import write_archive
from medfinder.phantom.defects import DEFECTS, Rates
from medfinder.records import Rejection
from medfinder.volume.read import VolumeRef

Curated = tuple[Path, dict[str, Facts], list[Rejection]]
OF_SOURCES = (
    "volume-missing", "not-listed", "duplicate-row", "unsafe-id", "formula-cell", "nan-report",
    "nan-cell", "quotes-in-list", "broken-sidecar", "other-modality", "other-body-part",
    "only-radiograph",
)  # fmt: skip
RULES = {DEFECT: DEFECT for DEFECT in OF_SOURCES} | {"only-radiograph": "other-modality"}
SOURCES: dict[str, Callable[[Path], Source]] = {
    "bimcv": BimcvSource,
    "bimcv_r": lambda root: BimcvRSource(root / "meta" / "BIMCV-R.csv", root, split="published"),
    "ct_rate": CtRateSource,
    "merlin": MerlinSource,
}


@pytest.fixture(scope="module", params=list(SOURCES))
def curated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Curated:
    """Return an archive's folder, the facts of its volumes by item, and its rejections."""
    layout = request.param
    shares = {name: 0.06 if name in OF_SOURCES else 0.0 for name in DEFECTS}
    folder = tmp_path_factory.mktemp(layout)
    root = write_archive(
        folder, 24, 7, layout=layout, size=(16, 16, 16), rates=Rates(shares), workers=1
    )
    facts, lost = read(SOURCES[layout](root))
    return folder, facts, lost


def read(source: Source) -> tuple[dict[str, Facts], list[Rejection]]:
    facts: dict[str, Facts] = {}
    lost: list[Rejection] = []
    for item in source.items():
        if isinstance(item, Rejection):
            lost.append(item)
        elif isinstance(item, TableRow):
            facts[item.item] = item.facts
        elif isinstance(item, VolumeRef):
            facts[item.item] = source.facts(item, {})
    return facts, [*lost, *source.leftovers()]


def planted(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "planted.jsonl").read_text().splitlines()]


def concerns(item: str, line: dict[str, str]) -> bool:
    return line["item"] in item or line["study_id"] in item


def test_what_was_planted_for_sources_is_found(
    curated: Curated,
) -> None:
    folder, facts, lost = curated
    for line in planted(folder):
        if line["expect"] == "rejection" and line["rule"] in RULES.values():
            assert any(r.rule == line["rule"] and concerns(r.item, line) for r in lost), line
        if line["expect"] == "doubt" and line["rule"] in RULES.values():
            doubts = [
                rule
                for f in facts.values()
                if f.study_id == line["study_id"]
                for rule, _ in f.doubts
            ]
            assert line["rule"] in doubts, line


def test_nothing_else_is_rejected_or_doubted(
    curated: Curated,
) -> None:
    folder, facts, lost = curated
    lines = planted(folder)
    for rejection in lost:
        near = [line for line in lines if concerns(rejection.item, line)]
        allowed = {line["rule"] for line in near} | {
            rule for n in near for rule in n.get("also", ())
        }
        assert rejection.rule in allowed, rejection
    for item, found in facts.items():
        rules = {line["rule"] for line in lines if line["study_id"] == found.study_id}
        assert {rule for rule, _ in found.doubts} <= rules, item


def test_every_volume_is_told_of_and_gets_the_text_of_its_study(
    curated: Curated,
) -> None:
    folder, facts, lost = curated
    (root,) = (path for path in folder.iterdir() if path.is_dir())
    volumes = {p.relative_to(root).as_posix() for p in root.rglob("*.nii.gz")}
    assert volumes <= set(facts) | {r.item for r in lost}
    without = {
        line["study_id"]
        for line in planted(folder)
        if line["defect"] in ("nan-report", "not-listed")
    }
    for found in facts.values():
        assert bool(found.text) == (found.study_id not in without), found.study_id
