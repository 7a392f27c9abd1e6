"""Features of a frozen network are made once, and are those the network would give."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from medfinder.embed import Embedder
from medfinder.errors import ArtifactError, ConfigError, InputError
from medfinder.model.dual_stream import DualStream
from medfinder.model.encoder import EncoderEntry, EncoderInfo, encoders
from medfinder.model.joint_encoder import JointEncoder
from medfinder.model.volume_encoder import VolumeEncoder, VolumeEncoderConfig
from medfinder.model.volume_patch import PatchNetwork
from medfinder.train import features as features_module
from medfinder.train.augment import AugmentConfig
from medfinder.train.batch import Batch
from medfinder.train.features import CachedViews, Features, make_features
from medfinder.train.gradients import backward
from medfinder.train.loop import fit
from medfinder.train.objective import Objective, ObjectiveConfig
from medfinder.train.recipe import RecipeConfig
from medfinder.train.validate import validate
from stubs.training import MODEL, PREPROCESS, batches, phantoms, recipe, stream, without

VIEWS = CachedViews(3, seed=5)
FROZEN = VolumeEncoderConfig(name="pretrained", pretrained="cells", trained="none")


class Cells:
    """Volumes -> mean, spread, lowest and highest value of 4 x 4 x 4 cells, and their squares."""

    def __init__(self, weights: str = "1", bad: int | None = None) -> None:
        self.info = EncoderInfo(
            name="cells",
            streams=frozenset({"volume"}),
            dim=8,
            weights=weights,
            licence="Apache-2.0",
            source="tests",
            needs="nothing",
            preprocess=replace(PREPROCESS, dtype="float32"),
            n_regions=(4, 4, 4),
        )
        self.n_encoded, self.bad = 0, bad

    def region_features(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
        self.n_encoded += len(batch)
        cells = batch.reshape(len(batch), 4, 8, 4, 8, 4, 8).transpose(0, 1, 3, 5, 2, 4, 6)
        cells = cells.reshape(len(batch), 64, -1) / 255
        found = np.stack([cells.mean(2), cells.std(2), cells.min(2), cells.max(2)], 2)
        found = np.concatenate([found, found**2], 2)
        if self.bad is not None:
            same = np.abs(batch[0] - phantoms().volumes[self.bad]).max() < 1e-3
            found = np.full_like(found, np.nan) if same else found
        return found.astype(np.float16)


Build = Callable[..., tuple[VolumeEncoder, Cells]]


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Build:
    """Return a function that registers the encoder and builds a frozen network upon it."""

    def make(**settings: Any) -> tuple[VolumeEncoder, Cells]:
        from medfinder.model.volume_pretrained import build as built

        encoder = Cells(**settings)
        entry = EncoderEntry(encoder.info, lambda: encoder)
        monkeypatch.setitem(encoders._entries, "cells", entry)
        return built(FROZEN, PREPROCESS), encoder

    return make


def made(network: VolumeEncoder, folder: Path, **changed: Any) -> Features:
    settings = {"data": phantoms(), "views": VIEWS, "config": FROZEN} | changed
    return make_features(network, folder=folder, **settings)


def frozen_patch() -> PatchNetwork:
    torch.manual_seed(0)
    return PatchNetwork(1, (32, 32, 32), 32, 1).requires_grad_(False)


def test_features_are_what_the_network_gives_to_float16s_rounding(tmp_path: Path) -> None:
    network = frozen_patch()
    found = made(network, tmp_path)
    network.eval()
    for row in range(8):
        with torch.no_grad():
            expected = network(VIEWS.of(phantoms(), row)).numpy()
        got = found.regions(row, (0, 1, 2))
        assert got.dtype == np.float16
        np.testing.assert_allclose(got, expected, rtol=2**-10, atol=1e-6)
    assert found.n_views == 3
    assert not found.rejected


def test_a_network_in_training_mode_is_run_in_evaluation_and_put_back(tmp_path: Path) -> None:
    network = frozen_patch().train()
    before = {name: x.clone() for name, x in network.state_dict().items()}
    made(network, tmp_path)
    assert network.training
    assert all(torch.equal(before[name], x) for name, x in network.state_dict().items())


def test_view_0_is_the_unchanged_volume_and_the_others_differ() -> None:
    first, second, third = VIEWS.of(phantoms(), 2)
    assert torch.equal(first, torch.from_numpy(phantoms().volumes[2]).float() / 255)
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)
    assert torch.equal(VIEWS.of(phantoms(), 2)[1], second)


def test_floats_are_mapped_to_0_to_1(tmp_path: Path) -> None:
    network = frozen_patch()
    config = replace(PREPROCESS, dtype="float32", output_range=(-1.0, 1.0))
    volumes = phantoms().volumes.astype(np.float32) / 127.5 - 1
    floats = replace(phantoms(), volumes=volumes, preprocess=config)
    np.testing.assert_allclose(
        made(network, tmp_path, data=floats).regions(3).astype(np.float32),
        made(network, tmp_path).regions(3).astype(np.float32),
        rtol=2e-3,
        atol=1e-3,
    )


# Resuming


def test_what_is_there_is_not_made_again(build: Build, tmp_path: Path) -> None:
    network, encoder = build()
    first = made(network, tmp_path)
    assert encoder.n_encoded == 8 * 3
    again = made(network, tmp_path)
    assert encoder.n_encoded == 8 * 3
    for row in range(8):
        assert np.array_equal(first.regions(row, (0, 1, 2)), again.regions(row, (0, 1, 2)))


def test_a_fill_that_was_stopped_goes_on_after_the_last_study(build: Build, tmp_path: Path) -> None:
    network, encoder = build()

    class Stopped(Exception):
        pass

    def stop(done: int, total: int) -> None:
        assert total == 8
        if done == 5:
            raise Stopped

    with pytest.raises(Stopped):
        made(network, tmp_path, progress=stop)
    assert encoder.n_encoded == 5 * 3
    seen: list[tuple[int, int]] = []
    found = made(network, tmp_path, progress=lambda *at: seen.append(at))
    assert encoder.n_encoded == 8 * 3
    assert seen == [(1, 3), (2, 3), (3, 3)]
    whole = made(network, tmp_path / "other")
    for row in range(8):
        assert np.array_equal(found.regions(row, (0, 1, 2)), whole.regions(row, (0, 1, 2)))


KILLED = """
import os, signal, sys
from pathlib import Path
from test_features import frozen_patch, made
def stop(done, total):
    if done == 3:
        os.kill(os.getpid(), signal.SIGKILL)
