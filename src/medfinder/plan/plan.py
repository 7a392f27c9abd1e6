"""Costs of one study × a number of studies → time, machines, disk, memory and money.

For N studies of V million voxels on C cores a node, `nodes` nodes:

- curate: (start + N (inspect V/V₀ + words)) / cores at work
- index: (start a worker + N ((read + preprocess) V/V₀ + text + commit + embed)) / cores at work;
  with GPUs embed leaves the cores, and the slower of the two decides
- finish, on one node: fixed + N each + N² pair, for each column
- disk: N (curated + row + Σ dims (4 + derived))
- money: Σ over the stages of machines hired × hours × (C core-hour + G gpu-hour)

A machine is paid for as it is, busy or not: its GPUs while it curates too. One machine finishes, and
the others are given back; those that train are hired again. Cores at work are
1 + (nodes C - 1) × efficiency. It stops holding where a term that was not measured takes over: the
archive's disks or network (`stored_mb` a study over the time it is read in), curate's near-copy search,
which compares within groups of like shape, and the N² of finishing above some ten million vectors,
where an index a source is the better shape.
"""

import dataclasses
import math
from collections.abc import Sequence

from medfinder.errors import ConfigError
from medfinder.plan.costs import Costs, check_costs
from medfinder.plan.words import time_words

