"""What a phantom shows, as plain facts: a patient, findings with attributes, and nothing of pixels or words.

A `CaseSpec` is drawn from a seed; rendering, acquisition and wording each read it and their own
random stream, so one attribute can change (`dataclasses.replace`) with everything else kept.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from medfinder.errors import ConfigError
from medfinder.records import Laterality
from medfinder.registry import unknown

Lobe = Literal["upper", "middle", "lower"]
Density = Literal["solid", "ground glass", "calcified"]
Severity = Literal["mild", "moderate", "severe"]

SEVERITIES: tuple[Severity, ...] = ("mild", "moderate", "severe")
SIDES: tuple[Laterality, ...] = ("left", "right")
EVERY_SIDE: tuple[Laterality, ...] = ("left", "right", "bilateral")
LOBES: tuple[tuple[Laterality, Lobe], ...] = (
    ("right", "upper"),
    ("right", "middle"),
    ("right", "lower"),
    ("left", "upper"),
    ("left", "lower"),
)


@dataclass(frozen=True, slots=True)
class FindingSpec:
    """One finding and every attribute a report can state of it.

    Attributes:
        name: A key of `KINDS`; the vocabulary's spelling.
        side: The patient's side; None where the finding has none.
        lobe: Lung lobe; None where the finding is not in one lobe.
        size_mm: Depth (effusions, pneumothorax), short axis (adenopathy) or longest diameter;
            None for findings that are graded by `severity` only.
        density: Of a nodule or plaque; None elsewhere.
        severity: Grade; None where size says it.
        level: Station, segment, rib or vertebra, one of the kind's `levels`; None elsewhere.
        number: How many.
        seed: Of the shape and place inside what the attributes fix.
    """

    name: str
    side: Laterality | None = None
    lobe: Lobe | None = None
    size_mm: int | None = None
    density: Density | None = None
    severity: Severity | None = None
    level: str | None = None
    number: int = 1
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Kind:
    """The attributes a finding of one name may take.

    Attributes:
        size_mm: Smallest and largest `FindingSpec.size_mm`; None when it has no size.
        floor_voxels: Visibility floor: the least size in voxel edges (the longest in-plane edge)
            at which the finding is drawn so that a reader can see it. `sample_case` never goes
            below it for the spacing it is told.
        weight: Relative frequency.
        excludes: Names that make no sense beside it.
    """

    sides: tuple[Laterality, ...] = ()
    lobar: bool = False
    size_mm: tuple[int, int] | None = None
    densities: tuple[Density, ...] = ()
    severities: tuple[Severity, ...] = ()
    levels: tuple[str, ...] = ()
    number: tuple[int, int] = (1, 1)
    floor_voxels: float = 0.0
    weight: float = 1.0
    excludes: tuple[str, ...] = ()


RIBS = tuple(str(n) for n in range(3, 10))
VERTEBRAE = tuple(f"T{n}" for n in range(5, 12))

KINDS: Mapping[str, Kind] = {
    "pleural effusion": Kind(sides=EVERY_SIDE, size_mm=(14, 60), floor_voxels=3, weight=1.4),
    "pericardial effusion": Kind(size_mm=(8, 26), floor_voxels=2),
    "pneumothorax": Kind(sides=SIDES, size_mm=(12, 55), floor_voxels=3),
    "consolidation": Kind(sides=SIDES, lobar=True, size_mm=(30, 75), floor_voxels=6, weight=1.6),
    "ground glass pattern": Kind(
        sides=EVERY_SIDE, severities=SEVERITIES, levels=("peripheral", "diffuse"), weight=1.1
    ),
    "nodule": Kind(
        sides=SIDES,
        lobar=True,
        size_mm=(8, 30),
        densities=("solid", "ground glass", "calcified"),
        floor_voxels=2.5,
        weight=2.4,
        excludes=("multiple nodules",),
    ),
    "multiple nodules": Kind(
        sides=("bilateral",),
        size_mm=(8, 22),
        number=(5, 14),
        floor_voxels=2.5,
        excludes=("nodule",),
    ),
    "pulmonary mass": Kind(sides=SIDES, lobar=True, size_mm=(32, 75), floor_voxels=6, weight=1.4),
    "emphysema": Kind(severities=SEVERITIES, levels=("centrilobular", "paraseptal"), weight=1.4),
    "bronchiectasis": Kind(sides=SIDES, lobar=True, severities=SEVERITIES),
    "pulmonary fibrosis": Kind(severities=SEVERITIES, weight=0.8),
    "laminar atelectasis": Kind(sides=SIDES, lobar=True),
    "adenopathy": Kind(
        size_mm=(13, 34),
        levels=(
            "right paratracheal",
            "subcarinal",
            "prevascular",
            "right hilar",
            "left hilar",
        ),
        floor_voxels=3,
        weight=1.4,
    ),
    "cardiomegaly": Kind(severities=SEVERITIES, weight=0.9),
    "coronary artery wall calcification": Kind(severities=SEVERITIES),
    "aortic atheromatosis": Kind(severities=SEVERITIES),
    "aortic aneurysm": Kind(size_mm=(45, 70), levels=("ascending", "descending"), floor_voxels=8),
    "hiatal hernia": Kind(size_mm=(30, 75), floor_voxels=6),
    "rib fracture": Kind(sides=SIDES, levels=RIBS),
    "vertebral compression": Kind(severities=SEVERITIES, levels=VERTEBRAE),
    "pleural plaques": Kind(
        sides=EVERY_SIDE, densities=("solid", "calcified"), number=(2, 5), weight=0.8
    ),
    "liver cyst": Kind(size_mm=(16, 60), floor_voxels=4),
    "pacemaker": Kind(sides=SIDES, weight=0.5),
    "central venous catheter": Kind(sides=SIDES, weight=0.7),
}
"""Every finding a phantom can have, with what its attributes may be."""


@dataclass(frozen=True, slots=True)
class Habitus:
    """The patient's build, in millimetres and HU; drawn independently of findings.

    Attributes:
        half_width_mm: Of the rib cage's inside at its widest.
        half_depth_mm: Of the rib cage's inside, front to back.
        lung_height_mm: From the costophrenic recess's dome base to the apex.
        fat_mm: Subcutaneous thickness.
        muscle_mm: Chest wall thickness between ribs and fat.
        breast_mm: Breast depth; 0 for none.
        bone_hu: Trabecular bone of the vertebrae.
        liver_hu: Unenhanced; low for a fatty liver, which the report may leave unsaid.
        lung_hu: Mean of aerated lung.
        lung_gradient_hu: Rise of lung density from front to back (supine).
        heart_scale: 1 for a heart of normal size.
        heart_shift_mm: Of the heart to the patient's right.
        fat_pad_mm: Thickness of the fat around the heart.
        aorta_scale: 1 for an aorta of usual width.
        dome_mm: Height of the right diaphragm dome over the base.
        dome_tilt_mm: How much higher than usual the left dome stands.
        lean_mm: Sideways bow of the spine (scoliosis).
    lung_tilt_hu: How much denser than the left the right lung is, from uneven ventilation.
    lung_waves_hu: Spread of smooth, wide differences of density inside the lungs.
    pleural_fat_mm: Fat between ribs and lungs at the back, (right, left).
    """

    half_width_mm: float = 130.0
    half_depth_mm: float = 92.0
    lung_height_mm: float = 240.0
    fat_mm: float = 18.0
    muscle_mm: float = 17.0
    breast_mm: float = 0.0
    bone_hu: float = 170.0
    liver_hu: float = 58.0
    lung_hu: float = -850.0
    lung_gradient_hu: float = 70.0
    heart_scale: float = 1.0
    heart_shift_mm: float = 0.0
    fat_pad_mm: float = 6.0
    aorta_scale: float = 1.0
    dome_mm: float = 45.0
    dome_tilt_mm: float = 0.0
    lean_mm: float = 0.0
    lung_tilt_hu: float = 0.0
    lung_waves_hu: float = 14.0
    pleural_fat_mm: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class CaseSpec:
    """One patient's CT before it is drawn or told.

    Attributes:
        seed: Of all that no report tells: vessels, texture, confusers.
        findings: In the order drawn; names do not repeat.
        confusers: Share (0 to 1) of unreported look-alikes: calcified granulomas, ECG leads,
            bowel gas, dependent density, degenerative spurs.
    """

    seed: int
    sex: Literal["F", "M"] = "F"
    age: int = 60
    habitus: Habitus = dataclasses.field(default_factory=Habitus)
    findings: tuple[FindingSpec, ...] = ()
    confusers: float = 0.5

    def has(self, name: str) -> bool:
        """Tell whether a finding of this name is present."""
        return any(finding.name == name for finding in self.findings)

    def get(self, name: str) -> FindingSpec | None:
        """Return the finding of this name, or None."""
        return next((f for f in self.findings if f.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; `case_from_dict` is the inverse."""
        return dataclasses.asdict(self)


