"""Measure whether what a model's regions add to a query's score lies where the finding is.

The benchmark's phantoms are drawn again with their lesion masks. Of each finding a study shows, two
queries are asked: its name ("Nodule.") and its name with its place ("Nodule in the right upper
lobe."). The map is `DualStream.contributions`: as it is, less what is usual at its place over the
volumes of ``val``, that smoothed over neighbouring regions, and that times where the finding usually
lies in ``val``. The last alone is a map that sees no volume. ``val`` also gives how many regions are
shown (for Dice).

Run: ``python benchmarks/localisation.py [--model medfinder] [--workers 2]``
"""

import argparse
import hashlib
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).parent))
import phantom_pools as pools
from record import table, write_result
from regions import region_features

from medfinder.benchmark.localisation import (
    Lesion,
    best_dice,
    chance_to_point,
    dice_of_hottest,
    lesion_by_region,
    points_at,
)
from medfinder.embed import Embedder
from medfinder.errors import InputError
from medfinder.phantom.allocator import keep_freed_memory
from medfinder.phantom.benchmark import SIZE
from medfinder.phantom.case import FindingSpec
from medfinder.phantom.chest import PhantomConfig, make_phantom
from medfinder.phantom.splits import BenchmarkSplit, BenchmarkStudy
from medfinder.ranking.significance import bootstrap_interval
from medfinder.volume.preprocess import PreprocessConfig, output_affine

Floats = NDArray[np.float64]

SEED = 1
N_DRAWS = 1000
MIN_USUAL = 3
"""Lesions of ``val`` that a usual place is made of; of fewer, that of the finding's name is taken."""
QUERIES = ("name", "place")
MAPS = (
    "contributions",
    "less the usual",
    "smoothed",
    "smoothed, where usual",
    "usual place",
    "random",
)
SMOOTH = 1.0
"""Standard deviation, in regions, of the normal curve that smooths; the best on ``val`` of 0 to 1."""
SPLITS: tuple[BenchmarkSplit, ...] = ("val", "test")


@dataclass(frozen=True, eq=False)
class Case:
    """One finding of one study.

    Attributes:
        row: Of the study in its split.
        patient: Whose.
        finding: What.
        lesion: Where.
    """

    row: int
    patient: str
    finding: FindingSpec
    lesion: Lesion

    def query(self, kind: str) -> str:
        """Return what is asked."""
        return told(self.finding) if kind == "place" else pools.prompt(self.finding.name)


def told(finding: FindingSpec) -> str:
    """Say a finding with its side and lobe, as far as it has them."""
    if finding.lobe:
        return f"{finding.name.capitalize()} in the {finding.side} {finding.lobe} lobe."
    side = f"{finding.side} " if finding.side else ""
    return f"{side}{finding.name}.".capitalize()


# --- where lesions are


