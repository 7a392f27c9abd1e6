"""A frozen volume network and a training set -> the region features of every view, made once.

A step then reads regions instead of running the network, so that batches of thousands fit. Features
lie as float16 in memory-mapped shards, each beside a journal: a fill that is killed goes on where it
stopped. Knows no text and no loss.
"""

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from medfinder.config import to_dict
from medfinder.errors import ArtifactError, ConfigError, InputError
from medfinder.model.joint_encoder import to_unit_range, weights_sha256
from medfinder.model.volume_encoder import VolumeEncoder, VolumeEncoderConfig
from medfinder.train.augment import AugmentConfig, view
from medfinder.train.batch import mix
from medfinder.train.dataset import TrainingSet, allocate, believed, crc_of, read_journal

FEATURES_VERSION = 1
"""Raised whenever the same input gives other features, or they lie elsewhere."""
SHARD_BYTES = 2**30  # at most
N_SHARDS = 16  # at least, so that processes share the work whatever their number
AT_ONCE = 8  # views in one call of the network
_CACHED_VIEW = 5  # a choice beside those of `medfinder.train.batch`

Progress = Callable[[int, int], None]
Regions = npt.NDArray[np.float16]


@dataclass(frozen=True)
class CachedViews:
    """Which views of each study have features.

    Attributes:
        n: Views; number 0 is the unchanged volume, the others are augmented.
        seed: Of the augmented ones.
        augment: Of the augmented ones.
    """

    n: int = 1
    seed: int = 0
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def of(self, data: TrainingSet, row: int) -> Tensor:
        """Return the views of study number `row`, (n, C, D, H, W) float32 in 0..1, on the CPU.

        Raises:
            InputError: A voxel is not finite.
        """
        volume = torch.from_numpy(np.array(data.volumes[data.rows[row]])).float()
        if not volume.isfinite().all():
            raise InputError("a voxel is not finite", rule="not-finite")
        whole = to_unit_range(volume, data.preprocess)[None]
        made = [whole]
        for number in range(1, self.n):
            generator = torch.Generator()
            generator.manual_seed(mix(self.seed, row, _CACHED_VIEW, number))
            made.append(view(whole, self.augment, generator))
        return torch.cat(made)


@dataclass(frozen=True, eq=False)
class Features:
    """Region features of a training set's studies.

    Attributes:
        study_ids: Of the set, N of them.
        shards: (rows, views, regions, width) float16 each, memory-mapped: the N studies in order.
        has: (N,) whether a study has features.
        rejected: Study -> why it has none, though they were asked for.
    """

    study_ids: tuple[str, ...]
    shards: tuple[Regions, ...]
    has: npt.NDArray[np.bool_]
    rejected: Mapping[str, str]

    @property
    def n_views(self) -> int:
        """`CachedViews.n` of these."""
        return int(self.shards[0].shape[1])

    def regions(self, row: int, views: Sequence[int] = (0,)) -> Regions:
        """Return views of study number `row` of the set, (views, regions, width).

        Raises:
            InputError: The study has no features.
        """
        if not self.has[row]:
            study_id = self.study_ids[row]
            why = self.rejected.get(study_id, "they were not asked for")
            raise InputError(f"The study {study_id} has no features: {why}.", rule="bad-features")
        shard, place = divmod(row, len(self.shards[0]))
        return self.shards[shard][place, list(views)]

    def iter_unchanged(self) -> Iterator[Regions]:
        """Yield the features of each study's unchanged volume, (regions, width).

        Raises:
            InputError: A study has no features.
        """
        return (self.regions(row)[0] for row in range(len(self.study_ids)))


