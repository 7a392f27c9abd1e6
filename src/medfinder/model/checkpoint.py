"""A checkpoint: a folder that holds a trained `DualStream` whole, and nothing that runs.

``model.safetensors``, ``config.json`` (the model's settings with its preprocessing, what it is called,
which files belong to it by SHA-256), the tokeniser's files, and where given ``README.md`` (a model
card, `medfinder.model.card`) and ``training.json`` (what the run says of itself). No pickle.

Every tensor of the model's ``state_dict`` is in it. A network that starts from published weights which
training leaves as they are keeps them out of its ``state_dict``, reads them by name when it is built,
and refuses others (`medfinder.model.volume_pretrained`): a checkpoint hands nobody's weights on unless
they were trained further.

What identifies a checkpoint is the SHA-256 of ``model.safetensors``, whose header holds digests of the
settings and of the tokeniser: change anything a vector depends on, and it is another model.
Importing this imports no torch: what a checkpoint declares is read from ``config.json`` alone.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import medfinder
from medfinder.config import from_dict, to_dict
from medfinder.errors import (
    ArtifactError,
    ConfigError,
    Incomplete,
    InputError,
    MedFinderError,
    Mismatch,
    UnknownName,
)
from medfinder.model.card import model_card
from medfinder.model.encoder import EncoderInfo
from medfinder.volume.preprocess import PreprocessConfig

if TYPE_CHECKING:
    from torch import Tensor

    from medfinder.model.dual_stream import DualStream
    from medfinder.model.joint_encoder import JointEncoder

SCHEMA = 1
WEIGHTS, CONFIG, CARD, TRAINING = "model.safetensors", "config.json", "README.md", "training.json"
UNHASHED = frozenset({CONFIG, CARD, TRAINING})
LIBRARY = "medfinder"
N_NAMED = 4  # tensors of each kind that a message names
WeightsType = Literal["float32", "float16"]


@dataclasses.dataclass(frozen=True, slots=True)
class Checkpoint:
    """What ``config.json`` says.

    Attributes:
        name: `EncoderInfo.name`: letters, digits, ".", "_" and "-".
        licence: Of the weights.
        source: What they were trained on, in a line.
        dim: Of the joint space.
        n_regions: Along (D, H, W).
        region_dim: Features of a region.
        n_parameters: Numbers in the weights.
        model: `medfinder.model.dual_stream.ModelConfig` as plain JSON.
        files: Name -> SHA-256 of the weights' and the tokeniser's files.
        weights_dtype: Of the tensors with more than one axis; others are always float32.
        package_version: That wrote it.
        library: Always "medfinder".
        languages: `EncoderInfo.languages`.
        schema: Of the folder.
    """

    name: str
    licence: str
    source: str
    dim: int
    n_regions: tuple[int, int, int]
    region_dim: int
    n_parameters: int
    model: dict[str, Any]
    files: dict[str, str]
    weights_dtype: WeightsType
    package_version: str
    library: str = LIBRARY
    languages: tuple[str, ...] = ()
    schema: int = SCHEMA

    def info(self, where: str = "", needs: str = "") -> EncoderInfo:
        """Return what an encoder of this checkpoint declares.

        Args:
            where: `EncoderInfo.where`.
            needs: `EncoderInfo.needs`.

        Raises:
            ConfigError: Its preprocessing has settings that this version does not know.
        """
        return EncoderInfo(
            name=self.name,
            streams=frozenset({"volume", "text"}),
            dim=self.dim,
            weights=self.files[WEIGHTS][:12],
            licence=self.licence,
            source=self.source,
            needs=needs or "nothing: it is a folder",
            preprocess=from_dict(PreprocessConfig, self.model["preprocess"], "preprocess."),
            n_regions=self.n_regions,
            region_dim=self.region_dim,
            where=where,
            languages=self.languages,
        )


def save_checkpoint(
    model: "DualStream",
    folder: str | Path,
    *,
    card: str | None = None,
    training: Mapping[str, Any] | None = None,
    dtype: WeightsType = "float32",
    name: str = LIBRARY,
    licence: str = "Apache-2.0",
    source: str = "not recorded",
) -> Path:
    """Write a checkpoint; one that is there before is replaced as a whole or stays as it was.

    It is written beside `folder` and renamed. A process that is killed between the two renames
    leaves the one before under another name, where `read_checkpoint` finds it.

    Args:
        card: Text of ``README.md``; None for `medfinder.model.card.model_card` where `training` is
            given, else no card.
        training: What ``training.json`` says: recipe, data, measures; plain JSON types. The card
            reads some names of it: see `model_card`. Its ``languages`` are what the checkpoint reads.
        dtype: "float16" halves the file, for shipping; scalars and vectors stay float32.
        name: What users call the model.
        licence: Of the weights.
        source: What they were trained on, in a line.

    Returns:
        The folder.

    Raises:
        InputError: A weight is not finite, or too large for float16; or the folder holds files
            that are no checkpoint's, which would be lost.
        ConfigError: A name that is none, `training` is not JSON, or the text network has no
            tokeniser yet.
        ArtifactError: The disk is full, or refuses; the checkpoint before is whole.
    """
    folder = Path(os.path.abspath(folder))
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise ConfigError(
            f"A checkpoint's name is letters, digits, '.', '_' and '-'; got {name!r}."
        )
    notes = None if training is None else _json(training)
    tensors = _for_file(model.state_dict(), dtype)
    aside: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _restore(folder)
        _check_replaceable(folder)
        aside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        aside.mkdir()
        languages = tuple((training or {}).get("languages", ()))
        checkpoint = _fill(aside, model, tensors, dtype, (name, licence, source), languages)
        if card is None and training is not None:
            card = model_card(checkpoint, training)
        for file, text in ((CARD, card), (TRAINING, notes)):
            if text is not None:
                _write(aside / file, text.encode())
        _sync_folder(aside)
        _put(aside, folder)
    except OSError as error:
        raise ArtifactError(
            f"The checkpoint {str(folder)!r} cannot be written: {error.strerror or error}. What was "
            "there before is whole. Free space or give another folder, and save again."
        ) from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)
    return folder


def read_checkpoint(folder: str | Path) -> Checkpoint:
    """Read what a checkpoint declares; no torch, no weights.

    Raises:
        Incomplete: There is no such folder, or a file of it is missing.
        Mismatch: It is another library's, of a newer schema, or damaged.
        ConfigError: ``config.json`` has keys that this version does not know.
    """
    folder = _standing(Path(folder))
    if not folder.is_dir():
        raise Incomplete(f"There is no checkpoint at {str(folder)!r}. Check the path.")
    try:
        said = json.loads((folder / CONFIG).read_bytes())
    except FileNotFoundError:
        raise Incomplete(
            f"The folder {str(folder)!r} has no {CONFIG}: it is no checkpoint, or a part of one. "
            "Give the folder that a training run wrote, or copy it again."
        ) from None
    except ValueError:
        raise Mismatch(
            f"The {CONFIG} of {str(folder)!r} is damaged: it is no JSON. Copy the checkpoint again."
        ) from None
    if not isinstance(said, dict) or said.get("library") != LIBRARY:
        raise Mismatch(
            f"{str(folder)!r} is no checkpoint of MedFinder: its {CONFIG} does not say "
            f'"library": "{LIBRARY}". Another library reads it.'
        )
    if said.get("schema") != SCHEMA:
        raise Mismatch(
            f"The checkpoint {str(folder)!r} has schema {said.get('schema')}, written by version "
            f"{said.get('package_version')}; this version ({medfinder.__version__}) reads {SCHEMA}. "
            "Install a newer one: pip install -U medfinder"
        )
    try:
        checkpoint = from_dict(Checkpoint, said)
    except ConfigError as error:
        raise _of_another_version(folder, said, error) from None
    nested = isinstance(checkpoint.files, dict) and isinstance(checkpoint.model, dict)
    if not (nested and WEIGHTS in checkpoint.files and "preprocess" in checkpoint.model):
        raise Mismatch(
            f"The {CONFIG} of {str(folder)!r} names no {WEIGHTS} or no preprocessing: it is "
            "damaged. Copy the checkpoint again."
        )
    missing = [file for file in checkpoint.files if not (folder / file).is_file()]
    if missing:
        raise Incomplete(
            f"The checkpoint {str(folder)!r} lacks {', '.join(missing)}. Copy it again, whole."
        )
    return checkpoint


def check_files(folder: Path, checkpoint: Checkpoint) -> None:
    """Compare the files with what ``config.json`` says of them.

    Raises:
        Mismatch: One has changed since it was written.
    """
    for file, expected in checkpoint.files.items():
        found = _sha256(folder / file)
        if found != expected:
            raise Mismatch(
                f"The {file} of {str(folder)!r} has SHA-256 {found[:12]}…, {CONFIG} says "
                f"{expected[:12]}…: it is damaged or another checkpoint's. Copy it again, whole."
            )


def load_checkpoint(folder: str | Path) -> "DualStream":
    """Build the model and fill it: on the CPU, float32, in evaluation mode.

    Random numbers of the caller are not used up.

    Raises:
        Incomplete: See `read_checkpoint`.
        Mismatch: See `read_checkpoint`; a file has changed since it was written, or the weights
            are of another architecture than ``config.json`` says.
        UnknownName: This version has no network of that name.
        ConfigError: ``config.json`` has settings that this version does not know.
        MissingExtra: A network starts from published weights that are not here.
    """
    import torch

    import medfinder.model.networks
    from medfinder.model.dual_stream import DualStream, ModelConfig

    folder = _standing(Path(folder))
    checkpoint = read_checkpoint(folder)
    tensors, said = _read_weights(folder, checkpoint)
    try:
        config = from_dict(ModelConfig, checkpoint.model)
        with torch.random.fork_rng(devices=[]):
            model = DualStream(config, folder)
    except UnknownName as error:
        raise UnknownName(
            f"The checkpoint {str(folder)!r} cannot be built: {error} Its own version is "
            f"{checkpoint.package_version}, this is {medfinder.__version__}."
        ) from None
    except ConfigError as error:
        raise _of_another_version(folder, dataclasses.asdict(checkpoint), error) from None
    _check_tensors(tensors, model.state_dict(), folder)
    if said != _digests(checkpoint):
        raise Mismatch(
            f"The {CONFIG} of {str(folder)!r} was changed after its weights were saved: its vectors "
            "would be another model's. Copy it again, or save the model anew with save_checkpoint."
        )
    model.load_state_dict(tensors)
    return model.eval()


def copy_checkpoint(
    folder: str | Path, out: str | Path, *, dtype: WeightsType = "float16", name: str = ""
) -> Path:
    """Write a checkpoint anew, with what its run says of itself, such as at half the size.

    The card is made anew from ``training.json``; without that, the one there is is kept. Rounded
    weights are another model: measure them before their measures are quoted.

    Args:
        dtype: See `save_checkpoint`.
        name: What users call the copy; "" for the name it has.

    Raises:
        InputError, ArtifactError, ConfigError: See `load_checkpoint` and `save_checkpoint`.
    """
    folder = _standing(Path(folder))
    checkpoint, model = read_checkpoint(folder), load_checkpoint(folder)
    card, notes = folder / CARD, folder / TRAINING
    training = json.loads(notes.read_bytes()) if notes.is_file() else None
    return save_checkpoint(
        model,
        out,
        card=card.read_text(encoding="utf-8") if training is None and card.is_file() else None,
        training=training,
        dtype=dtype,
        name=name or checkpoint.name,
        licence=checkpoint.licence,
        source=checkpoint.source,
    )


def load_encoder_from(
    folder: str | Path, where: str | None = None, needs: str = ""
) -> "JointEncoder":
    """Load a checkpoint as an encoder, on the GPU if there is one; see `load_checkpoint`.

    Args:
        where: `EncoderInfo.where`; None for the folder's full path.
        needs: `EncoderInfo.needs`.
    """
    import torch

    from medfinder.model.joint_encoder import JointEncoder

    path = os.path.abspath(folder) if where is None else where
    info = read_checkpoint(folder).info(path, needs)
    return JointEncoder(
        load_checkpoint(folder),
        name=info.name,
        weights=info.weights,
        licence=info.licence,
        source=info.source,
        needs=info.needs,
        where=info.where,
        languages=info.languages,
        device="cuda" if torch.cuda.is_available() else None,
    )


# -- writing ---------------------------------------------------------------------


def _for_file(tensors: "Mapping[str, Tensor]", dtype: WeightsType) -> "dict[str, Tensor]":
    """Return copies as they are written: on the CPU, contiguous, nothing shared, all finite."""
    import torch

    ready = {}
    for name, tensor in tensors.items():
        made = tensor.detach().cpu()
        if made.is_floating_point():
            if not made.isfinite().all():
                raise InputError(
                    f"The weights {name} hold values that are not finite: training has diverged. "
                    "Nothing is saved; what was saved before stays. Lower the learning rate.",
                    rule="not-finite",
                )
            short = dtype == "float16" and made.ndim > 1
            made = made.to(torch.float16 if short else torch.float32)
            if not made.isfinite().all():
                raise InputError(
                    f"The weights {name} hold values beyond 65504, which float16 has not. Save as "
                    "float32.",
                    rule="not-finite",
                )
        ready[name] = made.clone(memory_format=torch.contiguous_format)
    return ready


def _fill(
    aside: Path,
    model: "DualStream",
    tensors: "dict[str, Tensor]",
    dtype: WeightsType,
    names: tuple[str, str, str],
    languages: tuple[str, ...],
) -> Checkpoint:
    """Write all but card and notes."""
    from safetensors.torch import save

    try:
        model.text.save_tokenizer(aside)
    except (OSError, MedFinderError):
        raise
    except Exception as error:  # the tokeniser's library raises plain Exception on a full disk
        raise OSError(str(error)) from error
    files = {path.name: path for path in sorted(aside.iterdir())}
    if not files:
        raise ConfigError("The text network has no tokeniser yet: fit it before saving the model.")
    checkpoint = Checkpoint(
        *names,
        dim=model.config.dim,
        n_regions=model.volume.n_regions,
        region_dim=model.volume.width,
        n_parameters=sum(tensor.numel() for tensor in tensors.values()),
        model=to_dict(model.config),
        files={file: _sha256(path) for file, path in files.items()},
        weights_dtype=dtype,
        package_version=medfinder.__version__,
        languages=languages,
    )
    # One entry: with several, their order in the file, and so its SHA-256, would be chance.
    whole = save(tensors, {LIBRARY: _digests(checkpoint)})
    _write(aside / WEIGHTS, whole)
    for path in files.values():
        _sync(path)
    own = {**checkpoint.files, WEIGHTS: hashlib.sha256(whole).hexdigest()}
    checkpoint = dataclasses.replace(checkpoint, files=own)
    _write(aside / CONFIG, _json(to_dict(checkpoint)).encode())
    return checkpoint


def _digests(checkpoint: Checkpoint) -> str:
    """Return what the weights' header says of all else that a vector depends on."""
    settings = json.dumps(checkpoint.model, sort_keys=True).encode()
    others = {file: digest for file, digest in checkpoint.files.items() if file != WEIGHTS}
    said = {"config": hashlib.sha256(settings).hexdigest(), "files": others}
    return json.dumps(said, sort_keys=True)


