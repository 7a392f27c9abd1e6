"""Studies → train, val, test: by patient, no text in two of them, findings spread alike.

The unit that is dealt out is a group: all studies of a patient, and of every patient who shares a
report text with them. A group's place depends on its ids and findings, not on the order in which
they came; one that has a place keeps it when more come.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from medfinder.errors import ConfigError
from medfinder.records import Split

SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class SplitConfig:
    """How a dataset is dealt out.

    Attributes:
        method: ``"source"`` keeps the split the source gives; ``"hash"`` deals out anew;
            ``"auto"`` keeps what is given where every study has one, and deals out otherwise.
        val: Share of studies for validation.
        test: Share of studies for testing.
        key: Another key is another split.
        texts_apart: Whether patients with one report text stay together.
    """

    method: str = "auto"
    val: float = 0.1
    test: float = 0.2
    key: str = ""
    texts_apart: bool = True

    def __post_init__(self) -> None:
        if self.method not in ("auto", "source", "hash"):
            raise ConfigError(
                f"split.method is {self.method!r}; expected 'auto', 'source' or 'hash'."
            )
        if not (self.val >= 0 and self.test >= 0 and self.val + self.test < 1):
            raise ConfigError(
                f"split.val is {self.val} and split.test {self.test}; expected shares that are not "
                "negative and leave something to train on."
            )


@dataclass(frozen=True, slots=True)
class Group:
    """What stays together.

    Attributes:
        name: Stable: the smallest patient_id in it.
        n_studies: Studies in it.
        findings: Names that its reports affirm, each once.
    """

    name: str
    n_studies: int
    findings: frozenset[str] = frozenset()


def deal(
    groups: Sequence[Group], config: SplitConfig, kept: Mapping[str, Split] | None = None
) -> dict[str, Split]:
    """Return each group's split.

    Args:
        kept: Name of a group → the split that it has already; the rest makes up for it.

    Rarest finding first, the groups that have it are dealt out in the order of their hash, each to
    the split that lacks it most; then the rest. So every finding, and all studies, are spread by
    the shares as nearly as whole groups allow.

    Source:
        Iterative stratification: Sechidis, Tsoumakas, Vlahavas, ECML PKDD 2011, with ties by hash.
    """
    shares = {"train": 1 - config.val - config.test, "val": config.val, "test": config.test}
    wanted_all = {s: shares[s] * sum(g.n_studies for g in groups) for s in SPLITS}
    n_with = Counter(name for group in groups for name in group.findings)
    wanted = {s: {name: shares[s] * n for name, n in n_with.items()} for s in SPLITS}
    order = {group.name: _hashed(group.name, config.key) for group in groups}
    rarest = {
        group.name: min(group.findings, key=lambda name: (n_with[name], name), default="")
        for group in groups
    }
    dealt: dict[str, Split] = {}

    def give(group: Group, split: Split) -> None:
        dealt[group.name] = split
        wanted_all[split] -= group.n_studies
        for name in group.findings:
            wanted[split][name] -= 1

    kept = kept or {}
    for group in groups:
        if group.name in kept:
            give(group, kept[group.name])
    # Large groups first: what is dealt later can still make up for them.
    for group in sorted(
        (g for g in groups if g.name not in kept),
        key=lambda g: (
            -g.n_studies if g.n_studies > 8 else 0,
            n_with.get(rarest[g.name], len(groups) + 1),
            rarest[g.name],
            order[g.name],
        ),
    ):
        finding = rarest[group.name]
        best = max(
            (s for s in SPLITS if shares[s] > 0),
            key=lambda s: (
                wanted[s].get(finding, 0.0) / shares[s] if group.n_studies <= 8 else 0.0,
                wanted_all[s] / shares[s],
                -SPLITS.index(s),
            ),
        )
        give(group, best)
    return dealt


def leakage(rows: Iterable[tuple[str, str, Split | None]]) -> Mapping[str, int]:
    """Count what crosses a split.

    Args:
        rows: (patient_id, key of the report's text or "", split) of each study.

    Returns:
        ``{"patients": …, "texts": …}``: patients, and texts, found in more than one split.
    """
    patients: dict[str, set[str]] = {}
    texts: dict[str, set[str]] = {}
    for patient, text, split in rows:
        if split is None:
            continue
        patients.setdefault(patient, set()).add(split)
        if text:
            texts.setdefault(text, set()).add(split)
    return {
        "patients": sum(len(found) > 1 for found in patients.values()),
        "texts": sum(len(found) > 1 for found in texts.values()),
    }


def _hashed(name: str, key: str) -> str:
    return hashlib.sha256(f"{key}\0{name}".encode()).hexdigest()
