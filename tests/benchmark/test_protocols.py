"""Every protocol on five studies: the figures of its page, worked out by hand, are what it gives."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from benchmark.five import FIVE, five_entrant, five_studies
from medfinder.benchmark.benchmark import benchmark
from medfinder.benchmark.entrant import seat
from medfinder.benchmark.protocols import ask, protocols
from medfinder.benchmark.results import Results
from medfinder.benchmark.task import MEASURES, measured, of_ceiling, of_chance

PAGE = (Path(__file__).resolve().parents[2] / "docs/reference/protocols.md").read_text("utf-8")
WAYS = "report_to_volume|volume_to_report|volume_to_volume|keyword_to_volume"


def examples() -> list[tuple[str, str, str, str, float]]:
    """Return (protocol, way, measure, which of value, ceiling and chance, number) of the page."""
    found = []
    for section in re.split(r"^### ", PAGE, flags=re.M)[1:]:
        name = section.partition(",")[0]
        for way, measure, number in re.findall(
            rf"^\| ({WAYS}) \| (.+?) \| ([\d.]+) \|", section, re.M
        ):
            which = "value"
            for bound in ("ceiling", "chance"):
                if measure.endswith(f" {bound}"):
                    measure, which = measure.removesuffix(f" {bound}"), bound
            found.append((name, way, measure, which, float(number)))
    return found


@pytest.fixture(scope="module")
def results() -> Results:
    names = [name for name in protocols.names() if name != "pools"]
    return benchmark(five_entrant(), five_studies(), names)[0]


def test_the_page_has_an_example_of_every_protocol() -> None:
    assert {name for name, *_ in examples()} == set(protocols.names())


@pytest.mark.parametrize(("name", "way", "measure", "which", "number"), examples())
def test_an_example_of_the_page_is_what_the_protocol_gives(
    results: Results, name: str, way: str, measure: str, which: str, number: float
) -> None:
    if name == "pools":
        task = next(t for t in _pool_tasks() if t.way == way)
        task = dataclasses.replace(task, measures=(measure,))
        seated = seat(five_entrant(), five_studies())
        values = (
            measured(task, None, seated) if which == "value" else measured(task, of_chance(task))
        )
        assert float(np.mean(values[measure])) == pytest.approx(number, abs=5e-7)
        return
    figure = results.protocols[name].ways[way].figures[measure]
    assert getattr(figure, which) == pytest.approx(number, abs=5e-7)


def _pool_tasks() -> list:
    """The questions of ``pools``, whose own sizes five studies cannot fill."""
    return ask(seat(five_entrant(), five_studies()), protocols.get("one-to-one"))


@pytest.mark.parametrize("name", protocols.names())
def test_the_page_says_of_a_protocol_what_its_entry_says(name: str) -> None:
    protocol = protocols.get(name)
    page = " ".join(PAGE.split())
    assert f"### {name}, version {protocol.version}" in PAGE
    for text in (protocol.asks, protocol.relevance, protocol.known, protocol.assumed):
        assert " ".join(text.split()) in page
    assert f"Ties: {protocol.tie_rule}. Primary: {', '.join(protocol.primary)}." in page


def test_the_page_explains_every_measure() -> None:
    for name, said in MEASURES.items():
        assert f"| {name} | {said} |" in PAGE


@pytest.mark.parametrize(
    ("name", "way", "left_out"),
    [
        ("deduplicated", "report_to_volume", {"not-in-the-pool": 1}),
        ("same-findings-exact", "volume_to_volume", {"no-positive": 2}),
        ("same-findings-graded", "volume_to_volume", {"no-positive": 1}),
        ("same-lobe", "report_to_volume", {"no-positive": 1}),
        ("same-side", "report_to_volume", {"no-positive": 4}),
        ("ct-clip", "volume_to_volume", {"no-positive": 1}),
        ("ct-clip-published", "volume_to_volume", {}),
        ("spectre", "report_to_volume", {"not-in-the-pool": 1}),
        ("spectre", "volume_to_volume", {"not-in-the-pool": 1, "no-positive": 2}),
        ("radfinder-first", "volume_to_volume", {"not-in-the-pool": 1, "no-label": 1}),
        ("colipri", "report_to_volume", {"not-in-the-pool": 2}),
        ("medfinder-paper", "keyword_to_volume", {"no-vector": 2}),
    ],
)
def test_queries_that_are_left_out_are_counted_by_reason(
    results: Results, name: str, way: str, left_out: dict[str, int]
) -> None:
    assert results.protocols[name].ways[way].left_out == left_out


def test_every_query_is_measured_or_left_out(results: Results) -> None:
    for name in protocols.names():
        if name in ("pools", "same-lobe", "same-side"):
            continue
        for way, asked in results.protocols[name].ways.items():
            n = 3 if name == "medfinder-paper" and way == "keyword_to_volume" else None
            n = n or (2 if way == "keyword_to_volume" else len(FIVE))
            assert asked.n_queries + sum(asked.left_out.values()) == n, (name, way)


def test_the_ceiling_of_strict_retrieval_is_what_duplicates_leave() -> None:
    reference = five_studies()
    (task, _) = _pool_tasks()
    best = measured(task, of_ceiling(task, reference.text_key, None))
    assert best["R@1"].tolist() == [0.5, 0.5, 1, 1, 1]
    assert best["MnR"].tolist() == [1.5, 1.5, 1, 1, 1]
