import shutil
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import Dataset, Sequence
from pydicom.datadict import dictionary_VR, tag_for_keyword

from curate.conftest import body
from medfinder.curate import deidentify_dicom as module
from medfinder.curate.deidentify import Removed
from medfinder.curate.deidentify_dicom import (
    burned_in_risk,
    deidentify_series,
    known_strings,
    read_known,
)
from medfinder.errors import InputError, UnreadableVolume
from medfinder.volume.dicom_writer import TRANSFER_SYNTAXES, write_dicom_series
from medfinder.volume.header import inflate
from medfinder.volume.read import read_volume

IDENTITY = {"patient_id": "P-00112233aabb", "study_id": "S-00112233aabb"}
NAME = "Ñíguez Cañamás^Zenobia"
CANARY = "Xanthippe77"


def series(folder: Path, **options: Any) -> list[Path]:
    given = {"patient_id": "NHC4711991", "study_id": "S1", "sex": "F", "age": 61}
    return write_dicom_series(
        body(n_slices=12),
        folder,
        **{**given, "study_date": "2020-03-12", "manufacturer": "SIEMENS", **options},
    )


def change(files: list[Path], edit: Callable[[Dataset], None]) -> None:
    for path in files:
        dataset = pydicom.dcmread(path)
        edit(dataset)
        dataset.save_as(path)


def clean(files: list[Path], out: Path, key: str = "k", days: int = 100) -> Removed:
    return deidentify_series(files, out, **IDENTITY, key=key, days=days)


def forms(text: str) -> Iterator[bytes]:
    """Every way in which a text could have got into a file."""
    bare = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    for one in {text, bare, text.lower(), bare.lower(), text.upper(), bare.upper()}:
        for encoding in ("utf-8", "latin-1", "utf-16-le", "utf-16-be"):
            yield one.encode(encoding, "replace")


def holds(folder: Path, *texts: str) -> list[str]:
    """Return which texts stand in any file or file name below a folder."""
    found = []
    blobs = [(p, p.read_bytes() if p.is_file() else b"") for p in folder.rglob("*")]
    for text in texts:
        for path, data in blobs:
            named = str(path.relative_to(folder)).encode()
            if any(form in data or form in named for form in forms(text)):
                found.append(f"{text} in {path.name}")
    return found


TEXT_VRS = {"LO": CANARY, "SH": CANARY, "LT": CANARY, "ST": CANARY, "UT": CANARY, "UC": CANARY,
            "PN": NAME, "CS": CANARY.upper(), "AE": CANARY, "UR": f"http://{CANARY}.org",
            "UN": CANARY.encode(), "OB": CANARY.encode() + b"\0"}  # fmt: skip


def plant(dataset: Dataset) -> None:
    """Write canaries into every text attribute that DICOM has, nested, private and overlaid."""
    from pydicom._dicom_dict import DicomDictionary

    for tag, (vr, *_rest) in DicomDictionary.items():
        group = tag >> 16
        if vr in TEXT_VRS and 0x0008 <= group < 0x5000 and tag not in dataset and tag != 0x00080005:
            dataset.add_new(tag, vr, TEXT_VRS[vr])
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName = NAME
    dataset.StudyDescription = f"TC TORAX {CANARY} de {NAME.replace('^', ' ')}"
    dataset.SeriesDescription = f"Lung 1.25mm {CANARY}"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL", CANARY.upper()]
    dataset.Manufacturer = f"SIEMENS {CANARY}"
    dataset.ManufacturerModelName = f"SOMATOM Definition AS {CANARY}"
    dataset.ConvolutionKernel = ["B70f", CANARY]
    dataset.BodyPartExamined = CANARY.upper()
    dataset.PatientComments = f"{CANARY} {NAME}"
    inner = Dataset()
    inner.PatientName = NAME
    inner.ReferencedSOPClassUID = dataset.SOPClassUID
    inner.ReferencedSOPInstanceUID = dataset.SOPInstanceUID
    inner.PatientComments = CANARY
    inner.add_new(0x00091010, "LO", CANARY)
    deeper = Dataset()
    deeper.PatientName = NAME
    deeper.ReferencedSOPInstanceUID = "1.2.3.4.77889966"
    inner.SourceImageSequence = Sequence([deeper])
    dataset.ReferencedImageSequence = Sequence([inner])
    dataset.RequestAttributesSequence = Sequence([inner])
    dataset.private_block(0x0009, CANARY, create=True).add_new(1, "LO", NAME)
    dataset.add_new(0x60000022, "LO", CANARY)
    dataset.add_new(0x60003000, "OW", CANARY.encode() + b"\0")
    dataset.add_new(0x50000022, "LO", CANARY)
    dataset.add_new(0xFFFCFFFC, "OB", CANARY.encode() + b"\0")
    dataset.file_meta.SourceApplicationEntityTitle = CANARY
    dataset.file_meta.PrivateInformationCreatorUID = "1.2.3.4.77889966"
    dataset.file_meta.PrivateInformation = CANARY.encode() + b"\0"
    dataset.preamble = CANARY.encode().ljust(128, b"x")
    dataset.PixelData += CANARY.encode() + b"\0"


