"""Studies and a recipe -> a checkpoint: the stage behind ``medfinder train``."""

import contextlib
import dataclasses
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import medfinder
from medfinder.artifact import (
    MANIFEST,
    Manifest,
    manifest_hash,
    read_manifest,
    refuse_copy,
    write_manifest,
)
from medfinder.config import from_dict, to_dict
from medfinder.errors import InputError
from medfinder.studies import read_studies, write_rejections
from medfinder.train.dataset import TrainingSet, prepare_set, split_of
from medfinder.train.lock import held
from medfinder.train.loop import CHECKPOINT, fit, open_fabric
from medfinder.train.recipe import RecipeConfig
from medfinder.train.state import STATE
from medfinder.volume.checks import CheckConfig

Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Trained:
    """What a run of `train` made.

    Attributes:
        folder: The artifact.
        checkpoint: The best checkpoint, in it; `medfinder.model.encoder.load_encoder` reads it.
        measures: Of that checkpoint on the validation split, by name.
        step: After which it was the best.
        n_train, n_val: Studies of each split.
        n_rejections: Studies that could not be read; ``rejections.parquet``.
        n_bad: Studies left out during the run; ``bad.jsonl``.
        duration_s: Wall time.
    """

    folder: Path
    checkpoint: Path
    measures: Mapping[str, float]
    step: int
    n_train: int
    n_val: int
    n_rejections: int
    n_bad: int
    duration_s: float


def train(
    studies_folder: str | Path,
    out: str | Path,
    recipe: RecipeConfig,
    *,
    resume: bool = False,
    cache: str | Path | None = None,
    workers: int = 0,
    progress: Progress | None = None,
) -> Trained:
    """Train a model on what ``medfinder curate`` wrote.

    Splits "train" and "val" are read; where no study has a split, a tenth of the patients are
    "val". Volumes are preprocessed once, before any step.

    Args:
        out: The artifact: ``checkpoint/``, ``metrics.jsonl``, TensorBoard's events, ``manifest.json``.
        resume: Go on with the run in `out`.
        cache: Folder of preprocessed volumes, and of features (`TrainConfig.cached_views`), which
            recipes with one preprocessing share; None for ``OUT/volumes``.
        workers: Processes that read volumes; 0 for one a core.
        progress: Called with (what, done, total).

    Raises:
        InputError: `out` holds a run and `resume` is not given, another run is at work in it (rule
            ``folder-in-use``), a split is empty, a patient is in both, or see `medfinder.train.loop.fit`.
        Mismatch: The run in `out` is of another recipe or other studies.
        MissingExtra: Lightning Fabric is not installed.
    """
    studies_folder, out = Path(studies_folder), Path(out)
    _check_free(out, resume)
    with contextlib.ExitStack() as until_the_end:
        return _train(studies_folder, out, recipe, resume, cache, workers, progress, until_the_end)


def _train(
    studies_folder: Path,
    out: Path,
    recipe: RecipeConfig,
    resume: bool,
    cache: str | Path | None,
    workers: int,
    progress: Progress | None,
    until_the_end: contextlib.ExitStack,
) -> Trained:
    start = time.monotonic()
    parent = read_manifest(studies_folder, "curate")
    studies = read_studies(studies_folder / "studies.parquet")
    check = from_dict(CheckConfig, parent.config.get("check", {}))
    chosen = {split: split_of(studies, split) for split in ("train", "val")}
    out.mkdir(parents=True, exist_ok=True)
    if _rank() == 0:  # it holds the folder for all processes of the run
        _hold(out, resume, until_the_end)
    place = Path(cache) if cache is not None else out / "volumes"

    def prepare(split: str, *, is_checked: bool = False) -> TrainingSet:
        return prepare_set(
            chosen[split],
            place,
            recipe.model.preprocess,
            check=check,
            workers=workers,
            progress=_named(f"Reading {split}", progress),
            is_checked=is_checked,
        )

    # The first process reads before it starts others, so that these do not wait for hours.
    sets = {split: prepare(split) for split in chosen} if _rank() == 0 else {}
    fabric = open_fabric(recipe.train)
    fabric.barrier()
    sets = sets or {split: prepare(split, is_checked=True) for split in chosen}
    fitted = fit(
        recipe,
        sets["train"],
        sets["val"],
        out,
        resume=resume,
        fabric=fabric,
        features=place / "features",
        encoding=_named("Encoding", progress if fabric.is_global_zero else None),
        progress=_named("Training", progress if fabric.is_global_zero else None),
    )
    rejections = [r for one in sets.values() for r in one.rejections]
    duration_s = round(time.monotonic() - start, 3)
    if fabric.is_global_zero:
        write_rejections(out / "rejections.parquet", rejections)
        (out / STATE).unlink(missing_ok=True)
        write_manifest(
            out,
            Manifest(
                stage="train",
                config=to_dict(recipe),
                parents={"studies": manifest_hash(parent)},
                counts={
                    "train": len(sets["train"]),
                    "val": len(sets["val"]),
                    "rejections": len(rejections),
                    "bad": fitted.n_bad,
                    "steps": fitted.n_steps,
                    "best_step": fitted.step,
                },
                seed=recipe.train.seed,
                duration_s=duration_s,
                package_version=medfinder.__version__,
            ),
        )
    return Trained(
        folder=out,
        checkpoint=out / CHECKPOINT,
        measures=fitted.measures,
        step=fitted.step,
        n_train=len(sets["train"]),
        n_val=len(sets["val"]),
        n_rejections=len(rejections),
        n_bad=fitted.n_bad,
        duration_s=duration_s,
    )


def _hold(out: Path, resume: bool, until_the_end: contextlib.ExitStack) -> None:
    if not until_the_end.enter_context(held(out, wait=False)):
        raise InputError(
            f"Another run is training into {str(out)!r}. Wait for it, or give another folder.",
            rule="folder-in-use",
        )
    _check_free(out, resume)  # one that held it may have ended since
    for unfinished in out.glob(".*.tmp"):  # what a killed run left: a state is large
        shutil.rmtree(unfinished) if unfinished.is_dir() else unfinished.unlink()


def _rank() -> int:
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))


def _check_free(out: Path, resume: bool) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{str(out)!r} is a file; a run needs a folder. Give another path.")
    refuse_copy(out)
    if (out / MANIFEST).is_file():
        read_manifest(out, "train")  # another stage's folder is told as one
        raise InputError(
            f"The run in {str(out)!r} has finished. Give another folder, or delete this one."
        )
    if (out / STATE).is_file() and not resume:
        raise InputError(
            f"{str(out)!r} holds a run that was stopped. Add --resume to go on with it, or give "
            "another folder."
        )


def _named(what: str, progress: Progress | None) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(what, done, total)
