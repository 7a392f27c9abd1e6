"""Curation against archives whose every defect is known: what it finds, how fast, in what memory.

Phantom archives of the raw BIMCV and the published BIMCV-R layout are curated; ``planted.jsonl``
is then held against ``rejections.parquet``, ``doubts.parquet`` and ``studies.parquet``: what of each
defect was found, what was named that was not planted, whether a patient or a text crosses splits,
and whether a planted identity is in any file. Tables of 1,000 to 100,000 rows measure throughput
and the peak of memory, each in a process of its own.

    python benchmarks/curation.py --judge ARCHIVE STUDIES    # what was planted against what was found
    python benchmarks/curation.py --patients 300 --rows 1000 10000 100000 --work /tmp/curation
"""

import argparse
import gzip
import json
import re
import subprocess
import sys
import time
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import record

SEED = 1


@dataclass
class Outcome:
    """What a run left behind, by what it names."""

    rejections: list[tuple[str, str]]
    doubts: dict[str, set[str]]
    studies: dict[str, Any]


def source(layout: str, root: Path, *, volumes: bool) -> Any:
    if layout == "bimcv":
        from medfinder.curate.sources.bimcv import BimcvSource

        return BimcvSource(root)
    from medfinder.curate.sources.bimcv_r import BimcvRSource

    return BimcvRSource(root / "meta" / "BIMCV-R.csv", root if volumes else None)


def run(layout: str, root: Path, out: Path, *, volumes: bool, workers: int) -> float:
    """Curate, and return the seconds it took."""
    from medfinder.curate.curate import CurateConfig, curate

    start = time.perf_counter()
    curate(source(layout, root, volumes=volumes), out, CurateConfig(workers=workers))
    return time.perf_counter() - start


def outcome(out: Path) -> Outcome:
    from medfinder.studies import read_doubts, read_rejections, read_studies

    doubts: dict[str, set[str]] = defaultdict(set)
    for doubt in read_doubts(out / "doubts.parquet"):
        doubts[doubt.study_id].add(doubt.rule)
    # Items that were hidden by pseudonyms are told apart by their owner's key.
    hidden = out / "private" / "items.tsv"
    rows = hidden.read_text(encoding="utf-8").splitlines() if hidden.is_file() else []
    names = dict(row.split("\t", 1) for row in rows)
    rejections = [
        (names.get(r.item, r.item), r.rule) for r in read_rejections(out / "rejections.parquet")
    ]
    studies = {study.study_id: study for study in read_studies(out / "studies.parquet")}
    return Outcome(rejections, dict(doubts), studies)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def keys(line: Mapping[str, Any]) -> list[str]:
    """Return what a rejection's item holds when it is about this line: a file's or a study's name."""
    named = [line["item"], line.get("or_item", "")]
    return [name.rpartition("/")[2].removesuffix(".nii.gz") for name in named if name]


def confusion(planted: list[dict[str, Any]], got: Outcome) -> dict[str, Any]:
    """Compare what was planted with what was found.

    Returns:
        ``defects``: of each, planted, found by its rule, found by another, missed;
        ``false_rejections`` and ``false_doubts``: by rule, what nobody planted;
        ``missed``: what was not found, to be looked at.
    """
    at: dict[str, list[int]] = defaultdict(list)  # a name in an item → the rejections of it
    for i, (item, _) in enumerate(got.rejections):
        for part in item.replace(":", " ").replace("/", " ").replace("\\", " ").split():
            at[part.removesuffix(".nii.gz")].append(i)
    splits: dict[str, set[str | None]] = defaultdict(set)
    for study in got.studies.values():
        splits[study.patient_id].add(study.split)
    explained: set[int] = set()
    rows: dict[str, Counter[str]] = defaultdict(Counter)
    missed: list[str] = []
    may_doubt: dict[str, set[str]] = defaultdict(set)
    for line in planted:
        about = [i for key in keys(line) for i in at.get(key, ())]
        allowed = {line["rule"], *line.get("also", ())}
        beside = at.get(line["study_id"].rpartition("/")[2], [])
        explained.update(i for i in about if got.rejections[i][1] in allowed)
        explained.update(i for i in beside if got.rejections[i][1] in line.get("also", ()))
        may_doubt[line["study_id"]].update(allowed)
        count = rows[line["defect"]]
        count["planted"] += 1
        study = got.studies.get(line["study_id"])
        if line["expect"] == "rejection":
            named = {got.rejections[i][1] for i in about}
            hit = line["rule"] in named
            other = bool(named & allowed)
        elif line["expect"] == "doubt":
            named = got.doubts.get(line["study_id"], set())
            hit = line["rule"] in named
            other = bool(named & allowed)
        elif line["expect"] == "split":
            hit, other = len(splits[line["patient_id"]]) <= 1, False
        else:
            hit, other = study is not None, False
            if line["defect"] == "nan-report":
                hit = study is not None and study.report is None
        count["found" if hit else "by another rule" if other else "missed"] += 1
        if not hit and len(missed) < 60:
            missed.append(f"{line['defect']}: {line['study_id']}")
    false_rejections = Counter(
        rule for i, (_, rule) in enumerate(got.rejections) if i not in explained
    )
    false_doubts: Counter[str] = Counter()
    for study_id, rules in got.doubts.items():
        false_doubts.update(rules - may_doubt.get(study_id, set()))
    return {
        "defects": [
            {
                "defect": defect,
                **{key: count[key] for key in ("planted", "found", "by another rule", "missed")},
                "recall": round(count["found"] / count["planted"], 4),
            }
            for defect, count in sorted(rows.items())
        ],
        "false_rejections": dict(sorted(false_rejections.items())),
        "false_doubts": dict(sorted(false_doubts.items())),
        "missed": missed,
    }


