"""The published BIMCV-R: tables and shards written by hand, in its layout."""

import csv
import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from medfinder.curate.sources.bimcv_r import BimcvRSource
from medfinder.curate.sources.source import Facts, TableRow
from medfinder.errors import InputError
from medfinder.records import Rejection
from medfinder.volume.read import VolumeRef

NAME = "sub-S{p}_ses-E{s}_run-{r}_bp-chest_ct.nii.gz"
COLUMNS = ("PatientID", "ReportID", "Report", "Report_en", "Labels", "labelCUIS", "num", "path")
Make = Callable[..., Path]


def name(p: int = 1, s: int = 1, r: int = 1) -> str:
    return NAME.format(p=p, s=s, r=r)


def row(p: int = 1, s: int = 1, r: int = 1, **cells: str) -> dict[str, str]:
    return {
        "PatientID": f"sub-S{p}",
        "ReportID": f"ses-E{s}",
        "Report": f"nodulo {s} . ",
        "Report_en": f"nodule {s}.",
        "Labels": "['', 'nodule', ' pleural effusion']",
        "labelCUIS": "[C0032225,,C0018800]",
        "num": "1.0",
        "path": f"/data/sub-S{p}/ses-E{s}/mod-rx/{name(p, s, r)}",
    } | cells


@pytest.fixture
def table(tmp_path: Path) -> Make:
    """Return a maker of the published table from rows."""

    def make(*rows: dict[str, str], columns: tuple[str, ...] = COLUMNS) -> Path:
        path = tmp_path / "BIMCV-R.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        return path

    return make


@pytest.fixture
def shards(tmp_path: Path) -> Make:
    """Return a maker of shards: shard number → names of empty files."""

    def make(**names: list[str]) -> Path:
        for shard, files in names.items():
            folder = tmp_path / "volumes" / shard / "ct"
            folder.mkdir(parents=True)
            for file in files:
                (folder / file).touch()
        return tmp_path / "volumes"

    return make


def read(source: BimcvRSource) -> tuple[dict[str, Facts], dict[str, str]]:
    """Return the facts of each study by item, and the rule of each rejection."""
    facts: dict[str, Facts] = {}
    lost: list[Rejection] = []
    for item in source.items():
        if isinstance(item, TableRow):
            facts[item.item] = item.facts
        elif isinstance(item, VolumeRef):
            facts[item.item] = source.facts(item, {})
        else:
            lost.append(item)
    return facts, {r.item: r.rule for r in [*lost, *source.leftovers()]}


def rules(facts: Facts) -> list[str]:
    return [rule for rule, _ in facts.doubts]


def test_a_row_gives_spanish_english_and_labels(table: Make) -> None:
    facts, lost = read(BimcvRSource(table(row())))
    found = facts["row 2: ses-E1"]
    assert (found.text, found.translation, found.language) == ("nodulo 1 .", "nodule 1.", "es")
    assert (found.study_id, found.patient_id) == ("ses-E1", "sub-S1")
    assert found.labels == ("nodule", "pleural effusion")
    assert (found.body_part, found.split, found.doubts, lost) == ("chest", None, (), {})


def test_a_volume_finds_its_row_by_the_file_s_name(table: Make, shards: Make) -> None:
    volumes = shards(CT3=[name()], CT8=[name(2, 2)])
    facts, lost = read(BimcvRSource(table(row(2, 2), row()), volumes))
    assert {item: f.text for item, f in facts.items()} == {
        f"CT3/ct/{name()}": "nodulo 1 .",
        f"CT8/ct/{name(2, 2)}": "nodulo 2 .",
    }
    assert lost == {}


@pytest.mark.parametrize(
    ("shard", "split"),
    [(1, "train"), (7, "train"), (8, "val"), (9, "test"), (10, "test"), (11, None)],
)
def test_the_published_split_goes_by_the_volume_s_shard(
    table: Make, shards: Make, shard: int, split: str | None
) -> None:
    volumes = shards(**{f"CT{shard}": [name()], "CT1" if shard > 1 else "CT2": []})
    facts, _ = read(BimcvRSource(table(row()), volumes, split="published"))
    assert [f.split for f in facts.values()] == [split]


