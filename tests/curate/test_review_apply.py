"""A review applied: a new dataset, its decisions in it, the one under review as it was."""

import csv
from pathlib import Path

import pytest

from medfinder.artifact import manifest_hash, read_manifest
from medfinder.curate.curate import CurateConfig, curate
from medfinder.curate.review import Decision, ReviewQueue
from medfinder.curate.review_apply import apply_review
from medfinder.curate.sources.bimcv_r import BimcvRSource
from medfinder.errors import InputError, Mismatch
from medfinder.records import Doubt, Rejection
from medfinder.studies import read_doubts, read_rejections, read_studies
from stubs import reviewed


def decide(queue: ReviewQueue, study_id: str, decision: Decision) -> None:
    for reader in ("Ana", "Luis"):
        queue.decide(reader, study_id, decision)


@pytest.fixture
def queue(tmp_path: Path) -> ReviewQueue:
    """A review with an accepted candidate, an edit, a rejection, and one study still open."""
    queue = ReviewQueue(reviewed.make(tmp_path / "studies"))
    decide(queue, "study-0", Decision("accept"))
    decide(queue, "study-1", Decision("edit", "A nodule, upper right.", ("nodule",)))
    decide(queue, "study-2", Decision("reject", reason="No report behind it."))
    queue.decide("Ana", "study-3", Decision("accept"))
    return queue


def test_settled_decisions_are_in_the_new_dataset(queue: ReviewQueue, tmp_path: Path) -> None:
    done = apply_review(queue, tmp_path / "out")
    studies = {s.study_id: s for s in read_studies(tmp_path / "out" / "studies.parquet")}
    assert list(studies) == ["study-0", "study-1", "study-3", "study-4"]
    assert studies["study-0"].translation == reviewed.ENGLISH
    assert studies["study-1"].translation == "A nodule, upper right."
    assert studies["study-1"].labels == ("nodule",)
    assert (done.n_studies, done.n_rejected, done.n_translated, done.n_relabelled) == (4, 1, 2, 1)
    assert (done.n_cleared, done.n_open) == (2, 1)


def test_studies_without_decisions_are_as_they_were(queue: ReviewQueue, tmp_path: Path) -> None:
    apply_review(queue, tmp_path / "out")
    before = {s.study_id: s for s in read_studies(queue.folder / "studies.parquet")}
    after = {s.study_id: s for s in read_studies(tmp_path / "out" / "studies.parquet")}
    assert (after["study-3"], after["study-4"]) == (before["study-3"], before["study-4"])


def test_a_rejected_study_moves_to_the_rejections_with_the_reason(
    queue: ReviewQueue, tmp_path: Path
) -> None:
    apply_review(queue, tmp_path / "out")
    assert read_rejections(tmp_path / "out" / "rejections.parquet") == [
        Rejection("study-2", "rejected-by-review", "No report behind it."),
        Rejection("x.nii.gz", "unreadable", "Torn."),
    ]


def test_doubts_of_settled_studies_are_cleared_and_the_others_stay(
    queue: ReviewQueue, tmp_path: Path
) -> None:
    apply_review(queue, tmp_path / "out")
    assert read_doubts(tmp_path / "out" / "doubts.parquet") == [
        Doubt("study-3", "formula-cell", "The cell began with =.", 0.1)
    ]
    again = ReviewQueue(tmp_path / "out")
    assert [i.study_id for i in again.items()] == ["study-3"]


def test_accepting_labels_alone_does_not_fill_them_in(tmp_path: Path) -> None:
    queue = ReviewQueue(reviewed.make(tmp_path / "studies", candidates={}))
    decide(queue, "study-0", Decision("accept"))
    apply_review(queue, tmp_path / "out")
    study = read_studies(tmp_path / "out" / "studies.parquet")[0]
    assert (study.labels, study.translation) == ((), None)


def test_an_emptied_translation_leaves_none(tmp_path: Path) -> None:
    queue = ReviewQueue(reviewed.make(tmp_path / "studies"))
    decide(queue, "study-1", Decision("edit", ""))
    apply_review(queue, tmp_path / "out")
    assert read_studies(tmp_path / "out" / "studies.parquet")[1].translation is None


def test_the_manifest_names_its_parents(queue: ReviewQueue, tmp_path: Path) -> None:
    apply_review(queue, tmp_path / "out")
    parent = read_manifest(queue.folder, "curate")
    made = read_manifest(tmp_path / "out", "curate")
    number, head = queue.log.verify()
    assert made.parents == {"studies": manifest_hash(parent), "review": head[:16]}
    assert made.config["review"] == {"readers": 2, "events": number}
    assert made.counts == {"studies": 4, "rejections": 2, "doubts": 1, "reviewed": 3}


def test_a_run_that_was_killed_is_repeated(queue: ReviewQueue, tmp_path: Path) -> None:
    out = tmp_path / "out"
    apply_review(queue, out)
    (out / "manifest.json").unlink()
    (out / ".studies.parquet.x.tmp").write_bytes(b"half")
    apply_review(queue, out)
    assert read_manifest(out, "curate").counts["studies"] == 4


