"""Sentences of reports, and of which studies they are true."""

import random
from typing import Any

import numpy as np
import pytest

from medfinder.train.labels import encode_labels, prompt_of
from medfinder.train.statements import (
    FALSE,
    FALSE_BY_ATTRIBUTE,
    TRUE,
    UNKNOWN,
    Statements,
    claims,
    make_statements,
    with_prompts,
)
from stubs.training import phantoms

LEFT = "Left pleural effusion. No pneumothorax."
RIGHT = "Right pleural effusion. The heart is of normal size."
PLAIN = "Pleural effusion. Pneumothorax on the left."
NONE = "No pleural effusion. Nodule in the left upper lobe."
REPORTS = (LEFT, RIGHT, PLAIN, NONE)


def made(*reports: str, **counts: Any) -> Statements:
    return make_statements(reports, random.Random(0), **counts)


def judged(statements: Statements, sentence: str) -> list[int]:
    return list(statements.truth[:, statements.sentences.index(sentence)])


def test_a_sentence_is_judged_against_every_study() -> None:
    got = made(*REPORTS)
    assert judged(got, "Left pleural effusion.") == [TRUE, FALSE_BY_ATTRIBUTE, UNKNOWN, FALSE]
    assert judged(got, "Pneumothorax on the left.") == [FALSE, FALSE, TRUE, FALSE]
    assert judged(got, "No pneumothorax.") == [TRUE, TRUE, FALSE, TRUE]
    assert judged(got, "No pleural effusion.") == [FALSE, FALSE, FALSE, TRUE]


def test_another_lobe_is_another_place() -> None:
    got = made("Nodule in the right upper lobe.", "Nodule in the right lower lobe.")
    assert judged(got, "Nodule in the right upper lobe.") == [TRUE, FALSE_BY_ATTRIBUTE]


def test_a_sentence_is_true_of_the_study_that_tells_it() -> None:
    """Even where the report says the opposite elsewhere."""
    got = made("Left pleural effusion. Right pleural effusion.", NONE)
    for sentence in ("Left pleural effusion.", "Right pleural effusion."):
        assert judged(got, sentence) == [TRUE, FALSE]


def test_a_changed_sentence_is_false_of_its_own_study_and_unknown_of_others() -> None:
    got = made(*REPORTS)
    assert len(got.told) == len(got.changed) == len(got.owner) >= 3
    for told, changed, owner in zip(got.told, got.changed, got.owner, strict=True):
        right, wrong = got.sentences[told], got.sentences[changed]
        assert right != wrong
        differ = sum(a != b for a, b in zip(right.split(), wrong.split(), strict=True))
        assert differ == 1
        assert got.truth[owner, told] == TRUE
        assert got.truth[owner, changed] == FALSE_BY_ATTRIBUTE
        assert set(got.truth[:, changed]) == {FALSE_BY_ATTRIBUTE, UNKNOWN}
        assert right in REPORTS[owner]


def test_told_sentences_come_before_changed_ones() -> None:
    got = made(*REPORTS)
    assert list(got.changed) == list(
        range(len(got.sentences) - len(got.changed), len(got.sentences))
    )
    assert got.truth.shape == (len(REPORTS), len(got.sentences))


@pytest.mark.parametrize(("n_told", "n_denied"), [(1, 0), (0, 2), (2, 1), (0, 0)])
def test_no_more_are_chosen_than_asked(n_told: int, n_denied: int) -> None:
    texts = [texts[0] for texts in phantoms().reports]
    got = make_statements(texts, random.Random(1), n_told, n_denied)
    asserted = denied = 0
    for sentence in got.sentences[: len(got.sentences) - len(got.changed)]:
        if any(f.status == "present" for f in claims(sentence)):
            asserted += 1
        else:
            denied += 1
    assert asserted <= n_told * len(texts)
    assert denied <= n_denied * len(texts)
    assert bool(asserted) == bool(n_told)
    assert bool(denied) == bool(n_denied)


def test_the_chooser_alone_decides() -> None:
    texts = [texts[0] for texts in phantoms().reports]
    first, again, other = (make_statements(texts, random.Random(s)) for s in (1, 1, 2))
    assert first.sentences == again.sentences
    assert first.sentences != other.sentences


def test_what_is_uncertain_claims_nothing() -> None:
    assert claims("Possible left pleural effusion.") == ()
    assert [f.status for f in claims("No left pleural effusion.")] == ["absent"]


@pytest.mark.parametrize("reports", [(), ("",), ("Unremarkable study.", "The patient coughs.")])
def test_reports_without_a_finding_give_no_statement(reports: tuple[str, ...]) -> None:
    got = made(*reports)
    assert got.sentences == ()
    assert got.truth.shape == (len(reports), 0)
    assert got.told.shape == got.changed.shape == got.owner.shape == (0,)


def test_a_label_is_asked_as_a_reader_would_ask() -> None:
    asked = ("pleural effusion", "nodule|left upper lobe", "nodule|>14 mm", "cardiomegaly|mild")
    assert [prompt_of(label) for label in asked] == [
        "Pleural effusion.",
        "Nodule in the left upper lobe.",
        "Nodule larger than 14 mm.",
        "Mild cardiomegaly.",
    ]


def test_labels_become_sentences_judged_by_what_each_report_says() -> None:
    reports = ("Nodule in the left upper lobe.", "Nodule in the right lower lobe.", "Normal heart.")
    labels = ("nodule", "nodule|left")
    truth = np.stack([encode_labels(report, labels) for report in reports])
    plain = made(*reports)
    asked = with_prompts(plain, labels, truth, random.Random(0), n=5)
    assert asked.sentences == (*plain.sentences, "Nodule.", "Left nodule.")
    assert judged(asked, "Nodule.") == [TRUE, TRUE, FALSE]
    assert judged(asked, "Left nodule.") == [TRUE, FALSE_BY_ATTRIBUTE, FALSE]
    assert (asked.told == plain.told).all()


def test_an_attribute_that_a_report_leaves_open_is_unknown() -> None:
    labels = ("nodule", "nodule|left")
    truth = np.stack([encode_labels("A nodule is seen.", labels)])
    asked = with_prompts(made("A nodule is seen."), labels, truth, random.Random(0), n=2)
    assert judged(asked, "Left nodule.") == [UNKNOWN]


def test_so_many_labels_are_drawn_as_asked_by_the_chooser_alone() -> None:
    labels = tuple(f"nodule|>{size} mm" for size in range(10, 40))
    truth = np.zeros((1, len(labels)), np.int8)
    first, again, other = (
        with_prompts(made("Nodule."), labels, truth, random.Random(seed), n=7).sentences
        for seed in (1, 1, 2)
    )
    assert first == again != other
    assert len(first) == len(made("Nodule.").sentences) + 7
