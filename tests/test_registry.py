import pytest

from medfinder.errors import ConfigError, UnknownName
from medfinder.registry import Registry


def test_an_entry_is_found_by_its_name() -> None:
    table: Registry[type] = Registry("encoder")
    table.register("b")(int)
    table.register("a")(str)
    assert table.get("a") is str
    assert list(table) == table.names() == ["a", "b"]
    assert "a" in table
    assert "c" not in table


def test_an_unknown_name_lists_the_known_ones_and_the_nearest_first() -> None:
    table: Registry[int] = Registry("encoder")
    table.register("astra")(1)
    table.register("minilm")(2)
    with pytest.raises(
        UnknownName, match=r"Unknown encoder 'astr'. Did you mean 'astra'\? Known: astra, minilm."
    ):
        table.get("astr")


def test_a_name_is_given_once() -> None:
    table: Registry[int] = Registry("encoder")
    table.register("a")(1)
    table.register("a")(1)
    with pytest.raises(ConfigError, match="registered twice"):
        table.register("a")(2)
