"""Documentation that fails: blocks run, links lead somewhere, numbers are those measured."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
# A block is run unless the line above it says why not: <!-- not run: reason -->
BLOCK = re.compile(r"(<!-- not run: [^\n]+ -->\n)?^```(bash|python)\n(.*?)^```", re.M | re.S)


def blocks(text: str) -> list[tuple[str, str]]:
    return [(m[2], m[3]) for m in BLOCK.finditer(text) if not m[1]]


@pytest.mark.slow
def test_every_block_of_the_readme_runs_top_to_bottom(tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    found = blocks(README)
    assert len(found) >= 2, "the README shows no runnable block"
    for kind, code in found:
        command = ["bash", "-euo", "pipefail", "-c", code]
        if kind == "python":
            command = [sys.executable, "-c", code]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("name", ["cli", "benchmarks", "rejections"])
def test_a_generated_page_is_current(name: str) -> None:
    code = f"import generate; print(generate.{name}_page(), end='')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "docs", capture_output=True, text=True, check=True
    )
    page = (ROOT / "docs" / "reference" / f"{name}.md").read_text(encoding="utf-8")
    assert done.stdout == page, "run python docs/generate.py"


def test_the_table_of_the_readme_is_the_measured_one() -> None:
    code = "import generate; print(generate.readme_page(), end='')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "docs", capture_output=True, text=True, check=True
    )
    assert done.stdout == README, "run python docs/generate.py"
    assert "| **`medfinder`, which ships** |" in README


def value_at(figures: object, path: str) -> object:
    for key in path.split("/"):
        figures = figures[int(key)] if isinstance(figures, list) else figures[key]  # type: ignore[index]
    return figures


def quoted_numbers() -> list[tuple[str, str, str, str]]:
    """Return (page, benchmark, path, shown) of each `<!-- NAME.json a/b/c -->shown<!-- -->`."""
    mark = re.compile(r"<!-- (\w+)\.json (.+?) -->(.*?)<!-- -->", re.S)
    return [
        (page.name, *m.groups())
        for page in PAGES
        for m in mark.finditer(page.read_text(encoding="utf-8"))
    ]


@pytest.mark.parametrize(("page", "name", "path", "shown"), quoted_numbers())
def test_a_quoted_number_is_the_measured_one(page: str, name: str, path: str, shown: str) -> None:
    record = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    value = value_at(record["figures"], path)
    number = re.search(r"-?[\d,]*\.?\d+", shown)
    assert number is not None, f"{page}: no number in {shown!r}"
    text = number[0].replace(",", "")
    decimals = len(text.partition(".")[2])
    assert isinstance(value, (int, float))
    assert abs(float(text) - value) <= 0.5 * 10**-decimals + 1e-9, f"{page}: {shown} is not {value}"


def test_every_help_text_has_an_example() -> None:
    page = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    for section in page.split("\n## ")[1:]:
        name = section.split("\n", 1)[0]
        if not name.startswith("medfinder list"):
            assert "Example" in section, f"{name} has no example"