def make_features(
    network: VolumeEncoder,
    config: VolumeEncoderConfig,
    data: TrainingSet,
    views: CachedViews,
    folder: Path,
    *,
    rows: Iterable[int] | None = None,
    device: torch.device | str = "cpu",
    rank: int = 0,
    n_ranks: int = 1,
    barrier: Callable[[], None] = lambda: None,
    progress: Progress | None = None,
) -> Features:
    """Run a frozen network over views of every study and keep what it returns; resumable.

    Args:
        network: In evaluation mode while it runs, in float32.
        config: What built it.
        folder: A folder below it is named by the set with its volumes, the network with its
            weights, and the views, so that others never meet these features.
        rows: Places in the set of the studies wanted; None for all.
        device: Where the network is.
        rank, n_ranks: Which process this is; each fills its own shards.
        barrier: Returns when every process has called it.
        progress: Called with (done, total) of this process after each study.

    Returns:
        The features. A study of which they are not finite, or beyond float16's 65,504, or that the
        network refused, is in `Features.rejected`.

    Raises:
        ConfigError: A parameter of the network is trained.
        ArtifactError: The disk has too little room.
    """
    learns = [name for name, p in network.named_parameters() if p.requires_grad]
    if learns:
        raise ConfigError(
            f"Setting train.cached_views is {views.n}, but the volume network {config.name!r} has "
            f"{len(learns)} tensors that are trained, such as {learns[0]!r}: its features change at "
            "every step. Use a network that is frozen, or set train.cached_views to 0."
        )
    place = folder / _key(network, config, data, views)
    place.mkdir(parents=True, exist_ok=True)
    shape = (views.n, int(np.prod(network.n_regions)), network.width)
    size_bytes = 2 * int(np.prod(shape))  # of a study
    n_rows = max(1, min(SHARD_BYTES // size_bytes, -(-len(data) // N_SHARDS)))
    starts = range(0, len(data), n_rows)
    shards = [_Shard(place / f"{k:05}.npy", i, min(n_rows, len(data) - i), shape)
              for k, i in enumerate(starts)]  # fmt: skip
    wanted = set(range(len(data)) if rows is None else map(int, rows))
    mine = [
        (shard, wanted & set(shard.rows) - set(shard.sound() or ()))
        for shard in shards[rank::n_ranks]
    ]
    n_todo = sum(len(todo) for _, todo in mine)
    _check_room(place, n_todo * size_bytes)
    n_done = 0
    with _in_use(network):
        for shard, todo in mine:
            for _ in shard.fill(todo, lambda row: _run(network, views.of(data, row), device)):
                n_done += 1
                if progress:
                    progress(n_done, n_todo)
    barrier()
    seen: dict[int, dict[str, Any]] = {}
    for shard in shards:
        seen |= shard.seen()
    return Features(
        study_ids=data.study_ids,
        shards=tuple(shard.open("r") for shard in shards),
        has=np.array([row in seen and "reason" not in seen[row] for row in range(len(data))]),
        rejected={
            data.study_ids[row]: str(entry["reason"])
            for row, entry in sorted(seen.items())
            if row in wanted and "reason" in entry
        },
    )


@dataclass(frozen=True)
class _Shard:
    """A file of some studies' features and its journal: what is in the journal is in the file."""

    path: Path
    first: int
    n: int
    shape: tuple[int, int, int]

    @property
    def rows(self) -> range:
        return range(self.first, self.first + self.n)

    @property
    def journal(self) -> Path:
        return self.path.with_suffix(".jsonl")

    def seen(self) -> dict[int, dict[str, Any]]:
        return read_journal(self.journal) if self.path.is_file() else {}

    def sound(self) -> dict[int, dict[str, Any]] | None:
        """Return the lines of `seen` whose features are those written; None where the file is none."""
        return believed(self.path, read_journal(self.journal), self.first)

    def open(self, mode: Literal["r", "r+"]) -> Regions:
        shape = (self.n, *self.shape)
        if not self.path.is_file():
            if mode == "r":  # nothing of it was wanted
                return np.broadcast_to(np.float16(0), shape)
            allocate(self.path, shape, "float16")
        mapped: Regions = np.load(self.path, mmap_mode=mode)
        return mapped

    def fill(
        self, todo: set[int], regions: Callable[[int], npt.NDArray[np.float32]]
    ) -> Iterator[int]:
        """Write the features of some studies; yield each when it is done.

        Another run that fills the same shard waits here, and then finds it full.
        """
        if not todo:
            return
        with self.journal.open("a", encoding="utf-8") as journal:
            fcntl.flock(journal, fcntl.LOCK_EX)  # a process that is killed lets go of it
            seen = self.sound()
            if seen is None:
                journal.truncate(0)
                self.path.unlink(missing_ok=True)
                seen = {}
            mapped = self.open("r+")
            for row in sorted(todo):
                if row not in seen:
                    entry: dict[str, Any] = {"row": row}
                    try:
                        mapped[row - self.first] = _in_float16(regions(row))
                        entry["crc"] = crc_of(mapped[row - self.first])
                    except InputError as error:
                        entry["reason"] = str(error)
                    journal.write(json.dumps(entry) + "\n")
                    journal.flush()
                yield row


def _run(
    network: VolumeEncoder, views: Tensor, device: torch.device | str
) -> npt.NDArray[np.float32]:
    parts = [network(part.to(device)).float().cpu() for part in torch.split(views, AT_ONCE)]
    regions: npt.NDArray[np.float32] = torch.cat(parts).numpy()
    return regions


def _in_float16(regions: npt.NDArray[np.float32]) -> Regions:
    if not np.isfinite(regions).all():
        raise InputError("its volume's features are not finite", rule="bad-features")
    if np.abs(regions).max() > np.finfo(np.float16).max:
        raise InputError("its volume's features are beyond float16's range", rule="bad-features")
    return regions.astype(np.float16)


def _key(
    network: VolumeEncoder, config: VolumeEncoderConfig, data: TrainingSet, views: CachedViews
) -> str:
    """Return 16 hex digits over all that the features depend on."""
    info = getattr(network, "info", None)  # of a network that keeps its weights elsewhere
    what = [
        FEATURES_VERSION,
        data.digest,
        data.volumes_digest,
        to_dict(config),
        info and info.model_id,
        weights_sha256(network.state_dict()),
        to_dict(views) if views.n > 1 else None,  # view 0 is the same in all
    ]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def _check_room(place: Path, size_bytes: int) -> None:
    free = shutil.disk_usage(place).free
    if size_bytes > free:
        raise ArtifactError(
            f"The features of train.cached_views need {size_bytes / 2**30:.1f} GiB more, and "
            f"{free / 2**30:.1f} GiB are free. Lower train.cached_views, or give another folder."
        )


@contextmanager
def _in_use(network: nn.Module) -> Iterator[None]:
    """Run a block in evaluation, without gradients, with repeatable convolutions on a GPU."""
    was = network.training
    network.eval()
    try:
        with (
            torch.no_grad(),
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
        ):
            yield
    finally:
        network.train(was)
