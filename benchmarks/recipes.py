"""Train recipes on the same phantoms and compare them on studies, words and scanners not seen.

Every row starts from a file of ``configs/`` and keeps what makes a recipe (objective, sampling,
views, fusion, normalisation, temperature, batch); networks, input and dimension are those of
``configs/tiny.toml``, so that a CPU can train all of them and only the recipe differs. Row ``base``
alone has the larger network of ``configs/small.toml``. The learning rate of each family is the best
of the same few, by a short run on ``val``. Nothing is chosen on a test split.

Every run is a folder that its whole configuration names: stop the script and start it again, and it
goes on; a run that is there is not run twice. What runs found is kept in ``results/recipes/`` too, so
that rows and seeds can be added on another machine.

Run: ``python benchmarks/recipes.py [--quick] [--device cuda] [--seen 96000] [--seeds 0 1 2]
[--rows paper tiny] [--jobs 2]``, then ``--table`` with the same numbers to write
``results/recipes.json``.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import cache
from math import ceil
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))
import phantom_pools as pools
from record import RESULTS, table, write_result

from medfinder.config import from_dict, load_config, to_dict
from medfinder.errors import InputError
from medfinder.phantom.splits import BenchmarkSplit, report_of
from medfinder.ranking.significance import holm, permutation_test
from medfinder.train.recipe import RecipeConfig

CONFIGS = Path(__file__).parents[1] / "configs"
KEPT = RESULTS / "recipes"
SPLITS: tuple[BenchmarkSplit, ...] = (
    "test",
    "unseen-combinations",
    "unseen-pairs",
    "unseen-wording",
    "shifted",
)
WAYS = ("report_to_volume", "volume_to_report")
N_VALIDATIONS = 4
"""Of each run, however long; the best of them is measured. Not counted as training time."""
N_DRAWS = 4000
N_WARM, N_PROFILED = 3, 5
"""Steps before those whose kernels are timed, and those."""
N_SEEDS = 3
"""That every row is to have."""
MARGIN = 1.0
"""Points of R@10: a component whose gain is surely smaller than this does not help."""
REFERENCES = "references"
RESULT, WON = "result.json", "won.npz"
EQUAL_COMPUTE = "=compute"
"""Ends the name of a row that gets the compute that `OURS` took, not its number of studies: CPU
seconds of its steps, or on a GPU seconds of its steps' kernels."""
OURS = "tiny"


# --- rows


@dataclass(frozen=True)
class Row:
    """A recipe of the table.

    Attributes:
        title: On the page.
        start: The file of ``configs/`` it starts from.
        changes: Table -> setting -> value; a setting that ends in "?" is left out where this
            version of the package does not have it.
        component: What is one more, or one less, than in the row of the same name as `start`.
        adds: Whether the component is one more.
    """

    title: str
    start: str
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    component: str = ""
    adds: bool = False

    @property
    def family(self) -> str:
        """The row whose learning rate it has."""
        return self.start


WHOLE = {"sampling": {"text": "whole"}}
SAMPLED = {"sampling": {"text": "sentences"}}
FROM_THE_START = {"objective": {"labels_first?": 0.0}}

ROWS = {
    "published_code": Row("published code", "published_code"),
    "paper": Row("the paper's method", "paper"),
    "base": Row("ours, base.toml", "base"),
    "tiny": Row("ours, tiny.toml", "tiny"),
    "published_code=compute": Row("published code, equal compute", "published_code"),
    "paper=compute": Row("the paper's method, equal compute", "paper"),
    # what the paper adds to a contrastive loss, taken from the paper's method one at a time …
    "paper-text_sampling": Row("paper − text sampling", "paper", WHOLE, "text sampling"),
    "paper-view_mse": Row(
        "paper − L_mse of two views", "paper", {"objective": {"view_mse": 0.0}}, "L_mse"
    ),
    "paper-fusion": Row(
        "paper − cross-attention", "paper", {"model": {"fusion": False}}, "cross-attention"
    ),
    # … and given to ours
    "tiny+text_sampling": Row("ours + text sampling", "tiny", SAMPLED, "text sampling", True),
    "tiny+view_mse": Row(
        "ours + L_mse of two views", "tiny", {"objective": {"view_mse": 1.0}}, "L_mse", True
    ),
    "tiny+fusion": Row(
        "ours + cross-attention", "tiny", {"model": {"fusion": True}}, "cross-attention", True
    ),
    # ours, one component off
    "tiny-labels": Row(
        "ours − labels", "tiny", {"objective": {"labels": 0.0, "labels_first?": 0.0}}, "labels"
    ),
    "tiny-labels_first": Row(
        "ours − labels before all else", "tiny", FROM_THE_START, "labels before all else"
    ),
    "tiny-statements": Row(
        "ours − statements", "tiny", {"objective": {"statements": 0.0}}, "statements"
    ),
    "tiny-attribute_choice": Row(
        "ours − attribute choice",
        "tiny",
        {"objective": {"attribute_choice": 0.0}},
        "attribute choice",
    ),
    "tiny-pooling": Row(
        "ours − pooling (mean of regions)", "tiny", {"model": {"pooling": "mean"}}, "pooling"
    ),
}
QUICK = (
    "published_code",
    "published_code=compute",
    "paper",
    "paper-fusion",
    "tiny",
    "tiny+view_mse",
    REFERENCES,
)
SIZE_OF_A_MODEL = ("volume", "text", "preprocess", "dim", "layout_width", "n_signs")
SIZES = {"base": "small"}
"""Row's file -> the file whose network and input it has, where that is not tiny.toml."""
PAPERS = ("text sampling", "L_mse", "cross-attention")

