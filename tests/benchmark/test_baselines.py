"""What must be beaten: chance is exact, words find words, and a shortcut finds what is planted."""

import numpy as np
import pytest

from benchmark.five import study
from medfinder.benchmark.baselines import (
    EDGES_HU,
    bm25,
    chance,
    keywords,
    prompt,
    seen,
    sentences,
    shortcut,
    train_shortcut,
)
from medfinder.benchmark.benchmark import BenchmarkConfig, benchmark
from medfinder.benchmark.entrant import seat
from medfinder.benchmark.reference import Reference
from medfinder.embed import Embedder
from medfinder.errors import InputError
from medfinder.phantom.case import sample_case
from medfinder.phantom.wording import word
from medfinder.records import Study
from medfinder.report.tokens import fold
from stubs.encoders import WordEncoder

FAST = BenchmarkConfig(n_draws=100)
N = 60


def worded(variant: int) -> list[str]:
    return [word(sample_case(7_000 + i), i, "en", variant=variant) for i in range(N)]


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(tuple(study(f"s{i:03}", f"p{i // 2}", t) for i, t in enumerate(worded(0))))


def test_chance_is_chance_by_every_measure(reference: Reference) -> None:
    results, _ = benchmark(chance(reference), reference, config=FAST)
    for protocol, way, measure, figure in results.figures():
        if "AP@" not in measure and results.protocols[protocol].ties.startswith("the mean"):
            assert figure.value == pytest.approx(figure.chance), (protocol, way, measure)
    figures = results.protocols["one-to-one"].ways["report_to_volume"].figures
    assert figures["R@10"].value == pytest.approx(10 / N)
    assert results.protocols["same-side"].ways["report_to_volume"].figures["AUROC"].value == 0.5


def test_words_find_another_wording_far_better_than_chance(reference: Reference) -> None:
    results, _ = benchmark(bm25(reference, worded(1)), reference, ["deduplicated"], FAST)
    figure = results.protocols["deduplicated"].ways["report_to_volume"].figures["R@10"]
    assert figure.low is not None
    assert figure.low > 2 * figure.chance


def test_a_report_finds_itself_by_its_words(reference: Reference) -> None:
    results, _ = benchmark(bm25(reference), reference, ["multi-positive"], FAST)
    figures = results.protocols["multi-positive"].ways["report_to_volume"].figures
    assert figures["R@1"].value > 0.95


def test_bm25_is_its_formula_word_by_word() -> None:
    texts = ["Nodule, nodule in the left lung.", "No nodule.", "Mass in the left lobe"]
    asked = ["left nodule", "mass", "unheard words"]
    reference = Reference(tuple(study(f"s{i}", f"p{i}", text) for i, text in enumerate(texts)))
    seated = seat(bm25(reference, asked), reference)
    rows = np.arange(3)
    found = seated.scores("text", rows, "volume", rows)(0, 3)

    def words(text: str) -> list[str]:
        return "".join(c if c.isalnum() else " " for c in fold(text)).split()

    documents = [words(text) for text in texts]
    mean = np.mean([len(d) for d in documents])
    for i, query in enumerate(asked):
        for j, document in enumerate(documents):
            score = 0.0
            for w in words(query):
                n = sum(w in d for d in documents)
                idf = np.log(1 + (3 - n + 0.5) / (n + 0.5))
                count = document.count(w)
                below = count + 1.2 * (1 - 0.75 + 0.75 * len(document) / mean)
                score += idf * count * 2.2 / below
            assert found[i, j] == pytest.approx(score, abs=1e-8)


def test_a_sentence_encoder_reads_reports_and_keywords(reference: Reference) -> None:
    entrant = sentences(reference, Embedder(WordEncoder()), worded(1))
    assert entrant.name == "words on reports"
    results, _ = benchmark(entrant, reference, ["deduplicated", "keyword"], FAST)
    figure = results.protocols["deduplicated"].ways["report_to_volume"].figures["R@10"]
    assert figure.value > 2 * figure.chance
    assert results.protocols["keyword"].ways["keyword_to_volume"].n_queries == len(
        keywords(reference)
    )


