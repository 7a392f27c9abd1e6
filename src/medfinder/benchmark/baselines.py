"""Entrants that must be beaten, measured as any other: chance, shortcuts, and the report's own text.

`chance` knows nothing. `shortcut` sees a volume's histogram and a coarse grid of its means. The
*oracles* see no volume: a volume's report stands in for it, so they tell how far words alone go, and
what a model of volumes could reach if it read as much from a CT as a reader wrote down.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medfinder.benchmark.entrant import Entrant, Side, Vectors, make_entrant
from medfinder.benchmark.reference import Reference, lobe_of
from medfinder.embed import Embedder
from medfinder.errors import InputError
from medfinder.records import Study
from medfinder.report.tokens import fold
from medfinder.report.vocabulary import vocabulary

EDGES_HU = np.concatenate(
    [np.linspace(-1024, -400, 33), np.linspace(-380, 400, 53), np.geomspace(420, 3071, 16)]
)
"""Of the histogram: finest around water."""
GRID = 4
MIN_POSITIVE = 5
"""Studies that must have a finding, and that must not, for it to be a keyword."""
MOST_KEYWORDS = 100
MIN_TOLD = 5
"""Training studies that must have an attribute for the shortcut to learn it."""
PENALTIES = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0)
_FLOORS = (0.004, 0.996)


def keywords(reference: Reference) -> tuple[str, ...]:
    """Return the findings worth asking for, those of most studies first: see `MIN_POSITIVE`.

    A study that affirms a kind of a finding affirms the finding.
    """
    known = vocabulary()
    counts: Counter[str] = Counter()
    for own in reference.affirmed:
        names = set(own)
        for name in own:
            if name in known:
                names |= known.ancestors(name)
        counts.update(names)
    n = int(reference.is_judged.sum())
    kept = [
        (-count, name)
        for name, count in counts.items()
        if MIN_POSITIVE <= count <= n - MIN_POSITIVE
        and (name not in known or known.get(name).kind in ("finding", "diagnosis"))
    ]
    return tuple(name for _, name in sorted(kept)[:MOST_KEYWORDS])


def prompt(finding: str) -> str:
    """Return what asks for a finding: ``"Pleural effusion."``."""
    return f"{finding[:1].upper()}{finding[1:]}."


def chance(reference: Reference) -> Entrant:
    """Return an entrant whose vectors are all the same, so that everything ties with everything.

    Measures take the mean over the orders of tied items, so its scores are exact.
    """
    n = len(reference)
    texts = [reference.ids[i] for i in np.flatnonzero(reference.has_text)]
    sides: dict[Side, tuple[Sequence[str], Vectors]] = {
        "volume": (reference.ids, np.ones((n, 1))),
        "text": (texts, np.ones((len(texts), 1))),
    }
    names = keywords(reference) if any(s.findings for s in reference.studies) else ()
    if names:
        sides["keyword"] = (names, np.ones((len(names), 1)))
    return make_entrant("chance", {k: v for k, v in sides.items() if len(v[0])}, "chance")


def bm25(
    reference: Reference, queries: Sequence[str] | None = None, k1: float = 1.2, b: float = 0.75
) -> Entrant:
    """Return the oracle that finds a volume by the words of its report.

    Args:
        queries: N texts that ask, such as another wording of each report, "" for none; None for the
            reports themselves, which then find themselves: look at its same-findings, keyword and
            same-lobe scores.
        k1: How soon a repeated word counts no more.
        b: How much a long report is held against its words.

    Raises:
        InputError: Rule ``no-text``: no study has a text.

    Source:
        Robertson and Zaragoza, "The probabilistic relevance framework: BM25 and beyond", 2009;
        idf = ln(1 + (D - n + 1/2) / (n + 1/2)), which is never negative.
    """
    from scipy.sparse import csr_array

    asked = _texts(reference, queries)
    held = _texts(reference, None)
    names = keywords(reference) if any(s.findings for s in reference.studies) else ()
    place: dict[str, int] = {}
    documents = [[place.setdefault(w, len(place)) for w in _words(t)] for t in held.values()]
    n_words = max(1, len(place))

    def counted(texts: Iterable[list[int]], n: int) -> Vectors:
        counts = [Counter(words) for words in texts]
        pairs = [(i, w, c) for i, own in enumerate(counts) for w, c in sorted(own.items())]
        rows, columns, values = (
            np.array(part) for part in zip(*(pairs or [(0, 0, 0)]), strict=True)
        )
        return csr_array((values.astype(np.float64), (rows, columns)), shape=(n, n_words))

    table = counted(documents, len(documents))
    lengths = np.asarray(table.sum(axis=1)).ravel()
    n_with = np.asarray((table > 0).sum(axis=0)).ravel()
    idf = np.log(1 + (len(documents) - n_with + 0.5) / (n_with + 0.5))
    weights = table.tocoo()
    row, column = weights.coords
    damped = weights.data + k1 * (1 - b + b * lengths[row] / lengths.mean())
    scored = csr_array(
        (idf[column] * weights.data * (k1 + 1) / damped, (row, column)), shape=table.shape
    )

    def of(texts: Iterable[str], n: int) -> Vectors:
        return counted(([place[w] for w in _words(t) if w in place] for t in texts), n)

    sides: dict[Side, tuple[Sequence[str], Vectors]] = {
        "volume": (list(held), scored),
        "text": (list(asked), of(asked.values(), len(asked))),
    }
    if names:
        sides["keyword"] = (names, of(map(prompt, names), len(names)))
    return _oracle("bm25", f"bm25 k1={k1:g} b={b:g}", reference, sides, is_cosine=False)


def sentences(
    reference: Reference, embedder: Embedder, queries: Sequence[str] | None = None
) -> Entrant:
    """Return the oracle that finds a volume by the meaning of its report, such as minilm's.

    Args:
        embedder: Of texts.
        queries: As for `bm25`.

    Raises:
        InputError: Rule ``no-text``; those of `Embedder.embed_texts`.
    """
    asked, held = _texts(reference, queries), _texts(reference, None)
    names = keywords(reference) if any(s.findings for s in reference.studies) else ()

    def embedded(texts: Sequence[str]) -> NDArray[np.float32]:
        return embedder.embed_texts(list(texts)).vectors

    sides: dict[Side, tuple[Sequence[str], Vectors]] = {
        "volume": (list(held), embedded(list(held.values()))),
        "text": (list(asked), embedded(list(asked.values()))),
    }
    if names:
        sides["keyword"] = (names, embedded([prompt(name) for name in names]))
    name = f"{embedder.info.name} on reports"
    return _oracle(name, f"{embedder.model_id} on reports", reference, sides)


def _oracle(
    name: str,
    model_id: str,
    reference: Reference,
    sides: dict[Side, tuple[Sequence[str], Vectors]],
    *,
    is_cosine: bool = True,
) -> Entrant:
    made = make_entrant(name, sides, model_id, is_cosine=is_cosine)
    silent = tuple(reference.ids[i] for i in np.flatnonzero(~reference.has_text))
    return Entrant(made.name, made.model_id, made.sides, is_cosine, {"no-text": silent})


def _texts(reference: Reference, given: Sequence[str] | None) -> dict[str, str]:
    texts = [study.text for study in reference.studies] if given is None else list(given)
    if len(texts) != len(reference):
        raise InputError(
            f"{len(texts)} texts for {len(reference)} studies; give one a study, '' for none.",
            rule="shape",
        )
    kept = {name: text for name, text in zip(reference.ids, texts, strict=True) if text.strip()}
    if not kept:
        raise InputError(
            "No study has a text, so there is nothing to read. Give a column 'report'.",
            rule="no-text",
        )
    return kept


def _words(text: str) -> list[str]:
    return "".join(c if c.isalnum() else " " for c in fold(text)).split()


# --- what a volume gives away at a glance


def seen(hu: NDArray[np.integer | np.floating]) -> NDArray[np.float32]:
    """Return what the shortcut sees of a volume: (101 + 64,).

    Square roots of the histogram's shares over `EDGES_HU`, and the means of a 4x4x4 grid / 300 HU.

    Args:
        hu: (D, H, W), at least 4 voxels along each.

    Raises:
        InputError: Rule ``too-small``.
    """
    if hu.ndim != 3 or min(hu.shape) < GRID:
        raise InputError(
            f"A volume of shape {hu.shape} has no grid of {GRID} cells along each axis.",
            rule="too-small",
        )
    histogram = np.histogram(hu, EDGES_HU)[0].astype(np.float32)
    cells = hu.astype(np.float64)
    for axis in range(3):
        n = cells.shape[axis]
        starts = (np.arange(GRID) * n) // GRID
        counts = np.diff([*starts, n]).reshape([-1 if i == axis else 1 for i in range(3)])
        cells = np.add.reduceat(cells, starts, axis) / counts
    return np.concatenate([np.sqrt(histogram / hu.size), (cells.ravel() / 300)]).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Shortcut:
    """A ridge regression from `seen` to what reports tell.

    Attributes:
        names: Findings, and findings with a side or a lobe, A.
        mean: (F,) of the training features.
        scale: (F,) their standard deviations.
        weights: (F, A).
        rates: (A,) how often each is told in training.
        penalty: Chosen on the last fifth of the training studies.
    """

    names: tuple[str, ...]
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    weights: NDArray[np.float64]
    rates: NDArray[np.float64]
    penalty: float

    def predict(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the chance of each attribute, (n, A), never nearer than 0.004 to 0 or 1."""
        guess = (features - self.mean) / self.scale @ self.weights + self.rates
        return np.asarray(np.clip(guess, *_FLOORS))