@pytest.mark.parametrize("syntax", ["explicit", "implicit", "deflated", "big-endian"])
def test_no_canary_is_left_in_any_attribute_of_any_depth(tmp_path: Path, syntax: str) -> None:
    files = series(tmp_path / "raw" / CANARY, transfer_syntax=syntax)
    before = read_volume(files[0].parent)
    change(files, plant)
    texts = [CANARY, "Ñíguez", "Cañamás", "Zenobia", "77889966", "NHC4711991"]
    assert syntax == "deflated" or len(holds(tmp_path / "raw", *texts)) >= 6 * len(files) - 6
    removed = clean(files, tmp_path / "out")
    if syntax == "deflated":  # look inside the stream
        for path in (tmp_path / "out").iterdir():
            (tmp_path / "out" / f"{path.name}.inflated").write_bytes(inflate(path))
    assert holds(tmp_path / "out", *texts) == []
    for path in (tmp_path / "out").glob("*.inflated"):
        path.unlink()
    assert read_volume(tmp_path / "out").content_hash == before.content_hash
    for kind in ("name", "text", "private", "sequence", "overlay", "uid", "id", "binary"):
        assert removed.counts[kind] > 0, kind


@pytest.mark.parametrize("syntax", sorted(TRANSFER_SYNTAXES))
def test_voxels_and_geometry_read_back_as_before(tmp_path: Path, syntax: str) -> None:
    files = series(tmp_path / "raw", transfer_syntax=syntax)
    clean(files, tmp_path / "out")
    before, after = read_volume(tmp_path / "raw"), read_volume(tmp_path / "out")
    assert after.content_hash == before.content_hash
    assert np.array_equal(after.affine, before.affine)


def test_what_a_study_is_described_by_stays(tmp_path: Path) -> None:
    files = series(tmp_path / "raw")

    def describe(dataset: Dataset) -> None:
        dataset.SeriesDescription = "TORAX CIV 1.25mm B70f Lung"
        dataset.ConvolutionKernel = "B70f"
        dataset.ManufacturerModelName = "SOMATOM Definition AS+"

    change(files, describe)
    clean(files, tmp_path / "out")
    dataset = pydicom.dcmread(tmp_path / "out" / "0001.dcm")
    assert dataset.SeriesDescription == "TORAX CIV 1.25mm B70f Lung"
    assert dataset.ConvolutionKernel == "B70f"
    assert dataset.ManufacturerModelName == "SOMATOM Definition AS+"
    assert (dataset.PatientSex, dataset.PatientAge, dataset.BodyPartExamined) == (
        "F",
        "061Y",
        "CHEST",
    )
    assert dataset.Manufacturer == "SIEMENS"


