"""What travels over ``/v1``: typed requests and responses, from which OpenAPI is made.

No file path, no series UID and no identity is in any of them; ids are `curate`'s pseudonyms.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from medfinder.records import Finding, Hit, Language, Laterality, Split, Status, Study
from medfinder.serve.slices import PLANES, plane_geometry

MAX_K = 100
MAX_OFFSET = 800

Name = Annotated[str, Field(min_length=1, max_length=200)]
Names = Annotated[list[Name], Field(max_length=50)]
Fraction = Annotated[float, Field(ge=0, le=1)]
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
    laterality: list[Laterality] = Field(
        default=[], max_length=3, description="Side of a finding: of one of `findings`, if given."
    )
    location: Names = Field(
        default=[], description="Place of a finding: of one of `findings`, if given."
    )
    slice_mm_min: float | None = Field(
        default=None, ge=0, le=1000, description="Distance between slices, exclusive."
    )
    slice_mm_max: float | None = Field(
        default=None, ge=0, le=1000, description="Distance between slices, inclusive."
    )
    body_part: Names = []
    manufacturer: Names = []
    source: Names = []
    split: list[Split] = Field(default=[], max_length=3)
    language: list[Language] = Field(default=[], max_length=2)


class Region(Strict):
    """A part of a study's CT, as drawn on one of its slices."""

    study_id: Name
    plane: Literal["axial", "coronal", "sagittal"]
    index: int = Field(ge=0, le=100_000, description="Of the slice.")
    box: tuple[Fraction, Fraction, Fraction, Fraction] = Field(
        description="Left, top, right and bottom edge, as fractions of the slice's PNG.",
        examples=[[0.2, 0.3, 0.4, 0.5]],
    )


class Question(Strict):
    """What is asked: one of these; `keywords` may stand alone or narrow any other."""

    text: str | None = Field(default=None, max_length=4000, description="A sentence.")
    keywords: Names | None = Field(
        default=None,
        min_length=1,
        description="Findings that the report affirms, see /v1/findings.",
    )
    report: str | None = Field(default=None, max_length=50_000, description="A whole report.")
    study_id: str | None = Field(
        default=None,
        max_length=200,
        description="A study of the index, or an uploaded CT that is held.",
    )
    region: Region | None = Field(default=None, description="A part of a study's CT.")


class Narrowing(Strict):
    """Which studies may be found, and which of them are returned in what order."""

    filters: Filters = Filters()
    where: str | None = Field(
        default=None,
        max_length=2000,
        description="An SQL condition over the index's columns, on top of `filters`.",
        examples=["n_slices > 100"],
    )
    without: Names = Field(default=[], description="Findings that a hit must not affirm.")
    like: Names = Field(default=[], max_length=20, description="Studies that are right.")
    unlike: Names = Field(
        default=[], max_length=20, description="Studies that are wrong; they are no hits."
    )
    sort: Literal["score", "date", "-date", "age", "-age"] = Field(
        default="score", description="Order of the hundred best."
    )
    k: int = Field(default=10, ge=1, le=MAX_K, description="How many hits.")
    offset: int = Field(default=0, ge=0, le=MAX_OFFSET, description="Hits of the pages before.")


class SearchRequest(Question, Narrowing):
    """A question, and which studies may answer it."""

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
    exclude_same_patient: bool = Field(
        default=True,
        description="Leave out studies of the patient that `study_id` or `region` belongs to.",
    )


class UploadOptions(Narrowing):
    """What goes with an uploaded CT."""

    hold: bool = Field(
        default=False,
        description="Hold the CT for half an hour under an id of its own, `query_study`.",
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
    """Hits, best first unless another order was asked for."""

    query_kind: Literal["text", "keywords", "report", "study_id", "region", "volume", "like"]
    hits: list[HitOut]
    next_offset: int | None = Field(description="Of the next page; null after the last.")
    query_study: StudyOut | None = Field(
        default=None, description="The uploaded CT that was asked with, where it is held."
    )
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


class ExplanationResponse(BaseModel):
    """Where a study's CT resembles what is asked.

    Region (i, j, k) covers voxels from ``origin + (i, j, k) * step`` to one `step` beyond, along
    (D, H, W): inferior to superior, posterior to anterior, left to right; voxel 7 reaches from 7.0
    to 8.0.
    """

    study_id: str
    shape: tuple[int, int, int]
    origin: tuple[float, float, float]
    step: tuple[float, float, float]
    values: list[float] = Field(description="0 to 1, in C order of `shape`; all 0 where none does.")
    peak: tuple[int, int, int] = Field(description="Voxel in the middle of the hottest region.")
    slices: dict[str, int] = Field(description="Plane → index of the slice through the peak.")


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


class Rejected(BaseModel):
    """Why what was sent is no study; rules are in the reference of rejections."""

    rule: str
    reason: str


class JobError(BaseModel):
    """What failed inside the service."""

    type: str
    message: str


class JobOut(BaseModel):
    """How far a study has been taken in."""

    job_id: str
    state: Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
    stage: Literal["waiting", "checking", "embedding", "indexed"]
    done: int = Field(description="Stages that are behind it.")
    total: int = Field(description="Stages that there are.")
    created: float = Field(description="Seconds since 1970.")
    ended: float | None
    source: str
    studies: list[str] = Field(description="Ids in the index, once it is done.")
    rejections: list[Rejected]
    doubts: list[Rejected] = Field(description="What a person should look at.")
    error: JobError | None


class JobsResponse(BaseModel):
    """All jobs that are remembered, the newest first."""

    jobs: list[JobOut]


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
