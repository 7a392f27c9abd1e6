"""Draw the phantom benchmark as arrays, and measure on it whatever scores texts against volumes.

From Python, on a checkpoint or a model in training::

    data = Data(Path("~/.cache/medfinder/recipes").expanduser())
    measures(JointEncoder(model), data, split="val")

Choices are made on ``val`` only; every other split is looked at once a run is over. What each figure
means is said at `score`.
"""

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medfinder.config import config_hash
from medfinder.embed import Embedder
from medfinder.model.encoder import Encoder
from medfinder.phantom.allocator import keep_freed_memory
from medfinder.phantom.benchmark import SIZE
from medfinder.phantom.case import KINDS, CaseSpec
from medfinder.phantom.chest import PhantomConfig, make_phantom, voxel_edge_mm
from medfinder.phantom.counterfactual import Counterfactual
from medfinder.phantom.splits import (
    VOXEL_MM,
    BenchmarkSplit,
    BenchmarkStudy,
    benchmark_studies,
    counterfactual_pairs,
    has_unseen_combination,
    report_of,
)
from medfinder.phantom.swaps import Swap, attribute_swaps
from medfinder.ranking.measures import (
    auroc,
    average_precision,
    first_rank,
    success_at_k,
)
from medfinder.ranking.ranks import rank_scores
from medfinder.ranking.significance import bootstrap_interval
from medfinder.volume.cache import PREPROCESS_VERSION
from medfinder.volume.preprocess import PreprocessConfig, preprocess
from phantom import EDGES, FLOORS, attributes, bm25, likelihoods, mlp, ridge, seen, tf_idf

Floats = NDArray[np.float64]
Progress = Callable[[int, int], None]

N_WORDINGS = 4
"""Paraphrases of each training report."""
N_SWAPS = 1000
MIN_POSITIVE = 5
"""Studies of a pool that must have a finding, and that must not, for a figure of that finding."""
KS = (1, 5, 10)
N_DRAWS = 1000
_N_CELLS = 64


@dataclass(frozen=True, eq=False)
class Pool:
    """Studies with their volumes.

    Attributes:
        studies: N.
        volumes: (N, C, D, H, W) as the preprocessing makes them; memory-mapped.
        histograms: (N, 101) square roots of shares of voxels, `phantom.seen`; None if not kept.
        grids: (N, 64) mean HU / 300 of a 4x4x4 grid; None if not kept.
    """

    studies: list[BenchmarkStudy]
    volumes: NDArray[Any]
    histograms: NDArray[np.float32] | None = None
    grids: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Data:
    """The benchmark's pools in a folder, drawn when they are asked for.

    Attributes:
        folder: Outside the repository; about 2.4 GB at these numbers.
        seed: Of the benchmark.
        n_train, n_val, n_test: Studies of each split; every test split has `n_test`.
        n_pairs, n_val_pairs: Counterfactual pairs of ``test`` and of ``val``.
        size: Voxels (D, H, W) of a phantom.
        preprocess: None for `ModelConfig().preprocess`.
        workers: Processes that draw.
    """

    folder: Path
    seed: int = 1
    n_train: int = 6000
    n_val: int = 300
    n_test: int = 500
    n_pairs: int = 400
    n_val_pairs: int = 200
    size: tuple[int, int, int] = SIZE
    preprocess: PreprocessConfig | None = None
    workers: int = 1

    def studies(self, split: BenchmarkSplit) -> list[BenchmarkStudy]:
        """List the studies of a split."""
        return _studies(self, split)

    def pairs(
        self, split: Literal["val", "test"]
    ) -> list[tuple[BenchmarkStudy, BenchmarkStudy, Counterfactual]]:
        """List the counterfactual pairs of a split whose reports differ."""
        return _pairs(self, split)

    def pool(self, split: BenchmarkSplit, progress: Progress | None = None) -> Pool:
        """Return a split, drawing what is missing."""
        studies = self.studies(split)
        if split == "unseen-wording":  # shares the volumes of test
            return replace(self.pool("test", progress), studies=studies)
        return self._drawn(split, studies, progress)

    def changed(self, split: Literal["val", "test"], progress: Progress | None = None) -> Pool:
        """Return the changed studies of `pairs`, in their order."""
        name = "changed" if split == "test" else f"{split}-changed"
        return self._drawn(name, [b for _, b, _ in self.pairs(split)], progress)

    def _drawn(
        self, name: str, studies: list[BenchmarkStudy], progress: Progress | None = None
    ) -> Pool:
        return draw_studies(
            name, studies, self.folder, self.workers, self.size, self.preprocess, progress
        )