def _check_replaceable(folder: Path) -> None:
    """Refuse to replace what is no checkpoint, or holds files that are none of its own."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{str(folder)!r} is a file; a checkpoint is a folder. Give another path.")
    held = {path.name for path in folder.iterdir()}
    own: set[str] = set()
    if held:
        with contextlib.suppress(ArtifactError, InputError):  # damaged, or none at all
            own = {*UNHASHED, *read_checkpoint(folder).files}
    others = sorted(held - own)
    if others:
        raise InputError(
            f"The folder {str(folder)!r} holds {_some(others)}, which belongs to no checkpoint "
            "that is whole, and saving would remove it. Give a folder of its own.",
            rule="not-a-checkpoint",
        )


def _put(aside: Path, folder: Path) -> None:
    """Let `aside` take the place of `folder`."""
    before = _before(folder)
    shutil.rmtree(before, ignore_errors=True)
    if folder.exists():
        os.rename(folder, before)
    try:
        os.rename(aside, folder)
    except OSError:
        _restore(folder)
        raise
    _sync_folder(folder.parent)
    shutil.rmtree(before, ignore_errors=True)


def _before(folder: Path) -> Path:
    """Return where the checkpoint before lies while another takes its place."""
    return folder.with_name(f".{folder.name}.before")


def _standing(folder: Path) -> Path:
    """Return the folder, or where a save that was killed between its two renames left it."""
    before = _before(Path(os.path.abspath(folder)))
    return before if not folder.exists() and before.is_dir() else folder


def _restore(folder: Path) -> None:
    """Undo a save that was killed between its two renames, and drop what killed ones wrote."""
    if not folder.exists() and _before(folder).is_dir():
        os.rename(_before(folder), folder)
    written = re.compile(re.escape(f".{folder.name}.") + r"\d+\.tmp")
    for left in folder.parent.iterdir():
        if written.fullmatch(left.name):
            shutil.rmtree(left, ignore_errors=True)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _json(value: Any) -> str:
    try:
        return json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"The {TRAINING} of a checkpoint takes plain JSON types and finite numbers: {error}."
        ) from None


# -- reading ---------------------------------------------------------------------


def _read_weights(folder: Path, checkpoint: Checkpoint) -> "tuple[dict[str, Tensor], str]":
    """Return the tensors, and what the header says of the settings."""
    from safetensors import SafetensorError, safe_open

    check_files(folder, checkpoint)
    try:
        with safe_open(folder / WEIGHTS, "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            return tensors, (opened.metadata() or {}).get(LIBRARY, "")
    except SafetensorError as error:
        raise Mismatch(
            f"The {WEIGHTS} of {str(folder)!r} cannot be read ({error}). Copy it again."
        ) from None


def _check_tensors(
    found: "Mapping[str, Tensor]", wanted: "Mapping[str, Tensor]", folder: Path
) -> None:
    """Compare names and shapes, and say what differs."""
    wrong = [
        f"{kind} {_some(names)}"
        for kind, names in (
            ("missing", sorted(wanted.keys() - found.keys())),
            ("unexpected", sorted(found.keys() - wanted.keys())),
        )
        if names
    ]
    shapes = [
        f"{name} is {tuple(found[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in found and found[name].shape != tensor.shape
    ]
    if shapes:
        wrong.append(_some(shapes))
    if wrong:
        raise Mismatch(
            f"The {WEIGHTS} of {str(folder)!r} is of another architecture than its {CONFIG} says: "
            f"{'; '.join(wrong)}. The two are not from one checkpoint: copy it again, whole."
        )


def _of_another_version(folder: Path, said: Mapping[str, Any], error: ConfigError) -> ConfigError:
    return ConfigError(
        f"The {CONFIG} of {str(folder)!r} cannot be used: {error} It was written by version "
        f"{said.get('package_version')}, this is {medfinder.__version__}."
    )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - N_NAMED} more" if len(names) > N_NAMED else ""
    return ", ".join(names[:N_NAMED]) + more


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
