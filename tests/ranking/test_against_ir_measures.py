"""Measures over runs: equal, bit for bit, to what ir_measures gives through trec_eval's own code."""

import random
from pathlib import Path

import ir_measures
import pytest

from medfinder.ranking.names import evaluate, measure
from medfinder.ranking.qrels import Qrels
from medfinder.ranking.run import Run

Scored = dict[str, dict[str, float]]
Judged = dict[str, dict[str, int]]

# Ours -> theirs. The provider that is trec_eval has no RR@K, and no exponential gain.
SAME = {
    **{f"R@{k}": f"Success@{k}" for k in (1, 3, 10)},
    **{f"recall@{k}": f"R@{k}" for k in (1, 3, 10)},
    **{f"P@{k}": f"P@{k}" for k in (1, 3, 50)},
    **{f"nDCG@{k}": f"nDCG@{k}" for k in (1, 4, 20)},
    **{name: name for name in ("RR", "AP", "AP@5", "nDCG")},
    "R(rel=2)@3": "Success(rel=2)@3",
    "recall(rel=2)@3": "R(rel=2)@3",
    **{name: name for name in ("P(rel=2)@3", "RR(rel=2)", "AP(rel=2)", "AP(rel=2)@5")},
}
TREC_EVAL = ir_measures.providers.registry["pytrec_eval"]


def ranking(draw: random.Random, items: list[str]) -> dict[str, float]:
    """Few levels of score, so that many tie; or scores that differ only beyond float32."""
    levels, nudge = draw.choice([1, 2, 4, 1000]), draw.choice([0.0, 1e-9, 1e-6])
    found = draw.sample(items, draw.randint(1, len(items)))
    return {i: draw.randint(-levels, levels) / levels + nudge * draw.random() for i in found}


def judgement(draw: random.Random, items: list[str]) -> dict[str, int]:
    judged = draw.sample(items, draw.randint(1, len(items)))
    return {i: draw.choice([0, 0, 1, 2, 3]) for i in judged} | {judged[0]: draw.choice([2, 3])}


def case(seed: int, n_queries: int) -> tuple[Scored, Judged]:
    draw = random.Random(seed)
    items = [f"{draw.choice(['a', 'A', 'z', 'é', '😀', '_', '1'])}{i}" for i in range(30)]
    pools = {f"q{q}": items[: draw.randint(1, 30)] for q in range(n_queries)}
    run = {q: ranking(draw, pool) for q, pool in pools.items()}
    return run, {q: judgement(draw, pool) for q, pool in pools.items()}


def of(qrels: Judged) -> Qrels:
    return Qrels((q, i, grade) for q, judged in qrels.items() for i, grade in judged.items())


def theirs(run: Scored, qrels: Judged) -> dict[tuple[str, str], float]:
    parsed = [ir_measures.parse_measure(name) for name in SAME.values()]
    return {(str(m.measure), m.query_id): m.value for m in TREC_EVAL.iter_calc(parsed, qrels, run)}


@pytest.mark.parametrize("seed", range(20))
def test_a_thousand_rankings_score_what_ir_measures_gives_to_the_last_bit(seed: int) -> None:
    run, qrels = case(seed, n_queries=50)
    mine = Run.from_lists(run)
    ranks, truth = mine.ranks(of(qrels)), theirs(run, qrels)
    for name, other in SAME.items():
        expected = [truth[str(ir_measures.parse_measure(other)), q] for q in mine]
        assert measure(name).values(ranks).tolist() == expected, name


def test_a_run_and_its_qrels_score_the_same_from_their_files(tmp_path: Path) -> None:
    run, qrels = case(99, n_queries=20)
    mine = Run.from_lists(run)
    mine.write(tmp_path / "run.txt")
    of(qrels).write(tmp_path / "qrels.txt")
    read = TREC_EVAL.calc_aggregate(
        [ir_measures.parse_measure(name) for name in SAME.values()],
        list(ir_measures.read_trec_qrels(str(tmp_path / "qrels.txt"))),
        list(ir_measures.read_trec_run(str(tmp_path / "run.txt"))),
    )
    for qrels_here, run_here in (
        (of(qrels), mine),
        (Qrels.read(tmp_path / "qrels.txt"), Run.read(tmp_path / "run.txt")),
    ):
        scores = evaluate(run_here.ranks(qrels_here), SAME)
        for name, other in SAME.items():
            expected = read[ir_measures.parse_measure(other)]
            assert scores[name].value == pytest.approx(expected, abs=1e-15), name


def test_a_query_that_the_run_lacks_counts_nothing_as_in_ir_measures() -> None:
    run, qrels = case(7, n_queries=6)
    shorter = {q: found for q, found in run.items() if q != "q2"}
    ranks = Run.from_lists(shorter).ranks(of(qrels), missing="unranked")
    truth = theirs(shorter, qrels)
    for name, other in SAME.items():
        expected = [truth[str(ir_measures.parse_measure(other)), q] for q in [*shorter, "q2"]]
        assert measure(name).values(ranks).tolist() == expected, name
        assert expected[-1] == 0


def test_trec_eval_has_the_names_that_measures_give_it() -> None:
    import pytrec_eval

    run, qrels = case(3, n_queries=4)
    ranks = Run.from_lists(run).ranks(of(qrels))
    for name in SAME:
        each = measure(name)
        assert each.trec_name is not None
        judge = pytrec_eval.RelevanceEvaluator(qrels, {each.trec_name}, relevance_level=each.rel)
        truth = judge.evaluate(run)
        values = each.values(ranks).tolist()
        assert values == [truth[q][each.trec_name] for q in run]
