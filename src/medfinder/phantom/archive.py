"""Phantom archives in the layouts of real sources, with every defect planted and the truth beside.

What a curation reads lies in a folder of its own; beside it lie ``truth.jsonl`` (one line a
session), ``planted.jsonl`` (one line a planted defect) and ``canaries.txt`` (identities that must
be found nowhere in what is made of it). A table of 100,000 rows takes no more memory than one of
a thousand: sessions are planned, planted and written one after the other.
"""

import dataclasses
import json
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, get_args

import numpy as np

from medfinder.config import to_dict
from medfinder.errors import ConfigError
from medfinder.phantom.case import CaseSpec, FindingSpec, Habitus
from medfinder.phantom.chest import SMALL, PhantomConfig, make_phantom, voxel_edge_mm
from medfinder.phantom.defects import DEFECTS, Planted, Plot, Rates, put_beside
from medfinder.phantom.layouts import make_writer
from medfinder.phantom.phantom import Progress, draw, keep_settings
from medfinder.phantom.sessions import Layout, Scan, Session, sample_sessions
from medfinder.phantom.treatments import write_radiograph, write_treated
from medfinder.records import Language
from medfinder.registry import unknown

MAX_PATIENTS = 300_000
"""More would need longer ids than the layouts have."""


def write_archive(
    folder: str | Path,
    n_patients: int,
    seed: int = 1,
    *,
    layout: Layout = "bimcv",
    size: tuple[int, int, int] = SMALL,
    rates: Rates | None = None,
    language: Language | None = None,
    volumes: bool = True,
    windows: bool = False,
    workers: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Write an archive as a hospital or a publisher would have left it.

    The same arguments give the same bytes, whoever draws; run again, it draws only the volumes
    that are missing. About half of the volumes are of patients who have several sessions.

    Args:
        folder: Made where absent.
        layout: ``"bimcv"`` (raw MIDS tree), ``"bimcv_r"`` (published table and shards),
            ``"ct_rate"`` or ``"merlin"``.
        size: Of the volumes (D, H, W), in voxels; below 24 the spacing is no CT's any more.
        rates: How often each defect is planted.
        language: Of the reports; Spanish for BIMCV and English elsewhere where None.
        volumes: False leaves them out, as if they were elsewhere: tables and sidecars alone.
        windows: Tables in cp1252 with CRLF, as a spreadsheet saves them.
        workers: Processes, 0 for one a core.
        progress: Called with (done, all) after each volume.

    Returns:
        The folder to curate: `folder` / `layout`. BIMCV-R's table is ``meta/BIMCV-R.csv`` in it.

    Raises:
        ConfigError: An argument is out of range, or a defect is unknown.
        InputError: `folder` is a file.
        Mismatch: The folder holds an archive of other settings.
    """
    if layout not in get_args(Layout):
        raise ConfigError(unknown("layout", layout, list(get_args(Layout))), rule="phantom")
    if not 1 <= n_patients <= MAX_PATIENTS or seed < 0 or workers < 0:
        raise ConfigError(
            f"An archive needs 1 to {MAX_PATIENTS} patients, seed >= 0 and workers >= 0, got "
            f"{n_patients}, {seed} and {workers}.",
            rule="phantom",
        )
    PhantomConfig(size=size)  # refuses a size that is too small
    rates = rates or Rates()
    language = language or ("es" if layout in ("bimcv", "bimcv_r") else "en")
    shares = rates.of(layout, volumes)
    if language != "es":
        shares.pop("language-mismatch", None)  # it would wait for ever
    folder, root = Path(folder), Path(folder) / layout
    settings = {
        "archive": layout,
        "seed": seed,
        "size": list(size),
        "n_patients": n_patients,
        "language": language,
        "volumes": volumes,
        "windows": windows,
        "rates": to_dict(rates),
    }
    keep_settings(folder / "phantoms.json", settings)
    root.mkdir(exist_ok=True)
    writer = make_writer(layout, root, size, windows=windows)
    jobs: list[ScanJob] = []
    with (
        _lines(folder / "truth.jsonl") as truth,
        _lines(folder / "planted.jsonl") as planted,
        _lines(folder / "canaries.txt") as canaries,
    ):
        sessions = sample_sessions(n_patients, seed, layout, language, voxel_edge_mm(size))
        planter = Planter(seed, layout, language, writer.place, rates, shares, volumes)
        for session in sessions:
            for line in planter.plant(session):
                planted.add(json.dumps(_bare(line), ensure_ascii=False))
            while planter.canaries:
                canaries.add(planter.canaries.pop(0))
            writer.add(session)
            truth.add(json.dumps(_truth(session, writer.place), ensure_ascii=False))
            if volumes:
                jobs += [
                    _job(root / writer.place(session, scan), scan, size)
                    for scan in session.scans
                    if scan.is_there
                ]
    writer.close()
    draw(jobs, workers, progress)
    return root


@dataclass
class Planter:
    """Deals defects to sessions: at most one each, in the shares that were asked for.

    Defects are dealt like cards, so that even a small archive has its share of each. One that does
    not fit the session it falls on waits for the next that it fits.
    """

    seed: int
    layout: Layout
    language: Language
    place: Callable[[Session, Scan], str]
    rates: Rates
    shares: dict[str, float]
    has_volumes: bool
    canaries: list[str] = field(default_factory=list)
    deck: deque[str | None] = field(default_factory=deque)
    waiting: list[str] = field(default_factory=list)
    n_decks: int = 0
    donors: deque[Session] = field(default_factory=lambda: deque(maxlen=8))

    def plant(self, session: Session) -> Iterator[Planted]:
        """Plant what falls on a session, and yield what was planted."""
        if not self.deck:
            self._shuffle()
        dealt = self.deck.popleft()
        if dealt is not None:
            self.waiting.append(dealt)
        if session.patient.n_sessions > 1:
            yield Planted(
                "same-patient",
                session.study_id,
                session.study_id,
                session.patient.patient_id,
                "split",
            )
        for i, name in enumerate(self.waiting):
            lines = self._try(name, session)
            if lines is not None:
                del self.waiting[i]
                session.defect = name
                yield from lines
                return
        # What has several volumes gives nothing to others: which of them stays is open.
        n_scans = len(session.scans)
        if self.has_volumes:
            yield from put_beside(self._plot("beside", session, None), self.rates.beside)
        if len(session.scans) == n_scans:
            self.donors.append(session)

    def _try(self, name: str, session: Session) -> list[Planted] | None:
        defect = DEFECTS[name]
        donor = None
        if defect.donor:
            is_same = defect.donor == "same"
            donor = next(
                (d for d in self.donors if (d.patient is session.patient) == is_same), None
            )
            if donor is None:
                return None
        lines = defect.plant(self._plot(name, session, donor))
        if lines is not None and donor is not None:
            donor.defect = name
            self.donors.remove(donor)
        return lines

    def _plot(self, name: str, session: Session, donor: Session | None) -> Plot:
        rng = np.random.default_rng([self.seed, session.number, *name.encode()])
        return Plot(session, self.layout, self.language, self.place, rng, self.canaries, donor)

    def _shuffle(self) -> None:
        """Deal the next hundred sessions; what a share leaves over is dealt in a later deck."""
        n, k = 100, self.n_decks
        cards: list[str | None] = []
        for name, share in self.shares.items():
            cards += [name] * (int(share * n * (k + 1) + 1e-9) - int(share * n * k + 1e-9))
        cards = (cards + [None] * n)[: max(n, len(cards))]
        order = np.random.default_rng([self.seed, k, 0xDEC4]).permutation(len(cards))
        self.deck.extend(cards[int(i)] for i in order)
        self.n_decks += 1


@dataclass(frozen=True, slots=True)
class ScanJob:
    """One file to draw."""

    path: Path
    seed: int
    case: CaseSpec
    size: tuple[int, int, int]
    is_radiograph: bool
    treatment: str
    descrip: str

    @property
    def is_done(self) -> bool:
        """Whether the file is there; it appears whole or not at all."""
        return self.path.exists()

    def write(self) -> None:
        """Draw it and write it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.is_radiograph:
            write_radiograph(self.path, self.seed)
            return
        phantom = make_phantom(self.seed, PhantomConfig(size=self.size), self.case)
        write_treated(phantom.volume, self.path, self.treatment, self.descrip)


def _job(path: Path, scan: Scan, size: tuple[int, int, int]) -> ScanJob:
    is_radiograph = scan.modality != "ct"
    return ScanJob(path, scan.seed, scan.case, size, is_radiograph, scan.treatment, scan.descrip)


def _truth(session: Session, place: Callable[[Session, Scan], str]) -> dict[str, Any]:
    return {
        "study_id": session.study_id,
        "patient_id": session.patient.patient_id,
        "seed": session.seed,
        "case": _case(session.case),
        "sex": session.patient.sex,
        "age": session.age,
        "study_date": session.study_date.isoformat(),
        "text": session.text if session.n_rows else "",
        "translation": session.translation if session.n_rows else "",
        "labels": session.labels if session.n_rows else [],
        "files": [place(session, scan) for scan in session.scans if scan.is_there],
        "defect": session.defect,
    }


def _case(case: CaseSpec) -> dict[str, Any]:
    """Return what `CaseSpec.to_dict` does, without copying it ten levels deep: there are many."""
    found = {name: getattr(case, name) for name in _CASE}
    found["habitus"] = {name: getattr(case.habitus, name) for name in _HABITUS}
    found["findings"] = [{name: getattr(f, name) for name in _FINDING} for f in case.findings]
    return found


_CASE, _HABITUS, _FINDING = (
    tuple(f.name for f in dataclasses.fields(kind)) for kind in (CaseSpec, Habitus, FindingSpec)
)


def _bare(line: Planted) -> dict[str, Any]:
    told = {k: getattr(line, k) for k in _PLANTED}
    return {k: v for k, v in told.items() if v or k == "rule"}


_PLANTED = tuple(f.name for f in dataclasses.fields(Planted))


class _lines:  # noqa: N801 - used as a function is
    """A text file that is written line by line and appears whole."""

    def __init__(self, path: Path) -> None:
        self.path, self.aside = path, path.with_name(f".{path.name}.tmp")
        self.file: IO[str] = self.aside.open("w", encoding="utf-8")

    def __enter__(self) -> "_lines":
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        self.file.close()
        if kind is None:
            self.aside.replace(self.path)
        else:
            self.aside.unlink()

    def add(self, line: str) -> None:
        self.file.write(line + "\n")
