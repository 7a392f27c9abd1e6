"""A later version that is read by its changes is the version that is read as a whole."""

import numpy as np
import pytest

from medfinder.errors import UnknownName
from medfinder.index import listing
from medfinder.index.listing import followed, listing_of, match
from medfinder.index.store import Index, IndexConfig

STREAM = ["volume"]


def as_read(found) -> dict:
    """Return the rows that are there, whatever their numbers."""
    rows = found.rows()
    row_ids = found.row_ids[rows]
    assert found.rows_of(row_ids).tolist() == rows.tolist()
    assert not found.keys["volume"][found.gone].any()
    assert len(found) == len(rows) == found.n_rows - len(found.gone)
    return {
        "row_ids": row_ids.tolist(),
        "study_ids": found.names(rows),
        "keys": found.keys["volume"][rows].tolist(),
    }


@pytest.fixture
def index(tmp_path, gallery) -> Index:
    made = Index.create(tmp_path / "idx", {"volume": gallery.streams["volume"]})
    add(made, gallery, range(40))
    return made


def add(index: Index, gallery, numbers, vectors_of=None) -> None:
    batch = gallery.vectors(vectors_of or numbers, "volume")
    batch = type(batch)(tuple(f"s{i:04d}" for i in numbers), batch.vectors, batch.model_id)
    index.add([gallery.study(i) for i in numbers], {"volume": batch})


def table_of(index: Index):
    return index._now().table


CHANGES = {
    "added": lambda index, gallery: add(index, gallery, range(40, 47)),
    "deleted": lambda index, gallery: index.delete(["s0003", "s0039", "s0000"]),
    "replaced": lambda index, gallery: add(index, gallery, [5, 6], [105, 106]),
    "replaced by the same": lambda index, gallery: add(index, gallery, [5, 6]),
    "nothing": lambda index, gallery: None,
    "nearly all deleted": lambda index, gallery: index.delete([f"s{i:04d}" for i in range(38)]),
    "all deleted": lambda index, gallery: index.delete([f"s{i:04d}" for i in range(40)]),
    "compacted": lambda index, gallery: (
        index.delete(["s0001"]),
        add(index, gallery, [50]),
        index.finish(),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_came_and_went_makes_the_later_version(index: Index, gallery, change: str) -> None:
    earlier = listing_of(table_of(index), STREAM)
    CHANGES[change](index, gallery)
    table = table_of(index)
    later, went = followed(earlier, table, STREAM)
    assert as_read(later) == as_read(listing_of(table, STREAM))
    assert (went is None) == (change in ("nearly all deleted", "all deleted", "compacted"))
    if went is not None:  # the others keep their numbers
        rows = np.setdiff1d(earlier.rows(), went)
        assert later.names(rows) == earlier.names(rows)
        assert (later.keys["volume"][rows] == earlier.keys["volume"][rows]).all()
        assert set(went) <= set(later.gone)


@pytest.mark.parametrize("sought", [0, 1000])
def test_rows_that_are_gone_are_found_one_by_one_or_all_at_once(
    index: Index, gallery, monkeypatch, sought: int
) -> None:
    monkeypatch.setattr(listing, "_SOUGHT", sought)
    found = listing_of(table_of(index), STREAM)
    for gone in ([0], [39, 17, 18], [1, 38]):
        index.delete([f"s{i:04d}" for i in gone])
        found, went = followed(found, table_of(index), STREAM)
        assert went.tolist() == sorted(gone)
    assert found.gone.tolist() == [0, 1, 17, 18, 38, 39]
    assert as_read(found) == as_read(listing_of(table_of(index), STREAM))


def test_many_changes_one_after_another(index: Index, gallery) -> None:
    random = np.random.default_rng(3)
    found = listing_of(table_of(index), STREAM)
    for n in range(12):
        some = random.choice(60, 4, replace=False).tolist()
        if n % 3 == 2:
            index.delete([f"s{i:04d}" for i in some])
        else:
            add(index, gallery, some, random.choice(1000, 4).tolist())
        if n == 8:
            index.finish()
        found, _ = followed(found, table_of(index), STREAM)
        assert as_read(found) == as_read(listing_of(table_of(index), STREAM))


def test_another_table_in_the_same_place_is_read_whole(index: Index, tmp_path, gallery) -> None:
    earlier = listing_of(table_of(index), STREAM)
    other = Index.create(tmp_path / "other", {"volume": gallery.streams["volume"]})
    add(other, gallery, range(100, 141))  # the same row ids, and one more
    later, went = followed(earlier, table_of(other), STREAM)
    assert went is None
    assert as_read(later) == as_read(listing_of(table_of(other), STREAM))


@pytest.mark.parametrize("exact_below", [1000, 10])
def test_a_search_goes_on_through_changes_as_one_that_was_just_opened(
    tmp_path, gallery, exact_below: int
) -> None:
    config = IndexConfig(exact_below=exact_below, rows_per_list=10, centre_from=8)
    index = Index.create(tmp_path / "idx", {"volume": gallery.streams["volume"]}, config)
    add(index, gallery, range(200))
    index.finish()
    random = np.random.default_rng(5)
    for n in range(9):
        some = random.choice(260, 5, replace=False).tolist()
        if n % 3 == 1:
            index.delete([f"s{i:04d}" for i in some])
        else:
            add(index, gallery, some, random.choice(1000, 5).tolist())
        if n == 6:
            index.finish()
        query = random.standard_normal(16).astype(np.float32)
        if n % 2:  # what was not read in between is followed as well
            continue
        fresh = Index.open(tmp_path / "idx")
        assert index.search_vector("volume", query, 20) == fresh.search_vector("volume", query, 20)
        for where in ("sex = 'F'", "sex != 'F'", "patient_id <> 'p1'"):
            assert index.ids(where) == fresh.ids(where)
            assert index.search_vector("volume", query, 20, where) == fresh.search_vector(
                "volume", query, 20, where
            )


def test_what_is_kept_of_a_study_goes_with_it(index: Index, gallery) -> None:
    index.finish()
    before = index.studies(["s0005", "s0007"])
    index.delete(["s0007"])
    assert index.studies(["s0005"])[0] is before[0]  # read once
    add(index, gallery, [5], [500])
    assert index.studies(["s0005"])[0] is not before[0]
    with pytest.raises(UnknownName, match="s0007"):
        index.studies(["s0007"])


def test_keys_are_matched_whatever_their_order() -> None:
    held, wanted = np.array([5, -3, 9, 7]), np.array([7, 1, 5, -9, 9])
    place, known = match(held, wanted)
    assert known.tolist() == [True, False, True, False, True]
    assert held[place[known]].tolist() == [7, 5, 9]
    assert not match(np.empty(0, np.int64), wanted)[1].any()
