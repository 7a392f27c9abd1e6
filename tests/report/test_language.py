"""English or Spanish."""

import csv

import pytest

from medfinder.report.language import detect_language


@pytest.mark.parametrize(
    "text",
    [
        "no se observa derrame pleural",
        "nodulo en lsd",
        "Bocio multinodular.",
        "derrame pleural resuelto .",
        "cardiomegalia",
        "Tractos fibrosos apicales bilaterales.",
        "¿Neumonía?",
        "torax normal sin hallazgos",
    ],
)
def test_short_spanish_is_told_without_accents(text):
    assert detect_language(text) == "es"


@pytest.mark.parametrize(
    "text",
    [
        "pleural effusion",
        "no nodule",
        "lung mass in a patient with cancer",
        "Emphysema.",
        "Hiatal hernia",
        "Cardiomegaly",
        "nodule",
        "",
        "1.2 3",
    ],
)
def test_short_english_is_told(text):
    assert detect_language(text) == "en"


def test_real_english_reports_are_english(shared_data):
    path = shared_data / "text" / "ct_report_labels" / "train.csv"
    with path.open(encoding="utf-8", newline="") as file:
        texts = [row["report_text"] for row in csv.DictReader(file)]
    assert {detect_language(text) for text in texts} == {"en"}
