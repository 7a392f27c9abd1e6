"""The parts of the page of benchmarks that tell how data are curated and translated."""

from typing import Any


def curation_section(figures: dict[str, Any], notes: str) -> list[str]:
    """Return the lines on planted defects, throughput and memory, from ``curation.json``."""
    layouts = [name for name in ("bimcv", "bimcv_r") if name in figures]
    found: dict[str, dict[str, dict[str, Any]]] = {
        name: {row["defect"]: row for row in figures[name]["defects"]} for name in layouts
    }
    defects = sorted({defect for rows in found.values() for defect in rows})

    def cell(layout: str, defect: str) -> str:
        row = found[layout].get(defect)
        return f"{row['found']} of {row['planted']}" if row else ""

    lines = [
        "",
        "## Curation (`curation.py`)",
        "",
        "Phantom archives in the layout of the raw BIMCV-COVID19 tree and of the published BIMCV-R,",
        "with every known defect planted; found is what was named by the very rule.",
        "",
        f"| planted | {' | '.join(layouts)} |",
        "|---" * (1 + len(layouts)) + "|",
        *(f"| {d} | {' | '.join(cell(name, d) for name in layouts)} |" for d in defects),
        "",
        f"| | {' | '.join(layouts)} |",
        "|---" * (1 + len(layouts)) + "|",
    ]
    for label, path in (
        ("sessions", "sessions"),
        ("studies kept", "studies"),
        ("false rejections", "false_rejections"),
        ("doubts that were not planted", "false_doubts"),
        ("patients across splits", "splits/patients_across_splits"),
        ("texts across splits", "splits/texts_across_splits"),
        ("planted identities left", "canaries_left"),
        ("of so many", "canaries"),
        ("sessions a second", "sessions_per_s"),
    ):
        lines.append(f"| {label} | {' | '.join(_at(figures[n], path) for n in layouts)} |")
    lines += ["", "| rows of a table alone | studies a second | peak MiB |", "|---|---|---|"]
    for row in figures.get("tables", []):
        if "error" not in row:
            lines.append(f"| {row['rows']:,} | {row['studies_per_s']} | {row['peak_mib']:.0f} |")
    return [*lines, "", notes]


def _at(figures: dict[str, Any], path: str) -> str:
    value: Any = figures
    for key in path.split("/"):
        value = value[key]
    if isinstance(value, dict):
        return ", ".join(f"{name} {n}" for name, n in value.items()) or "0"
    return str(value)


def translation_section(figures: dict[str, Any], notes: str) -> list[str]:
    """Return the lines on checks of translations and the offline translator, from ``translation.json``."""
    lines = [
        "",
        "## Translation (`translation.py`)",
        "",
        f"{figures['n_reports']} Spanish reports with exact English, errors planted on the way through a",
        f"local endpoint. False alarms on untouched pairs: {figures['false_alarm_share']:.1%}.",
        f"{figures['checked_per_cpu_s']:.0f} checks a CPU-second.",
        "",
        "| planted error | reports | found |",
        "|---|---|---|",
        *(f"| {row['planted']} | {row['n']} | {row['found']:.1%} |" for row in figures["planted"]),
        "",
        "Offline, by apertium with a dictionary of ours:",
        "",
        "| reports | number | pass every check | words left | ms a report |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['reports']} | {row['n']} | {row['pass_all_share']:.1%} "
        f"| {row['untranslated_word_share']:.1%} | {1000 * row['s_per_report']:.1f} |"
        for row in figures["offline"]
    ]
    return [*lines, "", notes]
