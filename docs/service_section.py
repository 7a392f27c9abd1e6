"""What the service is measured by, as Markdown: refined searches and load."""

from typing import Any


def refining_section(figures: dict[str, Any], notes: str) -> list[str]:
    """Return the lines on regions and feedback, from ``refining.json``."""
    region, feedback = figures["region"]["test"], figures["feedback"]["test"]
    ways = ("chance", "the whole CT", "a box of that size, anywhere", "the region")

    def told(one: dict[str, float]) -> str:
        return f"{one['value']:.1f} ({one['low']:.1f} … {one['high']:.1f})"

    lines = [
        "",
        "## Searching by a part of a CT, and by what was right and wrong",
        "",
        f"`benchmarks/refining.py`, {region['n']:,} lesions of 500 synthetic test CTs. A CT of "
        "another patient is right where it has the same finding, anywhere. Mean average precision, "
        "in percent:",
        "",
        "| asked with | average precision |",
        "|---|---:|",
        *(f"| {way} | {told(region[way])} |" for way in ways),
        "",
        "Then studies among the first ten hits are marked, right ones as liked, wrong ones as "
        "unliked; average precision of all others:",
        "",
        "| query | marked | queries | before | after | gain |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for kind, marks in feedback.items():
        for mark, one in marks.items():
            if one["n"] >= 20:
                gain = one["gain"]
                lines.append(
                    f"| {kind} | {mark} | {one['n']} | {one['before']['value']:.1f} | "
                    f"{one['after']['value']:.1f} | {gain['value']:+.1f} "
                    f"({gain['low']:+.1f} … {gain['high']:+.1f}) |"
                )
    return [*lines, "", notes]
