"""Questions taken apart: what is asked for is said a sentence each, what is denied is shunned."""

import numpy as np
import pytest

from medfinder.search.question import MOST_WORDS, SHUN, Question, read_question


@pytest.mark.parametrize(
    ("text", "sought", "shunned"),
    [
        (
            "2 cm nodule in the right upper lobe without adenopathy",
            "2 cm nodule in the right upper lobe.",
            ("Adenopathy.",),
        ),
        ("Ground glass, no pneumothorax or mass", "Ground glass.", ("Pneumothorax.", "Mass.")),
        ("no pleural effusion", "", ("Pleural effusion.",)),
        ("Nodule. No adenopathy.", "Nodule.", ("Adenopathy.",)),
        (
            "pneumothorax is absent, but there is a mass in the left lower lobe",
            "There is a mass in the left lower lobe.",
            ("Pneumothorax.",),
        ),
        ("derrame pleural izquierdo sin masa", "Derrame pleural izquierdo.", ("Mass.",)),
    ],
)
def test_what_is_denied_is_shunned(text: str, sought: str, shunned: tuple[str, ...]) -> None:
    question = read_question(text)
    assert question.sought == sought
    assert question.shunned == shunned


@pytest.mark.parametrize(
    ("text", "sought"),
    [
        (
            "Pleural effusion, cardiomegaly and emphysema",
            "Pleural effusion. Cardiomegaly. Emphysema.",
        ),
        (
            "large left pleural effusion with adjacent atelectasis but no consolidation",
            "Large left pleural effusion. Adjacent atelectasis.",
        ),
    ],
)
def test_each_finding_is_said_in_a_sentence_of_its_own(text: str, sought: str) -> None:
    assert read_question(text).sought == sought


@pytest.mark.parametrize(
    "text", ["left pleural effusion", "a patient after surgery", "Nodule", "", "¿?", "no"]
)
def test_a_question_about_one_thing_or_none_stays_as_it_is(text: str) -> None:
    assert read_question(text) == Question(text)


def test_a_report_stays_as_it_is() -> None:
    report = "No pleural effusion. " * (MOST_WORDS // 3 + 1)
    assert read_question(report) == Question(report)


def test_the_place_lies_away_from_what_is_shunned() -> None:
    axes = np.eye(3, dtype=np.float32)
    vectors = {"A.": axes[0], "B.": axes[1], "C.": axes[2]}
    place = Question("A.", ("B.", "C.")).place(lambda texts: np.stack([vectors[t] for t in texts]))
    wanted = np.array([1, -SHUN / np.sqrt(2), -SHUN / np.sqrt(2)])
    assert place == pytest.approx(wanted / np.linalg.norm(wanted))


def test_a_question_that_only_denies_lies_opposite() -> None:
    place = Question("", ("B.",)).place(lambda texts: np.eye(2, dtype=np.float32)[[1]])
    assert place.tolist() == [0, -1]


def test_a_question_that_asks_for_what_it_denies_has_a_place() -> None:
    place = Question("A.", ("A.",)).place(lambda texts: np.ones((2, 1), np.float32))
    assert np.isfinite(place).all()


def test_what_an_encoder_does_not_read_is_named_in_english() -> None:
    question = read_question("Nódulo en lóbulo superior derecho, sin derrame pleural", ["en"])
    assert question == Question("Nodule in the right upper lobe.", ("Pleural effusion.",))


def test_what_an_encoder_reads_keeps_its_words() -> None:
    text = "Nódulo en lóbulo superior derecho"
    assert read_question(text, ["en", "es"]) == Question(text) == read_question(text)


def test_of_a_foreign_report_the_affirmed_findings_are_named() -> None:
    report = "Cardiomegalia. Derrame pleural izquierdo. No se observan adenopatías. " * 9
    sought = read_question(report, ["en"])
    assert sought == Question("Cardiomegaly. Left pleural effusion.")


def test_a_foreign_text_without_findings_stays_as_it_is() -> None:
    text = "Paciente de sesenta años con tos"
    assert read_question(text, ["en"]) == Question(text)


def test_a_short_report_is_compared_as_it_stands() -> None:
    text = "Nodule. No adenopathy."
    assert read_question(text, is_report=True) == Question(text)


def test_an_empty_text_is_placed_as_the_encoder_places_it() -> None:
    place = Question("").place(lambda texts: np.full((len(texts), 1), 1, np.float32))
    assert place.tolist() == [1]
