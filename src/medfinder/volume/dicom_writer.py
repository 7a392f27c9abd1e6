"""`Volume` → a folder of CT Image Storage files, for phantoms and for tests of the reader.

Written to be read by anyone: explicit geometry, one rescale, unique identifiers derived from the
caller's ids, so that the same call writes the same bytes.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medfinder.errors import GeometryError, UnreadableVolume
from medfinder.volume.header import DEFLATED_LE, EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE
from medfinder.volume.volume import Volume

_CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
#: Transfer syntaxes that can be written, by the name `write_dicom_series` takes.
TRANSFER_SYNTAXES = {
    "implicit": IMPLICIT_LE,
    "explicit": EXPLICIT_LE,
    "big-endian": EXPLICIT_BE,
    "deflated": DEFLATED_LE,
    "rle": "1.2.840.10008.1.2.5",
    "jpeg-lossless": "1.2.840.10008.1.2.4.70",
    "jpeg-ls": "1.2.840.10008.1.2.4.80",
    "jpeg2000": "1.2.840.10008.1.2.4.90",
}


def derive_uid(*parts: object) -> str:
    """Return a valid DICOM UID that is the same for the same parts.

    Source:
        DICOM PS3.5 annex B.2: "2.25." and a 128-bit number.
    """
    text = "\0".join(map(str, parts)).encode()
    return f"2.25.{int.from_bytes(hashlib.sha256(text).digest()[:16], 'big')}"


def write_dicom_series(
    volume: Volume,
    folder: str | Path,
    *,
    patient_id: str,
    study_id: str,
    series_id: str | None = None,
    sex: str = "",
    age: int | None = None,
    study_date: str = "",
    manufacturer: str = "",
    body_part: str = "CHEST",
    transfer_syntax: str = "explicit",
    slice_axis: int = 0,
    intercept: int = -1024,
) -> list[Path]:
    """Write a volume as one DICOM series of single slices.

    Args:
        volume: HU are rounded to integers; they must fit int16 after `intercept` is taken off.
        folder: Created if needed; files are named ``0001.dcm``, ``0002.dcm``, ...
        patient_id: PatientID.
        study_id: StudyInstanceUID where it is a UID, else one is derived from it.
        series_id: SeriesInstanceUID; None derives one from patient, study and volume.
        sex: "F", "M" or "".
        age: Years.
        study_date: ISO ``YYYY-MM-DD`` or "".
        manufacturer: Manufacturer.
        body_part: BodyPartExamined.
        transfer_syntax: A key of `TRANSFER_SYNTAXES`.
        slice_axis: 0 writes axial, 1 coronal, 2 sagittal slices.
        intercept: RescaleIntercept; 0 keeps int16 volumes' stored values.

    Returns:
        The files, in order along the slice axis.

    Raises:
        GeometryError: The volume's axes are not perpendicular, which slices cannot say.
        UnreadableVolume: HU do not fit int16.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stored = _stored(volume, intercept)
    order = [slice_axis, *(axis for axis in range(3) if axis != slice_axis)]
    slices = stored.transpose(order)
    affine = volume.affine[:, [*order, 3]].copy()
    affine[:2] *= -1.0  # RAS -> LPS
    # Rows are written as they come from S, A, R: image rows run against H and W, as radiologists
    # look at them, where the axis allows it.
    for axis in (1, 2):
        affine[:3, 3] += affine[:3, axis] * (slices.shape[axis] - 1)
        affine[:3, axis] *= -1
        slices = np.flip(slices, axis)
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    cosines = affine[:3, :3] / steps
    if np.abs(cosines.T @ cosines - np.eye(3)).max() > 1e-4:
        raise GeometryError(
            "A sheared volume cannot be written as DICOM slices: expected perpendicular axes. "
            "Resample it first.",
            rule="bad-orientation",
        )
    study_uid = study_id if _is_uid(study_id) else derive_uid("study", study_id)
    series_uid = series_id or derive_uid("series", patient_id, study_uid, volume.content_hash)
    paths = []
    for i, plane in enumerate(slices):
        ds = _dataset(plane, affine, steps, cosines, i, intercept)
        ds.PatientID = patient_id
        ds.PatientName = patient_id
        ds.PatientSex = sex
        ds.PatientAge = "" if age is None else f"{age:03d}Y"
        ds.StudyDate = study_date.replace("-", "")
        ds.Manufacturer = manufacturer
        ds.BodyPartExamined = body_part
        ds.StudyInstanceUID = study_uid
        ds.SeriesInstanceUID = series_uid
        ds.FrameOfReferenceUID = derive_uid("frame", series_uid)
        ds.SOPInstanceUID = derive_uid("instance", series_uid, i)
        path = folder / f"{i + 1:04d}.dcm"
        _save(ds, path, TRANSFER_SYNTAXES[transfer_syntax])
        paths.append(path)
    return paths