def test_the_folder_under_review_is_not_written_over(queue: ReviewQueue) -> None:
    with pytest.raises(InputError, match="cannot be written over the one under review") as caught:
        apply_review(queue, queue.folder / "." / ".." / "studies")
    assert caught.value.rule == "folder-in-use"


def test_a_finished_dataset_and_other_files_are_not_written_over(
    queue: ReviewQueue, tmp_path: Path
) -> None:
    other = reviewed.make(tmp_path / "other")
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("Dear")
    for folder in (other, tmp_path / "letters"):
        with pytest.raises(InputError, match="is in use: expected a new one") as caught:
            apply_review(queue, folder)
        assert caught.value.rule == "folder-in-use"
    with pytest.raises(InputError, match="is a file; a dataset needs a folder"):
        apply_review(queue, tmp_path / "letters" / "dear.txt")


def test_a_folder_that_is_curated_again_meanwhile_is_told(
    queue: ReviewQueue, tmp_path: Path
) -> None:
    def again(done: int, total: int) -> None:
        reviewed.make(queue.folder, studies=[reviewed.study(i) for i in range(4)])

    with pytest.raises(Mismatch, match="was curated again while the review was applied"):
        apply_review(queue, tmp_path / "out", again)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_nothing_settled_is_nothing_to_apply(tmp_path: Path) -> None:
    queue = ReviewQueue(reviewed.make(tmp_path / "studies"))
    with pytest.raises(InputError, match="No study of this review is settled") as caught:
        apply_review(queue, tmp_path / "out")
    assert caught.value.rule == "nothing-settled"
    assert not (tmp_path / "out").exists()


def test_a_log_that_was_tampered_with_is_not_applied(queue: ReviewQueue, tmp_path: Path) -> None:
    import sqlite3

    connection = sqlite3.connect(queue.folder / "review.db")
    connection.execute("DROP TRIGGER events_are_not_changed")
    connection.execute("UPDATE events SET reader = 'Eva' WHERE number = 1")
    connection.commit()
    connection.close()
    with pytest.raises(Mismatch, match="tampered with at event 1 "):
        apply_review(ReviewQueue(queue.folder), tmp_path / "out")


def test_what_curation_doubts_is_reviewed_and_applied(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    spanish = "derrame pleural izquierdo de 3 cm . no se observa neumotorax ni adenopatias ."
    rows = [
        ("sub-S1", "ses-E1", spanish, "Something wrong with the data! #################"),
        ("sub-S2", "ses-E2", spanish.replace("3", "4"), "Left pleural effusion of 9 cm . No pneumothorax or lymphadenopathy ."),
    ]  # fmt: skip
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["PatientID", "ReportID", "Report", "Report_en", "Labels"])
        writer.writerows([*row, "['pleural effusion']"] for row in rows)
    curate(BimcvRSource(table), tmp_path / "studies", CurateConfig(workers=1))
    queue = ReviewQueue(tmp_path / "studies")
    rules = {i.study_id: {d.rule for d in i.doubts} for i in queue.items()}
    (first,) = (i for i, found in rules.items() if "translation-placeholder" in found)
    (second,) = (i for i, found in rules.items() if "translation-number" in found)
    assert queue.view("Ana", second).shown.is_candidate
    decide(queue, first, Decision("reject", reason="No translation."))
    mended = "Left pleural effusion of 4 cm. No pneumothorax or lymphadenopathy."
    decide(queue, second, Decision("edit", mended))
    apply_review(queue, tmp_path / "reviewed")
    (study,) = read_studies(tmp_path / "reviewed" / "studies.parquet")
    assert (study.study_id, study.translation) == (second, mended)
    found = read_rejections(tmp_path / "reviewed" / "rejections.parquet")
    assert (first, "rejected-by-review") in [(r.item, r.rule) for r in found]


def test_rows_keep_their_order_over_many_batches(tmp_path: Path) -> None:
    names = [f"study-{i:05d}" for i in range(2600)]
    studies = [reviewed.study(0, study_id=name, translation=None) for name in names]
    doubts = [Doubt(names[i], "short-report", "Short.", 0.5) for i in (0, 1100, 2599)]
    queue = ReviewQueue(reviewed.make(tmp_path / "studies", studies, doubts, {}))
    decide(queue, names[1100], Decision("reject", reason="Short."))
    decide(queue, names[2599], Decision("edit", "Effusion."))
    seen: list[tuple[int, int]] = []
    apply_review(queue, tmp_path / "out", lambda done, total: seen.append((done, total)))
    after = read_studies(tmp_path / "out" / "studies.parquet")
    assert [s.study_id for s in after] == [n for n in names if n != names[1100]]
    assert [s.study_id for s in after if s.translation] == [names[2599]]
    assert seen[-1] == (2600, 2600)
