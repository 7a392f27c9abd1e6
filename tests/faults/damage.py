"""Files of every kind cut short or with flipped bits: refused, mended or right; never a crash.

What a file's format cannot tell (a flipped bit where there is no checksum) is counted by itself.
"""

import dataclasses
import hashlib
import json
import random
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults.rows import Row
from faults.service import new_ct
from faults.stages import (
    RECIPE,
    Child,
    Inputs,
    contents,
    encoders,
    run_curate,
    run_train,
    timed,
)
from medfinder.artifact import read_manifest
from medfinder.curate.review import Decision, ReviewQueue
from medfinder.errors import InputError
from medfinder.index.store import IndexConfig
from medfinder.model.checkpoint import load_checkpoint
from medfinder.records import Doubt, Study
from medfinder.search.build import build_index
from medfinder.serve.access.accounts import add_account, list_accounts
from medfinder.serve.audit import AuditLog, append
from medfinder.serve.database import Database
from medfinder.serve.uploads import unpacked
from medfinder.studies import digest, read_studies, write_doubts
from medfinder.train.train import train
from medfinder.volume.cache import PreprocessCache
from medfinder.volume.dicom_writer import write_dicom_series
from medfinder.volume.nifti import read_nifti, write_nifti
from medfinder.volume.preprocess import PreprocessConfig
from medfinder.volume.read import read_study, read_volume

HANG_S = 20.0


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        make: Writes a sound folder.
        files: Pattern of the files in it that are damaged.
        use: Does with the folder what the product does; returns what must be the same.
        n_share: Of the count asked for, where a case takes seconds.
    """

    make: Callable[[Inputs, Path], None]
    files: str
    use: Callable[[Path], Any]
    n_share: float = 1.0


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Cut a file short, or flip one to three of its bits."""
    if rng.random() < 0.5:
        return data[: rng.randrange(len(data))]
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 3))):
        made[rng.randrange(len(made))] ^= 1 << rng.randrange(8)
    return bytes(made)


# -- volumes ---------------------------------------------------------------------------


def _study(path: Path) -> Study:
    volume = read_volume(path)
    return Study("s", "p", "", str(path), volume.content_hash, volume.shape, volume.spacing_mm)


def _keep_study(folder: Path, path: Path) -> None:
    plain = dataclasses.asdict(_study(path)) | {"volume_path": path.name}
    (folder / "study.kept").write_text(json.dumps(plain))


def _make_nifti(inputs: Inputs, folder: Path, name: str = "ct.nii") -> None:
    (folder / "new.nii.gz").write_bytes(new_ct(1, folder))
    write_nifti(read_nifti(folder / "new.nii.gz"), folder / name)
    for path in folder.glob("new*"):
        path.unlink()
    _keep_study(folder, folder / name)


def _make_gz(inputs: Inputs, folder: Path) -> None:
    _make_nifti(inputs, folder, "ct.nii.gz")


def _make_dicom(inputs: Inputs, folder: Path) -> None:
    _make_gz(inputs, folder)
    volume = read_nifti(folder / "ct.nii.gz")
    (folder / "ct.nii.gz").unlink()
    write_dicom_series(volume, folder / "series", patient_id="P", study_id="S")
    _keep_study(folder, folder / "series")


def _use_study(folder: Path) -> Any:
    """Read a curated study, as indexing and training do."""
    plain = json.loads((folder / "study.kept").read_text())
    study = Study(**plain | {"volume_path": str(folder / plain["volume_path"])})
    return read_study(study).content_hash


