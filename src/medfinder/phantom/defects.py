"""What goes wrong in archives, one small function a defect: planted, and written down as planted.

A defect changes one `Session`, which has no other, and says what a curation must do about it. Its
function returns what it planted, or None where the session does not lend itself to it. A new
defect is a new function under `@defect`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from medfinder.phantom.case import KINDS
from medfinder.phantom.pairs import DENIALS, english, word_pair
from medfinder.phantom.sessions import SHARP, Layout, Scan, Session
from medfinder.phantom.wording import plain
from medfinder.records import Language

Expected = Literal["rejection", "doubt", "split", "removed", "cleaned"]
BIMCV: tuple[Layout, ...] = ("bimcv", "bimcv_r")
LABELLED: tuple[Layout, ...] = ("bimcv", "bimcv_r", "ct_rate")
EVERY: tuple[Layout, ...] = ("bimcv", "bimcv_r", "ct_rate", "merlin")
USUAL = 0.015
"""Share of a defect whose published rate is not known."""
PLACEHOLDER = "Something wrong with the data! #################"
# A translation that is wrong in one way may be found by another check as well.
_TRANSLATION = tuple(
    f"translation-{what}"
    for what in ("number", "unit", "negation", "side", "residue", "length", "findings")
)


@dataclass(frozen=True, slots=True)
class Planted:
    """One planted defect: a line of ``planted.jsonl``.

    Attributes:
        item: Path from the archive's root, or what its table calls a row that is wrong.
        expect: What a curation must make of it. ``"cleaned"``: the study is kept as if nothing
            were wrong; ``"removed"``: its canaries are nowhere; ``"split"``: all that share a
            patient or a text are in one split.
        rule: Of the rejection or doubt; "" for the other three.
        also: Rules that may name the same item too, without being wrong.
        or_item: The other half of a pair of which either may be the one that is named.
    """

    defect: str
    item: str
    study_id: str
    patient_id: str
    expect: Expected
    rule: str = ""
    also: tuple[str, ...] = ()
    or_item: str = ""


@dataclass(slots=True)
class Plot:
    """Where a defect is planted.

    Attributes:
        session: To be changed.
        donor: A sound session before it, of another patient or of the same one, as the defect
            asks; None where it asks for none.
        place: Tells the path of a session's scan, from the archive's root.
        rng: Of this session and defect.
        canaries: Grows by what must be found nowhere.
    """

    session: Session
    layout: Layout
    language: Language
    place: Callable[[Session, Scan], str]
    rng: np.random.Generator
    canaries: list[str]
    donor: Session | None = None

    def planted(
        self,
        defect: str,
        expect: Expected,
        rule: str = "",
        *,
        item: str = "",
        also: tuple[str, ...] = (),
        or_item: str = "",
        session: Session | None = None,
    ) -> Planted:
        """Return the line that says so, of this session or of `session`."""
        at = session or self.session
        return Planted(
            defect,
            item or at.study_id,
            at.study_id,
            at.patient.patient_id,
            expect,
            rule,
            also,
            or_item,
        )

    def row_rejected(self, defect: str, rule: str, also: tuple[str, ...] = ()) -> list[Planted]:
        """Return the line of a rejection of the session's row, as its table names it."""
        study = self.session.study_id
        item = f"{study}_1.nii.gz" if self.layout == "ct_rate" else study
        return [self.planted(defect, "rejection", rule, item=item, also=also)]

    def rejected(self, defect: str, rule: str, also: tuple[str, ...] = ()) -> list[Planted]:
        """Return the line of a rejection of the session's first volume."""
        item = self.place(self.session, self.session.scan)
        return [self.planted(defect, "rejection", rule, item=item, also=also)]

    def doubted(self, defect: str, rule: str, also: tuple[str, ...] = ()) -> list[Planted]:
        """Return the line of a doubt about the session."""
        return [self.planted(defect, "doubt", rule, also=also)]

    def one(self, options: tuple[str, ...]) -> str:
        """Draw one."""
        return options[int(self.rng.integers(len(options)))]

    def append(self, es: str, en: str) -> None:
        """Add a sentence to the end of the report and of its translation."""
        session = self.session
        own = es if self.language == "es" else en
        if self.layout in BIMCV and self.language == "es":
            own = plain(own)
        session.text = f"{session.text} {own}"
        if session.translation:
            session.translation = f"{session.translation} {en}"


