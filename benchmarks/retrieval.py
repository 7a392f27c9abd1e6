"""The table: every baseline and every recipe under the same protocols, on studies none was trained on.

Studies are the ``test`` split of the phantom benchmark, drawn as NIfTI and curated, so that any entrant
reads them as ``medfinder benchmark`` would. Rows: chance; the shortcut of histogram and grid; the
report's own words, by themselves and asked in another wording; astra, frozen, whole, by region and by
slice; the recipes of ``recipes.py``; and the checkpoint that ships, against which all are tested.

Encoders of many seconds a CT are measured on the first studies alone, in a table of their own in which
every other row is measured again on the same ones. What needs weights or a run that are not here is
named as absent. Vectors are kept by content in FOLDER: a changed checkpoint embeds only itself.

Run: ``python benchmarks/retrieval.py [--folder FOLDER] [--frozen 64] [--train] [--checkpoint NAME=DIR]``;
``--train`` trains absent recipes by ``recipes.py`` first. ``--quick`` takes 40 small studies.
"""

import argparse
import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).parent))
from record import RESULTS, table, write_result

from medfinder.artifact import MANIFEST
from medfinder.benchmark.baselines import BASELINES, bm25, sentences
from medfinder.benchmark.benchmark import BenchmarkConfig, benchmark
from medfinder.benchmark.compare import compare, grouped
from medfinder.benchmark.entrant import Entrant, Placed, centred
from medfinder.benchmark.reference import Reference, read_reference
from medfinder.benchmark.results import Asked, Results, Scores
from medfinder.benchmark.source import embed, open_entrant
from medfinder.benchmark.task import is_lower_better
from medfinder.curate.curate import CurateConfig, curate
from medfinder.curate.sources.folder import FolderSource
from medfinder.embed import Embedder
from medfinder.errors import InputError, MissingExtra
from medfinder.model.encoder import encoders, load_encoder
from medfinder.phantom.benchmark import SIZE, write_benchmark
from medfinder.volume.read import read_volume

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SEED = 1
"""Of the phantom benchmark, as in ``recipes.py``."""
BASE = "base"
"""The row that all others are tested against: what ships."""
RECIPES = ("published_code", "paper", "tiny")
FROZEN = ("astra", "astra_regions", "astra_slices", "astra_slices_max", "astra_slices_mean")
PUBLISHED = ("biomedclip_slices", "ct_clip", "merlin", "colipri")
PROTOCOLS = (
    "one-to-one",
    "deduplicated",
    "same-findings-exact",
    "same-findings-graded",
    "keyword",
    "same-lobe",
    "same-side",
    "pools",
    "medfinder-paper",
    "ct-clip",
)
MEASURES = ("R@1", "R@5", "R@10", "MdR", "P@10", "P@20", "AP", "AUROC", "nDCG@10", "Jaccard@10")
TITLES = {
    "chance": "chance",
    "shortcut": "shortcut: histogram and grid",
    "bm25": "bm25 on reports, asked by themselves",
    "bm25 reworded": "bm25 on reports, asked in other words",
    "minilm": "minilm on reports, asked by themselves",
    "minilm reworded": "minilm on reports, asked in other words",
    "astra": "astra, mean of regions",
    "astra centred": "astra, mean of regions, centred",
    "astra_regions": "astra, 12 cells of regions",
    "astra_regions centred": "astra, 12 cells of regions, centred",
    "astra_slices": "astra by slice, median (3D-MIR)",
    "astra_slices_max": "astra by slice, maximum (3D-MIR)",
    "astra_slices_mean": "astra by slice, mean (3D-MIR)",
    "published_code": "published code",
    "paper": "the paper's method",
    "tiny": "ours, tiny.toml",
    BASE: "ours, what ships",
}
HEADLINE = {
    "report→volume R@1": ("one-to-one", "report_to_volume", "R@1"),
    "report→volume R@10": ("one-to-one", "report_to_volume", "R@10"),
    "volume→report R@1": ("one-to-one", "volume_to_report", "R@1"),
    "volume→report R@10": ("one-to-one", "volume_to_report", "R@10"),
    "keyword AP": ("keyword", "keyword_to_volume", "AP"),
    "same lobe AUROC": ("same-lobe", "report_to_volume", "AUROC"),
    "same side AUROC": ("same-side", "report_to_volume", "AUROC"),
    "R@1 of 128": ("pools", "report_to_volume", "R@1 of 128"),
    "volume→volume nDCG@10": ("same-findings-graded", "volume_to_volume", "nDCG@10"),
    "volume→volume same lobe AUROC": ("same-lobe", "volume_to_volume", "AUROC"),
    "volume→volume same side AUROC": ("same-side", "volume_to_volume", "AUROC"),
}
"""Column → protocol, way, measure."""
ORACLES = ("bm25", "bm25 reworded", "minilm", "minilm reworded")
"""They read the report that stands for the volume."""
NOTES = (
    "Synthetic CTs and generated reports: it says nothing of real ones. Values in percent, MdR in "
    "places; 95 % intervals over patients, for keywords over pools of patients drawn again, in "
    "which copies stand side by side: an AP near chance can lie below its interval. bm25 and minilm see no volume: "
    "its report stands for it, so asked by itself it finds itself; in other words, it is asked by the "
    "split unseen-wording. astra reads CTs alone, and cannot be asked by text. Its slices are its own "
    "network with every kernel summed along depth, since no weights of a 2D encoder of CTs are at "
    "hand: BiomedCLIP's join by themselves where they are. Centred: the mean of the pool's vectors is "
    "taken away, which needs no label. Tests against what ships: paired, by permutation of patients, "
    "by the primary measure of each protocol and direction, Holm over all of a table. Recipes: one "
    "run each of recipes.py, named in the record. Real CTs are examples: none has a radiologist's report here."
)
CONFIG = BenchmarkConfig(depth=0)
Floats = npt.NDArray[np.float32]


