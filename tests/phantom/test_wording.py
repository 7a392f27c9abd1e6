"""Reports tell the case: all of it that is present, nothing that is not."""

import re

import numpy as np
import pytest

from medfinder.errors import ConfigError
from medfinder.phantom.case import KINDS, CaseSpec, FindingSpec, make_finding, sample_case
from medfinder.phantom.phrases_en import SENTENCES as ENGLISH
from medfinder.phantom.phrases_es import SENTENCES as SPANISH
from medfinder.phantom.wording import WordingConfig, size_bin, size_grade, word
from medfinder.report.findings import extract_findings

SAME = {
    "nodule": {"nodule", "lung nodule", "calcified nodule", "ground glass nodule", "solid nodule"},
    "multiple nodules": {"multiple nodules", "nodule", "lung nodule"},
    "adenopathy": {"adenopathy", "lymphadenopathy", "hilar adenopathy", "lymph node"},
    "pleural plaques": {"pleural plaques", "calcified pleural plaques"},
    "laminar atelectasis": {"laminar atelectasis", "atelectasis", "segmental atelectasis"},
    "central venous catheter": {
        "central venous catheter",
        "central venous catheter via jugular vein",
    },
}


def one(name: str, **fixed: object) -> CaseSpec:
    return CaseSpec(1, findings=(make_finding(name, np.random.default_rng(3), **fixed),))


@pytest.mark.parametrize("language", ["en", "es"])
def test_no_placeholder_or_choice_is_left_in_a_report(language):
    for seed in range(250):
        for sentences in ("usual", "unseen"):
            text = word(sample_case(seed), seed, language, WordingConfig(sentences))
            assert not re.search(
                r"[\[\]{}|]|  |\bNone\b(?!\.)", text.replace("COMPARISON: None", "")
            )


@pytest.mark.parametrize("language", ["en", "es"])
def test_present_findings_are_recovered_by_the_reading_rules(language):
    told = found = 0
    for seed in range(60):
        case = sample_case(seed)
        text = word(case, seed, language)
        present = {f.name for f in extract_findings(text, language) if f.status == "present"}
        for finding in case.findings:
            told += 1
            found += bool(present & SAME.get(finding.name, {finding.name}))
    assert found / told > 0.93


@pytest.mark.parametrize("language", ["en", "es"])
def test_a_denied_finding_is_never_present_in_the_case(language):
    for seed in range(60):
        case = sample_case(seed)
        text = word(case, seed, language)
        denied = {f.name for f in extract_findings(text, language) if f.status == "absent"}
        assert denied.isdisjoint(f.name for f in case.findings)


def test_the_side_the_lobe_and_the_size_are_told():
    case = CaseSpec(1, findings=(FindingSpec("nodule", "right", "upper", 23, "calcified"),))
    text = word(case, 1, "en", WordingConfig(p_abbreviation=0)).lower()
    assert "right upper lobe" in text
    assert "23 mm" in text or "2.3 cm" in text
    assert "calcified" in text


def test_spanish_agrees_in_gender():
    text = word(one("rib fracture", side="left", level="7"), 2, "es", WordingConfig(p_plain=0))
    assert "izquierda" in text or "izquierdo" in text
    assert "séptim" in text


def test_variants_are_paraphrases_of_one_case():
    case = sample_case(8)
    texts = {word(case, 8, "en", variant=v) for v in range(6)}
    assert len(texts) > 4


def test_unseen_wording_shares_no_finding_sentence_with_the_usual():
    case = one("pacemaker", side="left")
    usual = {word(case, s, "en", WordingConfig("usual", verbosity=0)) for s in range(60)}
    unseen = {word(case, s, "en", WordingConfig("unseen", verbosity=0)) for s in range(60)}
    assert any("pectoral skin" in t for t in unseen)
    assert not any("pectoral skin" in t for t in usual)


def test_every_kind_has_four_sentences_in_both_languages():
    for phrases in (ENGLISH, SPANISH):
        assert set(phrases) == set(KINDS)
        assert all(len(options) >= 4 for options in phrases.values())


def test_reports_are_as_long_as_real_ones():
    words = [len(word(sample_case(s), s, "en").split()) for s in range(400)]
    assert 70 < np.median(words) < 140
    assert min(words) < 20
    assert max(words) > 250


def test_an_uncertain_size_of_verbosity_is_refused():
    with pytest.raises(ConfigError, match="between 0 and 1, got 2"):
        WordingConfig(verbosity=2)


def test_grades_follow_size():
    sizes = (14, 30, 55)
    grades = [size_grade(FindingSpec("pleural effusion", "left", size_mm=mm)) for mm in sizes]
    bins = [size_bin(FindingSpec("pleural effusion", "left", size_mm=mm)) for mm in sizes]
    assert grades == [0, 1, 2]
    assert bins == ["small", "medium", "big"]
