"""Where a run stands, in one file: tensors and a line of JSON, no pickle, whole or not there.

What is random is a function of the seed and the step (`medfinder.train.batch`), so there is no
random state to keep.
"""

import errno
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from medfinder.artifact import atomic_write
from medfinder.errors import ArtifactError, Mismatch

STATE = "state.safetensors"
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def save_state(
    path: Path,
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    facts: Mapping[str, Any],
) -> None:
    """Write modules, the moments of AdamW and plain facts; the file before it survives a failure.

    Raises:
        ArtifactError: The disk is full.
    """
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        for key, tensor in module.state_dict().items():
            tensors[f"{name}/{key}"] = tensor.detach().cpu().contiguous().clone()
        for key, parameter in module.named_parameters():
            for moment, value in optimizer.state.get(parameter, {}).items():
                tensors[f"{moment}/{name}/{key}"] = value.detach().cpu().contiguous().clone()
    told = json.dumps(facts)
    content = save(tensors, {"facts": told, "crc": str(_crc(tensors, told))})
    try:
        with atomic_write(path) as file:
            file.write(content)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise ArtifactError(
            f"The disk is full: the run's state needs {len(content) / 2**20:.0f} MiB. The state "
            "before it is whole; free space and run again with --resume."
        ) from None


def _crc(tensors: Mapping[str, Tensor], facts: str) -> int:
    crc = zlib.crc32(facts.encode())
    for key in sorted(tensors):
        crc = zlib.crc32(tensors[key].reshape(-1).view(torch.uint8).numpy().data, crc)
    return crc


def load_state(
    path: Path, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Put a run back to where it stood, and return its facts.

    Raises:
        Mismatch: The file is damaged, or is of another architecture.
    """
    try:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            said = file.metadata()
        facts: dict[str, Any] = json.loads(said["facts"])
        if said["crc"] != str(_crc(tensors, said["facts"])):
            raise ValueError("another checksum")
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise Mismatch(
            f"The run's state cannot be read ({type(error).__name__}). Train into another folder."
        ) from None
    for name, module in modules.items():
        own = {
            key.removeprefix(f"{name}/"): t
            for key, t in tensors.items()
            if key.startswith(f"{name}/")
        }
        try:
            module.load_state_dict(own)
        except RuntimeError:
            raise Mismatch(
                "The run's state is of another architecture. Resume with the recipe it was started "
                "with, or train into another folder."
            ) from None
        for key, parameter in module.named_parameters():
            found = {
                m: tensors[f"{m}/{name}/{key}"] for m in _MOMENTS if f"{m}/{name}/{key}" in tensors
            }
            if found:
                optimizer.state[parameter] = {
                    m: t if m == "step" else torch.empty_like(parameter.detach()).copy_(t)
                    for m, t in found.items()
                }
    return facts
