"""A training set and a step number -> that step's batch; nothing else decides it.

Every random choice is a function of (seed, step, row), never of what was drawn before, of the number
of processes or of threads: a run that is resumed needs no random state, and the batch of a run on
two machines is the batch of a run on one.
"""

import random
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medfinder.errors import ConfigError, InputError
from medfinder.train.augment import AugmentConfig, change, draw_change
from medfinder.train.dataset import TrainingSet
from medfinder.train.labels import encode_labels
from medfinder.train.sampling import SamplingConfig, sample_text
from medfinder.train.statements import Statements, make_statements, with_prompts

if TYPE_CHECKING:
    from medfinder.train.features import Features, Regions

_ORDER, _TEXT, _VIEW, _STATEMENTS = range(4)
_NOTHING = np.zeros(0, np.uint8)
RESIDENT_SHARE = 1 / 8
"""Of a GPU's memory that volumes may take, so that a step copies none to it."""
MOVED_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class Batch:
    """What one process sees of one step.

    Attributes:
        study_ids: B studies.
        volumes: (B, C, D, H, W) as they were preprocessed, on the model's device; None where
            `cached` takes their place.
        rows: (B,) place of each study in the whole batch of all processes.
        texts: What the step sees of each report; None for a study without one.
        reports: The whole report that `texts` is a part of.
        report_group: (B,) int64: equal where studies share a report, -1 for none.
        statements: Of the studies with a report, in their order; None where none are asked for.
        labels: (studies with a report, L) int8: 1, 0 or -1 (unknown), of `encode_labels`; None
            where none are asked for.
        capacity: Rows that every process has room for, at least B.
        seed, step, augment: They decide `views`.
        unreadable: Studies left out because a voxel is not finite.
        cached: (B, views, N, width) float16: the step's views as regions of a frozen network.
    """

    study_ids: tuple[str, ...]
    volumes: Tensor | None
    rows: npt.NDArray[np.int64]
    texts: tuple[str | None, ...]
    reports: tuple[str | None, ...]
    report_group: Tensor
    statements: Statements | None
    labels: npt.NDArray[np.int8] | None
    capacity: int
    seed: int = 0
    step: int = 0
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    unreadable: tuple[str, ...] = ()
    cached: Tensor | None = None

    def __len__(self) -> int:
        return len(self.study_ids)

    def views(self, which: int, part: slice = slice(None)) -> Tensor:
        """Return view number `which` of some studies, float32 in 0..1, the same at every call."""
        assert self.volumes is not None
        changes = []
        for row in self.rows[part]:
            generator = torch.Generator()
            generator.manual_seed(mix(self.seed, self.step, _VIEW, int(row), which))
            changes.append(draw_change(self.augment, generator))
        return change(self.volumes[part], changes)

    def regions(self, which: int, part: slice = slice(None)) -> Tensor:
        """Return `cached` features of view number `which` of some studies, (b, N, width) float32."""
        assert self.cached is not None
        return self.cached[part, which].float()


