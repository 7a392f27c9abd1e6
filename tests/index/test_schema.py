"""What a batch may hold: anything else is refused before it reaches the table."""

import numpy as np
import pytest

from medfinder.errors import ConfigError, InputError, Mismatch, UnknownName
from medfinder.index.schema import Stream, check_vectors
from medfinder.index.store import Index


def test_another_models_vectors_are_refused(empty: Index, gallery) -> None:
    with pytest.raises(Mismatch, match="come from model 'other@2', but this index holds those of"):
        empty.add([gallery.study(1)], {"volume": gallery.vectors([1], "volume", "other@2")})
    with pytest.raises(Mismatch, match="'other@2'"):
        empty.search_vector("volume", np.ones(16, np.float32), model_id="other@2")
    with pytest.raises(Mismatch, match="'other@2'"):
        empty.check_model("volume", "other@2")
    assert empty.count() == 0


def test_another_dimension_is_refused(empty: Index, gallery) -> None:
    batch = gallery.vectors([1], "report", "astra@1")
    with pytest.raises(
        Mismatch, match=r"of the volume vectors is \(1, 8\), but this index holds vectors of 16"
    ):
        empty.add([gallery.study(1)], {"volume": batch})
    with pytest.raises(Mismatch, match=r"shape of the query is \(1, 8\)"):
        empty.search_vector("volume", np.ones(8, np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(empty: Index, gallery, value: float) -> None:
    batch = gallery.vectors([1, 2], "volume")
    batch.vectors[1, 3] = value
    with pytest.raises(InputError, match="Row 1 of the volume vectors holds NaN or infinity"):
        empty.add([gallery.study(1), gallery.study(2)], {"volume": batch})


def test_a_vector_of_zeros_is_refused(empty: Index, gallery) -> None:
    batch = gallery.vectors([1], "volume")
    batch.vectors[0] = 0
    with pytest.raises(InputError, match="Row 0 of the volume vectors is all zeros"):
        empty.add([gallery.study(1)], {"volume": batch})
    with pytest.raises(InputError, match="Row 0 of the query is all zeros"):
        empty.search_vector("volume", np.zeros(16, np.float32))


def test_a_study_twice_in_one_batch_is_refused(empty: Index, gallery) -> None:
    with pytest.raises(InputError, match="'s0001' occurs twice in one batch"):
        empty.add([gallery.study(1), gallery.study(1)])


def test_an_empty_study_id_is_refused(empty: Index, gallery) -> None:
    with pytest.raises(InputError, match="has an empty study_id"):
        empty.add([gallery.study(1, study_id="")])


def test_a_vector_without_its_study_is_refused(empty: Index, gallery) -> None:
    with pytest.raises(InputError, match="belongs to study 's0002', which is not in the batch"):
        empty.add([gallery.study(1)], {"volume": gallery.vectors([2], "volume")})


def test_ids_and_vectors_of_different_number_are_refused(empty: Index, gallery) -> None:
    batch = gallery.vectors([1], "volume")
    wrong = type(batch)(("s0001", "s0002"), batch.vectors, batch.model_id)
    with pytest.raises(InputError, match="2 ids for 1 volume vectors"):
        empty.add([gallery.study(1)], {"volume": wrong})


def test_a_stream_that_the_index_lacks_is_refused(tmp_path, gallery) -> None:
    index = Index.create(tmp_path / "idx", {"volume": Stream("astra", "astra@1", 16)})
    with pytest.raises(Mismatch, match="brings report vectors, but this index holds only: volume"):
        index.add([gallery.study(1)], {"report": gallery.vectors([1], "report")})
    with pytest.raises(UnknownName, match="Unknown stream 'report'"):
        index.search_vector("report", np.ones(8, np.float32))


def test_an_index_needs_a_known_stream_of_a_positive_dimension(tmp_path) -> None:
    with pytest.raises(UnknownName, match=r"Unknown stream 'volumes'\. Did you mean 'volume'"):
        Index.create(tmp_path / "a", {"volumes": Stream("astra", "astra@1", 16)})
    with pytest.raises(ConfigError, match="dimension 0"):
        Index.create(tmp_path / "b", {"volume": Stream("astra", "astra@1", 0)})
    with pytest.raises(ConfigError, match="an encoder for at least one stream"):
        Index.create(tmp_path / "c", {})


def test_a_unit_vector_stays_as_it_is_bit_by_bit() -> None:
    rows = np.random.default_rng(0).standard_normal((500, 256)).astype(np.float32)
    once = check_vectors(rows, 256, "vectors")
    assert np.array_equal(check_vectors(once, 256, "vectors"), once)
    assert np.allclose(np.linalg.norm(once.astype(np.float64), axis=1), 1, atol=1e-7)
