import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medfinder.embed import Embedder, Embeddings
from medfinder.errors import ConfigError, InputError, Mismatch, UnreadableVolume
from medfinder.volume.cache import PreprocessCache
from medfinder.volume.preprocess import preprocess
from medfinder.volume.volume import Volume
from stubs import octants as stub


def bright_at(d: int, h: int, w: int) -> Volume:
    hu = np.full((2, 2, 2), -900, np.int16)
    hu[d, h, w] = 900
    return Volume(hu.repeat(3, 0).repeat(3, 1).repeat(3, 2), np.eye(4))


def unreadable() -> Volume:
    raise UnreadableVolume("The file is truncated.", rule="truncated")


@pytest.fixture
def embedder() -> Embedder:
    return Embedder(stub.OctantEncoder())


def test_vectors_have_length_one(embedder: Embedder) -> None:
    done = embedder.embed_volumes([("a", bright_at(0, 0, 0)), ("b", bright_at(1, 1, 1))])
    assert done.ids == ("a", "b")
    assert done.vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(done.vectors, axis=1), 1, atol=1e-6)


def test_one_volume_gives_the_vector_it_has_among_many(embedder: Embedder) -> None:
    volume = bright_at(1, 0, 1)
    many = embedder.embed_volumes([("a", bright_at(0, 0, 0)), ("b", volume)])
    np.testing.assert_array_equal(embedder.embed_volume(volume), many.vectors[1])


def test_text_finds_the_volume_in_a_joint_space(embedder: Embedder) -> None:
    volumes = embedder.embed_volumes(
        [("low", bright_at(0, 0, 0)), ("high", bright_at(1, 1, 0)), ("right", bright_at(1, 1, 1))]
    )
    query = embedder.embed_texts(["superior anterior left"])
    assert volumes.ids[int((volumes.vectors @ query.vectors[0]).argmax())] == "high"


def test_regions_come_with_the_vector_they_pool_to(embedder: Embedder) -> None:
    volume = bright_at(0, 1, 1)
    [done] = embedder.iter_volumes([("a", volume)], regions=True)
    assert done.regions is not None
    assert done.regions.shape == (8, 8)
    assert done.regions.dtype == np.float16
    np.testing.assert_allclose(done.vector, embedder.embed_volume(volume), atol=1e-3)
    np.testing.assert_array_equal(done.regions, embedder.region_features(volume))


def test_a_bad_volume_is_reported_and_the_stream_goes_on(embedder: Embedder) -> None:
    errors: list[tuple[str, str]] = []
    items = [("a", bright_at(0, 0, 0)), ("bad", unreadable), ("c", bright_at(1, 1, 1))]
    done = embedder.embed_volumes(items, on_error=lambda i, e: errors.append((i, e.rule)))
    assert done.ids == ("a", "c")
    assert errors == [("bad", "truncated")]


def test_a_bad_volume_is_raised_where_nobody_listens(embedder: Embedder) -> None:
    with pytest.raises(UnreadableVolume, match="The file is truncated"):
        embedder.embed_volumes([("bad", unreadable)])


def test_another_error_is_raised_even_where_somebody_listens(embedder: Embedder) -> None:
    def items() -> Iterator[tuple[str, Volume]]:
        yield "a", bright_at(0, 0, 0)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        embedder.embed_volumes(items(), on_error=lambda i, e: None)


def test_a_voxel_that_is_no_number_is_an_error_that_names_the_study(embedder: Embedder) -> None:
    hu = np.zeros((4, 4, 4), np.float32)
    hu[0, 0, 0] = np.nan
    with pytest.raises(InputError, match="The volume of s7 holds values that are not finite") as e:
        embedder.embed_volumes([("s7", Volume(hu, np.eye(4)))])
    assert e.value.rule == "not-finite"


def test_a_vector_that_is_not_finite_is_an_error_that_names_the_study() -> None:
    class Broken(stub.OctantEncoder):
        def encode_volumes(self, batch: np.ndarray) -> np.ndarray:
            return np.full((len(batch), 8), np.nan, np.float32)

    with pytest.raises(InputError, match="The vector of s7 is not finite: octants cannot"):
        Embedder(Broken()).embed_volumes([("s7", bright_at(0, 0, 0))])


def test_a_vector_of_zeros_is_an_error(embedder: Embedder) -> None:
    air = Volume(np.full((4, 4, 4), -1000, np.int16), np.eye(4))
    with pytest.raises(InputError, match="The vector of s7 is zero"):
        embedder.embed_volumes([("s7", air)])


