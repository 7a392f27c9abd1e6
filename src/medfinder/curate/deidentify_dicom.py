"""A CT series as the scanner left it → the same voxels under a header that names nobody.

Two walls. Ours comes first: a list of the attributes that a CT needs (`deidentify_dicom.toml`);
whatever is not on it goes, in every depth, private or not, and so does a listed one whose value is
not of its kind. The second is the basic profile as `dicom-anonymizer` ships it, which acts on what
is left, with three options of PS3.15: cleaned descriptors, modified dates, patient's sex and age.
Pixels are kept bit for bit; comments inside compressed frames and bytes behind the last pixel are not.
"""

import contextlib
import hashlib
import os
import re
import shutil
import tomllib
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from medfinder.curate.deidentify import Removed, shift_date
from medfinder.curate.deidentify_numbers import OLDEST_AGE
from medfinder.curate.deidentify_page import is_report_word
from medfinder.curate.deidentify_text import deidentify_text
from medfinder.curate.sources.source import parse_date
from medfinder.errors import InputError, UnreadableVolume
from medfinder.report.tokens import fold
from medfinder.volume.header import read_header

if TYPE_CHECKING:
    from pydicom import Dataset

PROFILE = "dicomfields_2026c"
"""Edition of PS3.15 table E.1-1 whose actions are taken."""
METHOD = "MedFinder, PS3.15: basic profile, descriptors, dates, age, sex"
_METHOD_CODES = (
    ("113100", "Basic Application Confidentiality Profile"),
    ("113105", "Clean Descriptors Option"),
    ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    ("113108", "Retain Patient Characteristics Option"),
)
_CT_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "Enhanced CT",
    "1.2.840.10008.5.1.4.1.1.2.2": "Legacy Converted Enhanced CT",
}
_STANDARD_ROOT = "1.2.840.10008."
_RLE = "1.2.840.10008.1.2.5"
_JPEG = re.compile(r"1\.2\.840\.10008\.1\.2\.4\.(?:5\d|6\d|7\d|8[01])$")
_JPEG2000 = re.compile(r"1\.2\.840\.10008\.1\.2\.4\.(?:9[0-3]|20[1-3])$")
_IDENTITY = (
    "PatientName PatientID OtherPatientIDs OtherPatientNames PatientBirthName PatientMotherBirthName "
    "PatientBirthDate PatientAddress PatientTelephoneNumbers AccessionNumber StudyID ReferringPhysicianName "
    "PerformingPhysicianName NameOfPhysiciansReadingStudy OperatorsName RequestingPhysician "
    "PhysiciansOfRecord InstitutionName InstitutionAddress StationName ResponsiblePerson"
)


def known_strings(dataset: "Dataset") -> tuple[str, ...]:
    """Return what a header says of the people in it, for `deidentify_text`'s `known`."""
    found: list[str] = []
    with _quiet():
        for keyword in _IDENTITY.split():
            with contextlib.suppress(Exception):  # a value that cannot be decoded is not looked for
                value = dataset.get(keyword)
                values = value if isinstance(value, (list, tuple)) or _is_multi(value) else [value]
                found += [str(one) for one in values if one not in (None, "")]
    return tuple(dict.fromkeys(found))


def read_known(path: Path) -> tuple[str, ...]:
    """Return `known_strings` of one DICOM file, without reading its pixels.

    Raises:
        UnreadableVolume: Rule ``corrupt``, as `deidentify_series`.
    """
    return known_strings(_read(path, pixels=False))


def burned_in_risk(dataset: "Dataset") -> str | None:
    """Say why names may stand in the pixels themselves; None where nothing points to it.

    Only looks at the header: it cannot tell that pixels are clean.
    """
    sop_class = str(dataset.get("SOPClassUID", ""))
    modality = str(dataset.get("Modality", ""))
    kinds = {str(kind).upper() for kind in _values(dataset.get("ImageType"))}
    if str(dataset.get("BurnedInAnnotation", "")).upper() == "YES":
        return "The header says that text is burned into the pixels."
    if sop_class.startswith("1.2.840.10008.5.1.4.1.1.7"):
        return "It is a secondary capture: a picture of a screen, with whatever stood on it."
    if modality in ("US", "SC", "OT", "XC", "ES", "DOC") or sop_class.startswith(
        ("1.2.840.10008.5.1.4.1.1.6", "1.2.840.10008.5.1.4.1.1.3.")
    ):
        return f"Its modality is {modality or 'ultrasound'!s}, whose pictures carry names in their corners."
    if any("SCREEN" in kind or kind in ("SAVE", "DOSE_INFO", "FILMED") for kind in kinds):
        return "It is a saved screen."
    if any(0x6000 <= element.tag.group <= 0x60FF for element in _raw(dataset)):
        return "It has an overlay plane, which may be drawn in spare bits of the pixels."
    if dataset.get("SamplesPerPixel") == 3:
        return "It is in colour, as saved screens are."
    if {"DERIVED", "SECONDARY"} <= kinds:
        return "It is a derived, secondary picture: text may have been drawn into it."
    return None