def test_ids_are_the_pseudonyms_and_the_file_says_what_was_done(tmp_path: Path) -> None:
    clean(series(tmp_path / "raw"), tmp_path / "out")
    dataset = pydicom.dcmread(tmp_path / "out" / "0001.dcm")
    assert dataset.PatientID == dataset.PatientName == IDENTITY["patient_id"]
    assert dataset.StudyID == IDENTITY["study_id"]
    assert dataset.PatientIdentityRemoved == "YES"
    assert dataset.LongitudinalTemporalInformationModified == "MODIFIED"
    assert len(dataset.DeidentificationMethod) <= 64
    codes = {code.CodeValue for code in dataset.DeidentificationMethodCodeSequence}
    assert codes == {"113100", "113105", "113107", "113108"}


def test_dates_move_and_times_go(tmp_path: Path) -> None:
    files = series(tmp_path / "raw")

    def date(dataset: Dataset) -> None:
        dataset.SeriesDate = "20200313"
        dataset.StudyTime = dataset.AcquisitionTime = "134455"
        dataset.AcquisitionDateTime = "20200313134455"
        dataset.PatientBirthDate = "19590102"

    change(files, date)
    removed = clean(files, tmp_path / "out", days=10)
    dataset = pydicom.dcmread(tmp_path / "out" / "0001.dcm")
    assert (dataset.StudyDate, dataset.SeriesDate) == ("20200302", "20200303")
    assert dataset.StudyTime == dataset.PatientBirthDate == ""
    assert "AcquisitionTime" not in dataset
    assert "AcquisitionDateTime" not in dataset
    assert removed.counts["shifted_date"] == 2 * len(files)


@pytest.mark.parametrize(("age", "told"), [("089Y", "089Y"), ("097Y", "090Y"), ("018M", "018M")])
def test_an_age_above_89_is_told_as_90(tmp_path: Path, age: str, told: str) -> None:
    files = series(tmp_path / "raw")[:1]
    change(files, lambda ds: setattr(ds, "PatientAge", age))
    clean(files, tmp_path / "out")
    assert pydicom.dcmread(tmp_path / "out" / "0001.dcm").PatientAge == told


def test_series_of_a_study_keep_together_and_their_references_follow(tmp_path: Path) -> None:
    first = series(tmp_path / "a", study_id="1.2.3.99")
    second = series(tmp_path / "b", study_id="1.2.3.99", series_id="1.2.3.98")
    target = pydicom.dcmread(first[0]).SOPInstanceUID

    def refer(dataset: Dataset) -> None:
        item = Dataset()
        item.ReferencedSOPClassUID = dataset.SOPClassUID
        item.ReferencedSOPInstanceUID = target
        dataset.ReferencedImageSequence = Sequence([item])

    change(second, refer)
    clean(first, tmp_path / "out_a")
    clean(second, tmp_path / "out_b")
    a = pydicom.dcmread(tmp_path / "out_a" / "0001.dcm")
    b = pydicom.dcmread(tmp_path / "out_b" / "0001.dcm")
    assert a.StudyInstanceUID == b.StudyInstanceUID != "1.2.3.99"
    assert a.SeriesInstanceUID != b.SeriesInstanceUID
    reference = b.ReferencedImageSequence[0]
    assert reference.ReferencedSOPInstanceUID == a.SOPInstanceUID != target
    assert reference.ReferencedSOPClassUID == a.SOPClassUID
    assert a.file_meta.MediaStorageSOPInstanceUID == a.SOPInstanceUID


def test_new_uids_follow_the_key(tmp_path: Path) -> None:
    files = series(tmp_path / "raw")[:1]
    for name, key in (("a", "k"), ("b", "k"), ("c", "other")):
        clean(files, tmp_path / name, key=key)
    same, again, other = ((tmp_path / n / "0001.dcm").read_bytes() for n in "abc")
    assert same == again != other


