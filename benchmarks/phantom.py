"""Try to find a phantom without looking at it, and time one.

A model that sees only a volume's HU histogram, its 4x4x4 grid of means, or both, learns to predict
the report's attributes and then ranks volumes for each report. What it reaches is what any
retrieval figure on phantoms owes to shortcuts. Beside it: the oracle that knows every attribute,
the one that knows only which findings there are, TF-IDF and BM25 between two wordings, and chance.

Run: ``python benchmarks/phantom.py [--quick] [--size 64 96 96] [--train 1500] [--test 500]``
"""

import argparse
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from record import table, write_result

from medfinder.phantom.case import KINDS, CaseSpec
from medfinder.phantom.chest import PhantomConfig, make_phantom
from medfinder.phantom.wording import size_bin, word

EDGES = np.concatenate(
    [np.linspace(-1024, -400, 33), np.linspace(-380, 400, 53), np.geomspace(420, 3071, 16)]
)

FLOORS = (0.004, 0.996)
"""Nothing is held to be less or more probable than this."""


def attributes(case: CaseSpec) -> list[str]:
    """Name every attribute a report can tell of a case."""
    told = []
    for f in case.findings:
        told.append(f.name)
        values = (f.side, f.lobe, f.density, f.severity, f.level)
        told += [f"{f.name}|{value}" for value in values if value]
        if f.side and f.lobe:
            told.append(f"{f.name}|{f.side} {f.lobe}")
        if f.size_mm:
            told.append(f"{f.name}|{size_bin(f)}")
    return told


def measure(job: tuple[int, tuple[int, int, int]]) -> dict[str, Any]:
    """Draw one phantom and keep only what the shortcuts see."""
    seed, size = job
    start = time.process_time()
    phantom = make_phantom(seed, PhantomConfig(size=size))
    cost = time.process_time() - start
    histogram, grid = seen(phantom.volume.hu)
    return {
        "histogram": histogram,
        "grid": grid,
        "attributes": attributes(phantom.case),
        "text": phantom.report_en,
        "other_text": word(phantom.case, seed, "en", phase=phantom.acquisition.phase, variant=1),
        "cpu_s": cost,
    }


def seen(hu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what the shortcuts see: roots of the histogram's shares, and 4x4x4 means / 300 HU."""
    histogram = np.histogram(hu, EDGES)[0].astype(np.float32)
    cells = hu
    for axis in range(3):
        n = cells.shape[axis]
        starts = (np.arange(4) * n) // 4
        counts = np.diff([*starts, n]).reshape([-1 if i == axis else 1 for i in range(3)])
        cells = np.add.reduceat(cells, starts, axis) / counts
    return np.sqrt(histogram / hu.size), (cells.ravel() / 300).astype(np.float32)


def standard(features: np.ndarray, n_train: int) -> np.ndarray:
    mean, std = features[:n_train].mean(0), features[:n_train].std(0)
    return (features - mean) / np.maximum(std, 1e-4)


def ridge(x: np.ndarray, y: np.ndarray, n_train: int) -> np.ndarray:
    """Predict y's test rows; the penalty is chosen on the last fifth of the training rows."""
    x = standard(x, n_train)
    mean = y[:n_train].mean(0)
    cut = n_train * 4 // 5

    def solve(rows: int, penalty: float) -> np.ndarray:
        gram = x[:rows].T @ x[:rows] + penalty * np.eye(x.shape[1])
        return np.linalg.solve(gram, x[:rows].T @ (y[:rows] - mean))

    errors = {}
    for penalty in (3.0, 10, 30, 100, 300, 1000, 3000, 10000):
        guess = x[cut:n_train] @ solve(cut, penalty) + mean
        errors[penalty] = float(((guess - y[cut:n_train]) ** 2).mean())
    best = min(errors, key=lambda k: errors[k])
    return x @ solve(n_train, best) + mean


def mlp(x: np.ndarray, y: np.ndarray, n_train: int, seed: int) -> np.ndarray:
    """Predict the same by a two-layer network, stopped at the best loss on the last fifth."""
    import torch

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    xt = torch.tensor(standard(x, n_train).clip(-6, 6), dtype=torch.float32)
    yt = torch.tensor(y, dtype=torch.float32)
    cut = n_train * 4 // 5
    net = torch.nn.Sequential(
        torch.nn.Dropout(0.1),
        torch.nn.Linear(x.shape[1], 256),
        torch.nn.GELU(),
        torch.nn.Dropout(0.4),
        torch.nn.Linear(256, 256),
        torch.nn.GELU(),
        torch.nn.Dropout(0.4),
        torch.nn.Linear(256, y.shape[1]),
    )
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.05)
    loss = torch.nn.BCEWithLogitsLoss()
    best, kept = np.inf, None
    for _ in range(80):
        net.train()
        for rows in torch.randperm(cut).split(64):
            optimiser.zero_grad()
            loss(net(xt[rows]), yt[rows]).backward()
            optimiser.step()
        net.eval()
        with torch.no_grad():
            now = float(loss(net(xt[cut:n_train]), yt[cut:n_train]))
            if now < best:
                best, kept = now, torch.sigmoid(net(xt)).numpy()
    assert kept is not None
    return kept


