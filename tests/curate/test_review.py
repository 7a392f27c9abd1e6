"""Review: who decides what, what settles a study, and what never changes."""

import hashlib
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from medfinder.curate.review import Decision, ReviewQueue, reader_name
from medfinder.errors import (
    ArtifactError,
    ConfigError,
    Incomplete,
    InputError,
    Mismatch,
    UnknownName,
)
from medfinder.records import Doubt
from stubs import reviewed

ACCEPT = Decision("accept")
REJECT = Decision("reject", reason="Another patient's report.")
EDIT = Decision("edit", "Left pleural effusion of 3 cm. No pneumothorax is seen.")
TREE = Path(__file__).resolve().parents[1]


class Clock:
    """Seconds that a test turns."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return reviewed.make(tmp_path / "studies")


@pytest.fixture
def queue(folder: Path) -> ReviewQueue:
    return ReviewQueue(folder)


def rule_of(call: object, *arguments: object, **named: object) -> str:
    with pytest.raises(InputError) as caught:
        call(*arguments, **named)  # type: ignore[operator]
    return caught.value.rule


def states(queue: ReviewQueue, reader: str) -> dict[str, str]:
    return {item.study_id: state for item, state in queue.states(reader)}


def digests(folder: Path) -> dict[str, str]:
    return {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.iterdir()
        if not p.name.startswith("review.db")
    }


# ---- the queue ------------------------------------------------------------------------------


def test_the_queue_holds_the_doubted_studies_heaviest_first(queue: ReviewQueue) -> None:
    assert [(i.study_id, i.weight) for i in queue.items()] == [
        ("study-0", 1.1),
        ("study-2", 0.9),
        ("study-1", 0.6),  # two doubts of one rule weigh as the heavier
        ("study-3", 0.1),
    ]


def test_doubts_of_an_item_come_heaviest_first(queue: ReviewQueue) -> None:
    assert [d.rule for d in queue.items()[0].doubts] == ["translation-number", "translation-unit"]


def test_equal_weights_are_ordered_by_study_id(tmp_path: Path) -> None:
    doubts = [Doubt(f"study-{i}", "short-report", "Short.", 0.5) for i in (3, 1, 2)]
    folder = reviewed.make(tmp_path / "studies", doubts=doubts)
    assert [i.study_id for i in ReviewQueue(folder).items()] == ["study-1", "study-2", "study-3"]


def test_a_doubt_without_a_sound_weight_weighs_nothing(tmp_path: Path) -> None:
    weights = {"study-1": float("nan"), "study-2": float("inf"), "study-3": 0.2}
    doubts = [Doubt(i, "short-report", "Short.", w) for i, w in weights.items()]
    items = ReviewQueue(reviewed.make(tmp_path / "studies", doubts=doubts)).items()
    assert [(i.study_id, i.weight) for i in items] == [
        ("study-3", 0.2),
        ("study-1", 0.0),
        ("study-2", 0.0),
    ]


def test_a_folder_without_doubts_has_an_empty_queue(tmp_path: Path) -> None:
    queue = ReviewQueue(reviewed.make(tmp_path / "studies", doubts=[]))
    assert queue.items() == []
    assert queue.progress().n_items == 0
    assert queue.agreement().decisions.kappa is None


def test_a_doubt_about_no_study_is_counted(tmp_path: Path) -> None:
    doubts = [*reviewed.DOUBTS, Doubt("gone", "short-report", "Short.", 0.5)]
    queue = ReviewQueue(reviewed.make(tmp_path / "studies", doubts=doubts))
    assert queue.progress().n_orphans == 1
    assert len(queue.items()) == 4


def test_a_reader_is_shown_the_english_that_failed_its_checks(queue: ReviewQueue) -> None:
    shown = queue.view("Ana", "study-0").shown
    assert (shown.english, shown.is_candidate, shown.problems) == (
        reviewed.ENGLISH,
        True,
        ("number",),
    )


def test_a_translation_that_passed_is_shown_rather_than_a_candidate(tmp_path: Path) -> None:
    folder = reviewed.make(tmp_path / "studies", candidates={"study-1": "bad"})
    shown = ReviewQueue(folder).view("Ana", "study-1").shown
    assert shown.english == "Nodule in the right upper lobe."
    assert not shown.is_candidate


def test_without_a_table_of_candidates_there_is_no_english(tmp_path: Path) -> None:
    folder = reviewed.make(tmp_path / "studies", candidates={})
    shown = ReviewQueue(folder).view("Ana", "study-0").shown
    assert (shown.english, shown.is_candidate) == (None, False)


def test_labels_are_the_sources_or_else_what_the_text_affirms(queue: ReviewQueue) -> None:
    assert queue.view("Ana", "study-1").shown.labels == ("adenopathy", "nodule")
    assert queue.view("Ana", "study-0").shown.labels == ("pleural effusion",)


# ---- two readers and an adjudicator ---------------------------------------------------------


def test_one_decision_of_two_does_not_settle(queue: ReviewQueue) -> None:
    view = queue.decide("Ana", "study-0", ACCEPT)
    assert view.state == "waiting"
    assert queue.settled() == {}


def test_two_equal_decisions_settle(queue: ReviewQueue) -> None:
    queue.decide("Ana", "study-0", ACCEPT)
    view = queue.decide("Luis", "study-0", ACCEPT)
    assert view.state == "settled"
    assert queue.settled()["study-0"].decision == ACCEPT


def test_two_rejections_settle_whatever_their_words(queue: ReviewQueue) -> None:
    queue.decide("Ana", "study-0", REJECT)
    queue.decide("Luis", "study-0", Decision("reject", reason="Not chest."))
    reason = queue.settled()["study-0"].decision.reason
    assert reason == "Another patient's report.; Not chest."


def test_equal_edits_settle_whatever_their_blanks_and_order(queue: ReviewQueue) -> None:
    queue.decide("Ana", "study-1", Decision("edit", "A  nodule.", ("nodule", "emphysema")))
    queue.decide("Luis", "study-1", Decision("edit", "A nodule. ", ("emphysema", "nodule")))
    assert queue.settled()["study-1"].decision.labels == ("nodule", "emphysema")


def test_different_decisions_wait_for_a_third(queue: ReviewQueue) -> None:
    queue.decide("Ana", "study-0", ACCEPT)
    queue.decide("Luis", "study-0", EDIT)
    assert queue.settled() == {}
    assert queue.progress().n_disputed == 1
    view = queue.decide("Eva", "study-0", EDIT)
    assert view.state == "settled"
    assert queue.settled()["study-0"].decision == EDIT
    assert view.others[0].reader == "Ana"


def test_an_adjudicator_may_decide_otherwise_than_both(queue: ReviewQueue) -> None:
    queue.decide("Ana", "study-0", ACCEPT)
    queue.decide("Luis", "study-0", EDIT)
    queue.decide("Eva", "study-0", REJECT)
    assert queue.settled()["study-0"].decision == REJECT


def test_nobody_sees_anothers_decision_before_their_own_counts(queue: ReviewQueue) -> None:
    queue.decide("Ana", "study-0", ACCEPT)
    assert queue.view("Luis", "study-0").others == ()
    assert queue.view("Luis", "study-0").outcome is None


def test_one_who_decided_does_not_learn_of_a_dispute(queue: ReviewQueue) -> None:
    queue.decide("Ana", "study-0", ACCEPT)
    view = queue.decide("Luis", "study-0", EDIT)
    assert (view.state, view.others) == ("waiting", ())
    assert queue.view("Ana", "study-0").state == "waiting"


def test_an_adjudicator_sees_both_decisions(queue: ReviewQueue) -> None:
    queue.decide("Ana", "study-0", ACCEPT)
    queue.decide("Luis", "study-0", EDIT)
    view = queue.view("Eva", "study-0")
    assert view.state == "disputed"
    assert [v.decision for v in view.others] == [ACCEPT, EDIT]


def test_one_of_the_two_cannot_adjudicate(queue: ReviewQueue) -> None:
    queue.decide("Ana", "study-0", ACCEPT)
    queue.decide("Luis", "study-0", REJECT)
    queue.decide("ANA", "study-0", EDIT)  # a correction: still two who differ
    assert queue.progress().n_disputed == 1


def test_a_second_decision_of_a_reader_is_a_correction_and_both_are_kept(
    queue: ReviewQueue,
) -> None:
    queue.decide("Ana", "study-0", ACCEPT)
    queue.decide("Ana", "study-0", REJECT)
    first, second = queue.history("study-0")
    assert (first.kind, second.kind) == ("decided", "corrected")
    assert second.before["corrects"] == first.number
    assert queue.progress().n_decisions == 1
    mine = queue.view("Ana", "study-0").mine
    assert mine is not None
    assert mine.decision == REJECT


def test_a_correction_can_end_a_dispute(queue: ReviewQueue) -> None:
    queue.decide("Ana", "study-0", ACCEPT)
    queue.decide("Luis", "study-0", REJECT)
    queue.decide("Luis", "study-0", ACCEPT)
    assert queue.settled()["study-0"].decision == ACCEPT


def test_a_name_in_other_letters_is_the_same_reader(queue: ReviewQueue) -> None:
    queue.decide("Ana  Gómez", "study-0", ACCEPT)
    queue.decide("ana GO\u0301MEZ ", "study-0", ACCEPT)
    assert queue.settled() == {}


def test_with_one_reader_one_decision_settles(folder: Path) -> None:
    queue = ReviewQueue(folder, readers=1)
    queue.decide("Ana", "study-0", ACCEPT)
    assert set(queue.settled()) == {"study-0"}
    assert ReviewQueue(folder).readers == 1


def test_another_number_of_readers_than_one_or_two_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="1 or 2 independent readers, got 3") as caught:
        ReviewQueue(folder, readers=3)
    assert caught.value.rule == "readers"


def test_the_number_of_readers_is_fixed_with_the_first_decision(folder: Path) -> None:
    ReviewQueue(folder).decide("Ana", "study-0", ACCEPT)
    with pytest.raises(ConfigError, match="The review has begun with 2 readers") as caught:
        ReviewQueue(folder, readers=1)
    assert caught.value.rule == "readers-fixed"


def test_a_settled_study_is_reopened_with_a_reason(queue: ReviewQueue) -> None:
    queue.decide("Ana", "study-0", ACCEPT)
    queue.decide("Luis", "study-0", ACCEPT)
    assert queue.reopen("Eva", "study-0", "The number is wrong.").state == "todo"
    assert queue.progress().n_decisions == 0
    assert [e.kind for e in queue.history("study-0")] == ["decided", "decided", "reopened"]


def test_reopening_needs_a_reason(queue: ReviewQueue) -> None:
    assert rule_of(queue.reopen, "Eva", "study-0", "  ") == "no-reason"


def test_what_is_not_settled_is_not_reopened(queue: ReviewQueue) -> None:
    with pytest.raises(InputError, match="nothing to reopen") as caught:
        queue.reopen("Eva", "study-0", "Why not.")
    assert caught.value.rule == "not-settled"


# ---- what a decision may say ----------------------------------------------------------------


def test_a_decision_on_a_settled_study_is_refused(queue: ReviewQueue) -> None:
    queue.decide("Ana", "study-0", ACCEPT)
    queue.decide("Luis", "study-0", ACCEPT)
    with pytest.raises(InputError, match="The study is settled: no more decisions") as caught:
        queue.decide("Eva", "study-0", REJECT)
    assert caught.value.rule == "settled"


def test_an_unknown_study_is_refused(queue: ReviewQueue) -> None:
    with pytest.raises(UnknownName, match="not in the review's queue") as caught:
        queue.decide("Ana", "study-4", ACCEPT)  # a study, but without doubts
    assert caught.value.rule == "unknown-study"


@pytest.mark.parametrize("name", ["", "  ", "\t\n"])
def test_an_empty_name_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="The reader has no name") as caught:
        reader_name(name)
    assert caught.value.rule == "no-reader"


@pytest.mark.parametrize("name", ["a" * 81, "a\0b", "a\u202eb", "a\x1bb"])
def test_a_name_that_cannot_be_shown_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="name cannot be used: expected at most 80") as caught:
        reader_name(name)
    assert caught.value.rule == "bad-reader"


def test_a_name_that_is_half_a_character_is_refused() -> None:
    with pytest.raises(InputError, match="The reader's name is not text") as caught:
        reader_name("\ud800")
    assert caught.value.rule == "bad-reader"


def test_a_name_may_hold_markup_which_is_text(queue: ReviewQueue) -> None:
    queue.decide("<b>Ana</b>", "study-0", ACCEPT)
    assert queue.history()[0].reader == "<b>Ana</b>"


def test_a_rejection_needs_a_reason(queue: ReviewQueue) -> None:
    with pytest.raises(InputError, match="A rejection needs a reason") as caught:
        queue.decide("Ana", "study-0", Decision("reject", reason=" "))
    assert caught.value.rule == "no-reason"


def test_a_verdict_that_is_none_is_refused(queue: ReviewQueue) -> None:
    with pytest.raises(InputError, match="none of accept, edit, reject") as caught:
        queue.decide("Ana", "study-0", Decision("maybe"))  # type: ignore[arg-type]
    assert caught.value.rule == "bad-decision"


@pytest.mark.parametrize(
    "decision",
    [
        Decision("edit"),
        Decision("edit", reviewed.ENGLISH),
        Decision("edit", None, ("pleural effusion",)),
    ],
)
def test_an_edit_that_changes_nothing_is_refused(queue: ReviewQueue, decision: Decision) -> None:
    with pytest.raises(InputError, match="The edit changes nothing") as caught:
        queue.decide("Ana", "study-0", decision)
    assert caught.value.rule == "empty-edit"


def test_an_edit_of_a_megabyte_is_refused(queue: ReviewQueue) -> None:
    with pytest.raises(InputError, match="at most 50000 characters, got 1048576") as caught:
        queue.decide("Ana", "study-0", Decision("edit", "x" * 2**20))
    assert caught.value.rule == "too-long"


def test_too_many_labels_are_refused(queue: ReviewQueue) -> None:
    with pytest.raises(InputError, match="too many labels: expected at most 100") as caught:
        queue.decide("Ana", "study-0", Decision("edit", None, ("nodule",) * 101))
    assert caught.value.rule == "too-long"


def test_a_label_in_no_vocabulary_is_refused_naming_the_nearest(queue: ReviewQueue) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'pneumothorax'"):
        queue.decide("Ana", "study-0", Decision("edit", None, ("pneumothorx",)))


def test_a_label_is_kept_by_its_canonical_name(queue: ReviewQueue) -> None:
    view = queue.decide("Ana", "study-0", Decision("edit", None, ("derrame pleural", "neumotórax")))
    assert view.mine is not None
    assert view.mine.decision.labels == ("pleural effusion", "pneumothorax")


def test_an_english_report_has_no_translation_to_edit(tmp_path: Path) -> None:
    from medfinder.records import Report

    own = reviewed.study(0, report=Report("A nodule.", "en", "A nodule."))
    queue = ReviewQueue(reviewed.make(tmp_path / "studies", studies=[own]))
    with pytest.raises(InputError, match="no translation to edit") as caught:
        queue.decide("Ana", "study-0", Decision("edit", "Two nodules."))
    assert caught.value.rule == "not-a-translation"


def test_a_study_without_report_is_shown_and_accepted(tmp_path: Path) -> None:
    own = reviewed.study(0, report=None, findings=())
    queue = ReviewQueue(reviewed.make(tmp_path / "studies", studies=[own], candidates={}))
    assert queue.view("Ana", "study-0").shown.english is None
    assert queue.decide("Ana", "study-0", ACCEPT).state == "waiting"


@pytest.mark.parametrize("decision", [ACCEPT, Decision("edit", None, ("nodule",))])
def test_a_placeholder_is_not_accepted_as_a_translation(
    queue: ReviewQueue, decision: Decision
) -> None:
    with pytest.raises(InputError, match="is a placeholder, not a translation") as caught:
        queue.decide("Ana", "study-2", decision)
    assert caught.value.rule == "placeholder-accepted"


def test_a_placeholder_can_be_edited_away(queue: ReviewQueue) -> None:
    view = queue.decide("Ana", "study-2", Decision("edit", ""))
    assert view.mine is not None
    assert view.mine.decision.translation == ""


def test_an_edit_is_cleaned_as_reports_are(queue: ReviewQueue) -> None:
    view = queue.decide(
        "Ana", "study-0", Decision("edit", "Left\u200b pleural \0effusion&amp;\ud800")
    )
    assert view.mine is not None
    assert view.mine.decision.translation == "Left pleural effusion&"


def test_a_decision_on_what_has_changed_since_is_refused(queue: ReviewQueue, folder: Path) -> None:
    seen = queue.view("Ana", "study-1").shown.hash
    changed = [reviewed.study(i, **({"labels": ("mass",)} if i == 1 else {})) for i in range(5)]
    reviewed.make(folder, studies=changed)
    with pytest.raises(InputError, match="have changed since this decision was made") as caught:
        queue.decide("Ana", "study-1", ACCEPT, shown=seen)
    assert caught.value.rule == "changed-source"


def test_decisions_on_what_has_changed_no_longer_count_and_stay(
    queue: ReviewQueue, folder: Path
) -> None:
    for reader in ("Ana", "Luis"):
        queue.decide(reader, "study-1", ACCEPT)
        queue.decide(reader, "study-0", ACCEPT)
    changed = [reviewed.study(i, **({"labels": ("mass",)} if i == 1 else {})) for i in range(5)]
    reviewed.make(folder, studies=changed)
    assert set(queue.settled()) == {"study-0"}
    assert queue.progress().n_stale == 1
    assert len(queue.history("study-1")) == 2


def test_a_doubt_that_came_later_has_been_decided_by_nobody(
    queue: ReviewQueue, folder: Path
) -> None:
    for reader in ("Ana", "Luis"):
        queue.decide(reader, "study-1", ACCEPT)
    reviewed.make(folder, doubts=[*reviewed.DOUBTS, Doubt("study-1", "short-report", "Short.")])
    assert queue.settled() == {}
    assert queue.view("Ana", "study-1").state == "todo"


# ---- leases ---------------------------------------------------------------------------------


def test_no_more_readers_hold_a_study_than_are_needed(queue: ReviewQueue) -> None:
    queue.lease("Ana", "study-0")
    queue.lease("Luis", "study-0")
    with pytest.raises(InputError, match="Enough readers are at work") as caught:
        queue.lease("Eva", "study-0")
    assert caught.value.rule == "taken"
    assert states(queue, "Eva")["study-0"] == "taken"
    assert states(queue, "Ana")["study-0"] == "todo"


def test_with_one_reader_needed_two_do_not_get_the_same_study(folder: Path) -> None:
    queue = ReviewQueue(folder, readers=1)
    queue.lease("Ana", "study-0")
    assert rule_of(queue.lease, "Luis", "study-0") == "taken"


def test_a_dispute_is_held_by_one_adjudicator(queue: ReviewQueue) -> None:
    queue.decide("Ana", "study-0", ACCEPT)
    queue.decide("Luis", "study-0", REJECT)
    queue.lease("Eva", "study-0")
    assert rule_of(queue.lease, "Otto", "study-0") == "taken"


def test_a_lease_ends_with_its_time(folder: Path) -> None:
    clock = Clock()
    queue = ReviewQueue(folder, readers=1, lease_s=60, now=clock)
    queue.lease("Ana", "study-0")
    clock.now += 61
    queue.lease("Luis", "study-0")


def test_a_lease_ends_with_the_decision(queue: ReviewQueue) -> None:
    queue.lease("Ana", "study-0")
    queue.decide("Ana", "study-0", ACCEPT)
    assert queue.log.leases() == []


def test_what_a_reader_has_decided_is_not_held_for_them_again(queue: ReviewQueue) -> None:
    queue.decide("Ana", "study-0", ACCEPT)
    queue.lease("Ana", "study-0")
    assert queue.log.leases() == []


def test_a_decision_without_a_lease_counts(queue: ReviewQueue) -> None:
    queue.lease("Ana", "study-0")
    queue.lease("Luis", "study-0")
    assert queue.decide("Eva", "study-0", ACCEPT).state == "waiting"


# ---- concurrency and kills ------------------------------------------------------------------


def test_two_readers_at_once_are_both_recorded(folder: Path) -> None:
    queues = [ReviewQueue(folder) for _ in range(2)]
    ready = threading.Barrier(2)

    def decide(queue: ReviewQueue, reader: str) -> None:
        ready.wait()
        for item in queue.items():
            if item.study_id != "study-2":
                queue.decide(reader, item.study_id, ACCEPT)

    threads = [
        threading.Thread(target=decide, args=(q, r))
        for q, r in zip(queues, ("Ana", "Luis"), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(queues[0].settled()) == {"study-0", "study-1", "study-3"}
    assert queues[0].log.verify()[0] == 6


def _decide_many(folder: Path, reader: str) -> None:
    queue = ReviewQueue(folder)
    for i in range(20):
        queue.decide(reader, "study-0", Decision("edit", f"Text {i} of {reader}."))


def test_processes_that_write_at_once_leave_one_whole_chain(folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_decide_many, args=(folder, r)) for r in ("Ana", "Luis")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [w.exitcode for w in workers] == [0, 0]
    assert ReviewQueue(folder).log.verify()[0] == 40


def test_after_kill_nine_every_decision_that_was_answered_is_there(folder: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from medfinder.curate.review import Decision, ReviewQueue\n"
        f"queue = ReviewQueue(pathlib.Path({str(folder)!r}))\n"
        "for i in range(10**6):\n"
        "    queue.decide('Ana', 'study-0', Decision('edit', f'Text {i}.'))\n"
        "    print(i, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        answered = [int(process.stdout.readline()) for _ in range(15)]
    finally:
        os.kill(process.pid, signal.SIGKILL)
        rest, _ = process.communicate()
    answered += [int(line) for line in rest.split("\n") if line.isdigit()]
    queue = ReviewQueue(folder)
    number, _ = queue.log.verify()
    assert number in (len(answered), len(answered) + 1)  # the last may not have been told
    queue.decide("Luis", "study-0", ACCEPT)


# ---- the log --------------------------------------------------------------------------------


def test_an_event_tells_who_when_what_before_and_after(folder: Path) -> None:
    queue = ReviewQueue(folder, now=Clock())
    queue.decide("Ana", "study-0", EDIT)
    (event,) = queue.history()
    assert (event.reader, event.kind, event.study_id) == ("Ana", "decided", "study-0")
    assert event.at == "2023-11-14T22:13:20.000000+00:00"
    assert event.before["translation"] == reviewed.ENGLISH
    assert event.after["translation"] == EDIT.translation


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET reader = 'Eva'",
        "DELETE FROM events",
        "INSERT OR REPLACE INTO events SELECT 1, at, 'Eva', kind, study_id, before, after, previous, hash FROM events WHERE number = 1",
        "INSERT INTO events SELECT 9, at, 'Eva', kind, study_id, before, after, hash, hash FROM events WHERE number = 2",
        "INSERT INTO events (at, reader, kind, study_id, before, after, previous, hash) SELECT at, reader, kind, study_id, before, after, hash, 'x' FROM events WHERE number = 2",
    ],
)
def test_the_log_itself_refuses_to_be_changed(
    queue: ReviewQueue, folder: Path, statement: str
) -> None:
    queue.decide("Ana", "study-0", ACCEPT)
    queue.decide("Luis", "study-0", ACCEPT)
    connection = sqlite3.connect(folder / "review.db")
    with pytest.raises(sqlite3.IntegrityError, match=r"never|follows"):
        connection.execute(statement)
    connection.close()
    assert queue.log.verify()[0] == 2


@pytest.mark.parametrize(
    ("statement", "number"),
    [
        ("UPDATE events SET reader = 'Eva' WHERE number = 2", 2),
        ("UPDATE events SET at = '2020-01-01T00:00:00+00:00' WHERE number = 1", 1),
        ("DELETE FROM events WHERE number = 2", 3),
        ("UPDATE events SET after = replace(after, 'accept', 'reject') WHERE number = 3", 3),
    ],
)
def test_a_change_behind_the_logs_back_is_found(
    queue: ReviewQueue, folder: Path, statement: str, number: int
) -> None:
    for reader, study_id in (("Ana", "study-0"), ("Luis", "study-0"), ("Ana", "study-1")):
        queue.decide(reader, study_id, ACCEPT)
    connection = sqlite3.connect(folder / "review.db")
    for trigger in ("events_are_not_changed", "events_are_not_removed"):
        connection.execute(f"DROP TRIGGER {trigger}")
    connection.execute(statement)
    connection.commit()
    connection.close()
    with pytest.raises(Mismatch, match=f"tampered with at event {number} "):
        queue.log.verify()


def test_a_log_that_is_cut_off_or_replaced_under_a_running_review_is_told(
    queue: ReviewQueue, folder: Path
) -> None:
    queue.decide("Ana", "study-0", ACCEPT)
    for file in folder.glob("review.db*"):
        file.unlink()
    with pytest.raises(Mismatch, match="not the one it was - expected event 1"):
        queue.items()
    ReviewQueue(folder).decide("Eva", "study-0", ACCEPT)
    with pytest.raises(Mismatch, match="not the one it was - expected event 1"):
        queue.items()


def test_a_file_that_is_no_log_is_told(folder: Path) -> None:
    (folder / "review.db").write_bytes(b"a letter" * 200)
    with pytest.raises(Mismatch, match="The log of the review cannot be read"):
        ReviewQueue(folder)


def test_a_full_disk_loses_the_decision_and_nothing_else(queue: ReviewQueue) -> None:
    queue.decide("Ana", "study-0", ACCEPT)
    opened = queue.log._open

    def small(*arguments: object) -> object:
        import contextlib

        @contextlib.contextmanager
        def bounded() -> object:  # type: ignore[misc]
            with opened() as connection:
                pages = connection.execute("PRAGMA page_count").fetchone()[0]
                connection.execute(f"PRAGMA max_page_count = {pages}")
                yield connection

        return bounded()

    queue.log._open = small  # type: ignore[method-assign,assignment]
    with pytest.raises(ArtifactError, match=r"cannot be used - review.db - .*full"):
        for i in range(40):
            queue.decide("Luis", "study-0", Decision("edit", f"{i}" + "x" * 20_000))
    queue.log._open = opened  # type: ignore[method-assign]
    n_events, _ = queue.log.verify()
    assert queue.progress().n_decisions == len({e.reader for e in queue.history()})
    queue.decide("Luis", "study-0", ACCEPT)
    assert queue.log.verify()[0] == n_events + 1


def test_the_curated_files_are_never_changed(queue: ReviewQueue, folder: Path) -> None:
    before = digests(folder)
    for reader in ("Ana", "Luis"):
        queue.decide(reader, "study-0", EDIT)
        queue.decide(reader, "study-1", REJECT)
    queue.reopen("Ana", "study-1", "Not so.")
    assert digests(folder) == before


# ---- folders that cannot be reviewed --------------------------------------------------------


def test_a_folder_that_is_not_curated_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no curate folder"):
        ReviewQueue(tmp_path / "nothing")
    with pytest.raises(Incomplete, match="has not finished"):
        ReviewQueue(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_tables_of_another_version_are_told(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"study_id": ["study-0"]}), folder / "doubts.parquet")
    with pytest.raises(Mismatch, match="lacks the columns reason, rule, weight"):
        ReviewQueue(folder)
    (folder / "doubts.parquet").write_bytes(b"torn")
    with pytest.raises(Mismatch, match=r"doubts.parquet cannot be read"):
        ReviewQueue(folder)


def test_candidates_of_a_strange_shape_are_told(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"study_id": ["study-0"]}), folder / "translations.parquet")
    with pytest.raises(Mismatch, match=r"translations.parquet lacks the columns text"):
        ReviewQueue(folder)


def test_without_problems_of_a_candidate_its_doubts_are_told(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = {"study_id": ["study-0"], "text": ["English."]}
    pq.write_table(pa.table(row), folder / "translations.parquet")
    assert ReviewQueue(folder).view("Ana", "study-0").shown.problems == ("number", "unit")


def test_problems_of_a_candidate_may_be_one_text(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = {"study_id": ["study-0"], "text": ["English."], "problems": ["number, side"]}
    pq.write_table(pa.table(row), folder / "translations.parquet")
    assert ReviewQueue(folder).view("Ana", "study-0").shown.problems == ("number, side",)


# ---- agreement ------------------------------------------------------------------------------


def test_agreement_leaves_adjudicators_out(queue: ReviewQueue) -> None:
    queue.decide("Ana", "study-0", ACCEPT)
    queue.decide("Luis", "study-0", REJECT)
    queue.decide("Eva", "study-0", ACCEPT)
    queue.decide("Ana", "study-3", ACCEPT)
    queue.decide("Luis", "study-3", ACCEPT)
    found = queue.agreement().decisions
    assert (found.n_items, found.observed, found.kappa) == (2, 0.5, 0.0)


def test_agreement_on_findings_counts_the_studies_that_both_keep(queue: ReviewQueue) -> None:
    queue.decide("Ana", "study-1", Decision("edit", None, ("nodule",)))
    queue.decide("Luis", "study-1", ACCEPT)  # keeps adenopathy
    for reader in ("Ana", "Luis"):
        queue.decide(reader, "study-0", ACCEPT)
        queue.decide(reader, "study-3", REJECT)
    found = queue.agreement().findings
    assert set(found) == {"adenopathy", "nodule", "pleural effusion"}
    assert (found["adenopathy"].n_items, found["adenopathy"].observed) == (2, 0.5)
    assert found["nodule"].kappa == 1.0
