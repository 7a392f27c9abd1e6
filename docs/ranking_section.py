"""The part of the page of benchmarks that tells how fast a retriever is judged."""

from typing import Any


def evaluate_section(figures: dict[str, Any], notes: str) -> list[str]:
    """Return the lines on ranking and measuring, from ``evaluate.json``."""
    times = figures["times"]
    ratios = {name: times[name]["wall_s"] / times["ours"]["wall_s"] for name in times}
    large = figures["large"]
    ways = {
        "ours": "`medfinder.ranking`, with intervals",
        "bare": "the same without intervals",
        "sorting": "whole matrix, every row sorted (the published code's way), without intervals",
        "loops": f"a product a pair in Python, {figures['n_looped']} queries a direction, multiplied up",
    }
    value, low, high = figures["ours"]["volume_to_report"]["R@1"]
    return [
        "",
        "## Judging a retriever (`evaluate.py`)",
        "",
        f"{figures['n']:,} pairs of 512 numbers, both directions: R@1 to R@100, MRR, MnR and MdR, each",
        "with a bootstrap interval clustered by patient.",
        "",
        "| way | s | CPU s | against ours |",
        "|---|---|---|---|",
        *(
            f"| {label} | {times[name]['wall_s']:,.1f} | {times[name]['cpu_s']:,.1f} "
            f"| {_ratio(ratios[name])} |"
            for name, label in ways.items()
        ),
        "",
        f"Peak memory of a process of its own: {figures['memory']['ours']['peak_mib']:.0f} MiB;",
        f"{large['n']:,} × {large['n']:,} both ways {large['ours']['peak_mib'] / 1024:.2f} GiB. Sorting",
        "lets repeated reports fall as the sort has them (volume → report R@1",
        f"{100 * figures['sorting']['volume_to_report']['R@1']:.2f} %); the expectation over ties is",
        f"{100 * value:.2f} % [{100 * low:.2f}, {100 * high:.2f}], whatever the order of the gallery. The",
        "vectors are synthetic: no statement about any model. Measures over run files equal",
        "ir_measures' bit for bit on 1,000 random rankings (`tests/ranking`).",
        "",
        notes,
    ]


def _ratio(ratio: float) -> str:
    return f"{ratio:,.0f}×" if ratio >= 100 else f"{ratio:.2g}×"