def likelihoods(predicted: np.ndarray, told: np.ndarray) -> list[np.ndarray]:
    """Score every (report, volume) pair by the log likelihood of the report's attributes.

    Returns:
        As it is, and against each volume's and each report's average, so that neither volumes that
        fit all reports nor reports that fit all volumes win everywhere; the best row is printed.
    """
    p = np.clip(predicted, *FLOORS)
    logs = told @ np.log(p).T + (1 - told) @ np.log(1 - p).T
    return [logs, logs - logs.mean(0), logs - logs.mean(1, keepdims=True)]


def both_ways(scores: list[np.ndarray]) -> dict[str, float]:
    """Return recalls of the scoring that serves each direction best."""
    forward = max((recall(s) for s in scores), key=lambda r: r["R@10"])
    backward = max((recall(s.T) for s in scores), key=lambda r: r["R@10"])
    return forward | {f"volume to report {k}": backward[k] for k in ("R@1", "R@10")}


def ranks(scores: np.ndarray) -> np.ndarray:
    """Return the expected rank of each query's own item; ties count by half."""
    own = np.diag(scores)[:, None]
    return 1 + (scores > own + 1e-9).sum(1) + ((np.abs(scores - own) <= 1e-9).sum(1) - 1) / 2


def recall(scores: np.ndarray) -> dict[str, float]:
    r = ranks(scores)
    return {f"R@{k}": round(100 * float((r <= k).mean()), 1) for k in (1, 5, 10)} | {
        "MdR": float(np.median(r))
    }


def auroc(score: np.ndarray, truth: np.ndarray) -> float:
    order = np.argsort(np.argsort(score, kind="stable")) + 1.0
    n = truth.sum()
    return float((order[truth > 0].sum() - n * (n + 1) / 2) / max(n * (len(truth) - n), 1))


def tf_idf(first: list[str], second: list[str]) -> np.ndarray:
    words = sorted({w for t in first + second for w in tokens(t)})
    place = {w: i for i, w in enumerate(words)}
    rows = []
    for texts in (first, second):
        counts = np.zeros((len(texts), len(words)), np.float32)
        for i, text in enumerate(texts):
            for w in tokens(text):
                counts[i, place[w]] += 1
        rows.append(np.log1p(counts))
    idf = np.log((1 + len(first)) / (1 + (rows[1] > 0).sum(0)))
    a, b = (r * idf for r in rows)
    a /= np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1e-9)
    b /= np.maximum(np.linalg.norm(b, axis=1, keepdims=True), 1e-9)
    return a @ b.T


def bm25(queries: list[str], documents: list[str], k1: float = 1.2, b: float = 0.75) -> np.ndarray:
    """Score every (query, document) by Okapi BM25, -> (Q, D).

    Source: Robertson and Zaragoza, "The probabilistic relevance framework: BM25 and beyond", 2009;
    idf = ln(1 + (D - n + 1/2) / (n + 1/2)), which is never negative.
    """
    words = sorted({w for t in queries + documents for w in tokens(t)})
    place = {w: i for i, w in enumerate(words)}
    asked, held = (np.zeros((len(texts), len(words))) for texts in (queries, documents))
    for table_, texts in ((asked, queries), (held, documents)):
        for i, text in enumerate(texts):
            for w in tokens(text):
                table_[i, place[w]] += 1
    n = (held > 0).sum(0)
    idf = np.log(1 + (len(documents) - n + 0.5) / (n + 0.5))
    lengths = held.sum(1, keepdims=True)
    weights = idf * held * (k1 + 1) / (held + k1 * (1 - b + b * lengths / lengths.mean()))
    return asked @ weights.T


