"""What a user names → an `Entrant`: a file of vectors, an encoder or checkpoint, a baseline, a function.

Vectors made here are kept in the folder of the run as they come, so that a run that is killed goes
on where it stopped.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfinder.artifact import atomic_write
from medfinder.benchmark.baselines import (
    BASELINES,
    keywords,
    prompt,
    seen,
    shortcut,
    train_shortcut,
)
from medfinder.benchmark.entrant import Entrant, Side, Vectors, from_arrays, make_entrant, read_npz
from medfinder.benchmark.reference import Reference
from medfinder.benchmark.robustness import perturb_text, perturb_volume, perturbations
from medfinder.embed import Embedder
from medfinder.errors import InputError, MedFinderError
from medfinder.records import Rejection, Study
from medfinder.studies import write_rejections
from medfinder.volume.checks import CheckConfig
from medfinder.volume.read import read_study
from medfinder.volume.volume import Volume

GROUP = "medfinder.benchmark"
"""Entry points of other packages: functions from a list of `Study` to arrays named as in `read_npz`."""
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_BATCH = 16  # volumes embedded between two saves
Progress = Callable[[int, int, str], None]


def open_entrant(
    what: str,
    reference: Reference,
    work: str | Path,
    *,
    train: Reference | None = None,
    perturb: Sequence[str] = (),
    progress: Progress | None = None,
) -> Entrant:
    """Return the entrant that `what` stands for.

    Args:
        what: An ``.npz`` file (`read_npz`); ``chance``, ``bm25``, ``minilm`` or ``shortcut``
            (`medfinder.benchmark.baselines`); ``module:function`` or the name of an entry point of
            the group ``medfinder.benchmark``, called with the studies by study_id; else an encoder,
            a checkpoint's folder or its id on the Hub.
        work: Folder that keeps vectors as they are made.
        train: Studies that the shortcut learns from, none of a patient of the benchmark.
        perturb: Names of `medfinder.benchmark.robustness` for an encoder's input, in order.
        progress: Called with (done, total, what is done).

    Raises:
        InputError: Rules of `read_npz`; ``no-function``, ``function-failed``, ``no-train``,
            ``train-patients``, ``nothing-usable``; ``not-perturbed``: `what` is no encoder, or takes
            no input that a change acts on.
        UnknownName, MissingExtra, ArtifactError: As `medfinder.model.encoder.load_encoder`.
    """
    work = Path(work)
    for name in perturb:
        perturbations.get(name)
    points = metadata.entry_points(group=GROUP)
    is_made = (
        what.endswith(".npz") or what in BASELINES or what == "shortcut" or what in points.names
    )
    if perturb and (is_made or _FUNCTION.fullmatch(what)):
        raise InputError(
            f"{what!r} is no encoder, so its input cannot be changed by {', '.join(perturb)}. Name "
            "an encoder or a checkpoint, or embed changed studies yourself.",
            rule="not-perturbed",
        )
    if what.endswith(".npz"):
        return read_npz(what)
    if what in BASELINES:
        return BASELINES[what](reference)
    if what == "shortcut":
        return _shortcut(reference, train, work, progress)
    if what in points.names:
        return _called(what, points[what].load(), reference)
    if _FUNCTION.fullmatch(what):
        return _called(what, _function(what), reference)
    return embed(Embedder(what), reference, work, progress, perturb)


def _function(name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"There is no function {name!r}: {error}. Write module:function of a module that Python "
            "can import from here.",
            rule="no-function",
        ) from None


def _called(name: str, function: Any, reference: Reference) -> Entrant:
    try:
        arrays = function(list(reference.studies))
    except MedFinderError:
        raise
    except Exception as error:  # somebody else's code
        raise InputError(
            f"The function {name!r} failed with {type(error).__name__}. Run it on its own on the "
            "studies to see why.",
            rule="function-failed",
        ) from error
    if isinstance(arrays, Entrant):
        return arrays
    if not isinstance(arrays, Mapping):
        raise InputError(
            f"The function {name!r} returned {type(arrays).__name__}, expected arrays by name, such "
            "as {'study_id': ..., 'volume': ..., 'text': ...}.",
            rule="function-failed",
        )
    return from_arrays(name.rpartition(":")[2], dict(arrays))


def embed(
    embedder: Embedder,
    reference: Reference,
    work: str | Path,
    progress: Progress | None = None,
    perturb: Sequence[str] = (),
) -> Entrant:
    """Embed the studies' volumes and texts, and the names of findings, as far as an encoder can.

    Vectors are saved below `work` every `_BATCH` volumes; a volume that cannot be read is a row of
    ``rejections.parquet`` and a count of `Entrant.left_out`.

    Args:
        perturb: Names of `medfinder.benchmark.robustness`: volumes are changed before
            preprocessing, texts and names of findings before they are read.

    Raises:
        InputError: Rules ``nothing-usable``: not one volume, or text, could be embedded;
            ``not-perturbed``: the encoder takes nothing that a change acts on.
    """
    work = Path(work)
    info = embedder.info
    for one in map(perturbations.get, perturb):
        if one.acts_on not in info.streams:
            raise InputError(
                f"{one.name} changes each {one.acts_on}, and {info.name} takes none. Leave it out.",
                rule="not-perturbed",
            )
    made_by = "+".join([embedder.model_id, *perturb])
    sides: dict[Side, tuple[Sequence[str], Vectors]] = {}
    left_out: dict[str, tuple[str, ...]] = {}
    if "volume" in info.streams:
        made, rejected = _each_volume(
            made_by,
            reference,
            work,
            lambda items, failed: (
                (one.study_id, one.vector)
                for one in embedder.iter_volumes(_changed(items, perturb), on_error=failed)
            ),
            progress,
        )
        write_rejections(work / "rejections.parquet", rejected)
        left_out = _by_rule(rejected)
        sides["volume"] = (list(made), np.stack(list(made.values())))
    if "text" in info.streams:
        rows = [study for study in reference.studies if study.text.strip()]
        if rows:
            texts = embedder.embed_texts([perturb_text(study.text, perturb) for study in rows])
            sides["text"] = ([study.study_id for study in rows], texts.vectors)
        names = keywords(reference) if any(s.findings for s in reference.studies) else ()
        if names:
            prompts = [perturb_text(prompt(name), perturb) for name in names]
            sides["keyword"] = (names, embedder.embed_texts(prompts).vectors)
    name = Path(info.where).name or info.name
    shown = f"{name} ({', '.join(perturb)})" if perturb else name
    entrant = make_entrant(shown, sides, made_by)
    return Entrant(entrant.name, entrant.model_id, entrant.sides, True, left_out)


def _changed(items: Any, perturb: Sequence[str]) -> Any:
    """Yield each (study_id, function that reads the volume and changes it)."""
    for study_id, read in items:
        yield study_id, lambda read=read: perturb_volume(read(), perturb)


def _shortcut(
    reference: Reference, train: Reference | None, work: Path, progress: Progress | None
) -> Entrant:
    if train is None:
        raise InputError(
            "The shortcut learns what it guesses: name studies to learn from with --train, of other "
            "patients than those of the benchmark.",
            rule="no-train",
        )
    shared = set(train.patients) & set(reference.patients)
    if shared:
        raise InputError(
            f"{len(shared)} patients are in the training studies and in the benchmark. Learn from "
            "others: the split 'train'.",
            rule="train-patients",
        )

    def looked(items: Any, failed: Callable[[str, InputError], None]) -> Any:
        for study_id, read in items:
            try:
                yield study_id, seen(read().hu)
            except InputError as error:
                failed(study_id, error)

    features, rejected = _each_volume("seen", train, work / "train", looked, progress)
    own, own_rejected = _each_volume("seen", reference, work, looked, progress)
    learnt = train_shortcut(
        np.stack(list(features.values())), [train.studies[train.row[name]] for name in features]
    )
    write_rejections(work / "rejections.parquet", [*rejected, *own_rejected])
    some = Reference(tuple(reference.studies[reference.row[name]] for name in own))
    entrant = shortcut(some, np.stack([own[name] for name in some.ids]), learnt)
    return Entrant(
        entrant.name, entrant.model_id, entrant.sides, entrant.is_cosine, _by_rule(own_rejected)
    )


def _by_rule(rejected: Sequence[Rejection]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for one in rejected:
        found.setdefault(one.rule, []).append(one.item)
    return {rule: tuple(names) for rule, names in sorted(found.items())}


def _each_volume(
    made_by: str,
    reference: Reference,
    work: Path,
    make: Callable[[Any, Callable[[str, InputError], None]], Any],
    progress: Progress | None,
) -> tuple[dict[str, NDArray[np.float32]], list[Rejection]]:
    """Make a vector of each study's volume, or say why not; what was made before is not made again.

    Args:
        made_by: What makes them: another maker's vectors in `work` are not used.
        make: From (study_id, function that reads the volume) pairs and a place for errors to
            (study_id, vector) pairs.
    """
    kept = _kept(made_by, reference, work)
    todo = [study for study in reference.studies if study.study_id not in kept]
    rejected: list[Rejection] = []

    def failed(study_id: str, error: InputError) -> None:
        rejected.append(Rejection(study_id, error.rule, str(error)))

    batch: dict[str, NDArray[np.float32]] = {}
    items = ((study.study_id, _reader(study, reference.check)) for study in todo)
    for number, (study_id, vector) in enumerate(make(items, failed), 1):
        batch[study_id] = np.asarray(vector, np.float32)
        if len(batch) == _BATCH:
            _keep(made_by, reference, work, batch)
            kept |= batch
            batch = {}
        if progress:
            progress(len(reference) - len(todo) + number, len(reference), "Embedding volumes")
    if batch:
        _keep(made_by, reference, work, batch)
        kept |= batch
    if not kept:
        rules = ", ".join(sorted({one.rule for one in rejected})) or "no studies"
        raise InputError(
            f"Not one of {len(reference)} volumes could be embedded ({rules}). The table must name "
            "volumes that can be read: give the folder that 'medfinder curate' wrote.",
            rule="nothing-usable",
        )
    return {name: kept[name] for name in reference.ids if name in kept}, rejected


def _reader(study: Study, check: CheckConfig) -> Callable[[], Volume]:
    return lambda: read_study(study, check)


def _mark(reference: Reference, study_id: str) -> str:
    return reference.studies[reference.row[study_id]].volume_hash


def _keep(
    made_by: str, reference: Reference, work: Path, batch: Mapping[str, NDArray[np.float32]]
) -> None:
    folder = work / "vectors"
    folder.mkdir(parents=True, exist_ok=True)
    number = len(list(folder.glob("*.npz")))
    with atomic_write(folder / f"{number:05d}.npz") as file:
        np.savez(
            file,
            made_by=np.array(made_by),
            study_id=np.array(list(batch)),
            volume_hash=np.array([_mark(reference, name) for name in batch]),
            vector=np.stack(list(batch.values())),
        )


def _kept(made_by: str, reference: Reference, work: Path) -> dict[str, NDArray[np.float32]]:
    """Return the vectors of an earlier run that are of these volumes and by this maker."""
    found: dict[str, NDArray[np.float32]] = {}
    for path in sorted((work / "vectors").glob("*.npz")):
        with np.load(path, allow_pickle=False) as file:
            if str(file["made_by"]) != made_by:
                continue
            names, marks = file["study_id"].tolist(), file["volume_hash"].tolist()
            found |= {
                name: vector
                for name, mark, vector in zip(names, marks, file["vector"], strict=True)
                if name in reference.row and mark and mark == _mark(reference, name)
            }
    return found
