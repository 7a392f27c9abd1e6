import os

import numpy as np
import pytest

from medfinder.serve.held import Held
from medfinder.serve.slices import Landmarks, Pixels

PLACE = np.ones(4, np.float32) / 2


def pixels(value=0):
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    return Pixels(np.full((2, 4, 4), value, np.int16), affine, Landmarks(0, None))


def test_what_is_held_comes_back_whole(tmp_path):
    held = Held(tmp_path, 10**6, 60)
    kept = held.keep(pixels(7), PLACE, "grid@1", "ana")
    query = held.get(kept.study.study_id)
    assert query is not None
    assert query.study == kept.study
    assert query.study.spacing_mm == (1, 2, 3)
    assert query.encoder == "grid@1"
    np.testing.assert_array_equal(query.place, PLACE)
    back = held.pixels(kept.study.study_id)
    assert back is not None
    np.testing.assert_array_equal(back.hu, pixels(7).hu)
    np.testing.assert_array_equal(back.affine, pixels().affine)


def test_another_process_finds_it_too(tmp_path):
    kept = Held(tmp_path, 10**6, 60).keep(pixels(), PLACE, "grid@1")
    assert Held(tmp_path, 10**6, 60).get(kept.study.study_id) is not None


def test_it_is_its_owners(tmp_path):
    held = Held(tmp_path, 10**6, 60)
    name = held.keep(pixels(), PLACE, "grid@1", "ana").study.study_id
    assert held.get(name, "ana") is not None
    assert held.get(name, "ben") is None
    assert held.get(name, "") is None


def test_only_this_user_reads_the_folder(tmp_path):
    Held(tmp_path / "held", 10**6, 60)
    assert (tmp_path / "held").stat().st_mode & 0o777 == 0o700


def test_the_oldest_make_room(tmp_path):
    held = Held(tmp_path, 400, 60)  # a file is 192 bytes with its header
    names = [held.keep(pixels(i), PLACE, "grid@1").study.study_id for i in range(2)]
    for age, name in zip((20, 10), names, strict=True):
        os.utime(tmp_path / f"{name}.json", (0, os.stat(tmp_path / f"{name}.json").st_mtime - age))
    held.keep(pixels(2), PLACE, "grid@1")
    assert held.get(names[0]) is None
    assert not (tmp_path / f"{names[0]}.npy").exists()


def test_it_goes_with_age(tmp_path):
    held = Held(tmp_path, 10**6, 60)
    name = held.keep(pixels(), PLACE, "grid@1").study.study_id
    os.utime(tmp_path / f"{name}.json", (0, 0))
    assert held.get(name) is None
    assert held.pixels(name) is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["", "query-", "query-../../etc/passwd", "study-1", "query-" + "g" * 32]
)
def test_what_is_no_id_is_not_held(tmp_path, name):
    held = Held(tmp_path, 10**6, 60)
    assert held.get(name) is None
    assert held.pixels(name) is None


def test_a_folder_of_its_own_goes_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    held = Held(None, 10**6, 60)
    held.keep(pixels(), PLACE, "grid@1")
    held.close()
    assert not list(tmp_path.iterdir())
