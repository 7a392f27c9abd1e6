"""Approximate nearest neighbours for a large column: partitions of 8-bit rows in mapped files.

Rows are grouped by spherical k-means around the column's centre and lie on disk list by list, each
as 8-bit codes of its difference from the centre. A query visits the nearest lists until it has
scored `budget` rows that the filter allows, so a filter costs no recall: at 50 % twice the lists
are visited, and where a filter leaves few rows all of them are scored. The best
are then scored again from float32 rows. So a neighbour is lost only in a list that was not visited
(measured when the partitions are built) or, rarely, to the codes' rounding.

The float32 file holds unit vectors as they came: the centre may move without a rewrite.
"""

import dataclasses
import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfinder.artifact import checksum
from medfinder.index.exact import direction, inverse_lengths
from medfinder.place import atomic_write, hash_file

RECORD = "partitions.json"
"""Written last; names every other file but the lengths, with its size and SHA-256."""
_WHOLE = ("scales", "origin", "keys", "offsets", "centroids")
_CHUNK = 16_384  # rows held at once: 32 MiB of 512 float32
_ROUNDS = 6
_SAMPLED_PER_LIST = 40
_FEW = 32  # a filter that keeps one row in 32 is scored whole: walking the lists costs more
_QUERIES = 512


@dataclasses.dataclass(frozen=True, slots=True)
class Partitions:
    """A column's rows, grouped into lists; a row's place is its position in these arrays.

    Attributes:
        vectors: (N, dim) unit float32, list after list, a memory map.
        codes: (N, dim) int8; ``codes * scales[:, None] + origin`` is about `vectors`.
        scales: (N,) float32.
        origin: (dim,) the column's centre at building time.
        keys: (N,) int64, which table row each came from.
        offsets: (L + 1,) first place of each list.
        centroids: (L, dim) unit float32, directions seen from `origin`.
        budget: Allowed rows to score for a query.
        recall: Recall at 10 measured with that budget, on sampled rows.
        folder: Where the files lie.
    """

    vectors: NDArray[np.float32]
    codes: NDArray[np.int8]
    scales: NDArray[np.float32]
    origin: NDArray[np.float32]
    keys: NDArray[np.int64]
    offsets: NDArray[np.int64]
    centroids: NDArray[np.float32]
    budget: int
    recall: float
    folder: Path

    def inverse(self, centre: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return 1 / |x - centre| of each row, (N,): as saved, or computed where the centre moved."""
        try:
            with np.load(self.folder / "lengths.npz") as saved:
                if np.array_equal(saved["centre"], centre):
                    return np.asarray(saved["inverse"])
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            pass
        return self.computed_inverse(centre)

    def computed_inverse(self, centre: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what `inverse` does, from the vectors."""
        blocks = range(0, len(self.keys), _CHUNK)
        return np.concatenate(
            [inverse_lengths(self.vectors[s : s + _CHUNK], centre) for s in blocks]
        )

    def save_inverse(self, centre: NDArray[np.float32]) -> None:
        """Save what `inverse` returns, so that opening the index need not read every vector."""
        inverse = self.inverse(centre)
        with atomic_write(self.folder / "lengths.npz") as file:
            np.savez(file, centre=centre, inverse=inverse)

    def products(
        self,
        towards: NDArray[np.float64],
        rows: NDArray[np.int32],
        place_of: NDArray[np.int32],
        mask: NDArray[np.bool_] | None,
        at_least: int = 1,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the places scored and their approximate x · `towards`.

        Args:
            towards: (dim,) unit vector from the column's centre to the query.
            rows: (N,) each place's row in the table; negative for one that is no longer there.
            place_of: (rows,) each row's place, negative for a row without one.
            mask: By row, False leaves it out; None allows all.
            at_least: Score this many rows even where the budget is smaller.
        """
        from medfinder.index import scan

        fast = towards.astype(np.float32)
        budget = max(self.budget, at_least)
        few = max(budget, len(self.keys) // _FEW)
        if mask is not None and np.count_nonzero(mask) <= few:
            allowed = place_of[np.flatnonzero(mask)]
            places = np.sort(allowed[allowed >= 0]).astype(np.int64)
        else:
            nearness = np.empty(len(self.centroids), np.float32)
            scan.products(self.centroids, fast, nearness)
            order = np.argsort(-nearness, kind="stable")
            largest = int(np.diff(self.offsets).max())
            found = np.empty(min(len(self.keys), budget + largest) + 1, np.int64)
            chosen = np.empty(0, np.bool_) if mask is None else mask
            n = scan.choose(order, self.offsets, rows, chosen, budget, found)
            places = found[:n]
        sums = np.empty(len(places), np.float32)
        scan.score(self.codes, self.scales, fast, places, sums)
        return places, sums + np.float32(self.origin @ towards)


def build(
    folder: Path,
    vectors: NDArray[np.float32],
    keys: NDArray[np.int64],
    centre: NDArray[np.float32],
    rows_per_list: int,
    recall: float,
    seed: int,
) -> None:
    """Write the partitions of `vectors` (N, dim) into `folder`, replacing what is there.

    The result depends on the rows, their order and the seed alone, up to float32 rounding.
    A crash leaves a folder without ``partitions.json``, which `load` does not take.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    n, dim = vectors.shape
    n_lists = max(1, n // rows_per_list)
    random = np.random.default_rng(seed)
    sample = np.sort(random.choice(n, min(n, n_lists * _SAMPLED_PER_LIST), replace=False))
    centroids = _train(_centred(vectors[sample], centre), n_lists, random)
    owner = np.empty(n, np.int32)
    for start in range(0, n, _CHUNK):
        owner[start : start + _CHUNK] = _nearest(
            _centred(vectors[start : start + _CHUNK], centre), centroids
        )
    order = np.argsort(owner, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=n_lists))])
    target = np.lib.format.open_memmap(folder / "vectors.npy", "w+", np.float32, (n, dim))
    codes = np.lib.format.open_memmap(folder / "codes.npy", "w+", np.int8, (n, dim))
    scales = np.empty(n, np.float32)
    for start in range(0, n, _CHUNK):
        block = vectors[order[start : start + _CHUNK]]
        target[start : start + _CHUNK] = block
        moved = block - centre
        widest = np.maximum(np.abs(moved).max(axis=1), 1e-9) / 127
        codes[start : start + _CHUNK] = np.rint(moved / widest[:, None])
        scales[start : start + _CHUNK] = widest
    target.flush()
    codes.flush()
    np.save(folder / "scales.npy", scales)
    np.save(folder / "origin.npy", centre)
    np.save(folder / "keys.npy", keys[order])
    np.save(folder / "offsets.npy", offsets.astype(np.int64))
    np.save(folder / "centroids.npy", centroids)
    budget, reached = _choose_budget(target, offsets, centroids, centre, recall, random)
    files = {
        path.name: {"size": path.stat().st_size, "sha256": hash_file(path)}
        for path in sorted(folder.glob("*.npy"))
    }
    record = {"budget": budget, "recall": reached, "files": files}
    with atomic_write(folder / RECORD) as file:
        file.write(json.dumps({**record, "checksum": checksum(record)}).encode())