Plant = Callable[[Plot], list[Planted] | None]


@dataclass(frozen=True, slots=True)
class Defect:
    """One kind of defect.

    Attributes:
        name: Its id.
        plant: Changes a session.
        share: Of the sessions that get it by default: the published rate where there is one.
        layouts: Where it can occur.
        needs_volume: Whether it cannot occur in a table alone.
        donor: Whose session it takes something from.
    """

    name: str
    plant: Plant
    share: float = USUAL
    layouts: tuple[Layout, ...] = EVERY
    needs_volume: bool = False
    donor: Literal["", "other", "same"] = ""


DEFECTS: dict[str, Defect] = {}
"""Every defect, by name, in the order in which they are dealt."""


def defect(
    name: str,
    share: float = USUAL,
    layouts: tuple[Layout, ...] = EVERY,
    *,
    needs_volume: bool = False,
    donor: Literal["", "other", "same"] = "",
) -> Callable[[Plant], Plant]:
    """Add a function to `DEFECTS`."""

    def add(plant: Plant) -> Plant:
        DEFECTS[name] = Defect(name, plant, share, layouts, needs_volume, donor)
        return plant

    return add


# Volumes ------------------------------------------------------------------------------------


def _treated(name: str, treatment: str, rule: str, also: tuple[str, ...] = ()) -> None:
    def plant(plot: Plot) -> list[Planted]:
        plot.session.scan.treatment = treatment
        return plot.rejected(name, rule, also)

    DEFECTS[name] = Defect(name, plant, needs_volume=True)


_treated("truncated", "truncated", "truncated", ("unreadable", "corrupt"))
_treated("not-a-volume", "web-page", "not-nifti", ("unreadable", "corrupt"))
_treated("too-few-slices", "few-slices", "too-few-slices")
_treated("blank-header", "blank", "blank-header")
_treated("wrong-unit", "shrunk", "implausible-spacing")
_treated("not-hu-offset", "offset", "not-hu-offset")
_treated("not-hu-windowed", "windowed", "not-hu-windowed")


def _doubled(name: str, treatment: str, rule: str, also: tuple[str, ...]) -> None:
    def plant(plot: Plot) -> list[Planted] | None:
        donor, session = plot.donor, plot.session
        if donor is None:
            return None
        session.scans = [Scan(donor.scan.seed, donor.scan.case, treatment=treatment)]
        item, other = plot.place(session, session.scan), plot.place(donor, donor.scan)
        return [plot.planted(name, "rejection", rule, item=item, or_item=other, also=also)]

    DEFECTS[name] = Defect(name, plant, needs_volume=True, donor="other")


_doubled("duplicate-volume", "", "duplicate-volume", ("near-duplicate-volume",))
_doubled("near-duplicate-noise", "noise", "near-duplicate-volume", ("duplicate-volume",))
_doubled("near-duplicate-offset", "shifted", "near-duplicate-volume", ("duplicate-volume",))


@defect("volume-missing", needs_volume=True)
def _volume_missing(plot: Plot) -> list[Planted]:
    """Promise a volume that is not there."""
    plot.session.scan.is_there = False
    return plot.row_rejected("volume-missing", "volume-missing")


@defect("only-radiograph", 0.04, ("bimcv",), needs_volume=True)
def _only_radiograph(plot: Plot) -> list[Planted]:
    """Make the session one of a radiograph, which the label table lists like any other."""
    plot.session.scan.modality = "cr" if plot.rng.random() < 0.5 else "dx"
    return plot.rejected("only-radiograph", "other-modality", also=("volume-missing",))


