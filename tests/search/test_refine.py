import numpy as np
import pytest

from medfinder.search.refine import refined

A, B, C = np.eye(3, dtype=np.float32)


def test_a_query_alone_stays_where_it_is() -> None:
    np.testing.assert_allclose(refined(A, [], []), A)


def test_a_query_moves_towards_the_liked_and_away_from_the_unliked() -> None:
    place = refined(A, [B], [C], (0.5, 0.25))
    assert place is not None
    np.testing.assert_allclose(place, np.array([1, 0.5, -0.25]) / np.sqrt(1.3125), rtol=1e-6)


def test_several_liked_studies_weigh_together_as_much_as_one() -> None:
    place = refined(A, [B, C], [], (0.5, 0.75))
    assert place is not None
    assert place[1] == place[2] == pytest.approx(place[0] / 4)


def test_liked_studies_are_a_query_of_their_own() -> None:
    place = refined(None, [A, B], [])
    np.testing.assert_allclose(place, (A + B) / np.sqrt(2), rtol=1e-6)


def test_without_a_query_or_a_liked_study_there_is_no_place() -> None:
    assert refined(None, [], [A]) is None


def test_a_query_that_cancels_out_stays_what_it_was() -> None:
    np.testing.assert_allclose(refined(A, [], [A], (0.5, 1.0)), A)
