"""The stage: planted answers are found, the folder is whole and the same bytes, models are compared."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest

from benchmark.five import FIVE, five_entrant, five_studies, study
from medfinder.artifact import MANIFEST, Manifest, read_manifest, write_manifest
from medfinder.benchmark.benchmark import BenchmarkConfig, Made, benchmark
from medfinder.benchmark.benchmark import run_benchmark as run_with_report
from medfinder.benchmark.compare import compare
from medfinder.benchmark.entrant import Entrant, make_entrant
from medfinder.benchmark.protocols import protocols
from medfinder.benchmark.reference import Reference
from medfinder.benchmark.results import read_results, read_scores, write_results
from medfinder.errors import ConfigError, Incomplete, InputError, Mismatch, UnknownName
from medfinder.ranking.qrels import Qrels
from medfinder.ranking.run import Run
from stubs.curated import phantom_studies

FAST = BenchmarkConfig(n_draws=100)
FEW = ["one-to-one", "same-findings-graded", "keyword", "spectre"]


def run_benchmark(*given: Any, **more: Any) -> Made:
    """Without the pages, whose pictures take seconds; test_page.py has those."""
    return run_with_report(*given, report=False, **more)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(tuple(phantom_studies(90)))


def planted(reference: Reference, noise: float, name: str = "planted", seed: int = 0) -> Entrant:
    """Vectors in which a text lies near its volume, equal texts at one place."""
    random = np.random.default_rng(seed)
    n_keys = int(reference.text_key.max()) + 1
    places = random.standard_normal((n_keys, 24))[reference.text_key]
    volume = places + noise * random.standard_normal(places.shape)
    rows = np.flatnonzero(reference.has_text)
    sides = {
        "volume": (reference.ids, volume.astype(np.float32)),
        "text": ([reference.ids[i] for i in rows], places[rows].astype(np.float32)),
    }
    return make_entrant(name, sides, f"{name}@{seed}")  # type: ignore[arg-type]


def test_a_perfect_model_reaches_the_ceiling_of_every_text_protocol(reference: Reference) -> None:
    results, _ = benchmark(planted(reference, 0.0), reference, config=FAST)
    for name in (
        "one-to-one",
        "multi-positive",
        "deduplicated",
        "medfinder-paper",
        "radfinder-dup",
    ):
        asked = results.protocols[name].ways["report_to_volume"]
        for measure, figure in asked.figures.items():
            assert figure.value == pytest.approx(figure.ceiling), (name, measure)
    strict = results.protocols["one-to-one"].ways["report_to_volume"].figures["R@1"]
    assert strict.value < 1
    assert results.n_distinct_texts < results.n_texts


def test_more_noise_scores_less(reference: Reference) -> None:
    values = [
        benchmark(planted(reference, noise), reference, ["deduplicated"], FAST)[0]
        .protocols["deduplicated"].ways["report_to_volume"].figures["R@1"].value
        for noise in (0.0, 1.0, 3.0, 30.0)
    ]  # fmt: skip
    assert values == sorted(values, reverse=True)
    assert values[0] == 1
    assert values[-1] < 0.1


def test_what_cannot_be_asked_is_told_with_its_rule(reference: Reference) -> None:
    results, _ = benchmark(planted(reference, 1.0), reference, config=FAST)
    assert set(results.protocols) | set(results.not_asked) == set(protocols.names())
    assert results.not_asked["keyword"].rule == "wrong-side"
    assert "needs vectors of keyword and volume" in results.not_asked["keyword"].reason


@pytest.mark.parametrize(
    ("name", "texts", "rule"),
    [
        ("keyword", ["Nodule.", "Mass."], "wrong-side"),
        ("same-lobe", ["Nodule.", "Nodule."], "no-lobes"),
        ("same-side", ["Nodule.", "Nodule."], "no-sides"),
        ("same-lobe", ["Nodule in the left upper lobe.", "Effusion."], "no-query"),
        ("pools", ["Nodule.", "Mass."], "pool-size"),
        ("same-findings-exact", ["Hello.", "World."], "no-findings"),
        ("ct-clip", ["Hello.", "World."], "no-findings"),
        ("spectre", ["Hello.", "World."], "no-findings"),
    ],
)  # fmt: skip
def test_a_protocol_that_was_named_and_cannot_be_asked_is_an_error(
    name: str, texts: list[str], rule: str
) -> None:
    reference = Reference(tuple(study(f"s{i}", f"p{i}", text) for i, text in enumerate(texts)))
    sides = {side: (reference.ids, np.eye(2)) for side in ("volume", "text")}
    with pytest.raises(InputError) as caught:
        benchmark(make_entrant("x", sides), reference, [name], FAST)  # type: ignore[arg-type]
    assert caught.value.rule == rule


def test_vectors_that_answer_no_protocol_at_all_are_an_error() -> None:
    reference = Reference((study("a", "p", "Hello."), study("b", "q", "World.")))
    entrant = make_entrant("x", {"text": (reference.ids, np.eye(2))})
    with pytest.raises(InputError, match="No protocol can be asked") as caught:
        benchmark(entrant, reference, config=FAST)
    assert caught.value.rule == "nothing-asked"
    assert "one-to-one: wrong-side" in str(caught.value)


def test_an_unknown_protocol_names_the_nearest(reference: Reference) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'one-to-one'"):
        benchmark(planted(reference, 1.0), reference, ["one-to-on"])


@pytest.mark.parametrize(
    ("setting", "text"),
    [({"n_draws": 99}, "n_draws"), ({"n_flips": 1}, "n_flips"), ({"depth": -1}, "depth")],
)
def test_a_setting_out_of_range_is_refused_before_anything_is_measured(
    setting: dict[str, int], text: str
) -> None:
    with pytest.raises(ConfigError, match=f"Setting {text} of a benchmark must be at least"):
        BenchmarkConfig(**setting)


def test_an_error_that_is_not_the_datas_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(*_: Any) -> None:
        raise InputError("A fault of another kind.", rule="shape")

    monkeypatch.setattr("medfinder.benchmark.benchmark._judge", faulty)
    with pytest.raises(InputError, match="another kind"):
        benchmark(five_entrant(), five_studies(), config=FAST)


def test_volumes_alone_are_asked_what_volumes_can_answer() -> None:
    own = five_entrant().sides["volume"]
    entrant = make_entrant("volumes", {"volume": (own.ids, own.vectors)})
    results, _ = benchmark(entrant, five_studies(), config=FAST)
    assert list(results.protocols["spectre"].ways) == ["volume_to_volume"]
    assert results.not_asked["one-to-one"].rule == "wrong-side"


def test_equal_texts_with_unequal_vectors_are_told(reference: Reference) -> None:
    entrant = planted(reference, 0.5)
    ids, vectors = entrant.sides["text"].ids, entrant.sides["text"].vectors.copy()
    vectors += np.random.default_rng(0).standard_normal(vectors.shape) * 0.1
    volume = entrant.sides["volume"]
    uneven = make_entrant(
        "uneven", {"volume": (volume.ids, volume.vectors), "text": (ids, vectors)}
    )
    (note,) = benchmark(uneven, reference, ["one-to-one"], FAST)[0].notes
    assert "texts that several studies share have unequal vectors" in note
    assert benchmark(entrant, reference, ["one-to-one"], FAST)[0].notes == ()


def test_the_folder_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        run_with_report(five_entrant(), five_studies(), tmp_path / name, FEW, FAST)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert {"results.json", "scores.parquet", "report.md", "report.tex", "report.html"} <= {
        str(path) for path in files
    }
    for path in files:
        if path.name != MANIFEST:  # which holds the time it took
            assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes(), (
                path
            )


def test_results_and_scores_are_read_as_they_were_written(tmp_path: Path) -> None:
    made = run_benchmark(five_entrant(), five_studies(), tmp_path / "out", config=FAST)
    found = read_results(tmp_path / "out")
    assert found.protocols.keys() == made.results.protocols.keys()
    for (*key, figure), (*other, same) in zip(found.figures(), made.results.figures(), strict=True):
        assert key == other
        assert dataclasses.astuple(figure) == pytest.approx(dataclasses.astuple(same), rel=1e-11)
    scores = read_scores(tmp_path / "out")
    queries, patients, values = scores["one-to-one", "report_to_volume", "MnR"]
    assert queries == list(FIVE)
    assert patients == [patient for patient, *_ in FIVE.values()]
    assert values == [3, 2, 1, 1, 1]
    manifest = read_manifest(tmp_path / "out", "benchmark")
    assert manifest.counts["studies"] == 5
    assert manifest.parents["reference"] == five_studies().hash


def test_the_mean_of_the_scores_is_the_number(tmp_path: Path) -> None:
    made = run_benchmark(five_entrant(), five_studies(), tmp_path / "out", config=FAST)
    scores = read_scores(tmp_path / "out")
    for protocol, way, measure, figure in made.results.figures():
        values = scores[protocol, way, measure][2]
        middle = np.median if measure == "MdR" else np.mean
        assert figure.value == pytest.approx(float(middle(values))), (protocol, way, measure)


def test_run_files_scored_by_ir_measures_give_the_same_numbers(
    reference: Reference, tmp_path: Path
) -> None:
    entrant = planted(reference, 2.0)
    names = ["multi-positive", "same-findings-exact"]
    made = run_benchmark(
        entrant, reference, tmp_path / "out", names, BenchmarkConfig(n_draws=100, depth=1000)
    )
    for name in names:
        asked = made.results.protocols[name].ways["report_to_volume"]
        run = Run.read(tmp_path / "out" / asked.run)
        qrels = Qrels.read(tmp_path / "out" / asked.qrels)
        theirs = ir_measures.calc_aggregate(
            [ir_measures.AP, ir_measures.P @ 10, ir_measures.Success @ 10],
            [ir_measures.Qrel(q, i, g) for q in qrels for i, g in qrels[q].items()],
            [ir_measures.ScoredDoc(q, i, s) for q in run for i, s in run[q]],
        )
        assert asked.figures["AP"].value == pytest.approx(theirs[ir_measures.AP], abs=1e-6)
        assert asked.figures["R@10"].value == pytest.approx(theirs[ir_measures.Success @ 10])


def test_ids_with_blanks_go_into_run_files_without_them(tmp_path: Path) -> None:
    reference = Reference((study("a 1", "p", "Nodule."), study("b 2", "q", "Mass.")))
    sides = {side: (reference.ids, np.eye(2)) for side in ("volume", "text")}
    entrant = make_entrant("my model", sides)  # type: ignore[arg-type]
    made = run_benchmark(entrant, reference, tmp_path, ["one-to-one"], FAST)
    run = tmp_path / made.results.protocols["one-to-one"].ways["report_to_volume"].run
    assert run.read_text().splitlines()[0].split()[:3] == ["a_1", "Q0", "a_1"]


def test_no_run_files_are_written_where_none_are_asked_for(tmp_path: Path) -> None:
    made = run_benchmark(
        five_entrant(), five_studies(), tmp_path / "o", config=BenchmarkConfig(100, depth=0)
    )
    assert not (tmp_path / "o" / "runs").exists()
    assert made.results.protocols["one-to-one"].ways["report_to_volume"].run == ""


def test_a_folder_without_manifest_is_unfinished(tmp_path: Path) -> None:
    run_benchmark(five_entrant(), five_studies(), tmp_path / "out", config=FAST)
    (tmp_path / "out" / MANIFEST).unlink()  # as after kill -9: it is written last
    with pytest.raises(Incomplete, match="Run 'medfinder benchmark' on it again"):
        read_results(tmp_path / "out")
    run_benchmark(five_entrant(), five_studies(), tmp_path / "out", config=FAST)
    assert read_results(tmp_path / "out").model == "circle"


def test_another_stages_folder_is_not_written_over(tmp_path: Path) -> None:
    write_manifest(tmp_path, Manifest("curate", {}, {}, {}))
    with pytest.raises(Mismatch, match="was written by 'medfinder curate'"):
        run_benchmark(five_entrant(), five_studies(), tmp_path, config=FAST)
    assert read_manifest(tmp_path, "curate")


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": 2}', '{"schema": 1}'])
def test_results_of_another_schema_or_damaged_are_refused(tmp_path: Path, content: str) -> None:
    run_benchmark(five_entrant(), five_studies(), tmp_path, ["one-to-one"], FAST)
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(Mismatch, match=r"results\.json in .* (cannot be read|has schema)"):
        read_results(tmp_path)
    (tmp_path / "scores.parquet").write_bytes(b"no")
    with pytest.raises(Mismatch, match=r"scores\.parquet in .* cannot be read"):
        read_scores(tmp_path)


def test_results_hold_no_report_text(tmp_path: Path) -> None:
    run_benchmark(five_entrant(), five_studies(), tmp_path, config=FAST)
    for path in tmp_path.rglob("*.*"):
        content = path.read_bytes()
        for _, text, *_ in FIVE.values():
            assert text.encode() not in content, path


def test_a_better_model_is_told_from_a_worse_one(reference: Reference, tmp_path: Path) -> None:
    names = ["deduplicated"]
    run_benchmark(planted(reference, 6.0, "worse"), reference, tmp_path / "w", names, FAST)
    run_benchmark(planted(reference, 1.05, "equal", 3), reference, tmp_path / "e", names, FAST)
    made = run_benchmark(
        planted(reference, 1.0, "better", 2), reference, tmp_path / "b", names,
        FAST, compare_with=[tmp_path / "w", tmp_path / "e"],
    )  # fmt: skip
    by_other = {
        one.other: one
        for one in made.results.comparisons
        if (one.way, one.measure) == ("report_to_volume", "R@10")
    }
    worse, equal = by_other["worse"], by_other["equal"]
    assert worse.difference > 0.2
    assert worse.low is not None
    assert worse.low > 0
    assert worse.p_holm < 0.05
    assert equal.p_holm > 0.05
    assert all(one.p_holm >= one.p for one in made.results.comparisons)
    assert read_results(tmp_path / "b").comparisons == tuple(
        dataclasses.replace(one, **{k: getattr(two, k) for k in ("difference", "low", "high", "p", "p_holm")})
        for one, two in zip(made.results.comparisons, read_results(tmp_path / "b").comparisons, strict=True)
    )  # fmt: skip


def test_only_the_primary_measure_of_each_direction_is_compared(tmp_path: Path) -> None:
    reference = five_studies()
    run_benchmark(five_entrant(), reference, tmp_path / "a", FEW, FAST)
    other = dataclasses.replace(five_entrant(), name="twin")
    made = run_benchmark(other, reference, tmp_path / "b", FEW, FAST, compare_with=[tmp_path / "a"])
    found = [(one.protocol, one.way, one.measure) for one in made.results.comparisons]
    assert found == [
        (name, way, asked.primary)
        for name, judged in made.results.protocols.items()
        for way, asked in judged.ways.items()
        if way != "keyword_to_volume"
    ]
    assert all((one.difference, one.p) == (0, 1) for one in made.results.comparisons)


def test_models_of_other_studies_are_not_compared(reference: Reference, tmp_path: Path) -> None:
    run_benchmark(five_entrant(), five_studies(), tmp_path / "five", ["one-to-one"], FAST)
    with pytest.raises(Mismatch, match="circle was measured on other studies"):
        run_benchmark(
            planted(reference, 1.0), reference, tmp_path / "o", ["one-to-one"], FAST,
            compare_with=[tmp_path / "five"],
        )  # fmt: skip


def test_two_models_of_one_name_are_not_compared(tmp_path: Path) -> None:
    run_benchmark(five_entrant(), five_studies(), tmp_path / "a", ["one-to-one"], FAST)
    with pytest.raises(InputError, match="Two of the models are called 'circle'") as caught:
        run_benchmark(
            five_entrant(), five_studies(), tmp_path / "b", ["one-to-one"], FAST,
            compare_with=[tmp_path / "a"],
        )  # fmt: skip
    assert caught.value.rule == "same-name"


def test_models_that_share_no_query_are_not_compared() -> None:
    one, _ = benchmark(five_entrant(), five_studies(), ["one-to-one", "spectre"], FAST)
    two = dataclasses.replace(one, model="other")
    key, other = (
        ("one-to-one", "report_to_volume", "R@10"),
        ("spectre", "volume_to_volume", "AP@10"),
    )
    mine = (["a"], ["p"], [1.0])
    for theirs in ({other: mine}, {key: (["a", "b"], ["p", "q"], [1.0, 0.0])}):
        with pytest.raises(Mismatch, match="share no protocol and measure with the same queries"):
            compare(one, {key: mine}, [(two, theirs)], 100)


def test_a_protocol_whose_queries_differ_is_not_compared_and_said() -> None:
    one, _ = benchmark(five_entrant(), five_studies(), ["one-to-one", "spectre"], FAST)
    two = dataclasses.replace(one, model="other")
    key, other = (
        ("one-to-one", "report_to_volume", "R@10"),
        ("spectre", "volume_to_volume", "AP@10"),
    )
    mine, more = (["a"], ["p"], [1.0]), (["a", "b"], ["p", "q"], [1.0, 0.0])
    made, notes = compare(one, {key: mine, other: mine}, [(two, {key: mine, other: more})], 100)
    assert [(c.protocol, c.other) for c in made] == [("one-to-one", "other")]
    (note,) = notes
    assert "spectre, volume_to_volume, whose queries are not the same (1 here, 2 there)" in note


def test_results_are_plain_json(tmp_path: Path) -> None:
    results, _ = benchmark(five_entrant(), five_studies(), ["one-to-one"], FAST)
    fields = json.loads(write_results(tmp_path, results).read_text("utf-8"))
    assert fields["schema"] == 1
    figure = fields["protocols"]["one-to-one"]["ways"]["report_to_volume"]["figures"]["R@1"]
    assert set(figure) == {"value", "low", "high", "ceiling", "chance"}
