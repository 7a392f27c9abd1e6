"""Measure whether a second, slower look at the top 100 of the one-vector ranking improves it.

Late interaction: each sentence of a report asks each region of a volume (`DualStream.contributions`,
less what is usual at that place over ``val``), keeps what its hottest regions answer, and the
sentences' answers are added up by the weights that the text encoder gives them. Hub correction takes
off each candidate the mean similarity of its 10 nearest queries among those of ``val``. How many
regions are kept, and how much the second look counts beside the first, are chosen on ``val``.

Run: ``python benchmarks/reranking.py [--model medfinder]``
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))
import phantom_pools as pools
from record import table, write_result
from regions import region_features

from medfinder.embed import Embedder
from medfinder.phantom.splits import BenchmarkSplit
from medfinder.ranking.measures import success_at_k
from medfinder.ranking.ranks import rank_scores
from medfinder.ranking.significance import bootstrap_interval, permutation_test
from medfinder.report.sentences import sentences

Floats = NDArray[np.float64]

SEED = 1
DEPTH = 100
N_NEAREST = 10
WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)
POOLINGS: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    "hottest region": lambda parts: parts.max(-1),
    "8 hottest": lambda parts: np.partition(parts, -8, -1)[..., -8:].sum(-1),
    "32 hottest": lambda parts: np.partition(parts, -32, -1)[..., -32:].sum(-1),
}
WAYS = ("report_to_volume", "volume_to_report")
CHUNK = 10
N_TIMED = 20


@dataclass(frozen=True, eq=False)
class Side:
    """One split, ready to be asked.

    Attributes:
        patients: N.
        volumes: (N, dim).
        texts: (N, dim).
        regions: (N, regions, F).
        told: Each report's sentences, as rows of `vectors`.
        vectors: (S, dim) of the distinct sentences.
        weights: (S,) how much each counts in its report.
    """

    patients: list[str]
    volumes: Floats
    texts: Floats
    regions: NDArray[np.float16]
    told: list[NDArray[np.int64]]
    vectors: NDArray[np.float32]
    weights: Floats


def side_of(embedder: Embedder, data: pools.Data, split: BenchmarkSplit, folder: Path) -> Side:
    asked = pools.questions(data, split)
    regions = region_features(embedder, data, split, folder)
    ids = [study.study_id for study in asked.studies]
    rows = [[text[a:b] for a, b in sentences(text)] or [text] for text in asked.reports]
    number = {s: i for i, s in enumerate(sorted({s for row in rows for s in row}))}
    return Side(
        patients=[study.patient_id for study in asked.studies],
        volumes=np.float64(embedder.embed_regions(ids, regions).vectors),
        texts=np.float64(embedder.embed_texts(asked.reports).vectors),
        regions=regions,
        told=[np.array([number[s] for s in row], np.int64) for row in rows],
        vectors=embedder.embed_texts(list(number)).vectors,
        weights=gates(embedder, list(number)),
    )


def gates(embedder: Embedder, texts: Sequence[str]) -> Floats:
    """Return the length of what each sentence adds to its report before normalising."""
    import torch

    model = embedder.encoder.model  # type: ignore[attr-defined]
    found = []
    with torch.inference_mode():
        for i in range(0, len(texts), 256):
            features = model.eval().text(model.text.tokenize(list(texts[i : i + 256])))
            found.append((features.pooled @ model.text_head.weight.T).norm(dim=1).double())
    return np.asarray(torch.cat(found).numpy())


def usual_parts(embedder: Embedder, regions: NDArray[np.float16], vectors: Any) -> Any:
    """Return what each region adds to each sentence in the mean over volumes, (S, regions)."""
    total = np.zeros((len(vectors), regions.shape[1]))
    for i in range(0, len(regions), CHUNK):
        total += parts_of(embedder, regions[i : i + CHUNK], vectors).sum(0, dtype=np.float64)
    return np.float32(total / len(regions))


def parts_of(embedder: Embedder, regions: NDArray[np.float16], vectors: Any) -> Any:
    return embedder.encoder.contributions(regions, vectors)  # type: ignore[attr-defined]


def answers(embedder: Embedder, side: Side, usual: Any) -> dict[str, Floats]:
    """Return pooling -> late interaction of every report with every volume, (N, N)."""
    per = {name: np.zeros((len(side.vectors), len(side.regions))) for name in POOLINGS}
    for i in range(0, len(side.regions), CHUNK):
        parts = parts_of(embedder, side.regions[i : i + CHUNK], side.vectors) - usual
        for name, pool in POOLINGS.items():
            per[name][:, i : i + CHUNK] = pool(parts).T
    return {
        name: np.stack([side.weights[rows] @ scores[rows] for rows in side.told])
        for name, scores in per.items()
    }


def reranked(first: Floats, second: Floats, weight: float | None) -> Floats:
    """Rank the `DEPTH` best of each line of `first` again; the others stay below, in their order.

    Within those, both scores are brought to mean 0 and spread 1 and added, the second by `weight`;
    None for the second alone.
    """
    out = np.empty_like(first)
    for i, (line, other) in enumerate(zip(first, second, strict=True)):
        top = np.argsort(-line, kind="stable")[:DEPTH]
        a, b = standard(line[top]), standard(other[top])
        mixed = b if weight is None else a + weight * b
        out[i] = line - line.max() - 100
        out[i, top] = mixed
    return out


def standard(values: Floats) -> Floats:
    spread = values.std()
    return np.asarray((values - values.mean()) / (spread if spread > 0 else 1.0))


def won(scores: Floats) -> dict[str, Floats]:
    ranks = rank_scores(np.round(scores, 9))
    return {f"R@{k}": 100 * success_at_k(ranks, k) for k in (1, 10)}


def by_way(scores: Floats, way: str) -> Floats:
    """Return report x volume scores with the asking side first."""
    return scores if way == WAYS[0] else scores.T


def choose(val: Side, late: Mapping[str, Floats]) -> dict[str, tuple[str, float]]:
    """Return way -> the pooling and the weight with the best R@1 on ``val``, then R@10."""
    base = val.texts @ val.volumes.T
    chosen = {}
    for way in WAYS:
        tried = {}
        for name, scores in late.items():
            for weight in WEIGHTS:
                own = won(reranked(by_way(base, way), by_way(scores, way), weight))
                tried[name, weight] = (own["R@1"].mean(), own["R@10"].mean(), -weight)
        chosen[way] = max(tried, key=lambda key: tried[key])
    return chosen


def without_hubs(asking: Floats, answering: Floats, bank: Floats) -> Floats:
    """Return 2 cos less each item's mean cosine to its nearest queries of a bank.

    Source:
        CSLS: Conneau et al., "Word translation without parallel data", arXiv 1710.04087, section
        2.3; what is subtracted for the query does not change its ranking.
    """
    near = np.sort(bank @ answering.T, axis=0)[-N_NEAREST:].mean(0)
    return np.asarray(2 * asking @ answering.T - near)


def row_of(
    values: Mapping[str, Floats], base: Mapping[str, Floats], patients: Sequence[str]
) -> dict[str, Any]:
    row = {}
    for name, own in values.items():
        found = bootstrap_interval(own, patients)
        gap = bootstrap_interval(own - base[name], patients)
        row[name] = {
            "value": found.estimate, "low": found.low, "high": found.high,
            "change": gap.estimate, "change_low": gap.low, "change_high": gap.high,
            "p": permutation_test(own, base[name], patients),
        }  # fmt: skip
    return row


def costs(embedder: Embedder, side: Side, usual: Any) -> dict[str, float]:
    """Time one query over a hundred candidates, and the one-vector ranking of all, in ms."""
    first = time.perf_counter()
    for i in range(N_TIMED):
        np.argsort(-(side.volumes @ side.texts[i]))[:DEPTH]
    one = time.perf_counter() - first
    kept = np.ascontiguousarray(side.regions[:DEPTH])
    started = time.perf_counter()
    for i in range(N_TIMED):
        rows = side.told[i]
        parts = parts_of(embedder, kept, side.vectors[rows]) - usual[rows]
        POOLINGS["hottest region"](parts) @ side.weights[rows]
    late = time.perf_counter() - started
    return {
        "one vector ms": 1000 * one / N_TIMED,
        "late interaction ms": 1000 * late / N_TIMED,
        "kept of a study kib": side.regions[0].nbytes / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cache = Path("~/.cache/medfinder").expanduser()
    parser.add_argument("--model", default="medfinder", help="an encoder or a checkpoint's folder")
    parser.add_argument("--folder", type=Path, default=cache / "robustness")
    parser.add_argument("--pools", type=Path, default=cache / "recipes", help="of clean volumes")
    args = parser.parse_args()
    embedder = Embedder(args.model)
    data = pools.Data(args.pools, seed=SEED, preprocess=embedder.info.preprocess)
    val, test = (side_of(embedder, data, s, args.folder / "regions") for s in ("val", "test"))
    chosen = choose(val, answers(embedder, val, usual_parts(embedder, val.regions, val.vectors)))
    usual = usual_parts(embedder, val.regions, test.vectors)
    late = answers(embedder, test, usual)
    base = test.texts @ test.volumes.T
    figures: dict[str, Any] = {
        "model": embedder.model_id,
        "n": len(test.texts),
        "depth": DEPTH,
        "cost": costs(embedder, test, usual),
        "ways": {},
    }
    shown = []
    for way in WAYS:
        first = won(by_way(base, way))
        pooling, weight = chosen[way]
        sides = (test.texts, test.volumes, val.texts)
        if way == WAYS[1]:
            sides = (test.volumes, test.texts, val.volumes)
        again = {
            "one vector": by_way(base, way),
            "late interaction alone": reranked(
                by_way(base, way), by_way(late["hottest region"], way), None
            ),
            "one vector + late interaction": reranked(
                by_way(base, way), by_way(late[pooling], way), weight
            ),
            "one vector without hubs": without_hubs(*sides),
        }
        figures["ways"][way] = {
            "chosen": {"pooling": pooling, "weight": weight},
            "rows": {name: row_of(won(s), first, test.patients) for name, s in again.items()},
        }
        shown += [
            {"way": way, "row": name}
            | {f"{k}{part}": one[k][part or "value"] for k in one for part in ("", "change", "p")}
            for name, one in figures["ways"][way]["rows"].items()
        ]
    print(table(shown))
    print(figures["cost"], chosen)
    notes = (
        "Pooling and weight of the mixed row are the best on val, where a weight of 0 (no second "
        "look) could win. Costs are of one core with other work beside it."
    )
    print(write_result("reranking", figures, [SEED], notes))


if __name__ == "__main__":
    main()