# Numpy reads the head of an array as Python: what it raises of a damaged one is a parser's, too.
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    SyntaxError,
    TokenError,
)


def load(folder: Path) -> Partitions | None:
    """Return the partitions in `folder`, or None where they are missing or unfinished."""
    try:
        said = json.loads((folder / RECORD).read_bytes())
        held = said.pop("checksum", None)  # older versions wrote none
        if held not in (None, checksum(said)):
            return None
        mapped = {n: np.load(folder / f"{n}.npy", mmap_mode="r") for n in ("vectors", "codes")}
        whole = {n: _load_whole(folder / f"{n}.npy", said.get("files", {})) for n in _WHOLE}
        numbers = {"budget": int(said["budget"]), "recall": float(said["recall"])}
    except _UNREADABLE:
        return None
    return Partitions(**mapped, **whole, **numbers, folder=folder)  # type: ignore[arg-type]


def _load_whole(path: Path, files: Mapping[str, Mapping[str, Any]]) -> NDArray[Any]:
    """Read an array that is held in memory: a wrong place in it would lead out of the others."""
    content = path.read_bytes()
    held = files.get(path.name)  # older versions recorded none
    if held is not None and hashlib.sha256(content).hexdigest() != held["sha256"]:
        raise ValueError(f"{path.name} is damaged")
    array: NDArray[Any] = np.load(io.BytesIO(content))
    return array