def clean_descriptor(text: str, known: Sequence[str] = ()) -> str:
    """Keep of a descriptor, such as a protocol's or a body part's, the words that are known ones.

    Args:
        known: Names and numbers of persons; none of them is kept.
    """
    if text.strip().upper() in _lists().codes:
        return text.strip()
    words = _lists().descriptors
    text = _PLACEHOLDER.sub(" ", deidentify_text(text, known=known).text)
    return " ".join(
        word
        for word in _WORD.findall(text)
        if word.isascii()
        and (
            fold(word) in words
            or is_report_word(word)
            or _DESCRIPTOR_NUMBER.fullmatch(word.lower())
            or _KERNEL.fullmatch(word.lower())
        )
    )


def clean_device(text: str) -> str:
    """Keep of a maker's or model's name the words that are one."""
    makers = _lists().makers
    return " ".join(
        word
        for word in re.split(r"[\s/_,.()-]+", text)
        if word.lower() in makers or _MODEL_NUMBER.fullmatch(word)
    )


def deidentify_series(
    files: Sequence[Path], out: Path, *, patient_id: str, study_id: str, key: str, days: int
) -> Removed:
    """Write a series' files without identity as ``0001.dcm``, ``0002.dcm``, … in the order given.

    The folder appears whole or not at all; what a killed run left beside it is removed by the next.
    The same files and key give the same bytes, and the same new UIDs in every series that refers to
    them. Voxels and geometry read back as before.

    Args:
        files: CT Image Storage, Enhanced CT or Legacy Converted Enhanced CT.
        out: Folder to make; one that is there is replaced.
        patient_id: The pseudonym that becomes PatientID and PatientName.
        study_id: The pseudonym that becomes StudyID.
        key: Secret of the site, from which UIDs are derived.
        days: From `shift_days`; by so many days dates are moved back.

    Returns:
        How many attributes, comments and bytes of each kind went.

    Raises:
        InputError: Rule ``nothing-found`` without files, ``not-ct`` for anything that is no CT
            image: secondary captures, structured reports, encapsulated documents; no rule of its
            own where `out` holds the files themselves.
        UnreadableVolume: Rule ``corrupt`` for a broken file, ``unsupported-pixels`` for a
            compression whose comments cannot be taken out.

    Source:
        DICOM PS3.15 annex E, table E.1-1; UIDs as PS3.5 annex B.2.
    """
    if not files:
        raise InputError(
            "A series of no files cannot be de-identified: expected at least one. Check the folder.",
            rule="nothing-found",
        )
    if any(out.resolve() in path.resolve().parents for path in files):
        raise InputError(
            "The de-identified series cannot be written over its own files: expected another folder "
            "than theirs. Name a new one."
        )
    aside = out.parent / f".{out.name}.tmp"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    counts: Counter[str] = Counter()
    try:
        for number, path in enumerate(files, 1):
            dataset = _read(path)
            _Cleaner(key, days, known_strings(dataset), counts).clean(dataset)
            if not dataset.get("SOPInstanceUID"):
                dataset.SOPInstanceUID = _new_uid(f"{study_id}/{out.name}/{number}", key)
            _sign(dataset, patient_id, study_id)
            _write(dataset, aside / f"{number:04d}.dcm", key)
        if out.exists():
            shutil.rmtree(out)
        os.replace(aside, out)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return Removed(dict(sorted(counts.items())))


