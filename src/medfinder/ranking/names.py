"""Names such as "nDCG@20" → measures that say what they are → scores, a query at a time.

A name is ``KIND@K`` or ``KIND(option=value,...)@K``; which parts a kind takes stands in `KINDS`::

    R@10 · recall@10 · P@50 · RR · RR@10 · AP · AP@50 · nDCG@20 · MdR · MnR · AUROC
    AP(rel=2)            only items of grade 2 or more are relevant
    nDCG(gain=exponential)@10

R@K is success at K, as papers on CLIP-like models print it: whether any right answer is among the
first K. trec_eval's and ir_measures' R@K is `recall@K` here. With one right answer a query they are
the same.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from medfinder.errors import InputError, UnknownName
from medfinder.ranking import measures
from medfinder.ranking.measures import Values
from medfinder.ranking.ranks import Ranks
from medfinder.ranking.significance import Interval, bootstrap_interval
from medfinder.registry import Registry, unknown

Cut = Literal["must", "may", "no"]


@dataclass(frozen=True, slots=True)
class Kind:
    """What the measures of one kind have in common.

    Attributes:
        title: In words.
        formula: Of a ranking without ties; with ties, its expectation.
        function: Of `medfinder.ranking.measures`.
        cut: Whether "@K" must, may or must not follow.
        trec: trec_eval's name for it without and with a cut-off; "" where it has none.
        is_graded: Grades beyond relevant or not count, and it takes ``gain``.
        statistic: What is made of the queries' values.
        higher_is_better: False for ranks.
    """

    title: str
    formula: str
    function: Callable[..., Values]
    cut: Cut
    trec: tuple[str, str] = ("", "")
    is_graded: bool = False
    statistic: Literal["mean", "median"] = "mean"
    higher_is_better: bool = True


KINDS: Registry[Kind] = Registry("measure")
_ALSO = {"MAP": "AP", "mAP": "AP", "MRR": "RR", "Success": "R", "Recall": "recall", "NDCG": "nDCG"}


def _kind(name: str, *parts: Any, **more: Any) -> None:
    KINDS.register(name)(Kind(*parts, **more))


_kind(
    "R",
    "success at K: share of queries with a relevant item among the first K",
    "[a relevant item is in places 1..K]",
    measures.success_at_k,
    "must",
    ("", "success_{}"),
)
_kind(
    "recall",
    "recall at K: share of a query's relevant items among the first K",
    "relevant in places 1..K / relevant",
    measures.recall_at_k,
    "must",
    ("", "recall_{}"),
)
_kind(
    "P",
    "precision at K: share of the first K that is relevant",
    "relevant in places 1..K / K",
    measures.precision_at_k,
    "must",
    ("", "P_{}"),
)
_kind(
    "RR",
    "reciprocal rank of the first relevant item; its mean is MRR",
    "1 / place of the first relevant item, 0 beyond K",
    measures.reciprocal_rank,
    "may",
    ("recip_rank", ""),
)
_kind(
    "AP",
    "average precision; its mean is mAP",
    "sum over relevant items in places p up to K of P@p / relevant",
    measures.average_precision,
    "may",
    ("map", "map_cut_{}"),
)
_kind(
    "nDCG",
    "normalised discounted cumulated gain",
    "sum over places p up to K of gain(p) / log2(p + 1), over the best possible",
    measures.ndcg,
    "may",
    ("ndcg", "ndcg_cut_{}"),
    is_graded=True,
)
_kind(
    "MdR",
    "median over queries of the first relevant item's place",
    "place of the first relevant item",
    measures.first_rank,
    "no",
    statistic="median",
    higher_is_better=False,
)
_kind(
    "MnR",
    "mean over queries of the first relevant item's place",
    "place of the first relevant item",
    measures.first_rank,
    "no",
    higher_is_better=False,
)
_kind(
    "AUROC",
    "chance that a relevant item stands above another one",
    "pairs of a relevant and another item in the right order / pairs",
    measures.auroc,
    "no",
)


@dataclass(frozen=True, slots=True)
class Measure:
    """A measure with all its settings; `measure` makes one from a name.

    Attributes:
        kind_name: A name of `KINDS`.
        k: Places looked at; None for all.
        rel: Lowest grade that counts as relevant.
        gain: Of graded kinds, see `medfinder.ranking.measures.ndcg`.
    """

    kind_name: str
    k: int | None = None
    rel: int = 1
    gain: Literal["linear", "exponential"] = "linear"

    @property
    def kind(self) -> Kind:
        """Return what it has in common with its kind."""
        return KINDS.get(self.kind_name)

    @property
    def name(self) -> str:
        """Return the name that `measure` reads back as this very measure."""
        options = [f"rel={self.rel}"] * (self.rel != 1)
        options += [f"gain={self.gain}"] * (self.gain != "linear")
        inside = f"({','.join(options)})" if options else ""
        return self.kind_name + inside + (f"@{self.k}" if self.k is not None else "")

    @property
    def trec_name(self) -> str | None:
        """Return what trec_eval calls it (with ``-l rel``); None where trec_eval has no such one."""
        plain, cut = self.kind.trec
        name = plain if self.k is None else cut.format(self.k)
        return name if name and self.gain == "linear" else None

    def __str__(self) -> str:
        return self.name

    def values(self, ranks: Ranks) -> Values:
        """Return the value of each query, (Q,) float64.

        Raises:
            InputError: Those of the kind's function, and rule ``no-positive``: a query has no item
                of grade `rel`.
        """
        function = self.kind.function
        if self.kind.is_graded:
            function = partial(function, gain=self.gain)
        chosen = ranks.at_least(self.rel) if self.rel != 1 else ranks
        return function(chosen) if self.kind.cut == "no" else function(chosen, self.k)

    def score(self, ranks: Ranks) -> "Score":
        """Return the values with what is derived from them.

        Raises:
            InputError: As `values`.
        """
        return Score(self, self.values(ranks))


@dataclass(frozen=True, eq=False, slots=True)
class Score:
    """What a system scores by one measure.

    Attributes:
        measure: Which.
        values: (Q,) float64, one a query, in the order of the ranks.
    """

    measure: Measure
    values: Values

    @property
    def value(self) -> float:
        """Return the mean of the values, or their median for MdR."""
        if len(self.values) == 0:
            raise InputError(
                f"{self.measure} has no query to be taken over; a measure over nothing is "
                "undefined.",
                rule="empty",
            )
        median = self.measure.kind.statistic == "median"
        return float(np.median(self.values) if median else np.mean(self.values))

    def interval(
        self,
        patient_ids: Sequence[str] | None = None,
        *,
        level: float = 0.95,
        n_draws: int = 2000,
        seed: int = 0,
    ) -> Interval:
        """Return the bootstrap interval of `value`.

        Raises:
            InputError: As `medfinder.ranking.significance.bootstrap_interval`.
        """
        return bootstrap_interval(
            self.values,
            patient_ids,
            statistic=self.measure.kind.statistic,
            level=level,
            n_draws=n_draws,
            seed=seed,
        )


def measure(name: str) -> Measure:
    """Return the measure of a name, such as ``"R@10"``.

    "mAP" and "MAP" are read as AP, "MRR" as RR, "Success" as R, "Recall" as recall, "NDCG" as nDCG.

    Raises:
        UnknownName: No such kind; the nearest is named.
        InputError: Rules ``k`` ("@K" is missing, not to be there or no whole number of at least 1)
            and ``option``.
    """
    parts = re.fullmatch(r"([^@()]*)(?:\(([^()]*)\))?(?:@(.*))?", name)
    if parts is None:
        raise UnknownName(unknown("measure", name, KINDS.names()))
    kind_name, options, cut = parts.groups()
    kind_name = _ALSO.get(kind_name, kind_name)
    if kind_name not in KINDS:
        raise UnknownName(unknown("measure", kind_name, KINDS.names()))
    made = Measure(kind_name, _cut(name, kind_name, cut))
    for option in options.split(",") if options is not None else []:
        key, _, value = option.strip().partition("=")
        if key == "rel" and re.fullmatch("0*[1-9][0-9]{0,9}", value):
            made = replace(made, rel=int(value))
        elif key == "gain" and made.kind.is_graded and value in ("linear", "exponential"):
            made = replace(made, gain=value)  # type: ignore[arg-type]
        else:
            takes = "rel=1, 2, ..." + ", gain=linear or exponential" * made.kind.is_graded
            raise InputError(
                f"Option {option.strip()!r} of measure {name!r} is not known; {kind_name} takes "
                f"{takes}.",
                rule="option",
            )
    return made


def evaluate(ranks: Ranks, names: Iterable[str | Measure]) -> dict[str, Score]:
    """Return the score by each measure, by its name.

    Raises:
        InputError: Rule ``empty`` (no measure is asked for), those of `measure` and `Measure.values`.
    """
    wanted = [measure(name) if isinstance(name, str) else name for name in names]
    if not wanted:
        raise InputError("No measure is asked for; name at least one.", rule="empty")
    return {each.name: each.score(ranks) for each in wanted}


def _cut(name: str, kind_name: str, cut: str | None) -> int | None:
    wants = KINDS.get(kind_name).cut
    if cut is None and wants != "must":
        return None
    if wants == "no":
        raise InputError(f"Measure {name!r} takes no cut-off; write {kind_name}.", rule="k")
    if cut is None or not re.fullmatch("0*[1-9][0-9]{0,9}", cut):
        raise InputError(
            f"Measure {name!r} needs a whole number of at least 1 after '@'; write {kind_name}@10.",
            rule="k",
        )
    return int(cut)
