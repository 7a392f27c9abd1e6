"""The nouns that travel between stages: frozen, plain, without input or output.

``patient_id`` and ``study_id`` are made in ``curate``: pseudonyms of a DICOM file's own numbers, or
what the user's table or file names say, which must not identify anybody.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Status = Literal["present", "absent", "uncertain"]
Laterality = Literal["left", "right", "bilateral"]
Language = Literal["en", "es"]
Split = Literal["train", "val", "test"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding that a report states.

    Attributes:
        name: Canonical name in the vocabulary, such as ``"pleural effusion"``.
        cui: UMLS concept identifier, such as ``"C0032227"``; None where the vocabulary has none.
        status: Whether the report affirms it, denies it, or leaves it open.
        laterality: Side, from the same clause; None when the text names none.
        location: Canonical anatomical location, such as ``"upper lobe"``; None when unnamed.
        start: Offset of the first character of the mention in the report's text.
        end: Offset after the mention's last character.
    """

    name: str
    cui: str | None
    status: Status
    laterality: Laterality | None = None
    location: str | None = None
    start: int = 0
    end: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """A radiology report, cut into its sections.

    Attributes:
        text: The whole text after cleaning; offsets of findings refer to it.
        language: ``"en"`` or ``"es"``.
        findings_text: The findings section; the whole text where no headings are found.
        impression_text: The impression or conclusion; empty where there is none.
    """

    text: str
    language: Language = "en"
    findings_text: str = ""
    impression_text: str = ""


@dataclass(frozen=True, slots=True)
class Study:
    """One CT study: the unit that is retrieved. Written and read as a row of ``studies.parquet``.

    Attributes:
        study_id: Unique in its dataset.
        patient_id: Unit of splitting and of "exclude the same patient".
        series_id: DICOM SeriesInstanceUID, or the file's stem for NIfTI.
        volume_path: File (NIfTI) or folder (DICOM), as an absolute path; "" where only the table
            of a dataset was curated, as are `series_id` and `volume_hash` then.
        volume_hash: SHA-256 of the canonical voxels and geometry (`Volume.content_hash`).
        shape: Voxels along (D, H, W); zeros without a volume, as `spacing_mm` then.
        spacing_mm: Millimetres along (D, H, W).
        report: The paired report; None for a study without one.
        findings: What the report states, in order of appearance.
        translation: English of a report in another language, once every check of it passed
            (`medfinder.report.translate`); None for an English report and for one whose
            translation is still doubted.
        labels: Names of findings the source's own label table gives, in its order; canonical where
            the vocabulary knows them. What the text says is in `findings`.
        age: Years; None when unknown.
        study_date: ISO date ``YYYY-MM-DD``; None when unknown.
    """

    study_id: str
    patient_id: str
    series_id: str
    volume_path: str
    volume_hash: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    report: Report | None = None
    findings: tuple[Finding, ...] = ()
    translation: str | None = None
    labels: tuple[str, ...] = ()
    sex: Literal["F", "M"] | None = None
    age: int | None = None
    study_date: str | None = None
    manufacturer: str | None = None
    body_part: str | None = None
    split: Split | None = None
    source: str = "folder"

    @property
    def text(self) -> str:
        """What a text encoder reads: the translation, else the report as it is, else ``""``."""
        return self.translation or (self.report.text if self.report else "")

    @property
    def words(self) -> str:
        """What words are searched in: the report, and below it its translation.

        Offsets of findings hold here too.
        """
        original = self.report.text if self.report else ""
        return f"{original}\n{self.translation}" if self.translation else original


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why an item of bulk work was left out: a row of ``rejections.parquet``.

    Attributes:
        item: Path relative to the source's root (plus series, where a folder holds many).
        rule: Short id, such as ``"irregular-spacing"``.
        reason: One sentence a radiologist understands, with expected and found values.
    """

    item: str
    rule: str
    reason: str


@dataclass(frozen=True, slots=True)
class Doubt:
    """Why a person should look at a study that was kept: a row of ``doubts.parquet``.

    Attributes:
        study_id: The study.
        rule: Short id, such as ``"translation-number"`` or ``"label-negated"``.
        reason: One sentence a radiologist understands; it may quote the de-identified report.
        weight: How much it matters, 0 to 1; the review queue shows the heaviest first.
    """

    study_id: str
    rule: str
    reason: str
    weight: float = 0.5


@dataclass(frozen=True, slots=True)
class Why:
    """What made a hit a hit.

    Attributes:
        parts: Score of each ranker that found it, such as ``{"bm25": 7.1, "volume": 0.62}``.
        terms: Query words or findings that occur in the report.
        sentences: Sentences of the report that match best, best first.
    """

    parts: Mapping[str, float] = field(default_factory=dict)
    terms: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Hit:
    """One retrieved study.

    Attributes:
        rank: 1 for the best.
        study_id: The study.
        score: Higher is better; comparable within one result list only.
        why: What matched.
        study: The study's row in the index.
    """

    rank: int
    study_id: str
    score: float
    why: Why
    study: Study

    def __repr__(self) -> str:
        s = self.study
        who = ", ".join(str(x) for x in (s.sex, s.age and f"{s.age} y", s.body_part, s.source) if x)
        parts = " ".join(f"{name}={value:.3f}" for name, value in self.why.parts.items())
        found = ", ".join(f.name for f in s.findings if f.status == "present") or "no findings"
        return f"<Hit {self.rank} {self.study_id} {self.score:.3f} [{parts}] ({who}) {found}>"