@pytest.mark.parametrize("syntax", ["jpeg-lossless", "jpeg-ls", "jpeg2000", "rle"])
def test_comments_inside_compressed_frames_go(tmp_path: Path, syntax: str) -> None:
    from pydicom.encaps import encapsulate, generate_frames

    files = series(tmp_path / "raw", transfer_syntax=syntax)
    before = read_volume(tmp_path / "raw")

    def comment(dataset: Dataset) -> None:
        (frame,) = generate_frames(dataset.PixelData, number_of_frames=1)
        if syntax == "jpeg2000":
            at = frame.index(b"\xff\x51")
            at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
            mark = b"\xff\x64"
        else:
            at, mark = 2, b"\xff\xfe"
        text = CANARY.encode()
        segment = mark + (len(text) + 2).to_bytes(2, "big") + text
        if syntax != "rle":
            frame = frame[:at] + segment + frame[at:]
        dataset.PixelData = encapsulate([frame + text + b"\0"])

    change(files, comment)
    clean(files, tmp_path / "out")
    assert holds(tmp_path / "out", CANARY) == []
    assert read_volume(tmp_path / "out").content_hash == before.content_hash


def test_text_drawn_in_spare_bits_of_the_pixels_goes(tmp_path: Path) -> None:
    files = series(tmp_path / "raw")

    def overlay(dataset: Dataset) -> None:
        values = np.frombuffer(dataset.PixelData, "<i2").astype("i4") + 1024
        cells = np.clip(values, 0, 4095).astype("<u2")
        dataset.RescaleIntercept -= 1024
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, 0
        dataset.PixelData = cells.tobytes()

    change(files, overlay)
    before = read_volume(tmp_path / "raw")

    def draw(dataset: Dataset) -> None:
        cells = np.frombuffer(dataset.PixelData, "<u2") | np.uint16(0x8000)
        dataset.PixelData = cells.tobytes()
        dataset.add_new(0x60000010, "US", dataset.Rows)
        dataset.add_new(0x60000011, "US", dataset.Columns)
        dataset.add_new(0x60000102, "US", 15)

    change(files, draw)
    assert burned_in_risk(pydicom.dcmread(files[0])) is not None
    clean(files, tmp_path / "out")
    cells = np.frombuffer(pydicom.dcmread(tmp_path / "out" / "0001.dcm").PixelData, "<u2")
    assert cells.max() < 4096
    assert np.array_equal(read_volume(tmp_path / "out").hu, before.hu)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("ExposureTime", f"{CANARY}\\1"), ("SliceThickness", CANARY), ("PatientAge", "Zeno"),
     ("StudyDate", "Zenobia1"), ("KVP", CANARY)],
)  # fmt: skip
def test_a_listed_attribute_with_a_value_of_another_kind_goes(
    tmp_path: Path, keyword: str, value: str
) -> None:
    files = series(tmp_path / "raw", transfer_syntax="implicit")[:1]
    dataset = pydicom.dcmread(files[0])
    tag = tag_for_keyword(keyword)
    assert tag is not None
    raw = value.encode() + b" " * (len(value) % 2)
    dataset[tag] = pydicom.dataelem.RawDataElement(
        pydicom.tag.Tag(tag), dictionary_VR(tag), len(raw), raw, 0, True, True
    )
    dataset.save_as(files[0])
    assert holds(tmp_path / "raw", value) != []
    clean(files, tmp_path / "out")
    assert holds(tmp_path / "out", CANARY, "Zeno") == []


