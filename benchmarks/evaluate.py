"""Judge a retriever: ranks, measures and intervals, both directions, beside two published ways.

    python benchmarks/evaluate.py [--quick]

8,069 pairs of vectors as BIMCV-R has pairs (5,340 patients, one report text in seven repeated), of
512 dimensions with a large common part. Three ways, in turns, in one run:

- ours: `medfinder.ranking`, both directions, with bootstrap intervals clustered by patient; bare
  is the same without intervals, which the other two do not have;
- sorting: the whole matrix, each row sorted, the pair looked up in the order, as the published
  MedFinder code does; without intervals;
- loops: a product a pair and a sort a query in Python, as CT-CLIP's scripts do, but for all K at
  once, without their chance baseline and sorting plain numbers instead of tensors, all of which is
  quicker; timed on some queries and multiplied up.

Memory is the peak of a process that does nothing else, libraries included. So is 50,000 × 50,000.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from record import table, write_result

from medfinder.ranking.names import evaluate
from medfinder.ranking.qrels import Qrels
from medfinder.ranking.ranks import rank_both_ways
from medfinder.ranking.run import Run
from medfinder.ranking.significance import bootstrap_intervals

N, N_PATIENTS, DIM, LARGE = 8_069, 5_340, 512, 50_000
NAMES = ("R@1", "R@5", "R@10", "R@50", "R@100", "RR", "MnR", "MdR")
DIRECTIONS = ("report_to_volume", "volume_to_report")
KS = (1, 5, 10, 50, 100)
SEED = 7
ROUNDS = 5
LOOPED = 6  # queries a direction and round that the loops are timed on


def pairs(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors of reports and of volumes, (n, DIM) float32 of length 1."""
    random = np.random.default_rng(SEED)
    scale = np.arange(1, DIM + 1) ** -0.5
    common = 3 * random.standard_normal(DIM).astype(np.float32)

    def drawn() -> np.ndarray:
        return (random.standard_normal((n, DIM), np.float32) * scale).astype(np.float32)

    def unit(rows: np.ndarray) -> np.ndarray:
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    truth = drawn()
    reports, volumes = unit(common + truth + 1.5 * drawn()), unit(common + truth + 1.5 * drawn())
    again = random.choice(n, n // 7, replace=False)
    reports[again] = reports[random.integers(n, size=len(again))]
    return reports, volumes


def patients(n: int) -> list[str]:
    """Return whose study each is: every patient has one, some have more."""
    random = np.random.default_rng(SEED + 1)
    n_patients = N_PATIENTS * n // N
    whose = np.concatenate(
        [np.arange(n_patients), random.integers(n_patients, size=n - n_patients)]
    )
    return [f"patient-{i}" for i in whose]


def ours(reports: np.ndarray, volumes: np.ndarray, whose: list[str]) -> dict[str, Any]:
    """Return measures, each with its interval."""
    both = zip(DIRECTIONS, rank_both_ways(reports, volumes), strict=True)
    scores = {(way, n): s for way, ranks in both for n, s in evaluate(ranks, NAMES).items()}
    named = {f"{way} {name}": score for (way, name), score in scores.items()}
    medians = [name for name in named if name.endswith("MdR")]
    values = {name: score.values for name, score in named.items()}
    intervals = bootstrap_intervals(values, whose, medians=medians)
    found: dict[str, Any] = {way: {} for way in DIRECTIONS}
    for way, name in scores:
        interval = intervals[f"{way} {name}"]
        found[way][name] = [interval.estimate, interval.low, interval.high]
    return found


def bare(reports: np.ndarray, volumes: np.ndarray, _: list[str]) -> dict[str, Any]:
    """Return measures without intervals."""
    both = zip(
        ("report_to_volume", "volume_to_report"), rank_both_ways(reports, volumes), strict=True
    )
    return {way: {n: s.value for n, s in evaluate(r, NAMES).items()} for way, r in both}


def sorting(reports: np.ndarray, volumes: np.ndarray, _: list[str]) -> dict[str, Any]:
    """Return measures as read off sorted rows of the whole matrix; ties fall as the sort has them."""
    matrix = reports @ volumes.T
    found: dict[str, Any] = {}
    for direction, scores in (("report_to_volume", matrix), ("volume_to_report", matrix.T)):
        places = np.empty(len(scores))
        for i, row in enumerate(scores):
            places[i] = np.where(np.argsort(-row) == i)[0][0] + 1
        found[direction] = {f"R@{k}": float(np.mean(places <= k)) for k in KS}
        found[direction] |= {"MnR": float(places.mean()), "MdR": float(np.median(places))}
    return found


def loops(reports: np.ndarray, volumes: np.ndarray, wanted: range) -> None:
    """Rank for some queries of each direction, a pair at a time."""
    import torch

    for queries, gallery in ((reports, volumes), (volumes, reports)):
        hits = dict.fromkeys(KS, 0)
        for i in wanted:
            scores = []
            for j in range(len(gallery)):
                product = torch.tensor(queries[i]) @ torch.tensor(gallery[j])
                scores.append(product.item())
            order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
            for k in KS:
                hits[k] += i in order[:k]


def timed(do: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = do()
    return {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}, result


def run_file(n: int, k: int, reports: np.ndarray, volumes: np.ndarray) -> dict[str, float]:
    """Return how long a TREC run takes to make, write, read and judge."""
    ids = [f"study-{i:06d}" for i in range(n)]
    took: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.txt"
        spent, run = timed(lambda: Run.from_vectors(ids, reports, ids, volumes, k))
        took["run_s"] = spent["wall_s"]
        took["write_s"] = timed(lambda: run.write(path))[0]["wall_s"]
        took["size_mib"] = path.stat().st_size / 2**20
        spent, read = timed(lambda: Run.read(path))
        took["read_s"] = spent["wall_s"]
    qrels = Qrels.from_pairs(zip(ids, ids, strict=True))
    spent, _ = timed(lambda: evaluate(read.ranks(qrels), ("R@1", "R@10", "nDCG@10", "AP")))
    return took | {"judge_s": spent["wall_s"]}


def peak_mib() -> float:
    """Return the most memory that this process has held, MiB."""
    line = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line
    )
    return int(line.split()[1]) / 1024


def alone(way: str, n: int) -> dict[str, Any]:
    """Run one way in a process of its own and return its figures."""
    command = [sys.executable, __file__, "--alone", way, "--n", str(n)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def child(way: str, n: int) -> None:
    reports, volumes = pairs(n)
    figures: dict[str, Any] = {"vectors_mib": peak_mib()}
    if way == "run":
        figures |= run_file(n, 100, reports, volumes)
    elif way == "nothing":
        pass
    else:
        do = {"ours": ours, "sorting": sorting}[way]
        whose = patients(n)
        figures |= timed(lambda: do(reports, volumes, whose))[0]
    print(json.dumps(figures | {"peak_mib": peak_mib()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="1,500 pairs, one round, no 50,000")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    parser.add_argument("--n", type=int, default=N, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        child(options.alone, options.n)
        return
    n, rounds = (1_500, 1) if options.quick else (N, ROUNDS)
    reports, volumes = pairs(n)
    whose = patients(n)
    ours(*pairs(2_500), patients(2_500))  # compiles, or reads what is compiled
    spent: dict[str, list[dict[str, float]]] = {"ours": [], "bare": [], "sorting": [], "loops": []}
    load = os.getloadavg()[0]
    answers: dict[str, Any] = {}
    for round_ in range(rounds):
        for name, do in (("ours", ours), ("bare", bare), ("sorting", sorting)):
            took, answers[name] = timed(lambda do=do: do(reports, volumes, whose))
            spent[name].append(took)
        wanted = range(round_ * LOOPED, (round_ + 1) * LOOPED)
        took, _ = timed(lambda wanted=wanted: loops(reports, volumes, wanted))
        spent["loops"].append({name: value * n / LOOPED for name, value in took.items()})
        print(round_, {name: rows[-1] for name, rows in spent.items()}, flush=True)
    figures: dict[str, Any] = {
        "n": n,
        "load_before": load,
        "load_after": os.getloadavg()[0],
        "n_looped": LOOPED * rounds,
        "times": {
            name: {part: float(np.median([row[part] for row in rows])) for part in rows[0]}
            for name, rows in spent.items()
        },
        "ours": answers["ours"],
        "sorting": answers["sorting"],
    }
    for other in ("sorting", "loops"):
        for mine in ("ours", "bare"):
            figures[f"{other}_over_{mine}_ratio"] = {
                part: float(
                    np.median(
                        [a[part] / b[part] for a, b in zip(spent[other], spent[mine], strict=True)]
                    )
                )
                for part in ("wall_s", "cpu_s")
            }
    figures["memory"] = {way: alone(way, n) for way in ("nothing", "ours", "sorting", "run")}
    if not options.quick:
        figures["large"] = {way: alone(way, LARGE) for way in ("nothing", "ours", "run")}
        figures["large"]["n"] = LARGE
    print(table([{"way": name, **took} for name, took in figures["times"].items()]))
    print({name: value for name, value in figures.items() if name.endswith("_ratio")})
    print(json.dumps({k: figures[k] for k in ("ours", "sorting", "memory")}, indent=1))
    print(figures.get("large"))
    if not options.quick:
        notes = (
            "Times are medians of rounds in turn on a shared machine; CPU seconds beside wall "
            "seconds, load_before and load_after are its load. loops: measured on n_looped queries "
            "a direction, multiplied up to all. ours has intervals, the others none."
        )
        write_result("evaluate", figures, [SEED, SEED + 1], notes)


if __name__ == "__main__":
    main()