@defect("not-listed", needs_volume=True)
def _not_listed(plot: Plot) -> list[Planted]:
    """Leave a volume out of the tables."""
    plot.session.n_rows = 0
    return plot.doubted("not-listed", "not-listed", also=("no-labels",))


# Rows ---------------------------------------------------------------------------------------


@defect("duplicate-row")
def _duplicate_row(plot: Plot) -> list[Planted]:
    """Write a row twice."""
    plot.session.n_rows = 2
    return plot.row_rejected("duplicate-row", "duplicate-row")


@defect("unsafe-id", layouts=("bimcv", "bimcv_r", "ct_rate"))
def _unsafe_id(plot: Plot) -> list[Planted]:
    """Name the study so that its path climbs out of the archive; nothing lies there."""
    session = plot.session
    session.study_id = f"../../../{session.study_id}"
    session.scan.is_there = False
    return plot.row_rejected("unsafe-id", "unsafe-id", also=("volume-missing",))


@defect("formula-cell")
def _formula(plot: Plot) -> list[Planted]:
    """Begin the report as a spreadsheet's formula begins."""
    session = plot.session
    formula = plot.one(
        (
            '=HYPERLINK("http://archive.invalid/leak","open") ',
            "+cmd|' /C calc'!A0 ",
            "@SUM(1+1)*cmd|' /C calc'!A0 ",
        )
    )
    session.text = formula + session.text
    return plot.doubted("formula-cell", "formula-cell", also=_TRANSLATION)


@defect("nan-report")
def _nan_report(plot: Plot) -> list[Planted]:
    """Hold ``nan`` where a report was not there."""
    session = plot.session
    session.text = session.impression = "nan"
    session.translation = ""
    also = ("no-report", "placeholder-report", "label-unmentioned", "short-report")
    return [plot.planted("nan-report", "cleaned", also=also)]


@defect("nan-cell", layouts=LABELLED)
def _nan_cell(plot: Plot) -> list[Planted]:
    """Hold ``nan`` in a cell that does not matter."""
    cells = {"Localizations": "nan", "num": "nan", "LocalizationsCUIS": "nan"}
    plot.session.cells |= {"ClinicalInformation_EN": "nan"} if plot.layout == "ct_rate" else cells
    return [plot.planted("nan-cell", "cleaned")]


@defect("quotes-in-list", layouts=BIMCV)
def _quotes(plot: Plot) -> list[Planted]:
    """Quote a list's entries in more than one way."""
    labels = [
        f'" {label}"' if i % 2 else f"'{label} '" for i, label in enumerate(plot.session.labels)
    ]
    plot.session.cells["Labels"] = "[" + ", ".join(["''", *labels, "''"]) + "]"
    plot.session.cells["Localizations"] = "[\"loc d'hilio\", 'loc \"pleural\"', '']"
    return [plot.planted("quotes-in-list", "cleaned")]


@defect("broken-sidecar", layouts=("bimcv",), needs_volume=True)
def _broken_sidecar(plot: Plot) -> list[Planted]:
    """End a sidecar in the middle: no reason to lose the CT."""
    plot.session.has_broken_sidecar = True
    return plot.doubted("broken-sidecar", "broken-sidecar")


# Reports ------------------------------------------------------------------------------------


@defect("placeholder-report")
def _placeholder_report(plot: Plot) -> list[Planted]:
    """Hold a message in place of the report."""
    session = plot.session
    session.text = PLACEHOLDER
    session.impression = session.translation = ""
    also = (
        *("short-report", "language-mismatch", "shared-report", "translation-placeholder"),
        *("label-unmentioned", *_TRANSLATION),
    )
    return plot.doubted("placeholder-report", "placeholder-report", also)