@cache
def _studies(data: Data, split: BenchmarkSplit) -> list[BenchmarkStudy]:
    n = {"train": data.n_train, "val": data.n_val}.get(split, data.n_test)
    voxel_mm = max(VOXEL_MM, voxel_edge_mm(data.size))
    return benchmark_studies(split, n, data.seed, voxel_mm=voxel_mm)


@cache
def _pairs(
    data: Data, split: Literal["val", "test"]
) -> list[tuple[BenchmarkStudy, BenchmarkStudy, Counterfactual]]:
    n = data.n_pairs if split == "test" else data.n_val_pairs
    found = counterfactual_pairs(data.studies(split), 2 * n, data.seed)
    return [pair for pair in found if report_of(pair[0]) != report_of(pair[1])][:n]


# --- drawing


def draw(
    split: BenchmarkSplit,
    n: int,
    seed: int,
    folder: Path,
    workers: int,
    progress: Progress | None = None,
) -> Pool:
    """Draw a split of the benchmark at its usual size; see `draw_studies`."""
    studies = benchmark_studies(split, n, seed)
    return draw_studies(split, studies, folder, workers, progress=progress)


def draw_studies(
    name: str,
    studies: list[BenchmarkStudy],
    folder: Path,
    workers: int = 1,
    size: tuple[int, int, int] = SIZE,
    config: PreprocessConfig | None = None,
    progress: Progress | None = None,
) -> Pool:
    """Draw studies into memory-mapped arrays; one that lies there already is not drawn again.

    What lies there is known by its case, seed, scanner settings, size, preprocessing and by the code
    that draws: when any of these changes, those studies are drawn again. Killed, it goes on where it
    stopped; more studies only add.
    """
    config = config or _default_preprocess()
    assert config.size is not None
    place = folder / f"{_shape(size)}-{config_hash(config)[:12]}" / name
    place.mkdir(parents=True, exist_ok=True)
    n = len(studies)
    shape = (config.n_channels, *config.size)
    parts = (
        _grown(place / "volumes", (n, *shape), config.dtype),
        _grown(place / "histograms", (n, len(EDGES) - 1), "float32"),
        _grown(place / "grids", (n, _N_CELLS), "float32"),
        _grown(place / "keys", (n, 16), "uint8"),
    )
    volumes, histograms, grids, keys = parts
    wanted = np.stack([_key(study, size, config) for study in studies])
    todo = np.flatnonzero((keys != wanted).any(1))
    jobs = ((studies[i], size, config) for i in todo)
    if len(todo) <= 1 or workers <= 1:
        made = map(_one, jobs)
        _fill(parts, wanted, todo, made, progress)
    else:
        with ProcessPoolExecutor(workers, get_context("spawn"), keep_freed_memory) as executor:
            _fill(parts, wanted, todo, executor.map(_one, jobs, chunksize=4), progress)
    for part in parts:
        part.flush()
        part.flags.writeable = False
    return Pool(studies, volumes, histograms, grids)


def _one(job: tuple[BenchmarkStudy, tuple[int, int, int], PreprocessConfig]) -> tuple[Any, ...]:
    study, size, config = job
    drawn = make_phantom(
        study.seed, PhantomConfig(size=size, acquisition=study.acquisition), study.case
    )
    return preprocess(drawn.volume, config, n_threads=1), *seen(drawn.volume.hu)


