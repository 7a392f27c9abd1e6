"""What one study and one vector cost: figures measured on one machine, and where they came from.

``costs.json`` holds those of the machine in its ``machine``, written by ``benchmarks/cost_model.py``;
`medfinder.plan.measure` makes those of another. A CPU-second is a second of one busy core.
"""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from medfinder.config import from_dict
from medfinder.errors import ConfigError, InputError, UnknownName
from medfinder.registry import unknown

ABOVE_0 = ("vector.dim", "vector.cores", "vector.cores_used", "efficiency")


@dataclasses.dataclass(frozen=True, slots=True)
class StudyCosts:
    """What one study costs on the way from an archive to rows of an index.

    Attributes:
        encoder: Of the volumes, and ``+`` of the reports.
        n: Studies measured.
        mvoxels: Million voxels of a study, mean.
        inspect_s: Curate: read and check the volume; grows with voxels.
        words_s: Curate: all else, above all the report.
        curate_start_s: Curate: once a run.
        read_s: Index: read the volume again; grows with voxels.
        preprocess_s: Index: to the encoder's input; grows with voxels.
        embed_s: Index: the volume's vector.
        text_s: Index: the report's vectors.
        commit_s: Index: the row in the table.
        index_start_s: Index: once a worker, above all loading the encoders.
        dims: Lengths of the vectors of a study.
        curated_bytes: Of a study in ``studies.parquet`` and the ledger.
        row_bytes: Of a study in the index's table, without vectors.
        worker_mib: Peak memory of a worker.
    """

    encoder: str = ""
    n: int = 0
    mvoxels: float = 0.0
    inspect_s: float = 0.0
    words_s: float = 0.0
    curate_start_s: float = 0.0
    read_s: float = 0.0
    preprocess_s: float = 0.0
    embed_s: float = 0.0
    text_s: float = 0.0
    commit_s: float = 0.0
    index_start_s: float = 0.0
    dims: tuple[int, ...] = ()
    curated_bytes: float = 0.0
    row_bytes: float = 0.0
    worker_mib: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class VectorCosts:
    """What finishing and serving a column costs, fitted to several sizes.

    Finishing n vectors takes ``fixed_s + n * each_s + n**2 * pair_s`` CPU-seconds: partitions grow in
    number with n, and each vector is compared with each centroid.

    Attributes:
        dim: Of the vectors measured; costs grow with it.
        sizes: Numbers of vectors fitted.
        fixed_s: Whatever the number.
        each_s: A vector.
        pair_s: A vector and another.
        cores_used: CPU-seconds a second of the clock, of a machine with `cores`.
        cores: Cores of that machine.
        derived_bytes: On disk, a vector, beside the table's own 4 a number.
        peak_bytes: Of memory while finishing, a vector.
        serve_bytes: Of memory of a reader, a vector; vectors themselves stay on disk.
        serve_mib: Of memory of a reader, whatever the number.
    """

    dim: int = 512
    sizes: tuple[int, ...] = ()
    fixed_s: float = 0.0
    each_s: float = 0.0
    pair_s: float = 0.0
    cores_used: float = 1.0
    cores: int = 1
    derived_bytes: float = 0.0
    peak_bytes: float = 0.0
    serve_bytes: float = 0.0
    serve_mib: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class GpuCosts:
    """What one GPU does a second.

    Attributes:
        device: What was measured.
        network: Of which recipe, input and precision.
        volumes_per_s: Embedded, read and preprocessed before.
        train_studies_per_s: Trained on.
        assumed: Why the figures hold for another device than the one measured; "" where it was.
    """

    device: str = ""
    network: str = ""
    volumes_per_s: float = 0.0
    train_studies_per_s: float = 0.0
    assumed: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Costs:
    """All that a plan is made from.

    Attributes:
        machine: Whose figures these are.
        study: Of a study.
        vector: Of a vector.
        gpus: By the name that ``--gpu`` takes.
        efficiency: Of each further worker: rate of two workers over twice the rate of one; above 0,
            at most 1.
    """

    machine: str = ""
    study: StudyCosts = dataclasses.field(default_factory=StudyCosts)
    vector: VectorCosts = dataclasses.field(default_factory=VectorCosts)
    gpus: Mapping[str, GpuCosts] = dataclasses.field(default_factory=dict)
    efficiency: float = 1.0

    def gpu(self, name: str) -> GpuCosts:
        """Return the figures of a GPU.

        Raises:
            UnknownName: None were measured.
        """
        if name not in self.gpus:
            raise UnknownName(unknown("GPU with measured figures", name, sorted(self.gpus)))
        return self.gpus[name]