# ---------------------------------------------------------------------------------------------
# Reading and writing


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence pydicom on values that break its rules: they are judged here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _read(path: Path, *, pixels: bool = True) -> "Dataset":
    from pydicom import dcmread

    header = read_header(path)
    if header.sop_class not in _CT_CLASSES:
        raise InputError(
            "The file is no CT image: expected CT Image Storage or Enhanced CT, got another kind of "
            "object (a saved screen, a report, a document …). It is not copied; leave it out.",
            rule="not-ct",
        )
    try:
        with _quiet():
            return dcmread(path, force=True, stop_before_pixels=not pixels)
    except Exception:
        raise _corrupt() from None


def _corrupt() -> UnreadableVolume:
    return UnreadableVolume(
        "The DICOM file breaks off or contradicts itself. Copy it again from its source.",
        rule="corrupt",
    )


def _write(dataset: "Dataset", path: Path, key: str) -> None:
    from pydicom import dcmwrite
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID

    syntax = str(dataset.file_meta.get("TransferSyntaxUID", "")) or dataset.original_encoding
    if not isinstance(syntax, str):
        implicit = syntax[0]
        syntax = "1.2.840.10008.1.2" if implicit else "1.2.840.10008.1.2.1"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(str(dataset.SOPClassUID))
    meta.MediaStorageSOPInstanceUID = UID(str(dataset.get("SOPInstanceUID", "")))
    meta.TransferSyntaxUID = UID(syntax)
    meta.ImplementationClassUID = UID(_new_uid("medfinder", ""))
    dataset.file_meta = meta
    dataset.preamble = bytes(128)
    try:
        with _quiet():
            dcmwrite(path, dataset, enforce_file_format=True)
    except (OSError, MemoryError):
        raise
    except Exception:
        raise _corrupt() from None


def _new_uid(uid: str, key: str) -> str:
    digest = hashlib.blake2b(
        f"U\0{uid}".encode("utf-8", "surrogatepass"), digest_size=16, key=key.encode()[:64]
    )
    return f"2.25.{int.from_bytes(digest.digest(), 'big')}"


def _sign(dataset: "Dataset", patient_id: str, study_id: str) -> None:
    """Fill in what an image must have (PS3.3) and say what was done to it."""
    from pydicom import Dataset

    dataset.PatientID = patient_id
    dataset.PatientName = patient_id
    dataset.StudyID = study_id[:16]
    for keyword in ("PatientBirthDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName"):
        setattr(dataset, keyword, "")
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = METHOD
    codes = []
    for value, meaning in _METHOD_CODES:
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator = value, "DCM"
        code.CodeMeaning = meaning[:64]
        codes.append(code)
    dataset.DeidentificationMethodCodeSequence = codes
    dataset.LongitudinalTemporalInformationModified = "MODIFIED"


# ---------------------------------------------------------------------------------------------
# The lists


@dataclass(frozen=True)
class _Lists:
    role: dict[int, str]  # tag → numbers, codes, descriptors, …
    vr: dict[int, str]
    codes: frozenset[str]
    makers: frozenset[str]
    kernels: frozenset[str]
    descriptors: frozenset[str]


@cache
def _lists() -> _Lists:
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    raw = resources.files(__package__).joinpath("deidentify_dicom.toml").read_text(encoding="utf-8")
    table = tomllib.loads(raw)
    role: dict[int, str] = {}
    for name, keywords in table["keep"].items():
        for keyword in keywords.split():
            tag = tag_for_keyword(keyword)
            assert tag is not None, keyword
            role[tag] = name
    devices = table["devices"]
    return _Lists(
        role=role,
        vr={tag: dictionary_VR(tag) for tag in role},
        codes=frozenset(table["codes"]["all"].split()),
        makers=frozenset((devices["makers"] + devices["models"]).split()),
        kernels=frozenset(devices["kernels"].split()),
        descriptors=frozenset(devices["descriptors"].split()),
    )


@cache
def _profile() -> dict[tuple[int, ...], Callable[..., None]]:
    """Return the library's action for each attribute that our list keeps."""
    from dicomanonymizer.simpledicomanonymizer import (
        initialize_actions,
    )

    kept = _lists().role
    return {
        tag: action
        for tag, action in initialize_actions(PROFILE).items()
        if len(tag) == 2 and (tag[0] << 16 | tag[1]) in kept
    }


# ---------------------------------------------------------------------------------------------
# Cleaning