NOTES = (
    "Networks, input (lung frame, curve scaling) and joint dimension of every row are those of "
    "configs/tiny.toml, but of base, which has the larger network of configs/small.toml, and takes "
    "more compute for the same number of studies; its batch is that of tiny.toml, its schedule that of small.toml. "
    "The published code's min-max scaling and foreground crop are not done: they would need all "
    "volumes drawn again, and the lung frame, which shows the same region at the same place, favours "
    "that row. Its BioBERT is not on this machine: a frozen MiniLM (all-MiniLM-L6-v2) stands for it; "
    "the random window of its evaluation is not copied, the first 100 tokens are read. The paper's "
    "text tower is ours, trained. All rows read four paraphrases of each training report. "
    "Learning rates: the same few for each family, one seed, a short run, R@10 on val; tiny.toml "
    "itself was found on val before, with more runs than that (docs/log.md). Equal compute: the CPU "
    "seconds of training steps that tiny took with the same seed, or on a GPU the seconds of kernels, "
    "a step's measured alone on the card. Checkpoint of each run: the best of its "
    "validations by R@10 on val. Intervals of a row: 95 % over patients, ends averaged over seeds; of "
    "a difference: seeds and patients drawn again together, and three seeds say little of seeds. "
    "p-values: permutation of patients over the pooled seeds, Holm over rows. Shortcut rows are told "
    "each case's true attributes and read no words, which flatters them."
)


@cache
def settings_of(name: str) -> dict[str, Any]:
    """Return a file of ``configs/`` at the size of tiny.toml, or of what `SIZES` says."""
    own = to_dict(load_config(RecipeConfig, CONFIGS / f"{name}.toml"))
    tiny = to_dict(load_config(RecipeConfig, CONFIGS / "tiny.toml"))
    size = to_dict(load_config(RecipeConfig, CONFIGS / f"{SIZES.get(name, 'tiny')}.toml"))
    text = own["model"]["text"]
    own["model"] |= {key: size["model"][key] for key in SIZE_OF_A_MODEL if key in size["model"]}
    own["train"] |= {key: size["train"][key] for key in ("micro_batch", "precision", "devices")}
    if name == "published_code":
        own["model"]["text"] = text | {"name": "minilm", "pretrained": ""}
    if name == "base":
        own["train"] = size["train"] | {"batch_size": tiny["train"]["batch_size"]}
    own["train"] |= {"logger": "none", "max_cpu_s": 0.0, "max_s": 0.0}
    return own


def changed(settings: Mapping[str, Any], changes: Mapping[str, Mapping[str, Any]]) -> Any:
    """Return settings with some of them changed; see `Row.changes`."""
    made = json.loads(json.dumps(settings))
    for part, values in changes.items():
        for key, value in values.items():
            if not key.endswith("?") or key[:-1] in made[part]:
                made[part][key.removesuffix("?")] = value
    return made


def rows() -> dict[str, Row]:
    """Return the rows whose recipe is no other row's: a component that is off cannot be left out."""
    found: dict[str, Row] = {}
    for name, row in ROWS.items():
        if row.changes and changed(settings_of(row.start), row.changes) == settings_of(row.start):
            continue
        found[name] = row
    return found


def rates() -> tuple[float, float, float]:
    """Return the learning rates that every family is given: the published, ours, and between."""
    low, high = (settings_of(name)["train"]["lr"] for name in ("published_code", "tiny"))
    return low, float(f"{(low * high) ** 0.5:.1e}"), high


# --- runs


@dataclass(frozen=True)
class Job:
    """One training run.

    Attributes:
        name: Row or "tune-FAMILY", seed, hash; of its folder.
        recipe: All of it.
        data: The pools.
        is_measured: On the test splits; tuning is not.
    """

    name: str
    recipe: RecipeConfig
    data: pools.Data
    is_measured: bool = True

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.data.folder / "runs" / self.name