@defect("short-report")
def _short_report(plot: Plot) -> list[Planted] | None:
    """Say only what was found, in fewer than ten words."""
    session = plot.session
    told = [
        s
        for s in session.sentences
        if s.about and not s.denies and max(len(s.en.split()), len(s.es.split())) < 9
    ]
    if not told:
        return None
    session.sentences = (told[0],)
    session.labels = [told[0].about[0]]
    # The free-standing point of this archive's Spanish counts as a word of its own.
    spanish = plain(told[0].es) if plot.layout in BIMCV else told[0].es
    session.text = spanish if plot.language == "es" else told[0].en
    session.impression = ""
    session.translation = told[0].en if session.translation else ""
    return plot.doubted("short-report", "short-report", also=("shared-report",))


@defect("shared-report", 0.012, donor="other")
def _shared_report(plot: Plot) -> list[Planted] | None:
    """Give two patients one report, which fits both."""
    if plot.donor is None:
        return None
    _copy_report(plot, plot.donor)
    return [
        plot.planted("shared-report", "doubt", "shared-report", session=session)
        for session in (plot.session, plot.donor)
    ]


@defect("shared-within-patient", 0.01, LABELLED, donor="same")
def _shared_within_patient(plot: Plot) -> list[Planted] | None:
    """Give two sessions of a patient one report."""
    if plot.donor is None:
        return None
    _copy_report(plot, plot.donor)
    return [
        plot.planted("shared-within-patient", "split", session=session, also=("shared-report",))
        for session in (plot.session, plot.donor)
    ]


def _copy_report(plot: Plot, donor: Session) -> None:
    session = plot.session
    session.case = replace(session.case, findings=donor.case.findings)
    session.scans = [Scan(session.seed, session.case)]
    session.sentences = donor.sentences
    session.labels = list(donor.labels)
    session.text, session.translation = donor.text, donor.translation
    session.impression = donor.impression


@defect("language-mismatch", layouts=BIMCV)
def _language_mismatch(plot: Plot) -> list[Planted] | None:
    """Hold the English report in the Spanish column."""
    if plot.language != "es":
        return None
    plot.session.text = english(plot.session.sentences)
    return plot.doubted("language-mismatch", "language-mismatch", also=_TRANSLATION)


# Labels -------------------------------------------------------------------------------------

_STEMS = {
    "pneumothorax": r"neumot|pneumot",
    "pericardial effusion": r"pericard",
    "emphysema": r"enfisem|emphys",
    "hiatal hernia": r"hernia",
    "pleural plaques": r"placas|plaque",
    "bronchiectasis": r"bronquiec|bronchiec",
    "cardiomegaly": r"cardiomeg",
}


@defect("label-negated", layouts=LABELLED)
def _label_negated(plot: Plot) -> list[Planted] | None:
    """Label a finding that the report only denies."""
    for denial in DENIALS:
        name = denial.about[0]
        if len(denial.about) > 1 or name not in _STEMS or plot.session.case.has(name):
            continue
        if not _column_of(plot, name):
            continue
        if not re.search(_STEMS[name], plot.session.text, re.IGNORECASE):
            plot.append(denial.es, denial.en)
        plot.session.labels.append(name)
        return plot.doubted("label-negated", "label-negated")
    return None


@defect("label-unmentioned", layouts=LABELLED)
def _label_unmentioned(plot: Plot) -> list[Planted] | None:
    """Label a finding that the report does not mention."""
    options: tuple[str, ...] = ("scoliosis", "goiter", "gynecomastia", "mastectomy", "azygos lobe")
    if plot.layout == "ct_rate":
        options = tuple(
            name
            for name, stem in _STEMS.items()
            if _column_of(plot, name) and not re.search(stem, plot.session.text, re.IGNORECASE)
        )
    if not options:
        return None
    plot.session.labels.append(plot.one(options))
    return plot.doubted("label-unmentioned", "label-unmentioned")


@defect("label-missing", layouts=LABELLED)
def _label_missing(plot: Plot) -> list[Planted] | None:
    """Leave out a label that the report affirms; another one is kept."""
    labels = plot.session.labels
    for name in labels:
        if len(labels) > 1 and name in _STEMS and _column_of(plot, name):
            labels.remove(name)
            return plot.doubted("label-missing", "label-missing")
    return None


