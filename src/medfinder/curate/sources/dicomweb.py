"""CT studies of a PACS, retrieved through DICOMweb into a folder and read from there.

A series is received aside and takes its place when every instance that the PACS listed is there:
what has its place is whole, and is not asked for again. What could not be had is named, stays aside
as far as it came, and is asked for again by the next run. Structured Reports of a study come along
and are its report, where a table does not give one.
"""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from medfinder.curate.sources.folder import FolderSource
from medfinder.curate.sources.pacs import ENVIRONMENT, Pacs, PacsSeries, PacsStudy
from medfinder.curate.sources.remote import Patience, Refused, Stalled, patiently
from medfinder.curate.sources.reports import Reports, accession_of, with_report
from medfinder.curate.sources.reports_sr import read_sr
from medfinder.curate.sources.source import Facts
from medfinder.errors import ArtifactError, ConfigError, InputError, UnreadableVolume
from medfinder.records import Rejection
from medfinder.volume.header import DEFLATED_LE, UNDEFINED, read_header
from medfinder.volume.read import VolumeRef, find_volumes

#: Instances of one series that may fail, and series one after the other, before it is given up.
_MAX_FAILED = 3
_MAX_FAILED_SERIES = 10
_NO_RIGHT = (401, 403, 407)
_SAFE_UID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,127}")
_ASIDE = ".partial"  # hidden: no walk of the folder takes it for data


@dataclass(frozen=True, slots=True)
class PacsQuery:
    """Which studies of a PACS are wanted; empty fields ask for all.

    Attributes:
        from_date: First day, included.
        to_date: Last day, included.
        modality: Of the series that are curated.
        body_part: BodyPartExamined, in any case. A series that does not tell its own is kept.
        patients: PatientIDs.
        accessions: Accession numbers. A study is wanted when it is of one of the patients or has
            one of the numbers.
    """

    from_date: date | None = None
    to_date: date | None = None
    modality: str = "CT"
    body_part: str = ""
    patients: tuple[str, ...] = ()
    accessions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.from_date and self.to_date and self.from_date > self.to_date:
            raise ConfigError(
                f"The dates are in the wrong order: expected the first before the last, got "
                f"{self.from_date} to {self.to_date}. Swap them."
            )

    def filters(self) -> list[tuple[str, dict[str, str]]]:
        """Return (name of the question, attribute → value) for each question to the PACS."""
        common = {"ModalitiesInStudy": self.modality}
        if self.from_date or self.to_date:
            first, last = (f"{d:%Y%m%d}" if d else "" for d in (self.from_date, self.to_date))
            common["StudyDate"] = f"{first}-{last}"
        listed = [
            (f"{what} {number} of the list", common | {attribute: value})
            for what, attribute, values in (
                ("patient", "PatientID", self.patients),
                ("accession number", "AccessionNumber", self.accessions),
            )
            for number, value in enumerate(values, 1)
        ]
        return listed or [("", common)]

    def fits(self, study: PacsStudy, asked: Mapping[str, str]) -> bool:
        """Whether a study is what was asked for: servers ignore filters they do not know, and
        read "*" and "?" in a number as wildcards.
        """
        day = study.study_date
        return not (
            (study.modalities and self.modality not in study.modalities)
            or (day and self.from_date and day < f"{self.from_date:%Y%m%d}")
            or (day and self.to_date and day > f"{self.to_date:%Y%m%d}")
            or (study.patient and asked.get("PatientID", study.patient) != study.patient)
            or (
                study.accession and asked.get("AccessionNumber", study.accession) != study.accession
            )
        )