def _fill(
    parts: Sequence[NDArray[Any]],
    wanted: NDArray[np.uint8],
    todo: NDArray[np.int64],
    made: Any,
    progress: Progress | None,
) -> None:
    *arrays, keys = parts
    n = len(keys)
    for k, (row, arrived) in enumerate(zip(todo, made, strict=True), 1):
        for array, value in zip(arrays, arrived, strict=True):
            array[row] = value
        keys[row] = wanted[row]  # last: a row without its key is drawn again
        if progress:
            progress(n - len(todo) + k, n)


def _grown(path: Path, shape: tuple[int, ...], dtype: str) -> Any:
    """Map a headerless file of rows, lengthened with zeros where it is shorter."""
    size_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    with path.open("ab") as file:
        if file.tell() < size_bytes:
            os.truncate(file.fileno(), size_bytes)
    return np.memmap(path, dtype, "r+", shape=shape)


def _key(
    study: BenchmarkStudy, size: tuple[int, int, int], config: PreprocessConfig
) -> NDArray[np.uint8]:
    what = [study.seed, repr(study.case), study.acquisition, size, config_hash(config), _code()]
    return np.frombuffer(hashlib.sha256(json.dumps(what).encode()).digest()[:16], np.uint8)


@cache
def _code() -> str:
    """Return the hash of all code that decides a phantom's voxels."""
    import medfinder.phantom

    folder = Path(medfinder.phantom.__file__).parent
    whole = hashlib.sha256(str(PREPROCESS_VERSION).encode())
    for name in ("acquisition", "anatomy", "case", "chest", "kernels", "lesions", "scene"):
        whole.update((folder / f"{name}.py").read_bytes())
    return whole.hexdigest()


def study_key(study: BenchmarkStudy, size: tuple[int, int, int], config: PreprocessConfig) -> bytes:
    """Return 16 bytes that change with the study, how it is drawn, and its preprocessing."""
    return _key(study, size, config).tobytes()


def _shape(size: tuple[int, int, int]) -> str:
    return "x".join(map(str, size))


def _default_preprocess() -> PreprocessConfig:
    from medfinder.model.dual_stream import ModelConfig

    return ModelConfig().preprocess


# --- what is asked


@dataclass(frozen=True, eq=False)
class Questions:
    """All that is asked of one split.

    Attributes:
        studies: N, each with its volume.
        reports: N.
        findings: F names that at least `MIN_POSITIVE` studies have, and as many have not.
        truth: (F, N) which study has which.
        swaps: True report against one with an attribute wrong.
        pairs: Counterfactual pairs; () but for ``val`` and ``test``.
        pair_reports: Of each pair, the original's and the changed one's.
    """

    studies: list[BenchmarkStudy]
    reports: list[str]
    findings: list[str]
    truth: NDArray[np.bool_]
    swaps: list[Swap]
    pairs: Sequence[tuple[BenchmarkStudy, BenchmarkStudy, Counterfactual]] = ()
    pair_reports: Sequence[tuple[str, str]] = ()

    @property
    def row(self) -> dict[str, int]:
        """Where each study is."""
        return {study.study_id: i for i, study in enumerate(self.studies)}

    @property
    def originals(self) -> NDArray[np.int64]:
        """(P,) where the original of each pair is."""
        row = self.row
        return np.array([row[original.study_id] for original, _, _ in self.pairs], np.int64)


@cache
def questions(data: Data, split: BenchmarkSplit) -> Questions:
    """Word what is asked of a split; the same for every model."""
    studies = data.studies(split)
    pairs = data.pairs(split) if split in ("val", "test") else []
    findings, truth = [], []
    for name in KINDS:
        has = np.array([study.case.has(name) for study in studies])
        if MIN_POSITIVE <= has.sum() <= len(has) - MIN_POSITIVE:
            findings.append(name)
            truth.append(has)
    return Questions(
        studies=studies,
        reports=[report_of(study) for study in studies],
        findings=findings,
        truth=np.array(truth, np.bool_).reshape(len(findings), len(studies)),
        swaps=attribute_swaps(studies, N_SWAPS, data.seed),
        pairs=pairs,
        pair_reports=[(report_of(a), report_of(b)) for a, b, _ in pairs],
    )


