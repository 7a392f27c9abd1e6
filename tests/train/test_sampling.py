"""What one step sees of a report."""

import random
from typing import Any

import pytest

from medfinder.errors import ConfigError
from medfinder.report.sentences import sentences
from medfinder.train.sampling import SamplingConfig, TextSampling, sample_text

FINDINGS = (
    "No pneumothorax. Left pleural effusion of 2.5 cm. The heart is of normal size. No adenopathy."
)
REPORT = f"HISTORY: Cough.\n\nFINDINGS: {FINDINGS}\n\nIMPRESSION: Left pleural effusion."


def sampled(kind: TextSampling, n: int = 40, report: str = REPORT, **settings: Any) -> list[str]:
    config = SamplingConfig(kind, **settings)
    return [sample_text(report, config, random.Random(seed)) for seed in range(n)]


def parts(text: str) -> list[str]:
    return [text[a:b] for a, b in sentences(text)]


def test_the_whole_report_is_the_report() -> None:
    assert set(sampled("whole")) == {REPORT}


@pytest.mark.parametrize("kind", ["window", "sentences", "mixed"])
def test_the_seed_alone_decides_and_seeds_differ(kind: TextSampling) -> None:
    assert sampled(kind, window_words=5) == sampled(kind, window_words=5)
    assert len(set(sampled(kind, window_words=5))) > 3


def test_a_window_is_running_words_from_anywhere() -> None:
    made = sampled("window", 200, window_words=5)
    whole = " ".join(REPORT.split())
    assert {len(text.split()) for text in made} == {5}
    assert all(text in whole for text in made)
    starts = {whole.index(text) for text in made}
    assert 0 in starts
    assert any(whole.endswith(text) for text in made)


def test_a_window_wider_than_the_report_is_all_its_words() -> None:
    assert set(sampled("window", window_words=500)) == {" ".join(REPORT.split())}


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_sentences_are_kept_in_order_and_no_fewer_than_their_share(share: float) -> None:
    whole = parts(FINDINGS)
    numbers = set()
    for text in sampled("sentences", 100, FINDINGS, min_share=share):
        kept = parts(text)
        assert kept == [sentence for sentence in whole if sentence in kept]
        assert len(set(kept)) == len(kept)
        numbers.add(len(kept))
    assert numbers == set(range(round(4 * share), 5))


def test_mixed_is_the_whole_its_sentences_its_impression_or_its_findings() -> None:
    made = set(sampled("mixed", 100))
    assert {REPORT, "Left pleural effusion.", FINDINGS} <= made
    assert any("HISTORY" in text and text != REPORT for text in made)
    assert all(len(text) <= len(REPORT) for text in made)


def test_a_report_without_sections_is_sampled_too() -> None:
    made = set(sampled("mixed", 100, "Nodule in the left lung."))
    assert made == {"Nodule in the left lung."}


@pytest.mark.parametrize("kind", ["whole", "window", "sentences", "mixed"])
@pytest.mark.parametrize("report", ["x", ".", "Normal", REPORT])
def test_nothing_is_sampled_to_nothing(kind: TextSampling, report: str) -> None:
    for text in sampled(kind, 20, report, min_share=0.01, window_words=1):
        assert text.strip()


@pytest.mark.parametrize("settings", [{"min_share": 0.0}, {"min_share": 1.1}, {"window_words": 0}])
def test_a_setting_out_of_range_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"sampling\.min_share must be above 0 and at most 1"):
        SamplingConfig(**settings)
