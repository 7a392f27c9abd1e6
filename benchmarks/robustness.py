"""Measure the checkpoint that ships on volumes and queries as other archives and people give them.

Phantoms of the benchmark's ``test`` split are changed before preprocessing by
`medfinder.benchmark.robustness`; queries are worded otherwise, mistyped, shortened, denied or Spanish.
Each row stands beside the untouched one, with the interval of the paired difference.

Changed volumes are kept in a folder outside the repository, by what made them, and vectors by the
model that made them: another checkpoint of the same preprocessing embeds again and draws nothing.

Run: ``python benchmarks/robustness.py [--model medfinder] [--n 250] [--workers 2]``
"""

import argparse
import hashlib
import inspect
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))
import phantom_pools as pools
from record import table, write_result

from medfinder.benchmark import robustness
from medfinder.benchmark.robustness import perturb_text, perturb_volume, perturbations
from medfinder.benchmark.space import describe
from medfinder.config import config_hash
from medfinder.embed import Embedder
from medfinder.phantom.allocator import keep_freed_memory
from medfinder.phantom.benchmark import SIZE
from medfinder.phantom.chest import PhantomConfig, make_phantom
from medfinder.phantom.splits import BenchmarkStudy, report_of
from medfinder.ranking.measures import average_precision, success_at_k
from medfinder.ranking.ranks import rank_scores
from medfinder.ranking.significance import bootstrap_interval
from medfinder.volume.preprocess import PreprocessConfig, preprocess

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Texts = Callable[[BenchmarkStudy], str]

SEED = 1
N_TEST = 500
N_DRAWS = 1000
KS = (1, 10)
VIEWS = tuple(n for n in perturbations if perturbations.get(n).acts_on == "volume")
SHORT = ("names-only", "names-as-sentences", "one-name")
"""Texts that several studies share: asked with, not looked for."""
SPANISH = {
    "pleural effusion": "derrame pleural",
    "pericardial effusion": "derrame pericárdico",
    "pneumothorax": "neumotórax",
    "consolidation": "consolidación",
    "ground glass pattern": "vidrio deslustrado",
    "nodule": "nódulo",
    "multiple nodules": "nódulos múltiples",
    "pulmonary mass": "masa pulmonar",
    "emphysema": "enfisema",
    "bronchiectasis": "bronquiectasias",
    "pulmonary fibrosis": "fibrosis pulmonar",
    "laminar atelectasis": "atelectasia laminar",
    "adenopathy": "adenopatía",
    "cardiomegaly": "cardiomegalia",
    "coronary artery wall calcification": "calcificación coronaria",
    "aortic atheromatosis": "ateromatosis aórtica",
    "aortic aneurysm": "aneurisma de aorta",
    "hiatal hernia": "hernia de hiato",
    "rib fracture": "fractura costal",
    "vertebral compression": "aplastamiento vertebral",
    "pleural plaques": "placas pleurales",
    "liver cyst": "quiste hepático",
    "pacemaker": "marcapasos",
    "central venous catheter": "catéter venoso central",
}
ONE_WORD = {"ground glass pattern": "glass", "coronary artery wall calcification": "coronary"}
"""The last word of a finding's name, but for these."""
PROMPTS: dict[str, tuple[str, Callable[[str], str]]] = {
    "clean": ("Pleural effusion.", pools.prompt),
    "bare": ("pleural effusion", str),
    "sentence": ("There is pleural effusion.", lambda name: f"There is {name}."),
    "question": ("Is there pleural effusion?", lambda name: f"Is there {name}?"),
    "one-word": (
        "Effusion.",
        lambda name: pools.prompt(ONE_WORD.get(name, name.rsplit(maxsplit=1)[-1])),
    ),
    "misspelt-1": (
        "Plerual effusion.",
        lambda name: perturb_text(pools.prompt(name), ["misspelt-1"]),
    ),
    "misspelt-2": (
        "Plerual effsuion.",
        lambda name: perturb_text(pools.prompt(name), ["misspelt-2"]),
    ),
    "spanish": ("Derrame pleural.", lambda name: pools.prompt(SPANISH[name])),
}
"""Name of a wording -> what it looks like, and how it is made from a finding's name."""


