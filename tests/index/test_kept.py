from collections.abc import Sequence

from medfinder.index.kept import Kept


class Reader:
    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, ids: Sequence[str]) -> dict[str, str]:
        self.asked.append(list(ids))
        return {i: i.upper() for i in ids}


def test_only_what_is_missing_is_read_and_all_of_it_at_once() -> None:
    kept, read = Kept[str](10), Reader()
    assert kept.take(["a", "b"], read) == {"a": "A", "b": "B"}
    assert kept.take(["b", "c", "d", "c"], read) == {"b": "B", "c": "C", "d": "D"}
    assert read.asked == [["a", "b"], ["c", "d"]]


def test_nothing_is_read_where_all_is_kept() -> None:
    kept, read = Kept[str](10), Reader()
    kept.take(["a"], read)
    kept.take(["a"], read)
    assert len(read.asked) == 1


def test_the_least_used_go_first() -> None:
    kept, read = Kept[str](2), Reader()
    kept.take(["a", "b"], read)
    kept.take(["a"], read)
    kept.take(["c"], read)
    kept.take(["a", "c"], read)
    assert read.asked == [["a", "b"], ["c"]]


def test_more_than_can_be_kept_is_returned_whole() -> None:
    assert len(Kept[str](2).take(list("abcdef"), Reader())) == 6
