"""The page's figures are the benchmark's."""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reference" / "findings.md").read_text(encoding="utf-8")
FIGURES = json.loads((ROOT / "benchmarks" / "results" / "findings.json").read_text("utf-8"))[
    "figures"
]


def _cells(first: str) -> list[str]:
    line = next(line for line in PAGE.splitlines() if line.startswith(f"| {first} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_every_label_has_the_measured_figures():
    ours = FIGURES["scores"]["ours"]
    for label, figures in ours["all"]["labels"].items():
        assert _cells(label)[1:6] == [
            f"{figures['precision']:.3f}",
            f"{figures['recall']:.3f}",
            f"{figures['f1']:.3f}",
            f"{ours['developed_on']['labels'][label]['f1']:.3f}",
            f"{ours['held_out']['labels'][label]['f1']:.3f}",
        ]


def test_the_rules_compared_have_the_measured_figures():
    for rules, parts in FIGURES["scores"].items():
        expected = [f"{parts[p]['macro_f1']:.3f}" for p in ("developed_on", "held_out", "all")]
        assert _cells(rules)[1:4] == expected
