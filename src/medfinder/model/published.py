"""Published weights on this machine: where their files lie, and whether their tensors fit.

Files are looked for in a folder that an environment variable names, then in the Hugging Face cache;
nothing is fetched. Knows no architecture.
"""

import hashlib
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfinder.errors import Mismatch, MissingExtra

if TYPE_CHECKING:
    from torch import Tensor, nn

N_NAMED = 4  # tensors of each kind that a message names


@dataclass(frozen=True)
class HubFile:
    """A file of a repository on the Hugging Face Hub.

    Attributes:
        repo: Such as ``"microsoft/colipri"``.
        names: Any one of these files will do; the first that is there is taken.
        revision: Commit that is looked for before "main"; "" for none.
    """

    repo: str
    names: tuple[str, ...]
    revision: str = ""


@dataclass(frozen=True)
class Published:
    """What an encoder needs on disk.

    Attributes:
        name: The encoder's, for messages.
        variable: Environment variable that names one folder with all files.
        files: What is needed.
    """

    name: str
    variable: str
    files: tuple[HubFile, ...]

    @property
    def needs(self) -> str:
        """One line: the commands that bring the files, or the folder that may hold them."""
        wanted: dict[str, list[str]] = {}
        for file in self.files:
            wanted.setdefault(file.repo, []).append(file.names[0])
        commands = " && ".join(f"hf download {repo} {' '.join(n)}" for repo, n in wanted.items())
        return f"{commands}  # or {self.variable}=FOLDER that holds them"

    def find(self, folder: Path | None = None) -> list[Path]:
        """Return the path of each of `files`, in order.

        Args:
            folder: Holds all of them; None for the variable's folder, else the Hub's cache.

        Raises:
            MissingExtra: A file is not there; the text names it and the command that brings it.
        """
        if folder is None and os.environ.get(self.variable):
            folder = Path(os.environ[self.variable])
        found = []
        for file in self.files:
            path = _in_folder(folder, file) if folder else _in_cache(file)
            if path is None:
                raise MissingExtra(f"{self.name} has no {' or '.join(file.names)}: {self.needs}")
            found.append(path)
        return found


def cached_folder(repo: str) -> Path | None:
    """Return the folder of a Hub repository's cached files; None where it has no config.json."""
    path = _in_cache(HubFile(repo, ("config.json",)))
    return path.parent if path else None


def file_sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_tensors(path: Path, name: str) -> "dict[str, Tensor]":
    """Read the tensors of a ``.safetensors`` file, or of a ``torch.save`` file without its code.

    Floating-point tensors are returned as float32. A mapping under ``state_dict`` is unwrapped.

    Raises:
        Mismatch: The file is damaged, or holds something else than tensors by name.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        held: Any
        if path.suffix == ".safetensors":
            held = load_file(path)
        else:
            held = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise Mismatch(
            f"The weights of {name} in {path.name} cannot be read ({type(error).__name__}): the "
            "file is damaged or of another format. Get it again."
        ) from None
    held = held.get("state_dict", held) if isinstance(held, dict) else {}
    tensors = {k: v for k, v in held.items() if isinstance(v, torch.Tensor)}
    if not tensors:
        raise Mismatch(f"The file {path.name} of {name} holds no tensors by name. Get it again.")
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}


def shape_of(tensors: "Mapping[str, Tensor]", key: str, n_axes: int, name: str) -> tuple[int, ...]:
    """Return a tensor's shape, from which an architecture's sizes are read.

    Raises:
        Mismatch: It is missing, or has another number of axes.
    """
    if key not in tensors:
        raise Mismatch(
            f"The weights of {name} are not of the architecture that is read: missing {key}. Get "
            "the published file again."
        )
    shape = tuple(tensors[key].shape)
    if len(shape) != n_axes:
        raise Mismatch(
            f"The weights of {name} are not of the architecture that is read: {key} is {shape}, "
            f"expected {n_axes} axes. Get the published file again."
        )
    return shape


def n_layers(tensors: "Mapping[str, Tensor]", prefix: str) -> int:
    """Count the layers whose tensors are called ``prefix`` + number + "." + ….

    One that is missing in between is counted, so that loading names it.
    """
    numbers = {k.removeprefix(prefix).split(".")[0] for k in tensors if k.startswith(prefix)}
    return max((int(n) + 1 for n in numbers if n.isdigit()), default=0)


def without_prefix(tensors: "Mapping[str, Tensor]", prefix: str) -> "dict[str, Tensor]":
    """Return the tensors whose names start with `prefix`, by the rest of their names."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def load_strictly(network: "nn.Module", tensors: "Mapping[str, Tensor]", name: str) -> None:
    """Fill a network with tensors that have exactly its names and shapes.

    ``position_ids``, a counter that older transformers saved, is left out.

    Raises:
        Mismatch: Tensors are missing, surplus or of another shape; the first few are named.
    """
    tensors = {k: v for k, v in tensors.items() if k.rpartition(".")[2] != "position_ids"}
    wanted = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    wrong = []
    for kind, keys in (
        ("missing", wanted.keys() - tensors.keys()),
        ("unexpected", tensors.keys() - wanted.keys()),
    ):
        if keys:
            wrong.append(f"{kind} {_some(sorted(keys))}")
    shapes = [
        f"{k} is {tuple(tensors[k].shape)}, expected {shape}"
        for k, shape in wanted.items()
        if k in tensors and tuple(tensors[k].shape) != shape
    ]
    if shapes:
        wrong.append(_some(shapes))
    if wrong:
        raise Mismatch(
            f"The weights of {name} are not of the architecture that is read: {'; '.join(wrong)}. "
            "Get the published file again."
        )
    network.load_state_dict(dict(tensors))


def _some(names: list[str]) -> str:
    more = f" and {len(names) - N_NAMED} more" if len(names) > N_NAMED else ""
    return ", ".join(names[:N_NAMED]) + more


def _in_folder(folder: Path, file: HubFile) -> Path | None:
    return next((folder / name for name in file.names if (folder / name).is_file()), None)


def _in_cache(file: HubFile) -> Path | None:
    from huggingface_hub import constants, try_to_load_from_cache

    for name in file.names:
        for revision in (file.revision, "main"):
            path = revision and try_to_load_from_cache(
                file.repo, name, cache_dir=constants.HF_HUB_CACHE, revision=revision
            )
            if isinstance(path, str) and path:
                return Path(path)
    return None
