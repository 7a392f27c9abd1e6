"""The benchmark's splits as lists of studies to draw: what is kept from training, what is matched.

Every split follows one plan of how many findings a case has, so that pools of equal size are
equally hard to tell apart by number of findings and length of report; only what the split's name
says differs. Cases and words, not pixels: `medfinder.phantom.chest.make_phantom` draws them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from medfinder.errors import ConfigError
from medfinder.phantom.acquisition import Shift, sample_acquisition
from medfinder.phantom.case import KINDS, CaseSpec, FindingSpec, make_finding, sample_case
from medfinder.phantom.counterfactual import Counterfactual, counterfactuals
from medfinder.phantom.wording import WordingConfig, size_bin, word
from medfinder.records import Language
from medfinder.registry import unknown

BenchmarkSplit = Literal[
    "train", "val", "test", "unseen-combinations", "unseen-pairs", "unseen-wording", "shifted"
]
SPLITS: tuple[BenchmarkSplit, ...] = get_args(BenchmarkSplit)

P_NORMAL = 0.05
N_FINDINGS = (1, 6)
"""Fewest and most findings of a case that is not normal."""
VOXEL_MM = 4.6
"""Longest in-plane voxel edge at which every finding is visible: a field of view in 96 voxels."""
_ATTEMPTS = 100  # a study's seeds are 100 apart

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
"""Attributes of one finding that never meet in training, where each is seen with others; ``size``
is `medfinder.phantom.wording.size_bin`. The middle lobe, which has one side, is seen with other
findings."""

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
        study_id: Unique over all splits of one seed.
        seed: For `make_phantom`. Studies of one seed are of one patient: those of ``test`` told in
            other words, scanned again, or changed by `counterfactual_pairs`.
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

    @property
    def patient_id(self) -> str:
        """The patient; no two of training, validation and test share one."""
        return f"ph-p{self.seed}"


def benchmark_studies(
    split: BenchmarkSplit, n: int, seed: int = 1, *, voxel_mm: float = VOXEL_MM
) -> list[BenchmarkStudy]:
    """List the studies of a split; a larger `n` only adds.

    ``train``, ``val`` and ``test`` are drawn alike and hold none of `COMBINATIONS` or `PAIRS`.
    ``unseen-combinations`` and ``unseen-pairs``: every case with enough findings holds one, each
    equally often. ``unseen-wording`` is ``test`` in other sentences, ``shifted`` is ``test`` on
    other scanner settings. The i-th study of every split has the same number of findings.

    Args:
        seed: Of the benchmark; other seeds share no study.
        voxel_mm: Longest in-plane voxel edge at which every finding must be visible.

    Raises:
        ConfigError: Unknown split, `n` or `seed` out of range, or no case of the split's rules
            comes up.
    """
    if split not in SPLITS:
        raise ConfigError(unknown("split", split, list(SPLITS)), rule="phantom")
    if not (0 <= n <= 100_000 and 0 <= seed < 1000):
        raise ConfigError(
            f"A split needs 0 <= n <= 100000 and 0 <= seed < 1000, got n={n}, seed={seed}.",
            rule="phantom",
        )
    if split == "unseen-wording":
        tested = benchmark_studies("test", n, seed, voxel_mm=voxel_mm)
        return [replace(s, study_id=_renamed(s, split), sentences="unseen") for s in tested]
    if split == "shifted":
        tested = benchmark_studies("test", n, seed, voxel_mm=voxel_mm)
        names = [_renamed(s, split) for s in tested]
        return [
            replace(s, study_id=name, volume_id=name, acquisition="shifted")
            for s, name in zip(tested, names, strict=True)
        ]
    return [_study(split, i, seed, voxel_mm) for i in range(n)]


def report_of(study: BenchmarkStudy, *, language: Language = "en", variant: int = 0) -> str:
    """Word a study as its phantom's report is; other variants are paraphrases of it."""
    # The contrast phase is drawn from the seed alone, so any grid will do.
    scan = sample_acquisition(
        study.seed, (96, 96, 96), study.case.habitus.lung_height_mm, shift=study.acquisition
    )
    wording = WordingConfig(sentences=study.sentences)
    return word(study.case, study.seed, language, wording, phase=scan.phase, variant=variant)