class DicomwebSource:
    """CTs of a PACS.

    Args:
        url: Root of its DICOMweb service, such as ``http://pacs:8042/dicom-web``.
        download: Folder for what is retrieved, ``<study>/<series>/<instance>.dcm``; it holds
            identified data and is made for its owner's eyes alone.
        query: Which studies.
        reports: Table of reports as `FolderSource` takes it; a row may name a study by its UID or
            its accession number.
        text: Column of the table that holds the report.
        patience: With the PACS.

    Raises:
        InputError: As `Pacs` and `FolderSource`.
        MissingExtra: `dicomweb_client` is not installed.
        ArtifactError: The folder cannot be made.
    """

    name = "dicomweb"

    def __init__(
        self,
        url: str,
        download: Path,
        query: PacsQuery | None = None,
        reports: Path | None = None,
        text: str | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.query = query or PacsQuery()
        self.download = download
        self.pacs = Pacs(url, patience)
        try:
            download.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise _disk(error) from None
        self._folder = FolderSource(download, reports, text)
        self._has_table = reports is not None
        self._sr = Reports()
        self._studies: dict[str, PacsStudy] = {}
        self._n_failed = 0

    def items(self) -> Iterator[VolumeRef | Rejection]:
        """Retrieve study after study, sorted by identifier, and yield what each holds.

        Raises:
            InputError: The PACS cannot be asked or stopped answering; rules ``pacs-unreachable``,
                ``pacs-refused`` and ``not-dicomweb``. What was retrieved is kept. Rule
                ``not-in-pacs`` where a search without lists finds nothing.
            ArtifactError: The disk is full or refuses.
        """
        self._sr = Reports()
        studies: dict[str, PacsStudy] = {}
        for name, filters in self.query.filters():
            none = True
            for study in self._told(self.pacs.studies(filters)):
                if self.query.fits(study, filters):
                    none = False
                    studies[study.study_id] = study
            if none and name:
                yield Rejection(
                    name,
                    "not-in-pacs",
                    f"The PACS has no {self.query.modality} study of it in the dates asked for.",
                )
            if none and not name:
                raise InputError(
                    f"{self.pacs.name} has no study that was asked for: expected at least one with "
                    f"{self.query.modality} in the dates given, or in any. Widen the search.",
                    rule="not-in-pacs",
                )
        for study_id in sorted(studies):
            yield from self._study(studies[study_id])

    def _told(self, found: Iterator[PacsStudy]) -> Iterator[PacsStudy]:
        try:
            yield from found
        except (Stalled, Refused) as trouble:
            raise self._error(trouble) from None

    def _study(self, study: PacsStudy) -> Iterator[VolumeRef | Rejection]:
        if not _SAFE_UID.fullmatch(study.study_id):
            yield _unsafe("study", "-")
            return
        self._studies[study.study_id] = study
        try:
            listed = self.pacs.series(study)
        except Stalled as trouble:
            raise self._error(trouble) from None
        except Refused as refused:
            if refused.status in _NO_RIGHT:
                raise self._error(refused) from None
            yield Rejection(
                study.study_id, "incomplete-retrieval", f"Its series are not listed: {refused}."
            )
            return
        # The reports first: a volume's facts may be asked for as soon as it is yielded.
        for series in sorted(listed, key=lambda series: series.modality != "SR"):
            report = series.modality == "SR"
            if not report and not self._wants(series):
                continue
            if not _SAFE_UID.fullmatch(series.series_id):
                yield _unsafe("series", study.study_id)
                continue
            item = f"{series.study_id}/{series.series_id}"
            failed = self._fetch(series, item)
            if failed is not None:
                yield failed
            elif report:
                self._sr.add(read_sr(self.download / item, item))
            else:
                yield from self._refs(item)

    def _wants(self, series: PacsSeries) -> bool:
        part = series.body_part.lower()
        return series.modality == self.query.modality and (
            not self.query.body_part or not part or part == self.query.body_part.lower()
        )

    def _refs(self, item: str) -> Iterator[VolumeRef | Rejection]:
        """Yield what a retrieved series holds, named by its place in the download folder."""
        for found in find_volumes(self.download / item):
            below = "" if found.item == "." else f"/{found.item}"
            yield replace(found, item=item + below)

    def facts(self, ref: VolumeRef, tags: Mapping[str, Any]) -> Facts:
        """Return what the table, the study's Structured Report and the file say.

        Raises:
            InputError: As `FolderSource.facts`.
        """
        facts = self._folder.facts(ref, tags)
        study_id = ref.item.split("/")[0]
        if self._has_table and not facts.text and (accession := self.accession(ref)):
            facts = self._folder.facts(ref, {**tags, "study_id": accession})
        listed = self._studies.get(study_id)
        facts = replace(
            facts,
            # The table names studies and patients by the numbers of the PACS: none is fit to be
            # shown.
            raw_study_id=study_id,
            study_id=None,
            raw_patient_id=facts.raw_patient_id or facts.patient_id,
            patient_id=None,
            known=tuple(dict.fromkeys((*facts.known, *(listed.known if listed else ())))),
        )
        told = self._sr.find((study_id,))
        return facts if facts.text else with_report(facts, told)

    def accession(self, ref: VolumeRef) -> str:
        """Return a volume's accession number: the PACS's, else the file's; "" without one."""
        listed = self._studies.get(ref.item.split("/")[0])
        return (listed.accession if listed else "") or accession_of(ref)

    def leftovers(self) -> Iterator[Rejection]:
        """Yield the table's rows and the reports that no volume claimed."""
        yield from self._folder.leftovers()
        yield from self._sr.leftovers()

    # -- retrieval ---------------------------------------------------------------------

    def _fetch(self, series: PacsSeries, item: str) -> Rejection | None:
        """Bring a series to its place, or say why it is not there.

        Raises:
            InputError: Rule ``pacs-unreachable``.
            ArtifactError: The disk is full or refuses.
        """
        try:
            there = _uids(self.download / item)
            if there and series.n_instances is not None and len(there) >= series.n_instances:
                return None
            reason = self._receive(series, item)
        except OSError as error:
            raise _disk(error) from None
        except Refused as refused:
            reason = str(refused)
            if refused.status in _NO_RIGHT:
                raise self._error(refused) from None
        except Stalled as trouble:
            reason = str(trouble)
            self._check_alive(trouble)
        if not reason:
            self._n_failed = 0
            return None
        self._n_failed += 1
        if self._n_failed >= _MAX_FAILED_SERIES:
            raise self._error(Stalled(f"{reason}, for {self._n_failed} series one after the other"))
        return Rejection(
            item,
            "incomplete-retrieval",
            f"The series did not come whole: {reason}. Run again to ask for the rest.",
        )

    def _receive(self, series: PacsSeries, item: str) -> str:
        """Receive what is missing of a series; return why it is not whole, or ""."""
        target, aside = self.download / item, self.download / _ASIDE / item
        promised = set(self.pacs.instances(series)) - {""}
        if not promised:
            return "the PACS lists no instances of it"
        if unsafe := [uid for uid in promised if not _SAFE_UID.fullmatch(uid)]:
            return f"{len(unsafe)} of its instances have identifiers that no file can be named by"
        if promised <= _uids(target):
            return ""
        aside.mkdir(parents=True, exist_ok=True)
        if target.exists():  # the series grew in the PACS
            for file in target.glob("*.dcm"):
                file.replace(aside / file.name)
            shutil.rmtree(target)
        reason = self._receive_series(series, aside, promised)
        if missing := promised - _uids(aside):
            reason = self._receive_instances(series, aside, sorted(missing)) or reason
        if missing := promised - _uids(aside):
            n = len(promised)
            return f"{n - len(missing)} of {n} instances are here, {reason or 'others were sent'}"
        for stray in aside.glob(".*"):
            stray.unlink()
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            aside.replace(target)
        except OSError:
            if not promised <= _uids(target):  # another run was first with the same series
                raise
            shutil.rmtree(aside)
        with contextlib.suppress(OSError):  # another series of the study may still be aside
            aside.parent.rmdir()
        return ""

    def _receive_series(self, series: PacsSeries, aside: Path, promised: set[str]) -> str:
        """Ask for the whole series, until some of it came; return what went wrong, or ""."""
        before = _uids(aside)
        if len(before & promised) * 2 > len(promised):
            return ""  # of an earlier run: less is asked for one by one

        def attempt() -> str:
            try:
                return self._take(series, None, aside)
            except Stalled as trouble:
                if len(_uids(aside)) > len(before):
                    # An answer of this length does not get through: what is missing is asked for
                    # one by one, rather than from the start again and again.
                    return str(trouble)
                raise

        try:
            return patiently(attempt, self.pacs.patience)
        except Stalled as trouble:
            self._check_alive(trouble)
            return str(trouble)
        except Refused as refused:
            if refused.status in _NO_RIGHT:
                raise
            return str(refused)

    def _receive_instances(self, series: PacsSeries, aside: Path, missing: list[str]) -> str:
        """Ask for single instances; return what went wrong, or ""."""
        reason, n_failed = "", 0
        for uid in missing:
            try:
                wrong = patiently(
                    lambda uid=uid: self._take(series, uid, aside),  # type: ignore[misc]
                    self.pacs.patience,
                )
            except Refused as refused:
                if refused.status in _NO_RIGHT:
                    raise
                wrong = str(refused)
            except Stalled as trouble:
                wrong = str(trouble)
                self._check_alive(trouble)
            if wrong:
                reason, n_failed = wrong, n_failed + 1
                if n_failed >= _MAX_FAILED:
                    break
        return reason

    def _take(self, series: PacsSeries, instance: str | None, aside: Path) -> str:
        """Receive an answer into `aside`; return what was wrong with a file of it, or ""."""
        part = aside / f".{os.getpid()}.part"
        wrong = ""
        for file in self.pacs.retrieve(series, instance, part):
            try:
                uid = _whole(file, series.series_id)
            except UnreadableVolume as error:
                wrong = f"it sent a file that cannot be used ({error.rule})"
                continue
            file.replace(aside / f"{uid}.dcm")
        part.unlink(missing_ok=True)
        return wrong

    def _check_alive(self, trouble: Stalled) -> None:
        if not self.pacs.answers():
            raise self._error(trouble)

    def _error(self, trouble: Stalled | Refused) -> InputError:
        name = self.pacs.name
        if isinstance(trouble, Stalled):
            return InputError(
                f"{name} stopped answering: {trouble}, expected an answer within "
                f"{self.pacs.patience.tries} tries. What was retrieved is kept; run the same "
                "command again when it answers.",
                rule="pacs-unreachable",
            )
        if trouble.status in _NO_RIGHT:
            return InputError(
                f"{name} refuses: {trouble}. Expected credentials it knows and that may read these "
                f"studies, in {ENVIRONMENT}_TOKEN, or {ENVIRONMENT}_USER and "
                f"{ENVIRONMENT}_PASSWORD. Set them and run again.",
                rule="pacs-refused",
            )
        return InputError(
            f"{name} does not take the search: {trouble}. Expected the root of a DICOMweb service, "
            "such as http://host:8042/dicom-web. Check the address.",
            rule="not-dicomweb",
        )


def _whole(file: Path, series_id: str) -> str:
    """Return the SOPInstanceUID of a received file.

    Raises:
        UnreadableVolume: It is not DICOM, breaks off, or is not of the series.
    """
    header = read_header(file)
    end = header.pixel_offset + header.pixel_bytes
    native = header.pixel_offset >= 0 and header.pixel_bytes != UNDEFINED
    if native and header.transfer_syntax != DEFLATED_LE and end > file.stat().st_size:
        raise UnreadableVolume("The pixels break off.", rule="truncated")
    if header.series_id != series_id or not _SAFE_UID.fullmatch(header.sop_instance):
        raise UnreadableVolume("It is not of the series that was asked for.", rule="other-series")
    return header.sop_instance


def _uids(folder: Path) -> set[str]:
    return {file.stem for file in folder.glob("[!.]*.dcm")}


def _unsafe(what: str, where: str) -> Rejection:
    return Rejection(
        where,
        "unsafe-id",
        f"The PACS lists a {what} whose identifier is none, or could name a file elsewhere: "
        "expected a UID of digits and points. It was not asked for.",
    )


def _disk(error: OSError) -> ArtifactError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ArtifactError(
            "The disk of the download folder is full. What came whole is kept, and nothing half "
            "received is taken for whole. Make room, or give another folder, and run again."
        )
    return ArtifactError(
        f"The download folder cannot be written: {error.strerror or type(error).__name__}. Check "
        "its permissions, or give another folder, and run again."
    )
