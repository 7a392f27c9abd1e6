"""The parts of the page of benchmarks on questions, changed input, re-ranking, and where a model looks."""

from typing import Any

WAYS = (("report_to_volume", "report→volume"), ("volume_to_report", "volume→report"))


def questions_section(figures: dict[str, Any], _notes: str) -> list[str]:
    """Return the lines on questions of several findings, from ``questions.json``."""

    def told(one: dict[str, float]) -> str:
        return f"{one['value']:.1f} ({one['low']:.1f} … {one['high']:.1f})"

    lines = [
        "",
        "## Questions of several findings (`questions.py`)",
        "",
        "Questions as people ask them, by the CTs alone; a CT answers where its phantom has what is",
        "asked for and nothing of what is denied. Mean average precision in percent, with its 95 %",
        "interval over questions, on `test`. `search` takes questions apart",
        f"(`medfinder.search.question`); what is denied weighs {figures['shun']:g}, chosen on `val`.",
        "",
        "| question | questions | CTs that answer | compared as it stands | taken apart |",
        "|---|---|---|---|---|",
    ]
    for kind, one in figures["splits"]["test"].items():
        apart = one["taken apart"][f"{figures['shun']:g}"]
        lines.append(
            f"| {kind} | {one['n']} | {one['share that answers']:.1f} % | "
            f"{told(one['as it stands'])} | {told(apart)} |"
        )
    spanish = figures["spanish reports"]
    lines += [
        "",
        f"Reports in Spanish ({spanish['n']}), which the checkpoint does not read, find their CTs as they",
        f"stand with an R@1 of {told(spanish['as it stands']['R@1'])} and an R@10 of "
        f"{told(spanish['as it stands']['R@10'])};",
        "by English names of the findings that our rules read in them, as `search` asks, with "
        f"{told(spanish['by names']['R@1'])}",
        f"and {told(spanish['by names']['R@10'])}.",
    ]
    return lines