# --- volumes


def changed_volumes(
    studies: Sequence[BenchmarkStudy], config: PreprocessConfig, folder: Path, workers: int
) -> dict[str, list[NDArray[Any]]]:
    """Return view -> each study's preprocessed volume; what lies in the folder is not made again."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{_key(study, config)}.npy" for study in studies]
    todo = [(s, config, p) for s, p in zip(studies, paths, strict=True) if not p.is_file()]
    start = time.perf_counter()
    with ProcessPoolExecutor(workers, get_context("spawn"), keep_freed_memory) as executor:
        for n, _ in enumerate(executor.map(_change, todo, chunksize=2), 1):
            if n % 25 == 0:
                print(
                    f"changed {n} of {len(todo)}, {time.perf_counter() - start:.0f} s", flush=True
                )
    stacks = [np.load(path, mmap_mode="r") for path in paths]
    return {view: [stack[i] for stack in stacks] for i, view in enumerate(VIEWS)}


def _change(job: tuple[BenchmarkStudy, PreprocessConfig, Path]) -> None:
    study, config, path = job
    drawn = make_phantom(study.seed, PhantomConfig(size=SIZE, acquisition=study.acquisition),
                         study.case)  # fmt: skip
    made = [preprocess(perturb_volume(drawn.volume, [v]), config, n_threads=1) for v in VIEWS]
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.save(file, np.stack(made))
    part.replace(path)  # last: a file is whole or not there


def _key(study: BenchmarkStudy, config: PreprocessConfig) -> str:
    what = [pools.study_key(study, SIZE, config).hex(), VIEWS, _code()]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:24]


@cache
def _code() -> str:
    """Return the hash of all code and settings that change a volume."""
    settings = [getattr(perturbations.get(view).change, "keywords", None) for view in VIEWS]
    functions = [perturbations.get(view).change.func for view in VIEWS]  # type: ignore[attr-defined]
    helpers = [robustness._blurred, robustness._stored]
    sources = sorted({inspect.getsource(f) for f in [*functions, *helpers]})
    return hashlib.sha256(json.dumps([settings, sources]).encode()).hexdigest()


class Vectors:
    """An embedder that keeps the volumes' vectors, by model, view and study."""

    def __init__(self, embedder: Embedder, folder: Path) -> None:
        self.embedder = embedder
        self.folder = folder / hashlib.sha256(embedder.model_id.encode()).hexdigest()[:16]
        self.embed_s: list[float] = []

    def volumes(self, view: str, keys: Sequence[str], arrays: Sequence[NDArray[Any]]) -> Floats:
        """Embed preprocessed volumes, (N, dim), or read what was embedded before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        mark = hashlib.sha256(json.dumps([view, *keys]).encode()).hexdigest()[:16]
        path = self.folder / f"{view}-{mark}.npy"
        if not path.is_file():
            start = time.perf_counter()
            made = self.embedder.embed_prepared(keys, arrays).vectors
            self.embed_s.append((time.perf_counter() - start) / len(keys))
            print(f"{view}: {1000 * self.embed_s[-1]:.0f} ms a volume", flush=True)
            with path.with_suffix(".part").open("wb") as file:
                np.save(file, made)
            path.with_suffix(".part").replace(path)
        return np.load(path).astype(np.float64)

    def texts(self, texts: Sequence[str]) -> Floats:
        """Embed texts, (N, dim)."""
        return np.float64(self.embedder.embed_texts(list(texts)).vectors)


# --- figures


def steady(scores: Floats) -> Floats:
    """Round away what the order of a sum decides, so that equal vectors tie."""
    return np.round(np.asarray(scores, np.float64), 9)


def won(scores: Floats) -> dict[str, Floats]:
    """Return R@K of each query in percent; query i is answered by item i, ties by expectation."""
    ranks = rank_scores(steady(scores))
    return {f"R@{k}": 100 * success_at_k(ranks, k) for k in KS}


def figure(values: Floats, clean: Floats | None, patients: Sequence[str]) -> dict[str, float]:
    """Return a mean with its interval, and the paired change from the clean row with its own."""
    found = bootstrap_interval(values, patients, n_draws=N_DRAWS)
    shown = {"value": found.estimate, "low": found.low, "high": found.high}
    if clean is not None:
        gap = bootstrap_interval(values - clean, patients, n_draws=N_DRAWS)
        shown |= {"change": gap.estimate, "change_low": gap.low, "change_high": gap.high}
    return shown


def drawn(n: int) -> Floats:
    """Return how often each study is in each draw of the pool, (draws, N); the same for all rows."""
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), N_DRAWS).astype(float)


def mean_precision(scores: Floats, truth: Bools) -> tuple[Floats, Floats]:
    """Return the average precision of each finding, (F,), and their mean in each draw, (draws,)."""
    values = average_precision(rank_scores(steady(scores), truth))
    weights = drawn(truth.shape[1])
    each = []
    for line, has in zip(steady(scores), truth, strict=True):
        order = np.argsort(-line, kind="stable")
        sorted_ = weights[:, order]
        right = sorted_ * has[order]
        with np.errstate(invalid="ignore"):  # a draw without the finding has no value
            precision = np.cumsum(right, 1) / np.maximum(np.cumsum(sorted_, 1), 1)
            each.append((right * precision).sum(1) / right.sum(1))
    return np.asarray(values), np.nanmean(each, 0)


def mean_auroc(scores: Floats, truth: Bools) -> tuple[Floats, Floats]:
    """Return the AUROC of each finding, (F,), and their mean in each draw, (draws,)."""
    weights = drawn(truth.shape[1])
    values, each = [], []
    for line, has in zip(steady(scores), truth, strict=True):
        gap = line[has][:, None] - line[~has][None]
        wins = (gap > 0) + 0.5 * (gap == 0)
        values.append(float(wins.mean()))
        with np.errstate(invalid="ignore"):
            each.append(
                (weights[:, has] @ wins * weights[:, ~has]).sum(1)
                / (weights[:, has].sum(1) * weights[:, ~has].sum(1))
            )
    return np.array(values), np.nanmean(each, 0)


def over_draws(
    one: tuple[Floats, Floats], clean: tuple[Floats, Floats] | None, factor: float = 100.0
) -> dict[str, float]:
    """Return a mean over findings with its interval from drawing studies again, and the change."""
    low, high = np.quantile(one[1], [0.025, 0.975])
    shown = {"value": one[0].mean(), "low": low, "high": high}
    if clean is not None:
        low, high = np.quantile(one[1] - clean[1], [0.025, 0.975])
        shown |= {"change": one[0].mean() - clean[0].mean(), "change_low": low, "change_high": high}
    return {key: factor * float(value) for key, value in shown.items()}


def volume_rows(
    vectors: Vectors, data: pools.Data, n: int, folder: Path, workers: int
) -> list[dict[str, Any]]:
    """Measure every view of the first n studies as a gallery of its own, beside the clean one."""
    config = vectors.embedder.info.preprocess
    assert config is not None
    asked = pools.questions(replace(data, n_test=n), "test")  # the first n of the split
    keys = [study.study_id for study in asked.studies]
    patients = [study.patient_id for study in asked.studies]
    views = changed_volumes(asked.studies, config, folder / "volumes", workers)
    texts = vectors.texts(asked.reports)
    prompts = vectors.texts([pools.prompt(name) for name in asked.findings])
    _, whole = _asked(vectors, data)
    clean = whole[:n]
    rows = []
    first: dict[str, Any] = {}
    for name in ("clean", *VIEWS):
        v = clean if name == "clean" else vectors.volumes(name, keys, views[name])
        measured: dict[str, Any] = {
            "report_to_volume": won(texts @ v.T),
            "volume_to_report": won(v @ texts.T),
            # Of the changed volume among the clean ones.
            "itself": won(v @ clean.T),
        }
        precision = mean_precision(prompts @ v.T, asked.truth)
        first = first or measured | {"precision": precision}
        is_clean = name == "clean"
        row: dict[str, Any] = {
            "name": name,
            "says": "" if is_clean else perturbations.get(name).says,
            "n": n,
            "cosine": float(np.median((v * clean).sum(1))),
        }
        for way, found in measured.items():
            row[way] = {
                k: figure(values, None if is_clean else first[way][k], patients)
                for k, values in found.items()
            }
        row["keyword mAP"] = over_draws(precision, None if is_clean else first["precision"])
        rows.append(row)
    return rows


def wordings() -> dict[str, tuple[str, Texts]]:
    """Return name of a wording -> what it is, and how a study's report is worded so."""
    ways: dict[str, tuple[str, Texts]] = {
        "clean": ("the report", report_of),
        "paraphrase": (
            "the same case, worded by other draws of the same sentences",
            lambda study: report_of(study, variant=1),
        ),
        "unseen-wording": (
            "findings told in sentences that training never showed",
            lambda study: report_of(replace(study, sentences="unseen")),
        ),
        "spanish": (
            "the same case in Spanish, worded independently",
            lambda study: report_of(study, language="es"),
        ),
    }
    for name in perturbations:
        one = perturbations.get(name)
        if one.acts_on == "text":
            ways[name] = (one.says, lambda study, n=name: perturb_text(report_of(study), [n]))
    if shutil.which("apertium"):
        from medfinder.report.apertium import Apertium

        engine = Apertium()

        def translated(study: BenchmarkStudy) -> str:
            ((_, text),) = engine.translate([report_of(study, language="es")])
            return text if isinstance(text, str) else report_of(study, language="es")

        ways["spanish-translated"] = ("the Spanish one through apertium first", translated)
    return ways


