"""Who is measured: vectors of volumes, texts and keywords, checked and put beside the studies.

Vectors may come from a file, a function or an encoder; `Entrant` is what all of them become. An id
without a study, a study without a vector, a NaN: each is an error that counts what it is about.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from medfinder.benchmark.reference import Reference, Rows, repeated
from medfinder.errors import InputError, Mismatch
from medfinder.ranking.grid import on_grid

Side = Literal["volume", "text", "keyword"]
Vectors: TypeAlias = Any
"""(N, dim) real numbers, as an array or a scipy sparse array."""


@dataclass(frozen=True, eq=False)
class Placed:
    """The vectors of one side.

    Attributes:
        ids: study_ids, or names of findings for keywords.
        vectors: (n, dim), one row an id.
    """

    ids: tuple[str, ...]
    vectors: Vectors


@dataclass(frozen=True, eq=False)
class Entrant:
    """Vectors to measure.

    Attributes:
        name: For tables.
        model_id: What made the vectors, such as `EncoderInfo.model_id`.
        sides: Side → its vectors. A report finds a volume where both lie in one space.
        is_cosine: Whether rows are compared by cosine; else by their inner product.
        left_out: Reason → studies for which there are no vectors, by whoever made them.
    """

    name: str
    model_id: str
    sides: Mapping[Side, Placed]
    is_cosine: bool = True
    left_out: Mapping[str, tuple[str, ...]] | None = None

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(next(iter(self.sides.values())).vectors.shape[1])


def make_entrant(
    name: str,
    sides: Mapping[Side, tuple[Sequence[str], Vectors]],
    model_id: str = "",
    *,
    is_cosine: bool = True,
) -> Entrant:
    """Check vectors and give them a name.

    Raises:
        InputError: Rules ``no-vectors``, ``shape``, ``not-finite``, ``zero-vector``,
            ``dim-mismatch``, ``id-count``, ``empty-id``, ``duplicate-id``. The message counts the
            rows at fault and names the first.
    """
    if not sides:
        raise InputError(
            f"{name} has no vectors. Give those of volumes, of texts, or both.", rule="no-vectors"
        )
    made: dict[Side, Placed] = {}
    for side, (ids, vectors) in sides.items():
        made[side] = _checked(side, tuple(map(str, ids)), vectors)
    dims = {side: placed.vectors.shape[1] for side, placed in made.items()}
    if len(set(dims.values())) > 1:
        told = ", ".join(f"{side} {dim}" for side, dim in dims.items())
        raise InputError(
            f"The sides differ in dimension: {told}. Embed them with one model, into one space.",
            rule="dim-mismatch",
        )
    return Entrant(name, model_id or name, made, is_cosine)


def centred(entrant: Entrant) -> Entrant:
    """Take from the vectors of each side their mean, after scaling them to length 1.

    What all vectors share tells nothing apart, yet fills the cosines of encoders that were not trained
    to compare (`medfinder.embed.Embeddings.centred`). No label is used; the pool is.

    Raises:
        InputError: Rules ``not-cosine``: inner products are no cosines, and would change by more than
            this; ``zero-vector``: a side has one vector, or equal ones alone.
    """
    if not entrant.is_cosine or any(
        not isinstance(placed.vectors, np.ndarray) for placed in entrant.sides.values()
    ):
        raise InputError(
            f"The vectors of {entrant.name} are not compared by cosine, so their mean cannot be taken "
            "away. Centre embeddings alone.",
            rule="not-cosine",
        )
    sides: dict[Side, tuple[Sequence[str], Vectors]] = {}
    for side, placed in entrant.sides.items():
        vectors = placed.vectors / np.linalg.norm(placed.vectors, axis=1, keepdims=True)
        sides[side] = placed.ids, vectors - vectors.mean(axis=0)
    made = make_entrant(entrant.name, sides, f"{entrant.model_id} centred")
    return Entrant(made.name, made.model_id, made.sides, True, entrant.left_out)


def read_npz(path: str | Path) -> Entrant:
    """Read vectors from an ``.npz`` file.

    It holds ``study_id`` (N,) with ``volume`` (N, dim), ``text`` (N, dim) or both; or ``query``
    (Q, dim) of texts with ``query_id`` (Q,) and ``gallery`` (G, dim) of volumes with ``gallery_id``
    (G,), study_ids both. ``keyword`` (F, dim) with ``keyword_name`` (F,), names of findings, may
    stand beside; so may ``model_id``. The order of rows is free: ids say which is which.

    Raises:
        InputError: Rules ``unreadable-vectors``, ``unknown-array``, ``no-ids``, and those of
            `make_entrant`.
    """
    path = Path(path)
    try:
        # numpy leaves a file that it opened itself open where it cannot read it.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise InputError(
            f"There is no file of vectors at {str(path)!r}.", rule="unreadable-vectors"
        ) from None
    except (OSError, ValueError, EOFError, AttributeError, TypeError) as error:
        raise InputError(
            f"{path.name} cannot be read as plain arrays ({type(error).__name__}). Write it with "
            "numpy.savez, ids as text and not as objects.",
            rule="unreadable-vectors",
        ) from None
    except Exception as error:  # zipfile and zlib raise their own
        raise InputError(
            f"{path.name} is damaged ({type(error).__name__}). Write it again.",
            rule="unreadable-vectors",
        ) from None
    return from_arrays(path.stem, arrays)


_PAIRS: tuple[tuple[str, str, Side], ...] = (
    ("volume", "study_id", "volume"),
    ("text", "study_id", "text"),
    ("gallery", "gallery_id", "volume"),
    ("query", "query_id", "text"),
    ("keyword", "keyword_name", "keyword"),
)


def from_arrays(name: str, arrays: Mapping[str, Any]) -> Entrant:
    """Return the entrant that arrays named as in `read_npz` make.

    Raises:
        InputError: As `read_npz`.
    """
    known = {array for pair in _PAIRS for array in pair[:2]} | {"model_id"}
    unknown = sorted(set(arrays) - known)
    if unknown:
        raise InputError(
            f"Unknown array {unknown[0]!r} of {name}. Known: {', '.join(sorted(known))}.",
            rule="unknown-array",
        )
    sides: dict[Side, tuple[Sequence[str], Vectors]] = {}
    for array, ids, side in _PAIRS:
        if array not in arrays:
            continue
        if side in sides:
            raise InputError(
                f"{name} gives the {side} vectors twice. Give 'volume' and 'text', or 'query' and "
                "'gallery'.",
                rule="unknown-array",
            )
        if ids not in arrays:
            raise InputError(
                f"The array {array!r} of {name} has no ids: {ids!r} is missing, so no row can be "
                "told from another. Give one id a row.",
                rule="no-ids",
            )
        sides[side] = (np.asarray(arrays[ids]).ravel().tolist(), np.asarray(arrays[array]))
    model_id = str(np.asarray(arrays["model_id"]).item()) if "model_id" in arrays else ""
    return make_entrant(name, sides, model_id)


def _checked(side: Side, ids: tuple[str, ...], vectors: Vectors) -> Placed:
    where = f"The {side} vectors"
    if (
        getattr(vectors, "ndim", 0) != 2
        or vectors.dtype.kind not in "fiu"
        or 0 in vectors.shape
        or (vectors.dtype.kind == "f" and vectors.dtype.itemsize > 8)
    ):
        got = getattr(vectors, "dtype", type(vectors).__name__)
        raise InputError(
            f"{where} must be a 2-D array of real numbers with at least one row, got {got} of "
            f"shape {getattr(vectors, 'shape', ())}.",
            rule="shape",
        )
    if len(ids) != vectors.shape[0]:
        raise InputError(
            f"{where} are {vectors.shape[0]} rows, their ids {len(ids)}. Give one id a row.",
            rule="id-count",
        )
    empty = [i for i, name in enumerate(ids) if not name.strip()]
    if empty:
        raise InputError(
            f"{len(empty)} ids of the {side} vectors are empty, first in row {empty[0]}. Fill them in.",
            rule="empty-id",
        )
    twice = repeated(ids)
    if twice:
        raise InputError(
            f"{len(twice)} ids of the {side} vectors occur more than once, first {twice[0]!r}. "
            "Give each id one row.",
            rule="duplicate-id",
        )
    data: Any = vectors.data if hasattr(vectors, "toarray") else vectors
    if not np.isfinite(data).all():
        bad = np.flatnonzero(~np.isfinite(np.asarray(vectors)).all(axis=1))
        raise InputError(
            f"{len(bad)} of {len(ids)} {side} vectors hold NaN or infinity, first {ids[bad[0]]!r}. "
            "Embed them again, or leave these studies out of both files and say so.",
            rule="not-finite",
        )
    zero = np.flatnonzero(np.asarray(abs(vectors).sum(axis=1)).ravel() == 0)
    if len(zero) and not hasattr(vectors, "toarray"):
        raise InputError(
            f"{len(zero)} of {len(ids)} {side} vectors are all zeros, first {ids[zero[0]]!r}; a "
            "zero vector points nowhere. Embed them again, or leave these studies out of both "
            "files and say so.",
            rule="zero-vector",
        )
    return Placed(ids, vectors)


@dataclass(frozen=True, eq=False)
class Seated:
    """An entrant whose rows are those of a reference.

    Attributes:
        entrant: As it was given.
        reference: The studies.
        at: Side → (N,) row of each study's vector in it, -1 without one; for keywords 0, 1, ….
    """

    entrant: Entrant
    reference: Reference
    at: Mapping[Side, Rows]

    def rows(self, side: Side) -> Rows:
        """Return the reference's rows that have a vector, ascending; for keywords, all of them."""
        return np.flatnonzero(self.at[side] >= 0) if side in self.at else np.empty(0, np.int64)

    @property
    def keywords(self) -> tuple[str, ...]:
        """Findings that can be asked for."""
        return self.entrant.sides["keyword"].ids if "keyword" in self.at else ()

    @cached_property
    def _scaled(self) -> Mapping[Side, Vectors]:
        """Side → rows of length 1 for the cosine, else one scale for all; sparse ones as they are."""
        made: dict[Side, Vectors] = {}
        for side, placed in self.entrant.sides.items():
            if hasattr(placed.vectors, "toarray"):
                made[side] = placed.vectors.tocsr()
                continue
            wide = np.array(placed.vectors, np.float64)
            wide /= np.abs(wide).max(axis=1 if self.entrant.is_cosine else None, keepdims=True)
            lengths = np.linalg.norm(wide, axis=1, keepdims=True)
            made[side] = wide / (lengths if self.entrant.is_cosine else lengths.max())
        return made

    @property
    def is_dense(self) -> bool:
        """Whether all vectors are plain arrays."""
        return not any(hasattr(p.vectors, "toarray") for p in self.entrant.sides.values())

    def vectors(self, side: Side, rows: Rows) -> NDArray[np.float64]:
        """Return the plain vectors of some rows, (n, dim), scaled to be compared."""
        chosen: NDArray[np.float64] = self._scaled[side][self.at[side][rows]]
        return chosen

    def scores(
        self, asking: Side, queries: Rows, answering: Side, gallery: Rows
    ) -> Callable[[int, int], NDArray[np.float64]]:
        """Return a function from (first, last) to the scores of those queries, (last - first, G).

        Whole numbers where vectors are plain arrays: equal vectors tie wherever they lie, and
        neither blocks nor threads change a score.
        """
        ask, answer = self._scaled[asking], self._scaled[answering]
        at, columns = self.at[asking][queries], answer[self.at[answering][gallery]]
        if not self.is_dense:
            columns = columns.T.tocsc()

            def sparse(first: int, last: int) -> NDArray[np.float64]:
                product: NDArray[np.float64] = (ask[at[first:last]] @ columns).toarray()
                return product.round(9)

            return sparse
        grid = on_grid(columns, axis=None).T

        def dense(first: int, last: int) -> NDArray[np.float64]:
            product: NDArray[np.float64] = on_grid(ask[at[first:last]], axis=1) @ grid
            return product

        return dense