def case_from_dict(values: Mapping[str, Any]) -> CaseSpec:
    """Rebuild a case from `CaseSpec.to_dict`, as ``truth.jsonl`` holds it."""
    fields = dict(values)
    fat = tuple(fields["habitus"].get("pleural_fat_mm", (0.0, 0.0)))
    fields["habitus"] = Habitus(**(fields["habitus"] | {"pleural_fat_mm": fat}))
    fields["findings"] = tuple(FindingSpec(**f) for f in fields["findings"])
    return CaseSpec(**fields)


def check_case(case: CaseSpec) -> None:
    """Refuse attributes that a finding's kind does not have.

    Raises:
        ConfigError: Unknown finding, a repeated one, or an attribute outside its kind.
    """
    names = [f.name for f in case.findings]
    for f in case.findings:
        kind = KINDS.get(f.name)
        if kind is None:
            raise ConfigError(unknown("phantom finding", f.name, sorted(KINDS)), rule="phantom")
        if names.count(f.name) > 1:
            raise ConfigError(f"Finding {f.name!r} is given twice; use number.", rule="phantom")
        for attribute, value, allowed in (
            ("side", f.side, kind.sides),
            ("density", f.density, kind.densities),
            ("severity", f.severity, kind.severities),
            ("level", f.level, kind.levels),
        ):
            if (value not in allowed) if allowed else (value is not None):
                raise ConfigError(
                    f"Finding {f.name!r} has {attribute} {value!r}; it must be {_one_of(allowed)}.",
                    rule="phantom",
                )
        if kind.lobar and (f.side, f.lobe) not in LOBES:
            raise ConfigError(
                f"Finding {f.name!r} is in the {f.side} {f.lobe} lobe; "
                f"expected one of {[' '.join(pair) for pair in LOBES]}.",
                rule="phantom",
            )
        low, high = kind.size_mm or (0, 0)
        if kind.size_mm and not (f.size_mm is not None and low <= f.size_mm <= high):
            raise ConfigError(
                f"Finding {f.name!r} has size {f.size_mm} mm; it must be {low} to {high}.",
                rule="phantom",
            )