def train_shortcut(features: NDArray[np.floating], studies: Sequence[Study]) -> Shortcut:
    """Learn to guess what a report tells from what lies open in a volume.

    Args:
        features: (n, F), `seen` of each study.
        studies: n, none of them in the benchmark.

    Raises:
        InputError: Rule ``nothing-to-learn``: no attribute is told by `MIN_TOLD` studies.
    """
    told = [_told(study) for study in studies]
    counts = Counter(name for own in told for name in own)
    names = sorted(name for name, n in counts.items() if n >= MIN_TOLD)
    if not names:
        raise InputError(
            f"No finding is told by {MIN_TOLD} of the {len(studies)} training studies, so the "
            "shortcut has nothing to learn. Give more of them.",
            rule="nothing-to-learn",
        )
    truth = np.array([[name in own for name in names] for own in told], np.float64)
    mean = features.mean(axis=0, dtype=np.float64)
    scale = np.maximum(features.std(axis=0, dtype=np.float64), 1e-4)
    x = (features - mean) / scale
    cut = max(1, len(x) * 4 // 5)
    rates = truth.mean(axis=0)

    def solve(n: int, penalty: float) -> NDArray[np.float64]:
        gram = x[:n].T @ x[:n] + penalty * np.eye(x.shape[1])
        return np.asarray(np.linalg.solve(gram, x[:n].T @ (truth[:n] - rates)))

    def error(penalty: float) -> float:
        return float(((x[cut:] @ solve(cut, penalty) + rates - truth[cut:]) ** 2).mean())

    best = min(PENALTIES, key=error) if cut < len(x) else PENALTIES[-1]
    return Shortcut(tuple(names), mean, scale, solve(len(x), best), rates, best)


def shortcut(reference: Reference, features: NDArray[np.floating], learnt: Shortcut) -> Entrant:
    """Return the entrant that ranks by what it guesses from a volume's histogram and grid.

    A report's score of a volume is the log likelihood of what the report tells, less that of an
    average report: told · logit(p), centred over the volumes so that none of them fits everything.

    Args:
        features: (N, F), `seen` of each study of the reference, in its order.
        learnt: From other patients.
    """
    p = learnt.predict(features)
    logits = np.log(p / (1 - p))
    logits -= logits.mean(axis=0)
    told = np.array(
        [[name in own for name in learnt.names] for own in map(_told, reference.studies)],
        np.float64,
    )
    # A last column that volumes lack, so that a report which tells nothing is no zero vector.
    volume = np.hstack([logits, np.full((len(logits), 1), 1e-9)])
    text = np.hstack([told, np.ones((len(told), 1))])
    rows = np.flatnonzero(reference.has_text)
    names = [name for name in keywords(reference) if name in learnt.names]
    sides: dict[Side, tuple[Sequence[str], Vectors]] = {
        "volume": (reference.ids, volume),
        "text": ([reference.ids[i] for i in rows], text[rows]),
    }
    if names:
        asked = np.array([[name == n for n in learnt.names] + [True] for name in names], np.float64)
        sides["keyword"] = (names, asked)
    return make_entrant("shortcut", sides, "histogram and grid, ridge", is_cosine=False)


def _told(study: Study) -> frozenset[str]:
    """Return what a report affirms: findings, findings on a side, findings in a lobe."""
    names: set[str] = set()
    for finding in study.findings:
        if finding.status != "present":
            continue
        names.add(finding.name)
        if finding.laterality is not None:
            names.add(f"{finding.name}|{finding.laterality}")
        if (lobe := lobe_of(finding)) is not None:
            names.add(f"{finding.name}|{lobe}")
    return frozenset(names)


Make = Callable[[Reference], Entrant]
BASELINES: dict[str, Make] = {
    "chance": chance,
    "bm25": bm25,
    "minilm": lambda reference: sentences(reference, Embedder("minilm")),
}
"""Those that need no more than the studies."""
