"""What `curate` does across studies, shown on rows without volumes and on small volumes."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curate.conftest import body
from medfinder.artifact import read_manifest
from medfinder.curate.curate import CurateConfig, Curated, curate
from medfinder.curate.sources.folder import FolderSource
from medfinder.curate.sources.source import Facts, TableRow
from medfinder.curate.split import SplitConfig
from medfinder.curate.texts import TextConfig
from medfinder.errors import ConfigError, InputError
from medfinder.phantom.case import sample_case
from medfinder.phantom.wording import word
from medfinder.records import Doubt, Rejection, Study
from medfinder.report.translate import Failed
from medfinder.studies import read_doubts, read_rejections, read_studies
from medfinder.volume.nifti import write_nifti
from medfinder.volume.read import VolumeRef
from medfinder.volume.volume import Volume

SPANISH = (
    "se observa derrame pleural izquierdo de 3 cm . no se observan adenopatias . cardiomegalia ."
)
ENGLISH = "Left pleural effusion of 3 cm is seen. No adenopathies are seen. Cardiomegaly."


class Rows:
    """A source of rows without volumes."""

    name = "rows"

    def __init__(self, *facts: Facts) -> None:
        self._facts = facts

    def items(self) -> Iterator[TableRow | Rejection]:
        for n, facts in enumerate(self._facts):
            yield TableRow(f"row {n}: {facts.study_id}", facts)

    def facts(self, ref: VolumeRef, tags: Mapping[str, Any]) -> Facts:
        raise AssertionError("there is no volume")

    def leftovers(self) -> Iterator[Rejection]:
        return iter(())


def row(study: str, patient: str, text: str = SPANISH, **more: Any) -> Facts:
    return Facts(fallback_id=study, study_id=study, patient_id=patient, text=text, **more)


def case(seed: int) -> str:
    return word(sample_case(seed), seed, "es")


CONFIG = CurateConfig(workers=1, text=TextConfig(min_words=3))


def run(
    out: Path, *facts: Facts, config: CurateConfig = CONFIG, translator: Any = None
) -> tuple[list[Study], list[Doubt], Curated]:
    made = curate(Rows(*facts), out, config, translator=translator)
    return read_studies(out / "studies.parquet"), read_doubts(out / "doubts.parquet"), made


def rules(doubts: Sequence[Doubt]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for doubt in doubts:
        found.setdefault(doubt.rule, []).append(doubt.study_id)
    return found


def test_rows_without_volumes_become_studies_without_volumes(tmp_path: Path) -> None:
    (study,), doubts, _ = run(tmp_path, row("s1", "p1", translation=ENGLISH))
    assert (study.volume_path, study.shape, study.volume_hash) == ("", (0, 0, 0), "")
    assert study.translation == ENGLISH
    assert study.text == ENGLISH
    assert doubts == []


def test_a_text_of_two_patients_is_doubted_and_one_patient_may_repeat_his_own(
    tmp_path: Path,
) -> None:
    rows = [row("s1", "p1"), row("s2", "p2"), row("s3", "p3", case(1)), row("s4", "p3", case(1))]
    _, doubts, made = run(tmp_path, *rows)
    assert rules(doubts) == {"shared-report": ["s1", "s2"]}
    assert made.doubts_by_rule == {"shared-report": 2}
    assert doubts[0].reason.startswith("1 studies of other patients")


def test_a_translation_of_two_patients_is_doubted_too(tmp_path: Path) -> None:
    other = SPANISH.replace("se observa derrame", "hay derrame")
    rows = [row("s1", "p1", translation=ENGLISH), row("s2", "p2", other, translation=ENGLISH)]
    assert rules(run(tmp_path, *rows)[1]) == {"shared-report": ["s1", "s2"]}


def test_one_original_with_two_translations_is_doubted(tmp_path: Path) -> None:
    again = ENGLISH.replace("is seen", "is observed")
    rows = [row("s1", "p1", translation=ENGLISH), row("s2", "p1", translation=again)]
    assert rules(run(tmp_path, *rows)[1]) == {"same-source-other-translation": ["s1", "s2"]}


def test_no_patient_and_no_text_is_in_two_splits(tmp_path: Path) -> None:
    rows = []
    for k in range(300):
        text = case(k // 3 if k % 5 == 0 else k)  # every fifth has the text of another
        rows.append(row(f"s{k:03d}", f"p{k // 2:03d}", text))
    # And a text that differs from another patient's by one word only.
    long = max((case(k) for k in range(300)), key=len)
    rows.append(row("t1", "q1", long))
    rows.append(row("t2", "q2", long.replace(" de ", " del ", 1)))
    studies, _, made = run(tmp_path, *rows)
    by_patient: dict[str, set[str | None]] = {}
    by_text: dict[str, set[str | None]] = {}
    for study in studies:
        assert study.report is not None
        by_patient.setdefault(study.patient_id, set()).add(study.split)
        by_text.setdefault(study.report.text, set()).add(study.split)
    assert all(len(found) == 1 for found in (*by_patient.values(), *by_text.values()))
    split = {study.study_id: study.split for study in studies}
    assert split["t1"] == split["t2"]
    assert set(made.splits) == {"train", "val", "test"}
    assert read_manifest(tmp_path, "curate").config["crossing"] == {"patients": 0, "texts": 0}


def test_a_grown_archive_moves_no_study_to_another_split(tmp_path: Path) -> None:
    rows = [row(f"s{k:03d}", f"p{k:03d}", case(k)) for k in range(60)]
    before = {study.study_id: study.split for study in run(tmp_path, *rows[:30])[0]}
    after = {study.study_id: study.split for study in run(tmp_path, *rows)[0]}
    assert {name: after[name] for name in before} == before
    assert set(after.values()) == {"train", "val", "test"}


def test_a_split_of_the_source_is_kept_and_its_leakage_counted(tmp_path: Path) -> None:
    rows = [row("s1", "p1", split="train"), row("s2", "p1", split="test")]
    studies, _, _ = run(tmp_path, *rows)
    assert [study.split for study in studies] == ["train", "test"]
    assert read_manifest(tmp_path, "curate").config["crossing"] == {"patients": 1, "texts": 1}


def test_a_split_of_the_source_is_dealt_out_anew_where_that_is_asked(tmp_path: Path) -> None:
    rows = [row("s1", "p1", split="train"), row("s2", "p1", split="test")]
    config = CurateConfig(workers=1, split=SplitConfig(method="hash"))
    studies, _, _ = run(tmp_path, *rows, config=config)
    assert len({study.split for study in studies}) == 1


def test_what_the_source_noticed_becomes_a_doubt(tmp_path: Path) -> None:
    facts = row("s1", "p1", doubts=(("not-listed", "The table does not list this volume."),))
    assert rules(run(tmp_path, facts)[1]) == {"not-listed": ["s1"]}


def test_two_rows_of_one_study_are_one_study(tmp_path: Path) -> None:
    studies, _, made = run(tmp_path, row("s1", "p1"), row("s1", "p1"))
    assert len(studies) == 1
    assert made.by_rule == {"other-series": 1}


def test_a_body_part_that_is_not_wanted_is_left_out(tmp_path: Path) -> None:
    config = CurateConfig(workers=1, body_parts=("chest", "torax"))
    rows = [row("s1", "p1", body_part="chest"), row("s2", "p2", body_part="knee")]
    _, _, made = run(tmp_path, *rows, config=config)
    assert made.by_rule == {"other-body-part": 1}


def test_dates_are_shifted_alike_for_a_patient_and_ages_are_capped(tmp_path: Path) -> None:
    rows = [
        row("s1", "p1", case(1), study_date="2020-03-01", age=97),
        row("s2", "p1", case(2), study_date="2020-03-31", age=44),
    ]
    first, second = run(tmp_path, *rows)[0]
    assert first.study_date is not None
    assert second.study_date is not None
    assert first.study_date != "2020-03-01"
    days = np.datetime64(second.study_date) - np.datetime64(first.study_date)
    assert days == np.timedelta64(30, "D")
    assert (first.age, second.age) == (90, 44)


def test_dates_stay_where_that_is_asked(tmp_path: Path) -> None:
    config = CurateConfig(workers=1, shift_dates=False)
    (study,), _, _ = run(tmp_path, row("s1", "p1", study_date="2020-03-01"), config=config)
    assert study.study_date == "2020-03-01"


def test_given_ids_become_pseudonyms_where_that_is_asked(tmp_path: Path) -> None:
    config = CurateConfig(workers=1, rename=True, pseudonym_key="secret")
    (study,), _, _ = run(tmp_path, row("HC-12345", "GARCIA"), config=config)
    assert study.study_id.startswith("S-")
    assert study.patient_id.startswith("P-")


def test_an_unknown_kind_of_copy_is_told() -> None:
    with pytest.raises(ConfigError, match="expected 'none', 'nifti' or 'dicom'"):
        CurateConfig(copy="zip")  # type: ignore[arg-type]


class Dictionary:
    """A translator of one text; whatever else it is asked for fails."""

    name = "dictionary"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def translate(
        self, texts: Sequence[str], hints: Sequence[str] = ()
    ) -> Iterator[tuple[int, str | Failed]]:
        for k, text in enumerate(texts):
            self.asked.append(text)
            yield k, ENGLISH if "derrame pleural izquierdo de 3 cm" in text else Failed("no word")

    def price(self, texts: Sequence[str]) -> None:
        return None


def test_reports_without_english_are_translated_and_the_rest_is_queued(tmp_path: Path) -> None:
    rows = [row("s1", "p1"), row("s2", "p2", "hernia de hiato de gran tamaño y nada mas")]
    studies, doubts, _ = run(tmp_path, *rows, translator=Dictionary())
    assert [study.translation for study in studies] == [ENGLISH, None]
    assert [doubt.study_id for doubt in doubts] == ["s2"]
    assert doubts[0].rule.startswith("translation-")


def test_english_that_came_with_it_and_passes_is_not_asked_for_again(tmp_path: Path) -> None:
    translator = Dictionary()
    run(tmp_path, row("s1", "p1", translation=ENGLISH), translator=translator)
    assert translator.asked == []


def test_english_that_fails_its_checks_is_made_anew(tmp_path: Path) -> None:
    wrong = ENGLISH.replace("Left", "Right")
    (study,), doubts, _ = run(
        tmp_path / "with", row("s1", "p1", translation=wrong), translator=Dictionary()
    )
    assert study.translation == ENGLISH
    assert doubts == []
    (study,), doubts, _ = run(tmp_path / "without", row("s1", "p1", translation=wrong))
    assert study.translation is None
    assert "translation-side" in rules(doubts)


def test_a_scan_with_noise_is_kept_once_the_one_with_a_report(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    first = body(1, size=64)
    noise = np.random.default_rng(0).normal(0, 10, first.shape)
    write_nifti(first, raw / "a.nii.gz")
    write_nifti(Volume((first.hu + noise).astype(np.int16), first.affine), raw / "b.nii.gz")
    write_nifti(body(2, size=64), raw / "c.nii.gz")
    (raw / "b.txt").write_text("pleural effusion")
    curate(FolderSource(raw), tmp_path / "out", CONFIG)
    kept = [study.study_id for study in read_studies(tmp_path / "out" / "studies.parquet")]
    assert kept == ["b", "c"]
    (rejection,) = read_rejections(tmp_path / "out" / "rejections.parquet")
    assert (rejection.item, rejection.rule) == ("a.nii.gz", "near-duplicate-volume")
    both = CurateConfig(workers=1, near_duplicates=False)
    assert curate(FolderSource(raw), tmp_path / "both", both).n_studies == 3


def test_copies_make_a_dataset_that_names_no_file_of_the_archive(tmp_path: Path) -> None:
    raw = tmp_path / "GARCIA_LOPEZ"
    raw.mkdir()
    write_nifti(body(1), raw / "MARIA.nii.gz")
    (raw / "bad.nii.gz").write_bytes(b"no volume")
    config = CurateConfig(workers=1, copy="nifti", hide_names=True, rename=True)
    curate(FolderSource(raw), tmp_path / "out", config)
    (study,) = read_studies(tmp_path / "out" / "studies.parquet")
    assert Path(study.volume_path).parent == tmp_path / "out" / "volumes"
    from medfinder.volume.read import read_volume

    assert read_volume(study.volume_path).content_hash == study.volume_hash
    for file in (tmp_path / "out").rglob("*"):
        if file.is_file() and file.parent.name != "private":
            data = file.read_bytes()
            assert b"MARIA" not in data, file
            assert b"GARCIA" not in data, file
    again = curate(FolderSource(raw), tmp_path / "out", config)
    assert again.n_studies == 1


def copies(out: Path) -> dict[str, bool]:
    """Name of each file among the copies → whether it is what the dataset says of that study."""
    from medfinder.volume.read import read_volume

    studies = {Path(s.volume_path).name: s for s in read_studies(out / "studies.parquet")}
    return {
        path.name: path.name in studies
        and read_volume(path).content_hash == studies[path.name].volume_hash
        for path in (out / "volumes").iterdir()
    }


def test_copies_follow_an_archive_that_changes_and_shrinks(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    write_nifti(body(1), raw / "a.nii.gz")
    write_nifti(body(2), raw / "b.nii.gz")
    config = CurateConfig(workers=1, copy="nifti")
    curate(FolderSource(raw), out, config)
    write_nifti(body(3), raw / "a.nii.gz")
    curate(FolderSource(raw), out, config)
    assert copies(out) == {"a.nii.gz": True, "b.nii.gz": True}
    (raw / "b.nii.gz").unlink()
    (out / "volumes" / ".b.nii.gz.x.tmp").write_bytes(b"of a run that was killed")
    curate(FolderSource(raw), out, config)
    assert copies(out) == {"a.nii.gz": True}
    curate(FolderSource(raw), out, CONFIG)
    assert copies(out) == {}


def test_copies_are_made_anew_under_another_key(tmp_path: Path) -> None:
    import os

    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    write_nifti(body(1), raw / "a.nii.gz")
    for key, is_new in (("one", True), ("one", False), ("two", True)):
        (copy,) = (out / "volumes").glob("*") if out.exists() else (None,)
        if copy:
            os.utime(copy, (1, 1))
        curate(FolderSource(raw), out, CurateConfig(workers=1, copy="nifti", pseudonym_key=key))
        (copy,) = (out / "volumes").glob("*")
        assert (copy.stat().st_mtime > 1) == is_new


def test_files_of_another_in_the_folder_of_copies_are_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "volumes").mkdir()
    write_nifti(body(1), tmp_path / "volumes" / "a.nii.gz")
    raw = tmp_path / "raw"
    raw.mkdir()
    write_nifti(body(2), raw / "a.nii.gz")
    before = (tmp_path / "volumes" / "a.nii.gz").read_bytes()
    with pytest.raises(InputError, match="no run of curate wrote"):
        curate(FolderSource(raw), tmp_path, CurateConfig(workers=1, copy="nifti"))
    assert (tmp_path / "volumes" / "a.nii.gz").read_bytes() == before


def test_a_volume_that_cannot_be_copied_is_left_out_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for seed, name in enumerate("ab"):
        write_nifti(body(seed), raw / f"{name}.nii.gz")

    class Changing(FolderSource):
        def leftovers(self) -> Iterator[Rejection]:
            write_nifti(body(7), raw / "b.nii.gz")
            return super().leftovers()

    curate(Changing(raw), tmp_path / "out", CurateConfig(workers=1, copy="nifti"))
    assert copies(tmp_path / "out") == {"a.nii.gz": True}
    (rejection,) = read_rejections(tmp_path / "out" / "rejections.parquet")
    assert (rejection.item, rejection.rule) == ("b.nii.gz", "changed-meanwhile")


def test_a_dataset_that_lies_in_its_archive_is_no_part_of_it(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        write_nifti(body(seed), tmp_path / f"{name}.nii.gz")
    config = CurateConfig(workers=1, copy="nifti")
    for _ in range(2):
        made = curate(FolderSource(tmp_path), tmp_path / "out", config)
        assert (made.n_studies, made.n_rejections) == (2, 0)


def test_studies_of_several_patients_with_one_number_are_kept_apart(tmp_path: Path) -> None:
    studies, doubts, _ = run(tmp_path / "out", row("1", "p1"), row("1", "p2", case(3)))
    assert [(s.study_id, s.patient_id) for s in studies] == [("1_p1", "p1"), ("1_p2", "p2")]
    assert rules(doubts)["ids-disagree"] == ["1_p1", "1_p2"]


def test_a_series_that_names_no_patient_is_of_the_study_s_one(tmp_path: Path) -> None:
    nobody = Facts(fallback_id="1", study_id="1", text=SPANISH)
    studies, _, made = run(tmp_path / "out", nobody, row("1", "p1"))
    assert [s.patient_id for s in studies] == ["p1"]
    assert made.by_rule == {"other-series": 1}


def test_ids_that_meet_the_mark_of_another_are_told_apart_too(tmp_path: Path) -> None:
    from medfinder.curate.pseudonym import short_hash

    marked = f"a_b-{short_hash('a b')}"
    studies, _, _ = run(tmp_path / "out", row("a b", "p"), row("a_b", "p"), row(marked, "p"))
    assert len({s.study_id for s in studies}) == 3


def test_an_accent_written_in_two_ways_is_one_patient(tmp_path: Path) -> None:
    studies, _, _ = run(tmp_path / "out", row("1", "Jos\u00e9"), row("2", "Jose\u0301"))
    assert len({s.patient_id for s in studies}) == 1


def test_half_surrogate_pairs_anywhere_stop_nothing(tmp_path: Path) -> None:
    half = "\ud800"
    facts = row(
        f"s{half}", f"p{half}", SPANISH + half, labels=(half,), manufacturer=half, body_part=half
    )
    studies, _, _ = run(tmp_path / "out", facts, row(f"s{half}\0", "p2"))
    assert [s.patient_id for s in studies] == ["p2", "p_ud800"]
    assert all(s.report and "ud800" not in s.report.text for s in studies)


def test_an_item_whose_name_came_before_is_named(tmp_path: Path) -> None:
    class Twice(Rows):
        def items(self) -> Iterator[TableRow | Rejection]:
            for facts in self._facts:
                yield TableRow("row 1", facts)

    curate(Twice(row("1", "p"), row("2", "q")), tmp_path / "out", CONFIG)
    (rejection,) = read_rejections(tmp_path / "out" / "rejections.parquet")
    assert (rejection.item, rejection.rule) == ("row 1", "duplicate-row")


def test_what_is_rejected_twice_for_one_reason_counts_once(tmp_path: Path) -> None:
    class Twice(Rows):
        def leftovers(self) -> Iterator[Rejection]:
            return iter([Rejection("x", "volume-missing", "There is none.")] * 2)

    made = curate(Twice(row("1", "p")), tmp_path / "out", CONFIG)
    assert made.by_rule == {"volume-missing": 1}
    assert len(read_rejections(tmp_path / "out" / "rejections.parquet")) == 1


def test_a_text_that_joins_patients_of_two_splits_moves_none_from_train(tmp_path: Path) -> None:
    before = [row(f"s{k}", f"p{k}", case(k)) for k in range(20)]
    studies, _, _ = run(tmp_path / "out", *before)
    first = {s.patient_id: s.split for s in studies}
    train = min(p for p, split in first.items() if split == "train")
    test = min(p for p, split in first.items() if split == "test")
    for a, b in ((train, test), (test, train)):
        joined = row("new", a, case(int(b[1:])))
        studies, _, _ = run(tmp_path / "out", *before, joined)
        now = {s.patient_id: s.split for s in studies}
        assert now[train] == now[test] == "train"


def test_hidden_names_are_hidden_in_reasons_too_and_say_which_item(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    write_nifti(body(1), raw / "GARCIA as LOPEZ.nii.gz")
    write_nifti(body(1), raw / "GARCIA: B.nii.gz")
    curate(FolderSource(raw), tmp_path / "out", CurateConfig(workers=1, hide_names=True))
    (rejection,) = read_rejections(tmp_path / "out" / "rejections.parquet")
    names = dict(
        line.split("\t")[::-1]
        for line in (tmp_path / "out" / "private" / "items.tsv").read_text().splitlines()
    )
    kept = names["GARCIA as LOPEZ.nii.gz"]
    assert rejection.item == names["GARCIA: B.nii.gz"]
    assert rejection.reason == f"The same voxels as {kept}, which is kept."


def test_names_in_the_words_of_scanner_and_body_part_are_taken_out(tmp_path: Path) -> None:
    facts = row("1", "p", manufacturer="SIEMENS Quijano", body_part="torax zanahorio")
    (study,), _, _ = run(tmp_path / "out", facts)
    assert (study.manufacturer, study.body_part) == ("SIEMENS", "torax")