def robustness_section(figures: dict[str, Any], notes: str) -> list[str]:
    """Return the lines on changed volumes, queries and keywords, from ``robustness.json``."""
    negation, space = figures["negation"], figures["space"]
    lines = [
        "",
        "## Robustness (`robustness.py`)",
        "",
        f"The checkpoint that ships ({figures['model'].split('+')[0]}) on phantoms of `test`, changed",
        f"before preprocessing: {figures['n_volumes']} studies, the whole gallery changed alike. Points of R@K",
        "and mean average precision of a keyword over findings, in percent, and the paired change from",
        "the first row with its 95 % interval. *Finds itself*: R@1 of the changed volume among the",
        "unchanged ones. `medfinder benchmark --perturb NAME` does the same to studies of yours.",
        "",
        "| volumes | report→volume R@1 | R@10 | volume→report R@1 | R@10 | keyword mAP | finds itself |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in figures["volumes"]:
        cells = [row["says"] or "as they are"]
        cells += [_changed(row[way][k]) for way, _ in WAYS for k in ("R@1", "R@10")]
        cells += [_changed(row["keyword mAP"]), f"{row['itself']['R@1']['value']:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        notes,
        "",
        f"Queries worded otherwise, against {figures['n_queries']} unchanged volumes:",
        "",
        "| reports | words | report→volume R@1 | R@10 | volume→report R@1 | R@10 |",
        "|---|---|---|---|---|---|",
    ]
    for row in figures["queries"]:
        cells = [row["says"], f"{row['median_words']:.0f}"]
        cells += [
            _changed(row[way][k]) if way in row else "" for way, _ in WAYS for k in ("R@1", "R@10")
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "| keyword query, such as | mAP |",
        "|---|---|",
        *(f"| {row['example']} | {_changed(row['keyword mAP'])} |" for row in figures["keywords"]),
        "",
        'Denied: does "No pleural effusion." still find effusions? AUROC of having the finding is',
        f"{_of(negation['claim AUROC'])} for the claim and {_of(negation['denial AUROC'])} for its denial (below",
        "50 were right); of the first 10 volumes found by the denial",
        f"{negation['denial P@10']:.1f} % have it, by the claim {negation['claim P@10']:.1f} %, of all {negation['prevalence']:.1f} %.",
        f"Of claim and denial the right one lies nearer to a volume in {_of(negation['choice'])} % (chance 50).",
        "The vectors alone are asked here; a search over an index also reads denials in reports.",
        "",
        "The space of the unchanged vectors:",
        "",
        "| side | n | dim | participation ratio | entropy rank |",
        "|---|---|---|---|---|",
        *(
            f"| {s['side']} | {s['n']} | {s['dim']} | {s['participation_ratio']:.1f} "
            f"| {s['entropy_rank']:.1f} |"
            for s in space["spectra"]
        ),
        "",
        f"The means of texts and volumes lie {space['gap']['distance']:.3f} apart; the mean cosine of a text and",
        f"another study's volume is {space['gap']['between']:.3f}, of two volumes {space['gap']['within_volume']:.3f}, of two texts",
        f"{space['gap']['within_text']:.3f}. Hubs, beside chance:",
        "",
        "| way | skewness of N_10 | never found, % | found most, % of queries |",
        "|---|---|---|---|",
        *(
            f"| {h['way'].replace('_to_', '→')} | {h['skewness']:.2f} ({h['chance_skewness']:.2f}) "
            f"| {100 * h['never']:.1f} ({100 * h['chance_never']:.1f}) | {100 * h['most']:.1f} |"
            for h in space["hubness"]
        ),
    ]
    return lines


def reranking_section(figures: dict[str, Any], notes: str) -> list[str]:
    """Return the lines on a second look at the top of a list, from ``reranking.json``."""
    cost = figures["cost"]
    lines = [
        "",
        "## Re-ranking (`reranking.py`)",
        "",
        f"A second look at the first {figures['depth']} of {figures['n']}: every sentence of a report asks every region",
        "of a volume. Points, and the paired change from one vector.",
        "",
        "| way | ranking | R@1 | R@10 | p (R@1) |",
        "|---|---|---|---|---|",
    ]
    for way, title in WAYS:
        one = figures["ways"][way]
        for name, row in one["rows"].items():
            first = name == "one vector"
            cells = [title, name]
            cells += [_of(row[k]) if first else _changed(row[k]) for k in ("R@1", "R@10")]
            cells.append("" if first else f"{row['R@1']['p']:.2g}")
            lines.append(f"| {' | '.join(cells)} |")
    chosen = "; ".join(
        f"{title} {figures['ways'][way]['chosen']['pooling']}, weight "
        f"{figures['ways'][way]['chosen']['weight']:g}"
        for way, title in WAYS
    )
    return [
        *lines,
        "",
        f"Chosen on `val`: {chosen}. A query takes {cost['late interaction ms']:,.0f} ms more than the",
        f"{cost['one vector ms']:.1f} ms of one vector, and {cost['kept of a study kib']:.0f} KiB a study are to be kept.",
        "",
        notes,
    ]


def localisation_section(figures: dict[str, Any], notes: str) -> list[str]:
    """Return the lines on maps of where a query is answered, from ``localisation.json``."""
    edge = " × ".join(f"{mm:.0f}" for mm in figures["region_mm"])
    lines = [
        "",
        "## Where a query is answered (`localisation.py`)",
        "",
        f"What each region ({edge} mm) adds to a query's cosine, against the lesion masks of",
        f"{figures['n_lesions']:,} findings of `test`. *Usual place* sees no volume: where the finding lies in `val`.",
        "",
        "| query | map | pointing game, % | Dice, % |",
        "|---|---|---|---|",
    ]
    titles = {"name": "name", "place": "name, side and lobe"}
    for kind, title in titles.items():
        one = figures[kind]
        for name, row in one["maps"].items():
            lines.append(f"| {title} | {name} | {_of(row['pointing'])} | {_of(row['dice'])} |")
        lines.append(
            f"| {title} | *chance; the best choice of regions* | {one['chance']:.1f} "
            f"| {one['ceiling dice']:.1f} |"
        )
    own, usual = "smoothed", "usual place"
    lines += [
        "",
        "Less the usual over `val` at that place; smoothed over a region's neighbours; times the usual place.",
        "By finding, asked with its name: pointing game and Dice of the smoothed map, the usual place, and",
        "chance or ceiling:",
        "",
        "| finding | n | pointing | usual place | chance | Dice | usual place | ceiling |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for finding, row in figures["name"]["by_finding"].items():
        hits, dice = row["pointing"], row["dice"]
        cells = [finding, str(row["n"])]
        cells += [f"{v:.0f}" for v in (hits[own], hits[usual], row["chance"])]
        cells += [f"{v:.0f}" for v in (dice[own], dice[usual], row["ceiling dice"])]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", notes]


def _of(one: dict[str, float]) -> str:
    return f"{one['value']:.1f} ({one['low']:.1f}–{one['high']:.1f})"


def _changed(one: dict[str, float]) -> str:
    if "change" not in one:
        return _of(one)
    return (
        f"{one['value']:.1f}; {one['change']:+.1f} "
        f"({one['change_low']:+.1f} to {one['change_high']:+.1f})"
    )