def _centred(rows: NDArray[np.float32], centre: NDArray[np.float32]) -> NDArray[np.float32]:
    moved = rows - centre
    lengths = np.linalg.norm(moved, axis=1, keepdims=True)
    unit: NDArray[np.float32] = moved / np.maximum(lengths, 1e-6)
    return unit


def _nearest(rows: NDArray[np.float32], centroids: NDArray[np.float32]) -> NDArray[np.int64]:
    nearest: NDArray[np.int64] = np.argmax(rows @ centroids.T, axis=1)
    return nearest


def _train(
    rows: NDArray[np.float32], n_lists: int, random: np.random.Generator
) -> NDArray[np.float32]:
    """Spherical k-means: unit centroids (n_lists, dim)."""
    centroids = rows[random.choice(len(rows), n_lists, replace=False)]
    for _ in range(_ROUNDS):
        owner = np.concatenate(
            [_nearest(rows[s : s + _CHUNK], centroids) for s in range(0, len(rows), _CHUNK)]
        )
        order = np.argsort(owner, kind="stable")
        counts = np.bincount(owner, minlength=n_lists)
        filled = np.flatnonzero(counts)
        starts = np.concatenate([[0], np.cumsum(counts[filled])[:-1]])
        sums = np.add.reduceat(rows[order], starts, axis=0)
        centroids[filled] = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-6)
        empty = np.flatnonzero(counts == 0)
        if len(empty):
            centroids[empty] = rows[random.choice(len(rows), len(empty), replace=False)]
    return centroids


def _choose_budget(
    vectors: NDArray[np.float32],
    offsets: NDArray[np.int64],
    centroids: NDArray[np.float32],
    centre: NDArray[np.float32],
    recall: float,
    random: np.random.Generator,
) -> tuple[int, float]:
    """Return how many rows to score for `recall` at 10, and the recall that gives.

    For each sampled row's ten true neighbours: how many rows are scored before the visit reaches
    its list? The wanted quantile of that number is the budget.
    """
    n = len(vectors)
    sample = np.sort(random.choice(n, min(n, _QUERIES), replace=False))
    towards = np.array([direction(vectors[i], centre) for i in sample], np.float32)
    k = min(11, n)  # the row itself, and ten
    best = np.full((len(sample), k), -np.inf, np.float32)
    rows = np.zeros((len(sample), k), np.int64)
    for start in range(0, n, _CHUNK):
        block = vectors[start : start + _CHUNK]
        fast = (towards @ block.T - (towards @ centre)[:, None]) * inverse_lengths(block, centre)
        scores = np.hstack([best, fast])
        numbers = np.hstack(
            [rows, np.broadcast_to(np.arange(start, start + len(block)), fast.shape)]
        )
        top = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        best, rows = np.take_along_axis(scores, top, 1), np.take_along_axis(numbers, top, 1)
    lists = np.searchsorted(offsets, rows, side="right") - 1
    order = np.argsort(-(towards @ centroids.T), axis=1, kind="stable")
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.arange(order.shape[1])[None, :], 1)
    sizes = np.diff(offsets)[order]
    before = np.cumsum(sizes, axis=1) - sizes  # rows scored before each visited list
    needed = np.take_along_axis(before, np.take_along_axis(place, lists, 1), 1)
    needed = needed[rows != sample[:, None]]
    budget = int(np.quantile(needed, recall, method="higher")) + 1 if len(needed) else 1
    return budget, float((needed < budget).mean()) if len(needed) else 1.0
