"""What a report states: status, side, place, offsets, and that any text is taken."""

import csv
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medfinder.records import Finding
from medfinder.report.findings import extract_findings
from medfinder.report.parse import parse_report
from medfinder.report.vocabulary import vocabulary

SPANISH = tomllib.loads(
    Path(__file__).with_name("spanish_sentences.toml").read_text(encoding="utf-8")
)["sentence"]
MIXED_UP = st.lists(
    st.sampled_from(
        [
            "no",
            "not",
            "nodule",
            "nodules",
            "effusion",
            "pleural",
            "right",
            "left",
            "both",
            "lobe",
            "upper",
            "and",
            ",",
            ".",
            ";",
            ":",
            "(",
            ")",
            "?",
            "but",
            "cannot",
            "be",
            "excluded",
            "was",
            "observed",
            "lymph",
            "node",
            "pathological",
            "size",
            "nódulo",
            "derrame",
            "sin",
            "se",
            "observa",
            "FINDINGS:",
            "History:",
            '"',
            "\n",
            "•",
            "is",
            "normal",
            "heart",
            "1.2",
            "mm",
            "İ",
            "ß",
            "\x00",
            "á",
        ]
    ),
    max_size=40,
).map(" ".join)


def _status(text: str, name: str) -> set[str]:
    return {f.status for f in extract_findings(text) if f.name == name}


@pytest.mark.parametrize(
    ("text", "name", "status"),
    [
        ("No pleural effusion, pneumothorax or consolidation.", "consolidation", "absent"),
        ("Pericardial effusion-thickening was not observed.", "pericardial effusion", "absent"),
        ("Pleural effusion was not detected in both hemithorax.", "pleural effusion", "absent"),
        (
            "No enlarged lymph nodes in prevascular, subcarinal or bilateral hilar-axillary "
            "pathological dimensions were detected.",
            "adenopathy",
            "absent",
        ),
        ("Lymph nodes that did not reach pathological size are seen.", "adenopathy", "absent"),
        ("Lymph nodes that did not reach pathological size are seen.", "lymph node", "present"),
        ("Lymph nodes were not observed in pathological size.", "lymph node", "absent"),
        ("The pleural spaces are free.", "pleural effusion", "absent"),
        ("Heart size is within normal limits.", "cardiomegaly", "absent"),
        ("The heart is larger than normal.", "cardiomegaly", "present"),
        ("No increase in the size of the nodules.", "nodule", "present"),
        ("Without significant change of the known nodule.", "nodule", "present"),
        ("No interval change in bilateral pleural effusions.", "pleural effusion", "present"),
        ("Pneumonia cannot be excluded.", "pneumonia", "uncertain"),
        ("Suspicious for lymphangitic carcinomatosis.", "lymphangitis carcinomatosa", "uncertain"),
        ("Possible pulmonary embolism.", "pulmonary embolism", "uncertain"),
        ("Atelectasis versus consolidation.", "atelectasis", "uncertain"),
        ("Atelectasis versus consolidation.", "consolidation", "uncertain"),
        ("Edematous fatty planes (mediastinitis?).", "mediastinitis", "uncertain"),
        ("Evaluation for pneumothorax is recommended.", "pneumothorax", "uncertain"),
        ("Pneumothorax has completely resolved.", "pneumothorax", "absent"),
        ("There is neither effusion nor pneumothorax.", "pneumothorax", "absent"),
        ("No embolism, but there is a hiatal hernia.", "hiatal hernia", "present"),
        ("Pleural effusion: none", "pleural effusion", "absent"),
        ("No nodule was detected and there are pleural effusions.", "pleural effusion", "present"),
        ("Nodules are observed and pleural effusion was not detected.", "nodule", "present"),
        ("Lungs are clear. No focal consolidation.", "consolidation", "absent"),
        ("nodule without effusion", "nodule", "present"),
        ("nodule without effusion", "pleural effusion", "absent"),
    ],
)
def test_english_sentences_state_what_a_reader_reads(text, name, status):
    assert _status(text, name) == {status}


def test_an_exception_is_not_denied():
    found = extract_findings("No nodule other than a calcified granuloma in the left lower lobe.")
    stated = {(f.name, f.status) for f in found}
    assert {("nodule", "absent"), ("calcified granuloma", "present")} <= stated


def test_a_question_mark_in_brackets_doubts_only_what_is_inside():
    found = extract_findings("A hypodense nodule is seen in the right lung (metastasis?).")
    assert {(f.name, f.status) for f in found} >= {
        ("nodule", "present"),
        ("metastasis", "uncertain"),
    }


@pytest.mark.parametrize(
    ("text", "name", "side", "place"),
    [
        ("6 mm nodule in the right upper lobe.", "nodule", "right", "upper lobe"),
        ("Nodule in the RUL.", "nodule", "right", "upper lobe"),
        ("Nodule in the upper lobe of the left lung.", "nodule", "left", "upper lobe"),
        ("In the left lung lower lobe, a nodule is seen.", "nodule", "left", "lower lobe"),
        ("Atelectasis in the lingula.", "atelectasis", "left", "lingula"),
        ("Atelectasis in the middle lobe.", "atelectasis", "right", "middle lobe"),
        ("Bilateral pleural effusions.", "pleural effusion", "bilateral", "pleural"),
        ("Pleural effusion on the right and on the left.", "pleural effusion", "bilateral", None),
        ("Subcarinal lymphadenopathy.", "lymphadenopathy", None, "subcarinal"),
        ("Nodule in the RUL, opacities in both lower lobes.", "nodule", "right", "upper lobe"),
        (
            "Small right pleural effusion and left lower lobe atelectasis.",
            "atelectasis",
            "left",
            "lower lobe",
        ),
    ],
)
def test_sides_and_places_come_from_the_same_clause(text, name, side, place):
    finding = next(f for f in extract_findings(text) if f.name == name)
    assert finding.laterality == side
    assert place is None or finding.location == place