def crossings(got: Outcome) -> dict[str, int]:
    """Count the patients and the texts that are in more than one split."""
    by_patient, by_text = defaultdict(set), defaultdict(set)
    for study in got.studies.values():
        by_patient[study.patient_id].add(study.split)
        if study.report:
            by_text[folded(study.report.text)].add(study.split)
    return {
        "patients_across_splits": sum(len(splits) > 1 for splits in by_patient.values()),
        "texts_across_splits": sum(len(splits) > 1 for splits in by_text.values()),
        "without_split": sum(study.split is None for study in got.studies.values()),
    }


def sound(
    truth: list[dict[str, Any]], planted: list[dict[str, Any]], got: Outcome
) -> dict[str, Any]:
    """Count what became of the sessions in which nothing was planted."""
    touched = {line["study_id"] for line in planted if line["expect"] != "split"}
    halves = {line["or_item"] for line in planted if "or_item" in line}
    touched |= {told["study_id"] for told in truth if halves & set(told["files"])}
    clean = [told for told in truth if told["study_id"] not in touched]
    kept = [got.studies[t["study_id"]] for t in clean if t["study_id"] in got.studies]
    labels = {told["study_id"]: set(told["labels"]) for told in truth}
    return {
        "planted_nothing": len(clean),
        "kept": len(kept),
        "with_report": sum(study.report is not None for study in kept),
        "with_translation": sum(study.translation is not None for study in kept),
        "labels_as_planted": sum(set(study.labels) == labels[study.study_id] for study in kept),
        "without_doubt": sum(study.study_id not in got.doubts for study in kept),
    }


def folded(text: str) -> str:
    bare = unicodedata.normalize("NFD", text.lower())
    return " ".join("".join(c for c in bare if unicodedata.category(c) != "Mn").split())


def told(out: Path) -> Iterator[tuple[str, str]]:
    """Yield (file, all text in it) of a dataset, compressed files unpacked; ``private/`` left out."""
    import pyarrow.parquet as pq

    for path in sorted(p for p in out.rglob("*") if p.is_file()):
        name = path.relative_to(out).as_posix()
        if name.startswith("private/"):
            continue
        if path.suffix == ".parquet":
            text = json.dumps(pq.ParquetFile(path).read().to_pylist(), ensure_ascii=False)
        else:
            data = path.read_bytes()
            if path.suffix == ".gz":
                data = gzip.decompress(data)
            text = data.decode("utf-8", "replace") + data.decode("utf-16-le", "replace")
            # JSON may spell a letter by its number.
            text += re.sub(r"\\u([0-9a-fA-F]{4})", lambda m: chr(int(m[1], 16)), text)
        yield name, folded(text) + " " + folded(name)


def leaks(out: Path, canaries: Iterable[str]) -> dict[str, list[str]]:
    """Return the canaries found, by file."""
    wanted = sorted({folded(canary) for canary in canaries})
    found = {}
    for name, text in told(out):
        here = [canary for canary in wanted if canary in text]
        if here:
            found[name] = here
    return found


def measured(rows: int, work: Path) -> dict[str, Any]:
    """Curate a table of about `rows` rows in a process of its own."""
    from medfinder.phantom.archive import write_archive

    folder = work / f"table-{rows}"
    start = time.perf_counter()
    write_archive(folder, round(rows / 1.49), SEED, layout="bimcv_r", volumes=False)
    written_s = time.perf_counter() - start
    command = [sys.executable, __file__, "--measure", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"rows": rows, "error": done.stderr.strip().splitlines()[-1][:200]}
    return {"rows": rows, "archive_s": round(written_s, 1)} | json.loads(
        done.stdout.splitlines()[-1]
    )