def query_rows(vectors: Vectors, data: pools.Data) -> list[dict[str, Any]]:
    """Measure every wording of the reports against the clean volumes of the whole split."""
    asked, v = _asked(vectors, data)
    patients = [study.patient_id for study in asked.studies]
    first: dict[str, dict[str, Floats]] = {}
    rows = []
    for name, (says, worded) in wordings().items():
        start = time.perf_counter()
        reports = [worded(study) for study in asked.studies]
        word_s = time.perf_counter() - start
        texts = vectors.texts(reports)
        measured = {"report_to_volume": won(texts @ v.T)}
        if name not in SHORT:
            measured["volume_to_report"] = won(v @ texts.T)
        first = first or measured
        row: dict[str, Any] = {
            "name": name,
            "says": says,
            "n": len(reports),
            "n_distinct": len(set(reports)),
            "median_words": float(np.median([len(text.split()) for text in reports])),
            "word_ms": 1000 * word_s / len(reports),
        }
        for way, found in measured.items():
            row[way] = {
                k: figure(values, None if name == "clean" else first[way][k], patients)
                for k, values in found.items()
            }
        rows.append(row)
    return rows


def prompt_rows(vectors: Vectors, data: pools.Data) -> list[dict[str, Any]]:
    """Measure every wording of a finding's name as a keyword query."""
    asked, v = _asked(vectors, data)
    first = None
    rows = []
    for name, (example, worded) in PROMPTS.items():
        found = mean_precision(
            vectors.texts([worded(finding) for finding in asked.findings]) @ v.T, asked.truth
        )
        rows.append({"name": name, "example": example, "keyword mAP": over_draws(found, first)})
        first = first or found
    return rows