made(frozen_patch(), Path(sys.argv[1]), progress=stop)
"""


@pytest.mark.slow
def test_a_killed_process_loses_nothing_that_it_finished(tmp_path: Path) -> None:
    tests = Path(__file__).parent
    code = f"import sys; sys.path[:0] = [{str(tests)!r}, {str(tests.parent)!r}]\n{KILLED}"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -9
    seen: list[tuple[int, int]] = []
    found = made(frozen_patch(), tmp_path, progress=lambda *at: seen.append(at))
    assert seen[-1] == (5, 5)
    whole = made(frozen_patch(), tmp_path / "other")
    for row in range(8):
        assert np.array_equal(found.regions(row, (0, 1, 2)), whole.regions(row, (0, 1, 2)))


def test_a_journal_line_cut_short_is_made_again(build: Build, tmp_path: Path) -> None:
    network, encoder = build()
    made(network, tmp_path)
    journal = sorted(tmp_path.rglob("*.jsonl"))[3]
    journal.write_text(journal.read_text()[:-5])
    assert made(network, tmp_path).has.all()
    assert encoder.n_encoded == 9 * 3


def test_a_shard_that_is_gone_is_made_again(build: Build, tmp_path: Path) -> None:
    network, encoder = build()
    made(network, tmp_path)
    sorted(tmp_path.rglob("*.npy"))[3].unlink()
    assert made(network, tmp_path).has.all()
    assert encoder.n_encoded == 9 * 3


def test_processes_share_the_shards(build: Build, tmp_path: Path) -> None:
    network, encoder = build()
    for rank in (0, 1, 2):
        made(network, tmp_path, rank=rank, n_ranks=3)
    assert encoder.n_encoded == 8 * 3
    assert made(network, tmp_path).has.all()
    assert encoder.n_encoded == 8 * 3


def test_features_that_changed_since_are_made_again(build: Build, tmp_path: Path) -> None:
    network, encoder = build()
    before = [np.array(shard) for shard in made(network, tmp_path).shards]
    path = sorted(tmp_path.rglob("*.npy"))[2]
    np.load(path, mmap_mode="r+").view(np.uint16)[0, 0, 0, 0] ^= 4
    after = [np.array(shard) for shard in made(network, tmp_path).shards]
    assert encoder.n_encoded == (8 + 1) * 3
    path.write_bytes(path.read_bytes()[:-10])
    last = made(network, tmp_path).shards
    assert encoder.n_encoded == (8 + 2) * 3
    for shards in (after, last):
        assert all(np.array_equal(a, b) for a, b in zip(shards, before, strict=True))


def test_studies_may_share_a_shard(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features_module, "N_SHARDS", 3)
    network, _ = build()
    found = made(network, tmp_path)
    assert [len(shard) for shard in found.shards] == [3, 3, 2]
    expected = network(VIEWS.of(phantoms(), 7))
    assert np.array_equal(found.regions(7, (2, 1)), expected[[2, 1]].numpy())


# What never meets


@pytest.mark.parametrize(
    "changed",
    [
        {"views": CachedViews(3, seed=6)},
        {"views": CachedViews(2, seed=5)},
        {"views": CachedViews(3, seed=5, augment=AugmentConfig(noise=0.1))},
        {"data": without(phantoms(), 0)},
        {"data": replace(phantoms(), volumes=phantoms().volumes // 2)},
    ],
    ids=["seed", "number of views", "augmentation", "studies", "volumes"],
)
def test_other_settings_never_meet_these_features(
    changed: dict[str, Any], build: Build, tmp_path: Path
) -> None:
    network, encoder = build()
    made(network, tmp_path)
    n = encoder.n_encoded
    made(network, tmp_path, **changed)
    assert encoder.n_encoded == n + 8 * changed.get("views", VIEWS).n


def test_other_weights_never_meet_these_features(build: Build, tmp_path: Path) -> None:
    made(build()[0], tmp_path)
    network, encoder = build(weights="2")
    made(network, tmp_path)
    assert encoder.n_encoded == 8 * 3
    torch.manual_seed(1)
    other = PatchNetwork(1, (32, 32, 32), 32, 1).requires_grad_(False)
    a, b = made(frozen_patch(), tmp_path), made(other, tmp_path)
    assert not np.array_equal(a.regions(0), b.regions(0))


def test_the_unchanged_volumes_features_are_every_seeds(build: Build, tmp_path: Path) -> None:
    network, encoder = build()
    for seed in (0, 1):
        made(network, tmp_path, views=CachedViews(1, seed))
    assert encoder.n_encoded == 8


# Refusals


def test_a_network_that_learns_is_refused(tmp_path: Path) -> None:
    network = frozen_patch().requires_grad_(True)
    with pytest.raises(ConfigError, match=r"'patch' has 27 tensors that are trained, such as .cel"):
        made(network, tmp_path, config=VolumeEncoderConfig())
    assert not list(tmp_path.iterdir())


def test_a_recipe_whose_network_learns_is_refused() -> None:
    message = r"cached_views is 2, but model\.volume\.trained is 'all'.*Set model\.volume\.trained"
    with pytest.raises(ConfigError, match=message):
        recipe(train={"cached_views": 2})
    with pytest.raises(ConfigError, match=r"cached_views is -1; expected at least 0"):
        recipe(train={"cached_views": -1})


def test_two_views_cannot_be_drawn_from_one() -> None:
    with pytest.raises(ConfigError, match="take two views of each volume"):
        cached(1, objective={"view_mse": 1.0})
    with pytest.raises(ConfigError, match="take two views of each volume"):
        cached(1, model={"fusion": True})


def test_a_full_disk_is_told_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nearly_full(_: Path) -> Any:
        return type("Usage", (), {"free": 1000})

    monkeypatch.setattr("shutil.disk_usage", nearly_full)
    with pytest.raises(ArtifactError, match=r"need 0\.0 GiB more, and 0\.0 GiB are free\. Lower"):
        made(frozen_patch(), tmp_path)


def test_a_study_whose_features_are_not_finite_is_named(build: Build, tmp_path: Path) -> None:
    network, encoder = build(bad=3)
    name = phantoms().study_ids[3]
    for _ in range(2):
        found = made(network, tmp_path)
        assert found.rejected == {name: "its volume's features are not finite"}
        assert encoder.n_encoded == 8 * 3  # the bad one is not tried again either
        with pytest.raises(InputError, match=f"{name} has no features: its volume's features are"):
            found.regions(3)
        found.regions(4)


def test_features_beyond_float16_and_voxels_that_are_not_finite_are_told_apart(
    tmp_path: Path,
) -> None:
    network = frozen_patch()
    torch.nn.init.constant_(network.coarse[0].norm.bias, 1e6)  # type: ignore[union-attr, arg-type]
    found = made(network, tmp_path)
    assert set(found.rejected.values()) == {"its volume's features are beyond float16's range"}
    volumes = phantoms().volumes.astype(np.float32)
    volumes[2, 0, 3, 3, 3] = np.inf
    floats = replace(phantoms(), volumes=volumes, preprocess=replace(PREPROCESS, dtype="float32"))
    found = made(frozen_patch(), tmp_path, data=floats)
    assert found.rejected == {phantoms().study_ids[2]: "a voxel is not finite"}


def test_a_study_that_was_not_asked_for_has_no_features(build: Build, tmp_path: Path) -> None:
    network, encoder = build()
    found = made(network, tmp_path, rows=[0, 2])
    assert encoder.n_encoded == 2 * 3
    assert found.has.tolist() == [True, False, True] + [False] * 5
    assert not found.rejected
    with pytest.raises(InputError, match="no features: they were not asked for"):
        found.regions(1)
    assert made(network, tmp_path).has.all()
    assert encoder.n_encoded == 8 * 3


# Steps


class Shown(Batch):
    """A batch whose volumes are the very views that another batch has as regions."""

    def views(self, which: int, part: slice = slice(None)) -> Tensor:
        assert self.volumes is not None
        return self.volumes[part, which]


def shown(batch: Batch, found: Features, n_views: int) -> Shown:
    """Return the batch with views in place of their features."""
    assert batch.cached is not None
    volumes = []
    for study_id, regions in zip(batch.study_ids, batch.cached, strict=True):
        row = found.study_ids.index(study_id)
        known = found.regions(row, range(found.n_views))
        drawn = [[np.array_equal(known[v], r) for v in range(len(known))] for r in regions]
        assert [sum(same) for same in drawn] == [1] * n_views
        volumes.append(VIEWS.of(phantoms(), row)[[same.index(True) for same in drawn]])
    return Shown(**{**vars(batch), "volumes": torch.stack(volumes), "cached": None})


@pytest.mark.parametrize(
    ("fusion", "terms"),
    [
        (False, {}),
        (False, {"view_mse": 1.0}),
        (True, {}),
        (True, {"view_mse": 1.0, "rerank": 1.0}),
    ],
    ids=["one view", "two views", "fusion", "everything"],
)
@pytest.mark.parametrize("micro_batch", [0, 3])
def test_the_loss_is_that_of_the_same_views_through_the_network(
    fusion: bool, terms: dict[str, float], micro_batch: int, build: Build, tmp_path: Path
) -> None:
    network, encoder = build()
    found = made(network, tmp_path)
    config = replace(MODEL, volume=FROZEN, fusion=fusion, reranker="rerank" in terms)
    objective = Objective(ObjectiveConfig(**terms), MODEL.dim)  # type: ignore[arg-type]
    n_views = 2 if fusion or terms else 1
    batch = batches(size=7, features=found, n_views=n_views).batch(4)
    assert batch.volumes is None
    losses, gradients = [], []
    for one in (batch, shown(batch, found, n_views)):
        n = encoder.n_encoded
        model = stream(config)
        losses.append(float(backward(objective, model, one, micro_batch).total.detach()))
        gradients.append({k: p.grad for k, p in model.named_parameters() if p.grad is not None})
        assert (encoder.n_encoded > n) == (one is not batch)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():  # equal but for the order in which threads add
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-4, atol=1e-6)


def test_a_step_draws_views_by_seed_step_and_row_alone(build: Build, tmp_path: Path) -> None:
    found = made(build()[0], tmp_path)

    def step(number: int, seed: int = 3, **part: int) -> Tensor:
        made = batches(seed=seed, features=found, n_views=2, **part)
        cached = made.batch(number).cached
        assert cached is not None
        return cached

    assert torch.equal(step(5), step(5))
    assert not torch.equal(step(5), step(6))
    assert not torch.equal(step(5), step(5, seed=4))
    parts = [step(5, rank=rank, n_ranks=2) for rank in (0, 1)]
    assert torch.equal(torch.cat(parts), step(5))
    assert all(not torch.equal(*one) for number in range(10) for one in step(number))


def test_every_view_comes_up(build: Build, tmp_path: Path) -> None:
    found = made(build()[0], tmp_path)
    made_batches = batches(features=found)
    seen = set()
    for number in range(40):
        batch = made_batches.batch(number)
        assert batch.cached is not None
        known = found.regions(found.study_ids.index(batch.study_ids[0]), range(3))
        seen |= {v for v in range(3) if np.array_equal(known[v], batch.regions(0)[0])}
    assert seen == {0, 1, 2}


# Runs


def cached(n_views: int, **settings: dict[str, Any]) -> RecipeConfig:
    """A run upon the frozen encoder."""
    train = {"cached_views": n_views} | settings.pop("train", {})
    frozen = {"name": "pretrained", "pretrained": "cells", "trained": "none"}
    model = {"volume": frozen} | settings.pop("model", {})
    return recipe(train=train, model=model, **settings)


def curve(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "cpu_s"} for line in lines]


def run(settings: RecipeConfig, folder: Path, **more: Any) -> Any:
    return fit(settings, phantoms(), phantoms("val", 4), folder, **more)


def test_a_run_runs_the_network_once_a_view_and_never_in_validation(
    build: Build, tmp_path: Path
) -> None:
    _, encoder = build()
    seen: list[tuple[int, int]] = []
    run(cached(2), tmp_path / "a", encoding=lambda *at: seen.append(at))
    assert encoder.n_encoded == 8 * 2 + 4
    assert seen == [(i, 8) for i in range(1, 9)] + [(i, 4) for i in range(1, 5)]
    run(cached(2), tmp_path / "b", features=tmp_path / "a" / "features")
    assert encoder.n_encoded == 8 * 2 + 4
    assert curve(tmp_path / "a") == curve(tmp_path / "b")


def test_a_run_that_sees_unchanged_volumes_has_the_curve_of_one_without_a_cache(
    build: Build, tmp_path: Path
) -> None:
    build()
    still = dict.fromkeys(("shift_voxels", "gain", "offset", "noise"), 0)
    for name, n_views in (("with", 1), ("without", 0)):
        run(cached(n_views, augment=still), tmp_path / name)
    assert curve(tmp_path / "with") == curve(tmp_path / "without")


@pytest.mark.parametrize("fusion", [False, True])
def test_a_run_that_is_resumed_has_the_curve_of_one_that_was_not(
    fusion: bool, build: Build, tmp_path: Path
) -> None:
    _, encoder = build()
    settings = cached(3, model={"fusion": fusion})
    run(settings, tmp_path / "whole")

    class Stopped(Exception):
        pass

    def stop(step: int, _: int) -> None:
        if step == 5:
            raise Stopped

    with pytest.raises(Stopped):
        run(settings, tmp_path / "cut", progress=stop)
    n = encoder.n_encoded
    run(settings, tmp_path / "cut", resume=True)
    assert encoder.n_encoded == n
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")


def test_a_run_leaves_a_study_with_bad_features_out_and_names_it(
    build: Build, tmp_path: Path
) -> None:
    build(bad=3)
    done = run(cached(2), tmp_path)
    assert done.n_bad == 1
    (line,) = [json.loads(text) for text in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert line == {
        "step": 0,
        "study_id": phantoms().study_ids[3],
        "reason": "its volume's features are not finite",
    }
    assert done.n_skipped == 0
    with pytest.raises(InputError, match=r"1 of 8 studies are bad .*max_bad_rate"):
        run(cached(2, train={"max_bad_rate": 0.1}), tmp_path / "strict")


def test_a_network_without_weights_of_its_own_cannot_be_called_frozen(tmp_path: Path) -> None:
    frozen = recipe().model.volume
    settings = recipe(
        train={"cached_views": 1},
        model={"volume": {"name": "patch", "width": frozen.width, "depth": 1, "trained": "none"}},
    )
    with pytest.raises(
        ConfigError, match="'patch' starts from random weights and is wholly trained"
    ):
        run(settings, tmp_path)


def test_validation_by_features_has_the_vectors_of_the_network(
    build: Build, tmp_path: Path
) -> None:
    network, _ = build()
    data = phantoms("val", 4)
    found = made(network, tmp_path, data=data, views=CachedViews())
    model: DualStream = stream(replace(MODEL, volume=FROZEN)).eval()
    embedder = Embedder(JointEncoder(model, weights="test"), batch_size=3)
    assert np.array_equal(
        embedder.embed_regions(data.study_ids, found.iter_unchanged()).vectors,
        embedder.embed_prepared(data.study_ids, data.iter_volumes()).vectors,
    )
    assert validate(model, data, found) == validate(model, data)


def test_a_validation_study_with_bad_features_ends_the_run_as_without_a_cache(
    build: Build, tmp_path: Path
) -> None:
    network, _ = build(bad=3)
    model = stream(replace(MODEL, volume=FROZEN)).eval()
    found = made(network, tmp_path, views=CachedViews())
    with pytest.raises(InputError, match=f"study {phantoms().study_ids[3]} has no features"):
        validate(model, phantoms(), found)
