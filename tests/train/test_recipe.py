"""A recipe is one TOML; what is wrong in it is said before anything is read."""

import dataclasses
from pathlib import Path

import pytest

from medfinder.config import from_dict, load_config
from medfinder.errors import ConfigError
from medfinder.train.recipe import RecipeConfig
from stubs.training import recipe

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("name", ["tiny", "small", "base", "paper", "published_code"])
def test_a_shipped_recipe_is_one_that_this_version_reads(name: str) -> None:
    made = load_config(RecipeConfig, CONFIGS / f"{name}.toml")
    assert made != RecipeConfig()


def test_the_papers_recipe_has_every_component_and_the_released_codes_has_none() -> None:
    paper = load_config(RecipeConfig, CONFIGS / "paper.toml")
    assert (paper.model.fusion, paper.model.normalised, paper.sampling.text) == (
        True,
        True,
        "sentences",
    )
    assert paper.objective.view_mse > 0
    assert paper.objective.similarity == "info_nce"
    code = load_config(RecipeConfig, CONFIGS / "published_code.toml")
    assert (code.model.fusion, code.model.normalised, code.objective.view_mse) == (False, False, 0)
    assert (code.objective.similarity, code.model.text.trained) == ("one_directional", "none")
    assert set(dataclasses.asdict(code.augment).values()) == {0}


def test_a_misspelt_setting_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'train\.learn_rate'"):
        load_config(RecipeConfig, CONFIGS / "tiny.toml", ["train.learn_rate=1"])
    with pytest.raises(ConfigError, match=r"Did you mean 'train\.batch_size'"):
        load_config(RecipeConfig, None, ["train.batchsize=8"])
    with pytest.raises(ConfigError, match=r"Did you mean 'objective\.view_mse'"):
        load_config(RecipeConfig, None, ["objective.view_mes=1"])


def test_an_override_comes_on_top_of_the_file() -> None:
    made = load_config(RecipeConfig, CONFIGS / "tiny.toml", ["train.lr=3e-4"])
    assert made.train.lr == 3e-4
    assert made.train.batch_size == 64


def test_a_batch_of_one_has_nothing_to_compare_with() -> None:
    with pytest.raises(ConfigError, match="'info_nce' compares each pair with the others"):
        recipe(train={"batch_size": 1})
    with pytest.raises(ConfigError, match="'one_directional'"):
        recipe(train={"batch_size": 1}, objective={"similarity": "one_directional"})
    assert recipe(train={"batch_size": 1}, objective={"similarity": "siglip"})


@pytest.mark.parametrize(
    ("table", "settings", "message"),
    [
        ("train", {"steps": 0}, r"train\.steps is 0; expected at least 1"),
        ("train", {"micro_batch": -1}, r"train\.micro_batch is -1; expected at least 0"),
        ("train", {"lr": 0.0}, r"train\.lr is 0\.0; expected a finite number above 0"),
        ("train", {"clip": float("inf")}, r"train\.clip is inf; expected a finite number above 0"),
        ("train", {"seed": 2**63}, r"train\.seed is \d+; expected less than 2\^63"),
        ("augment", {"gain": float("nan")}, r"augment\.gain is nan; expected a finite number"),
        ("augment", {"shift_voxels": 1000}, r"augment\.shift_voxels is 1000; expected less than"),
        ("train", {"warmup": 1.0}, "warmup below 1"),
        ("objective", {"alpha": -1.0}, r"objective\.alpha is -1\.0; expected a number"),
        ("objective", {"view_mse": float("nan")}, r"objective\.view_mse is nan"),
        (
            "objective",
            {"alpha": 0.0, "statements": 0.0, "attribute_choice": 0.0},
            "there is nothing to learn",
        ),
        ("objective", {"n_told": -1}, "must not be negative"),
        ("objective", {"n_told": 0, "n_denied": 0}, "n_told, n_denied and n_prompts are all 0"),
        ("objective", {"rerank": 1.0}, r"the model has no reranker\. Set model\.reranker = true"),
    ],
)
def test_a_setting_out_of_range_is_named(
    table: str, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe(**{table: settings})


def test_training_needs_volumes_of_one_size() -> None:
    values = {"model": {"preprocess": {"spacing_mm": [1.0, 1.0, 1.0]}}}
    with pytest.raises(ConfigError, match=r"model\.preprocess\.size is missing"):
        from_dict(RecipeConfig, values)