@defect("no-labels", layouts=BIMCV)
def _no_labels(plot: Plot) -> list[Planted] | None:
    """Leave the list of labels empty where the report states findings."""
    if not plot.session.labels:
        return None
    plot.session.labels = []
    plot.session.cells["Labels"] = plot.one(("[]", "", "['', '']", "nan"))
    return plot.doubted("no-labels", "no-labels", also=("label-missing",))


def _column_of(plot: Plot, name: str) -> str:
    """Return the label's column in the layout; "" where it has none."""
    if plot.layout != "ct_rate":
        return name if name in KINDS else ""
    from medfinder.report.vocabulary import vocabulary

    label = vocabulary().get(name).label or ""
    sharing = [other for other in plot.session.labels if vocabulary().get(other).label == label]
    return "" if sharing and sharing != [name] else label


# Translations -------------------------------------------------------------------------------

_ONLY_R: tuple[Layout, ...] = ("bimcv_r",)


@defect("translation-placeholder", 0.079, _ONLY_R)
def _translation_placeholder(plot: Plot) -> list[Planted]:
    """Hold the message that the published table holds."""
    plot.session.translation = PLACEHOLDER
    return plot.doubted("translation-placeholder", "translation-placeholder", also=_TRANSLATION)


@defect("translation-of-another", 0.005, _ONLY_R, donor="other")
def _translation_of_another(plot: Plot) -> list[Planted] | None:
    """Hold the English of another study, whose findings are others."""
    if plot.donor is None or set(plot.donor.labels) == set(plot.session.labels):
        return None
    plot.session.translation = plot.donor.translation
    name, also = "translation-of-another", ("shared-report", *_TRANSLATION)
    return [
        *plot.doubted(name, "translation-findings", also),
        plot.planted(name, "cleaned", session=plot.donor, also=also),
    ]


@defect("same-source-other-translation", 0.019, _ONLY_R, donor="other")
def _other_translation(plot: Plot) -> list[Planted] | None:
    """Translate one Spanish text in two ways."""
    donor = plot.donor
    if donor is None:
        return None
    _copy_report(plot, donor)
    also = ("shared-report", *_TRANSLATION)  # another wording may tell less
    for variant in range(1, 20):
        by_first_word = {s.about: s for s in word_pair(donor.case, donor.seed, variant)}
        told = [by_first_word.get(s.about, s) if s.about else s for s in donor.sentences]
        text = " ".join(s.en for s in told)
        if text != donor.translation and _same_figures(text, donor.translation):
            plot.session.translation = text
            name = "same-source-other-translation"
            return [
                plot.planted(name, "doubt", name, session=session, also=also)
                for session in (plot.session, donor)
            ]
    # "There is" for "A ...": another wording of any report.
    plot.session.translation = f"Report: {donor.translation}"
    name = "same-source-other-translation"
    return [
        plot.planted(name, "doubt", name, session=session, also=also)
        for session in (plot.session, donor)
    ]


def _same_figures(a: str, b: str) -> bool:
    return sorted(re.findall(r"[\d.]+", a)) == sorted(re.findall(r"[\d.]+", b))


_LEFT_IN_SPANISH = {
    "effusion": "derrame",
    "lung": "pulmon",
    "lobe": "lobulo",
    "nodule": "nodulo",
    "normal": "de tamaño normal",
    "study": "estudio",
    "seen": "observa",
    "without": "sin",
    "trachea": "traquea",
    "kidneys": "riñones",
    "spleen": "bazo",
    "signs": "signos de",
    "bases": "ambas bases",
    "wall": "pared toracica",
}