def test_the_published_split_goes_by_the_table_s_path_where_there_are_no_volumes(
    table: Make,
) -> None:
    path = table(row(path=f"CT8/ct/{name()}"), row(2, 2, path=f"/x/CT10/ct/{name(2, 2)}"))
    published, _ = read(BimcvRSource(path, split="published"))
    assert [f.split for f in published.values()] == ["val", "test"]
    own, _ = read(BimcvRSource(path))
    assert [f.split for f in own.values()] == [None, None]


def test_a_published_split_without_shards_is_told(table: Make) -> None:
    with pytest.raises(InputError, match=r"goes by shard.*expected CT1 to CT10\. Use"):
        BimcvRSource(table(row()), split="published")


def test_the_same_row_twice_is_a_duplicate_and_another_run_is_not(table: Make) -> None:
    facts, lost = read(BimcvRSource(table(row(), row(), row(r=2))))
    assert list(facts) == ["row 2: ses-E1", "row 4: ses-E1"]
    assert {f.study_id for f in facts.values()} == {"ses-E1"}
    assert lost == {"row 3: ses-E1": "duplicate-row"}


def test_every_volume_can_be_a_study_of_its_own(table: Make) -> None:
    path = table(row(), row(r=2), row(s=2, path=f"x/{name(s=2).replace('run-1', 'acq-1_run-1')}"))
    facts, _ = read(BimcvRSource(path, every_volume=True))
    assert [f.study_id for f in facts.values()] == [
        "ses-E1_run-1",
        "ses-E1_run-2",
        "ses-E2_acq-1_run-1",
    ]


def test_a_listed_volume_that_is_absent_and_one_that_is_not_listed_are_named(
    table: Make, shards: Make
) -> None:
    facts, lost = read(BimcvRSource(table(row()), shards(CT1=[name(9, 9)])))
    found = facts[f"CT1/ct/{name(9, 9)}"]
    assert (found.study_id, found.patient_id, found.text) == ("ses-E9", "sub-S9", "")
    assert rules(found) == ["not-listed"]
    assert lost == {"row 2: ses-E1": "volume-missing"}


def test_a_run_that_is_not_listed_takes_its_study_s_report_with_a_doubt(
    table: Make, shards: Make
) -> None:
    facts, lost = read(BimcvRSource(table(row()), shards(CT1=[name(), name(r=2)])))
    assert [f.text for f in facts.values()] == ["nodulo 1 ."] * 2
    assert [rules(f) for f in facts.values()] == [[], ["not-listed"]]
    assert lost == {}


def test_a_row_without_a_path_is_found_by_patient_and_study(table: Make, shards: Make) -> None:
    facts, lost = read(BimcvRSource(table(row(path="nan")), shards(CT1=[name()])))
    assert [(f.text, rules(f)) for f in facts.values()] == [("nodulo 1 .", [])]
    assert lost == {}


@pytest.mark.parametrize(
    "cells",
    [
        {"ReportID": "../ses-E1"},
        {"PatientID": "/etc"},
        {"path": f"../../etc/{NAME}"},
        {"path": "..\\x.nii.gz"},
        {"path": "a/%2e%2e/b.nii.gz"},
    ],
)
def test_an_id_or_path_that_climbs_is_refused(table: Make, cells: dict[str, str]) -> None:
    facts, lost = read(BimcvRSource(table(row(**cells), row(2, 2))))
    assert list(facts) == ["row 3: ses-E2"]
    assert lost == {f"row 2: {next(iter(cells.values()))}": "unsafe-id"}


def test_a_row_that_contradicts_the_file_s_name_is_doubted(table: Make, shards: Make) -> None:
    facts, _ = read(BimcvRSource(table(row(ReportID="ses-E7")), shards(CT1=[name()])))
    assert [(f.study_id, rules(f)) for f in facts.values()] == [("ses-E7", ["ids-disagree"])]