def test_studies_without_a_text_are_left_out_of_an_oracle_and_counted(reference: Reference) -> None:
    mute = Reference((*reference.studies, study("s999", "p999", "")))
    results, _ = benchmark(bm25(mute), mute, ["multi-positive"], FAST)
    assert results.left_out == {"no-text": 1}
    assert results.protocols["multi-positive"].ways["report_to_volume"].n_gallery == N


def test_no_text_at_all_is_an_error() -> None:
    with pytest.raises(InputError, match="No study has a text") as caught:
        bm25(Reference((study("a", "p", ""),)))
    assert caught.value.rule == "no-text"
    with pytest.raises(InputError, match="1 texts for 2 studies") as caught:
        bm25(Reference((study("a", "p", "x"), study("b", "p", "y"))), ["x"])
    assert caught.value.rule == "shape"


def test_keywords_are_had_by_some_and_not_by_all(reference: Reference) -> None:
    names = keywords(reference)
    assert "pleural effusion" in names
    for name in names:
        n = sum(name in own for own in reference.affirmed)
        assert n <= N - 5
    assert prompt("pleural effusion") == "Pleural effusion."


def test_the_histogram_and_the_grid_are_those_of_the_voxels() -> None:
    hu = np.full((8, 8, 8), -800, np.int16)
    hu[:4] = 40
    found = seen(hu)
    assert found.shape == (len(EDGES_HU) - 1 + 64,)
    histogram, grid = found[: len(EDGES_HU) - 1] ** 2, found[len(EDGES_HU) - 1 :] * 300
    assert histogram.sum() == pytest.approx(1)
    assert sorted(histogram[histogram > 0]) == pytest.approx([0.5, 0.5])
    np.testing.assert_allclose(grid, [40] * 32 + [-800] * 32, rtol=1e-6)
    with pytest.raises(InputError, match="no grid of 4 cells") as caught:
        seen(hu[:3])
    assert caught.value.rule == "too-small"


def told(i: int) -> Study:
    texts = ["Left pleural effusion.", "Right pleural effusion.", "Emphysema.", "Normal chest."]
    return study(f"s{i:03}", f"p{i}", f"{texts[i % 4]} Study {i}.")


def looked(i: int, random: np.random.Generator) -> np.ndarray:
    """Features that give the finding away, in noise."""
    return np.eye(4)[i % 4] + 0.3 * random.standard_normal(4)


def test_a_shortcut_learns_what_is_planted_and_nothing_else() -> None:
    random = np.random.default_rng(0)
    features = np.array([looked(i, random) for i in range(240)])
    learnt = train_shortcut(features[:160], [told(i) for i in range(160)])
    assert "pleural effusion|left" in learnt.names
    test = [told(i) for i in range(160, 240)]
    reference = Reference(tuple(test))
    results, _ = benchmark(
        shortcut(reference, features[160:], learnt), reference, ["same-findings-exact", "same-side"], FAST
    )  # fmt: skip
    exact = results.protocols["same-findings-exact"].ways["report_to_volume"].figures["AP"]
    assert exact.low is not None
    assert exact.low > exact.chance + 0.2
    side = results.protocols["same-side"].ways["report_to_volume"].figures["AUROC"]
    assert side.value > 0.9
    shuffled = train_shortcut(random.permutation(features[:160]), [told(i) for i in range(160)])
    blind, _ = benchmark(
        shortcut(reference, features[160:], shuffled), reference, ["same-side"], FAST
    )
    assert 0.2 < blind.protocols["same-side"].ways["report_to_volume"].figures["AUROC"].value < 0.8


def test_too_few_studies_teach_nothing() -> None:
    with pytest.raises(InputError, match="nothing to learn") as caught:
        train_shortcut(np.ones((4, 3)), [told(i) for i in range(4)])
    assert caught.value.rule == "nothing-to-learn"