def negation(vectors: Vectors, data: pools.Data) -> dict[str, Any]:
    """Ask with "No pleural effusion.": whether it still finds effusions, and is told from the claim.

    ``AUROC`` is that of having the finding: a query whose denial is not heard keeps that of the
    claim, one whose denial is heard has it below 50. ``P@10`` is the share of the first 10 that have
    it, beside the prevalence. ``choice`` is how often the right one of claim and denial lies nearer
    to a volume, over volumes with and without the finding alike; chance is 50.
    """
    asked, v = _asked(vectors, data)
    truth = asked.truth
    said = vectors.texts([pools.prompt(name) for name in asked.findings])
    denied = vectors.texts([pools.denial(name) for name in asked.findings])
    claim, denial = said @ v.T, denied @ v.T
    weights = drawn(truth.shape[1])
    right = steady(claim - denial)
    sided = np.where(truth, right > 0, right < 0) + 0.5 * (right == 0)

    def balanced(w: Floats) -> Floats:
        """(draws, N) -> (draws,) mean over findings of the mean of both halves."""
        with np.errstate(invalid="ignore"):
            halves = [(w @ (sided * has).T) / (w @ has.T.astype(float)) for has in (truth, ~truth)]
            return np.asarray(np.nanmean(sum(halves) / 2, axis=1))

    choice = balanced(np.ones((1, truth.shape[1])))
    figures: dict[str, Any] = {
        "claim AUROC": over_draws(mean_auroc(claim, truth), None),
        "denial AUROC": over_draws(mean_auroc(denial, truth), mean_auroc(claim, truth)),
        "choice": over_draws((choice, balanced(weights)), None),
        "cosine": float((said * denied).sum(1).mean()),
        "prevalence": 100 * float(truth.mean()),
    }
    for name, scores in (("claim", claim), ("denial", denial)):
        top = np.argsort(-steady(scores), axis=1, kind="stable")[:, :10]
        figures[f"{name} P@10"] = 100 * float(np.take_along_axis(truth, top, 1).mean())
    return figures


