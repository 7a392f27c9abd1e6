"""What travels over ``/v1``: typed requests and responses, from which OpenAPI is made.

No file path, no series UID and no identity is in any of them; ids are `curate`'s pseudonyms.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from medfinder.records import Finding, Hit, Language, Laterality, Split, Status, Study
from medfinder.serve.slices import PLANES, plane_geometry

MAX_K = 100

Name = Annotated[str, Field(min_length=1, max_length=200)]
Names = Annotated[list[Name], Field(max_length=50)]
IsoDate = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$", examples=["2020-03-15"])]


class Strict(BaseModel):
    """A request: unknown fields are refused, not ignored."""

    model_config = ConfigDict(extra="forbid")


class Filters(Strict):
    """Structured filters; all that are given must hold, a list is "any of" unless it says "all"."""

    sex: list[Literal["F", "M"]] = Field(default=[], max_length=2)
    age_min: int | None = Field(default=None, ge=0, le=150, description="Years, inclusive.")
    age_max: int | None = Field(default=None, ge=0, le=150, description="Years, inclusive.")
    date_from: IsoDate | None = None
    date_to: IsoDate | None = None
    findings: Names = Field(default=[], description="All of them are stated as present.")
    findings_absent: Names = Field(default=[], description="All of them are stated as absent.")
    body_part: Names = []
    manufacturer: Names = []
    source: Names = []
    split: list[Split] = Field(default=[], max_length=3)
    language: list[Language] = Field(default=[], max_length=2)


class Narrowing(Strict):
    """Which studies may be found, and how many."""

    filters: Filters = Filters()
    where: str | None = Field(
        default=None,
        max_length=2000,
        description="An SQL condition over the index's columns, on top of `filters`.",
        examples=["n_slices > 100"],
    )
    k: int = Field(default=10, ge=1, le=MAX_K, description="How many hits.")


class SearchRequest(Narrowing):
    """One of `text`, `report` and `study_id`; `keywords` may stand alone or narrow any of them."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"text": "lung mass in a patient with cancer", "k": 5},
                {"keywords": ["nodule"], "filters": {"sex": ["F"], "age_min": 50}},
                {"study_id": "phantom-0001", "k": 10},
            ]
        },
    )
    text: str | None = Field(default=None, max_length=4000, description="A sentence.")
    keywords: Names | None = Field(
        default=None,
        min_length=1,
        description="Findings that the report affirms, see /v1/findings.",
    )
    report: str | None = Field(default=None, max_length=50_000, description="A whole report.")
    study_id: str | None = Field(default=None, max_length=200, description="More like this study.")
    exclude_same_patient: bool = Field(
        default=True, description="Leave out studies of the patient that `study_id` belongs to."
    )


class FacetsRequest(Strict):
    """The studies to count."""

    filters: Filters = Filters()
    where: str | None = Field(default=None, max_length=2000)


class FindingOut(BaseModel):
    """One finding that the report states; `start` and `end` are offsets into the report's text."""

    name: str
    cui: str | None
    status: Status
    laterality: Laterality | None
    location: str | None
    start: int
    end: int


class ReportOut(BaseModel):
    """The report's text: plain text, to be shown as text."""

    text: str
    language: Language


class PlaneOut(BaseModel):
    """Geometry of a plane's PNGs, whose pixels are square.

    Index 0 is the most inferior (axial), posterior (coronal) or left (sagittal) slice.
    """

    n_slices: int
    width: int
    height: int
    pixel_mm: float
    step_mm: float
    left: str
    right: str
    top: str
    bottom: str


class StudyOut(BaseModel):
    """One study."""

    study_id: str
    patient_id: str = Field(description="Pseudonym.")
    sex: Literal["F", "M"] | None
    age: int | None
    study_date: str | None
    manufacturer: str | None
    body_part: str | None
    split: Split | None
    source: str
    shape: tuple[int, int, int] = Field(description="Voxels along (D, H, W).")
    spacing_mm: tuple[float, float, float]
    planes: dict[str, PlaneOut]
    report: ReportOut | None
    translation: str | None = Field(description="English of a report in another language.")
    findings: list[FindingOut]


