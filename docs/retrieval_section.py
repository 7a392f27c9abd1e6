"""The part of the page of benchmarks that holds every baseline and recipe against what ships."""

from typing import Any

WAYS = {
    "report_to_volume": "report → volume",
    "volume_to_report": "volume → report",
    "volume_to_volume": "volume → volume",
    "keyword_to_volume": "keyword → volume",
}
# head → protocol, way, measure
TEXT = {
    "report→volume R@1": ("one-to-one", "report_to_volume", "R@1"),
    "R@10": ("one-to-one", "report_to_volume", "R@10"),
    "volume→report R@1": ("one-to-one", "volume_to_report", "R@1"),
    "R@10 ": ("one-to-one", "volume_to_report", "R@10"),
    "R@1 of 128": ("pools", "report_to_volume", "R@1 of 128"),
}
MEANING = {
    "same findings, AP": ("same-findings-exact", "report_to_volume", "AP"),
    "like findings, nDCG@10": ("same-findings-graded", "report_to_volume", "nDCG@10"),
    "keyword AP": ("keyword", "keyword_to_volume", "AP"),
    "paper's keywords P@20": ("medfinder-paper", "keyword_to_volume", "P@20"),
    "same lobe AUROC": ("same-lobe", "report_to_volume", "AUROC"),
    "same side AUROC": ("same-side", "report_to_volume", "AUROC"),
}
VOLUMES = {
    "like findings, nDCG@10": ("same-findings-graded", "volume_to_volume", "nDCG@10"),
    "shared labels, Jaccard@10": ("ct-clip", "volume_to_volume", "Jaccard@10"),
    "same lobe AUROC": ("same-lobe", "volume_to_volume", "AUROC"),
    "same side AUROC": ("same-side", "volume_to_volume", "AUROC"),
}


README_COLUMNS = {
    "R@1, report → CT": "report→volume R@1",
    "R@10": "report→volume R@10",
    "R@10, CT → report": "volume→report R@10",
    "keyword, AP": "keyword AP",
    "same lobe, AUROC": "same lobe AUROC",
}
README_ROWS = {
    "chance": "chance",
    "shortcut": "a CT's histogram and coarse grid",
    "bm25 reworded": "BM25 on the reports, asked in other words\\*",
    "minilm reworded": "MiniLM on the reports, asked in other words\\*",
    "published_code": "the published code, trained here",
    "paper": "the paper's method, trained here",
    "tiny": "ours, `configs/tiny.toml`",
    "base": "**`medfinder`, which ships**",
}


def readme_table(figures: dict[str, Any]) -> str:
    """Return the README's table, from ``retrieval.json``: rows that were measured."""
    lines = [
        f"Every row under the same protocols on these {figures['n']} CTs, in percent, one run a recipe",
        "([intervals, tests, more rows](docs/reference/benchmarks.md)):",
        "",
        f"| | {' | '.join(README_COLUMNS)} |",
        "|---|" + "---:|" * len(README_COLUMNS),
    ]
    for name, title in README_ROWS.items():
        if name in figures["rows"]:
            headline = figures["rows"][name]["headline"]
            cells = [f"{headline[column]:.1f}" for column in README_COLUMNS.values()]
            lines.append(f"| {title} | {' | '.join(cells)} |")
    lines += [
        "",
        '\\* They see no CT: its report stands for it. "Same lobe": among CTs with a finding, those with it',
        "in the same lobe; 50 is chance.",
    ]
    return "\n".join(lines)


