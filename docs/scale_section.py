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


def cluster_section(figures: dict[str, Any], notes: str) -> list[str]:
    """Return the lines on one process, two and a Ray cluster, from ``scale.json``."""
    rows = figures["runs"]
    names = [name for name in rows[0] if name not in ("run", "each")]
    lines = [
        "",
        "## One process, two, and a cluster",
        "",
        f"`benchmarks/scale.py`: {figures['studies']} phantoms, {figures['vectors']} vectors, median of "
        f"{figures['repeats']}.",
        "",
        f"| run | {' | '.join(names)} |",
        f"|---|{'---:|' * len(names)}",
    ]
    lines += [
        f"| {row['run']} | {' | '.join(_cell(row.get(n, '')) for n in names)} |" for row in rows
    ]
    kill = figures["cost_of_a_kill_s"]
    told = "; ".join(
        f"{name} {figures['efficiency_ratio'][key]:.2f} ({', '.join(f'{e:.2f}' for e in each)})"
        for name, (key, each) in zip(
            ("processes", "Ray"), figures["efficiency_each_ratio"].items(), strict=True
        )
    )
    return [
        *lines,
        "",
        f"Efficiency of two workers, rate(2) / (2 rate(1)) within a repeat, the median and each: {told}. "
        "The machine's speed comes and goes by a factor of two, which is where values above 1 are from. "
        f"A killed worker cost {kill['processes']:.1f} s and {kill['ray']:.1f} s.",
        "",
        notes,
    ]


def faults_section(figures: dict[str, Any], notes: str) -> list[str]:
    """Return the table of what was broken on purpose, from ``faults.json``."""
    counts = ("tried", "survived", "lost", "double", "wrong", "unnoticed")
    lines = [
        "",
        "## Broken on purpose",
        "",
        "`benchmarks/faults.py`. [What is promised](../explanation/reliability.md).",
        "",
        f"| fault | of | {' | '.join(counts)} |",
        f"|---|---|{'---:|' * len(counts)}",
    ]
    for row in [*figures["rows"], {"fault": "all", "to": "", **figures["total"]}]:
        cells = " | ".join(f"{row[count]:,}" for count in counts)
        lines.append(f"| {row['fault']} | {row['to']} | {cells} |")
    return [*lines, "", notes]


def damage_section(figures: dict[str, Any], _notes: str) -> list[str]:
    """Return the lines on damaged indexes, from ``index_damage.json``."""
    totals = figures["totals"]

    def told(counts: dict[str, int]) -> str:
        return ", ".join(f"{name}: {n}" for name, n in sorted(counts.items(), key=lambda x: -x[1]))

    return [
        "",
        "## An index whose files are damaged",
        "",
        f"`benchmarks/index_damage.py`: {figures['trials']} flipped bits and cut files over "
        f"{len(totals['kind'])} kinds of file. Opened and searched: {told(totals['plain'])}. `--check`: "
        f"{told(totals['check'])}. `--repair`: {told(totals['repair'])}.",
    ]


def backends_section(figures: dict[str, Any], notes: str) -> list[str]:
    """Return the lines on the index's back ends, from ``index_backends.json``."""
    lines = ["", "## Back ends of the index", "", "`benchmarks/index_backends.py`."]
    for n, found in figures.items():
        names = list(next(iter(found["queries"].values())))
        lines += [
            "",
            f"{int(n):,} studies, load {found['load_before']:.1f} to {found['load_after']:.1f}: median "
            "in ms (recall at 10):",
            "",
            f"| query | {' | '.join(names)} |",
            f"|---|{'---:|' * len(names)}",
        ]
        for query, row in found["queries"].items():
            cells = [
                f"{row[name]['p50_ms']:.1f}"
                + (f" ({row[name]['recall_at_10']:.3f})" if "recall_at_10" in row[name] else "")
                if name in row
                else ""
                for name in names
            ]
            lines.append(f"| {query} | {' | '.join(cells)} |")
        built = "; ".join(
            f"{name}: {took['add_s']:.0f} + {took['finish_s']:.0f} s"
            for name, took in found["build"].items()
        )
        lines += ["", f"Adding + finishing: {built}."]
    return [*lines, "", notes]


def store_section(figures: dict[str, Any], notes: str) -> list[str]:
    """Return the lines on an index in an object store, from ``object_store.json``."""
    runs = figures["runs"]
    names = ("vector_p50_ms", "text_p50_ms", "filtered_p50_ms", "finish_s", "finish_requests",
             "first_search_fetched_mib", "open_again_and_search_fetched_mib")  # fmt: skip
    lines = [
        "",
        "## An index in an object store",
        "",
        f"`benchmarks/object_store.py`: {figures['rows']:,} studies, {figures['dim']} numbers.",
        "",
        f"| | {' | '.join(run['where'] + ', ' + run['search'] for run in runs)} |",
        f"|---|{'---:|' * len(runs)}",
    ]
    lines += [
        f"| {name.replace('_', ' ')} | {' | '.join(_cell(run.get(name, '')) for run in runs)} |"
        for name in names
    ]
    return [*lines, "", notes]


def _cell(value: Any) -> str:
    return f"{value:,.3g}" if isinstance(value, float) else str(value)
