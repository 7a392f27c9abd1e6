"""Vectors → the shape of their space: how many dimensions they use, what lies apart, what is a hub.

None of this needs to know what answers what. A space of few effective dimensions tells few studies
apart; where texts and volumes lie apart, a cosine compares directions within two cones; a hub is
found by everyone's query, an anti-hub by nobody's, whatever is asked.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfinder.errors import InputError

K = 10
MOST = 8192
"""Rows that hubness is measured on; of more, as many are drawn."""
_BLOCK = 1 << 22  # scores held at once
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Spectrum:
    """How many dimensions some vectors use.

    Attributes:
        side: ``volume``, ``text``, or ``both`` together.
        n: Vectors.
        dim: Their length: the most that the other two can be (or n - 1).
        participation_ratio: `participation_ratio`.
        entropy_rank: `entropy_rank`.
    """

    side: str = ""
    n: int = 0
    dim: int = 0
    participation_ratio: float = 0.0
    entropy_rank: float = 0.0


@dataclass(frozen=True, slots=True)
class Gap:
    """How far apart texts and volumes lie.

    Attributes:
        distance: Of the two means; vectors of length 1 allow 0 to 2.
        between: Mean cosine of a text and a volume of different studies.
        within_volume: Mean cosine of two volumes.
        within_text: Mean cosine of two texts.
    """

    distance: float = 0.0
    between: float = 0.0
    within_volume: float = 0.0
    within_text: float = 0.0


@dataclass(frozen=True, slots=True)
class Hubness:
    """How evenly what is found is spread.

    Attributes:
        way: What finds what, such as ``report_to_volume``.
        n: Items that can be found.
        k: The first k of each query count.
        skewness: Of how often an item is among them; 0 where all are found alike.
        chance_skewness: Where each query's first k are drawn evenly.
        never: Share of items that no query finds.
        chance_never: Where each query's first k are drawn evenly.
        most: Share of all queries that find the item found most.
    """

    way: str = ""
    n: int = 0
    k: int = K
    skewness: float = 0.0
    chance_skewness: float = 0.0
    never: float = 0.0
    chance_never: float = 0.0
    most: float = 0.0


@dataclass(frozen=True, slots=True)
class Space:
    """What is said of one model's vectors.

    Attributes:
        spectra: One a side, and of both where there are two.
        gap: None where there is one side.
        hubness: One a way.
    """

    spectra: tuple[Spectrum, ...] = ()
    gap: Gap | None = None
    hubness: tuple[Hubness, ...] = ()


def spectrum(vectors: NDArray[Any]) -> Floats:
    """Return the eigenvalues of the vectors' covariance, falling, none below 0.

    Args:
        vectors: (N, dim), N at least 2.

    Raises:
        InputError: Rule ``no-spectrum``: fewer than 2 vectors, or all of them are equal.
    """
    x = np.asarray(vectors, np.float64)
    if x.ndim != 2 or len(x) < 2:
        raise InputError(
            f"A spectrum needs at least 2 vectors, (N, dim), got shape {x.shape}.",
            rule="no-spectrum",
        )
    x = x - x.mean(axis=0)
    product = x.T @ x if x.shape[1] <= len(x) else x @ x.T  # the smaller one has all that is not 0
    values = np.clip(np.linalg.eigvalsh(product)[::-1] / (len(x) - 1), 0, None)
    values[values <= 1e-12 * values[0]] = 0  # rounding
    if not values[0] > 1e-20:
        raise InputError(
            f"All {len(x)} vectors are equal: they span no dimension. Look at what made them.",
            rule="no-spectrum",
        )
    return np.asarray(values)


def participation_ratio(values: Floats) -> float:
    """Return (sum of l)^2 / sum of l^2 of a spectrum: from 1 to its length.

    d equal eigenvalues give d.

    Source:
        Bell and Dean, "Atomic vibrations in vitreous silica", 1970; of neural spaces as in Gao et
        al., "A theory of multineuronal dimensionality", bioRxiv 214262, 2017.
    """
    return float(values.sum() ** 2 / (values**2).sum())


def entropy_rank(values: Floats) -> float:
    """Return exp(-sum of p log p) of a spectrum, p its shares: from 1 to its length.

    d equal eigenvalues give d; small ones count for more than in the participation ratio.

    Source:
        Roy and Vetterli, "The effective rank", EUSIPCO 2007, here of the covariance's eigenvalues.
    """
    p = values[values > 0] / values.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def modality_gap(volumes: NDArray[Any], texts: NDArray[Any]) -> Gap:
    """Return how far apart two sides lie, of vectors of length 1.

    Args:
        volumes: (N, dim).
        texts: (N, dim), row i of the same study as row i of the volumes.

    Raises:
        InputError: Rule ``shape``: not two rows or more, or not one text a volume.

    Source:
        Liang et al., "Mind the gap", NeurIPS 2022, section 2: the distance of the two means.
    """
    v, t = np.asarray(volumes, np.float64), np.asarray(texts, np.float64)
    if v.ndim != 2 or v.shape != t.shape or len(v) < 2:
        raise InputError(
            f"A gap needs one text vector a volume vector, 2 at least, got shapes {v.shape} and "
            f"{t.shape}.",
            rule="shape",
        )
    n = len(v)
    pairs = n * (n - 1)
    own = (v * t).sum()

    def within(x: Floats) -> float:
        return float(((x.sum(axis=0) ** 2).sum() - (x**2).sum()) / pairs)

    return Gap(
        distance=float(np.linalg.norm(v.mean(axis=0) - t.mean(axis=0))),
        between=float((v.sum(axis=0) @ t.sum(axis=0) - own) / pairs),
        within_volume=within(v),
        within_text=within(t),
    )


def occurrences(
    queries: NDArray[Any], items: NDArray[Any], k: int = K, *, is_same: bool = False
) -> NDArray[np.int64]:
    """Count how many queries have each item among their first k, (G,); they sum to k times Q.

    Args:
        queries: (Q, dim), compared by inner product; of equal scores the earlier item goes first.
        items: (G, dim).
        is_same: Query i is item i, and does not find itself.

    Raises:
        InputError: Rule ``pool-size``: not more than k items that a query may find.
    """
    q, g = np.asarray(queries, np.float32), np.asarray(items, np.float32)
    if len(g) - is_same <= k:
        raise InputError(
            f"Hubness needs more than k = {k} items that a query may find, got "
            f"{len(g) - is_same}: with fewer, each query finds all.",
            rule="pool-size",
        )
    counts = np.zeros(len(g), np.int64)
    step = max(1, _BLOCK // len(g))
    for first in range(0, len(q), step):
        # Rounded, so that the last bits of a product do not order equal items.
        scores = np.round(q[first : first + step] @ g.T, 6)
        if is_same:
            rows = np.arange(len(scores))
            scores[rows, first + rows] = -np.inf
        limit = np.partition(scores, -k, axis=1)[:, -k, None]
        above = scores > limit
        level = scores == limit
        wanted = k - above.sum(axis=1, keepdims=True)
        found = above | (level & (np.cumsum(level, axis=1) <= wanted))
        counts += found.sum(axis=0)
    return counts


def hubness(counts: NDArray[Any], n_queries: int, k: int = K, way: str = "") -> Hubness:
    """Describe how evenly items are found, from `occurrences`.

    Skewness is E(N - mean)^3 / sd^3 of N_k over the items. By chance N_k is binomial of the
    queries with p = k / G, whose skewness is (1 - 2p) / sqrt(Q p (1 - p)), and (1 - p)^Q of the
    items are never found.

    Source:
        Radovanovic, Nanopoulos and Ivanovic, "Hubs in space", JMLR 11, 2010, section 2; anti-hubs
        as in section 6.
    """
    n = np.asarray(counts, np.float64)
    spread = float(n.std())
    skewness = float(((n - n.mean()) ** 3).mean() / spread**3) if spread > 0 else 0.0
    p = k / len(n)
    return Hubness(
        way=way,
        n=len(n),
        k=k,
        skewness=skewness,
        chance_skewness=float((1 - 2 * p) / np.sqrt(n_queries * p * (1 - p))),
        never=float((n == 0).mean()),
        chance_never=float((1 - p) ** n_queries),
        most=float(n.max() / n_queries),
    )


def describe(sides: Mapping[str, NDArray[Any]], k: int = K, seed: int = 0) -> Space | None:
    """Describe a space; what too few or equal vectors leave undefined is left out.

    Args:
        sides: ``volume``, ``text`` or both: (N, dim) each, of length 1; row i of both is of one
            study.
        k: Of hubness.
        seed: Of the rows drawn where there are more than `MOST`.

    Returns:
        None where nothing at all can be said.
    """
    given = {name: np.asarray(sides[name]) for name in ("volume", "text") if name in sides}
    if len(given) == 2:
        given["both"] = np.concatenate(list(given.values()))
    spectra = []
    for name, vectors in given.items():
        try:
            values = spectrum(vectors)
        except InputError:
            continue
        ratio, rank = participation_ratio(values), entropy_rank(values)
        spectra.append(Spectrum(name, len(vectors), vectors.shape[1], ratio, rank))
    both = [given[name] for name in ("volume", "text") if name in given]
    gap = modality_gap(*both) if len(both) == 2 and len(both[0]) > 1 else None
    n = len(both[0]) if both else 0
    chosen = np.arange(n)
    if n > MOST:
        chosen = np.sort(np.random.default_rng(seed).choice(n, MOST, replace=False))
    found = []
    ways = {
        "report_to_volume": ("text", "volume"),
        "volume_to_report": ("volume", "text"),
        "volume_to_volume": ("volume", "volume"),
    }
    for way, (asking, answering) in ways.items():
        is_same = asking == answering
        if asking in given and answering in given and len(chosen) - is_same > k:
            counts = occurrences(
                given[asking][chosen], given[answering][chosen], k, is_same=is_same
            )
            found.append(hubness(counts, len(chosen), k, way))
    return Space(tuple(spectra), gap, tuple(found)) if spectra or gap or found else None