@defect("translation-residue", 0.055, _ONLY_R)
def _residue(plot: Plot) -> list[Planted] | None:
    """Leave words untranslated."""
    words = plot.session.translation.split(" ")
    places = [i for i, w in enumerate(words) if w.strip(".,").lower() in _LEFT_IN_SPANISH]
    if len(places) < 2:
        return None
    for i in (places[int(k)] for k in plot.rng.permutation(len(places))[:3]):
        mark = words[i][-1] if words[i][-1] in ".," else ""
        words[i] = _LEFT_IN_SPANISH[words[i].strip(".,").lower()] + mark
    plot.session.translation = " ".join(words)
    return plot.doubted("translation-residue", "translation-residue", also=_TRANSLATION)


@defect("translation-negation", layouts=_ONLY_R)
def _dropped_negation(plot: Plot) -> list[Planted] | None:
    """Drop a denial's "no"."""
    text = plot.session.translation
    changed = re.sub(r"\b(?:There is )?[Nn]o (?:signs of )?(?=[a-z])", "", text, count=1)
    changed = changed if changed != text else re.sub(r"\bWithout ", "", text, count=1)
    if changed == text:
        return None
    plot.session.translation = changed
    return plot.doubted("translation-negation", "translation-negation", also=_TRANSLATION)


@defect("translation-side", layouts=_ONLY_R)
def _swapped_side(plot: Plot) -> list[Planted] | None:
    """Swap left and right once."""
    other = {"left": "right", "right": "left", "Left": "Right", "Right": "Left"}
    changed, n = re.subn(
        r"\b(left|right|Left|Right)\b", lambda m: other[m[0]], plot.session.translation, count=1
    )
    if not n:
        return None
    plot.session.translation = changed
    return plot.doubted("translation-side", "translation-side", also=_TRANSLATION)


@defect("translation-number", layouts=_ONLY_R)
def _changed_number(plot: Plot) -> list[Planted] | None:
    """Change a size."""
    changed, n = re.subn(
        r"\b(\d+)(?= mm| cm|\.\d)",
        lambda m: str(int(m[1]) + 1 + int(plot.rng.integers(9))),
        plot.session.translation,
        count=1,
    )
    if not n:
        return None
    plot.session.translation = changed
    return plot.doubted("translation-number", "translation-number", also=_TRANSLATION)


# Identities ---------------------------------------------------------------------------------


@defect("identity-text", 0.03)
def _identity_text(plot: Plot) -> list[Planted]:
    """Name patient, physician and place in the report."""
    who = plot.session.patient.identity
    day = plot.session.study_date
    shown = (f"{day:%d/%m/%Y}", f"{day.day} de {_MONTHS[day.month - 1]} de {day.year}")
    found: tuple[str, ...]
    if plot.rng.random() < 0.5:
        es = f"Paciente: {who.name}, DNI {who.dni}, teléfono {who.phone}."
        en = f"Patient: {who.name}, DNI {who.dni}, phone {who.phone}."
        found = (who.name, *who.surnames, who.dni, who.phone)
    else:
        date_es, date_en = (shown[0],) * 2 if plot.rng.random() < 0.5 else (shown[1], shown[0])
        es = f"Informe firmado por la Dra. {who.physician} en el {who.hospital} el {date_es}."
        en = f"Report signed by Dr. {who.physician} at {who.hospital} on {date_en}."
        place = who.hospital.removeprefix("Hospital ")
        found = (who.physician, *who.physician.split()[1:], place, date_es, date_en)
    plot.append(es, en)
    plot.canaries += found
    return [plot.planted("identity-text", "removed")]


_MONTHS = (
    *("enero", "febrero", "marzo", "abril", "mayo", "junio", "julio", "agosto", "septiembre"),
    *("octubre", "noviembre", "diciembre"),
)


@defect("identity-sidecar", 0.02, ("bimcv",), needs_volume=True)
def _identity_sidecar(plot: Plot) -> list[Planted]:
    """Leave what identifies the patient in a sidecar."""
    who = plot.session.patient.identity
    plot.session.tags = {
        "PatientName": f"{who.surnames[0]} {who.surnames[1]}^{who.given}".upper(),
        "PatientID": who.nhc,
        "PatientAddress": who.address,
        "PatientBirthDate": f"{who.birth:%Y%m%d}",
        "InstitutionName": who.hospital,
        "ReferringPhysicianName": who.physician,
    }
    plot.canaries += (*plot.session.tags.values(), *who.surnames)
    return [plot.planted("identity-sidecar", "removed")]


