"""Reports that come apart from the volumes → the one that belongs to a study, and why not others.

FHIR and DICOM SR both give `ReportRow`s. `Reports` keeps them on disk and chooses; `Reported` puts
them beside the volumes of any source. Does not know how either format is written.
"""

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, fields, replace
from typing import Any, Literal, get_args

from medfinder.curate.sources.source import Facts, Source, TableRow
from medfinder.errors import InputError
from medfinder.records import Language, Rejection
from medfinder.volume.read import VolumeRef

ReportStatus = Literal["final", "amended", "preliminary", "cancelled", "entered-in-error"]

_WHY_LEFT_OUT: Mapping[str, str] = {
    "preliminary": "The report is preliminary: only final and amended ones are taken.",
    "cancelled": "The report was cancelled.",
    "entered-in-error": "The report was entered in error and is withdrawn.",
}


@dataclass(frozen=True, slots=True)
class ReportRow:
    """One version of a report of one study, with raw identity; it does not leave `curate`.

    Attributes:
        item: Names its place in messages, such as ``"reports.ndjson line 7"``; no identity.
        study_id: StudyInstanceUID; "" where only an accession number is given.
        accession: Accession number; "" without one.
        patient: As the report names the patient; "" where it does not.
        language: Of `text`; None has it told from the words.
        translation: English that the report gives beside `text`.
        document: Shared by the versions of one report, of which the last counts; "" for none.
        version: Sorts the versions of one document.
        issued: Sorts the reports of one study; ISO, UTC.
        known: Names and numbers of persons beside the text, by which it is de-identified.
    """

    item: str
    text: str
    study_id: str = ""
    accession: str = ""
    patient: str = ""
    language: Language | None = None
    status: ReportStatus = "final"
    translation: str = ""
    document: str = ""
    version: str = ""
    issued: str = ""
    known: tuple[str, ...] = ()


_COLUMNS = tuple(field.name for field in fields(ReportRow))


class Reports:
    """Reports by the study they are of.

    They lie in a temporary database on disk that nobody else can open and that goes with the
    process, so that memory does not grow with them.

    Args:
        items: Read at once; rejections among them are told by `leftovers`.
    """

    def __init__(self, items: Iterable[ReportRow | Rejection] = ()) -> None:
        self._db = sqlite3.connect("", check_same_thread=False)
        self._db.execute(
            f"CREATE TABLE report (n INTEGER PRIMARY KEY, {', '.join(_COLUMNS)}, outcome)"
        )
        self._db.execute("CREATE INDEX by_study ON report (study_id)")
        self._db.execute("CREATE INDEX by_accession ON report (accession)")
        self._db.execute("CREATE INDEX by_document ON report (document)")
        self._db.execute("CREATE TABLE rejection (item, rule, reason)")
        self.add(items)

    def add(self, items: Iterable[ReportRow | Rejection]) -> None:
        """Take in more reports."""
        marks = ", ".join("?" * len(_COLUMNS))
        for item in items:
            if isinstance(item, Rejection):
                self._db.execute("INSERT INTO rejection VALUES (?, ?, ?)", astuple(item))
            else:
                values = (*astuple(item)[:-1], json.dumps(item.known))
                self._db.execute(
                    f"INSERT INTO report ({', '.join(_COLUMNS)}) VALUES ({marks})",  # noqa: S608 # nosec
                    values,
                )

    @property
    def bear_accessions(self) -> bool:
        """Whether any report is known by its accession number alone."""
        query = "SELECT 1 FROM report WHERE accession > '' AND study_id = '' LIMIT 1"
        return self._db.execute(query).fetchone() is not None

    def find(self, study_ids: Iterable[str], accession: str = "") -> ReportRow | None:
        """Return the report of a study: amended before final, then the one issued last.

        Of several versions of a document only the last counts: a report that was withdrawn after
        it was final is none.

        Args:
            study_ids: What the study is called, the surest name first.
            accession: Looked for where no report names the study itself.

        Raises:
            InputError: Rule ``ambiguous-report``: reports of several patients bear the accession
                number.
        """
        for study_id in study_ids:
            if study_id and (rows := self._rows("study_id = ?", study_id)):
                return self._choose(rows)
        if not accession:
            return None
        rows = self._rows("accession = ? AND study_id = ''", accession)
        n_patients = len({row.patient for _, row in rows if row.patient})
        if n_patients > 1:
            raise InputError(
                f"Reports of {n_patients} patients bear this study's accession number: expected "
                "one patient. Give the reports the StudyInstanceUID.",
                rule="ambiguous-report",
            )
        return self._choose(rows) if rows else None

    def _rows(self, where: str, value: str) -> list[tuple[int, ReportRow]]:
        query = f"SELECT n, {', '.join(_COLUMNS)} FROM report WHERE {where} ORDER BY n"  # noqa: S608 # nosec
        found = []
        for n, *values in self._db.execute(query, (value,)):
            cells = dict(zip(_COLUMNS, values, strict=True))
            found.append((n, ReportRow(**cells | {"known": tuple(json.loads(cells["known"]))})))
        return found

    def _choose(self, rows: list[tuple[int, ReportRow]]) -> ReportRow | None:
        last: dict[str, tuple[int, ReportRow]] = {}
        for n, row in rows:
            key = row.document or str(n)
            if key not in last or row.version >= last[key][1].version:
                last[key] = n, row
        usable = [(n, row) for n, row in last.values() if row.status in ("final", "amended")]
        chosen = max(
            usable, key=lambda x: (x[1].status == "amended", x[1].issued, x[0]), default=None
        )
        for n, row in rows:
            if chosen and n == chosen[0]:
                outcome = ("", "")
            elif (n, row) in last.values() and row.status in _WHY_LEFT_OUT:
                outcome = ("report-status", _WHY_LEFT_OUT[row.status])
            elif chosen and row.text == chosen[1].text:
                outcome = ("duplicate-row", f"The same report as {chosen[1].item}.")
            else:
                by = chosen[1].item if chosen else "a later version, which is withdrawn"
                outcome = ("report-superseded", f"Another report of the study counts: {by}.")
            self._db.execute("UPDATE report SET outcome = ? WHERE n = ?", ("\0".join(outcome), n))
        return chosen[1] if chosen else None

    def leftovers(self) -> Iterator[Rejection]:
        """Yield, after all volumes, every report that no study took, with the reason."""
        for item, rule, reason in self._db.execute("SELECT * FROM rejection ORDER BY rowid"):
            yield Rejection(item, rule, reason)
        query = "SELECT item, status, outcome FROM report ORDER BY n"
        for item, status, outcome in self._db.execute(query):
            if outcome:
                rule, reason = outcome.split("\0")
                if rule:
                    yield Rejection(item, rule, reason)
            elif status in _WHY_LEFT_OUT:
                yield Rejection(item, "report-status", _WHY_LEFT_OUT[status])
            else:
                yield Rejection(
                    item, "volume-missing", "The report is of a study that has no volume here."
                )


