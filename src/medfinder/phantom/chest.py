"""A case, a scan and words become one phantom: a CT volume with its report and its ground truth."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from medfinder.errors import ConfigError
from medfinder.phantom.acquisition import (
    MAX_FIELD_MM,
    Acquisition,
    Shift,
    body_affine,
    sample_acquisition,
    scan,
    world_affine,
)
from medfinder.phantom.anatomy import Body, draw_anatomy, draw_vessels, lung_box
from medfinder.phantom.case import CaseSpec, check_case, sample_case
from medfinder.phantom.lesions import DIFFUSE, FOCAL, draw_confusers, draw_findings
from medfinder.phantom.scene import Scene
from medfinder.phantom.wording import WordingConfig, word
from medfinder.volume.volume import Volume

SMALL: tuple[int, int, int] = (32, 48, 48)
"""A size for tests: a few tens of milliseconds."""


@dataclass(frozen=True, slots=True)
class PhantomConfig:
    """How phantoms are drawn.

    Attributes:
        size: Voxels along (D, H, W); the field of view is a chest's whatever the size.
        n_findings: Fewest and most findings of a case that is not normal.
        p_normal: Share of cases without findings.
        acquisition: ``"usual"`` or ``"shifted"``: ranges of scanner settings that do not overlap.
        wording: Of both reports.
    """

    size: tuple[int, int, int] = (96, 160, 160)
    n_findings: tuple[int, int] = (0, 6)
    p_normal: float = 0.08
    acquisition: Shift = "usual"
    wording: WordingConfig = field(default_factory=WordingConfig)

    def __post_init__(self) -> None:
        if min(self.size) < 16:
            raise ConfigError(
                f"A phantom needs at least 16 voxels along each axis, got size {self.size}.",
                rule="phantom",
            )


@dataclass(frozen=True, slots=True)
class Phantom:
    """One synthetic study.

    Attributes:
        volume: int16 HU with slope 1; `Volume.tags` holds sex, age, manufacturer, kernel.
        report_en: In English.
        report_es: The same case in Spanish, worded independently.
        case: What is true of it.
        acquisition: How it was scanned.
        lesion_mask: uint8 (D, H, W); 0, or 1 + index in ``case.findings``. Where findings
            overlap the one drawn last is kept.
    """

    volume: Volume
    report_en: str
    report_es: str
    case: CaseSpec
    acquisition: Acquisition
    lesion_mask: npt.NDArray[np.uint8]


def make_phantom(
    seed: int, config: PhantomConfig | None = None, case: CaseSpec | None = None
) -> Phantom:
    """Make the phantom of a seed.

    Args:
        seed: Of the scan and the words, and of the case where none is given.
        case: Given, it is drawn instead of the seed's own; with the same `seed` two cases that
            differ in one attribute differ in nothing else, noise included.

    Raises:
        ConfigError: The case has attributes its findings cannot have.
    """
    config = config or PhantomConfig()
    if case is None:
        case = sample_case(
            seed,
            n_findings=config.n_findings,
            p_normal=config.p_normal,
            voxel_mm=voxel_edge_mm(config.size),
        )
    else:
        check_case(case)
    acquisition = sample_acquisition(
        seed, config.size, case.habitus.lung_height_mm, shift=config.acquisition
    )
    volume, mask = render(case, acquisition, config.size)
    tags: dict[str, Any] = {"study_id": f"phantom-{seed:06d}", "patient_id": f"phantom-{seed:06d}"}
    volume = replace(volume, series_id=f"phantom-{seed:06d}", tags=volume.tags | tags)
    return Phantom(
        volume=volume,
        report_en=word(case, seed, "en", config.wording, phase=acquisition.phase),
        report_es=word(case, seed, "es", config.wording, phase=acquisition.phase),
        case=case,
        acquisition=acquisition,
        lesion_mask=mask,
    )


def voxel_edge_mm(size: tuple[int, int, int]) -> float:
    """Return the longest in-plane voxel edge a scan of this size may have, in millimetres."""
    return MAX_FIELD_MM / min(size[1:])


def render(
    case: CaseSpec, acquisition: Acquisition, shape: tuple[int, int, int]
) -> tuple[Volume, npt.NDArray[np.uint8]]:
    """Draw a case as a scanner would store it.

    Returns:
        The volume, int16 HU, and the findings' mask (uint8, 0 or 1 + index in
        ``case.findings``). Deterministic: no state, no thread, no clock.
    """
    scene = Scene(shape, body_affine(acquisition, shape))
    body = Body(case)
    tissue = acquisition.tissue
    lungs = draw_anatomy(scene, body, case, tissue)
    draw_findings(scene, body, lungs, case, tissue, DIFFUSE)
    box = lung_box(scene, body)
    draw_vessels(scene.crop(box), body, lungs.crop(box), case.seed, tissue)
    draw_confusers(scene, body, lungs, case)
    draw_findings(scene, body, lungs, case, tissue, FOCAL)
    volume = Volume(
        stored=scan(scene.hu, acquisition),
        affine=world_affine(acquisition, shape),
        tags={
            "sex": case.sex,
            "age": case.age,
            "manufacturer": acquisition.manufacturer,
            "kernel": acquisition.kernel,
            "body_part": "chest",
            "modality": "CT",
        },
    )
    return volume, scene.labels
