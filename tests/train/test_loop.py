"""A run from its seed to its best checkpoint: what stops it, what it goes on from, who shares it."""

import errno
import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medfinder.config import to_dict
from medfinder.errors import (
    ArtifactError,
    ConfigError,
    InputError,
    MedFinderError,
    Mismatch,
    MissingExtra,
)
from medfinder.model.checkpoint import load_checkpoint
from medfinder.model.dual_stream import DualStream
from medfinder.model.joint_encoder import JointEncoder
from medfinder.train import loop
from medfinder.train.curves import METRICS
from medfinder.train.dataset import TrainingSet
from medfinder.train.loop import BAD, CHECKPOINT, Fitted, fit, learning_rate
from medfinder.train.recipe import TrainConfig
from medfinder.train.state import STATE
from medfinder.train.validate import PRIMARY, Validation, validate
from stubs.networks import FLOATS, POISON, in_floats
from stubs.processes import HUNG, fit_a_part, run
from stubs.training import batches, phantoms, recipe

pytest.importorskip("lightning_fabric")
ALONE = {"alpha": 1.0, "statements": 0.0, "attribute_choice": 0.0}
PLAIN = {"volume": {"name": "plain", "width": 32, "depth": 1}}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums of one order, so that runs can be compared bit for bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def val() -> TrainingSet:
    return phantoms("val", 4)


def sets() -> tuple[TrainingSet, TrainingSet]:
    return phantoms(), val()


def trained(out: Path, data: TrainingSet | None = None, **settings: Any) -> Fitted:
    resume = settings.pop("resume", False)
    progress = settings.pop("progress", None)
    return fit(recipe(**settings), data or phantoms(), val(), out, resume=resume, progress=progress)


def lines(out: Path) -> list[dict[str, Any]]:
    """The curve, without what the clock says."""
    made = [json.loads(line) for line in (out / METRICS).read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "cpu_s"} for line in made]


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in lines(out) if "loss" in line]


def same(a: DualStream, b: DualStream) -> bool:
    return all(
        torch.equal(x, y)
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


# -- a run ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Fitted, Path]:
    """A run of six steps that nothing stops."""
    out = tmp_path_factory.mktemp("whole")
    torch.set_num_threads(1)
    return trained(out), out


def test_a_run_leaves_its_curve_and_its_best_checkpoint(whole: tuple[Fitted, Path]) -> None:
    fitted, out = whole
    steps = [line["step"] for line in lines(out) if "loss" in line]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines(out) if "validation" in line] == [3, 6]
    named = {"loss", "similarity", "statements", "attribute_choice", "lr", "norm", "step"}
    assert named == lines(out)[0].keys()
    assert fitted.checkpoint == out / CHECKPOINT
    assert (fitted.n_steps, fitted.n_seen, fitted.n_bad, fitted.n_skipped) == (6, 24, 0, 0)
    assert fitted.cpu_s > 0
    assert fitted.duration_s > 0
    assert not fitted.model.training
    assert not (out / BAD).exists()


def test_the_checkpoint_scores_what_the_run_says_through_the_encoder_in_use(
    whole: tuple[Fitted, Path],
) -> None:
    fitted, out = whole
    loaded = load_checkpoint(fitted.checkpoint)
    assert validate(loaded, val()).measures == pytest.approx(dict(fitted.measures))
    said = json.loads((fitted.checkpoint / "training.json").read_text())
    assert (said["primary"], said["seed"], said["step"]) == (PRIMARY, 0, fitted.step)
    assert said["measures"]["validation"] == pytest.approx(dict(fitted.measures))
    assert said["data"]["studies in validation"] == 4
    assert said["languages"] == ["en"]
    at = {line["step"]: line["validation"] for line in lines(out) if "validation" in line}
    assert at[fitted.step] == pytest.approx(dict(fitted.measures))


def test_the_seed_decides_the_curve(whole: tuple[Fitted, Path], tmp_path: Path) -> None:
    fitted, out = whole
    again = trained(tmp_path / "again")
    assert lines(tmp_path / "again") == lines(out)
    assert same(again.model, fitted.model)
    trained(tmp_path / "other", train={"seed": 1, "steps": 1})
    assert losses(tmp_path / "other")[0] != losses(out)[0]


