"""Text → Report with sections and language."""

import pytest

from medfinder.errors import EmptyReport
from medfinder.report.parse import parse_report, sections


def test_english_sections_are_cut_out():
    report = parse_report(
        "CLINICAL HISTORY: cough.\nTECHNIQUE: CT.\nFINDINGS: 5 mm nodule.\nIMPRESSION: Nodule."
    )
    assert report.findings_text == "5 mm nodule."
    assert report.impression_text == "Nodule."
    assert report.language == "en"


def test_spanish_sections_are_cut_out_with_and_without_accents():
    for heading in ("Conclusión", "CONCLUSION", "Impresión diagnóstica", "impresion"):
        report = parse_report(f"Hallazgos: nódulo en LSD.\n{heading}: Nódulo pulmonar.")
        assert report.findings_text == "nódulo en LSD."
        assert report.impression_text == "Nódulo pulmonar."
        assert report.language == "es"


def test_headings_on_a_line_of_their_own_need_no_colon():
    report = parse_report("FINDINGS\nA nodule.\n\nIMPRESSION\nStable.")
    assert (report.findings_text, report.impression_text) == ("A nodule.", "Stable.")


def test_headings_inside_one_line_are_found():
    report = parse_report("FINDINGS: No effusion. IMPRESSION: Normal.")
    assert (report.findings_text, report.impression_text) == ("No effusion.", "Normal.")


def test_without_headings_everything_is_findings():
    report = parse_report("There is a nodule in the right lung.")
    assert report.findings_text == report.text
    assert report.impression_text == ""


def test_text_before_the_first_heading_is_findings():
    assert [s.name for s in sections("A nodule.\nImpression: Stable.")] == [
        "findings",
        "impression",
    ]


def test_the_text_is_cleaned():
    assert parse_report("n&oacute;dulo  pulmonar .").text == "nódulo pulmonar."


def test_the_given_language_wins():
    assert parse_report("no nodule", language="es").language == "es"


@pytest.mark.parametrize("text", ["", "   ", "\n\t", "...", "\u200b\x00", "&nbsp;", "<br>"])
def test_a_report_without_words_is_empty(text):
    with pytest.raises(EmptyReport, match="The report has no text - after cleaning") as caught:
        parse_report(text)
    assert caught.value.rule == "empty-report"