@defect("identity-header", needs_volume=True)
def _identity_header(plot: Plot) -> list[Planted]:
    """Leave the patient's name in a volume's header."""
    who = plot.session.patient.identity
    plot.session.scan.descrip = f"{plain(who.name).upper()} {who.dni}"
    plot.canaries += (plain(who.name), who.dni)
    return [plot.planted("identity-header", "removed")]


# Beside sound sessions ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Beside:
    """What an archive holds beside its first volumes, as shares of the sound sessions.

    Attributes:
        second_series: A second reconstruction of the volume, half of them thick, half sharp.
        radiograph: A CR or DX in the same session.
        other_part: A CT of the abdomen in the same session.
    """

    second_series: float = 0.12
    radiograph: float = 0.15
    other_part: float = 0.04


def put_beside(plot: Plot, beside: Beside) -> list[Planted]:
    """Add to a sound session what is no defect of it, and say what becomes of it."""
    session, lines = plot.session, []
    series, radiograph, part = (float(v) for v in plot.rng.random(3))
    if series < beside.second_series and plot.layout != "merlin":
        treatment = "thick" if series < beside.second_series / 2 else "sharp"
        kernel = SHARP if treatment == "sharp" else session.scan.kernel
        scan = Scan(session.seed, session.case, run=2, treatment=treatment, kernel=kernel)
        session.scans.append(scan)
        lines.append(
            plot.planted(
                f"second-series-{treatment}",
                "rejection",
                "other-series",
                item=plot.place(session, scan),
                # Which of two equally thin series is better is the curation's to say.
                or_item=plot.place(session, session.scan) if treatment == "sharp" else "",
            )
        )
    if plot.layout != "bimcv":
        return lines
    for wanted, name, rule, scan in (
        (
            radiograph < beside.radiograph,
            "other-modality",
            "other-modality",
            Scan(
                session.seed + 1,
                session.case,
                modality="cr" if radiograph < beside.radiograph / 2 else "dx",
            ),
        ),
        (
            part < beside.other_part,
            "other-body-part",
            "other-body-part",
            Scan(session.seed + 500_000, session.case, part="abdomen"),
        ),
    ):
        if wanted:
            session.scans.append(scan)
            item = plot.place(session, scan)
            lines.append(plot.planted(name, "rejection", rule, item=item))
    return lines


@dataclass(frozen=True, slots=True)
class Rates:
    """How often each defect is planted.

    Attributes:
        shares: Of the sessions, by a defect's name; those not named keep their own.
        scale: Of all shares.
        beside: What lies beside sound sessions.
    """

    shares: Mapping[str, float] = field(default_factory=dict)
    scale: float = 1.0
    beside: Beside = field(default_factory=Beside)

    def of(self, layout: Layout, has_volumes: bool) -> dict[str, float]:
        """Return the share of each defect that can occur, largest sum 1.

        Raises:
            ConfigError: Unknown defect, a share outside 0 to 1, or a sum above 0.9.
        """
        from medfinder.errors import ConfigError
        from medfinder.registry import unknown

        for name in self.shares:
            if name not in DEFECTS:
                raise ConfigError(unknown("defect", name, sorted(DEFECTS)), rule="phantom")
        found = {
            d.name: self.scale * self.shares.get(d.name, d.share)
            for d in DEFECTS.values()
            if layout in d.layouts and (has_volumes or not d.needs_volume)
        }
        total = sum(found.values())
        if min(found.values()) < 0 or total > 0.9:
            raise ConfigError(
                f"The defects' shares must be at least 0 and leave a tenth of the sessions sound; "
                f"got a sum of {total:.2f}. Lower the scale.",
                rule="phantom",
            )
        return {name: share for name, share in found.items() if share > 0}