def _is_uid(text: str) -> bool:
    return 0 < len(text) <= 64 and "." in text and all(p.isdigit() for p in text.split("."))


def _stored(volume: Volume, intercept: int) -> npt.NDArray[np.int16]:
    if volume.stored.dtype == np.int16 and volume.slope == 1.0 and volume.intercept == intercept:
        return volume.stored
    values = np.rint(volume.hu) - np.float32(intercept)
    if values.min() < -32768 or values.max() > 32767:
        raise UnreadableVolume(
            f"The values do not fit 16 bits: expected -32768 to 32767 after the intercept, got "
            f"{values.min():g} to {values.max():g}. Use another intercept."
        )
    return values.astype(np.int16)


def _dataset(
    plane: npt.NDArray[np.int16],
    affine: npt.NDArray[np.float64],
    steps: npt.NDArray[np.float64],
    cosines: npt.NDArray[np.float64],
    index: int,
    intercept: int,
) -> Any:
    from pydicom import Dataset
    from pydicom.valuerep import format_number_as_ds

    def numbers(values: npt.NDArray[np.float64]) -> list[str]:
        return [format_number_as_ds(float(v) + 0.0) for v in values]

    ds = Dataset()
    ds.SOPClassUID = _CT_IMAGE_STORAGE
    ds.Modality = "CT"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.PatientBirthDate = ""
    ds.StudyTime = ""
    ds.StudyID = ""
    ds.AccessionNumber = ""
    ds.ReferringPhysicianName = ""
    ds.SeriesNumber = 1
    ds.InstanceNumber = index + 1
    ds.PositionReferenceIndicator = ""
    ds.ImagePositionPatient = numbers(affine[:3, 3] + index * affine[:3, 0])
    ds.ImageOrientationPatient = numbers(np.concatenate([cosines[:, 2], cosines[:, 1]]))
    ds.PixelSpacing = numbers(steps[1:])
    ds.SliceThickness = numbers(steps[:1])[0]
    ds.KVP = ""
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = plane.shape
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit = 15
    ds.PixelRepresentation = 1
    ds.RescaleIntercept = intercept
    ds.RescaleSlope = 1
    ds.RescaleType = "HU"
    ds.PixelData = np.ascontiguousarray(plane, dtype="<i2").tobytes()
    ds["PixelData"].VR = "OW"
    return ds


def _save(ds: Any, path: Path, syntax: str) -> None:
    from pydicom import dcmwrite
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(_CT_IMAGE_STORAGE)
    meta.MediaStorageSOPInstanceUID = UID(ds.SOPInstanceUID)
    meta.ImplementationClassUID = UID(derive_uid("medfinder"))
    meta.TransferSyntaxUID = UID(EXPLICIT_LE)
    ds.file_meta = meta
    if syntax == EXPLICIT_BE:
        values = np.frombuffer(ds.PixelData, "<i2").astype(">i2")
        ds.PixelData = values.tobytes()
    if syntax == TRANSFER_SYNTAXES["jpeg-lossless"]:
        _encode_jpeg_lossless(ds)
    elif syntax in (IMPLICIT_LE, EXPLICIT_LE, EXPLICIT_BE, DEFLATED_LE):
        meta.TransferSyntaxUID = UID(syntax)
    else:
        ds.compress(UID(syntax), generate_instance_uid=False)
    dcmwrite(path, ds, enforce_file_format=True)


def _encode_jpeg_lossless(ds: Any) -> None:
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEGLosslessSV1

    from medfinder.volume.jpeg_lossless import encode

    values = np.frombuffer(ds.PixelData, "<i2").reshape(ds.Rows, ds.Columns)
    ds.PixelData = encapsulate([encode(values)])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = JPEGLosslessSV1