_NUMBER = re.compile(r"[ ]*[+-]?(?:\d{1,16}(?:\.\d{0,16})?|\.\d{1,16})(?:[eE][+-]?\d{1,3})?[ ]*")
_KERNEL = re.compile(
    r"(?:(?:b|d|h|i|t|u|s|br|bl|bv|bf|hr|hc|hf|ur|qr|sa|fc|fl)\d{2,3}[a-z]{0,2}|[1-5])"
)
_DESCRIPTOR_NUMBER = re.compile(r"\d{1,3}(?:[.,]\d{1,3})?(?:mm|cm|kv|ml|s|ph|x)?")
_MODEL_NUMBER = re.compile(r"\d{1,4}\+?")
_WORD = re.compile(r"[^\W_]+(?:[.,]\d+(?:[a-z]{1,2})?)?\+?")
_PLACEHOLDER = re.compile(r"\[[A-Z]+\]")
_AGE = re.compile(r"(\d{3})([DWMY])")
_TEXT_VRS = frozenset(("AE", "CS", "LO", "LT", "SH", "ST", "UC", "UR", "UT"))
_KIND_OF_VR = {"PN": "name", "DA": "date", "DT": "date", "TM": "time", "AS": "age", "UI": "uid",
               "SQ": "sequence", "OB": "binary", "OW": "binary", "UN": "binary", "OF": "binary",
               "OD": "binary", "OL": "binary", "OV": "binary"}  # fmt: skip


class _Cleaner:
    """Cleans one dataset and all that is nested in it, and counts."""

    def __init__(self, key: str, days: int, known: tuple[str, ...], counts: Counter[str]) -> None:
        self.key, self.days, self.known, self.counts = key, days, known, counts

    def clean(self, dataset: "Dataset") -> None:
        try:
            with _quiet():
                _clear_spare_bits(dataset, self.counts)
                self._wall(dataset)
                _clean_pixels(dataset, self.counts)
        except InputError:
            raise
        except (OSError, MemoryError):
            raise
        except Exception:
            raise _corrupt() from None

    def _wall(self, dataset: "Dataset") -> None:
        from dicomanonymizer.simpledicomanonymizer import anonymize_dataset

        lists = _lists()
        for element in list(_raw(dataset)):
            tag = int(element.tag)
            role = lists.role.get(tag)
            if role is None or not self._is_sound(dataset, tag, role):
                if element.VR == "SQ" or element.value:
                    self.counts[_kind(tag, element.VR)] += 1
                del dataset[element.tag]
            elif role == "sequences":
                for item in dataset[tag].value:
                    self._wall(item)
        rules = dict(_profile())
        for tag, role in lists.role.items():
            action = self._ACTIONS.get(role)
            pair = (tag >> 16, tag & 0xFFFF)
            if action is not None:
                rules[pair] = action.__get__(self)
            elif role in ("numbers", "pixels", "sequences"):
                rules.pop(pair, None)
        anonymize_dataset(dataset, None, True, lambda: rules)

    def _is_sound(self, dataset: "Dataset", tag: int, role: str) -> bool:
        """Whether a listed attribute holds what its place in the dictionary says."""
        try:
            element = dataset[tag]
        except Exception:  # pydicom raises many kinds on values that are not of their VR
            return False
        allowed = _lists().vr[tag].split(" or ")
        if element.VR not in allowed:
            return False
        if role == "numbers" and element.VR in ("DS", "IS"):
            return all(
                _NUMBER.fullmatch(str(getattr(one, "original_string", one)))
                for one in _values(element.value)
            )
        if role == "uids":
            return all(re.fullmatch(r"[0-9.]{0,64}", str(one)) for one in _values(element.value))
        return True

    def _code(self, dataset: "Dataset", tag: tuple[int, int]) -> None:
        if (element := dataset.get(tag)) is not None:
            codes = _lists().codes
            kept = [v if str(v) in codes else "OTHER" for v in _values(element.value)]
            while kept and kept[-1] == "OTHER":  # a place inside a list counts, one at its end not
                kept.pop()
            self._set(dataset, element, kept)

    def _descriptor(self, dataset: "Dataset", tag: tuple[int, int]) -> None:
        if (element := dataset.get(tag)) is not None:
            kept = [clean_descriptor(str(v), self.known) for v in _values(element.value)]
            self._set(dataset, element, kept)

    def _device(self, dataset: "Dataset", tag: tuple[int, int]) -> None:
        if (element := dataset.get(tag)) is not None:
            kept = [clean_device(str(value)) for value in _values(element.value)]
            self._set(dataset, element, kept)

    def _kernel(self, dataset: "Dataset", tag: tuple[int, int]) -> None:
        if (element := dataset.get(tag)) is not None:
            kernels = _lists().kernels
            kept = [
                value
                for value in map(str, _values(element.value))
                if value.strip().lower() in kernels or _KERNEL.fullmatch(value.strip().lower())
            ]
            self._set(dataset, element, kept)

    def _date(self, dataset: "Dataset", tag: tuple[int, int]) -> None:
        if (element := dataset.get(tag)) is not None and element.value:
            iso = parse_date(str(element.value))
            self.counts["shifted_date" if iso else "date"] += 1
            element.value = shift_date(iso, self.days).replace("-", "") if iso else ""

    def _age(self, dataset: "Dataset", tag: tuple[int, int]) -> None:
        if (element := dataset.get(tag)) is not None and element.value:
            match = _AGE.fullmatch(str(element.value).strip())
            if match is None:
                self.counts["age"] += 1
                element.value = ""
            elif match[2] == "Y" and int(match[1]) > OLDEST_AGE:
                self.counts["age"] += 1
                element.value = f"{OLDEST_AGE + 1:03d}Y"

    def _uid(self, dataset: "Dataset", tag: tuple[int, int]) -> None:
        if (element := dataset.get(tag)) is not None and element.value:
            new = [
                str(uid) if str(uid).startswith(_STANDARD_ROOT) else _new_uid(str(uid), self.key)
                for uid in _values(element.value)
            ]
            self.counts["uid"] += sum(
                a != str(b) for a, b in zip(new, _values(element.value), strict=True)
            )
            element.value = new if len(new) > 1 else new[0]

    def _set(self, dataset: "Dataset", element: Any, values: list[Any]) -> None:
        before = [str(v) for v in _values(element.value)]
        if [str(v) for v in values] != before:
            self.counts["text"] += 1
        if not values:
            element.value = ""
        else:
            element.value = values if len(values) > 1 else values[0]

    _ACTIONS: ClassVar[dict[str, Callable[..., None]]] = {
        "codes": _code,
        "descriptors": _descriptor,
        "devices": _device,
        "kernels": _kernel,
        "dates": _date,
        "ages": _age,
        "uids": _uid,
    }