def prompt(finding: str) -> str:
    """Return what a keyword query and zero-shot detection ask: "Pleural effusion."."""
    return f"{finding.capitalize()}."


def denial(finding: str) -> str:
    """Return its negation: "No pleural effusion."."""
    return f"No {finding}."


# --- what is answered


@dataclass(frozen=True, eq=False)
class Answers:
    """Scores, higher is likelier, of whatever is judged. What it cannot answer is None.

    Attributes:
        by_report: (N, N) report i against volume j, for ranking volumes.
        by_volume: (N, N) report i against volume j, for ranking reports.
        keywords: (F, N) prompt against volume.
        denials: (F, N) negated prompt against volume.
        swaps: (S, 2) volume against its true and its swapped report.
        pairs: (P, 2, 2) volume (original, changed) against report (original's, changed one's).
        twins: (P, N + P) original's report against the split's volumes and all changed ones.
    """

    by_report: Floats
    by_volume: Floats
    keywords: Floats | None = None
    denials: Floats | None = None
    swaps: Floats | None = None
    pairs: Floats | None = None
    twins: Floats | None = None


def answers(encoder: Encoder, data: Data, split: BenchmarkSplit, *, batch_size: int = 8) -> Answers:
    """Answer by cosine, through the one way from volumes and texts to vectors.

    Raises:
        InputError: A vector is not finite: the model has diverged.
    """
    asked, pool = questions(data, split), data.pool(split)
    embedder = Embedder(encoder, batch_size=batch_size)

    def volumes(some: Pool) -> Floats:
        ids = [study.study_id for study in some.studies]
        return np.float64(embedder.embed_prepared(ids, some.volumes).vectors)

    def texts(some: Sequence[str]) -> Floats:
        return np.float64(embedder.embed_texts(some).vectors)

    v, t = volumes(pool), texts(asked.reports)
    row = asked.row
    rows = [row[swap.study_id] for swap in asked.swaps]
    swapped = texts([swap.swapped_text for swap in asked.swaps])
    swaps = np.stack([(v[rows] * t[rows]).sum(1), (v[rows] * swapped).sum(1)], 1)
    pairs = twins = None
    if asked.pairs:
        changed = volumes(data.changed(split))
        shown = np.stack([v[asked.originals], changed], 1)  # (P, 2, dim)
        said = np.stack([texts([both[k] for both in asked.pair_reports]) for k in (0, 1)], 1)
        pairs = np.einsum("pvd,ptd->pvt", shown, said)
        twins = said[:, 0] @ np.concatenate([v, changed]).T
    return Answers(
        by_report=t @ v.T,
        by_volume=t @ v.T,
        keywords=texts([prompt(name) for name in asked.findings]) @ v.T,
        denials=texts([denial(name) for name in asked.findings]) @ v.T,
        swaps=swaps,
        pairs=pairs,
        twins=twins,
    )


def measures(
    encoder: Encoder, data: Data, split: BenchmarkSplit = "val", *, batch_size: int = 8
) -> dict[str, Any]:
    """Measure an encoder of both streams on a split; see `score`.

    Args:
        encoder: Such as `medfinder.model.joint_encoder.JointEncoder`; its preprocessing must be the
            data's.
    """
    return score(answers(encoder, data, split, batch_size=batch_size), questions(data, split))


