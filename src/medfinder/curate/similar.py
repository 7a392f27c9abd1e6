"""Nearly the same: volumes that differ by noise or an offset, texts that differ by a few words.

Both in two steps: a cheap sketch that near copies share brings pairs together, and the pair itself
is then compared. Knows neither studies nor the ledger.
"""

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from medfinder.report.tokens import fold
from medfinder.volume.volume import Volume

THUMBNAIL = (8, 8, 8)
"""Blocks along (D, H, W) whose mean HU make a volume's sketch."""
_CLIP_HU = (-1000.0, 600.0)
MAX_BLOCK_HU = 8.0
"""By how much a block may differ beyond the offset between the volumes."""
MAX_OFFSET_HU = 40.0
_BODY_HU = -700.0
_MARGIN_HU = 1.5 * MAX_OFFSET_HU
_LOCAL_HU, _LOCAL_SIGMAS = 15.0, 7.0
_SLAB = 32

MIN_JACCARD = 0.9
"""Share of word triples that two texts need to have in common to be nearly the same."""
_WORDS = re.compile(r"[^\W_]+")


def thumbnail(volume: Volume) -> npt.NDArray[np.int16]:
    """Return the mean HU of 8 x 8 x 8 equal blocks of a volume.

    HU are clipped to -1000…600 first, so that metal and what lies outside the reconstruction count
    little. Of a block at most 8 x 16 x 16 voxels are read, evenly spread: noise of 50 HU moves a
    mean by about 1. Axes shorter than eight voxels repeat blocks.
    """
    steps = [max(1, n // most) for n, most in zip(volume.shape, (64, 128, 128), strict=True)]
    read = volume.stored[tuple(slice(None, None, step) for step in steps)]
    means = read.astype(np.float32) * np.float32(volume.slope) + np.float32(volume.intercept)
    np.clip(means, *_CLIP_HU, out=means)
    for axis, n in enumerate(THUMBNAIL):
        edges = np.linspace(0, means.shape[axis], n + 1)
        parts = []
        for first, last in zip(np.floor(edges[:-1]), np.ceil(edges[1:]), strict=True):
            block = range(int(first), max(int(last), int(first) + 1))
            parts.append(np.take(means, block, axis=axis).mean(axis=axis, keepdims=True))
        means = np.concatenate(parts, axis=axis)
    return np.round(means).astype(np.int16)


def near_copies(
    sketches: npt.NDArray[np.int16], is_same: Callable[[int, int, float], bool] | None = None
) -> Iterator[tuple[int, int, float]]:
    """Yield (first, other, offset in HU) for each sketch that nearly repeats an earlier one.

    Args:
        sketches: (N, 8, 8, 8), of volumes of one shape, in the order in which one is kept.
        is_same: Asked of each such pair; what it denies is no copy. None believes the sketches.

    Air and metal are clipped, so where an offset meets them a block moves by a part of it. Every
    block of a near copy, and so every mean of blocks, moves one way by no more than the limits: pairs
    are dropped on eight coarse means, then on 64 blocks, then on all, and none is missed. Time grows
    with the square of N (3,000 volumes take seconds), memory with N.
    """
    n = len(sketches)
    flat = sketches.reshape(n, -1).astype(np.float32)
    coarse = flat.reshape(n, 2, 4, 2, 4, 2, 4).mean(axis=(2, 4, 6)).reshape(n, -1)
    some = np.ascontiguousarray(flat[:, 3::8])
    for other in range(1, n):
        near = np.arange(other)
        for level in (coarse, some, flat):
            rows = level[:other] if len(near) == other else level[near]
            near = near[_moves_one_way(level[other] - rows)]
        for first in near:
            difference = flat[other] - flat[first]
            body = difference[flat[first] > _BODY_HU]
            offset = float(np.median(body if len(body) else difference))
            least, most = sorted((0.0, offset))
            if (
                abs(offset) <= MAX_OFFSET_HU
                and least - MAX_BLOCK_HU <= difference.min()
                and difference.max() <= most + MAX_BLOCK_HU
                and (is_same is None or is_same(int(first), other, offset))
            ):
                yield int(first), other, offset
                break


def _moves_one_way(differences: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Tell of each row whether all of it can come of one offset within the limits."""
    least, most = differences.min(axis=1), differences.max(axis=1)
    spread = MAX_OFFSET_HU + MAX_BLOCK_HU
    up = (least >= -MAX_BLOCK_HU) & (most <= spread)
    down = (most <= MAX_BLOCK_HU) & (least >= -spread)
    return np.asarray(up | down)


def is_same_scan(first: Volume, other: Volume, offset_hu: float) -> bool:
    """Tell whether two volumes of one shape differ by an offset and noise alone.

    A sketch cannot see a nodule of a few voxels; here the mean of every 3 x 3 x 3 voxels of the
    difference has to stay within 15 HU, or within what its noise explains. Voxels that are air or
    metal in both are not compared: an offset does not move them.

    Args:
        offset_hu: Of `other` against `first`, as `near_copies` found it.
    """
    from scipy import ndimage

    n = first.shape[0]
    some, inside = _difference(first, other, offset_hu, slice(0, n, 1 + n // 16))
    noise = 1.4826 * float(np.median(np.abs(some[inside]))) if inside.any() else 0.0
    limit = max(_LOCAL_HU, _LOCAL_SIGMAS * noise / 27**0.5)
    for top in range(0, n, _SLAB):
        slices = slice(max(0, top - 1), min(n, top + _SLAB + 1))
        difference, _ = _difference(first, other, offset_hu, slices)
        means = ndimage.uniform_filter(difference, 3, mode="nearest")
        if float(np.abs(means).max()) > limit:
            return False
    return True


def _difference(
    first: Volume, other: Volume, offset_hu: float, slices: slice
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Return `other` - `first` - offset in HU, 0 where both are air or metal, and where they are not."""
    a, b = (
        np.clip(
            volume.stored[slices].astype(np.float32) * np.float32(volume.slope)
            + np.float32(volume.intercept),
            *_CLIP_HU,
        )
        for volume in (first, other)
    )
    low, high = _CLIP_HU[0] + _MARGIN_HU, _CLIP_HU[1] - _MARGIN_HU
    inside = ((a > low) & (a < high)) | ((b > low) & (b < high))
    return np.where(inside, b - a - np.float32(offset_hu), np.float32(0)), inside


def text_key(text: str) -> str:
    """Return 16 hex digits that texts share when only case, accents and punctuation differ.

    A text without words has the key ``""``.
    """
    words = _words(text)
    if not words:
        return ""
    return hashlib.sha256(" ".join(words).encode()).hexdigest()[:16]


def triples(text: str) -> frozenset[int]:
    """Return the word triples of a text, hashed; a text of fewer words is one triple."""
    words = _words(text)
    if len(words) < 3:
        return frozenset([_hashed(" ".join(words))])
    return frozenset(
        _hashed(f"{a} {b} {c}") for a, b, c in zip(words, words[1:], words[2:], strict=False)
    )


class Rarity:
    """How often each word triple occurs in many texts, about: what near copies are found by.

    Two texts of which `MIN_JACCARD` is in common share one of the rarest few triples of either, so
    only texts that share one need to be compared, and none is missed. A template's own words are
    common, so texts that only follow one template do not meet.

    Source:
        Prefix filtering: Bayardo, Ma, Srikant, WWW 2007; Xiao et al., WWW 2008 (PPJoin).
    """

    def __init__(self) -> None:
        # By hash: triples that fall on one counter only look more common than they are.
        self._counts = np.zeros(1 << 22, np.int32)

    def add(self, shingles: frozenset[int]) -> None:
        """Count a text's `triples`."""
        np.add.at(self._counts, self._places(np.fromiter(shingles, np.uint64, len(shingles))), 1)

    def rarest(self, shingles: frozenset[int]) -> list[int]:
        """Return the rarest triples of a text, as many as a near copy may lack, and one."""
        values = np.sort(np.fromiter(shingles, np.uint64, len(shingles)))
        order = np.argsort(self._counts[self._places(values)], kind="stable")
        n = len(values) - math.ceil(MIN_JACCARD * len(values) - 1e-9) + 1
        return [int(v) for v in values[order[:n]].view(np.int64)]

    def _places(self, values: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        return (values & np.uint64(len(self._counts) - 1)).astype(np.int64)


def jaccard(a: frozenset[int], b: frozenset[int]) -> float:
    """Return the share of triples that two texts have in common: |a ∩ b| / |a ∪ b|."""
    return len(a & b) / len(a | b)


class Groups:
    """Disjoint sets over 0…n-1 that merge: who must stay together.

    Args:
        n: How many members there are, each alone at first.
    """

    def __init__(self, n: int) -> None:
        self._above = np.arange(n, dtype=np.int32)

    def root(self, member: int) -> int:
        """Return the member that stands for this one's set: its smallest."""
        above = self._above
        while above[member] != member:
            above[member] = above[above[member]]
            member = int(above[member])
        return member

    def join(self, members: Sequence[int]) -> None:
        """Make one set of these members' sets."""
        roots = sorted({self.root(m) for m in members})
        for other in roots[1:]:
            self._above[other] = roots[0]


def _words(text: str) -> list[str]:
    return _WORDS.findall(fold(text).lower())


def _hashed(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