def check_costs(costs: Costs) -> None:
    """Refuse costs that no plan can be made from.

    Raises:
        ConfigError: A number is negative, not finite, or 0 where a plan divides by it.
    """
    figures = dataclasses.asdict(costs)
    gpus = figures.pop("gpus")
    for name, value in _numbers(figures):
        above = name in ABOVE_0
        if not math.isfinite(value) or value < 0 or (above and value == 0):
            expected = "above 0" if above else "0 or more"
            raise ConfigError(
                f"The cost {name} is {value:g}; expected a finite number, {expected}."
            )
    if costs.efficiency > 1:
        raise ConfigError(
            f"The cost efficiency is {costs.efficiency:g}; expected at most 1: "
            "two workers do no more than twice what one does."
        )
    for name, value in _numbers(gpus, "gpus."):
        if not 0 < value < math.inf:
            raise ConfigError(f"The cost {name} is {value:g}; expected a finite number above 0.")


def load_costs(path: str | Path | None = None) -> Costs:
    """Read costs; None for those that ship, of the machine they name.

    Raises:
        InputError: There is no such file.
        ConfigError: It does not hold costs: a figure is missing, or cannot be one.
    """
    try:
        text = (
            (files("medfinder.plan") / "costs.json").read_bytes()
            if path is None
            else Path(path).read_bytes()
        )
    except OSError:
        raise InputError(
            f"There is no costs file at {str(path)!r}. Make one with 'medfinder plan --measure'.",
            rule="no-costs",
        ) from None
    try:
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ConfigError("It is no JSON object.")
        made = _costs(values)
        check_costs(made)
    except (ValueError, OverflowError, RecursionError, ConfigError) as error:
        raise ConfigError(
            f"The costs file {str(path or 'costs.json')!r} cannot be used: "
            f"{str(error).rstrip('.')}. Correct it, or make it anew with "
            "'medfinder plan --measure STUDIES --save FILE'."
        ) from None
    return made


def check_target(path: Path) -> None:
    """Refuse a place where costs cannot be written, before the time that measuring takes.

    Raises:
        InputError: It is a folder, or in a folder that is not there.
    """
    if path.is_dir():
        raise InputError(
            f"The costs cannot be written to {str(path)!r}: it is a folder. Name a file."
        )
    if not path.parent.is_dir():
        raise InputError(
            f"The costs cannot be written to {str(path)!r}: there is no folder "
            f"{str(path.parent)!r}. Make it first."
        )


def save_costs(costs: Costs, path: Path) -> None:
    """Write costs as JSON.

    Raises:
        InputError: They cannot be written there.
    """
    check_target(path)
    try:
        path.write_text(json.dumps(dataclasses.asdict(costs), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"The costs cannot be written to {str(path)!r}: {error.strerror or error}. "
            "Check the path, the space and the permissions."
        ) from None


def _costs(values: dict[str, Any]) -> Costs:
    """Return what a file says, none of its figures left to a default."""
    gpus = values.get("gpus", {})
    if not isinstance(gpus, dict):
        raise ConfigError(f"Setting gpus must be a table, got {gpus!r}.")
    for name, said in gpus.items():
        if not isinstance(said, dict):
            raise ConfigError(f"Setting gpus.{name} must be a table, got {said!r}.")
        _complete(GpuCosts, said, f"gpus.{name}.")
    made = from_dict(Costs, {key: value for key, value in values.items() if key != "gpus"})
    _complete(Costs, values)
    _complete(StudyCosts, values["study"], "study.")
    _complete(VectorCosts, values["vector"], "vector.")
    if made.study.mvoxels <= 0:
        raise ConfigError(f"Setting study.mvoxels is {made.study.mvoxels:g}; expected above 0.")
    if not made.study.dims or min(made.study.dims) < 1:
        dims = list(made.study.dims)
        raise ConfigError(f"Setting study.dims is {dims}; expected a length or more, each above 0.")
    known = {name: from_dict(GpuCosts, said, f"gpus.{name}.") for name, said in gpus.items()}
    return dataclasses.replace(made, gpus=known)


def _complete(cls: type, values: Mapping[str, Any], where: str = "") -> None:
    """Refuse a table that lacks a figure; words may be left out."""
    for field in dataclasses.fields(cls):
        if field.name not in values and field.name != "gpus" and field.type is not str:
            raise ConfigError(f"Setting {where}{field.name} is missing.")


def _numbers(values: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, float]]:
    """Yield every number of nested tables, with its path."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{where}{key}.")
        elif isinstance(value, int | float):
            yield where + key, value
        elif isinstance(value, tuple):
            yield from ((f"{where}{key}[{i}]", each) for i, each in enumerate(value))