@dataclass(frozen=True)
class Batches:
    """Makes the batches of a run.

    Attributes:
        data: Where the studies come from.
        size: Studies a step, over all processes.
        seed: Of all choices.
        sampling, augment: What a step sees of a report and of a volume.
        n_told, n_denied: Statements a study (`make_statements`); both 0 for none.
        n_prompts: Labels asked as statements (`with_prompts`).
        labels: Of `medfinder.train.labels.fit_labels`.
        needs_report: Draw only studies that have one.
        rank, n_ranks: Which part of each batch is this process's.
        device: Where volumes go.
        features: Of `data`, in place of its volumes: a step draws among their views; None for none.
        n_views: How many different ones a step draws of each study.
    """

    data: TrainingSet
    size: int
    seed: int = 0
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    n_told: int = 2
    n_denied: int = 1
    n_prompts: int = 0
    labels: tuple[str, ...] = ()
    needs_report: bool = True
    rank: int = 0
    n_ranks: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    features: "Features | None" = None
    n_views: int = 1

    def __post_init__(self) -> None:
        n = len(self.pool)
        if self.size > n:
            raise ConfigError(
                f"Setting train.batch_size is {self.size}, but there are {n} studies to draw from"
                f"{' that have a report' if self.needs_report else ''}. Make it at most {n}."
            )
        if self.size % self.n_ranks:
            raise ConfigError(
                f"Setting train.batch_size is {self.size}; expected a multiple of the "
                f"{self.n_ranks} processes that share it."
            )

    @property
    def pool(self) -> npt.NDArray[np.int64]:
        """Rows of the set that are drawn from."""
        has = [i for i, r in enumerate(self.data.reports) if r or not self.needs_report]
        return np.array(has, np.int64)

    @cached_property
    def _resident(self) -> Tensor | None:
        """All volumes on the GPU, where they are uint8 and take a small share of its memory."""
        volumes = self.data.volumes
        if self.features is not None or self.device.type != "cuda" or volumes.dtype != np.uint8:
            return None
        room = torch.cuda.get_device_properties(self.device).total_memory
        if volumes.nbytes > RESIDENT_SHARE * room:
            return None
        return moved(volumes, self.device)

    def drawn(self, step: int) -> npt.NDArray[np.int64]:
        """Return the rows of the set in the whole batch of a step, (size,).

        An epoch is as many whole batches as fit, without replacement; what is over differs from
        one epoch to the next.
        """
        per_epoch = len(self.pool) // self.size
        epoch, place = divmod(step, per_epoch)
        order = _order(len(self.pool), self.seed, epoch)
        return self.pool[order[place * self.size : (place + 1) * self.size]]

    def batch(self, step: int, left_out: frozenset[str] = frozenset()) -> Batch:
        """Make this process's part of the batch of a step.

        Args:
            left_out: Studies that turned out to be bad.

        Raises:
            InputError: No study of this part can be used.
        """
        capacity = self.size // self.n_ranks
        first = self.rank * capacity
        drawn = self.drawn(step)[first : first + capacity]
        kept: list[tuple[int, int, npt.NDArray[Any]]] = []
        unreadable = []
        for row, i in enumerate(map(int, drawn), first):
            if self.data.study_ids[i] in left_out:
                continue
            if self.features is not None:
                kept.append((row, i, self._cached(step, row, i)))
                continue
            if self._resident is not None:
                kept.append((row, i, _NOTHING))
                continue
            volume = self.data.volumes[self.data.rows[i]]
            if volume.dtype.kind == "f" and not np.isfinite(volume).all():
                unreadable.append(self.data.study_ids[i])
                continue
            kept.append((row, i, volume))
        if not kept:
            raise InputError(
                f"No study of step {step} can be used: all {capacity} of this process's part are "
                "bad. Look at the studies named in bad.jsonl.",
                rule="bad-batch",
            )
        reports: list[str | None] = []
        texts: list[str | None] = []
        for row, i, _ in kept:
            chooser = random.Random(mix(self.seed, step, _TEXT, row))
            report = chooser.choice(self.data.reports[i]) if self.data.reports[i] else None
            reports.append(report)
            texts.append(None if report is None else sample_text(report, self.sampling, chooser))
        told = [report for report in reports if report is not None]
        labels = np.stack([_labels(r, self.labels) for r in told]) if told and self.labels else None
        statements = None
        if told and (self.n_told or self.n_denied or self.n_prompts):
            chooser = random.Random(mix(self.seed, step, _STATEMENTS, self.rank))
            statements = make_statements(told, chooser, self.n_told, self.n_denied)
            if labels is not None and self.n_prompts:
                statements = with_prompts(statements, self.labels, labels, chooser, self.n_prompts)
        arrays = [array for *_, array in kept]
        volumes = None
        if self._resident is not None:
            places = self.data.rows[[i for _, i, _ in kept]]
            volumes = self._resident[torch.from_numpy(places).to(self.device)]
        elif self.features is None:
            volumes = self._stacked(arrays)
        return Batch(
            study_ids=tuple(self.data.study_ids[i] for _, i, _ in kept),
            volumes=volumes,
            rows=np.array([row for row, _, _ in kept], np.int64),
            texts=tuple(texts),
            reports=tuple(reports),
            report_group=torch.tensor([int(self.data.report_groups[i]) for _, i, _ in kept]),
            statements=statements,
            labels=labels,
            capacity=capacity,
            seed=self.seed,
            step=step,
            augment=self.augment,
            unreadable=tuple(unreadable),
            cached=torch.from_numpy(np.stack(arrays)).to(self.device) if self.features else None,
        )

    def _cached(self, step: int, row: int, i: int) -> "Regions":
        """Return the features of the views that a step draws of a study, all different."""
        assert self.features is not None
        chooser = random.Random(mix(self.seed, step, _VIEW, row))
        return self.features.regions(i, chooser.sample(range(self.features.n_views), self.n_views))

    def _stacked(self, volumes: list[npt.NDArray[Any]]) -> Tensor:
        """Return volumes on the device: uint8 as it is, floats mapped to 0..1."""
        stacked = torch.from_numpy(np.stack(volumes)).to(self.device)
        if stacked.dtype == torch.uint8:
            return stacked
        low, high = self.data.preprocess.output_range
        return (stacked.float() - low) / (high - low)


def moved(volumes: npt.NDArray[np.uint8], device: torch.device) -> Tensor:
    """Copy volumes, which may be memory-mapped, to a device, a few at a time."""
    there = torch.empty(volumes.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(volumes), MOVED_AT_ONCE):
        part = volumes[start : start + MOVED_AT_ONCE]
        there[start : start + len(part)] = torch.from_numpy(np.array(part))
    return there


@lru_cache(maxsize=100_000)
def _labels(report: str, labels: tuple[str, ...]) -> npt.NDArray[np.int8]:
    return encode_labels(report, labels)


@lru_cache(maxsize=4)
def _order(n: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(mix(seed, epoch, _ORDER)).permutation(n)


def mix(*numbers: int) -> int:
    """Return 63 bits that depend on every number and on their order."""
    low, high = np.random.SeedSequence(numbers).generate_state(2)
    return (int(high) << 32 | int(low)) >> 1