# --- studies


def studies(folder: Path, n_test: int, n_train: int, size: tuple[int, int, int]) -> Path:
    """Draw and curate ``test`` and ``train`` where they are not; the folder holds both."""
    bench = folder / "bench"

    def told(done: int, n: int) -> None:
        if done % 100 == 0:
            print(f"  drawing: {done} of {n}", flush=True)

    write_benchmark(
        bench,
        n_train,
        SEED,
        n_test=n_test,
        size=size,
        folders=("test", "unseen-wording", "train"),
        progress=told,
    )
    for split in ("test", "train"):
        out, csv = folder / "studies" / split, bench / split / "studies.csv"
        told_of = {f"{study}.nii.gz" for study in column(csv, "study_id")}
        for path in (bench / split / "volumes").glob("*.nii.gz"):
            if path.name not in told_of:  # of a run that asked for more
                path.unlink()
        mark = folder / f"{split}.csv.blake2"
        digest = hashlib.blake2b(csv.read_bytes(), digest_size=16).hexdigest()
        if (out / MANIFEST).is_file() and mark.is_file() and mark.read_text() == digest:
            continue
        print(f"  curating {split}", flush=True)
        curate(FolderSource(bench / split / "volumes", reports=csv), out, CurateConfig())
        mark.write_text(digest)
    return folder / "studies"


def column(table_: Path, name: str) -> list[str]:
    """Return a column of a CSV table."""
    import csv

    with table_.open(newline="", encoding="utf-8") as file:
        return [row[name] for row in csv.DictReader(file)]


def other_words(folder: Path, reference: Reference) -> list[str]:
    """Return each study's report as the split ``unseen-wording`` words it."""
    told = folder / "bench" / "unseen-wording" / "studies.csv"
    names = [Path(file).name.removesuffix(".nii.gz") for file in column(told, "file")]
    texts = dict(zip(names, column(told, "text"), strict=True))
    return [
        texts[Path(study.volume_path).name.removesuffix(".nii.gz")] for study in reference.studies
    ]


# --- vectors


class Kept:
    """An encoder of volumes whose region features are kept on disk by the content of its input.

    Variants of one network that pool the same features share them. It is loaded when it is needed.
    """

    def __init__(self, name: str, family: str, folder: Path) -> None:
        self.info = encoders.get(name).info
        self._folder = folder / "regions" / encoders.get(family).info.model_id
        self._loaded: Any = None

    @property
    def _encoder(self) -> Any:
        if self._loaded is None:
            self._loaded = load_encoder(self.info.name)
        return self._loaded

    def encode_volumes(self, batch: Floats) -> Floats:
        """Encode a batch, or pool what is known of it."""
        made: Floats = self._encoder.pool_regions(np.stack([self._regions(one) for one in batch]))
        return made

    def _regions(self, one: Floats) -> npt.NDArray[np.float16]:
        one = np.ascontiguousarray(one)
        key = hashlib.blake2b(one.tobytes(), digest_size=16).hexdigest()
        path = self._folder / f"{key}.npy"
        if not path.is_file():
            self._folder.mkdir(parents=True, exist_ok=True)
            features = self._encoder.region_features(one[None])[0]
            aside = path.with_suffix(".tmp")
            with aside.open("wb") as file:
                np.save(file, features)
            aside.replace(path)
        known: npt.NDArray[np.float16] = np.load(path)
        return known


