from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from medfinder.model.card import model_card
from medfinder.model.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from stubs.dual_streams import tiny

TRAINING = {
    "data": {"studies": 8000, "source": "phantoms | English"},
    "recipe": {"name": "tiny", "train": {"lr": 0.001}},
    "measures": {"val": {"report_to_volume": {"success_at_10": 0.4321987}, "n": 500}},
    "limits": ["Phantoms alone."],
    "languages": ["en", "es"],
    "seed": 7,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("card") / "c"
    return read_checkpoint(save_checkpoint(tiny(), folder, source="16 phantoms"))


def front(card: str) -> dict[str, object]:
    _, head, _ = card.split("---\n", 2)
    said = yaml.safe_load(head)
    assert isinstance(said, dict)
    return said


def test_the_front_matter_is_what_the_hub_reads(checkpoint: Checkpoint) -> None:
    said = front(model_card(checkpoint, TRAINING))
    assert said["license"] == "apache-2.0"
    assert said["library_name"] == "medfinder"
    assert said["language"] == ["en", "es"]
    assert "retrieval" in said["tags"]  # type: ignore[operator]


def test_a_licence_the_hub_has_no_word_for_is_named(checkpoint: Checkpoint) -> None:
    said = front(model_card(replace(checkpoint, licence='Ours: "research" only')))
    assert (said["license"], said["license_name"]) == ("other", 'Ours: "research" only')


def test_measures_recipe_and_data_come_from_the_run(checkpoint: Checkpoint) -> None:
    card = model_card(checkpoint, TRAINING)
    assert "| val.report_to_volume.success_at_10 | 0.4322 |" in card
    assert "| val.n | 500 |" in card
    assert "- train.lr: 0.001" in card
    assert "- source: phantoms \\| English" in card
    assert "- seed: 7" in card
    assert "16 phantoms" not in card  # the run says more than the checkpoint's one line


def test_what_is_not_recorded_is_not_invented(checkpoint: Checkpoint) -> None:
    card = model_card(checkpoint)
    assert "## Trained on\n\n16 phantoms\n" in card
    assert "## Recipe\n\nNot recorded.\n" in card
    assert "## Measures\n\nNone recorded.\n" in card


def test_limits_are_those_of_the_run_and_of_every_model(checkpoint: Checkpoint) -> None:
    limits = model_card(checkpoint, TRAINING).split("## Limits")[1]
    assert "- Phantoms alone." in limits
    assert "not a medical device" in limits


def test_it_says_what_goes_in(checkpoint: Checkpoint) -> None:
    card = model_card(checkpoint)
    assert "32 x 32 x 32, of 10 x 10 x 10 mm (D, H, W), framed by lungs, scaled by curve" in card
    assert f"{checkpoint.n_parameters:,}, float32" in card
    assert checkpoint.n_parameters == sum(t.numel() for t in tiny().state_dict().values())


def test_a_run_s_notes_give_the_checkpoint_a_card(tmp_path: Path) -> None:
    folder = save_checkpoint(tiny(), tmp_path / "c", training=TRAINING)
    card = (folder / "README.md").read_text()
    assert card == model_card(read_checkpoint(folder), TRAINING)
