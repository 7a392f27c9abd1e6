"""The report: three forms that say the same, whole HTML, tables that LaTeX and readers take."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from benchmark.five import five_entrant, five_studies
from medfinder.benchmark.baselines import chance
from medfinder.benchmark.benchmark import BenchmarkConfig, run_benchmark
from medfinder.benchmark.page import Part, Table, to_html, to_latex, to_markdown
from medfinder.benchmark.pictures import Bar, bars, curves, histogram, intervals

FAST = BenchmarkConfig(n_draws=100)
OTHERS = ["multi-positive", "spectre"]
NAMES = ["multi-positive", "keyword", "same-findings-exact", "spectre"]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of two models, written once; tests only read it."""
    folder = tmp_path_factory.mktemp("page")
    reference = five_studies()
    run_benchmark(chance(reference), reference, folder / "chance", OTHERS, FAST, report=False)
    run_benchmark(
        five_entrant(), reference, folder / "out", NAMES, FAST, compare_with=[folder / "chance"]
    )
    return folder / "out"


class Tags(HTMLParser):
    """Notes tags left open and ids that occur twice."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "path", "use", "rect", "line", "br", "link", "img"):
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href") and value and not value.startswith("#"):
                self.sources.append(value)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()


def test_the_page_is_whole_and_needs_no_other_file(out: Path) -> None:
    text = (out / "report.html").read_text("utf-8")
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert len(tags.ids) == len(set(tags.ids))
    assert tags.sources == []
    assert "<script" not in text
    assert "url(http" not in text


def test_every_picture_says_in_words_what_it_shows(out: Path) -> None:
    text = (out / "report.html").read_text("utf-8")
    pictures = re.findall(r"<svg.*?</svg>", text, re.S)
    assert len(pictures) == 1 + 4 + 1  # at a glance; two ways of curves and places; findings
    for picture in pictures:
        assert re.search(
            r'role="img" aria-labelledby="[^"]+"><title id="[^"]+">[^<]+</title>', picture
        )
        assert re.search(r"<desc id=[^>]+>[^<]+</desc>", picture)


def test_the_three_forms_show_the_same_numbers(out: Path) -> None:
    markdown, latex, page = (
        (out / name).read_text("utf-8") for name in ("report.md", "report.tex", "report.html")
    )
    for text in (markdown, latex, page):
        for shown in ("60.0", "83.3", "circle", "chance", "ceiling", "multi-positive v1"):
            assert shown in text, shown


def test_a_table_names_protocol_version_queries_pool_and_what_was_left_out(out: Path) -> None:
    text = (out / "report.md").read_text("utf-8")
    assert "**multi-positive v1, report → volume: 5 queries of 4 patients, 5 in the pool**" in text
    assert "3 queries of 2 patients, 5 in the pool; left out: 2 nothing in the pool answers" in text


def test_known_and_assumed_stand_beside_a_published_protocol(out: Path) -> None:
    text = (out / "report.md").read_text("utf-8")
    assert "Known: eval/retrieval" in text.replace("\\", "")
    assert "Assumed: That only reconstruction 1" in text


def test_the_comparison_says_how_it_was_tested(out: Path) -> None:
    text = (out / "report.md").read_text("utf-8")
    assert "circle less each other model" in text
    assert "Holm's method" in text


def test_the_worst_queries_are_named_by_study_alone(out: Path) -> None:
    text = (out / "report.md").read_text("utf-8").replace("\\", "")
    assert "Worst queries: multi-positive, report → volume" in text
    assert "| valid_1_a_1 | 2.0 |" in text
    assert "effusion. Consolidation" not in text


def test_what_comes_from_data_cannot_be_markup() -> None:
    evil = "<b>a|b</b> _x_ $&%#{}\\~^"
    found = [
        Part(evil, 1, (evil,), (Table(evil, (evil, "n"), ((evil, "1"),)),)),
        Part("next", 2),
    ]
    assert "<b>" not in to_html(found)
    assert "<b>" not in to_markdown(found).replace("\\<", "")
    latex = to_latex(found)
    assert r"\textless" in latex or r"<b>a|b</b> \_x\_ \$\&\%\#\{\}\textbackslash{}" in latex


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
def test_latex_compiles(out: Path, tmp_path: Path) -> None:
    body = (out / "report.tex").read_text("utf-8")
    (tmp_path / "t.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\usepackage[utf8]{inputenc}"
        "\\begin{document}\n" + body + "\n\\end{document}\n"
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"],
        cwd=tmp_path, capture_output=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]


def test_every_tabular_has_as_many_cells_as_columns(out: Path) -> None:
    text = (out / "report.tex").read_text("utf-8")
    for columns, body in re.findall(
        r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, re.S
    ):
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert rows
        for row in rows:
            assert len(re.findall(r"(?<!\\)&", row)) == len(columns) - 1, row


def test_pictures_are_the_same_bytes_each_time() -> None:
    given = [Bar("g", "m<1>", 0.5, 0.4, 0.6, 1.0, 0.1), Bar("g", "n", 0.2, None, None, 1.0, 0.1)]
    for draw in (
        lambda: curves("a", "t", {"m": [0.1, 0.5, 1.0], "n": [0.0, 0.2, 0.4]}, unit="%"),
        lambda: bars("b", "t", {"nodule": {"m": 0.5}}, unit="%"),
        lambda: histogram("c", "t", [1, 1, 3.5, 100], 120),
        lambda: intervals("d", "t", given, unit="%"),
    ):
        first = draw()
        assert first == draw()
        assert "<1>" not in first.svg


def test_the_histogram_counts_every_query_once() -> None:
    places = np.random.default_rng(0).integers(1, 101, 500).tolist()
    shown = histogram("h", "t", places, 100)
    assert sum(int(n) for n in re.findall(r": (\d+)", shown.text)) == 500