class Reported:
    """A source whose studies get their reports from elsewhere.

    A report found for a study replaces the text that the source itself gives.

    Args:
        accession: Tells a volume's accession number, where the source knows better than the file.
    """

    def __init__(
        self,
        source: Source,
        reports: Reports,
        accession: Callable[[VolumeRef], str] | None = None,
    ) -> None:
        self.name = source.name
        self.source = source
        self.reports = reports
        self._accession = accession or accession_of

    def items(self) -> Iterator[VolumeRef | TableRow | Rejection]:
        """Yield what the source yields."""
        yield from self.source.items()

    def facts(self, ref: VolumeRef, tags: Mapping[str, Any]) -> Facts:
        """Return what the source knows of a volume, with its report.

        Raises:
            InputError: As the source, and as `Reports.find`.
        """
        facts = self.source.facts(ref, tags)
        names = (facts.raw_study_id, facts.study_id, facts.fallback_id.split("/")[-1])
        row = self.reports.find(filter(None, names))
        if row is None and self.reports.bear_accessions:
            row = self.reports.find((), self._accession(ref))
        return with_report(facts, row)

    def leftovers(self) -> Iterator[Rejection]:
        """Yield the source's leftovers, then the reports'."""
        yield from self.source.leftovers()
        yield from self.reports.leftovers()


def with_report(facts: Facts, row: ReportRow | None) -> Facts:
    """Return facts with the report of `row`, if there is one."""
    if row is None:
        return facts
    return replace(
        facts,
        text=row.text,
        language=row.language,
        translation=row.translation,
        known=tuple(dict.fromkeys((*facts.known, *row.known))),
        # What the source noticed of its own list of reports says nothing of this one.
        doubts=tuple(doubt for doubt in facts.doubts if doubt[0] != "not-listed"),
    )


def accession_of(ref: VolumeRef) -> str:
    """Return the accession number in a DICOM volume's first file; "" where there is none."""
    if ref.kind != "dicom":
        return ""
    import warnings

    from pydicom import dcmread

    path = ref.files[0] if ref.files else ref.path
    if path.is_dir():
        path = min((p for p in path.rglob("*") if p.is_file() and p.name[0] != "."), default=path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of values that break the standard
            found = dcmread(
                path, stop_before_pixels=True, force=True, specific_tags=["AccessionNumber"]
            )
            return str(found.get("AccessionNumber") or "").strip()
    except Exception:  # whether the file is sound is told by who reads the volume
        return ""


def language_of(code: str | None) -> Language | None:
    """Return the language that a code such as ``es-ES`` or ``spa`` means, if it is one of ours."""
    short = {"eng": "en", "spa": "es"}.get((code or "").lower(), (code or "").lower())
    for language in get_args(Language):
        if short == language or short.startswith((f"{language}-", f"{language}_")):
            return "es" if language == "es" else "en"
    return None