def _make_zip(inputs: Inputs, folder: Path) -> None:
    _make_dicom(inputs, folder)
    with zipfile.ZipFile(folder / "ct.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((folder / "series").iterdir()):
            archive.write(path, path.name)
    shutil.rmtree(folder / "series")


def _use_zip(folder: Path) -> Any:
    from medfinder.serve.faults import Refusal

    try:
        with (folder / "ct.zip").open("rb") as file, unpacked(file, 2**30) as path:
            return read_volume(path).content_hash
    except Refusal as error:
        raise InputError(str(error)) from None


# -- artifacts -------------------------------------------------------------------------


def _make_studies(inputs: Inputs, folder: Path) -> None:
    shutil.copytree(inputs.few, folder, dirs_exist_ok=True)


def _use_studies(folder: Path) -> Any:
    read_manifest(folder, "curate")
    return [digest(study) for study in read_studies(folder / "studies.parquet")]


def _use_manifest(folder: Path) -> Any:
    return dataclasses.asdict(read_manifest(folder, "curate"))


def _make_curated(inputs: Inputs, folder: Path) -> None:
    (folder / "archive.kept").write_text(str(inputs.archive))
    run_curate(inputs, folder / "out")


def _use_ledger(folder: Path) -> Any:
    """Curate again, with what the ledger remembers."""
    archive = Path((folder / "archive.kept").read_text())
    run_curate(Inputs(archive, archive, archive), folder / "out")
    return contents("curate", folder / "out")


def _make_index(inputs: Inputs, folder: Path) -> None:
    made = encoders()
    config = IndexConfig(exact_below=8, rows_per_list=4)
    build_index(inputs.all, folder / "idx", made["volume"], made["report"], config=config)


def _use_index(folder: Path) -> Any:
    return contents("index", folder / "idx")


def _make_checkpoint(inputs: Inputs, folder: Path) -> None:
    run_train(inputs, folder / "run")


def _use_checkpoint(folder: Path) -> Any:
    model = load_checkpoint(folder / "run" / "checkpoint")
    whole = hashlib.sha256()
    for tensor in model.state_dict().values():
        whole.update(tensor.contiguous().numpy().tobytes())
    return whole.hexdigest()


def _make_state(inputs: Inputs, folder: Path) -> None:
    """Leave a run in the middle."""
    from medfinder.train import loop

    stopped = loop._Run._validate

    def stop(run: Any) -> None:
        stopped(run)
        run._save()
        raise InterruptedError

    loop._Run._validate = stop  # type: ignore[method-assign]
    try:
        run_train(inputs, folder / "run")
    except InterruptedError:
        (folder / "all.kept").write_text(str(inputs.all))
    finally:
        loop._Run._validate = stopped  # type: ignore[method-assign]


def _use_state(folder: Path) -> Any:
    train((folder / "all.kept").read_text(), folder / "run", RECIPE, resume=True, workers=1)
    return contents("train", folder / "run")["weights"]


PREPROCESS = PreprocessConfig(size=(16, 16, 16))


def _make_cache(inputs: Inputs, folder: Path) -> None:
    _make_gz(inputs, folder)
    PreprocessCache(folder / "cache").fetch(read_nifti(folder / "ct.nii.gz"), PREPROCESS)


def _use_cache(folder: Path) -> Any:
    cache = PreprocessCache(folder / "cache")
    made = cache.fetch(read_nifti(folder / "ct.nii.gz"), PREPROCESS)
    return hashlib.sha256(made.tobytes()).hexdigest()


# -- databases -------------------------------------------------------------------------


def _make_database(inputs: Inputs, folder: Path) -> None:
    database = Database.open(folder / "s.sqlite")
    for number in range(40):
        name = f"reader-{number}"
        database.write(lambda c, name=name: add_account(c, name, "viewer"))
        database.write(lambda c, name=name: append(c, name, "search", ["text"]))
    database.close()


def _use_database(folder: Path) -> Any:
    database = Database.open(folder / "s.sqlite")
    try:
        verdict = AuditLog(database).verify()
        if verdict.first_bad is not None:
            raise InputError("the audit log says that it was changed")
        return [a.name for a in database.read(list_accounts)], verdict.n_entries
    finally:
        database.close()


def _make_review(inputs: Inputs, folder: Path) -> None:
    shutil.copytree(inputs.few, folder / "studies")
    studies = [s.study_id for s in read_studies(folder / "studies" / "studies.parquet")]
    doubts = [Doubt(s, "short-report", "Short.", 1.0) for s in studies]
    write_doubts(folder / "studies" / "doubts.parquet", doubts)
    queue = ReviewQueue(folder / "studies")
    for reader in ("ana", "ben"):
        for study in studies:
            queue.decide(reader, study, Decision("accept"))


def _use_review(folder: Path) -> Any:
    queue = ReviewQueue(folder / "studies")
    return [dataclasses.asdict(event) for event in queue.history()]


KINDS: dict[str, Kind] = {
    "nifti": Kind(_make_nifti, "ct.nii", _use_study),
    "nifti.gz": Kind(_make_gz, "ct.nii.gz", _use_study),
    "dicom": Kind(_make_dicom, "series/*.dcm", _use_study),
    "zip upload": Kind(_make_zip, "ct.zip", _use_zip),
    "studies.parquet": Kind(_make_studies, "studies.parquet", _use_studies),
    "manifest.json": Kind(_make_studies, "manifest.json", _use_manifest),
    "ledger": Kind(_make_curated, "out/private/ledger.db", _use_ledger),
    "index table": Kind(_make_index, "idx/table/**/*", _use_index),
    "index derived": Kind(_make_index, "idx/derived/**/*", _use_index),
    "index json": Kind(_make_index, "idx/*.json", _use_index),
    "checkpoint": Kind(_make_checkpoint, "run/checkpoint/*", _use_checkpoint),
    "training state": Kind(_make_state, "run/state.safetensors", _use_state),
    "training volumes": Kind(_make_state, "run/**/volumes.npy", _use_state),
    "preprocess cache": Kind(_make_cache, "cache/**/*", _use_cache),
    "service database": Kind(_make_database, "s.sqlite", _use_database),
    "review log": Kind(_make_review, "studies/review.db", _use_review),
}


def damage(
    name: str,
    inputs: Inputs,
    work: Path,
    n: int,
    seed: int = 0,
    keep: Callable[[Row], None] = lambda row: None,
) -> Row:
    """Damage one file of a sound folder, use it, and begin anew, `n` times."""
    kind, rng = KINDS[name], random.Random(f"{name}-{seed}")
    sound, folder = work / "sound", work / "damaged"
    for path in (sound, folder):
        shutil.rmtree(path, ignore_errors=True)
    sound.mkdir(parents=True)
    timed(kind.make, inputs, sound)
    files = sorted(p.relative_to(sound) for p in sound.glob(kind.files) if p.is_file())
    assert files, kind.files
    shutil.copytree(sound, folder)
    said = Child(kind.use, folder).end()
    assert said[0] == "done", said
    truth = said[1]
    row = Row("damage", name)

    def one() -> tuple[str, str]:
        shutil.rmtree(folder)
        shutil.copytree(sound, folder)
        file = rng.choice(files)
        data = (sound / file).read_bytes()
        (folder / file).write_bytes(damaged(data, rng) if data else b"\0")
        how, value = Child(kind.use, folder).end()
        note = f"case {row.tried}, {file.name}: {str(value)[:900]}"
        if how == "refused":
            return "survived: refused", ""
        if how == "done":
            return "survived: right" if value == truth else "unnoticed: taken as it is", note
        return f"wrong: {how}", note

    return row.fill(n, one, keep)


def damage_all(
    inputs: Inputs,
    work: Path,
    n: int,
    seed: int = 0,
    only: str = "",
    keep: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """Damage files of every kind, or of one."""
    return [damage(k, inputs, work, n, seed, keep) for k in ([only] if only else KINDS)]
