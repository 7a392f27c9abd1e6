from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from medfinder.config import config_hash, from_dict, load_config, to_dict
from medfinder.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    depth: int = 3
    window_hu: tuple[float, float] = (-1000.0, 200.0)


@dataclass(frozen=True)
class Outer:
    lr: float = 1e-3
    mode: Literal["a", "b"] = "a"
    name: str | None = None
    sizes: tuple[int, ...] = ()
    inner: Inner = field(default_factory=Inner)
    site_key: str = ""


def test_defaults_stand_where_nothing_is_said() -> None:
    assert load_config(Outer) == Outer()


def test_a_file_goes_over_defaults_and_an_override_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('lr = 1\nname = "x"\n[inner]\ndepth = 5\n')
    config = load_config(Outer, path, ["lr=3e-4", "inner.window_hu=[-1000, 400]", "mode=b"])
    assert config == Outer(3e-4, "b", "x", (), Inner(5, (-1000.0, 400.0)))


def test_a_section_of_a_file_is_read_alone(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("[train]\nlr = 0.5\n[index]\nk = 1\n")
    assert load_config(Outer, path, section="train").lr == 0.5


def test_a_misspelt_table_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("[trian]\nlr = 0.5\n[index]\nk = 1\n")
    with pytest.raises(
        ConfigError,
        match=r"no table \[train\]. Did you mean that by 'trian'\? It holds: trian, index.",
    ):
        load_config(Outer, path, section="train")


@pytest.mark.parametrize("text", ["", "train = 3\n"])
def test_a_file_without_the_table_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"no table \[train\]"):
        load_config(Outer, path, section="train")


@pytest.mark.parametrize(
    ("typed", "value"),
    [("12345", "12345"), ("007", "007"), ("true", "true"), ('"5"', "5"), ("a=b", "a=b")],
)
def test_a_string_setting_takes_the_text_that_was_typed(typed: str, value: str) -> None:
    assert load_config(Outer, overrides=[f"site_key={typed}"]).site_key == value
    assert load_config(Outer, overrides=[f"name={typed}"]).name == value


def test_a_table_and_a_part_of_it_can_both_be_set() -> None:
    config = load_config(Outer, overrides=["inner={depth=5}", "inner.window_hu=[0, 1]"])
    assert config.inner == Inner(5, (0.0, 1.0))


def test_a_part_of_what_is_no_table_is_named() -> None:
    with pytest.raises(ConfigError, match="sets a part of inner, which is given as one value too"):
        load_config(Outer, overrides=["inner=3", "inner.depth=4"])


def test_the_value_of_a_key_is_in_no_message() -> None:
    with pytest.raises(ConfigError, match="site_key must be str") as wrong:
        from_dict(Outer, {"site_key": 12345})
    with pytest.raises(ConfigError, match="'site_key' has no '='") as unset:
        load_config(Outer, overrides=["site_key: 12345"])
    assert "12345" not in f"{wrong.value}{unset.value}"


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"inner": {"dept": 1}}, r"Unknown setting 'inner.dept'. Did you mean 'inner.depth'\?"),
        ({"lr": "fast"}, "Setting lr must be float, got 'fast'"),
        ({"inner": 3}, "Setting inner must be a table, got 3"),
        ({"mode": "c"}, r"Setting mode is 'c'; it must be one of \['a', 'b'\]"),
        ({"inner": {"window_hu": [1]}}, r"inner.window_hu must have 2 values, got 1"),
        ({"inner": {"depth": True}}, "inner.depth must be int, got True"),
        ({"sizes": 3}, "Setting sizes must be a list"),
    ],
)
def test_a_wrong_setting_is_named(values: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        from_dict(Outer, values)


def test_an_override_without_a_value_is_named() -> None:
    with pytest.raises(ConfigError, match="has no '='"):
        load_config(Outer, overrides=["lr"])


def test_a_file_that_is_not_toml_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("lr = = 3")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(Outer, tmp_path / "c.toml")


def test_the_plain_form_is_read_back_and_the_hash_follows_every_value() -> None:
    config = Outer(lr=0.1, sizes=(1, 2))
    assert from_dict(Outer, to_dict(config)) == config
    assert config_hash(config) == config_hash(from_dict(Outer, to_dict(config)))
    assert config_hash(config) != config_hash(Outer(lr=0.1, sizes=(1, 3)))