def test_a_series_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    files = series(tmp_path / "raw")
    files[-1].write_bytes(files[-1].read_bytes()[:700])
    with pytest.raises(UnreadableVolume):
        clean(files, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["raw"]


def test_a_killed_run_leaves_nothing_that_the_next_does_not_replace(tmp_path: Path) -> None:
    files = series(tmp_path / "raw")
    (tmp_path / ".out.tmp").mkdir()
    (tmp_path / ".out.tmp" / "0099.dcm").write_bytes(b"half")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old.dcm").write_bytes(b"old")
    clean(files, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "raw"]
    assert len(list((tmp_path / "out").iterdir())) == len(files)


@pytest.mark.parametrize(
    "sop_class",
    ["1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.88.11", "1.2.840.10008.5.1.4.1.1.104.1"],
)
def test_pictures_of_screens_reports_and_documents_are_refused(
    tmp_path: Path, sop_class: str
) -> None:
    files = series(tmp_path / "raw")[:1]

    def turn(dataset: Dataset) -> None:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = sop_class

    change(files, turn)
    with pytest.raises(InputError, match="The file is no CT image: expected CT Image") as error:
        clean(files, tmp_path / "out")
    assert error.value.rule == "not-ct"
    assert not (tmp_path / "out").exists()


def test_no_files_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="A series of no files cannot be de-identified") as error:
        clean([], tmp_path / "out")
    assert error.value.rule == "nothing-found"


def test_a_compression_that_cannot_be_searched_is_refused(tmp_path: Path) -> None:
    files = series(tmp_path / "raw", transfer_syntax="jpeg2000")[:1]

    def turn(dataset: Dataset) -> None:
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"

    change(files, turn)
    with pytest.raises(UnreadableVolume, match="whose comments cannot be taken out") as error:
        clean(files, tmp_path / "out")
    assert error.value.rule == "unsupported-pixels"


def test_a_file_that_breaks_off_is_corrupt_and_not_named(tmp_path: Path) -> None:
    files = series(tmp_path / "raw", transfer_syntax="jpeg2000")[:1]
    change(files, lambda ds: setattr(ds, "PixelData", ds.PixelData[:40]))
    with pytest.raises(UnreadableVolume, match="breaks off or contradicts itself") as error:
        clean(files, tmp_path / "out")
    assert error.value.rule == "corrupt"
    assert str(tmp_path) not in str(error.value)