def test_the_best_checkpoint_is_the_one_with_the_best_primary_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    scores = iter([0.2, 0.6, 0.6, 0.4])

    def scored(model: DualStream, *_: Any) -> Validation:
        seen.append({k: v.clone() for k, v in model.state_dict().items()})
        return Validation({PRIMARY: next(scores), "mean_rank": 2.0})

    monkeypatch.setattr(loop, "validate", scored)
    fitted = trained(tmp_path, train={"steps": 4, "validate_every": 1})
    assert fitted.step == 2  # a tie is no improvement
    assert fitted.measures[PRIMARY] == 0.6
    kept = load_checkpoint(tmp_path / CHECKPOINT).state_dict()
    assert all(torch.equal(kept[k], v) for k, v in seen[1].items())
    assert not torch.equal(kept["volume_head.weight"], seen[3]["volume_head.weight"])


def test_text_sampling_changes_what_training_reads_and_never_what_validation_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_training: list[str] = []
    in_validation: list[str] = []
    encode = JointEncoder.encode_texts
    read = loop.Objective.texts

    def validating(encoder: JointEncoder, texts: Any) -> Any:
        in_validation.extend(texts)
        return encode(encoder, texts)

    def training(objective: Any, batch: Any) -> list[str]:
        in_training.extend(text for text in batch.texts if text is not None)
        return read(objective, batch)

    monkeypatch.setattr(JointEncoder, "encode_texts", validating)
    monkeypatch.setattr(loop.Objective, "texts", training)
    trained(
        tmp_path,
        sampling={"text": "sentences", "min_share": 0.2},
        train={"steps": 2, "validate_every": 1},
    )
    reports = {text for texts in phantoms().reports for text in texts}
    assert len(in_training) >= 8
    assert len([text for text in in_training if text not in reports]) >= 6
    assert in_validation == [texts[0] for texts in val().reports] * 2


def test_the_tiny_model_overfits_eight_pairs(tmp_path: Path) -> None:
    data = replace(phantoms(), reports=tuple(texts[:1] for texts in phantoms().reports))
    fitted = trained(
        tmp_path,
        data,
        train={"steps": 60, "batch_size": 8, "lr": 3e-3, "validate_every": 60},
        augment={"shift_voxels": 0, "noise": 0.0},
        objective=ALONE,
    )
    seen = losses(tmp_path)
    assert seen[0] > 1.5
    assert seen[-1] < 0.1
    measures = validate(fitted.model, data).measures
    assert measures["report_to_volume_success_at_1"] == 1
    assert measures["volume_to_report_success_at_1"] == 1


def test_pieces_that_fit_in_memory_give_the_curve_of_the_whole_batch(tmp_path: Path) -> None:
    settings = {"model": PLAIN, "objective": {"view_mse": 1.0}}
    trained(tmp_path / "whole", train={"steps": 3}, **settings)
    trained(tmp_path / "parts", train={"steps": 3, "micro_batch": 3}, **settings)
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), rel=1e-3)