def test_an_encoder_that_breaks_its_declaration_is_an_error() -> None:
    encoder = stub.OctantEncoder(replace(stub.INFO, dim=9))
    with pytest.raises(ConfigError, match=r"returned shape \(1, 8\), expected \(1, 9\)"):
        Embedder(encoder).embed_volume(bright_at(0, 0, 0))


def test_a_stream_the_encoder_has_not_is_refused() -> None:
    encoder = stub.OctantEncoder(replace(stub.INFO, streams=frozenset({"text"})))
    with pytest.raises(InputError, match="octants takes text, not volume") as e:
        Embedder(encoder).embed_volume(bright_at(0, 0, 0))
    assert e.value.rule == "wrong-stream"


def test_regions_of_an_encoder_without_them_are_refused() -> None:
    encoder = stub.OctantEncoder(replace(stub.INFO, n_regions=None))
    with pytest.raises(InputError, match="octants has no region features"):
        Embedder(encoder).region_features(bright_at(0, 0, 0))


def test_an_empty_text_is_refused(embedder: Embedder) -> None:
    with pytest.raises(InputError, match="The text r2 is empty"):
        embedder.embed_texts(["a report", "  "], ["r1", "r2"])


def test_ids_and_texts_must_pair(embedder: Embedder) -> None:
    with pytest.raises(ConfigError, match="Expected one id a text, got 2 ids, 1 texts"):
        embedder.embed_texts(["a report"], ["r1", "r2"])


def test_nothing_in_gives_no_rows(embedder: Embedder) -> None:
    assert embedder.embed_volumes([]).vectors.shape == (0, 8)
    assert embedder.embed_texts([]).vectors.shape == (0, 8)


