"""Reports become a table of yes, no and unknown."""

import pytest

from medfinder.train.labels import encode_labels, fit_labels
from stubs.training import phantoms

REPORTS = (
    "Large left pleural effusion. No pneumothorax.",
    "Right pleural effusion. Solid nodule of 12 mm in the right upper lobe.",
    "Pleural effusion. No nodule.",
    "The heart is of normal size.",
)


def encoded(report: str) -> dict[str, int]:
    labels = fit_labels(REPORTS, 1)
    return dict(zip(labels, encode_labels(report, labels).tolist(), strict=True))


def test_labels_are_the_findings_and_attributes_that_reports_assert() -> None:
    labels = fit_labels(REPORTS, 1)
    assert list(labels) == sorted(set(labels))
    assert {
        "pleural effusion",
        "pleural effusion|left",
        "pleural effusion|right",
        "pleural effusion|large",
        "nodule",
        "nodule|right upper lobe",
        "nodule|solid",
        "nodule|>10 mm",
    } <= set(labels)
    assert not any(label.startswith("pneumothorax") for label in labels)
    assert not any(label.endswith("measured") for label in labels)


def test_a_label_needs_as_many_reports_as_asked() -> None:
    assert fit_labels(REPORTS, 3) == ("pleural effusion",)
    assert fit_labels(REPORTS, 4) == ()
    twice = ["Left pleural effusion. Left pleural effusion."]
    assert fit_labels(twice, 2) == ()  # said twice is one report


def test_what_a_report_asserts_is_true() -> None:
    row = encoded(REPORTS[0])
    assert row["pleural effusion"] == row["pleural effusion|left"] == 1
    assert row["pleural effusion|large"] == 1


def test_what_a_report_does_not_mention_is_false() -> None:
    row = encoded(REPORTS[3])
    assert set(row.values()) == {0}
    assert encoded(REPORTS[0])["nodule|solid"] == 0


def test_the_other_side_is_false_and_a_side_not_told_is_unknown() -> None:
    assert encoded(REPORTS[0])["pleural effusion|right"] == 0
    silent = encoded(REPORTS[2])
    assert silent["pleural effusion"] == 1
    assert silent["pleural effusion|left"] == silent["pleural effusion|right"] == -1
    assert silent["pleural effusion|large"] == -1


def test_a_size_label_says_larger_than() -> None:
    labels = fit_labels(REPORTS, 1)
    sizes = {
        text: dict(zip(labels, encode_labels(f"Nodule of {text}.", labels), strict=True))
        for text in ("8 mm", "12 mm", "1.2 cm", "3 cm")
    }
    assert [sizes[text]["nodule|>10 mm"] for text in sizes] == [0, 1, 1, 1]
    untold = dict(zip(labels, encode_labels("Nodule.", labels), strict=True))
    assert untold["nodule|>10 mm"] == -1


@pytest.mark.parametrize("report", ["", "Possible nodule.", "No nodule."])
def test_what_is_denied_or_left_open_is_not_true(report: str) -> None:
    assert 1 not in encoded(report).values()


def test_every_label_of_the_phantoms_is_true_of_some() -> None:
    texts = [texts[0] for texts in phantoms().reports]
    labels = fit_labels(texts, 1)
    assert labels
    for label in labels:
        assert any(encode_labels(text, [label])[0] == 1 for text in texts), label