def lesions(
    studies: Sequence[BenchmarkStudy],
    config: PreprocessConfig,
    n_regions: tuple[int, int, int],
    folder: Path,
    workers: int,
) -> tuple[list[Case], int]:
    """Return every finding that can be seen in its mask, and how many are wholly hidden by others."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{_key(study, config, n_regions)}.npz" for study in studies]
    todo = [
        (s, config, n_regions, p) for s, p in zip(studies, paths, strict=True) if not p.is_file()
    ]
    if todo:
        start = time.perf_counter()
        with ProcessPoolExecutor(workers, get_context("spawn"), keep_freed_memory) as executor:
            for n, _ in enumerate(executor.map(_draw, todo, chunksize=4), 1):
                if n % 50 == 0:
                    print(
                        f"drew {n} of {len(todo)}, {time.perf_counter() - start:.0f} s", flush=True
                    )
    cases, n_hidden = [], 0
    for row, (study, path) in enumerate(zip(studies, paths, strict=True)):
        with np.load(path) as kept:
            for i, finding in enumerate(study.case.findings):
                n = int(kept["n_voxels"][i])
                n_hidden += n == 0
                if n:
                    lesion = Lesion(kept["counts"][i].astype(np.int64), n, float(kept["cell"]))
                    cases.append(Case(row, study.patient_id, finding, lesion))
    return cases, n_hidden


def _draw(job: tuple[BenchmarkStudy, PreprocessConfig, tuple[int, int, int], Path]) -> None:
    study, config, n_regions, path = job
    drawn = make_phantom(study.seed, PhantomConfig(size=SIZE, acquisition=study.acquisition),
                         study.case)  # fmt: skip
    assert config.size is not None
    placed = output_affine(drawn.volume, config)
    n = len(study.case.findings)
    counts = np.zeros((n, int(np.prod(n_regions))), np.int32)
    n_voxels = np.zeros(n, np.int64)
    cell = 0.0
    for i in range(n):
        try:
            lesion = lesion_by_region(
                drawn.lesion_mask == i + 1, drawn.volume.affine, placed, config.size, n_regions
            )
        except InputError:  # another finding was drawn over it
            continue
        counts[i], n_voxels[i], cell = lesion.counts, lesion.n_voxels, lesion.n_in_region
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez_compressed(file, counts=counts, n_voxels=n_voxels, cell=cell)
    part.replace(path)


def _key(study: BenchmarkStudy, config: PreprocessConfig, n_regions: tuple[int, int, int]) -> str:
    what = [pools.study_key(study, SIZE, config).hex(), n_regions, 1]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:24]


# --- maps


def usual_places(cases: Sequence[Case], kind: str) -> Callable[[Case], Floats]:
    """Return a map of where a query's findings lie, from other studies: mean share of each region."""
    found: dict[str, list[Floats]] = defaultdict(list)
    for case in cases:
        share = case.lesion.counts / case.lesion.n_voxels
        found[case.query(kind)].append(share)
        if kind != "name":
            found[case.query("name")].append(share)
    mean = {query: np.mean(shares, axis=0) for query, shares in found.items()}

    def usual(case: Case) -> Floats:
        query = case.query(kind)
        known = len(found.get(query, ())) >= MIN_USUAL
        return mean.get(query if known else case.query("name"), np.zeros(len(case.lesion.counts)))

    return usual


class Maps:
    """Each kind of map of each case.

    Args:
        contributions: Split -> (N, T, regions).
        column: Query -> its place among T.
    """

    def __init__(
        self,
        contributions: Mapping[str, NDArray[np.float32]],
        column: Mapping[str, int],
        val: Sequence[Case],
        kind: str,
        n_regions: tuple[int, int, int],
    ) -> None:
        self.contributions, self.column, self.kind = contributions, column, kind
        self.n_regions = n_regions
        self.mean = contributions["val"].mean(axis=0)  # (T, regions)
        self.usual = usual_places(val, kind)

    def of(self, name: str, case: Case, split: str) -> Floats:
        """Return one map, (regions,)."""
        if name == "usual place":
            return self.usual(case)
        if name == "random":
            seed = [case.row, case.finding.seed, SPLITS.index("test" if split == "test" else "val")]
            return np.random.default_rng(seed).random(len(case.lesion.counts))
        column = self.column[case.query(self.kind)]
        heat = self.contributions[split][case.row, column].astype(np.float64)
        if name != "contributions":
            heat = heat - self.mean[column]
        if name.startswith("smoothed"):
            grid = heat.reshape(self.n_regions)
            heat = ndimage.gaussian_filter(grid, SMOOTH, mode="constant").ravel()
        if name.endswith("where usual"):
            heat = np.maximum(heat, 0) * self.usual(case)
        return heat


# --- figures


def figures_of(maps: Maps, val: Sequence[Case], test: Sequence[Case]) -> dict[str, Any]:
    """Measure every kind of map on the cases of ``test``."""
    patients = [case.patient for case in test]
    names = [case.finding.name for case in test]
    shown: dict[str, Any] = {}
    hits: dict[str, Floats] = {}
    dices: dict[str, Floats] = {}
    for name in MAPS:
        hits[name] = np.array([points_at(maps.of(name, c, "test"), c.lesion) for c in test])
        numbers = numbers_shown(maps, name, val)
        dices[name] = np.array(
            [
                dice_of_hottest(
                    maps.of(name, c, "test"), c.lesion, np.array([numbers[c.finding.name]])
                )[0]
                for c in test
            ]
        )
        val_hits = [points_at(maps.of(name, c, "val"), c.lesion) for c in val]
        shown[name] = {
            "pointing": interval(hits[name], patients),
            "dice": interval(dices[name], patients),
            "pointing on val": 100 * float(np.mean(val_hits)),
            "regions shown": numbers,
        }
    chance = np.array([chance_to_point(c.lesion) for c in test])
    ceiling = np.array([best_dice(c.lesion) for c in test])
    for name in MAPS[:4]:
        shown[name]["pointing more than the usual place"] = interval(
            hits[name] - hits["usual place"], patients
        )
        shown[name]["dice more than the usual place"] = interval(
            dices[name] - dices["usual place"], patients
        )
    by_finding = {}
    for finding in sorted(set(names)):
        own = np.array([n == finding for n in names])
        by_finding[finding] = {
            "n": int(own.sum()),
            "chance": 100 * float(chance[own].mean()),
            "ceiling dice": 100 * float(ceiling[own].mean()),
            "pointing": {name: 100 * float(hits[name][own].mean()) for name in MAPS},
            "dice": {name: 100 * float(dices[name][own].mean()) for name in MAPS},
        }
    return {
        "maps": shown,
        "chance": 100 * float(chance.mean()),
        "ceiling dice": 100 * float(ceiling.mean()),
        "by_finding": by_finding,
    }