def tokens(text: str) -> list[str]:
    return "".join(ch if ch.isalnum() else " " for ch in text.lower()).split()


def audit(
    rows: list[dict[str, Any]], n_train: int
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Return the table's lines, and the AUROC of each finding from intensity alone."""
    n_test = len(rows) - n_train
    names = sorted({a for r in rows for a in r["attributes"]})
    names = [a for a in names if sum(a in r["attributes"] for r in rows[:n_train]) >= 5]
    y = np.array([[a in r["attributes"] for a in names] for r in rows], np.float32)
    test = slice(n_train, None)
    features = {
        "histogram": np.stack([r["histogram"] for r in rows]),
        "grid 4^3": np.stack([r["grid"] for r in rows]),
    }
    features["both"] = np.concatenate(list(features.values()), 1)
    lines: list[dict[str, Any]] = []
    leaks: dict[str, float] = {}
    for name, x in features.items():
        for model, predicted in (("ridge", ridge(x, y, n_train)), ("MLP", mlp(x, y, n_train, 0))):
            scores = likelihoods(predicted[test], y[test])
            lines.append({"row": f"{name}, {model}"} | both_ways(scores))
            for kind in KINDS:
                if kind in names:
                    j = names.index(kind)
                    area = auroc(predicted[test][:, j], y[test][:, j])
                    leaks[kind] = max(leaks.get(kind, 0), area)
    texts, others = ([r[key] for r in rows[n_train:]] for key in ("text", "other_text"))
    oracle = likelihoods(y[test] * 0.98 + 0.01, y[test])
    plain = [i for i, a in enumerate(names) if "|" not in a]
    only = likelihoods(y[test][:, plain] * 0.98 + 0.01, y[test][:, plain])
    for title, scores in (
        ("TF-IDF, report against another wording", [tf_idf(texts, others)]),
        ("BM25, report against another wording", [bm25(texts, others)]),
        ("oracle of finding names", only),
        ("oracle of all attributes", oracle),
    ):
        lines.append({"row": title} | both_ways(scores))
    lines.append(
        {"row": "chance"}
        | {f"R@{k}": round(100 * k / n_test, 1) for k in (1, 5, 10)}
        | {"MdR": n_test / 2}
        | {f"volume to report R@{k}": round(100 * k / n_test, 1) for k in (1, 10)}
    )
    return lines, dict(sorted(leaks.items(), key=lambda item: -item[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="300 + 100 small phantoms")
    parser.add_argument("--size", type=int, nargs=3, default=(64, 96, 96))
    parser.add_argument("--train", type=int, default=1500)
    parser.add_argument("--test", type=int, default=500)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=900_000_000)
    parser.add_argument("--write", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    size = (args.size[0], args.size[1], args.size[2])
    n_train, n_test = (300, 100) if args.quick else (args.train, args.test)
    if args.quick:
        size = (32, 48, 48)
    jobs = [(args.seed + i, size) for i in range(n_train + n_test)]
    with ProcessPoolExecutor(args.workers) as pool:
        rows = list(pool.map(measure, jobs, chunksize=8))
    lines, given_away = audit(rows, n_train)
    print(table(lines))
    print(
        "\nAUROC by intensity alone:", json.dumps({k: round(v, 2) for k, v in given_away.items()})
    )
    words = [len(r["text"].split()) for r in rows[n_train:]]
    cost = float(np.median([r["cpu_s"] for r in rows]))
    print(f"\n{cost * 1000:.0f} CPU-ms a phantom of {size}; words: median {np.median(words):.0f}")
    if args.write:
        figures = {
            "size": list(size),
            "n_train": n_train,
            "n_test": n_test,
            "retrieval_percent": lines,
            "auroc_by_intensity": given_away,
            "phantom_cpu_ms": cost * 1000,
            "report_words_percentiles": {
                str(q): float(np.percentile(words, q)) for q in (0, 5, 50, 95, 100)
            },
        }
        print(write_result("phantom", figures, [args.seed]))


if __name__ == "__main__":
    main()