@pytest.mark.parametrize(
    ("edit", "risk"),
    [
        ({}, None),
        ({"BurnedInAnnotation": "YES"}, "text is burned into"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "secondary capture"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.6.1", "Modality": "US"}, "modality is US"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "saved screen"),
        ({"ImageType": ["DERIVED", "SECONDARY", "MPR"]}, "derived, secondary"),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL"]}, None),
        ({"SamplesPerPixel": 3}, "in colour"),
        ({"OverlayRows": 12}, "overlay plane"),
    ],
)
def test_the_risk_of_text_in_the_pixels_is_named(edit: dict[str, Any], risk: str | None) -> None:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.Modality = "1.2.840.10008.5.1.4.1.1.2", "CT"
    dataset.ImageType, dataset.SamplesPerPixel = ["ORIGINAL", "PRIMARY", "AXIAL"], 1
    for keyword, value in edit.items():
        if keyword == "OverlayRows":
            dataset.add_new(0x60000010, "US", value)
        else:
            setattr(dataset, keyword, value)
    found = burned_in_risk(dataset)
    assert found is None if risk is None else risk in (found or "")


def test_known_strings_are_what_the_header_says_of_people(tmp_path: Path) -> None:
    files = series(tmp_path / "raw")[:1]

    def fill(dataset: Dataset) -> None:
        dataset.PatientName, dataset.AccessionNumber = NAME, "ACC99"
        dataset.OtherPatientIDs = ["A1234", "B1234"]
        dataset.SpecificCharacterSet = "ISO_IR 192"

    change(files, fill)
    known = read_known(files[0])
    assert {NAME, "ACC99", "NHC4711991", "A1234", "B1234"} <= set(known)
    assert known == known_strings(pydicom.dcmread(files[0]))


def test_the_profile_acts_on_nothing_that_our_list_keeps_without_an_option() -> None:
    handled = {"uids", "dates", "ages", "descriptors", "codes", "devices", "kernels"}
    roles = module._lists().role
    acted = {roles[tag[0] << 16 | tag[1]] for tag in module._profile()}
    assert acted <= handled | {"pixels", "numbers", "sequences"}


def test_a_multiframe_ct_keeps_its_geometry(tmp_path: Path) -> None:
    files = series(tmp_path / "raw")
    slices = [pydicom.dcmread(path) for path in files]
    whole = slices[0]
    whole.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    whole.file_meta.MediaStorageSOPClassUID = whole.SOPClassUID
    whole.NumberOfFrames = len(slices)
    shared = Dataset()
    measures, turn, rescale = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = whole.PixelSpacing, whole.SliceThickness
    turn.ImageOrientationPatient = whole.ImageOrientationPatient
    rescale.RescaleSlope, rescale.RescaleIntercept = whole.RescaleSlope, whole.RescaleIntercept
    rescale.RescaleType = "HU"
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [turn]
    shared.PixelValueTransformationSequence = [rescale]
    frames = []
    for one in slices:
        position, content, frame = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = one.ImagePositionPatient
        content.FrameComments = CANARY
        frame.PlanePositionSequence, frame.FrameContentSequence = [position], [content]
        frames.append(frame)
    whole.SharedFunctionalGroupsSequence = [shared]
    whole.PerFrameFunctionalGroupsSequence = frames
    whole.PixelData = b"".join(one.PixelData for one in slices)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        del whole[keyword]
    shutil.rmtree(tmp_path / "raw")
    (tmp_path / "raw").mkdir()
    whole.save_as(tmp_path / "raw" / "one.dcm")
    before = read_volume(tmp_path / "raw")
    clean([tmp_path / "raw" / "one.dcm"], tmp_path / "out")
    assert holds(tmp_path / "out", CANARY) == []
    assert read_volume(tmp_path / "out").content_hash == before.content_hash


def test_a_series_is_not_written_over_its_own_files(tmp_path: Path) -> None:
    files = series(tmp_path / "raw")
    with pytest.raises(InputError, match="cannot be written over its own files"):
        clean(files, tmp_path / "raw")
    assert all(path.exists() for path in files)


def test_a_file_without_preamble_and_ids_is_cleaned(tmp_path: Path) -> None:
    files = series(tmp_path / "raw", transfer_syntax="implicit")
    before = read_volume(tmp_path / "raw")
    for path in files:
        dataset = pydicom.dcmread(path)
        del dataset.SOPInstanceUID
        dataset.PatientName = NAME
        del dataset.file_meta
        dataset.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=False)
    clean(files, tmp_path / "out")
    assert holds(tmp_path / "out", "Zenobia", "NHC4711991") == []
    uids = {pydicom.dcmread(p).SOPInstanceUID for p in (tmp_path / "out").iterdir()}
    assert len(uids) == len(files)
    assert read_volume(tmp_path / "out").content_hash == before.content_hash


def test_a_descriptor_loses_the_patient_and_keeps_the_protocol(tmp_path: Path) -> None:
    files = series(tmp_path / "raw")[:1]

    def describe(dataset: Dataset) -> None:
        dataset.PatientName = "Blanco^Rosa"
        dataset.StudyDescription = "TC TORAX SIN CONTRASTE Rosa Blanco 12/03/2020 Hosp. La Fe"

    change(files, describe)
    clean(files, tmp_path / "out")
    dataset = pydicom.dcmread(tmp_path / "out" / "0001.dcm")
    assert dataset.StudyDescription == "TC TORAX SIN CONTRASTE"


def test_a_code_that_dicom_does_not_know_goes_and_the_others_keep_their_places(
    tmp_path: Path,
) -> None:
    files = series(tmp_path / "raw")[:1]
    values = [CANARY.upper(), "PRIMARY", "AXIAL", "ZENOBIA"]
    change(files, lambda ds: setattr(ds, "ImageType", values))
    clean(files, tmp_path / "out")
    assert pydicom.dcmread(tmp_path / "out" / "0001.dcm").ImageType == ["OTHER", "PRIMARY", "AXIAL"]