def test_batches_do_not_change_the_result(embedder: Embedder) -> None:
    items = [(str(i), bright_at(i % 2, i // 2 % 2, i // 4)) for i in range(7)]
    batched = Embedder(stub.OctantEncoder(), batch_size=3).embed_volumes(items)
    alone = embedder.embed_volumes(items)
    assert batched.ids == alone.ids
    np.testing.assert_array_equal(batched.vectors, alone.vectors)


def test_a_cached_volume_gives_the_same_vector(tmp_path: Path, embedder: Embedder) -> None:
    cached = Embedder(stub.OctantEncoder(), PreprocessCache(tmp_path))
    first, second = (cached.embed_volume(bright_at(0, 1, 0)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, embedder.embed_volume(bright_at(0, 1, 0)))
    assert any(tmp_path.rglob("*.npy"))


def prepared(*values: float) -> list[np.ndarray]:
    return [np.full((1, 2, 2, 2), value, np.float32) for value in values]


def test_volumes_preprocessed_before_get_the_vectors_they_would_have(embedder: Embedder) -> None:
    assert stub.INFO.preprocess is not None
    volumes = [bright_at(0, 0, 1), bright_at(1, 0, 1), bright_at(1, 1, 1)]
    arrays = np.stack([preprocess(v, stub.INFO.preprocess) for v in volumes])
    ids = ("a", "b", "c")
    batched = Embedder(stub.OctantEncoder(), batch_size=2).embed_prepared(ids, arrays)
    direct = embedder.embed_volumes(zip(ids, volumes, strict=True))
    assert (batched.ids, batched.model_id) == (direct.ids, direct.model_id)
    np.testing.assert_array_equal(batched.vectors, direct.vectors)


def test_no_prepared_volumes_give_no_rows(embedder: Embedder) -> None:
    assert embedder.embed_prepared([], []).vectors.shape == (0, 8)


@pytest.mark.parametrize(
    ("array", "got"),
    [
        (np.ones((1, 2, 2, 3), np.float32), r"float32 of shape \(1, 2, 2, 3\)"),
        (np.ones((2, 2, 2), np.float32), r"float32 of shape \(2, 2, 2\)"),
        (np.ones((1, 2, 2, 2), np.uint8), r"uint8 of shape \(1, 2, 2, 2\)"),
    ],
)
def test_an_array_that_was_prepared_otherwise_is_refused(
    embedder: Embedder, array: np.ndarray, got: str
) -> None:
    expected = r"expected float32 of shape \(1, 2, 2, 2\): it was not preprocessed as octants asks"
    with pytest.raises(InputError, match=f"The array of s7 is {got}, {expected}") as e:
        embedder.embed_prepared(["s7"], [array])
    assert e.value.rule == "not-prepared"


def test_a_prepared_value_that_is_no_number_is_an_error_that_names_the_study(
    embedder: Embedder,
) -> None:
    with pytest.raises(InputError, match="The volume of s7 holds values that are not finite"):
        embedder.embed_prepared(["s6", "s7"], prepared(1, np.nan))


@pytest.mark.parametrize(("n", "text"), [(1, "2 ids, fewer arrays"), (3, "2 ids, more arrays")])
def test_ids_and_prepared_volumes_must_pair(embedder: Embedder, n: int, text: str) -> None:
    with pytest.raises(ConfigError, match=f"Expected one array an id, got {text}"):
        embedder.embed_prepared(["a", "b"], prepared(*range(1, n + 1)))


def test_prepared_volumes_need_an_encoder_of_volumes() -> None:
    encoder = stub.OctantEncoder(replace(stub.INFO, streams=frozenset({"text"})))
    with pytest.raises(InputError, match="octants takes text, not volume"):
        Embedder(encoder).embed_prepared(["a"], prepared(1))


def test_known_regions_have_the_vectors_of_their_volumes() -> None:
    encoder = stub.OctantEncoder()
    arrays = np.concatenate([prepared(1), prepared(2), prepared(3)])
    ids = ("a", "b", "c")
    found = Embedder(encoder, batch_size=2).embed_regions(ids, encoder.region_features(arrays))
    direct = Embedder(encoder).embed_prepared(ids, arrays)
    assert (found.ids, found.model_id) == (direct.ids, direct.model_id)
    np.testing.assert_array_equal(found.vectors, direct.vectors)
    assert Embedder(encoder).embed_regions([], []).vectors.shape == (0, 8)


@pytest.mark.parametrize(("n", "text"), [(1, "2 ids, fewer arrays"), (3, "2 ids, more arrays")])
def test_ids_and_known_regions_must_pair(embedder: Embedder, n: int, text: str) -> None:
    with pytest.raises(ConfigError, match=f"Expected one array an id, got {text}"):
        embedder.embed_regions(["a", "b"], np.ones((n, 8, 8), np.float16))


def test_known_regions_that_are_no_numbers_name_the_study(embedder: Embedder) -> None:
    with pytest.raises(InputError, match="The vector of s7 is not finite"):
        embedder.embed_regions(["s7"], np.full((1, 8, 8), np.nan, np.float16))


def test_known_regions_need_an_encoder_of_regions() -> None:
    encoder = stub.OctantEncoder(replace(stub.INFO, n_regions=None))
    with pytest.raises(InputError, match="The encoder octants has no region features"):
        Embedder(encoder).embed_regions(["a"], np.ones((1, 8, 8), np.float16))


def test_the_next_volume_is_read_while_one_is_encoded() -> None:
    read_second = threading.Event()

    class Waits(stub.OctantEncoder):
        def encode_volumes(self, batch: np.ndarray) -> np.ndarray:
            assert read_second.wait(10), "the second volume was not read ahead"
            return super().encode_volumes(batch)

    def second() -> Volume:
        read_second.set()
        return bright_at(1, 1, 1)

    done = Embedder(Waits()).embed_volumes([("a", bright_at(0, 0, 0)), ("b", second)])
    assert done.ids == ("a", "b")


def test_a_stream_that_is_left_early_ends_its_thread(embedder: Embedder) -> None:
    stream = embedder.iter_volumes((str(i), bright_at(0, 0, 0)) for i in range(1000))
    next(stream)
    stream.close()
    deadline = time.monotonic() + 5
    while any(t.name == "medfinder-preprocess" for t in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_model_id_changes_with_weights_and_preprocessing() -> None:
    other_weights = replace(stub.INFO, weights="other")
    assert stub.INFO.preprocess is not None
    other_input = replace(stub.INFO, preprocess=replace(stub.INFO.preprocess, size=(2, 2, 4)))
    ids = {
        Embedder(stub.OctantEncoder(i)).model_id for i in (stub.INFO, other_weights, other_input)
    }
    assert len(ids) == 3


def test_vectors_of_another_model_are_refused() -> None:
    made = Embeddings(("a",), np.ones((1, 4), np.float32), "astra@1+x")
    made.check_comparable("astra@1+x")
    with pytest.raises(Mismatch, match=r"expected astra@1\+x, got astra@2\+x"):
        made.check_comparable("astra@2+x")


def test_embeddings_pair_ids_with_rows() -> None:
    with pytest.raises(ConfigError, match="got 1 ids and vectors of shape"):
        Embeddings(("a",), np.ones((2, 4), np.float32), "m")


def test_centring_spreads_vectors_that_share_a_large_part() -> None:
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(50, 16)) + 10).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    made = Embeddings(tuple(map(str, range(50))), vectors, "m")
    centred = made.centred()
    assert (vectors @ vectors.T).min() > 0.9
    assert abs((centred.vectors @ centred.vectors.T).mean()) < 0.05
    query = Embeddings(("q",), vectors[:1], "m").centred(vectors.mean(0))
    np.testing.assert_allclose(query.vectors[0], centred.vectors[0], atol=1e-5)
