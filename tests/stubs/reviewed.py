"""A small curated folder in doubt: Spanish reports, their English, and what is wrong with them."""

import json
from collections.abc import Sequence
from pathlib import Path

from medfinder.artifact import Manifest, write_manifest
from medfinder.records import Doubt, Rejection, Report, Study
from medfinder.report.findings import extract_findings
from medfinder.studies import write_doubts, write_rejections, write_studies

SPANISH = (
    "derrame pleural izquierdo de 3 cm. no se observa neumotorax.",
    "nodulo en lobulo superior derecho. sin adenopatias.",
    "torax normal. <b>sin</b> <script>window.hacked = true</script> hallazgos.",
    "cardiomegalia. =HYPERLINK(1)",
)
ENGLISH = "Left pleural effusion of 5 cm. No pneumothorax is seen."
PLACEHOLDER = "Something wrong with the data! #################"


def study(number: int, **changes: object) -> Study:
    text = SPANISH[number % len(SPANISH)]
    report = Report(text=text, language="es", findings_text=text)
    fields: dict[str, object] = {
        "study_id": f"study-{number}",
        "patient_id": f"patient-{number}",
        "series_id": "",
        "volume_path": "",
        "volume_hash": "",
        "shape": (0, 0, 0),
        "spacing_mm": (0.0, 0.0, 0.0),
        "report": report,
        "findings": extract_findings(report),
        "labels": ("adenopathy", "nodule") if number == 1 else (),
        "translation": "Nodule in the right upper lobe." if number == 1 else None,
        "split": "train",
    }
    return Study(**{**fields, **changes})  # type: ignore[arg-type]


DOUBTS = (
    Doubt("study-0", "translation-number", "3 in the report, 5 in the English.", 0.8),
    Doubt("study-0", "translation-unit", "A unit is missing.", 0.3),
    Doubt("study-1", "label-negated", "The only mention of adenopathy is denied.", 0.6),
    Doubt("study-1", "label-negated", "And once more.", 0.5),
    Doubt("study-2", "translation-placeholder", "The English is a placeholder.", 0.9),
    Doubt("study-3", "formula-cell", "The cell began with =.", 0.1),
)


def make(
    folder: Path,
    studies: Sequence[Study] | None = None,
    doubts: Sequence[Doubt] = DOUBTS,
    candidates: dict[str, str] | None = None,
) -> Path:
    """Write a finished dataset of five studies, four of them doubted, and return its folder."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    studies = [study(i) for i in range(5)] if studies is None else studies
    given = {"study-0": ENGLISH, "study-2": PLACEHOLDER} if candidates is None else candidates
    write_studies(folder / "studies.parquet", studies)
    write_doubts(folder / "doubts.parquet", doubts)
    write_rejections(folder / "rejections.parquet", [Rejection("x.nii.gz", "unreadable", "Torn.")])
    rows = [{"study_id": i, "text": t, "problems": ["number"]} for i, t in given.items()]
    if rows:
        pq.write_table(pa.Table.from_pylist(rows), folder / "translations.parquet")
    config = {"source": "tests", "content": json.dumps([s.labels for s in studies])}
    counts = {"studies": len(studies), "rejections": 1}
    write_manifest(folder, Manifest("curate", config, {}, counts))
    return folder
