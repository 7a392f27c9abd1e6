"""A later version that is read by its changes is the version that is read as a whole."""

import numpy as np
import pytest

from medfinder.errors import UnknownName
from medfinder.index.listing import followed, listing_of, match
from medfinder.index.store import Index, IndexConfig

STREAM = ["volume"]


def as_read(listing) -> dict:
    return {
        "row_ids": listing.row_ids.tolist(),
        "study_ids": listing.study_ids.to_pylist(),
        "keys": listing.keys["volume"].tolist(),
        "rows_of": listing.rows_of(listing.row_ids).tolist(),
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
    later, place = followed(earlier, table, STREAM)
    assert as_read(later) == as_read(listing_of(table, STREAM))
    names = later.study_ids.to_pylist()
    for row, now in enumerate(place.tolist()):
        if now >= 0:
            assert names[now] == earlier.study_ids[row].as_py()
            assert later.keys["volume"][now] == earlier.keys["volume"][row]


def test_many_changes_one_after_another(index: Index, gallery) -> None:
    random = np.random.default_rng(3)
    listing = listing_of(table_of(index), STREAM)
    for n in range(12):
        some = random.choice(60, 4, replace=False).tolist()
        if n % 3 == 2:
            index.delete([f"s{i:04d}" for i in some])
        else:
            add(index, gallery, some, random.choice(1000, 4).tolist())
        if n == 8:
            index.finish()
        listing, _ = followed(listing, table_of(index), STREAM)
        assert as_read(listing) == as_read(listing_of(table_of(index), STREAM))


def test_another_table_in_the_same_place_is_read_whole(index: Index, tmp_path, gallery) -> None:
    earlier = listing_of(table_of(index), STREAM)
    other = Index.create(tmp_path / "other", {"volume": gallery.streams["volume"]})
    add(other, gallery, range(100, 141))  # the same row ids, and one more
    later, place = followed(earlier, table_of(other), STREAM)
    assert (place < 0).all()
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
        where = "sex = 'F'"
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
