import errno
import json
from pathlib import Path

import pytest

from medfinder.artifact import (
    Manifest,
    atomic_write,
    manifest_hash,
    read_manifest,
    write_manifest,
)
from medfinder.errors import Incomplete, InputError, Mismatch
from medfinder.place import is_abandoned


def manifest(**changes: object) -> Manifest:
    fields: dict[str, object] = {
        "stage": "curate",
        "config": {"a": 1},
        "parents": {"raw": "00"},
        "counts": {"studies": 2},
        "seed": 7,
        "duration_s": 1.5,
        "package_version": "0",
    }
    return Manifest(**{**fields, **changes})  # type: ignore[arg-type]


def test_a_manifest_is_read_back_as_written(tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest())
    assert read_manifest(tmp_path, "curate") == manifest()


def test_the_hash_follows_content_and_not_duration() -> None:
    assert manifest_hash(manifest(duration_s=9.0)) == manifest_hash(manifest())
    assert manifest_hash(manifest(counts={"studies": 3})) != manifest_hash(manifest())


def test_a_folder_that_is_not_there_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no curate folder"):
        read_manifest(tmp_path / "none", "curate")


def test_a_folder_without_manifest_is_unfinished(tmp_path: Path) -> None:
    with pytest.raises(Incomplete, match=r"has no manifest\.json: its stage has not finished"):
        read_manifest(tmp_path, "index")


def test_another_stage_s_folder_is_refused(tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest())
    with pytest.raises(Mismatch, match="was written by 'medfinder curate'"):
        read_manifest(tmp_path, "index")


def test_a_schema_from_the_future_is_refused(tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest(schema=99))
    with pytest.raises(Mismatch, match="has schema 99, this version reads 1"):
        read_manifest(tmp_path, "curate")


def test_a_manifest_that_is_not_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(Mismatch, match="cannot be read"):
        read_manifest(tmp_path, "curate")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with atomic_write(path) as file:
        file.write(b"old")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as file:
        file.write(b"new")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_a_writer_at_work_is_told_from_one_that_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with atomic_write(path) as file:
        file.write(b"new")
        (temporary,) = tmp_path.iterdir()
        assert not is_abandoned(temporary, remove=True)
    assert path.read_bytes() == b"new"
    temporary.write_bytes(b"half")  # nobody holds it
    path.with_name("b.tmp").write_bytes(b"somebody's")
    assert not is_abandoned(path)
    assert not is_abandoned(path.with_name("b.tmp"))
    assert is_abandoned(temporary)
    assert is_abandoned(temporary, remove=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.bin", "b.tmp"]


def test_a_file_system_without_locks_is_written_to_and_not_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with atomic_write(tmp_path / "a.bin") as file:
        file.write(b"new")
    assert (tmp_path / "a.bin").read_bytes() == b"new"
    (tmp_path / ".a.bin.x.tmp").write_bytes(b"half")
    assert not is_abandoned(tmp_path / ".a.bin.x.tmp")


def test_a_manifest_that_was_changed_by_a_bit_is_refused(tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest())
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace('"studies": 2', '"studies": 3'))
    with pytest.raises(Mismatch, match="it has changed since it was written"):
        read_manifest(tmp_path, "curate")


def test_a_manifest_of_an_older_version_has_no_checksum_and_is_read(tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest())
    path = tmp_path / "manifest.json"
    fields = json.loads(path.read_text())
    del fields["checksum"]
    path.write_text(json.dumps(fields))
    assert read_manifest(tmp_path, "curate") == manifest()
