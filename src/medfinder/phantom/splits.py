"""The benchmark's splits as lists of studies to draw: what is kept from training, and matched what.

Every split follows one plan of how many findings a case has, so that pools of equal size are
equally hard to tell apart by number of findings and length of report; only what the split's name
says differs. Cases, not pixels: `medfinder.phantom.chest.make_phantom` draws them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from medfinder.errors import ConfigError
from medfinder.phantom.acquisition import Shift
from medfinder.phantom.case import CaseSpec, FindingSpec, make_finding, sample_case
from medfinder.phantom.counterfactual import Counterfactual, counterfactuals
from medfinder.phantom.wording import size_bin
from medfinder.registry import unknown

BenchmarkSplit = Literal[
    "train", "val", "test", "unseen-combinations", "unseen-pairs", "unseen-wording", "shifted"
]
SPLITS: tuple[BenchmarkSplit, ...] = get_args(BenchmarkSplit)

P_NORMAL = 0.05
N_FINDINGS = (0, 6)

COMBINATIONS: tuple[tuple[str, dict[str, str]], ...] = (
    ("consolidation", {"side": "left", "lobe": "upper"}),
    ("pulmonary mass", {"side": "right", "lobe": "lower"}),
    ("nodule", {"side": "left", "lobe": "lower"}),
    ("laminar atelectasis", {"side": "right", "lobe": "upper"}),
    ("bronchiectasis", {"side": "right", "lobe": "middle"}),
    ("pleural effusion", {"side": "left", "size": "big"}),
    ("pneumothorax", {"side": "right", "size": "big"}),
    ("pleural plaques", {"side": "left", "density": "calcified"}),
    ("ground glass pattern", {"side": "right", "level": "diffuse"}),
    ("emphysema", {"severity": "severe", "level": "paraseptal"}),
    ("aortic aneurysm", {"level": "descending", "size": "big"}),
    ("adenopathy", {"level": "left hilar", "size": "big"}),
)
"""Attributes of one finding that never meet in training, each seen there with others; ``size`` is
`medfinder.phantom.wording.size_bin`."""

PAIRS: tuple[tuple[str, str], ...] = (
    ("pleural effusion", "pneumothorax"),
    ("cardiomegaly", "pulmonary mass"),
    ("emphysema", "nodule"),
    ("consolidation", "adenopathy"),
    ("aortic aneurysm", "pericardial effusion"),
    ("hiatal hernia", "vertebral compression"),
    ("ground glass pattern", "pulmonary fibrosis"),
    ("rib fracture", "liver cyst"),
    ("aortic atheromatosis", "pacemaker"),
    ("bronchiectasis", "multiple nodules"),
)
"""Findings that never meet in one training case."""


@dataclass(frozen=True, slots=True)
class BenchmarkStudy:
    """One study of a split, before it is drawn.

    Attributes:
        study_id: Unique over all splits of one seed; every study is a patient of its own.
        seed: For `make_phantom`.
        case: What it shows.
        acquisition: Which scanner settings.
        sentences: Which half of the sentences its report is worded with.
        volume_id: Study whose volume it shares; its own unless only the wording differs.
    """

    study_id: str
    seed: int
    case: CaseSpec
    acquisition: Shift = "usual"
    sentences: Literal["usual", "unseen"] = "usual"
    volume_id: str = ""


def benchmark_studies(
    split: BenchmarkSplit, n: int, seed: int = 1, *, voxel_mm: float = 4.6
) -> list[BenchmarkStudy]:
    """List the studies of a split; a larger `n` only adds.

    ``train``, ``val`` and ``test`` are drawn alike and hold none of `COMBINATIONS` or `PAIRS`.
    ``unseen-combinations`` and ``unseen-pairs``: every case with enough findings holds one, each
    equally often. ``unseen-wording`` is ``test`` in other sentences, ``shifted`` is ``test`` on
    other scanner settings.

    Args:
        seed: Of the benchmark; other seeds share no study.
        voxel_mm: Longest in-plane voxel edge at which every finding must be visible.

    Raises:
        ConfigError: Unknown split, or `n` or `seed` out of range.
    """
    if split not in SPLITS:
        raise ConfigError(unknown("split", split, list(SPLITS)), rule="phantom")
    if not (0 <= n <= 100_000 and 0 <= seed < 1000):
        raise ConfigError(
            f"A split needs 0 <= n <= 100000 and 0 <= seed < 1000, got n={n}, seed={seed}.",
            rule="phantom",
        )
    if split == "shifted":
        return [
            replace(s, study_id=s.study_id.replace("test", "shifted"), acquisition="shifted",
                    volume_id=s.study_id.replace("test", "shifted"))
            for s in benchmark_studies("test", n, seed, voxel_mm=voxel_mm)
        ]  # fmt: skip
    if split == "unseen-wording":
        return [
            replace(s, study_id=s.study_id.replace("test", "unseen-wording"), sentences="unseen")
            for s in benchmark_studies("test", n, seed, voxel_mm=voxel_mm)
        ]
    first = seed * 100_000_000 + SPLITS.index(split) * 10_000_000
    studies = []
    for i in range(n):
        for attempt in range(100):
            number = first + 100 * i + attempt
            case = _sample(number, _n_findings(seed, i), voxel_mm)
            if split == "unseen-combinations" and len(case.findings) >= 1:
                name, wanted = COMBINATIONS[i % len(COMBINATIONS)]
                case = _with(case, [_matching(name, wanted, number, voxel_mm)])
            if split == "unseen-pairs" and len(case.findings) >= 2:
                rng = np.random.default_rng([number, 0x9A15])
                both = PAIRS[i % len(PAIRS)]
                case = _with(case, [make_finding(name, rng, voxel_mm) for name in both])
            combined = split != "unseen-combinations" and has_unseen_combination(case)
            paired = split != "unseen-pairs" and has_unseen_pair(case)
            if not (combined or paired):
                break
        name = f"ph{seed}-{split}-{i:05d}"
        studies.append(BenchmarkStudy(name, number, case, volume_id=name))
    return studies


def has_unseen_combination(case: CaseSpec) -> bool:
    """Tell whether a case holds one of `COMBINATIONS`."""
    return any(
        finding.name == name and _matches(finding, wanted)
        for finding in case.findings
        for name, wanted in COMBINATIONS
    )


def has_unseen_pair(case: CaseSpec) -> bool:
    """Tell whether a case holds one of `PAIRS`."""
    return any(case.has(a) and case.has(b) for a, b in PAIRS)


def counterfactual_pairs(
    studies: list[BenchmarkStudy], n: int, seed: int = 1
) -> list[tuple[BenchmarkStudy, BenchmarkStudy, Counterfactual]]:
    """List pairs of studies that differ in one attribute of one finding, and in nothing else.

    Kinds of change, (finding, attribute), take turns, so that rare ones count as much as common
    ones; which of the two values the original has is left to chance.

    Returns:
        Up to `n` triples (original, changed, what changed); the changed study's id ends in
        ``-changed-<k>``.
    """
    rng = np.random.default_rng([seed, 0xC0F])
    by_kind: dict[tuple[str, str], list[tuple[BenchmarkStudy, Counterfactual]]] = {}
    for study in studies:
        for change in counterfactuals(study.case):
            by_kind.setdefault((change.name, change.attribute), []).append((study, change))
    queues: list[Iterator[tuple[BenchmarkStudy, Counterfactual]]] = []
    for kind in sorted(by_kind):
        order = rng.permutation(len(by_kind[kind]))
        queues.append(iter([by_kind[kind][int(i)] for i in order]))
    pairs: list[tuple[BenchmarkStudy, BenchmarkStudy, Counterfactual]] = []
    while queues and len(pairs) < n:
        for queue in list(queues):
            if len(pairs) == n:
                break
            found = next(queue, None)
            if found is None:
                queues.remove(queue)
                continue
            study, change = found
            name = f"{study.study_id}-changed-{len(pairs)}"
            pairs.append((study, replace(study, study_id=name, volume_id=name, case=change.case), change))
    return pairs


def _n_findings(seed: int, i: int) -> int:
    """Return how many findings the i-th case of any split has."""
    rng = np.random.default_rng([seed, i, 0xF1D])
    low, high = max(1, N_FINDINGS[0]), N_FINDINGS[1]
    return 0 if rng.random() < P_NORMAL else low + int(rng.binomial(high - low, 0.48))


def _sample(seed: int, n: int, voxel_mm: float) -> CaseSpec:
    """Draw a case with exactly `n` findings."""
    normal = 1.0 if n == 0 else 0.0
    return sample_case(seed, n_findings=(n, n), p_normal=normal, voxel_mm=voxel_mm)


def _matches(finding: FindingSpec, wanted: dict[str, str]) -> bool:
    return all(
        (size_bin(finding) if key == "size" else getattr(finding, key)) == value
        for key, value in wanted.items()
    )


def _matching(name: str, wanted: dict[str, str], seed: int, voxel_mm: float) -> FindingSpec:
    rng = np.random.default_rng([seed, 0xC0B])
    fixed: dict[str, Any] = {key: value for key, value in wanted.items() if key != "size"}
    while True:
        finding = make_finding(name, rng, voxel_mm, **fixed)
        if _matches(finding, wanted):
            return finding


def _with(case: CaseSpec, findings: list[FindingSpec]) -> CaseSpec:
    """Put findings into a case in place of as many others; those it excludes go first."""
    from medfinder.phantom.case import KINDS

    names = {f.name for f in findings}
    banned = names | {other for name in names for other in KINDS[name].excludes}
    others = [f for f in case.findings if f.name not in banned]
    kept = others[: max(0, len(case.findings) - len(findings))]
    return replace(case, findings=(*findings, *kept))
