"""The sessions of a phantom archive, before a layout writes them: patients, reports, volumes.

Mutable on purpose: a defect is planted by changing the session it falls on. Knows no files.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import Literal

import numpy as np

from medfinder.phantom.case import CaseSpec, sample_case
from medfinder.phantom.identities import Identity, make_identity
from medfinder.phantom.pairs import MIN_WORDS, Sentence, english, spanish, word_pair
from medfinder.phantom.wording import plain, word
from medfinder.records import Language

Layout = Literal["bimcv", "bimcv_r", "ct_rate", "merlin"]
Modality = Literal["ct", "cr", "dx"]
SOFT, SHARP = "B30f", "B70f"


@dataclass(slots=True)
class Scan:
    """One volume or radiograph of a session.

    Attributes:
        seed: For `make_phantom`, with `case`; two scans that share both have the same voxels.
        run: Number within its session, from 1.
        treatment: What was done to the file; see `medfinder.phantom.treatments`.
        descrip: Free text of the file's header.
        is_there: False for a volume that its table promises in vain.
    """

    seed: int
    case: CaseSpec
    run: int = 1
    modality: Modality = "ct"
    part: str = "chest"
    treatment: str = ""
    kernel: str = SOFT
    descrip: str = ""
    is_there: bool = True


@dataclass(slots=True)
class Patient:
    """One patient; `number` counts from 0 and is not written anywhere."""

    number: int
    patient_id: str
    sex: Literal["F", "M"]
    identity: Identity
    n_sessions: int
    shard: int


@dataclass(slots=True)
class Session:
    """One study: what its row, its sidecars and its files will say.

    Attributes:
        number: Of the archive's sessions, from 0.
        sentences: Of the report, in both languages; what `text` was made from.
        text: As the source's report column has it.
        translation: English beside it; "" where the layout has none.
        impression: Conclusion, where the layout keeps it apart.
        labels: Findings of the label table, canonical.
        cells: Cells of its row that hold something else than they should, by column.
        n_rows: How often its row is written; 0 for a volume that no table lists.
        tags: DICOM keywords that its sidecars hold beside the usual ones.
        has_broken_sidecar: The sidecar of its first volume ends in the middle.
        defect: What was planted; None for a sound session.
    """

    number: int
    patient: Patient
    visit: int
    study_id: str
    seed: int
    case: CaseSpec
    study_date: date
    sentences: tuple[Sentence, ...]
    text: str
    translation: str
    impression: str
    labels: list[str]
    scans: list[Scan]
    cells: dict[str, str] = field(default_factory=dict)
    n_rows: int = 1
    tags: dict[str, str] = field(default_factory=dict)
    has_broken_sidecar: bool = False
    defect: str | None = None

    @property
    def scan(self) -> Scan:
        """Its first volume."""
        return self.scans[0]

    @property
    def age(self) -> int:
        """Whole years on the day of the study."""
        birth = self.patient.identity.birth
        had_birthday = (self.study_date.month, self.study_date.day) >= (birth.month, birth.day)
        return self.study_date.year - birth.year - (not had_birthday)


def sample_sessions(
    n_patients: int, seed: int, layout: Layout, language: Language, voxel_mm: float
) -> Iterator[Session]:
    """Yield sound sessions, patient by patient; a larger `n_patients` only adds.

    About half of the sessions are of patients who have several, as in BIMCV-R; in Merlin, which
    names no patients, each session is a patient. No two sessions have the same text.

    Args:
        voxel_mm: Longest in-plane voxel edge at which findings must be visible.
    """
    seen: set[int] = set()
    number = 0
    for i in range(n_patients):
        rng = np.random.default_rng([seed, i, 0xA2C4])
        n_sessions = 1
        if layout != "merlin" and rng.random() > 0.725:
            n_sessions = 2 + int(rng.choice(3, p=(0.45, 0.3, 0.25)))
        first = sample_case(1_000_000 * seed + number, voxel_mm=voxel_mm)
        patient = Patient(
            number=i,
            patient_id=_patient_id(layout, seed, i),
            sex=first.sex,
            identity=make_identity(seed, i, first.sex, first.age),
            n_sessions=n_sessions,
            shard=i % 10 + 1,
        )
        day = date(2018, 1, 1) + timedelta(days=int(rng.integers(1500)))
        for visit in range(n_sessions):
            case_seed = 1_000_000 * seed + number
            case = first
            if visit:
                case = sample_case(case_seed, voxel_mm=voxel_mm)
                day += timedelta(days=int(rng.integers(20, 400)))
                case = replace(case, sex=first.sex, age=first.age, habitus=first.habitus)
            session = Session(
                number=number,
                patient=patient,
                visit=visit,
                study_id=_study_id(layout, seed, patient.patient_id, number, visit),
                seed=case_seed,
                case=case,
                study_date=day,
                sentences=(),
                text="",
                translation="",
                impression="",
                labels=[finding.name for finding in case.findings] or ["normal"],
                scans=[Scan(case_seed, case)],
            )
            _word(session, layout, language, seen)
            number += 1
            yield session


def _word(session: Session, layout: Layout, language: Language, seen: set[int]) -> None:
    """Word a session's report as its layout does, unlike every one before."""
    for variant in range(100):
        session.sentences = word_pair(session.case, session.seed, variant)
        session.text = (
            spanish(session.sentences) if language == "es" else english(session.sentences)
        )
        if layout in ("bimcv", "bimcv_r") and language == "es" and not has_accents(layout, session):
            session.text = plain(session.text)
        if layout == "merlin":
            session.text = word(session.case, session.seed, language, variant=variant)
        mark = hash_of(session.text)
        if mark not in seen and len(session.text.split()) >= MIN_WORDS:
            seen.add(mark)
            break
    if layout == "bimcv_r":
        session.translation = english(session.sentences)
    if layout == "ct_rate":
        told = [s.en for s in session.sentences if s.about and not s.denies]
        session.impression = " ".join(told) or "No significant abnormality."


def has_accents(layout: Layout, session: Session) -> bool:
    """Whether a session's Spanish keeps its accents: those of BIMCV's second table do."""
    return layout == "bimcv" and session.patient.number % 4 == 3


def hash_of(text: str) -> int:
    """Return 8 bytes of a text's hash; Python's own changes from run to run."""
    import hashlib

    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _patient_id(layout: Layout, seed: int, i: int) -> str:
    # Steps that share no factor with the range: every number once, in no visible order.
    scattered = (i * 379_721 + seed * 7_919) % 900_000
    if layout in ("bimcv", "bimcv_r"):
        return f"sub-S{100_000 + scattered}"
    if layout == "ct_rate":
        return f"{'valid' if i % 10 == 9 else 'train'}_{i + 1}"
    return f"AC4{(i * 48_271 + seed * 7_919) % 0x1000000:06x}"


def _study_id(layout: Layout, seed: int, patient_id: str, number: int, visit: int) -> str:
    if layout in ("bimcv", "bimcv_r"):
        return f"ses-E{100_000 + (number * 513_239 + seed * 104_729) % 900_000}"
    if layout == "ct_rate":
        return f"{patient_id}_{'abcdefgh'[visit]}"
    return patient_id