DAY_S = 86_400.0
HOUR_S = 3_600.0
MOST_STUDIES = 10**12
MOST_NODES = 2**20
# What is expected of a site's numbers, and of those alone: least, whether it may be that, most.
_LIMITS = {
    "nodes": (1, True, MOST_NODES),
    "cores": (1, True, 2**16),
    "gpus": (0, True, 2**10),
    "mvoxels": (0, False, 10**6),
    "stored_mb": (0, True, 10**9),
    "core_hour": (0, True, 10**12),
    "gpu_hour": (0, True, 10**12),
    "tb_month": (0, True, 10**12),
    "epochs": (0, True, 10**6),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Site:
    """What there is, and what it costs.

    Attributes:
        nodes: Machines.
        cores: Of each.
        gpus: Of each.
        gpu: Which; "" for none.
        mvoxels: Million voxels of a study; None for what was measured.
        stored_mb: Of a study's volume in the archive; 0 where nobody knows.
        core_hour: Price of a core for an hour; None where nobody knows.
        gpu_hour: Price of a GPU for an hour.
        tb_month: Price of a terabyte for a month.
        epochs: Of training; 0 for none.
    """

    nodes: int = 1
    cores: int = 16
    gpus: int = 0
    gpu: str = ""
    mvoxels: float | None = None
    stored_mb: float = 0.0
    core_hour: float | None = None
    gpu_hour: float | None = None
    tb_month: float | None = None
    epochs: int = 0

    def __post_init__(self) -> None:
        for name, (least, may_be, most) in _LIMITS.items():
            value = getattr(self, name)
            if value is None:
                continue
            if not (least <= value if may_be else least < value) or value > most:  # NaN too
                expected = (
                    f"{least} to {most:,}" if may_be else f"more than {least}, up to {most:,}"
                )
                raise ConfigError(f"--{name.replace('_', '-')} is {value}; expected {expected}.")
        if bool(self.gpu) != bool(self.gpus):
            raise ConfigError("Say both which GPU and how many a node: --gpu h200 --gpus 1.")

    @property
    def machine_hour(self) -> float | None:
        """Price of a machine for an hour; None where a price of what it has is not known."""
        if self.core_hour is None or (self.gpus and self.gpu_hour is None):
            return None
        return self.cores * self.core_hour + self.gpus * (self.gpu_hour or 0.0)


@dataclasses.dataclass(frozen=True, slots=True)
class StagePlan:
    """What a stage takes.

    Attributes:
        stage: Its name.
        cpu_s: CPU-seconds in all, of busy cores.
        gpu_s: GPU-seconds in all, of busy GPUs.
        duration_s: Seconds of the clock on the site.
        bound: What decides the duration: ``"cores"``, ``"gpus"`` or ``"one node"``.
        nodes: Machines hired meanwhile: one to finish, else all.
        read_bytes: Read from the archive; 0 where unknown, or where the stage reads nothing of it.
    """

    stage: str
    cpu_s: float
    gpu_s: float
    duration_s: float
    bound: str
    nodes: int = 1
    read_bytes: float = 0.0

    @property
    def hired_s(self) -> float:
        """Machine-seconds hired."""
        return self.nodes * self.duration_s

    @property
    def read_mb_s(self) -> float:
        """Megabytes a second that the archive has to give meanwhile."""
        return self.read_bytes / 1e6 / self.duration_s if self.duration_s else 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What an archive takes.

    Attributes:
        n: Studies.
        stages: In order.
        disk_bytes: Of what curation and the index write.
        read_bytes: Read from the archive, twice: to curate and to index; 0 where unknown.
        worker_mib: Memory of each worker.
        finish_mib: Memory of the node that finishes the index.
        serve_mib: Memory of a reader.
        money: Of the machines hired, idle cores and GPUs among them; None without prices.
        money_busy: Of busy cores and GPUs alone, as if each were paid by the second of work.
        money_a_month: Of the disk; None without a price.
    """

    n: int
    stages: tuple[StagePlan, ...]
    disk_bytes: float
    read_bytes: float
    worker_mib: float
    finish_mib: float
    serve_mib: float
    money: float | None
    money_busy: float | None
    money_a_month: float | None

    @property
    def cpu_s(self) -> float:
        """CPU-seconds of all stages, of busy cores."""
        return sum(stage.cpu_s for stage in self.stages)

    @property
    def gpu_s(self) -> float:
        """GPU-seconds of all stages, of busy GPUs."""
        return sum(stage.gpu_s for stage in self.stages)

    @property
    def hired_s(self) -> float:
        """Machine-seconds hired in all stages."""
        return sum(stage.hired_s for stage in self.stages)

    @property
    def duration_s(self) -> float:
        """Seconds of the clock, one stage after the other."""
        return sum(stage.duration_s for stage in self.stages)


def plan(n: int, costs: Costs, site: Site | None = None) -> Plan:
    """Predict what `n` studies take on a site.

    Raises:
        ConfigError: `n` is below 1, training is asked for without a GPU, or the costs cannot be.
        UnknownName: The GPU has no measured figures.
    """
    if n < 1:
        raise ConfigError(f"A plan needs at least one study, got {n}.")
    if n > MOST_STUDIES:
        raise ConfigError(f"A plan is made for at most {MOST_STUDIES:,} studies.")
    check_costs(costs)
    site = site or Site()
    study, vector = costs.study, costs.vector
    larger = site.mvoxels / study.mvoxels if site.mvoxels and study.mvoxels else 1.0
    workers = site.nodes * site.cores
    at_work = 1 + (workers - 1) * costs.efficiency
    curate_s = study.curate_start_s + n * (study.inspect_s * larger + study.words_s)
    archive = 1e6 * site.stored_mb * n
    stages = [StagePlan("curate", curate_s, 0.0, curate_s / at_work, "cores", site.nodes, archive)]

    each = (study.read_s + study.preprocess_s) * larger + study.text_s + study.commit_s
    gpu_s = 0.0
    if site.gpus:
        gpu_s = n / costs.gpu(site.gpu).volumes_per_s
    else:
        each += study.embed_s
    index_s = study.index_start_s * workers + n * each
    on_cores = study.index_start_s + n * each / at_work
    on_gpus = gpu_s / (site.nodes * site.gpus) if site.gpus else 0.0
    bound = "gpus" if on_gpus > on_cores else "cores"
    took = max(on_cores, on_gpus)
    stages.append(StagePlan("index", index_s, gpu_s, took, bound, site.nodes, archive))

    finish_s = sum(finishing_s(n, dim, costs) for dim in study.dims)
    stages.append(StagePlan("finish", finish_s, 0.0, finish_s / _busy(costs, site), "one node"))
    if site.epochs:
        if not site.gpus:
            raise ConfigError("Training is planned on GPUs: say --gpu h200 --gpus 1.")
        train_s = n * site.epochs / costs.gpu(site.gpu).train_studies_per_s
        took = train_s / (site.nodes * site.gpus)
        stages.append(StagePlan("train", 0.0, train_s, took, "gpus", site.nodes))

    disk = n * (study.curated_bytes + study.row_bytes)
    disk += n * sum(4 * dim + vector.derived_bytes * dim / vector.dim for dim in study.dims)
    widest = max(study.dims, default=0) / vector.dim
    serve_bytes = vector.serve_bytes * sum(study.dims) / vector.dim
    money = money_busy = None
    if site.machine_hour is not None:
        money = sum(stage.hired_s for stage in stages) / HOUR_S * site.machine_hour
        money_busy = sum(stage.cpu_s for stage in stages) / HOUR_S * (site.core_hour or 0.0)
        money_busy += sum(stage.gpu_s for stage in stages) / HOUR_S * (site.gpu_hour or 0.0)
    return Plan(
        n=n,
        stages=tuple(stages),
        disk_bytes=disk,
        read_bytes=sum(stage.read_bytes for stage in stages),
        worker_mib=study.worker_mib,
        finish_mib=n * vector.peak_bytes * widest / 2**20,
        serve_mib=vector.serve_mib + n * serve_bytes / 2**20,
        money=money,
        money_busy=money_busy,
        money_a_month=None if site.tb_month is None else disk / 1e12 * site.tb_month,
    )


def finishing_s(n: int, dim: int, costs: Costs) -> float:
    """Return the CPU-seconds of finishing a column of n vectors."""
    vector = costs.vector
    return (vector.fixed_s + n * vector.each_s + n * n * vector.pair_s) * dim / vector.dim


def nodes_for(n: int, days: float, costs: Costs, site: Site) -> int | None:
    """Return how many nodes finish `n` studies in so many days; None where no number does.

    The index is finished on one node, whatever their number; `out_of_reach` says why.

    Raises:
        ConfigError: `days` is no finite number above 0.
    """
    if not 0 < days < math.inf:
        raise ConfigError(f"--days is {days}; expected a number of days, more than 0 days.")

    def takes(nodes: int) -> float:
        return plan(n, costs, dataclasses.replace(site, nodes=nodes)).duration_s

    high = 1
    while takes(high) > days * DAY_S:
        high *= 2
        if high > MOST_NODES:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if takes(middle) <= days * DAY_S else (middle, high)
    return high


def out_of_reach(n: int, days: float, costs: Costs, site: Site) -> str:
    """Return why no number of nodes is done in so many days, and what to do instead."""
    start = costs.study.index_start_s
    finish = sum(finishing_s(n, dim, costs) for dim in costs.study.dims) / _busy(costs, site)
    said = f"No number of such machines does it in {time_words(days * DAY_S)}"
    if start + finish < days * DAY_S:
        return f"{said}: not even {MOST_NODES:,}. Give more days, or larger machines."
    reason = (
        f"{said}: however many there are, starting a worker takes {time_words(start)}, and "
        f"finishing the index, on one of them, {time_words(finish)}."
    )
    if finish > start:
        return f"{reason} Give more days, or make an index a source or a year instead of one."
    return f"{reason} Give more days."


def _busy(costs: Costs, site: Site) -> float:
    """Return the cores at work while finishing, as many as on the machine measured.

    A larger machine was not measured, so it is not claimed to be faster.
    """
    return min(costs.vector.cores_used, site.cores)


def fit_finish(sizes: Sequence[int], seconds: Sequence[float]) -> tuple[float, float, float]:
    """Fit ``fixed + n each + n² pair`` to measured CPU-seconds, none of them negative.

    Weighted by 1 / seconds, so that no size counts more than another.

    Raises:
        ConfigError: There are fewer than three sizes.
    """
    import numpy as np
    from scipy.optimize import nnls

    if len(sizes) < 3 or len(sizes) != len(seconds):
        raise ConfigError("A fit of finishing needs at least three sizes, and a time for each.")
    n, took = np.asarray(sizes, float), np.asarray(seconds, float)
    terms = np.stack([np.ones_like(n), n, n * n], axis=1)
    scale = terms.max(axis=0)
    found = nnls(terms / scale / took[:, None], np.ones(len(n)))[0] / scale
    return float(found[0]), float(found[1]), float(found[2])
