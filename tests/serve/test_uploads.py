import contextlib
import gzip
import io
import os
import struct
import tempfile
import zipfile
from pathlib import Path

import pytest

from medfinder.errors import UnreadableVolume
from medfinder.serve import uploads
from medfinder.serve.faults import Refusal
from medfinder.serve.uploads import remove_leftovers, sniff, unpacked

LIMIT = 10**6
NIFTI = struct.pack("<i", 348) + bytes(400)


def zipped(files, **options):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    out.seek(0)
    return out


@pytest.fixture(autouse=True)
def _own_temp(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def leftovers():
    return list(Path(tempfile.gettempdir()).iterdir())


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (NIFTI, ".nii"),
        (gzip.compress(NIFTI, mtime=0), ".nii.gz"),
        (bytes(128) + b"DICM", ".dcm"),
        (b"PK\x03\x04", "zip"),
    ],
)
def test_the_first_bytes_tell_what_it_is(data, kind):
    file = io.BytesIO(data)
    assert sniff(file) == kind
    assert file.tell() == 0


@pytest.mark.parametrize(
    "data", [b"hello, I am a text", b"\x89PNG\r\n", gzip.compress(b"text", mtime=0), b"\x1f\x8bx"]
)
def test_anything_else_is_refused(data):
    with pytest.raises(Refusal, match="not a CT") as error:
        sniff(io.BytesIO(data))
    assert error.value.status_code == 415


def test_an_empty_upload_is_refused():
    with pytest.raises(Refusal, match="empty"):
        sniff(io.BytesIO())


def test_an_upload_is_gone_after_use():
    with unpacked(io.BytesIO(NIFTI), LIMIT) as path:
        assert path.name == "upload.nii"
        assert path.read_bytes() == NIFTI
    assert leftovers() == []


def test_an_upload_is_gone_after_an_error():
    with pytest.raises(RuntimeError), unpacked(io.BytesIO(NIFTI), LIMIT):
        raise RuntimeError
    assert leftovers() == []


def test_an_archive_becomes_a_folder_of_numbered_files():
    with unpacked(zipped({"b/2.dcm": b"two", "a/1": b"one", "__MACOSX/._1": b"x"}), LIMIT) as path:
        assert [(p.name, p.read_bytes()) for p in sorted(path.iterdir())] == [
            ("000000.dcm", b"one"),
            ("000001.dcm", b"two"),
        ]


def test_an_archive_of_one_file_is_that_file():
    with unpacked(zipped({"ct.nii.gz": b"x"}), LIMIT) as path:
        assert path.name == "000000.nii.gz"


@pytest.mark.parametrize(
    "name", ["../evil.dcm", "/etc/evil", "a/../../evil", "..\\evil", "C:\\evil"]
)
def test_an_archive_that_climbs_out_is_refused(name):
    with (
        pytest.raises(Refusal, match="outside of itself") as error,
        unpacked(zipped({name: b"x"}), LIMIT),
    ):
        pass
    assert error.value.status_code == 422
    assert leftovers() == []


def test_a_link_in_an_archive_is_refused():
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(info, "/etc/passwd")
    out.seek(0)
    with pytest.raises(Refusal, match="outside of itself"), unpacked(out, LIMIT):
        pass


def test_an_archive_that_expands_beyond_the_limit_is_refused():
    with (
        pytest.raises(Refusal, match="expands too far") as error,
        unpacked(zipped({"a": bytes(LIMIT + 1)}), LIMIT),
    ):
        pass
    assert error.value.status_code == 413


def test_a_bomb_is_known_by_its_ratio():
    bomb = zipped({"a": bytes(70 * 2**20)})
    with pytest.raises(Refusal, match="300 times"), unpacked(bomb, 2**40):
        pass


def test_an_archive_that_lies_about_its_sizes_is_stopped_while_it_expands(monkeypatch):
    monkeypatch.setattr(uploads, "_checked", lambda archive, limit: archive.infolist())
    with (
        pytest.raises(Refusal, match="expands too far"),
        unpacked(zipped({"a": bytes(LIMIT + 1)}), LIMIT),
    ):
        pass
    assert leftovers() == []


def test_an_encrypted_archive_is_refused():
    data = bytearray(zipped({"a": b"x"}).getvalue())
    data[6] |= 1
    at = data.index(b"PK\x01\x02")
    data[at + 8] |= 1
    with pytest.raises(Refusal, match="encrypted"), unpacked(io.BytesIO(data), LIMIT):
        pass


def test_an_archive_without_files_is_refused():
    with pytest.raises(Refusal, match="holds no file"), unpacked(zipped({}), LIMIT):
        pass


def test_too_many_files_are_refused(monkeypatch):
    monkeypatch.setattr(uploads, "MAX_MEMBERS", 3)
    with (
        pytest.raises(Refusal, match="4 files: expected at most 3"),
        unpacked(zipped(dict.fromkeys("abcd", b"")), LIMIT),
    ):
        pass


def test_a_broken_archive_is_refused():
    data = zipped({"a": os.urandom(5000)}).getvalue()
    with (
        pytest.raises(UnreadableVolume, match="broken or cut short"),
        unpacked(io.BytesIO(data[:3000]), LIMIT),
    ):
        pass
    damaged = bytearray(data)
    damaged[1000] ^= 255
    with (
        pytest.raises(UnreadableVolume, match="broken or cut short"),
        unpacked(io.BytesIO(damaged), LIMIT),
    ):
        pass
    assert leftovers() == []


@pytest.mark.parametrize("name", [".", "./", "", "/"])
def test_a_member_without_a_name_is_no_failure_of_the_service(name):
    info = zipfile.ZipInfo("x")
    info.filename = name
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(info, b"")
    with contextlib.suppress(Refusal, UnreadableVolume), unpacked(out, LIMIT) as path:
        assert path.is_file()
    assert leftovers() == []


def declared(version, order, sizes, code):
    if version == 1:
        start = struct.pack(f"{order}i 36x 8h 14x 2h", 348, 3, *sizes, 1, 1, 1, 1, code, 0)
    else:
        start = struct.pack(f"{order}i 8s 2h 8q", 540, b"n+2", code, 0, 3, *sizes, 1, 1, 1, 1)
    return gzip.compress(start + bytes(544 - len(start)))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("is_zipped", [False, True])
def test_a_compressed_nifti_that_declares_too_much_is_refused(version, order, is_zipped):
    def sent(sizes, code):
        data = declared(version, order, sizes, code)
        return zipped({"ct.nii.gz": data}) if is_zipped else io.BytesIO(data)

    with unpacked(sent((100, 100, 50), 4), LIMIT) as path:  # int16: the limit itself
        assert path.is_file()
    for sizes, code in (((100, 100, 51), 4), ((100, 100, 13), 64)):
        with (
            pytest.raises(Refusal, match="expands too far") as error,
            unpacked(sent(sizes, code), LIMIT),
        ):
            pass
        assert error.value.status_code == 413
    assert leftovers() == []


def test_what_a_killed_service_left_is_removed(tmp_path):
    dead = tmp_path / f"{uploads.PREFIX}4194999-x"
    mine = tmp_path / f"{uploads.PREFIX}{os.getpid()}-x"
    dead.mkdir()
    mine.mkdir()
    assert remove_leftovers() == 1
    assert leftovers() == [mine]