def frozen(name: str, folder: Path) -> Embedder:
    """Return astra in one of its forms."""
    family = "astra_slices" if name.startswith("astra_slices") else "astra"
    return Embedder(Kept(name, family, folder))  # type: ignore[arg-type]


def checkpoints(given: Mapping[str, Path], train: bool) -> dict[str, Path]:
    """Find, or train, the recipes' checkpoints: those given, else of recipes.py's runs."""
    import phantom_pools as pools
    import recipes

    from medfinder.config import from_dict
    from medfinder.train.recipe import RecipeConfig

    figures = json.loads((RESULTS / "recipes.json").read_text(encoding="utf-8"))["figures"]
    preprocess = from_dict(RecipeConfig, recipes.settings_of("tiny")).model.preprocess
    home = Path("~/.cache/medfinder/recipes").expanduser()
    data = pools.Data(home, n_train=figures["n_train"], preprocess=preprocess)
    device = figures["device"]
    if train:
        import torch

        device = device if torch.cuda.is_available() else "cpu"
    plan = recipes.Plan(
        data, figures["seen"], figures["tune_seen"], device, tuple(figures["untuned"])
    )
    missing = [name for name in RECIPES if name not in given and not _runs(plan, name)]
    if train and missing:
        for name in missing:  # what it found may be kept without its checkpoint
            if (job := plan.job(name, 0)) is not None:
                print(recipes.run(job), flush=True)
            else:  # learning rates first
                recipes.run_all(plan, [name], [0], 1)
    found = dict(given)
    for name in RECIPES:
        if name not in found and (runs := _runs(plan, name)):
            found[name] = runs[0]
    return found


def _runs(plan: Any, name: str) -> list[Path]:
    """Return checkpoints of a recipe: the plan's own run with seed 0, then others, newest first."""
    job = plan.job(name, 0)
    places = [] if job is None else [job.folder / "checkpoint"]
    others = (plan.data.folder / "runs").glob(f"{name}-[0-9]*-*/checkpoint")
    places += sorted(others, key=lambda path: -path.stat().st_mtime)
    return [place for place in places if place.is_dir() and any(place.iterdir())]


def entrants(
    folder: Path, reference: Reference, first: Reference, found: Mapping[str, Path]
) -> tuple[dict[str, Callable[[], Entrant]], dict[str, Callable[[], Entrant]], dict[str, str]]:
    """Return the rows of all studies, those of the first ones alone, and why others are absent."""
    absent = {
        name: "no checkpoint: train it with --train, or give --checkpoint"
        for name in RECIPES
        if name not in found
    }

    def made(encoder: str | Embedder, name: str, some: Reference) -> Entrant:
        embedder = encoder if isinstance(encoder, Embedder) else Embedder(encoder)
        return embed(embedder, some, folder / "vectors" / name, _told(name))

    def other(name: str) -> Entrant:
        words = other_words(folder, reference)
        if name.startswith("bm25"):
            return bm25(reference, words)
        return sentences(reference, Embedder("minilm"), words)

    whole: dict[str, Callable[[], Entrant]] = {
        "chance": lambda: BASELINES["chance"](reference),
        "shortcut": lambda: open_entrant(
            "shortcut",
            reference,
            folder / "vectors" / "shortcut",
            train=read_reference(folder / "studies" / "train", "train"),
            progress=_told("shortcut"),
        ),
        "bm25": lambda: BASELINES["bm25"](reference),
        "bm25 reworded": lambda: other("bm25"),
        "minilm": lambda: BASELINES["minilm"](reference),
        "minilm reworded": lambda: other("minilm"),
    }
    for name in (*RECIPES, BASE):
        where = "medfinder" if name == BASE and name not in found else str(found.get(name, ""))
        if where:
            whole[name] = lambda name=name, where=where: made(where, name, reference)
    alone: dict[str, Callable[[], Entrant]] = {}
    for name in FROZEN:
        alone[name] = lambda name=name: made(frozen(name, folder), name, first)
        if name in ("astra", "astra_regions"):
            alone[f"{name} centred"] = lambda name=name: centred(
                made(frozen(name, folder), name, first)
            )
    for name in PUBLISHED:
        alone[name] = lambda name=name: made(name, name, first)
    return whole, alone, absent


