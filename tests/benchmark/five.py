"""The five studies of docs/reference/protocols.md: vectors on a circle, the nearest angle wins."""

import dataclasses

import numpy as np

from medfinder.benchmark.entrant import Entrant, make_entrant
from medfinder.benchmark.reference import Reference
from medfinder.records import Study
from medfinder.report.findings import extract_findings
from medfinder.report.parse import parse_report

LEFT = "Left pleural effusion. Consolidation in the left lower lobe."
# study_id: (patient, report, angle of the volume, angle of the text), in degrees
FIVE = {
    "valid_1_a_1": ("p1", LEFT, 0, 30),
    "valid_1_a_2": ("p1", LEFT, 10, 30),
    "valid_2_a_1": (
        "p2", "Right pleural effusion. Consolidation in the right lower lobe.", 42, 50,
    ),
    "valid_3_a_1": ("p3", "Consolidation in the left lower lobe. No pleural effusion.", 70, 60),
    "valid_4_a_1": ("p4", "No pleural effusion. No consolidation.", 133, 115),
}  # fmt: skip
KEYWORDS = {"pleural effusion": 20, "consolidation": 100}


def study(study_id: str, patient: str, text: str, **more: object) -> Study:
    """A study known by its report alone."""
    report = parse_report(text) if text else None
    made = Study(
        study_id=study_id,
        patient_id=patient,
        series_id="",
        volume_path="",
        volume_hash="",
        shape=(0, 0, 0),
        spacing_mm=(0.0, 0.0, 0.0),
        report=report,
        findings=extract_findings(report) if report else (),
        source="table",
    )
    return dataclasses.replace(made, **more)  # type: ignore[arg-type]


def at(angles: list[float]) -> np.ndarray:
    radians = np.deg2rad(np.array(angles, np.float64))
    return np.stack([np.cos(radians), np.sin(radians)], axis=1)


def five_studies() -> Reference:
    studies = [study(name, patient, text) for name, (patient, text, _, _) in FIVE.items()]
    # COLIPRI's protocol leaves out what shows no chest.
    studies[-1] = dataclasses.replace(studies[-1], body_part="abdomen")
    return Reference(tuple(studies))


def five_entrant() -> Entrant:
    return make_entrant(
        "circle",
        {
            "volume": (list(FIVE), at([v for _, _, v, _ in FIVE.values()])),
            "text": (list(FIVE), at([t for _, _, _, t in FIVE.values()])),
            "keyword": (list(KEYWORDS), at(list(KEYWORDS.values()))),
        },
    )