def _raw(dataset: "Dataset") -> Iterator[Any]:
    """Yield elements as they stand, without decoding values that are only going to be removed."""
    for tag in list(dataset.keys()):
        yield dataset.get_item(tag)


def _is_multi(value: Any) -> bool:
    from pydicom.multival import MultiValue

    return isinstance(value, MultiValue)


def _values(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, (list, tuple)) or _is_multi(value) else [value]


def _kind(tag: int, vr: str | None) -> str:
    from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag

    group = tag >> 16
    if group % 2:
        return "private"
    if 0x5000 <= group <= 0x50FF or 0x6000 <= group <= 0x60FF:
        return "overlay"
    keyword = keyword_for_tag(tag)
    if not vr and dictionary_has_tag(tag):
        vr = dictionary_VR(tag)
    if vr in _TEXT_VRS:
        for part, kind in (
            ("Telephone", "phone"),
            ("Address", "address"),
            ("Institution", "place"),
        ):
            if part in keyword:
                return kind
        if keyword.endswith(("ID", "IDs", "Number", "Numbers")):
            return "id"
        return "text"
    return _KIND_OF_VR.get(vr or "", "number")


# ---------------------------------------------------------------------------------------------
# Pixels


def _clear_spare_bits(dataset: "Dataset", counts: Counter[str]) -> None:
    """Clear bits above BitsStored where an old-style overlay may be drawn in them.

    Source:
        DICOM PS3.5 8.1.1 (retired): overlays embedded in unused bits of the pixel cells.
    """
    import numpy as np

    embedded = any(
        0x6000 <= element.tag.group <= 0x60FF and element.tag.element == 0x0010
        and (element.tag.group, 0x3000) not in dataset
        for element in _raw(dataset)
    )  # fmt: skip
    stored, high = dataset.get("BitsStored"), dataset.get("HighBit")
    syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    native = syntax is None or not syntax.is_compressed or syntax.is_deflated
    if not (embedded and native and dataset.get("BitsAllocated") == 16 and "PixelData" in dataset):
        return
    if not isinstance(stored, int) or not isinstance(high, int) or not 1 <= stored <= high + 1 < 16:
        return
    order = ">" if syntax is not None and not syntax.is_little_endian else "<"
    low = high + 1 - stored
    data = dataset.PixelData
    cells = np.frombuffer(data[: len(data) // 2 * 2], order + "u2").copy()
    cells &= np.uint16(((1 << stored) - 1) << low)
    if dataset.get("PixelRepresentation") == 1 and low == 0:
        signed = cells.astype("u2") << np.uint16(15 - high)
        cells = (signed.view("i2") >> np.int16(15 - high)).view("u2")
    cleared = cells.astype(order + "u2").tobytes()
    if cleared != data[: len(cleared)]:
        counts["overlay"] += 1
    dataset["PixelData"].value = cleared


def _clean_pixels(dataset: "Dataset", counts: Counter[str]) -> None:
    """Cut what follows the last pixel and take comments out of compressed frames."""
    syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    if "PixelData" not in dataset:
        return
    element = dataset["PixelData"]
    if syntax is None or not syntax.is_compressed or syntax.is_deflated:
        bits = int(dataset.get("BitsAllocated", 16)) * int(dataset.get("SamplesPerPixel", 1))
        cells = int(dataset.Rows) * int(dataset.Columns) * int(dataset.get("NumberOfFrames") or 1)
        size = (bits * cells + 7) // 8
        if len(element.value) > size:
            counts["binary"] += len(element.value) > size + size % 2
            element.value = element.value[:size] + b"\0" * (size % 2)
        return
    if syntax == _RLE:
        dataset.decompress()
        return
    if _JPEG.match(syntax):
        strip = _strip_jpeg
    elif _JPEG2000.match(syntax):
        strip = _strip_jpeg2000
    else:
        raise UnreadableVolume(
            "The pixels are compressed in a way whose comments cannot be taken out: expected JPEG, "
            "JPEG-LS, JPEG 2000 or RLE. Convert the series to Explicit VR Little Endian.",
            rule="unsupported-pixels",
        )
    from pydicom.encaps import encapsulate, generate_frames

    n = int(dataset.get("NumberOfFrames") or 1)
    frames = [strip(frame, counts) for frame in generate_frames(element.value, number_of_frames=n)]
    element.value = encapsulate(frames)


def _strip_jpeg(frame: bytes, counts: Counter[str]) -> bytes:
    """Remove comment and application segments before the first scan, and what follows the end.

    Source:
        ITU-T T.81 annex B; T.87 annex C (JPEG-LS).
    """
    if frame[:2] != b"\xff\xd8":
        raise _corrupt()
    out, at = [frame[:2]], 2
    while True:
        while frame[at : at + 2] == b"\xff\xff":  # fill bytes
            at += 1
        if frame[at : at + 1] != b"\xff" or at + 4 > len(frame):
            raise _corrupt()
        mark, length = frame[at + 1], int.from_bytes(frame[at + 2 : at + 4], "big")
        if mark == 0xDA:
            break
        if mark == 0xFE or 0xE0 <= mark <= 0xEF:
            counts["comment"] += 1
        else:
            out.append(frame[at : at + 2 + length])
        at += 2 + length
    return b"".join([*out, _until_end(frame[at:])])


def _strip_jpeg2000(frame: bytes, counts: Counter[str]) -> bytes:
    """Remove comments from the main header of a code stream, and what follows its end.

    Source:
        ITU-T T.800 annex A: COM is FF64, the first tile part starts with SOT, FF90.
    """
    start = frame.find(b"\xff\x4f\xff\x51")  # behind the boxes of a JP2 file, where it has any
    if start < 0:
        raise _corrupt()
    out, at = [frame[start : start + 2]], start + 2
    while frame[at : at + 2] != b"\xff\x90":
        if frame[at : at + 1] != b"\xff" or at + 4 > len(frame):
            raise _corrupt()
        length = int.from_bytes(frame[at + 2 : at + 4], "big")
        if frame[at + 1] == 0x64:
            counts["comment"] += 1
        else:
            out.append(frame[at : at + 2 + length])
        at += 2 + length
    return b"".join([*out, _until_end(frame[at:])])


def _until_end(data: bytes) -> bytes:
    end = data.rfind(b"\xff\xd9")
    return data if end < 0 else data[: end + 2]