def test_a_row_with_cells_too_many_or_without_ids_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(
        "PatientID,ReportID,Report,Labels\n"
        "sub-S1,ses-E1,nodulo,['a', 'b']\n"  # its list has no quotes around it
        ",,nodulo,[]\n"
        "sub-S2,ses-E2,nodulo,[],,\n"
    )
    facts, lost = read(BimcvRSource(path))
    assert list(facts) == ["row 4: ses-E2"]
    assert lost == {"row 2": "ragged-row", "row 3": "no-id"}


def test_only_english_is_english(table: Make) -> None:
    columns = ("PatientID", "ReportID", "Report_en", "path")
    (found,) = read(BimcvRSource(table(row(), columns=columns)))[0].values()
    assert (found.text, found.translation, found.language) == ("nodule 1.", "", "en")
    assert found.labels is None


def test_nan_is_no_report_and_no_label(table: Make) -> None:
    (found,) = read(BimcvRSource(table(row(Report="nan", Report_en="NaN", Labels="nan"))))[
        0
    ].values()
    assert (found.text, found.translation, found.labels) == ("", "", ())


def test_formulas_are_plain_text_and_a_doubt(table: Make) -> None:
    (found,) = read(BimcvRSource(table(row(Report="+cmd|' /C calc'!A0"))))[0].values()
    assert found.text == "cmd|' /C calc'!A0"
    assert rules(found) == ["formula-cell"]


@pytest.mark.parametrize("column", ["path", "ct_path"])
def test_both_names_of_the_path_are_known(table: Make, shards: Make, column: str) -> None:
    columns = tuple(column if c == "path" else c for c in COLUMNS)
    listed = row()
    listed[column] = listed.pop("path")
    facts, lost = read(BimcvRSource(table(listed, columns=columns), shards(CT1=[name()])))
    assert (len(facts), lost) == (1, {})


def test_archives_that_are_no_volumes_are_named(table: Make, shards: Make) -> None:
    volumes = shards(CT1=[name()])
    (volumes / "CT2.zip").write_bytes(b"PK broken")
    _, lost = read(BimcvRSource(table(row()), volumes))
    assert lost == {"CT2.zip": "unsupported-format"}


def test_a_file_of_another_modality_is_named_by_its_name(table: Make, shards: Make) -> None:
    volumes = shards(
        CT1=[name(), name(2, 2).replace("_ct.", "_dx."), name(3, 3).replace("chest", "abdomen")]
    )
    facts, lost = read(BimcvRSource(table(row()), volumes))
    assert len(facts) == 1
    assert sorted(lost.values()) == ["other-body-part", "other-modality"]


def test_what_is_missing_is_told(table: Make, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no table"):
        BimcvRSource(tmp_path / "none.csv")
    with pytest.raises(InputError, match="There is no folder"):
        BimcvRSource(table(row()), tmp_path / "none")
    with pytest.raises(
        InputError, match="lacks a column: expected Report or Report_en; found: PatientID, ReportID"
    ):
        BimcvRSource(table(row(), columns=("PatientID", "ReportID")))


def test_reading_again_gives_the_same(table: Make, shards: Make) -> None:
    source = BimcvRSource(table(row(), row(), row(2, 2)), shards(CT1=[name()]))
    assert read(source) == read(source)


@pytest.mark.slow
def test_a_hundred_thousand_rows_take_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    text = "se observa un nodulo en el lobulo superior derecho . " * 12
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(
            row(n // 2, n, Report=f"{text}{n}", Report_en=text) for n in range(100_000)
        )
    source = BimcvRSource(path)
    before, start = _peak_mb(), time.process_time()
    n_rows = sum(isinstance(item, TableRow) for item in source.items())
    assert n_rows == 100_000
    assert _peak_mb() - before < 60
    assert time.process_time() - start < 60


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
