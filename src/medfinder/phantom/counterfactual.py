"""The same case with one attribute of one finding changed: what a model must not overlook."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from medfinder.phantom.case import KINDS, LOBES, CaseSpec, FindingSpec

Attribute = Literal["side", "lobe", "size_mm", "density", "severity", "level"]


@dataclass(frozen=True, slots=True)
class Counterfactual:
    """One changed attribute.

    Attributes:
        name: The finding that changed.
        attribute: Which of its attributes.
        before: Its value in the original case.
        after: Its value in `case`.
        case: The changed case: same seed, build and other findings, so that with the same seed
            `medfinder.phantom.chest.make_phantom` draws the same body and the same noise.
    """

    name: str
    attribute: Attribute
    before: Any
    after: Any
    case: CaseSpec


def counterfactuals(case: CaseSpec, min_size_ratio: float = 1.6) -> Iterator[Counterfactual]:
    """Yield every change of one attribute to one other value it may have.

    Sides change between left and right, and lobes within a side, so that a histogram of the volume
    stays as it is. A change of side, lobe, density, severity or level can be undone, so that over
    many cases the pairs are balanced in both directions.

    Args:
        min_size_ratio: Sizes change to the end of the kind's range that differs more, and only
            where it differs at least so much.
    """
    for place, finding in enumerate(case.findings):
        for attribute, after in _changes(finding, min_size_ratio):
            changed = replace(finding, **{attribute: after})
            findings = (*case.findings[:place], changed, *case.findings[place + 1 :])
            yield Counterfactual(
                finding.name,
                attribute,
                getattr(finding, attribute),
                after,
                replace(case, findings=findings),
            )


def _changes(f: FindingSpec, min_size_ratio: float) -> Iterator[tuple[Attribute, Any]]:
    kind = KINDS[f.name]
    other = {"left": "right", "right": "left"}.get(f.side or "")
    if other in kind.sides and (f.lobe is None or (other, f.lobe) in LOBES):
        yield "side", other
    if kind.lobar:
        for side, lobe in LOBES:
            if side == f.side and lobe != f.lobe:
                yield "lobe", lobe
    if kind.size_mm and f.size_mm:
        (low, high), size = kind.size_mm, f.size_mm
        far, ratio = (high, high / size) if high / size > size / low else (low, size / low)
        if ratio >= min_size_ratio:
            yield "size_mm", far
    options: tuple[tuple[Attribute, tuple[str, ...]], ...] = (
        ("density", kind.densities),
        ("severity", kind.severities),
        ("level", kind.levels),
    )
    for attribute, values in options:
        for value in values:
            if value != getattr(f, attribute):
                yield attribute, value