def test_half_precision_is_near_and_leaves_weights_as_they_are(
    whole: tuple[Fitted, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_has_bf16", lambda: True)  # of these small maps any CPU is capable
    fitted = trained(tmp_path, train={"steps": 2, "precision": "bf16-mixed"})
    first, exact = losses(tmp_path)[0], losses(whole[1])[0]
    assert first == pytest.approx(exact, rel=0.05)
    assert first != pytest.approx(exact, rel=1e-6)
    assert {p.dtype for p in fitted.model.parameters()} == {torch.float32}


def test_half_precision_is_refused_where_a_cpu_would_get_it_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_has_bf16", lambda: False)
    with pytest.raises(ConfigError, match=r"Set train\.precision = '32-true'"):
        trained(tmp_path, train={"steps": 2, "precision": "bf16-mixed"})


def test_a_batch_of_one_can_be_trained(tmp_path: Path) -> None:
    fitted = trained(
        tmp_path, train={"steps": 2, "batch_size": 1}, objective={"similarity": "siglip"}
    )
    assert fitted.n_seen == 2
    assert np.isfinite(losses(tmp_path)).all()


def test_studies_without_a_report_teach_views_and_not_the_similarity(tmp_path: Path) -> None:
    data = replace(phantoms(), reports=((),) * 6 + phantoms().reports[6:])
    settings = {"model": {**PLAIN, "fusion": True}, "objective": {"view_mse": 1.0}}
    fitted = trained(tmp_path, data, train={"steps": 2, "batch_size": 8}, **settings)
    assert fitted.n_seen == 16
    first = lines(tmp_path)[0]
    assert first["view_mse"] > 0
    assert first["similarity"] > 0
    with pytest.raises(MedFinderError, match="2 studies to draw from that have a report"):
        trained(tmp_path / "none", data)


def test_the_learning_rate_rises_and_falls() -> None:
    config = TrainConfig(lr=2.0, warmup=0.25)
    rates = [learning_rate(config, share) for share in np.linspace(0, 1, 101)]
    assert rates[0] == 0
    assert max(rates) == rates[25] == 2.0
    assert rates[10] == pytest.approx(2.0 * 0.1 / 0.25)
    assert np.all(np.diff(rates[:26]) > 0)
    assert np.all(np.diff(rates[25:]) < 0)
    assert rates[-1] == pytest.approx(0.04)
    assert learning_rate(config, 1.5) == pytest.approx(0.04)
    assert learning_rate(TrainConfig(lr=2.0, warmup=0.0), 0) == 2.0


def test_a_budget_of_time_ends_the_run(tmp_path: Path) -> None:
    for name in ("max_cpu_s", "max_s"):
        fitted = trained(tmp_path / name, train={"steps": 1000, name: 0.05})
        assert 1 <= fitted.n_steps < 20
        assert fitted.measures


# -- stopped and resumed -------------------------------------------------------------


def test_a_run_that_was_killed_goes_on_to_the_same_curve(
    whole: tuple[Fitted, Path], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    _, ends = run(fit_a_part, tmp_path, sets(), out, recipe(), 0, 5, n=1)
    assert ends == [-signal.SIGKILL]
    assert (out / STATE).is_file()
    taken: list[int] = []
    fitted = trained(out, resume=True, progress=lambda step, _: taken.append(step))
    assert taken == [5, 6]  # the state is that of step 4
    expected, whole_out = whole
    assert lines(out) == lines(whole_out)
    assert same(fitted.model, expected.model)
    assert (fitted.step, fitted.n_seen) == (expected.step, expected.n_seen)
    assert same(load_checkpoint(out / CHECKPOINT), load_checkpoint(whole_out / CHECKPOINT))


def stop(at: int) -> Any:
    def progress(step: int, steps: int) -> None:
        if step == at:
            raise KeyboardInterrupt

    return progress


def stopped(out: Path, at: int = 5, data: TrainingSet | None = None, **settings: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        trained(out, data, progress=stop(at), **settings)


def test_without_resume_a_run_starts_anew(whole: tuple[Fitted, Path], tmp_path: Path) -> None:
    stopped(tmp_path)
    (tmp_path / BAD).write_text("{}\n")
    taken: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        trained(
            tmp_path,
            progress=lambda step, n: (taken.append(step), stop(1)(step, n)),
        )
    assert taken == [1]
    assert losses(tmp_path) == losses(whole[1])[:1]
    assert not (tmp_path / STATE).exists()
    assert not (tmp_path / BAD).exists()


def test_resuming_where_nothing_is_starts_a_run(tmp_path: Path) -> None:
    assert trained(tmp_path, resume=True, train={"steps": 1}).n_steps == 1


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"train": {"lr": 2e-3}}, "was started with another recipe or other studies"),
        ({"model": {"dim": 8}}, "state is of another architecture"),
    ],
)
def test_a_run_is_not_resumed_with_another_recipe(
    tmp_path: Path, settings: dict[str, Any], text: str
) -> None:
    stopped(tmp_path, 3)
    before = (tmp_path / STATE).read_bytes()
    with pytest.raises(Mismatch, match=text):
        trained(tmp_path, resume=True, **settings)
    assert (tmp_path / STATE).read_bytes() == before


def test_a_run_is_not_resumed_with_other_studies(tmp_path: Path) -> None:
    stopped(tmp_path, 3)
    other = replace(phantoms(), study_ids=("other", *phantoms().study_ids[1:]))
    with pytest.raises(Mismatch, match="another recipe or other studies"):
        trained(tmp_path, other, resume=True)


