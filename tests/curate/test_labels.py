import csv
from pathlib import Path

import pytest

from medfinder.curate.labels import (
    canonical_labels,
    label_missing,
    label_negated,
    label_unmentioned,
)
from medfinder.report.findings import extract_findings
from medfinder.report.parse import parse_report
from medfinder.report.vocabulary import vocabulary


def negated(text: str, *labels: str) -> list[str]:
    return label_negated(labels, extract_findings(text))


def test_labels_are_known_by_their_canonical_names() -> None:
    given = ["", " pleural effusion", "derrame pleural", "Adenopatías", "COVID 19", "no such thing"]
    assert canonical_labels(given)[:2] == ("pleural effusion", "adenopathy")
    assert canonical_labels(given)[-1] == "no such thing"


def test_a_label_that_the_text_only_denies_is_named() -> None:
    assert negated("no se observan adenopatias mediastinicas.", "adenopathy") == ["adenopathy"]
    assert negated("No pleural effusion.", "pleural effusion") == ["pleural effusion"]


@pytest.mark.parametrize(
    "text",
    [
        "adenopatias hiliares. no se observan adenopatias axilares.",
        "posible adenopatia hiliar derecha.",
        "corazon de tamaño normal.",
    ],
)
def test_a_label_that_is_affirmed_somewhere_or_not_mentioned_is_not_denied(text: str) -> None:
    assert negated(text, "adenopathy") == []


def test_a_label_is_denied_with_what_it_is_a_kind_of() -> None:
    kinds = vocabulary().descendants("adenopathy")
    if not kinds:
        pytest.skip("the vocabulary has no kinds of adenopathy")
    assert negated("no se observan adenopatias.", min(kinds)) == [min(kinds)]


def test_a_label_that_the_text_does_not_mention_is_named_and_marks_are_not() -> None:
    found = extract_findings("derrame pleural izquierdo.")
    labels = ("pleural effusion", "hiatal hernia", "normal", "unchanged", "loc pleural")
    assert label_unmentioned(labels, found) == ["hiatal hernia"]


def test_what_the_text_affirms_and_no_label_says_is_named() -> None:
    found = extract_findings("derrame pleural izquierdo. hernia de hiato. no hay neumotorax.")
    assert label_missing(("pleural effusion",), found) == ["hiatal hernia"]


def test_a_more_general_label_says_its_kinds_too() -> None:
    found = extract_findings("atelectasias laminares.")
    assert label_missing(("atelectasis",), found) == []


def test_the_vocabulary_has_more_than_96_findings_most_with_a_cui() -> None:
    known = vocabulary()
    names = known.names("finding")
    assert len(names) >= 96
    assert sum(known.get(name).cui is not None for name in names) >= 96


def test_labels_of_real_reports_are_denied_in_text_only_by_exception(shared_data: Path) -> None:
    """Manual labels are right: few of them may look denied."""
    n = denied = 0
    path = shared_data / "text" / "ct_report_labels" / "train.csv"
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            report = parse_report(row["report_text"])
            findings = extract_findings(report)
            labels = canonical_labels(
                name for name, value in row.items() if value == "1" and name != "AccessionNo"
            )
            n += len(labels)
            denied += len(label_negated(labels, findings))
    assert n > 1000
    assert denied / n < 0.02