def peak_kib() -> int:
    """Return this process's highest resident memory; `getrusage` would count its parent's too."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def measure(folder: Path) -> None:
    """Curate one table and print what it took."""
    import shutil

    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    start = time.process_time()
    wall_s = run("bimcv_r", folder / "bimcv_r", out, volumes=False, workers=1)
    import pyarrow.parquet as pq

    n = pq.ParquetFile(out / "studies.parquet").metadata.num_rows
    print(
        json.dumps(
            {
                "studies": n,
                "wall_s": round(wall_s, 1),
                "cpu_s": round(time.process_time() - start, 1),
                "studies_per_s": round(n / wall_s, 1),
                "peak_mib": round(peak_kib() / 1024, 1),
            }
        )
    )


def judged(layout: str, n_patients: int, work: Path, workers: int) -> dict[str, Any]:
    """Write an archive, curate it, and hold the one against the other."""
    import shutil

    from medfinder.phantom.archive import write_archive

    folder, out = work / f"{layout}-{n_patients}", work / f"{layout}-{n_patients}-out"
    root = write_archive(folder, n_patients, SEED, layout=layout, workers=workers)  # type: ignore[arg-type]
    shutil.rmtree(out, ignore_errors=True)
    wall_s = run(layout, root, out, volumes=True, workers=workers)
    print(f"\n## {layout}, {n_patients} patients\n")
    figures = judge(folder, out)
    return figures | {
        "wall_s": round(wall_s, 1),
        "sessions_per_s": round(figures["sessions"] / wall_s, 2),
    }


def judge(folder: Path, out: Path) -> dict[str, Any]:
    """Hold a curated folder against what was planted in its archive, and print what came of it."""
    planted, truth = lines(folder / "planted.jsonl"), lines(folder / "truth.jsonl")
    got = outcome(out)
    found = confusion(planted, got)
    canaries = (folder / "canaries.txt").read_text(encoding="utf-8").splitlines()
    held = leaks(out, canaries)
    print(record.table(found["defects"]))
    figures = {
        "sessions": len(truth),
        "studies": len(got.studies),
        "rejections": len(got.rejections),
        **found,
        "sound": sound(truth, planted, got),
        "splits": crossings(got),
        "canaries": len(set(canaries)),
        "canaries_left": sum(len(names) for names in held.values()),
        "canaries_left_in": {name: len(names) for name, names in held.items()},
    }
    shown = {k: v for k, v in figures.items() if k not in ("defects", "missed")}
    print("\n" + json.dumps(shown, indent=1))
    print("\nMissed:", *(found["missed"] or ["nothing"]), sep="\n  ")
    return figures


def is_faultless(figures: Mapping[str, Any]) -> bool:
    """Whether nothing planted was missed, nothing sound left out, and nothing crossed or leaked."""
    crossed = figures["splits"]["patients_across_splits"] + figures["splits"]["texts_across_splits"]
    faults = (figures["missed"], figures["false_rejections"], crossed, figures["canaries_left"])
    return not any(faults)


def earlier() -> dict[str, Any]:
    """Return the figures on record, which a run of some layouts or sizes alone keeps."""
    path = record.RESULTS / "curation.json"
    found: dict[str, Any] = json.loads(path.read_text())["figures"] if path.is_file() else {}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patients", type=int, default=300)
    parser.add_argument("--rows", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--layouts", nargs="*", default=["bimcv", "bimcv_r"])
    parser.add_argument("--work", type=Path, required=True, help="Folder for archives, kept.")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--dry", action="store_true", help="Print only; leave the results alone.")
    options = parser.parse_args()
    figures = earlier()
    for layout in options.layouts:
        figures[layout] = judged(layout, options.patients, options.work, options.workers)
    tables = {line["rows"]: line for line in figures.get("tables", [])}
    tables |= {rows: measured(rows, options.work) for rows in options.rows}
    figures["tables"] = [tables[rows] for rows in sorted(tables)]
    print("\n## Tables alone\n")
    print(record.table(figures["tables"]))
    if not options.dry:
        notes = (
            "Volumes of 32 x 48 x 48 voxels; 'found' is by the very rule that was planted. False "
            "doubts count every rule that no planted line allows for the study. Tables are read by one "
            "worker; peak_mib is of the process that curates."
        )
        record.write_result("curation", figures, [SEED], notes)


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "--measure":
        measure(Path(sys.argv[2]))
    elif len(sys.argv) == 4 and sys.argv[1] == "--judge":
        if not is_faultless(judge(Path(sys.argv[2]), Path(sys.argv[3]))):
            sys.exit("Something was missed, wrongly left out, or has leaked: see above.")
    else:
        main()