@pytest.mark.parametrize("n_whole", [1, 2])
def test_a_disk_that_fills_leaves_what_was_saved_and_the_run_goes_on_from_it(
    whole: tuple[Fitted, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_whole: int
) -> None:
    """States are saved at steps 2 and 4, a checkpoint at step 3."""
    states: list[str] = []
    with monkeypatch.context() as patch:
        save = loop.save_state if n_whole == 1 else loop.save_checkpoint

        def full(*arguments: Any, **settings: Any) -> Any:
            if len(states) == (1 if n_whole == 1 else 0):
                patch.setattr(os, "fsync", refuse)
            states.append("saved")
            return save(*arguments, **settings)

        patch.setattr(loop, save.__name__, full)
        with pytest.raises(ArtifactError, match=r"The disk is full|No space left on device"):
            trained(tmp_path)
    assert (tmp_path / STATE).is_file()
    fitted = trained(tmp_path, resume=True)
    assert lines(tmp_path) == lines(whole[1])
    assert same(fitted.model, whole[0].model)


def refuse(_: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# -- what is bad in the data ---------------------------------------------------------


def bad_lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / BAD).read_text().splitlines()]


def test_a_nan_in_a_volume_is_named_skipped_and_counted(tmp_path: Path) -> None:
    data = in_floats(phantoms(), bad=2)
    made = recipe(model={"preprocess": to_dict(FLOATS)}, train={"batch_size": 8})
    fitted = fit(made, data, in_floats(val()), tmp_path)
    assert (fitted.n_bad, fitted.n_skipped, fitted.n_steps) == (1, 0, 6)
    name = data.study_ids[2]
    assert bad_lines(tmp_path) == [{"step": 1, "study_id": name, "reason": "a voxel is not finite"}]
    assert np.isfinite(losses(tmp_path)).all()


def fragile(**train: Any) -> dict[str, Any]:
    """Settings of a model that a study can break, and of views that leave the volume as it is."""
    size = {"width": 32, "depth": 1}
    return {
        "model": {"volume": {"name": "fragile", **size}, "text": {"name": "fragile", **size}},
        "augment": {"shift_voxels": 0, "gain": 0.0, "offset": 0.0, "noise": 0.0},
        "objective": ALONE,
        "train": {"batch_size": 8, "steps": 3, **train},
    }


def breaking(*, volume: int | None = None, report: int | None = None) -> TrainingSet:
    data = phantoms()
    volumes, reports = data.volumes.copy(), list(data.reports)
    if volume is not None:
        volumes[volume, 0, 0, 0, 0] = 255
    if report is not None:
        reports[report] = (f"A {POISON} of 2 cm.",)
    return replace(data, volumes=volumes, reports=tuple(reports))


def test_a_study_whose_features_are_not_finite_is_named_and_its_step_skipped(
    tmp_path: Path,
) -> None:
    data = breaking(volume=1, report=6)
    fitted = trained(tmp_path, data, **fragile())
    assert (fitted.n_bad, fitted.n_skipped, fitted.n_steps) == (2, 1, 3)
    assert {(line["study_id"], line["reason"]) for line in bad_lines(tmp_path)} == {
        (data.study_ids[1], "its volume's features are not finite"),
        (data.study_ids[6], "its report's features are not finite"),
    }
    assert [np.isfinite(loss) for loss in losses(tmp_path)] == [False, True, True]
    assert all(bool(p.isfinite().all()) for p in fitted.model.parameters())


def test_a_skipped_step_changes_no_weight(tmp_path: Path) -> None:
    settings = fragile(steps=1)
    torch.manual_seed(0)
    fresh = DualStream(recipe(**settings).model)
    fitted = trained(tmp_path, breaking(volume=1), **settings)
    assert fitted.n_skipped == 1
    for name, p in fresh.named_parameters():
        assert torch.equal(p, fitted.model.get_parameter(name)), name


def test_more_bad_studies_than_allowed_end_the_run(tmp_path: Path) -> None:
    data = breaking(volume=1)
    with pytest.raises(
        InputError, match=rf"1 of 8 studies are bad \({data.study_ids[1]}\), at most 10\.0% may be"
    ) as error:
        trained(tmp_path, data, **fragile(max_bad_rate=0.1))
    assert error.value.rule == "too-many-bad"
    assert len(bad_lines(tmp_path)) == 1