def numbers_shown(maps: Maps, name: str, val: Sequence[Case]) -> dict[str, int]:
    """Return, by finding, how many of the hottest regions cover it best on ``val``."""
    n = len(val[0].lesion.counts)
    numbers = np.unique(np.geomspace(1, n, 40).astype(np.int64))
    sums: dict[str, Floats] = defaultdict(lambda: np.zeros(len(numbers)))
    for case in val:
        sums[case.finding.name] += dice_of_hottest(maps.of(name, case, "val"), case.lesion, numbers)
    chosen = {finding: int(numbers[np.argmax(total)]) for finding, total in sums.items()}
    return defaultdict(lambda: 1, chosen)


def interval(values: Floats, patients: Sequence[str]) -> dict[str, float]:
    found = bootstrap_interval(100 * values, patients, n_draws=N_DRAWS)
    return {"value": found.estimate, "low": found.low, "high": found.high}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cache = Path("~/.cache/medfinder").expanduser()
    parser.add_argument("--model", default="medfinder", help="an encoder or a checkpoint's folder")
    parser.add_argument("--folder", type=Path, default=cache / "robustness")
    parser.add_argument("--pools", type=Path, default=cache / "recipes", help="of clean volumes")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw")
    args = parser.parse_args()
    embedder = Embedder(args.model)
    info = embedder.info
    assert info.preprocess is not None
    assert info.n_regions is not None
    data = pools.Data(args.pools, seed=SEED, preprocess=info.preprocess, workers=args.workers)
    cases: dict[str, list[Case]] = {}
    hidden: dict[str, int] = {}
    for split in SPLITS:
        cases[split], hidden[split] = lesions(
            data.studies(split),
            info.preprocess,
            info.n_regions,
            args.folder / "lesions",
            args.workers,
        )
    queries = sorted({c.query(k) for some in cases.values() for c in some for k in QUERIES})
    column = {query: i for i, query in enumerate(queries)}
    texts = embedder.embed_texts(queries).vectors
    contributions = {}
    for split in SPLITS:
        regions = region_features(embedder, data, split, args.folder / "regions")
        contributions[split] = np.concatenate(
            [
                embedder.encoder.contributions(regions[i : i + 20], texts)  # type: ignore[attr-defined]
                for i in range(0, len(regions), 20)
            ]
        )
    figures: dict[str, Any] = {
        "model": embedder.model_id,
        "region_mm": [
            s * mm / n
            for s, mm, n in zip(
                info.preprocess.size or (),
                info.preprocess.spacing_mm or (),
                info.n_regions,
                strict=True,
            )
        ],
        "n_regions": list(info.n_regions),
        "n_lesions": len(cases["test"]),
        "n_hidden": hidden["test"],
    }
    for kind in QUERIES:
        maps = Maps(contributions, column, cases["val"], kind, info.n_regions)
        figures[kind] = figures_of(maps, cases["val"], cases["test"])
        rows = [
            {"query": kind, "map": name}
            | {m: one[m]["value"] for m in ("pointing", "dice")}
            | {"pointing on val": one["pointing on val"]}
            for name, one in figures[kind]["maps"].items()
        ]
        print(table(rows))
        print(f"chance {figures[kind]['chance']:.1f}, ceiling {figures[kind]['ceiling dice']:.1f}")
    notes = (
        "A region is hit when it holds a voxel of the lesion: its centre then lies in the lesion "
        "dilated by half a region. Dice is of whole regions, as many as are best on val for each "
        "finding; the ceiling is the best choice of whole regions. Where findings overlap, a mask "
        "keeps the one drawn last."
    )
    print(write_result("localisation", figures, [SEED], notes))


if __name__ == "__main__":
    main()