def score(given: Answers, asked: Questions) -> dict[str, Any]:
    """Turn answers into figures.

    Returns:
        Figures with ``low`` and ``high`` have a 95 % bootstrap interval over patients:

        - ``report_to_volume``, ``volume_to_report``: R@K in percent, median and mean rank; only a
          report's own study counts, ties by expectation.
        - ``keyword``: average precision of the volumes ranked by the prompt "Pleural effusion.",
          by finding and their mean; ``chance`` is the mean prevalence. A study counts for a
          finding of exactly that name.
        - ``zero_shot``: AUROC by finding and their mean with the same prompt, declared beforehand
          as the primary one; ``minus_denial`` with the score of "No pleural effusion." taken off.
        - ``swap``: share of true reports preferred to one with an attribute wrong, ties half,
          balanced in both directions (`medfinder.phantom.swaps`); overall, by attribute, finding
          and kind, and the mean over kinds. The interval is over couples.
        - ``counterfactual``: of two volumes that differ in one attribute, and their two reports:
          share of comparisons won, ties half, each report choosing its volume and each volume its
          report; ``all_four`` at once (chance 1/6); ``unseen`` over changes to attributes that never
          met in training; ``twins``: R@K of the original's report among the split's volumes and
          all changed ones.
    """
    patients = [study.patient_id for study in asked.studies]
    figures: dict[str, Any] = {
        "n": len(asked.studies),
        "report_to_volume": _retrieval(given.by_report, patients),
        "volume_to_report": _retrieval(given.by_volume.T, patients),
    }
    if given.keywords is not None and asked.findings:
        figures["keyword"] = _keywords(given.keywords, asked)
        figures["zero_shot"] = _zero_shot(given.keywords, asked)
        if given.denials is not None:
            other = _zero_shot(given.keywords - given.denials, asked)
            figures["zero_shot"]["minus_denial"] = other
    if given.swaps is not None and asked.swaps:
        figures["swap"] = _choices(
            _won(given.swaps[:, 0], given.swaps[:, 1]),
            [str(i // 2) for i in range(len(asked.swaps))],  # couples follow each other
            [(swap.name, swap.attribute) for swap in asked.swaps],
        )
    if given.pairs is not None and asked.pairs:
        figures["counterfactual"] = _counterfactual(given.pairs, asked)
        if given.twins is not None:
            ranks = rank_scores(_steady(given.twins), asked.originals)
            of = [original.patient_id for original, _, _ in asked.pairs]
            figures["counterfactual"]["twins"] = {
                f"R@{k}": _interval(100 * success_at_k(ranks, k), of) for k in KS
            }
    return figures


def successes(given: Answers) -> dict[str, Floats]:
    """Return each study's chance of being found, (N,), by measure, to compare two models by study."""
    ways = {"report_to_volume": given.by_report, "volume_to_report": given.by_volume.T}
    found = {}
    for way, scores in ways.items():
        ranks = rank_scores(_steady(scores))
        found |= {f"{way} R@{k}": success_at_k(ranks, k) for k in KS}
    return found


def headline(figures: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of `score` that tables show, flat; those that were not asked are absent."""
    flat: dict[str, float] = {}
    for way in ("report_to_volume", "volume_to_report"):
        flat |= {f"{way} {name}": one["value"] for name, one in figures[way].items()}
    if "keyword" in figures:
        flat["keyword mAP"] = figures["keyword"]["mAP"]["value"]
        flat["zero_shot AUROC"] = figures["zero_shot"]["AUROC"]["value"]
        if "minus_denial" in figures["zero_shot"]:
            other = figures["zero_shot"]["minus_denial"]["AUROC"]["value"]
            flat["zero_shot minus_denial AUROC"] = other
    if "swap" in figures:
        flat["swap"] = figures["swap"]["overall"]["value"]
        flat["swap mean_of_kinds"] = figures["swap"]["mean_of_kinds"]
    if "counterfactual" in figures:
        found = figures["counterfactual"]
        flat["counterfactual"] = found["overall"]["value"]
        for name in ("report_to_volume", "volume_to_report", "all_four"):
            flat[f"counterfactual {name}"] = found[name]["value"]
        for name, one in found.get("twins", {}).items():
            flat[f"counterfactual twins {name}"] = one["value"]
    return flat


def _retrieval(scores: Floats, patients: Sequence[str]) -> dict[str, Any]:
    ranks = rank_scores(_steady(scores))
    first = first_rank(ranks)
    found = {f"R@{k}": _interval(100 * success_at_k(ranks, k), patients) for k in KS}
    found["MdR"] = _interval(first, patients, "median")
    found["MnR"] = _interval(first, patients)
    return found


def _keywords(scores: Floats, asked: Questions) -> dict[str, Any]:
    values = average_precision(rank_scores(_steady(scores), asked.truth))
    return {
        "mAP": _over_studies(values, scores, asked, _weighted_precision),
        "chance": float(asked.truth.mean()),
        "findings": dict(zip(asked.findings, map(float, values), strict=True)),
    }


def _zero_shot(scores: Floats, asked: Questions) -> dict[str, Any]:
    values = auroc(rank_scores(_steady(scores), asked.truth))
    return {
        "AUROC": _over_studies(values, scores, asked, _weighted_auroc),
        "findings": dict(zip(asked.findings, map(float, values), strict=True)),
        "n_positive": dict(zip(asked.findings, map(int, asked.truth.sum(1)), strict=True)),
    }


def _counterfactual(scores: Floats, asked: Questions) -> dict[str, Any]:
    by_report = _won(scores[:, [0, 1], [0, 1]], scores[:, [1, 0], [0, 1]])  # (P, 2)
    by_volume = _won(scores[:, [0, 1], [0, 1]], scores[:, [0, 1], [1, 0]])
    patients = [original.patient_id for original, _, _ in asked.pairs]
    kinds = [(change.name, change.attribute) for _, _, change in asked.pairs]
    every = np.concatenate([by_report, by_volume], 1)
    unseen = np.array([has_unseen_combination(changed.case) for _, changed, _ in asked.pairs])
    apart = {"share": float(every[unseen].mean()) if unseen.any() else None, "n": int(unseen.sum())}
    return _choices(every.mean(1), patients, kinds) | {
        "unseen": apart,
        "report_to_volume": _interval(by_report.mean(1), patients),
        "volume_to_report": _interval(by_volume.mean(1), patients),
        "all_four": _interval((every == 1).all(1).astype(float), patients),
    }


def _choices(
    won: Floats, clusters: Sequence[str], kinds: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    groups: dict[str, dict[str, list[float]]] = {
        by: defaultdict(list) for by in ("by_attribute", "by_finding", "by_kind")
    }
    for value, (name, attribute) in zip(map(float, won), kinds, strict=True):
        groups["by_attribute"][attribute].append(value)
        groups["by_finding"][name].append(value)
        groups["by_kind"][f"{name}, {attribute}"].append(value)
    figures: dict[str, Any] = {"overall": _interval(won, clusters), "n": len(won)}
    for by, found in groups.items():
        figures[by] = {
            key: {"share": float(np.mean(values)), "n": len(values)}
            for key, values in sorted(found.items())
        }
    figures["mean_of_kinds"] = float(np.mean([np.mean(v) for v in groups["by_kind"].values()]))
    return figures


def _won(right: Floats, wrong: Floats) -> Floats:
    gap = _steady(right - wrong)
    return (gap > 0) + 0.5 * (gap == 0)


def _steady(scores: Floats) -> Floats:
    """Round away what the order of a sum decides, so that equal vectors tie."""
    return np.round(np.asarray(scores, np.float64), 9)


def _interval(
    values: Floats, patients: Sequence[str], statistic: Literal["mean", "median"] = "mean"
) -> dict[str, float]:
    found = bootstrap_interval(values, patients, statistic=statistic, n_draws=N_DRAWS)
    return {"value": found.estimate, "low": found.low, "high": found.high}


def _over_studies(
    values: Floats,
    scores: Floats,
    asked: Questions,
    weighted: Callable[[Floats, NDArray[np.bool_], Floats], Floats],
) -> dict[str, float]:
    """Return the mean over findings, with an interval from drawing the pool's studies again."""
    n = len(asked.studies)
    rng = np.random.default_rng(0)
    weights = rng.multinomial(n, np.full(n, 1 / n), N_DRAWS).astype(float)  # (draws, N)
    drawn = [
        weighted(_steady(line), has, weights) for line, has in zip(scores, asked.truth, strict=True)
    ]
    low, high = np.quantile(np.nanmean(drawn, 0), [0.025, 0.975])
    return {"value": float(np.mean(values)), "low": float(low), "high": float(high)}


def _weighted_auroc(line: Floats, has: NDArray[np.bool_], weights: Floats) -> Floats:
    wins = _won(line[has][:, None], line[~has][None])
    with np.errstate(invalid="ignore"):  # a draw without the finding has no value
        return (weights[:, has] @ wins * weights[:, ~has]).sum(1) / (
            weights[:, has].sum(1) * weights[:, ~has].sum(1)
        )


def _weighted_precision(line: Floats, has: NDArray[np.bool_], weights: Floats) -> Floats:
    order = np.argsort(-line, kind="stable")
    sorted_ = weights[:, order]
    right = sorted_ * has[order]
    with np.errstate(invalid="ignore"):
        precision = np.cumsum(right, 1) / np.maximum(np.cumsum(sorted_, 1), 1)
        return (right * precision).sum(1) / right.sum(1)


# --- rows beside the models


def reference_rows(data: Data, splits: Sequence[BenchmarkSplit]) -> dict[str, dict[str, Any]]:
    """Measure what needs no trained retriever: shortcuts, oracles, words and chance.

    Shortcuts see a volume's HU histogram, its 4x4x4 means, or both, and are fitted to the attributes
    of the same training volumes. They read no words: a report is scored by the true attributes of
    its case, and of three ways to score the one is printed that serves each direction best, both of
    which flatter them.

    Returns:
        Row -> split -> figures as of `score`; rows of words only retrieve, and cannot be asked the
        rest.
    """
    pools: dict[tuple[str, bool], Pool] = {}
    for split in splits:
        pools[split, False] = data.pool(split)
        if split in ("val", "test"):
            pools[split, True] = data.changed(split)
    train = data.pool("train")
    rows: dict[str, dict[str, Any]] = {}

    counts = Counter(name for study in train.studies for name in attributes(study.case))
    names = _numbered(name for name, n in counts.items() if n >= MIN_POSITIVE)
    y = told([study.case for study in train.studies], names)
    every = [train, *pools.values()]
    seen_by = {
        "histogram": [np.concatenate([pool.histograms for pool in every])],
        "grid 4^3": [np.concatenate([pool.grids for pool in every])],
    }
    seen_by["both"] = [*seen_by["histogram"], *seen_by["grid 4^3"]]
    ends = np.cumsum([len(pool.studies) for pool in every])
    for title, parts in seen_by.items():
        x = np.concatenate(parts, 1)
        for model, predicted in (
            ("ridge", ridge(x, y, len(y))),
            ("MLP", mlp(x, y, len(y), 0)),
        ):
            guesses = dict(zip(pools, np.split(predicted, ends)[1:-1], strict=True))
            rows[f"{title}, {model}"] = _by_attributes(data, splits, names, guesses)

    all_names = _numbered(
        name for pool in pools.values() for study in pool.studies for name in attributes(study.case)
    )
    for title, known in (
        ("oracle of finding names", _numbered(name for name in all_names if "|" not in name)),
        ("oracle of all attributes", all_names),
    ):
        truths = {
            key: told([study.case for study in pool.studies], known) * 0.98 + 0.01
            for key, pool in pools.items()
        }
        rows[title] = _by_attributes(data, splits, known, truths)

    for title, matched in (("TF-IDF", tf_idf), ("BM25", bm25)):
        rows[f"{title}, report against another wording"] = {
            split: _matched(questions(data, split), matched) for split in splits
        }
    rows["chance"] = {split: chance(questions(data, split)) for split in splits}
    return rows


def told(cases: Sequence[CaseSpec], names: Mapping[str, int]) -> NDArray[np.float32]:
    """Return which named attributes each case has, (N, A)."""
    table = np.zeros((len(cases), len(names)), np.float32)
    for i, case in enumerate(cases):
        for name in attributes(case):
            if name in names:
                table[i, names[name]] = 1
    return table


def chance(asked: Questions) -> dict[str, float]:
    """Return what scores drawn at random reach, as `headline` names it."""
    n, p = len(asked.studies), len(asked.pairs)
    flat: dict[str, float] = {}
    for way in ("report_to_volume", "volume_to_report"):
        flat |= {f"{way} R@{k}": min(100.0, 100 * k / n) for k in KS}
        flat |= {f"{way} MdR": (n + 1) / 2, f"{way} MnR": (n + 1) / 2}
    flat |= {"keyword mAP": float(asked.truth.mean()) if len(asked.truth) else 0.0}
    flat |= {"zero_shot AUROC": 0.5, "swap": 0.5, "swap mean_of_kinds": 0.5}
    if p:
        flat |= {"counterfactual": 0.5, "counterfactual all_four": 1 / 6}
        flat |= {f"counterfactual twins R@{k}": min(100.0, 100 * k / (n + p)) for k in KS}
    return flat


def _by_attributes(
    data: Data,
    splits: Sequence[BenchmarkSplit],
    names: Mapping[str, int],
    predicted: Mapping[tuple[str, bool], NDArray[Any]],
) -> dict[str, dict[str, float]]:
    return {
        split: headline(
            score(
                attribute_answers(
                    questions(data, split),
                    names,
                    predicted[split, False],
                    predicted.get((split, True)),
                ),
                questions(data, split),
            )
        )
        for split in splits
    }


def attribute_answers(
    asked: Questions,
    names: Mapping[str, int],
    predicted: NDArray[Any],
    changed: NDArray[Any] | None = None,
) -> Answers:
    """Answer by the likelihood of the case's true attributes under predicted ones.

    Args:
        names: Column of each attribute.
        predicted: (N, A) probabilities, one row a volume of the split.
        changed: (P, A), of the changed volumes.
    """
    truth = told([study.case for study in asked.studies], names)
    scorings = likelihoods(predicted, truth)
    row = asked.row
    rows = [row[swap.study_id] for swap in asked.swaps]
    swapped = told([_swapped(asked.studies[row[s.study_id]].case, s) for s in asked.swaps], names)
    swaps = np.stack(
        [_likelihood(predicted[rows], truth[rows]), _likelihood(predicted[rows], swapped)], 1
    )
    missing = [name for name in asked.findings if name not in names]
    columns = [names[name] for name in asked.findings if name in names]
    pairs = twins = None
    if changed is not None and asked.pairs:
        shown = (predicted[asked.originals], changed)
        said = (truth[asked.originals], told([b.case for _, b, _ in asked.pairs], names))
        pairs = np.stack([np.stack([_likelihood(v, t) for t in said], 1) for v in shown], 1)
        gallery = np.concatenate([predicted, changed])
        twins = _best(likelihoods(gallery, said[0]), asked.originals)
    return Answers(
        by_report=_best(scorings),
        by_volume=_best([scores.T for scores in scorings]).T,
        keywords=None if missing else predicted[:, columns].T,
        swaps=swaps,
        pairs=pairs,
        twins=twins,
    )


def _best(scorings: Sequence[Floats], relevant: NDArray[np.int64] | None = None) -> Floats:
    """Return the scores with the highest R@10."""
    return max(
        scorings, key=lambda s: float(success_at_k(rank_scores(_steady(s), relevant), 10).mean())
    )


def _likelihood(predicted: NDArray[Any], truth: NDArray[Any]) -> Floats:
    """Return the log likelihood of each row's truth; all pairs of rows are `phantom.likelihoods`."""
    p = np.clip(np.float64(predicted), *FLOORS)
    return np.asarray((truth * np.log(p) + (1 - truth) * np.log(1 - p)).sum(1))


def _swapped(case: CaseSpec, swap: Swap) -> CaseSpec:
    findings = tuple(
        replace(f, **{swap.attribute: swap.after}) if f.name == swap.name else f
        for f in case.findings
    )
    return replace(case, findings=findings)


def _matched(
    asked: Questions, matched: Callable[[list[str], list[str]], NDArray[Any]]
) -> dict[str, float]:
    others = [report_of(study, variant=1) for study in asked.studies]
    scores = np.float64(matched(asked.reports, others))
    return headline(score(Answers(scores, scores), asked))


def _numbered(names: Iterable[str]) -> dict[str, int]:
    return {name: i for i, name in enumerate(sorted(set(names)))}
