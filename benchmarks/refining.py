"""Measure what a part of a CT finds, and what studies called right or wrong do to a search.

On the phantom benchmark, with the checkpoint that ships, whose vectors alone are compared. A region
is the box of model regions that hold a finding's lesion; a CT of another patient is right where it
has the finding, anywhere. Compared with the whole CT, and with a box of the same size drawn anywhere.

Feedback is simulated: of the first ten hits, the first right ones are liked and the first wrong ones
unliked; average precision is that of all other studies, before and after. Queries are findings by
name, two findings, one without another, and whole CTs, of which a finding is meant. The weights of
liked and unliked are chosen on ``val``.

Run: ``python benchmarks/refining.py``
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))
import phantom_pools as pools
from localisation import Case, lesions
from questions import LEAST, precision, questions, summary
from record import table, write_result
from regions import region_features

from medfinder.embed import Embedder
from medfinder.phantom.case import KINDS
from medfinder.search.question import read_question
from medfinder.search.refine import WEIGHTS, refined

SEED = 1
LIKED = (0.0, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
UNLIKED = (0.0, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
MARKS = ((1, 0), (0, 1), (1, 1), (3, 3))
"""How many are liked and unliked."""
N_STUDIES = 10
"""CTs of each finding that a search by a whole CT begins with."""

Floats = NDArray[np.float32]
Asked = tuple[Floats, NDArray[np.bool_], int]  # a place, what is right, a study that is no answer


def regional(
    cases: Sequence[Case],
    parts: Floats,
    volumes: Floats,
    has: Mapping[str, NDArray[np.bool_]],
    patients: NDArray[Any],
    n_regions: tuple[int, int, int],
) -> dict[str, list[float]]:
    """Return the average precision of each way to ask, a number a lesion.

    Args:
        parts: (N, dim, regions), what each region adds to each study's vector.
    """
    rng = np.random.default_rng(SEED)
    found: dict[str, list[float]] = {}
    for case in cases:
        others = patients != case.patient
        answers = has[case.finding.name] & others
        at = np.argwhere(case.lesion.counts.reshape(n_regions) > 0)
        if answers.sum() < LEAST or not len(at):
            continue
        low, size = at.min(0), np.ptp(at, axis=0) + 1
        elsewhere = rng.integers(0, np.array(n_regions) - size + 1)
        scores = {
            "chance": rng.random(len(volumes)),
            "the whole CT": volumes @ volumes[case.row],
            "a box of that size, anywhere": volumes @ _boxed(parts[case.row], elsewhere, size, n_regions),
            "the region": volumes @ _boxed(parts[case.row], low, size, n_regions),
        }  # fmt: skip
        for way, values in scores.items():
            found.setdefault(way, []).append(precision(values[others], answers[others]))
    return found


def _boxed(
    parts: Floats, low: NDArray[Any], size: NDArray[Any], n_regions: tuple[int, int, int]
) -> Floats:
    inside = np.zeros(n_regions, bool)
    inside[tuple(slice(a, a + n) for a, n in zip(low, size, strict=True))] = True
    return np.asarray(parts[:, inside.ravel()].sum(axis=1))


def marked(
    asked: Sequence[Asked], volumes: Floats, n_marks: tuple[int, int], weights: tuple[float, float]
) -> list[tuple[float, float]]:
    """Return the average precision of the studies that nobody marked, before and after."""
    pairs = []
    for place, answers, own in asked:
        scores = volumes @ place
        first = [i for i in np.argsort(-scores, kind="stable") if i != own][:10]
        right = [i for i in first if answers[i]][: n_marks[0]]
        wrong = [i for i in first if not answers[i]][: n_marks[1]]
        left = np.ones(len(volumes), bool)
        left[[*right, *wrong, *([own] if own >= 0 else [])]] = False
        if len(right) < n_marks[0] or len(wrong) < n_marks[1] or answers[left].sum() < 3:
            continue
        moved = refined(place, list(volumes[right]), list(volumes[wrong]), weights)
        assert moved is not None
        pairs.append(
            (
                precision(scores[left], answers[left]),
                precision((volumes @ moved)[left], answers[left]),
            )
        )
    return pairs


def asked_of(
    volumes: Floats, has: Mapping[str, NDArray[np.bool_]], embed: Callable[[Sequence[str]], Floats]
) -> dict[str, list[Asked]]:
    """Return the queries of each kind."""
    made: dict[str, list[Asked]] = {}
    some = {name: has[name] for name in KINDS if has[name].sum() >= 10}
    texts = {"a finding": list(some.items())}
    texts |= {k: v for k, v in questions(has).items() if k in ("X and Y", "X without Y")}
    for kind, pairs in texts.items():
        made[kind] = [(read_question(text).place(embed), answers, -1) for text, answers in pairs]
    rng = np.random.default_rng(SEED)
    made["a whole CT"] = [
        (volumes[own], answers, int(own))
        for answers in some.values()
        for own in rng.choice(np.flatnonzero(answers), N_STUDIES, replace=False)
    ]
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cache = Path("~/.cache/medfinder").expanduser()
    parser.add_argument("--folder", type=Path, default=cache / "robustness")
    parser.add_argument("--pools", type=Path, default=cache / "recipes", help="of clean volumes")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw")
    args = parser.parse_args()
    embedder = Embedder("medfinder")
    info = embedder.info
    assert info.preprocess is not None
    assert info.n_regions is not None
    data = pools.Data(args.pools, seed=SEED, preprocess=info.preprocess, workers=args.workers)
    found: dict[str, Any] = {
        "model": embedder.model_id,
        "weights": {kind: list(pair) for kind, pair in WEIGHTS.items()},
        "region": {},
        "feedback": {},
    }
    rows: list[dict[str, Any]] = []
    for split in ("val", "test"):
        studies = data.studies(split)
        patients = np.array([study.patient_id for study in studies])
        has = {k: np.array([study.case.has(k) for study in studies]) for k in KINDS}
        regions = region_features(embedder, data, split, args.folder / "regions")
        basis = np.eye(info.dim, dtype=np.float32)
        tell = embedder.encoder.contributions  # type: ignore[attr-defined]
        parts = np.concatenate(
            [tell(regions[i : i + 20], basis) for i in range(0, len(regions), 20)]
        )
        ids = [study.study_id for study in studies]
        volumes = embedder.embed_regions(ids, regions).vectors
        cases, _ = lesions(
            studies, info.preprocess, info.n_regions, args.folder / "lesions", args.workers
        )
        ways = regional(cases, parts, volumes, has, patients, info.n_regions)
        del parts
        found["region"][split] = {
            "n": len(ways["the region"]),
            **{way: summary(values) for way, values in ways.items()},
        }
        asked = asked_of(volumes, has, lambda texts: embedder.embed_texts(texts).vectors)
        for kind, queries in asked.items():
            is_ct = kind == "a whole CT"
            chosen = WEIGHTS["ct" if is_ct else "words"]
            for n_marks in MARKS:
                pairs = np.array(marked(queries, volumes, n_marks, chosen))
                one = {
                    "n": len(pairs),
                    "before": summary(pairs[:, 0]),
                    "after": summary(pairs[:, 1]),
                    "gain": summary(pairs[:, 1] - pairs[:, 0]),
                }
                if split == "val":
                    one["after, by weights"] = {
                        f"{a:g}, {b:g}": float(np.mean(marked(queries, volumes, n_marks, (a, b)), axis=0)[1])
                        for a in (LIKED if n_marks[0] else LIKED[:1])
                        for b in (UNLIKED if n_marks[1] else UNLIKED[:1])
                    }  # fmt: skip
                marks = f"{n_marks[0]} liked, {n_marks[1]} unliked"
                found["feedback"].setdefault(split, {}).setdefault(kind, {})[marks] = one
                row = {"split": split, "query": kind, "marks": marks, "n": one["n"]}
                row |= {m: one[m]["value"] for m in ("before", "after", "gain")}
                rows.append(row)
    print(table([{"split": s, **{k: v["value"] if isinstance(v, dict) else v for k, v in one.items()}}
                 for s, one in found["region"].items()]))  # fmt: skip
    print(table(rows))
    notes = (
        "Average precision in percent, with 95 % intervals over drawn queries. Regions are known from "
        "the lesions' masks: nobody draws so well. The weights were chosen on val."
    )
    print(write_result("refining", found, [SEED], notes))


if __name__ == "__main__":
    main()
