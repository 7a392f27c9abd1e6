from pathlib import Path

import numpy as np
import pytest

from medfinder.embed import Embedder
from medfinder.errors import InputError
from medfinder.search.finder import Finder
from medfinder.search.regions import Box, explain, read_regions, region_place
from medfinder.volume.volume import Volume
from stubs.cases import block
from stubs.encoders import GridEncoder, WordEncoder

EMBEDDER = Embedder(GridEncoder(joint=True))
WHOLE = Box((0, 0, 0), (24, 32, 32))


@pytest.fixture(scope="module")
def left() -> Volume:
    return block(1, "left")


def test_regions_lie_where_the_preprocessing_put_them(left: Volume) -> None:
    regions = read_regions(left, EMBEDDER)
    assert regions.shape == (24, 32, 32)
    # The whole volume, cut into 4 x 4 x 4.
    np.testing.assert_allclose(regions.origin, 0, atol=1e-9)
    np.testing.assert_allclose(regions.step, (6, 8, 8), atol=1e-9)


def test_heat_is_where_the_query_is_answered(left: Volume) -> None:
    regions = read_regions(left, EMBEDDER)
    asked = EMBEDDER.embed_texts(["left"]).vectors[0]
    heat = explain(regions, asked, EMBEDDER)
    assert heat.values.shape == (4, 4, 4)
    assert heat.values.max() == 1
    assert heat.values.min() >= 0
    assert heat.values[:, :, :2].sum() > 2 * heat.values[:, :, 2:].sum()
    d, h, w = heat.peak
    assert left.hu[d, h, w] > 300


def test_the_peak_lies_inside_the_volume() -> None:
    odd = Volume(block(1, "right").stored[:5, :7, :9], block(1).affine)
    regions = read_regions(odd, EMBEDDER)
    for text in ("left", "right"):
        peak = explain(regions, EMBEDDER.embed_texts([text]).vectors[0], EMBEDDER).peak
        assert all(0 <= at < n for at, n in zip(peak, (5, 7, 9), strict=True))


def test_nothing_is_hot_where_nothing_answers(left: Volume) -> None:
    regions = read_regions(left, EMBEDDER)
    heat = explain(regions, -np.ones(64, np.float32) / 8, EMBEDDER)
    assert not heat.values.any()


def test_all_regions_together_make_the_volumes_own_vector(left: Volume) -> None:
    regions = read_regions(left, EMBEDDER)
    place = region_place(regions, WHOLE, EMBEDDER)
    np.testing.assert_allclose(place, EMBEDDER.embed_volume(left), atol=2e-3)


def test_a_box_takes_the_regions_that_lie_mostly_in_it(left: Volume) -> None:
    regions = read_regions(left, EMBEDDER)
    place = region_place(regions, Box((0, 0, 0), (24, 32, 12)), EMBEDDER).reshape(4, 4, 4)
    assert place[:, :, :2].all()
    assert not place[:, :, 2:].any()


def test_a_box_smaller_than_a_region_is_the_region_it_lies_in(left: Volume) -> None:
    regions = read_regions(left, EMBEDDER)
    place = region_place(regions, Box((7, 9, 9), (8, 10, 10)), EMBEDDER).reshape(4, 4, 4)
    assert np.argwhere(place).tolist() == [[1, 1, 1]]


@pytest.mark.parametrize("box", [Box((3, 3, 3), (3, 9, 9)), Box((30, 0, 0), (40, 5, 5))])
def test_an_empty_box_is_refused(left: Volume, box: Box) -> None:
    with pytest.raises(InputError) as caught:
        region_place(read_regions(left, EMBEDDER), box, EMBEDDER)
    assert caught.value.rule == "empty-region"


def test_an_encoder_that_cannot_tell_is_named(left: Volume) -> None:
    with pytest.raises(InputError, match="'words'") as caught:
        read_regions(left, Embedder(WordEncoder()))
    assert caught.value.rule == "no-explanation"


def test_a_finder_explains_a_text(joint_finder: Finder, left: Volume) -> None:
    features = joint_finder.read_regions(left)
    heat = joint_finder.explain(features, joint_finder.place_of("dense on the left"))
    assert heat.peak[2] < 16


def test_a_finder_searches_by_a_region(joint_finder: Finder, left: Volume) -> None:
    place = joint_finder.region_place(joint_finder.read_regions(left), Box((4, 8, 4), (20, 24, 14)))
    found = [hit.study_id for hit in joint_finder.search(place=place, by="volume", k=2)]
    assert set(found) == {"s1", "s5"}


def test_a_study_has_a_place(joint_finder: Finder) -> None:
    place = joint_finder.place_of(study_id="s1")
    np.testing.assert_allclose(np.linalg.norm(place), 1, atol=1e-5)


def test_a_text_has_no_place_where_the_encoder_reads_none(finder: Finder) -> None:
    with pytest.raises(InputError, match="no place") as caught:
        finder.place_of("nodule")
    assert caught.value.rule == "no-explanation"


def test_a_place_needs_a_query(joint_finder: Finder) -> None:
    with pytest.raises(InputError, match="Give a query"):
        joint_finder.place_of()


def test_an_index_of_reports_explains_nothing(studies: Path, tmp_path: Path) -> None:
    from medfinder.search.build import build_index

    words = Embedder(WordEncoder())
    build_index(studies, tmp_path / "idx", None, words)
    finder = Finder(__import__("medfinder").open_index(tmp_path / "idx").index, {"report": words})
    with pytest.raises(InputError, match="no volume vectors"):
        finder.read_regions(block(1))
