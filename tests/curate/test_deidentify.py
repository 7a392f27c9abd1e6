import gzip
import string
from datetime import date
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.conftest import body
from medfinder.curate.deidentify import (
    MAX_SHIFT_DAYS,
    Removed,
    cap_age,
    shift_date,
    shift_days,
    write_volume_copy,
)
from medfinder.errors import InputError
from medfinder.volume.nifti import read_nifti


@given(st.text(max_size=30), st.text(string.ascii_letters, max_size=20))
def test_a_shift_is_at_least_a_day_and_at_most_five_years(patient: str, key: str) -> None:
    assert 1 <= shift_days(patient, key) <= MAX_SHIFT_DAYS


def test_a_shift_follows_patient_and_key() -> None:
    assert shift_days("123", "k") == shift_days(" 123 ", "k")
    shifts = {shift_days(str(patient), key) for patient in range(50) for key in ("a", "b")}
    assert len(shifts) > 90


def test_the_time_between_a_patients_studies_stays() -> None:
    days = shift_days("123", "k")
    first, second = (
        date.fromisoformat(shift_date(iso, days)) for iso in ("2020-02-27", "2020-03-02")
    )
    assert (second - first).days == 4
    assert first < date(2020, 2, 27)


@pytest.mark.parametrize("iso", ["27/02/2020", "2020-02-30", "", "0001-01-01"])
def test_a_date_that_cannot_be_moved_is_an_error(iso: str) -> None:
    with pytest.raises(InputError, match="A date cannot be moved by 9 days: expected YYYY-MM-DD"):
        shift_date(iso, 9)


@pytest.mark.parametrize(("age", "told"), [(None, None), (0, 0), (89, 89), (90, 90), (104, 90)])
def test_ages_above_89_are_one(age: int | None, told: int | None) -> None:
    assert cap_age(age) == told


def test_removed_adds_up_and_names_its_counts() -> None:
    total = Removed({"date": 2}) + Removed({"date": 1, "name": 3}) + Removed()
    assert total.to_dict() == {"removed_date": 3, "removed_name": 3}


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_copied_volume_holds_no_word_of_its_file(tmp_path: Path, suffix: str) -> None:
    stored = np.ascontiguousarray(body(n_slices=12).stored.transpose(2, 1, 0))
    image = nibabel.Nifti1Image(stored, np.diag([4.0, 4.0, 5.0, 1.0]))
    image.header["descrip"] = b"Xanthippe Ruiz 4711991"
    image.header["aux_file"] = b"Xanthippe.txt"
    image.header["db_name"] = b"Xanthippe"
    image.header["intent_name"] = b"Xanthippe"
    image.header.extensions.append(
        nibabel.nifti1.Nifti1Extension("comment", b"Xanthippe 12/03/2020")
    )
    raw = tmp_path / "Xanthippe.nii"
    nibabel.save(image, raw)
    raw.write_bytes(raw.read_bytes() + b"Xanthippe")
    volume = read_nifti(raw)
    copy = tmp_path / f"P-1{suffix}"
    write_volume_copy(volume, copy)
    data = copy.read_bytes()
    plain = gzip.decompress(data) if suffix.endswith("gz") else data
    for blob in (data, plain):
        assert b"xanthippe" not in blob.lower()
        assert "Xanthippe".encode("utf-16-le") not in blob
    header = nibabel.load(copy).header
    assert not header.extensions
    assert all(not bytes(header[name].item()) for name in ("descrip", "aux_file", "db_name"))
    assert read_nifti(copy).content_hash == volume.content_hash
    assert data[3:4] == b"\0" or suffix == ".nii"  # gzip's flags: no name, no comment