class WhyOut(BaseModel):
    """What made a hit a hit.

    `sentences` are exact substrings of the report, best first; `parts` are the scores of the
    rankers that found it.
    """

    parts: dict[str, float]
    terms: list[str]
    sentences: list[str]


class HitOut(BaseModel):
    """One retrieved study; scores are comparable within one result list only."""

    rank: int
    study_id: str
    score: float
    why: WhyOut
    study: StudyOut


class SearchResponse(BaseModel):
    """Hits, best first."""

    query_kind: Literal["text", "keywords", "report", "study_id", "volume"]
    hits: list[HitOut]
    duration_ms: float
    request_id: str


class Lungs(BaseModel):
    """First and last slice of each plane that shows the lungs; bubbles elsewhere are left out."""

    axial: tuple[int, int]
    coronal: tuple[int, int]
    sagittal: tuple[int, int]


class KeySlice(BaseModel):
    """Where to begin: the axial slice that shows most of the lungs, or of the body."""

    plane: Literal["axial"]
    index: int
    lungs: Lungs | None = Field(description="By which two studies are laid beside each other.")


class FacetsResponse(BaseModel):
    """Number of studies for each value of each facet, under the given filters."""

    n_studies: int
    facets: dict[str, dict[str, int]]


class FindingName(BaseModel):
    """An entry of the findings vocabulary."""

    name: str
    cui: str | None
    synonyms: list[str]
    n_studies: int = Field(description="Studies whose report affirms it.")


class FindingsResponse(BaseModel):
    """The findings vocabulary, for completion as one types."""

    findings: list[FindingName]


class WindowOut(BaseModel):
    """A window preset, in HU."""

    level: float
    width: float


class StatusResponse(BaseModel):
    """What this service can do."""

    version: str
    n_studies: int
    encoders: dict[str, str] = Field(description="Stream → encoder of this index.")
    windows: dict[str, WindowOut]
    max_upload_bytes: int
    max_k: int


class ErrorDetail(BaseModel):
    """What is wrong, and what to do."""

    type: str
    message: str
    hint: str


class ErrorResponse(BaseModel):
    """Every answer that is not a result."""

    error: ErrorDetail
    request_id: str


class Alive(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


def study_out(study: Study) -> StudyOut:
    """Return what may be told of a study."""
    planes: dict[str, PlaneOut] = {}
    for plane in PLANES:
        g = plane_geometry(study.shape, study.spacing_mm, plane)
        left, right, top, bottom = g.edges
        planes[plane] = PlaneOut(
            n_slices=g.n_slices,
            width=g.width,
            height=g.height,
            pixel_mm=round(g.pixel_mm, 5),
            step_mm=round(g.step_mm, 5),
            left=left,
            right=right,
            top=top,
            bottom=bottom,
        )
    report = study.report
    return StudyOut(
        study_id=study.study_id,
        patient_id=study.patient_id,
        sex=study.sex,
        age=study.age,
        study_date=study.study_date,
        manufacturer=study.manufacturer,
        body_part=study.body_part,
        split=study.split,
        source=study.source,
        shape=study.shape,
        spacing_mm=study.spacing_mm,
        planes=planes,
        report=ReportOut(text=report.text, language=report.language) if report else None,
        translation=study.translation,
        findings=[finding_out(f) for f in study.findings],
    )


def hit_out(hit: Hit) -> HitOut:
    """Return a hit with its study."""
    why = WhyOut(
        parts={k: float(v) for k, v in hit.why.parts.items()},
        terms=list(hit.why.terms),
        sentences=list(hit.why.sentences),
    )
    return HitOut(
        rank=hit.rank,
        study_id=hit.study_id,
        score=float(hit.score),
        why=why,
        study=study_out(hit.study),
    )


def finding_out(finding: Finding) -> FindingOut:
    """Return a finding."""
    return FindingOut(
        name=finding.name,
        cui=finding.cui,
        status=finding.status,
        laterality=finding.laterality,
        location=finding.location,
        start=finding.start,
        end=finding.end,
    )