@dataclass(frozen=True)
class Plan:
    """What is to be run, and how much of it.

    Attributes:
        data: The pools.
        seen: Studies that a run sees, repeats counted.
        tune_seen: The same of a run that tries a learning rate.
        device: "cpu" or "cuda".
        untuned: Families that keep the learning rate of their file.
        overrides: Of every row; for `--quick`.
    """

    data: pools.Data
    seen: int
    tune_seen: int
    device: str = "cpu"
    untuned: tuple[str, ...] = ()
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def tuning(self, family: str, rate: float) -> Job:
        """Return the run that tries a learning rate."""
        return self._job(f"tune-{family}", ROWS[family], rate, 0, self.tune_seen, measured=False)

    def tried(self, family: str) -> dict[float, float]:
        """Return learning rate -> R@10 on val in percent, of the runs that are there."""
        found = {}
        for rate in rates():
            result = result_of(self.tuning(family, rate))
            if result is not None:
                found[rate] = 100 * result["validation"].get("mean_success_at_10", -0.01)
        return found

    def rate(self, family: str) -> float | None:
        """Return the best learning rate, the lowest of equals; None before all were tried."""
        if family in self.untuned:
            return float(settings_of(family)["train"]["lr"])
        tried = self.tried(family)
        return None if len(tried) < len(rates()) else max(tried, key=lambda rate: tried[rate])

    def job(self, name: str, seed: int) -> Job | None:
        """Return a run; None while another must come first."""
        row = ROWS[name]
        rate = self.rate(row.family)
        if rate is None:
            return None
        if not name.endswith(EQUAL_COMPUTE):
            return self._job(name, row, rate, seed, self.seen)
        equal = self.result(name.removesuffix(EQUAL_COMPUTE), seed)
        ours = self.result(OURS, seed)
        if equal is None or ours is None or "failed" in ours:
            return None
        if ours["compute_s"] is None or equal.get("compute_s", 0) is None:
            return None
        if "failed" in equal:  # it diverged; more of the same will too
            return self._job(name, row, rate, seed, self.seen)
        seen = round(equal["n_seen"] * ours["compute_s"] / equal["compute_s"])
        budget = round(ours["cpu_s"], 1) if self.device == "cpu" else 0.0
        return self._job(name, row, rate, seed, seen, max_cpu_s=budget)

    def result(self, name: str, seed: int) -> dict[str, Any] | None:
        """Return what a run found."""
        job = self.job(name, seed)
        return None if job is None else result_of(job)

    @property
    def families(self) -> list[str]:
        """List the files of ``configs/`` whose learning rates are tried."""
        return list(dict.fromkeys(row.family for row in ROWS.values()))

    def timed(self) -> list[Job]:
        """List a run of each row whose kernels are timed, where they were not."""
        names = [OURS, *(row.start for name, row in ROWS.items() if name.endswith(EQUAL_COMPUTE))]
        jobs = [self._job(name, ROWS[name], rates()[0], 0, self.seen) for name in [*names, "base"]]
        return [job for job in jobs if not kernels_of(job.recipe, self.data).is_file()]

    @property
    def references(self) -> Path:
        """Where the rows beside the models lie."""
        return found_at(self.data, f"{REFERENCES}-{_hash(digest(self.data))}.json")

    def _job(
        self,
        name: str,
        row: Row,
        rate: float,
        seed: int,
        seen: int,
        max_cpu_s: float = 0.0,
        measured: bool = True,
    ) -> Job:
        settings = changed(changed(settings_of(row.start), row.changes), self.overrides)
        steps = max(1, seen // settings["train"]["batch_size"])
        every = ceil(steps / N_VALIDATIONS)
        if self.device == "cpu":
            settings["train"]["precision"] = "32-true"
        settings["train"] |= {
            "accelerator": self.device,
            "lr": rate,
            "seed": seed,
            "steps": steps * 10 if max_cpu_s else steps,  # the budget ends it
            "max_cpu_s": max_cpu_s,
            "validate_every": every,
            "checkpoint_every": every,
        }
        recipe = from_dict(RecipeConfig, settings)
        key = _hash(digest(self.data), to_dict(recipe))
        return Job(f"{name}-{seed}-{key}", recipe, self.data, measured)


@cache
def digest(data: pools.Data) -> str:
    """Return what changes with the numbers, volumes or words of the pools."""
    numbers = (data.seed, data.n_train, data.n_val, data.n_test, data.n_pairs, data.size)
    words = [report_of(study) for study in data.studies("test")]
    return _hash(numbers, pools._code(), words)


def _hash(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def result_of(job: Job) -> dict[str, Any] | None:
    """Return what a run found, None before it has ended."""
    path = found_at(job.data, f"{job.name}/{RESULT}")
    return _read(str(path)) if path.is_file() else None


def found_at(data: pools.Data, name: str) -> Path:
    """Return where a run's file lies: among what was kept, or where runs write."""
    kept = KEPT / name
    return kept if kept.is_file() else data.folder / "runs" / name


def keep(plan: Plan, seeds: Sequence[int]) -> None:
    """Copy what the table was made of to `KEPT`, and remove what was of other tables."""
    jobs = [plan.tuning(family, rate) for family in plan.families for rate in rates()]
    jobs += [job for name in rows() for seed in seeds if (job := plan.job(name, seed)) is not None]
    names = [f"{job.name}/{file}" for job in jobs for file in (RESULT, WON)]
    names += [kernels_of(job.recipe, plan.data).name for job in jobs]
    names += [plan.references.name]
    whole = {}
    for name in names:
        path = found_at(plan.data, name)
        if path.is_file():
            whole[name] = path.read_bytes()
    shutil.rmtree(KEPT, ignore_errors=True)
    for name, content in whole.items():
        path = KEPT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@cache
def _read(path: str) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def _write(path: Path, value: Any) -> None:
    """Write a file that is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(f".{os.getpid()}.tmp")
    aside.write_text(json.dumps(value), encoding="utf-8")
    os.replace(aside, path)


@cache
def training_sets(data: pools.Data) -> Any:
    """Return the studies to train on, each report in its paraphrases, and those to validate on."""
    from medfinder.train.dataset import TrainingSet

    assert data.preprocess is not None

    def of(split: BenchmarkSplit, n_wordings: int) -> TrainingSet:
        pool = data.pool(split)
        return TrainingSet(
            study_ids=tuple(study.study_id for study in pool.studies),
            patient_ids=tuple(study.patient_id for study in pool.studies),
            volumes=pool.volumes,
            reports=tuple(
                tuple(report_of(study, variant=k) for k in range(n_wordings))
                for study in pool.studies
            ),
            preprocess=data.preprocess,
        )

    return of("train", pools.N_WORDINGS), of("val", 1)


def run(job: Job) -> str:
    """Train and measure; write ``result.json`` and, per study, ``won.npz``; return a line of news."""
    from medfinder.model.checkpoint import load_checkpoint
    from medfinder.model.joint_encoder import JointEncoder
    from medfinder.train.loop import fit
    from medfinder.train.state import STATE

    start = time.monotonic()
    train, val = training_sets(job.data)
    result: dict[str, Any] = {
        "recipe": to_dict(job.recipe),
        "n_train": len(train),
        "device": device_name(job.recipe.train.accelerator),
    }
    job.folder.mkdir(parents=True, exist_ok=True)
    try:
        done = fit(job.recipe, train, val, job.folder, resume=True, progress=_told(job))
        result |= {
            "validation": dict(done.measures),
            "best_step": done.step,
            "n_steps": done.n_steps,
            "n_seen": done.n_seen,
            "n_skipped": done.n_skipped,
            "n_parameters": sum(p.numel() for p in done.model.parameters()),
            "n_trained": sum(p.numel() for p in done.model.parameters() if p.requires_grad),
            "cpu_s": done.cpu_s,
            "duration_s": done.duration_s,
            "compute_s": done.cpu_s,
        }
        if job.recipe.train.accelerator == "cuda":
            timed = kernels_of(job.recipe, job.data)
            a_step = _read(str(timed))["seconds"] if timed.is_file() else None
            result["compute_s"] = a_step and done.n_steps * a_step
        if job.is_measured:
            encoder = JointEncoder(
                load_checkpoint(done.checkpoint), device=job.recipe.train.accelerator
            )
            result |= {"splits": {}, "headline": {}}
            for split in SPLITS:
                asked = pools.questions(job.data, split)
                given = pools.answers(encoder, job.data, split)
                figures = pools.score(given, asked)
                result["headline"][split] = pools.headline(figures)
                if split == "test":
                    result["splits"][split] = figures
                    np.savez_compressed(job.folder / WON, **won(given))
    except InputError as error:  # it has diverged: a result too
        result |= {"failed": str(error), "validation": {}}
    _write(job.folder / RESULT, result)
    (job.folder / STATE).unlink(missing_ok=True)
    if "failed" in result:
        return f"{job.name}: {result['failed']}"
    test = result.get("headline", {}).get("test", {})
    found = {way: round(test[f"{way} R@10"], 1) for way in WAYS if test}
    found["val R@10"] = round(100 * result["validation"]["mean_success_at_10"], 1)
    return (
        f"{job.name}: {json.dumps(found)}, {result['cpu_s']:.0f} CPU-s of steps, "
        f"{time.monotonic() - start:.0f} s"
    )


def kernels_of(recipe: RecipeConfig, data: pools.Data) -> Path:
    """Return the file that says how long the kernels of a step take on the GPU."""
    what = to_dict(recipe)
    what["train"] |= {"seed": 0, "lr": 0.0, "steps": 0, "validate_every": 0, "checkpoint_every": 0}
    return found_at(data, f"kernels-{_hash(what)}.json")


def time_kernels(job: Job) -> str:
    """Time the kernels of a step after `labels_first`, the dearer part, alone on the card."""
    from torch.profiler import ProfilerActivity, profile

    from medfinder.train.loop import fit

    profiler = profile(activities=[ProfilerActivity.CUDA])
    first, last = N_WARM, N_WARM + N_PROFILED

    def between(step: int, steps: int) -> None:
        if step == first:
            profiler.start()
        if step == last:
            profiler.stop()

    path = kernels_of(job.recipe, job.data)
    short = replace(
        job.recipe,
        objective=replace(job.recipe.objective, labels_first=0.0),
        train=replace(job.recipe.train, steps=last + 1, validate_every=last + 1),
    )
    fit(short, *training_sets(job.data), path.with_suffix(""), progress=between)
    kernels = sum(event.self_device_time_total for event in profiler.key_averages())
    seconds = kernels / 1e6 / N_PROFILED
    _write(path, {"seconds": seconds})
    return f"{job.name}: kernels take {1000 * seconds:.2f} ms a step"


def device_name(accelerator: str) -> str:
    """Return "cpu", or the name of the GPU."""
    import torch

    return torch.cuda.get_device_name() if accelerator == "cuda" else "cpu"


def won(given: pools.Answers) -> dict[str, NDArray[np.float64]]:
    """Return what a difference of two models is drawn from, a value a study, couple or pair."""
    values = dict(pools.successes(given))
    for k in pools.KS:
        values[f"R@{k}"] = np.mean([values[f"{way} R@{k}"] for way in WAYS], 0)
    if given.swaps is not None and len(given.swaps):
        gap = np.round(given.swaps[:, 0] - given.swaps[:, 1], 9)
        values["swap"] = ((gap > 0) + 0.5 * (gap == 0)).reshape(-1, 2).mean(1)  # couples
    return values


def _told(job: Job) -> Any:
    def told(step: int, steps: int) -> None:
        if step % job.recipe.train.validate_every == 0:
            print(f"  {job.name}: step {step} of {steps}", flush=True)

    return told


def measure_references(plan: Plan) -> str:
    """Measure shortcuts, oracles, words and chance."""
    start = time.process_time()
    found = pools.reference_rows(plan.data, SPLITS)
    _write(plan.references, found)
    return f"{REFERENCES}: {time.process_time() - start:.0f} CPU-s"


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def read_ahead(data: pools.Data) -> None:
    """Read what every run reads of reports; processes that are forked after that share it."""
    import random

    from medfinder.model.text_sentences import SentenceNetwork
    from medfinder.train.statements import make_statements

    train, _ = training_sets(data)
    texts = [text for reports in train.reports for text in reports]
    network = SentenceNetwork(width=32, depth=1, max_tokens=1)
    network.fit_tokenizer(texts)
    network.tokenize(texts)
    for start in range(0, len(texts), 64):
        make_statements(texts[start : start + 64], random.Random(0))
    for split in SPLITS:
        pools.questions(data, split)


def run_all(plan: Plan, names: Sequence[str], seeds: Sequence[int], n_jobs: int) -> bool:
    """Run what is missing, each as soon as what it waits for is there; return whether all went well."""
    asked = [name for name in names if name in ROWS]
    families = dict.fromkeys(ROWS[name].family for name in asked)
    todo: list[tuple[Any, ...]] = [
        (family, rate) for rate in rates() for family in families if family not in plan.untuned
    ]
    todo += [(REFERENCES,)] if REFERENCES in names else []
    todo += [(name, seed) for seed in seeds for name in asked]
    went_well = True
    method = "spawn"
    if plan.device == "cuda":  # the GPU is first touched in the processes
        read_ahead(plan.data)
        method = "fork"
        for job in plan.timed():
            with ProcessPoolExecutor(1, mp_context=get_context(method)) as executor:
                print(executor.submit(time_kernels, job).result(), flush=True)
    running: dict[Future[str], tuple[Any, ...]] = {}
    with ProcessPoolExecutor(
        n_jobs, mp_context=get_context(method), initializer=_one_thread
    ) as executor:
        while True:
            for item in list(todo):
                if len(running) == n_jobs:
                    break
                job: Job | None = None
                if item == (REFERENCES,):
                    ended = plan.references.is_file()
                elif isinstance(item[1], float):
                    job = plan.tuning(*item)
                else:
                    job = plan.job(*item)
                    if job is None:  # not yet
                        continue
                if job is not None:
                    ended = result_of(job) is not None
                todo.remove(item)
                if not ended and job is None:
                    running[executor.submit(measure_references, plan)] = item
                elif not ended:
                    running[executor.submit(run, job)] = item
            if not running:
                break
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                item = running.pop(future)
                try:
                    print(future.result(), flush=True)
                except Exception:  # the others go on
                    traceback.print_exc()
                    print(f"{item} FAILED", flush=True)
                    went_well = False
    for item in todo:
        print(f"{item} was not run: a run that it waits for failed or was not asked for.")
    return went_well and not todo


# --- the table


SHOWN = (
    *(f"{way} R@{k}" for way in WAYS for k in (1, 10)),
    "swap",
    "swap mean_of_kinds",
    "zero_shot AUROC",
    "keyword mAP",
)
"""Kept of the splits beside ``test``, of which everything is."""


def collect(plan: Plan, seeds: Sequence[int]) -> dict[str, Any]:
    """Return all figures of the runs that are there."""
    runs = {name: _runs(plan, name, seeds) for name in rows()}
    runs = {name: found for name, found in runs.items() if found}
    references = _read(str(plan.references)) if plan.references.is_file() else {}
    measured = {name: summary(name, found) for name, found in runs.items()}
    studies = plan.data.studies("test")
    found = {
        "n_train": plan.data.n_train,
        "n_val": plan.data.n_val,
        "n_test": plan.data.n_test,
        "n_pairs": len(plan.data.pairs("test")),
        "size": list(plan.data.size),
        "seen": plan.seen,
        "tune_seen": plan.tune_seen,
        "device": plan.device,
        "untuned": list(plan.untuned),
        "left_out": [ROWS[name].title for name in ROWS if name not in rows()],
        "tuning": {
            family: {f"{rate:g}": value for rate, value in plan.tried(family).items()}
            for family in plan.families
        },
        "rows": measured,
        "references": {
            name: {split: _kept(split, flat) for split, flat in of.items()}
            for name, of in references.items()
        },
        "against_ours": against_ours(plan, runs, [study.patient_id for study in studies]),
        "components": components(plan, runs),
    }
    return found | {"targets": targets(found)}


def _runs(plan: Plan, name: str, seeds: Sequence[int]) -> dict[int, dict[str, Any]]:
    found = {seed: plan.result(name, seed) for seed in seeds}
    return {seed: result for seed, result in found.items() if result is not None}


def summary(name: str, runs: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Return a row's figures: means over seeds, their range, and intervals over patients."""
    good = {seed: run for seed, run in runs.items() if "failed" not in run}
    row: dict[str, Any] = {
        "title": ROWS[name].title,
        "seeds": list(good),
        "diverged": [seed for seed in runs if seed not in good],
    }
    if not good:
        return row
    some = next(iter(good.values()))
    row |= {key: some["recipe"]["train"][key] for key in ("lr", "batch_size")}
    for key in ("n_parameters", "n_trained", "n_seen", "n_steps", "duration_s"):
        row[key] = round(float(np.mean([run[key] for run in good.values()])), 1)
    compute = [run["compute_s"] for run in good.values()]
    row["compute_s"] = None if None in compute else round(float(np.mean(compute)), 1)
    row["devices"] = sorted({run["device"] for run in good.values()})
    row["val R@10"] = 100 * float(
        np.mean([run["validation"]["mean_success_at_10"] for run in good.values()])
    )
    for split in SPLITS:
        flats = [_kept(split, run["headline"][split]) for run in good.values()]
        row[split] = {
            key: {
                "mean": float(np.mean([flat[key] for flat in flats])),
                "min": float(min(flat[key] for flat in flats)),
                "max": float(max(flat[key] for flat in flats)),
            }
            for key in flats[0]
        }
    figures = [run["splits"]["test"] for run in good.values()]
    for key, ends in _intervals(figures).items():
        row["test"][key] |= ends
    for kind, measure in (("keyword", "keyword AP"), ("zero_shot", "zero_shot AUROC")):
        row[f"{measure} by finding"] = _means([one[kind]["findings"] for one in figures])
    row["swap by attribute"] = _means(
        [{k: v["share"] for k, v in one["swap"]["by_attribute"].items()} for one in figures]
    )
    return row


def _kept(split: str, flat: Mapping[str, float]) -> dict[str, float]:
    return {k: round(v, 4) for k, v in flat.items() if split == "test" or k in SHOWN}


def _means(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: round(float(np.mean([one[key] for one in found])), 4) for key in found[0]}


def _intervals(figures: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the ends of 95 % intervals over patients, averaged over seeds, by name of `headline`."""
    found: dict[str, list[Mapping[str, float]]] = {}
    for one in figures:
        named = {f"{way} {key}": value for way in WAYS for key, value in one[way].items()}
        named["keyword mAP"] = one["keyword"]["mAP"]
        named["zero_shot AUROC"] = one["zero_shot"]["AUROC"]
        named["zero_shot minus_denial AUROC"] = one["zero_shot"]["minus_denial"]["AUROC"]
        named["swap"] = one["swap"]["overall"]
        other = one["counterfactual"]
        named["counterfactual"] = other["overall"]
        for key in (*WAYS, "all_four"):
            named[f"counterfactual {key}"] = other[key]
        for key, value in other["twins"].items():
            named[f"counterfactual twins {key}"] = value
        for key, value in named.items():
            found.setdefault(key, []).append(value)
    return {
        key: {end: float(np.mean([v[end] for v in values])) for end in ("low", "high")}
        for key, values in found.items()
    }


def _won(plan: Plan, name: str, seeds: Sequence[int], measure: str) -> NDArray[np.float64]:
    """Return what a row won with each seed, (S, N)."""
    of = []
    for seed in seeds:
        job = plan.job(name, seed)
        assert job is not None
        with np.load(found_at(job.data, f"{job.name}/{WON}")) as file:
            of.append(file[measure])
    return np.stack(of)


def _good(runs: Mapping[str, Mapping[int, Any]], *names: str) -> list[int]:
    """Return the seeds that all of some rows were trained with."""
    if any(name not in runs for name in names):
        return []
    return [
        seed
        for seed, run in runs[names[0]].items()
        if all("failed" not in runs[name].get(seed, {"failed": 1}) for name in names)
    ]


def against_ours(
    plan: Plan, runs: Mapping[str, Mapping[int, Any]], patients: Sequence[str]
) -> dict[str, Any]:
    """Test every row against `OURS`, by study, over all seeds that both have."""
    measures = ("R@1", "R@10")
    found: dict[str, Any] = {}
    for name in runs:
        seeds = _good(runs, name, OURS)
        if name == OURS or not seeds:
            continue
        found[name] = {"seeds": seeds}
        for measure in measures:
            ours, other = (100 * _won(plan, n, seeds, measure) for n in (OURS, name))
            p = permutation_test(ours.ravel(), other.ravel(), list(patients) * len(seeds))
            found[name][measure] = gain(ours, other) | {"p": p}
    for measure in measures if found else ():
        corrected = holm({name: one[measure]["p"] for name, one in found.items()})
        for name, p in corrected.items():
            found[name][measure]["p_holm"] = p
    return found


def gain(ours: NDArray[np.float64], other: NDArray[np.float64]) -> dict[str, Any]:
    """Return the mean difference, (S, N) each, with an interval over seeds and items at once."""
    gaps = ours - other
    n_seeds, n = gaps.shape
    rng = np.random.default_rng(0)
    seeds = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), N_DRAWS) / n_seeds
    items = rng.multinomial(n, np.full(n, 1 / n), N_DRAWS) / n
    drawn = ((seeds @ gaps) * items).sum(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {
        "value": float(gaps.mean()),
        "low": float(low),
        "high": float(high),
        "by_seed": [round(float(x), 4) for x in gaps.mean(1)],
    }


def components(plan: Plan, runs: Mapping[str, Mapping[int, Any]]) -> list[dict[str, Any]]:
    """Say of each component what it brings, with it minus without it, and whether that helps."""
    found = []
    for name, row in ROWS.items():
        seeds = _good(runs, name, row.start) if row.component else []
        if not seeds:
            continue
        with_, without = (name, row.start) if row.adds else (row.start, name)
        one: dict[str, Any] = {
            "component": row.component,
            "is_the_papers": row.component in PAPERS,
            "with": with_,
            "without": without,
            "seeds": seeds,
        }
        for measure, unit in (("R@10", 100), ("R@1", 100), ("swap", 1)):
            a, b = (unit * _won(plan, n, seeds, measure) for n in (with_, without))
            one[measure] = gain(a, b)
            one[measure]["verdict"] = verdict(one[measure], MARGIN * unit / 100)
        areas = [
            [runs[n][s]["headline"]["test"]["zero_shot AUROC"] for s in seeds]
            for n in (with_, without)
        ]
        gaps = np.subtract(*areas)
        one["zero_shot AUROC"] = {"value": float(gaps.mean()), "by_seed": gaps.round(4).tolist()}
        found.append(one)
    return found


def verdict(found: Mapping[str, Any], margin: float) -> str:
    """Return "helps", "does not help" or "undecided": by the interval, and all seeds must agree.

    Fewer than `N_SEEDS` decide nothing.
    """
    if len(found["by_seed"]) < N_SEEDS:
        return "undecided"
    if found["low"] > 0 and min(found["by_seed"]) > 0:
        return "helps"
    if found["high"] < margin:
        return "does not help"
    return "undecided"


def targets(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Hold what was asked for against what was measured."""
    measured, references = found["rows"], found["references"]
    lines: list[dict[str, Any]] = []

    def at(name: str, key: str) -> float | None:
        one = measured.get(name, {}).get("test", {}).get(key)
        return None if one is None else float(one["mean"])

    def line(row: str, what: str, value: float | None, least: float) -> None:
        reached = None if value is None else value >= least
        lines.append(
            {"row": row, "target": what, "measured": value, "least": least, "reached": reached}
        )

    def times(a: float | None, b: float | None) -> float | None:
        """Return a / b, where b counts as chance if it is less."""
        return None if a is None or b is None else round(a / max(b, 100 / found["n_test"]), 2)

    shortcuts = {k: v["test"] for k, v in references.items() if k.endswith((", ridge", ", MLP"))}
    for row in ("base", "tiny"):
        if row not in rows():
            continue
        line(row, "held-out studies", found["n_test"], 500)
        line(row, "seeds", len(measured.get(row, {}).get("seeds", [])), N_SEEDS)
        for way in WAYS:
            key, arrow = f"{way} R@1", way.replace("_to_", "→")
            for other in ("published_code", "published_code=compute"):
                what = f"R@1 {arrow}, times that of {ROWS[other].title}"
                line(row, what, times(at(row, key), at(other, key)), 4)
            best = max((flat[key] for flat in shortcuts.values()), default=None)
            line(row, f"R@1 {arrow}, times the best shortcut's", times(at(row, key), best), 5)
            line(row, f"R@10 {arrow}", at(row, f"{way} R@10"), 75)
        line(row, "attribute swap", at(row, "swap"), 0.88)
        line(row, "zero-shot finding AUROC", at(row, "zero_shot AUROC"), 0.85)
    for component in PAPERS:
        of = [c for c in found["components"] if c["component"] == component]
        n_asked = sum(row.component == component for row in rows().values())
        said = [c["R@10"]["verdict"] for c in of]
        lines.append(
            {
                "row": "paper, tiny",
                "target": f"{component}: helps, or is reported as not helping",
                "measured": "; ".join(
                    f"{verdict} ({ROWS[c['with']].start})"
                    for c, verdict in zip(of, said, strict=True)
                )
                or None,
                "least": None,
                "reached": "undecided" not in said if said and len(said) == n_asked else None,
            }
        )
    return lines


def show(found: Mapping[str, Any]) -> None:
    """Print the rows and the targets."""
    keys = (
        *((f"{way} R@{k}", f"{way[0]}→{way.split('_to_')[1][0]} R@{k}") for way in WAYS
          for k in pools.KS),
        ("swap", "swap"),
        ("counterfactual", "twin"),
        ("zero_shot AUROC", "AUROC"),
        ("keyword mAP", "mAP"),
    )  # fmt: skip
    lines = []
    for row in found["rows"].values():
        flat = {key: one["mean"] for key, one in row.get("test", {}).items()}
        lines.append(
            {
                "row": row["title"],
                "seeds": len(row["seeds"]),
                "compute s": row.get("compute_s", "diverged"),
            }
            | {short: flat.get(key, "") for key, short in keys}
        )
    for name, of in found["references"].items():
        flat = of["test"]
        lines.append(
            {"row": name, "seeds": "", "compute s": ""}
            | {short: flat.get(key, "") for key, short in keys}
        )
    print(table(lines))
    print()
    print(
        table(
            [
                {"component": c["component"], "with": c["with"], "without": c["without"]}
                | {
                    m: f"{c[m]['value']:+.3g} ({c[m]['low']:+.3g} … {c[m]['high']:+.3g})"
                    for m in ("R@10", "R@1", "swap")
                }
                | {"R@10 says": c["R@10"]["verdict"], "swap says": c["swap"]["verdict"]}
                for c in found["components"]
            ]
        )
    )
    print()
    print(table(found["targets"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("~/.cache/medfinder/recipes").expanduser(),
        help="where pools and runs lie",
    )
    parser.add_argument("--n-train", type=int, default=8000)
    parser.add_argument("--seen", type=int, default=96_000, help="studies a run sees")
    parser.add_argument("--tune-seen", type=int, default=0, help="default: a quarter of --seen")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: 0 1 2")
    parser.add_argument(
        "--rows",
        nargs="+",
        choices=[*rows(), REFERENCES],
        metavar="ROW",
        help=f"default: all of {', '.join(rows())}, {REFERENCES}",
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--untuned", nargs="+", default=[], help="files of configs/ whose learning rate is kept"
    )
    parser.add_argument("--table", action="store_true", help="only collect, write and print")
    parser.add_argument("--quick", action="store_true", help="64 small phantoms, a few steps")
    args = parser.parse_args()
    names = args.rows or (QUICK if args.quick else [*rows(), REFERENCES])
    seeds = args.seeds or ([0] if args.quick else [0, 1, 2])
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"  # of the processes that are started
    preprocess = from_dict(RecipeConfig, settings_of("tiny")).model.preprocess
    data = pools.Data(
        args.folder, n_train=args.n_train, preprocess=preprocess, workers=max(2, args.jobs)
    )
    plan = Plan(data, args.seen, args.tune_seen or args.seen // 4, args.device, tuple(args.untuned))
    if args.quick:
        data = pools.Data(
            args.folder / "quick",
            n_train=64,
            n_val=20,
            n_test=40,
            n_pairs=12,
            n_val_pairs=4,
            size=(32, 48, 48),
            preprocess=preprocess,
            workers=max(2, args.jobs),
        )
        small = {"train": {"batch_size": 4}, "objective": {"label_min_count": 5}}
        plan = Plan(data, seen=24, tune_seen=8, device=args.device, overrides=small)
    if not args.table:
        for split in ("train", "val", *SPLITS):
            data.pool(split, _drawing(split))
        data.changed("test", _drawing("changed"))
        if not run_all(plan, names, seeds, args.jobs):
            print("Not everything was run.", file=sys.stderr)
        _read.cache_clear()
    found = collect(plan, seeds)
    show(found)
    if args.quick:
        _write(data.folder / "recipes.json", found)
        print(data.folder / "recipes.json")
    elif args.table and found["rows"]:
        keep(plan, seeds)
        print(write_result("recipes", found, seeds, NOTES))


def _drawing(split: str) -> pools.Progress:
    def told(done: int, n: int) -> None:
        if done % 200 == 0 or done == n:
            print(f"  drawing {split}: {done} of {n}", flush=True)

    return told


if __name__ == "__main__":
    main()