def space(vectors: Vectors, data: pools.Data) -> dict[str, Any]:
    """Describe the space of the clean volumes and their reports."""
    asked, v = _asked(vectors, data)
    found = describe({"volume": v, "text": vectors.texts(asked.reports)})
    assert found is not None
    return asdict(found)


def _asked(vectors: Vectors, data: pools.Data) -> tuple[pools.Questions, Floats]:
    asked, pool = pools.questions(data, "test"), data.pool("test")
    keys = [study.study_id for study in asked.studies]
    return asked, vectors.volumes("clean", keys, pool.volumes)


def show(rows: Sequence[dict[str, Any]], columns: Sequence[tuple[str, ...]]) -> None:
    shown = []
    for row in rows:
        cells = {"row": row["name"]}
        for column in columns:
            one: Any = row
            for key in column:
                one = one.get(key, {})
            change = f" ({one['change']:+.1f})" if "change" in one else ""
            cells[" ".join(column)] = f"{one['value']:.1f}{change}" if one else ""
        shown.append(cells)
    print(table(shown), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cache = Path("~/.cache/medfinder").expanduser()
    parser.add_argument("--model", default="medfinder", help="an encoder or a checkpoint's folder")
    parser.add_argument("--folder", type=Path, default=cache / "robustness")
    parser.add_argument("--pools", type=Path, default=cache / "recipes", help="of clean volumes")
    parser.add_argument("--n", type=int, default=250, help="studies of changed volumes")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw")
    args = parser.parse_args()
    embedder = Embedder(args.model, batch_size=4)
    config = embedder.info.preprocess
    data = pools.Data(args.pools, seed=SEED, preprocess=config, workers=args.workers)
    vectors = Vectors(embedder, args.folder / "vectors" / (config_hash(config)[:12]))
    ways = [(w, k) for w in ("report_to_volume", "volume_to_report") for k in ("R@1", "R@10")]
    volumes = volume_rows(vectors, data, args.n, args.folder, args.workers)
    show(volumes, [*ways, ("itself", "R@1"), ("keyword mAP",)])
    queries = query_rows(vectors, data)
    show(queries, ways)
    prompts = prompt_rows(vectors, data)
    show(prompts, [("keyword mAP",)])
    denied = negation(vectors, data)
    print(json.dumps(denied, indent=1))
    figures = {
        "model": embedder.model_id,
        "n_volumes": args.n,
        "n_queries": N_TEST,
        "volumes": volumes,
        "queries": queries,
        "keywords": prompts,
        "negation": denied,
        "space": space(vectors, data),
    }
    notes = (
        "Slices of these phantoms are 4.1 to 5.9 mm thick, so that 'slices-5mm' changes only the "
        "thinner ones (44 %). Changed volumes are the first studies of the split, the whole gallery changed "
        "alike; queries are asked of all its clean volumes."
    )
    print(write_result("robustness", figures, [SEED], notes))


if __name__ == "__main__":
    main()
