"""Where artifacts lie: what a folder lists, and locations that cannot be used."""

import os
from pathlib import Path

import pytest

from medfinder.errors import ConfigError, InputError
from medfinder.place import FolderPlace, StorePlace, place_of


def test_a_linked_folder_is_part_of_the_place_and_a_circle_has_an_end(tmp_path: Path) -> None:
    disk, folder = tmp_path / "disk", tmp_path / "idx"
    for path in (disk / "deep", folder / "own"):
        path.mkdir(parents=True)
    (disk / "deep" / "a.bin").write_bytes(b"a")
    (folder / "own" / "b.bin").write_bytes(b"b")
    (folder / "table").symlink_to(disk)
    (folder / "own" / "back").symlink_to(folder)
    (disk / "again").symlink_to(disk)
    names = sorted(entry.name for entry in FolderPlace(folder).list())
    assert names == ["own/b.bin", "table/deep/a.bin"]


def test_a_folder_that_may_not_be_read_is_told_and_one_that_is_gone_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own").mkdir()
    assert list(FolderPlace(tmp_path).list("none")) == []
    scan = os.scandir

    def refused(path: str) -> object:
        if str(path).endswith("own"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr("os.scandir", refused)
    with pytest.raises(PermissionError):
        list(FolderPlace(tmp_path).list())


@pytest.mark.parametrize("url", ["s3://", "s3:///x", "s3://a b/x", "s3://ä/x", "s3://a"])
def test_what_is_no_bucket_is_refused(url: str) -> None:
    with pytest.raises(InputError, match=r"expected 's3://BUCKET/PREFIX'"):
        place_of(url)


@pytest.mark.parametrize("endpoint", ["127.0.0.1:9000", "ftp://host", "http://", "https://a b"])
def test_an_endpoint_that_is_no_url_is_told_by_its_variable(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(ConfigError, match=r"AWS_ENDPOINT_URL is .*expected a URL"):
        StorePlace("s3://bucket/x").read("a")
