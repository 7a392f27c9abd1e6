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


def load_section(figures: dict[str, Any], notes: str) -> list[str]:
    """Return the lines on the service under load, from ``serve_load.json``."""
    soak, page, memory = figures["soak"], figures["page"], figures["memory"]
    shape = "×".join(map(str, figures["volume_shape"]))
    lines = [
        "",
        "## The service under load",
        "",
        f"`benchmarks/serve_load.py`: `medfinder serve` over {figures['n_studies']} phantoms of {shape} "
        "voxels, one process, clients that ask as fast as they are answered. "
        f"{sum(row['errors'] for row in figures['loads'])} errors.",
        "",
        "| asked for | clients | a second | p50 | p95 | p99 |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['what']} | {row['clients']} | {row['per_s']:.1f} | {row['p50_ms']:.0f} ms | "
        f"{row['p95_ms']:.0f} ms | {row['p99_ms']:.0f} ms |"
        for row in figures["loads"]
    ]
    return [*lines, "", *_soaked(soak, memory), *_painted(page), "", notes]


def _soaked(soak: dict[str, Any], memory: dict[str, Any]) -> list[str]:
    mib = soak["resident_mib"]
    mix = ", ".join(f"{n:,} × {kind}" for kind, n in soak["mix"].items())
    return [
        f"An hour's requests at one every two seconds ({mix}), asked by 8 clients in "
        f"{soak['seconds']:.0f} s: {soak['errors']} errors; resident memory {mib[0]:.0f} MiB before, "
        f"{mib[-1]:.0f} MiB after, {soak['last_half_grew_mib']:+.0f} MiB over the last half. With its "
        f"encoders loaded and nothing asked yet: {memory['encoder_loaded_mib']:.0f} MiB.",
    ]


def _painted(page: dict[str, Any]) -> list[str]:
    if "left_out" in page:
        return []
    return [
        "",
        f"The page without 3D is {page['files']} files, {page['bytes_sent'] / 1000:.0f} kB sent "
        f"({page['bytes_whole'] / 1000:.0f} kB unpacked); its first paint in Chromium, cache empty, comes "
        f"after {page['first_contentful_paint_ms']:.0f} ms (median of {page['loads']}).",
    ]