def seat(entrant: Entrant, reference: Reference) -> Seated:
    """Put an entrant's vectors beside the studies.

    Raises:
        InputError: Rules ``unknown-study``: ids of no study of the table; ``empty-text``: text
            vectors of studies without a text, where others have one; ``missing-study``: studies
            that neither have a vector nor were told to lack one.
        Mismatch: No id is that of a study: it was made from other studies.
    """
    excused = {name for names in (entrant.left_out or {}).values() for name in names}
    at: dict[Side, Rows] = {}
    for side, placed in entrant.sides.items():
        if side == "keyword":
            at[side] = np.arange(len(placed.ids))
            continue
        strange = [name for name in placed.ids if name not in reference.row]
        if len(strange) == len(placed.ids):
            raise Mismatch(
                f"None of the {len(strange)} ids of the {side} vectors is a study of the table, "
                f"such as {strange[0]!r}; the table has such as {reference.ids[0]!r}. Give the "
                "table of the studies that were embedded."
            )
        if strange:
            raise InputError(
                f"{len(strange)} of {len(placed.ids)} ids of the {side} vectors are of no study of "
                f"the table, first {strange[0]!r}. Without it nothing says what they answer: add "
                "these studies, choose the split they are of, or leave their vectors out.",
                rule="unknown-study",
            )
        if side == "text" and reference.has_text.any():
            silent = [i for i in placed.ids if not reference.has_text[reference.row[i]]]
            if silent:
                raise InputError(
                    f"{len(silent)} of {len(placed.ids)} text vectors are of studies without a "
                    f"text, first {silent[0]!r}; an empty text has no meaning to embed. Leave these "
                    "vectors out, or give the texts.",
                    rule="empty-text",
                )
        rows = np.full(len(reference), -1, np.int64)
        rows[[reference.row[name] for name in placed.ids]] = np.arange(len(placed.ids))
        expected = reference.has_text if side == "text" else np.ones(len(reference), np.bool_)
        missing = [
            reference.ids[i]
            for i in np.flatnonzero((rows < 0) & expected)
            if reference.ids[i] not in excused
        ]
        if missing:
            raise InputError(
                f"{len(missing)} of {len(reference)} studies have no {side} vector, first "
                f"{missing[0]!r}. Embed them, or take them out of the table and say so: a smaller "
                "pool is an easier one.",
                rule="missing-study",
            )
        at[side] = rows
    return Seated(entrant, reference, at)
