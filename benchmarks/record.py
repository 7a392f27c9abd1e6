"""Write a benchmark's figures with what is needed to judge them: machine, commit, versions, seeds."""

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("numpy", "torch", "lancedb", "nibabel", "pydicom", "SimpleITK", "monai", "numba")


def write_result(
    name: str, figures: Mapping[str, Any], seeds: Sequence[int] = (), notes: str = ""
) -> Path:
    """Write ``benchmarks/results/NAME.json`` and return its path.

    Args:
        name: The script's stem.
        figures: What was measured; units in the keys (``_s``, ``_ms``, ``_mib``, ``_ratio``).
        seeds: Of every random generator used.
        notes: What a reader must know to trust or doubt the figures.
    """
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    record = {
        "name": name,
        "figures": figures,
        "seeds": list(seeds),
        "notes": notes,
        "commit": _git("rev-parse", "--short", "HEAD"),
        "commit_is_clean": not _git("status", "--porcelain", "--untracked-files=no", "--", "src"),
        "machine": {
            "cpu": _cpu(),
            "n_cpus": os.cpu_count(),
            "platform": platform.system() + " " + platform.machine(),
            "python": platform.python_version(),
        },
        "versions": versions,
    }
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return path


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows of equal keys as a Markdown table."""
    if not rows:
        return ""
    heads = list(rows[0])
    cells = [[_text(row.get(head, "")) for head in heads] for row in rows]
    widths = [max(len(h), *(len(r[i]) for r in cells)) for i, h in enumerate(heads)]
    lines = [heads, ["-" * w for w in widths], *cells]
    return "\n".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=RESULTS.parent, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()