def retrieval_section(figures: dict[str, Any], notes: str) -> list[str]:
    """Return the lines on all rows under the same protocols, from ``retrieval.json``."""
    rows, first = figures["rows"], figures["first"]
    # A CT asks the same whatever its report is asked by.
    seeing, seeing_first = (
        {name: row for name, row in some.items() if not name.endswith("reworded")}
        for some in (rows, first["rows"])
    )
    lines = [
        "",
        "## Retrieval: every row under the same protocols (`retrieval.py`)",
        "",
        f"{figures['n']} studies of {figures['n_patients']} patients of the split `test` of the phantom",
        "benchmark, read as NIfTI and curated; [what each protocol asks](protocols.md). Percent, with 95 %",
        "intervals; the last rows are chance and the most that the protocol allows.",
        "",
        notes,
        "",
        "A report and its own CT:",
        "",
        *_grid(rows, TEXT),
        "",
        "What is found besides, where a report or the name of a finding asks:",
        "",
        *_grid(rows, MEANING),
        "",
        "A CT asks for CTs:",
        "",
        *_grid(seeing, VOLUMES),
        "",
        f"The same on the first {first['n']} studies alone, with encoders that take many seconds a CT. So",
        "few studies tell large differences only:",
        "",
        *_grid(seeing_first, VOLUMES),
        "",
        "### What ships, less each other row",
        "",
        *_tests(rows, figures["against_base"]),
        "",
        f"On the first {first['n']} studies, CT to CT:",
        "",
        *_tests(
            first["rows"],
            [one for one in first["against_base"] if one["way"] == "volume_to_volume"],
        ),
    ]
    asked = {row["title"]: row["not_asked"] for row in first["rows"].values() if row["not_asked"]}
    if asked:
        lines += ["", "### Not asked", "", "| row | protocols | why |", "|---|---|---|"]
        for title, reasons in asked.items():
            by_reason: dict[str, list[str]] = {}
            for name, reason in reasons.items():
                by_reason.setdefault(_kind(name, reason), []).append(name)
            lines += [f"| {title} | {', '.join(n)} | {why} |" for why, n in by_reason.items()]
    if figures["absent"]:
        lines += ["", "### Absent", "", "| row | why |", "|---|---|"]
        lines += [f"| {name} | {_cell(why)} |" for name, why in figures["absent"].items()]
    return [*lines, *_examples(figures["examples"])]


def _kind(name: str, reason: str) -> str:
    return _cell(reason.removeprefix(f"{name} needs").strip().replace(name, "it"))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _figure(row: dict[str, Any], protocol: str, way: str, measure: str) -> dict[str, Any] | None:
    for name, ways in row["protocols"].items():
        if name.split(" v")[0] == protocol:
            found: dict[str, Any] | None = ways.get(way, {}).get("figures", {}).get(measure)
            return found
    return None


def _grid(rows: dict[str, Any], columns: dict[str, tuple[str, str, str]]) -> list[str]:
    """Return rows that have any of the figures, then chance and ceiling of the last one."""
    lines = [f"| row | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    bounds: dict[str, list[str]] = {}
    for row in rows.values():
        found = [_figure(row, *column) for column in columns.values()]
        if not any(found):
            continue
        cells = ["" if one is None else _shown(one) for one in found]
        lines.append(f"| {row['title']} | {' | '.join(cells)} |")
        if all(found):
            for bound in ("chance", "ceiling"):
                bounds[bound] = ["" if one is None else f"{one[bound]:.1f}" for one in found]
    # What an oracle may be asked, and so its bounds, can differ: those of the last row, what ships.
    return lines + [f"| *{name}* | {' | '.join(cells)} |" for name, cells in bounds.items()]


def _shown(one: dict[str, Any]) -> str:
    if one["low"] is None:
        return f"{one['value']:.1f}"
    return f"{one['value']:.1f} ({one['low']:.1f}–{one['high']:.1f})"


def _tests(rows: dict[str, Any], tests: list[dict[str, Any]]) -> list[str]:
    """Return differences by the primary measures, those of one row and protocol on a line."""
    lines = ["| against | protocol | way | measure | difference | p (Holm) |", "|---" * 6 + "|"]
    for one in tests:
        if one["other"] == "chance":
            continue
        shown = f"{one['difference']:+.1f}"
        if one["low"] is not None:
            shown += f" ({one['low']:+.1f} to {one['high']:+.1f})"
        cells = [
            rows[one["other"]]["title"],
            one["protocol"],
            WAYS[one["way"]],
            one["measure"],
            shown,
            f"{one['p_holm']:.2g}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _examples(examples: dict[str, Any]) -> list[str]:
    if "nearest" not in examples:
        return []
    lines = [
        "",
        "### Real CTs, as examples",
        "",
        f"The three nearest of {examples['n']} public CTs and crops to each complete chest, by centred cosine.",
        "It shows that files of many sources go through, and nothing about quality: what ships has seen",
        "synthetic CTs alone. Refused, by rule: "
        + (", ".join(f"{name} ({rule})" for name, rule in examples["refused"].items()) or "none")
        + ".",
        "",
        "| by | CT | nearest |",
        "|---|---|---|",
    ]
    for way, lists in examples["nearest"].items():
        for name, nearest in lists.items():
            shown = ", ".join(f"{one['id']} {one['cosine']:.2f}" for one in nearest)
            lines.append(f"| {way} | {name} | {shown} |")
    return lines
