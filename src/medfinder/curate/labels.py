"""A source's labels ↔ what the text says: the same names, and where they disagree.

BIMCV's labels come from the sentences of the report, whoever made them; a label whose only mention
is denied ("no se observan adenopatias") is the commonest defect of the public rows.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache

from medfinder.errors import UnknownName
from medfinder.records import Finding
from medfinder.report.vocabulary import vocabulary

# Marks of BIMCV's annotators that name no finding.
_NO_FINDINGS = frozenset(["normal", "exclude", "unchanged", "suboptimal study", "covid 19"])


def canonical_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """Return the labels by their canonical names, each once; unknown ones as they are, trimmed."""
    named = (_canonical(label.strip()) for label in labels if label.strip())
    return tuple(dict.fromkeys(named))


@lru_cache(maxsize=4096)
def _canonical(label: str) -> str:
    try:
        return vocabulary().resolve(label)
    except UnknownName:
        return label


def label_negated(labels: Sequence[str], findings: Sequence[Finding]) -> list[str]:
    """``label-negated``: labels that the text mentions and denies at every mention."""
    return [label for label in labels if _statuses(label, findings) == {"absent"}]


def label_unmentioned(labels: Sequence[str], findings: Sequence[Finding]) -> list[str]:
    """``label-unmentioned``: labels of known findings that the text does not mention."""
    known = vocabulary()
    kinds = ("finding", "diagnosis")
    return [
        label
        for label in labels
        if label in known
        and known.get(label).kind in kinds
        and label not in _NO_FINDINGS
        and not _statuses(label, findings)
    ]


def label_missing(labels: Sequence[str], findings: Sequence[Finding]) -> list[str]:
    """``label-missing``: findings that the text affirms and no label says, in any wording of it."""
    known = vocabulary()
    said: set[str] = set(labels)
    for label in labels:
        if label in known:
            said |= known.ancestors(label) | known.descendants(label)
    names = dict.fromkeys(f.name for f in findings if f.status == "present")
    # The 18-label scheme's name of a finding is not another finding.
    said |= {known.get(name).label or "" for name in names if known.get(name).label != name}
    return [
        name
        for name in names
        if name not in said and name not in _NO_FINDINGS and not known.ancestors(name) & set(labels)
    ]


def _statuses(label: str, findings: Sequence[Finding]) -> set[str]:
    known = vocabulary()
    if label not in known:
        return set()
    names = {label} | known.descendants(label)
    own = {f.status for f in findings if f.name in names}
    if own and own != {"absent"}:
        return {*own}
    above = {f.status for f in findings if f.name in known.ancestors(label)}
    # "No adenopathy" denies hilar adenopathy too; an affirmed parent leaves its child open.
    return own | above if own or above == {"absent"} else set()