def _told(name: str) -> Callable[[int, int, str], None]:
    def told(done: int, n: int, what: str) -> None:
        if done % 50 == 0:
            print(f"  {name}: {done} of {n}", flush=True)

    return told


def among(entrant: Entrant, reference: Reference) -> Entrant:
    """Return an entrant with the vectors of some studies alone."""
    sides = {}
    for side, placed in entrant.sides.items():
        if side != "keyword":
            rows = [i for i, name in enumerate(placed.ids) if name in reference.row]
            placed = Placed(tuple(placed.ids[i] for i in rows), placed.vectors[rows])
        sides[side] = placed
    left_out = {
        why: tuple(name for name in names if name in reference.row)
        for why, names in (entrant.left_out or {}).items()
    }
    return dataclasses.replace(entrant, sides=sides, left_out=left_out)


# --- figures


def measured(
    given: Mapping[str, Entrant], reference: Reference
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Measure rows on the same studies, and test each against `BASE`."""
    found: dict[str, tuple[Results, Scores]] = {}
    for name, entrant in given.items():
        start = time.process_time()
        own = dataclasses.replace(entrant, name=name)
        results, rows = benchmark(own, reference, None, CONFIG)
        kept = {p: results.protocols[p] for p in PROTOCOLS if p in results.protocols}
        results = dataclasses.replace(results, protocols=kept)
        found[name] = results, grouped([row for row in rows if row.protocol in kept])
        print(f"  {name}: {time.process_time() - start:.0f} CPU-s", flush=True)
    rows_ = {name: row_of(results) for name, (results, _) in found.items()}
    if BASE not in found:
        return rows_, []
    results, scores = found[BASE]
    others = [found[name] for name in found if name != BASE]
    tested, _ = compare(results, scores, others, CONFIG.n_draws, CONFIG.n_flips)
    return rows_, [comparison_of(one) for one in tested]


def row_of(results: Results) -> dict[str, Any]:
    """Return a row: its figures in percent, and why it was not asked what it was not."""
    return {
        "title": TITLES.get(results.model, results.model),
        "model_id": results.model_id,
        "dim": results.dim,
        "protocols": {
            f"{name} v{judged.version}": {
                way: asked_of(asked) for way, asked in judged.ways.items()
            }
            for name, judged in results.protocols.items()
        },
        "not_asked": {
            name: why.reason for name, why in results.not_asked.items() if name in PROTOCOLS
        },
        "headline": {
            column: scaled(measure, figure.value)
            for column, (protocol, way, measure) in HEADLINE.items()
            if protocol in results.protocols
            and way in (ways := results.protocols[protocol].ways)
            and (figure := ways[way].figures.get(measure)) is not None
        },
    }


def asked_of(asked: Asked) -> dict[str, Any]:
    """Return the figures of one direction."""
    kept = {
        name: one
        for name, one in asked.figures.items()
        if name in MEASURES or name == asked.primary or " of " in name
    }
    return {
        "n_queries": asked.n_queries,
        "n_gallery": asked.n_gallery,
        "left_out": asked.left_out,
        "primary": asked.primary,
        "figures": {
            name: {
                key: scaled(name, getattr(one, key))
                for key in ("value", "low", "high", "chance", "ceiling")
            }
            for name, one in kept.items()
        },
    }


def comparison_of(one: Any) -> dict[str, Any]:
    """Return a test: `BASE` less another row."""
    values = {key: scaled(one.measure, getattr(one, key)) for key in ("difference", "low", "high")}
    return {
        "other": one.other,
        "protocol": one.protocol,
        "way": one.way,
        "measure": one.measure,
        **values,
        "p_holm": round(one.p_holm, 5),
    }


def scaled(measure: str, value: float | None) -> float | None:
    """Return a share in percent, a place as it is."""
    if value is None:
        return None
    return round(value if is_lower_better(measure) else 100 * value, 3)


# --- real CTs


def examples(folder: Path, base: str) -> dict[str, Any]:
    """Return the nearest real CTs of each complete chest, named by their public ids: no quality figure."""
    import csv

    if not DATA.is_dir():
        return {"absent": "no ../shared/data beside the checkout"}
    with (DATA / "ct_nifti" / "studies.csv").open(newline="", encoding="utf-8") as file:
        chests = {
            row["file"].removesuffix(".nii.gz")
            for row in csv.DictReader(file)
            if row["complete"] == "yes" and row["body_part"] == "chest"
        }
    places = {p.name.removesuffix(".nii.gz"): p for p in sorted((DATA / "ct_nifti").glob("*.gz"))}
    crops = sorted((DATA / "ct_nifti_crops").glob("*.gz"))[::10]
    places |= {p.name.removesuffix(".nii.gz"): p for p in crops}
    places |= {f"dicom {p.name}": p for p in sorted((DATA / "dicom").iterdir()) if p.is_dir()}
    found: dict[str, Any] = {"n": 0, "refused": {}, "nearest": {}}
    volumes = {}
    for name, place in places.items():
        try:
            volumes[name] = read_volume(place)
        except InputError as error:
            found["refused"][name] = error.rule
    found["n"] = len(volumes)
    ways = {"ours, what ships": Embedder(base)}
    ways[TITLES["astra_slices_mean"]] = frozen("astra_slices_mean", folder)
    for way, embedder in ways.items():
        try:
            made = embedder.embed_volumes(volumes.items()).centred()
        except MissingExtra:
            continue
        scores = made.vectors @ made.vectors.T
        lists = {}
        for i, name in enumerate(made.ids):
            if name not in chests and not name.startswith("dicom"):
                continue
            scores[i, i] = -2
            order = np.argsort(-scores[i], kind="stable")[:3]
            lists[name] = [
                {"id": made.ids[j], "cosine": round(float(scores[i, j]), 3)} for j in order
            ]
        found["nearest"][way] = lists
    return found


def show(rows: Mapping[str, Any]) -> None:
    """Print the headline."""
    columns = {column: "" for row in rows.values() for column in row["headline"]}
    lines = [{"row": r["title"]} | columns | r["headline"] for r in rows.values()]
    print(table(lines))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    home = Path("~/.cache/medfinder/retrieval").expanduser()
    parser.add_argument("--folder", type=Path, default=home, help="of studies and vectors")
    parser.add_argument("--frozen", type=int, default=64, help="studies that slow encoders embed")
    parser.add_argument("--n-train", type=int, default=600, help="that the shortcut learns from")
    parser.add_argument("--checkpoint", action="append", default=[], metavar="NAME=DIR")
    parser.add_argument("--train", action="store_true", help="train recipes that are absent")
    parser.add_argument("--quick", action="store_true", help="40 small studies, nothing written")
    args = parser.parse_args(arguments)
    given = {name: Path(where) for name, _, where in (c.partition("=") for c in args.checkpoint)}
    if strange := set(given) - {*RECIPES, BASE}:
        parser.error(f"--checkpoint {sorted(strange)[0]}=…: expected {', '.join((*RECIPES, BASE))}")
    start, cpu = time.monotonic(), time.process_time()
    folder, n_test, n_train, size = args.folder, 500, args.n_train, SIZE
    if args.quick:
        folder, n_test, n_train, size = folder / "quick", 40, 60, (32, 48, 48)
    table_ = studies(folder, n_test, n_train, size)
    reference = read_reference(table_ / "test", "test")
    first = dataclasses.replace(
        reference, studies=reference.studies[: 2 if args.quick else args.frozen]
    )
    found = checkpoints(given, args.train)
    whole, alone, absent = entrants(folder, reference, first, found)
    made = {name: make() for name, make in whole.items()}
    rows, tests = measured(made, reference)
    show(rows)
    few = {name: among(one, first) for name, one in made.items()}
    for name, make in alone.items():
        try:
            few[name] = make()
        except MissingExtra as error:
            absent[name] = f"its weights are not here: {error}"
    order = [name for name in TITLES if name in few] + [name for name in few if name not in TITLES]
    few_rows, few_tests = measured({name: few[name] for name in order}, first)
    show(few_rows)
    figures = {
        "n": len(reference),
        "n_patients": len(set(reference.patients)),
        "n_train_of_the_shortcut": n_train,
        "reference": reference.hash,
        "rows": rows,
        "against_base": tests,
        "first": {
            "n": len(first),
            "reference": first.hash,
            "rows": few_rows,
            "against_base": few_tests,
        },
        "absent": absent,
        "runs": {name: path.parent.name for name, path in found.items()},
        "examples": examples(folder, str(found.get(BASE, "medfinder"))),
        "duration_s": round(time.monotonic() - start, 1),
        "cpu_s": round(time.process_time() - cpu, 1),
    }
    print(json.dumps(absent, indent=1), f"{figures['cpu_s']} CPU-s")
    if not args.quick:
        print(write_result("retrieval", figures, [SEED, 0], NOTES))


if __name__ == "__main__":
    main()