def test_the_side_of_one_finding_is_not_its_neighbours():
    text = "Small right pleural effusion and left lower lobe atelectasis."
    sides = {f.name: f.laterality for f in extract_findings(text)}
    assert sides["pleural effusion"] == "right"


@pytest.mark.parametrize("case", SPANISH, ids=lambda case: case["text"])
def test_spanish_sentences_state_what_a_reader_reads(case):
    found = [
        (f.name, f.status, f.laterality or "", f.location or "")
        for f in extract_findings(case["text"])
    ]
    for expected in case["expect"]:
        assert any(
            all(a in ("*", b) for a, b in zip(expected, got, strict=True)) for got in found
        ), found
    assert found or not case["expect"]
    assert not found or case["expect"]


def test_there_are_at_least_60_spanish_sentences():
    assert len(SPANISH) >= 60


def test_offsets_cut_the_mention_out_of_the_text_as_given():
    text = "Corazón normal.  Nódulo   pulmonar en LSD."
    finding = next(f for f in extract_findings(text) if f.name == "nodule")
    assert text[finding.start : finding.end] == "Nódulo   pulmonar"


def test_a_report_is_read_in_its_own_language():
    report = parse_report("neumonia", language="es")
    assert [f.name for f in extract_findings(report)] == ["pneumonia"]


def test_history_technique_and_comparison_are_no_findings():
    text = (
        "Clinical history: pneumonia. Technique: port catheter injection. "
        "Comparison: nodule in 2019. Findings: pleural effusion."
    )
    assert {f.name for f in extract_findings(text)} == {"pleural effusion"}


def test_the_patients_past_is_no_finding():
    assert extract_findings("History of pneumonia.") == ()


def test_not_normal_is_no_denial():
    assert extract_findings("Heart size is not normal.") == ()


def test_mass_effect_is_no_mass():
    assert extract_findings("There is mass effect.") == ()


def test_a_nodule_outside_the_lungs_is_no_lung_nodule():
    text = "The thyroid gland is enlarged. There are hypodense nodules. Nodule in the left breast."
    assert "lung nodule" not in {f.name for f in extract_findings(text)}


def test_a_mention_also_yields_its_label():
    found = extract_findings("A stent is seen.")
    assert {f.name for f in found} == {"stent", "medical material"}
    assert len({(f.start, f.end) for f in found}) == 1


def test_denying_a_device_does_not_deny_medical_material():
    assert {f.name for f in extract_findings("No stent is seen.")} == {"stent"}


def test_findings_carry_the_vocabularys_cui():
    assert extract_findings("Hiatal hernia.") == (
        Finding("hiatal hernia", "C3489393", "present", None, None, 0, 13),
    )


@given(st.one_of(st.text(), MIXED_UP), st.sampled_from([None, "en", "es"]))
@settings(max_examples=300, deadline=None)
def test_any_text_is_taken_and_offsets_stay_within_it(text, language):
    known = vocabulary()
    for finding in extract_findings(text, language):
        assert 0 <= finding.start < finding.end <= len(text)
        assert finding.name in known
        assert finding.location is None or known.get(finding.location).kind == "location"


@pytest.mark.parametrize(
    "unit",
    [
        "There is a nodule in the right upper lobe. No pleural effusion. ",
        "nodule ",
        "calcific plaque aorta coronary ",
        "(",
        "history: nodule\n",
        "no and , ",
        "x",
        "1.",
    ],
)
def test_long_and_hostile_text_is_read_to_its_end(unit):
    # Quadratic time would take minutes here; benchmarks/findings.py measures the speed.
    for finding in extract_findings(unit * (100_000 // len(unit)), "en"):
        assert 0 <= finding.start < finding.end <= 100_000


@pytest.mark.slow
def test_a_megabyte_is_read():
    text = "Nodules are seen in both lungs. Pleural effusion was not observed. " * 16_000
    assert len(extract_findings(text)) == 3 * 16_000


def test_rt_pcr_is_no_side():
    found = extract_findings("RT-PCR confirmed COVID-19.")
    assert [(f.name, f.laterality) for f in found] == [("covid-19", None)]


def test_macro_f1_on_labelled_reports(shared_data):
    known = vocabulary()
    path = shared_data / "text" / "ct_report_labels" / "train.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[:200]
    scores = []
    said = [known.labels_18(extract_findings(row["report_text"])) for row in rows]
    for label in list(rows[0])[2:]:
        pairs = [(s[label.lower()], row[label] == "1") for s, row in zip(said, rows, strict=True)]
        hits = sum(a and b for a, b in pairs)
        scores.append(2 * hits / (sum(a for a, _ in pairs) + sum(b for _, b in pairs)))
    assert sum(scores) / len(scores) > 0.9