def has_unseen_combination(case: CaseSpec) -> bool:
    """Tell whether a case holds one of `COMBINATIONS`."""
    return any(is_unseen_combination(finding) for finding in case.findings)


def is_unseen_combination(finding: FindingSpec) -> bool:
    """Tell whether a finding has the attributes of one of `COMBINATIONS`."""
    return any(finding.name == name and _matches(finding, wanted) for name, wanted in COMBINATIONS)


def has_unseen_pair(case: CaseSpec) -> bool:
    """Tell whether a case holds one of `PAIRS`."""
    return any(case.has(a) and case.has(b) for a, b in PAIRS)


def counterfactual_pairs(
    studies: list[BenchmarkStudy], n: int, seed: int = 1
) -> list[tuple[BenchmarkStudy, BenchmarkStudy, Counterfactual]]:
    """List pairs of studies that differ in one attribute of one finding, and in nothing else.

    Kinds of change, (finding, attribute), take turns, so that rare ones count as much as common
    ones. A size changes to an end of its range, so the two are to be asked both ways: which volume
    fits each report, and which report each volume. The changed one may hold one of `COMBINATIONS`,
    and a report may leave the attribute unsaid: compare `report_of` of the two.

    Returns:
        Up to `n` triples (original, changed, what changed); the changed study's id ends in
        ``-changed-<k>``. A larger `n` only adds, while `studies` are the same.
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
            pairs.append(
                (study, replace(study, study_id=name, volume_id=name, case=change.case), change)
            )
    return pairs


def _study(split: BenchmarkSplit, i: int, seed: int, voxel_mm: float) -> BenchmarkStudy:
    """Draw the i-th study of a split that is drawn, not derived."""
    first = seed * 100_000_000 + SPLITS.index(split) * 10_000_000 + _ATTEMPTS * i
    for number in range(first, first + _ATTEMPTS):
        case = _sample(number, _n_findings(seed, i), voxel_mm)
        if split == "unseen-combinations" and case.findings:
            name, wanted = COMBINATIONS[i % len(COMBINATIONS)]
            case = _with(case, [_matching(name, wanted, number, voxel_mm)])
        if split == "unseen-pairs" and len(case.findings) >= 2:
            rng = np.random.default_rng([number, 0x9A15])
            both = PAIRS[i % len(PAIRS)]
            case = _with(case, [make_finding(name, rng, voxel_mm) for name in both])
        combined = split != "unseen-combinations" and has_unseen_combination(case)
        paired = split != "unseen-pairs" and has_unseen_pair(case)
        if not (combined or paired):
            study_id = f"ph{seed}-{split}-{i:05d}"
            return BenchmarkStudy(study_id, number, case, volume_id=study_id)
    raise ConfigError(
        f"Study {i} of the split {split!r} cannot be drawn: each of {_ATTEMPTS} cases held a "
        "combination or a pair that the split must not hold. Forbid fewer of them.",
        rule="phantom",
    )


def _renamed(study: BenchmarkStudy, split: BenchmarkSplit) -> str:
    return study.study_id.replace("-test-", f"-{split}-")


def _n_findings(seed: int, i: int) -> int:
    """Return how many findings the i-th case of any split has."""
    rng = np.random.default_rng([seed, i, 0xF1D])
    low, high = N_FINDINGS
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
    """Draw a finding until it has the wanted attributes; every third one has a wanted size."""
    rng = np.random.default_rng([seed, 0xC0B])
    fixed: dict[str, Any] = {key: value for key, value in wanted.items() if key != "size"}
    for _ in range(1000):
        finding = make_finding(name, rng, voxel_mm, **fixed)
        if _matches(finding, wanted):
            return finding
    raise ConfigError(
        f"No {name} with {wanted} is visible at voxels of {voxel_mm} mm. Choose smaller voxels.",
        rule="phantom",
    )


def _with(case: CaseSpec, findings: list[FindingSpec]) -> CaseSpec:
    """Put findings into a case in place of as many others; those they exclude go first."""
    names = {f.name for f in findings}
    banned = names | {other for name in names for other in KINDS[name].excludes}
    others = [f for f in case.findings if f.name not in banned]
    kept = others[: max(0, len(case.findings) - len(findings))]
    return replace(case, findings=(*findings, *kept))