def test_what_was_bad_stays_left_out_after_a_resume(tmp_path: Path) -> None:
    data, settings = breaking(volume=1), fragile(steps=6)
    stopped(tmp_path, 3, data, **settings)
    fitted = trained(tmp_path, data, resume=True, **settings)
    assert (fitted.n_bad, fitted.n_skipped) == (1, 1)
    assert len(bad_lines(tmp_path)) == 1


def test_a_run_whose_features_are_all_not_finite_has_diverged(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the features of every study are not finite") as error:
        trained(tmp_path, train={"lr": 1e30, "warmup": 0.0}, model=PLAIN, objective=ALONE)
    assert error.value.rule == "diverged"


def test_a_run_that_skips_most_of_its_steps_has_diverged(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"11 of 11 steps had a loss or gradient") as error:
        trained(
            tmp_path,
            train={"steps": 20, "validate_every": 20},
            objective={"view_mse": 3e38},
            model=PLAIN,
        )
    assert error.value.rule == "diverged"


def test_a_patient_in_both_sets_is_refused(tmp_path: Path) -> None:
    both = replace(val(), patient_ids=(phantoms().patient_ids[0], *val().patient_ids[1:]))
    with pytest.raises(InputError, match=r"1 patients are in both sets.* Split by patient"):
        fit(recipe(), phantoms(), both, tmp_path)
    assert not list(tmp_path.iterdir())


def test_labels_that_no_report_holds_are_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No label is in 99 training reports") as error:
        trained(tmp_path, objective={"labels": 1.0, "label_min_count": 99})
    assert error.value.rule == "no-labels"


def test_without_fabric_the_pip_command_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    with pytest.raises(MissingExtra, match=r"pip install 'medfinder\[train\]'"):
        loop.open_fabric(TrainConfig())


# -- two processes -------------------------------------------------------------------

TWO = {"train": {"devices": 2}, "model": PLAIN, "objective": ALONE}


def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    settings = {**TWO, "train": {"devices": 2, "steps": 3}}
    parts, ends = run(fit_a_part, tmp_path, sets(), tmp_path / "two", recipe(**settings))
    assert ends == [0, 0]
    trained(tmp_path / "one", **{**TWO, "train": {"steps": 3}})
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    assert parts[0]["measures"] == parts[1]["measures"]
    for name, tensor in parts[0]["weights"].items():
        assert torch.equal(parts[1]["weights"][name], tensor), name
    assert load_checkpoint(tmp_path / "two" / CHECKPOINT)


def test_a_bad_study_of_one_process_is_left_out_by_both_and_told_once(tmp_path: Path) -> None:
    second = int(batches(size=8).drawn(0)[-1])  # in the part of the process that does not lead
    both = in_floats(phantoms(), bad=second), in_floats(val())
    made = recipe(
        train={"devices": 2, "batch_size": 8, "steps": 1},
        model={**PLAIN, "preprocess": to_dict(FLOATS)},
        objective=ALONE,
    )
    parts, ends = run(fit_a_part, tmp_path, both, tmp_path / "run", made)
    assert ends == [0, 0]
    assert [part["n_bad"] for part in parts] == [1, 1]
    told = [line["study_id"] for line in bad_lines(tmp_path / "run")]
    assert told == [phantoms().study_ids[second]]
    assert torch.equal(
        parts[0]["weights"]["volume_head.weight"], parts[1]["weights"]["volume_head.weight"]
    )


@pytest.mark.parametrize("dies", [0, 1])
def test_when_one_process_dies_the_other_ends_with_an_error(tmp_path: Path, dies: int) -> None:
    parts, ends = run(fit_a_part, tmp_path, sets(), tmp_path / "run", recipe(**TWO), dies, 3)
    assert HUNG not in ends
    assert ends[dies] == -signal.SIGKILL
    assert ends[1 - dies] == 0
    said = parts[1 - dies]
    assert said["error"] == "MedFinderError"
    assert "Another of this run's 2 processes has ended" in said["text"]
    assert "run again with --resume" in said["text"]
