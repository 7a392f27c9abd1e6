"""What larger archives are measured by, as Markdown: written while read, planned."""

from typing import Any


def churn_section(figures: dict[str, Any], notes: str) -> list[str]:
    """Return the lines on an index that is written while it is read, from ``index_churn.json``."""
    sizes = sorted((name for name in figures if name.isdigit()), key=int)
    first, last = (figures[name] for name in (sizes[0], sizes[-1]))
    lines = [
        "",
        "## An index that is written while it is read",
        "",
        "`benchmarks/index_churn.py`: one process adds, replaces and deletes studies, 16 a commit, another "
        "asks. Median and 95th centile in ms, by what the writer was doing:",
        "",
        f"| writer | query | {' | '.join(f'{int(n):,} studies' for n in sizes)} | ratio of medians |",
        f"|---|---|{'---:|' * (len(sizes) + 1)}",
    ]
    for phase, queries in last["latency"].items():
        for query, row in queries.items():
            cells = [
                f"{by['p50_ms']:.1f} / {by['p95_ms']:.1f}"
                for by in (figures[n]["latency"][phase][query] for n in sizes)
            ]
            ratio = row["p50_ms"] / first["latency"][phase][query]["p50_ms"]
            lines.append(f"| {phase} | {query} | {' | '.join(cells)} | {ratio:.2f} |")
    wrong = {n: figures[n]["wrong"] for n in sizes}
    lines += [
        "",
        "Looks after an acknowledged write: "
        + "; ".join(
            f"{int(n):,} studies: {w['probes']:,}, of which {w['missing']} missed what was added and "
            f"{w['deleted_but_there']} found what was deleted, {w['errors']} errors"
            for n, w in wrong.items()
        )
        + ". Memory of the reader: "
        + ", ".join(f"{figures[n]['memory_after_mib']:,.0f} MiB" for n in sizes)
        + ".",
        "",
        "| write | " + " | ".join(f"{int(n):,} studies, ms" for n in sizes) + " |",
        f"|---|{'---:|' * len(sizes)}",
    ]
    for what in last["writes"]:
        cells = [f"{figures[n]['writes'][what]['p50_ms']:,.0f}" for n in sizes]
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return [*lines, "", notes]


def plan_section(figures: dict[str, Any], notes: str) -> list[str]:
    """Return the lines on predicted and measured costs, from ``cost_model.json``."""
    lines = [
        "",
        "## Planned and measured",
        "",
        "`benchmarks/cost_model.py`. [The formula](../explanation/scale.md). Costs of a study measured on "
        "64 phantoms, what a run costs once from the smaller runs; the rest is predicted:",
        "",
        "| studies | stage | predicted | measured | ratio | |",
        "|---:|---|---:|---:|---:|---|",
    ]
    for row in figures["pipeline"]["rows"]:
        unit = "MB" if row["stage"] == "disk" else "CPU-s"
        found, real = (
            row[f"{kind}_{unit.lower().replace('-', '_')}"] for kind in ("predicted", "measured")
        )
        lines.append(
            f"| {row['studies']:,} | {row['stage']} | {found:,.1f} {unit} | {real:,.1f} {unit} | "
            f"{row['ratio']:.2f} | {'fitted' if row['fitted'] else 'predicted'} |"
        )
    vectors = figures["vectors"]
    sizes = ", ".join(f"{n:,}" for n in vectors["vector"]["sizes"])
    lines += [
        "",
        f"Columns of 512 numbers: fitted to {sizes}; predicted for {vectors['predicted_n']:,}:",
        "",
        "| | predicted | measured | ratio |",
        "|---|---:|---:|---:|",
    ]
    lines += [
        f"| {row['what']} | {row['predicted']:,.0f} | {row['measured']:,.0f} | {row['ratio']:.2f} |"
        for row in vectors["rows"]
    ]
    return [*lines, "", notes]