def make_finding(
    name: str, rng: np.random.Generator, voxel_mm: float = 0.0, **fixed: Any
) -> FindingSpec:
    """Draw the attributes of one finding; every draw is made whatever is fixed.

    Args:
        voxel_mm: Longest in-plane voxel edge it must be visible at; sizes start at the
            kind's floor (and never above its upper third).
        fixed: Attributes that are not drawn, such as ``side="left"``.

    Raises:
        ConfigError: Unknown name.
    """
    kind = KINDS.get(name)
    if kind is None:
        raise ConfigError(unknown("phantom finding", name, sorted(KINDS)), rule="phantom")
    values: dict[str, Any] = {}
    side, lobe = LOBES[int(rng.integers(len(LOBES)))]
    any_side = kind.sides[int(rng.integers(len(kind.sides)))] if kind.sides else None
    if kind.lobar:
        if "side" in fixed or "lobe" in fixed:
            pairs = [
                pair
                for pair in LOBES
                if pair[0] == fixed.get("side", pair[0]) and pair[1] == fixed.get("lobe", pair[1])
            ]
            if pairs:
                side, lobe = pairs[int(rng.integers(len(pairs)))]
        values |= {"side": side, "lobe": lobe}
    elif kind.sides:
        values["side"] = any_side
    where = rng.random()
    if kind.size_mm:
        low, high = kind.size_mm
        low = int(min(max(low, np.ceil(kind.floor_voxels * voxel_mm)), low + (high - low) * 2 / 3))
        # Sizes are spread evenly on a log scale: small findings are the common ones.
        values["size_mm"] = round(float(np.exp(np.log(low) + where * np.log((high + 0.49) / low))))
    for attribute, options in (
        ("density", kind.densities),
        ("severity", kind.severities),
        ("level", kind.levels),
    ):
        draw = rng.random()
        if options:
            values[attribute] = options[int(draw * len(options))]
    first, last = kind.number
    values["number"] = int(rng.integers(first, last + 1))
    values["seed"] = int(rng.integers(2**31))
    return FindingSpec(name=name, **(values | fixed))


def sample_habitus(rng: np.random.Generator, sex: str) -> Habitus:
    """Draw a build; nothing in it depends on findings."""
    big = rng.normal()
    fat = float(np.clip(rng.gamma(3.0, 6.5), 5, 55))
    return Habitus(
        half_width_mm=float(np.clip((123 if sex == "F" else 132) + 9 * big, 103, 152)),
        half_depth_mm=float(np.clip(88 + 5 * big + rng.normal(0, 6), 72, 112)),
        lung_height_mm=float(np.clip((225 if sex == "F" else 240) + rng.normal(0, 17), 186, 275)),
        fat_mm=fat,
        muscle_mm=float(rng.uniform(11, 24)),
        breast_mm=float(np.clip(rng.normal(38, 12), 10, 70)) if sex == "F" else 0.0,
        bone_hu=float(rng.uniform(80, 300)),
        liver_hu=float(rng.uniform(5, 70)),
        lung_hu=float(np.clip(rng.normal(-805, 65), -905, -640)),
        lung_gradient_hu=float(rng.uniform(0, 260)),
        heart_scale=float(rng.uniform(0.84, 1.12)),
        heart_shift_mm=float(np.clip(rng.normal(0, 13), -26, 24)),
        fat_pad_mm=float(np.clip(rng.gamma(2.0, 7.0), 3, 32)),
        aorta_scale=float(rng.uniform(0.85, 1.25)),
        dome_mm=float(rng.uniform(18, 80)),
        dome_tilt_mm=float(np.clip(rng.normal(0, 17), -26, 44)),
        lean_mm=float(rng.normal(0, 5)),
        lung_tilt_hu=float(rng.normal(0, 45)),
        lung_waves_hu=float(rng.uniform(10, 140)),
        pleural_fat_mm=(_pleural_fat(rng), _pleural_fat(rng)),
    )


def _pleural_fat(rng: np.random.Generator) -> float:
    """Draw a thickness: thin in half of the chests, up to 2 cm in the others."""
    return float(max(0.0, rng.uniform(-20, 20)))


def sample_case(
    seed: int,
    *,
    n_findings: tuple[int, int] = (0, 6),
    p_normal: float = 0.08,
    voxel_mm: float = 3.0,
) -> CaseSpec:
    """Draw a patient and findings from a seed; findings and build are independent.

    Args:
        seed: Any non-negative integer; the same one gives the same case.
        n_findings: Fewest and most findings of a case that is not normal.
        p_normal: Share of cases without any.
        voxel_mm: Longest in-plane voxel edge at which every finding must be visible.
    """
    streams = np.random.SeedSequence([seed, 0xCA5E]).spawn(2)
    body, sick = (np.random.default_rng(stream) for stream in streams)
    sex: Literal["F", "M"] = "F" if body.random() < 0.5 else "M"
    age = int(np.clip(body.normal(62, 15), 18, 95))
    habitus = sample_habitus(body, sex)
    confusers = float(body.random())
    normal = sick.random() < p_normal
    # 1 + binomial: a mean of 3.4 for the default 0..6, close to what labelled reports have.
    low = max(1, n_findings[0])
    wanted = 0 if normal else low + int(sick.binomial(max(0, n_findings[1] - low), 0.48))
    names = list(KINDS)
    weights = np.array([KINDS[name].weight for name in names])
    keys = sick.random(len(names)) ** (1 / weights)  # weighted sampling without replacement
    chosen: list[FindingSpec] = []
    for i in np.argsort(-keys, kind="stable"):
        name = names[int(i)]
        if len(chosen) >= wanted:
            break
        if any(f.name in KINDS[name].excludes for f in chosen):
            continue
        chosen.append(make_finding(name, sick, voxel_mm))
    return CaseSpec(seed, sex, age, habitus, tuple(chosen), confusers)


def _one_of(allowed: tuple[str, ...]) -> str:
    return f"one of {list(allowed)}" if allowed else "left out"
