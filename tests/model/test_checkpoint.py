import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medfinder.errors import (
    ArtifactError,
    ConfigError,
    Incomplete,
    InputError,
    MedFinderError,
    Mismatch,
    UnknownName,
)
from medfinder.model import checkpoint as module
from medfinder.model.checkpoint import (
    copy_checkpoint,
    load_checkpoint,
    load_encoder_from,
    read_checkpoint,
    save_checkpoint,
)
from medfinder.model.dual_stream import DualStream
from stubs.dual_streams import CONFIG, TEXTS, tiny

VOLUMES = np.random.default_rng(0).integers(0, 256, (2, 1, 32, 32, 32), np.uint8)
FILES = {"config.json", "model.safetensors", "tokenizer.json"}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_checkpoint(tiny(), tmp_path / "checkpoint")


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    said = json.loads((folder / "config.json").read_text())
    change(said)
    (folder / "config.json").write_text(json.dumps(said))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def state(model: DualStream) -> dict[str, bytes]:
    return {k: v.numpy().tobytes() for k, v in model.state_dict().items()}


def test_a_checkpoint_gives_the_model_back(saved: Path) -> None:
    loaded = load_checkpoint(saved)
    assert not loaded.training
    assert loaded.config == CONFIG
    assert state(loaded) == state(tiny())


def test_it_encodes_as_the_model_did(saved: Path) -> None:
    from medfinder.model.joint_encoder import JointEncoder

    ours, theirs = load_encoder_from(saved), JointEncoder(tiny())
    np.testing.assert_array_equal(ours.encode_volumes(VOLUMES), theirs.encode_volumes(VOLUMES))
    np.testing.assert_array_equal(ours.encode_texts(TEXTS), theirs.encode_texts(TEXTS))


def test_it_declares_the_languages_that_it_was_trained_to_read(tmp_path: Path) -> None:
    folder = save_checkpoint(tiny(), tmp_path / "made", training={"languages": ["en", "es"]})
    copied = copy_checkpoint(folder, tmp_path / "copy")
    assert load_encoder_from(copied).info.languages == ("en", "es")


def test_one_that_declares_no_language_is_read_as_before(saved: Path) -> None:
    edit(saved, lambda said: said.pop("languages"))
    assert read_checkpoint(saved).languages == ()


def test_it_holds_tensors_settings_and_word_pieces_and_nothing_that_runs(saved: Path) -> None:
    assert names(saved) == FILES
    json.loads((saved / "config.json").read_text())
    json.loads((saved / "tokenizer.json").read_text())


def test_a_card_and_notes_lie_beside_it_when_given(tmp_path: Path) -> None:
    folder = save_checkpoint(tiny(), tmp_path / "c", card="# Card\n", training={"seed": 1})
    assert names(folder) == FILES | {"README.md", "training.json"}
    assert (folder / "README.md").read_text() == "# Card\n"
    assert json.loads((folder / "training.json").read_text()) == {"seed": 1}
    load_checkpoint(folder)


@pytest.mark.parametrize("changes", [{"fusion": True, "reranker": True}, {"pooling": "mean"}])
def test_every_part_of_the_model_is_in_it(changes: dict[str, Any], tmp_path: Path) -> None:
    model = tiny(3, **changes)
    assert state(load_checkpoint(save_checkpoint(model, tmp_path / "c"))) == state(model)


def test_the_same_model_is_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    again = save_checkpoint(tiny(), tmp_path / "again")
    for name in FILES:
        assert (saved / name).read_bytes() == (again / name).read_bytes()


def test_it_is_identified_by_all_that_a_vector_depends_on(tmp_path: Path) -> None:
    others = {
        "as it is": tiny(),
        "weights": tiny(1),
        "word pieces": tiny(texts=(*TEXTS, "Bilateral bronchiectasis. " * 4)),
        "a setting": tiny(text=replace(CONFIG.text, max_tokens=64)),
    }
    weights = {
        read_checkpoint(save_checkpoint(model, tmp_path / name)).info().weights
        for name, model in others.items()
    }
    assert len(weights) == 4
    assert all(len(w) == 12 for w in weights)


def test_what_it_declares_needs_no_torch(saved: Path) -> None:
    code = (
        "import sys; from medfinder.model.checkpoint import read_checkpoint;"
        f"info = read_checkpoint({str(saved)!r}).info();"
        "print(info.model_id, info.n_regions, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    info = load_encoder_from(saved).info
    assert done.stdout.split(maxsplit=1) == [info.model_id, "(2, 2, 2) False\n"]
    assert info.where == str(saved)
    assert info.preprocess == CONFIG.preprocess


def test_half_precision_halves_it_and_keeps_vectors_near(tmp_path: Path) -> None:
    whole = save_checkpoint(tiny(), tmp_path / "whole")
    half = save_checkpoint(tiny(), tmp_path / "half", dtype="float16")
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (half, whole)]
    assert sizes[0] < 0.6 * sizes[1]
    model = load_checkpoint(half)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.scale == tiny().scale  # a scalar is not rounded
    near, exact = load_encoder_from(half), load_encoder_from(whole)
    assert near.info.weights != exact.info.weights
    for a, b in (
        (near.encode_volumes(VOLUMES), exact.encode_volumes(VOLUMES)),
        (near.encode_texts(TEXTS), exact.encode_texts(TEXTS)),
    ):
        assert (a * b).sum(1).min() > 0.9999


def test_a_copy_at_half_the_size_says_what_its_run_said(tmp_path: Path) -> None:
    run = {"measures": {"R@10": 0.5}}
    whole = save_checkpoint(tiny(), tmp_path / "run", training=run, source="8 studies")
    copy = copy_checkpoint(whole, tmp_path / "copy", name="small")
    assert json.loads((copy / "training.json").read_text()) == run
    said = read_checkpoint(copy)
    assert (said.name, said.source, said.weights_dtype) == ("small", "8 studies", "float16")
    assert "| R@10 | 0.5 |" in (copy / "README.md").read_text()
    assert "float16" in (copy / "README.md").read_text()


def test_a_copy_keeps_a_card_that_was_written_by_hand(tmp_path: Path) -> None:
    whole = save_checkpoint(tiny(), tmp_path / "run", card="# By hand\n")
    copy = copy_checkpoint(whole, tmp_path / "copy", dtype="float32")
    assert (copy / "README.md").read_text() == "# By hand\n"
    assert (copy / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_loading_uses_up_no_random_numbers(saved: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_checkpoint(saved)
    assert torch.equal(torch.rand(3), expected)


# -- a disk that fills, a process that is killed ----------------------------------


@pytest.mark.parametrize("n_before", [0, 1])
def test_a_full_disk_leaves_the_checkpoint_before_whole(
    saved: Path, monkeypatch: pytest.MonkeyPatch, n_before: int
) -> None:
    write, calls = module._write, []

    def full(path: Path, content: bytes) -> None:
        calls.append(path)
        if len(calls) > n_before:
            write(path, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    monkeypatch.setattr(module, "_write", full)
    with pytest.raises(
        ArtifactError, match=r"cannot be written: No space left on device. What was"
    ):
        save_checkpoint(tiny(1), saved)
    assert state(load_checkpoint(saved)) == state(tiny())
    assert names(saved.parent) == {"checkpoint"}


@pytest.mark.parametrize("limit", [1_000, 60_000])  # within the tokeniser, within the weights
def test_a_file_that_may_not_grow_leaves_the_checkpoint_before_whole(
    saved: Path, limit: int
) -> None:
    code = f"""
import resource
from medfinder.errors import ArtifactError
from medfinder.model.checkpoint import save_checkpoint
from stubs.dual_streams import tiny
model = tiny(1)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    save_checkpoint(model, {str(saved)!r})
except ArtifactError as error:
    print(error)
"""
    done = in_python(code)
    assert "cannot be written: " in done
    assert "File too large" in done
    assert state(load_checkpoint(saved)) == state(tiny())
    assert names(saved.parent) == {"checkpoint"}


def in_python(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_killed_process_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    code = f"""
from medfinder.model.checkpoint import save_checkpoint
from stubs.dual_streams import tiny
models = [tiny(0), tiny(1)]
save_checkpoint(models[0], {str(folder)!r})
print("saved", flush=True)
n = 0
while True:
    save_checkpoint(models[(n := n + 1) % 2], {str(folder)!r})
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "saved\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert state(load_checkpoint(folder)) in (state(tiny(0)), state(tiny(1)))
    save_checkpoint(tiny(2), folder)
    assert names(tmp_path) == {"checkpoint"}


def test_between_two_renames_the_one_before_is_found_and_put_back(saved: Path) -> None:
    saved.rename(saved.with_name(".checkpoint.before"))
    (saved.parent / ".checkpoint.123.tmp").mkdir()
    (saved.parent / ".checkpoint.best.123.tmp").mkdir()  # another checkpoint's
    assert state(load_checkpoint(saved)) == state(tiny())
    save_checkpoint(tiny(1), saved)
    assert state(load_checkpoint(saved)) == state(tiny(1))
    assert names(saved.parent) == {"checkpoint", ".checkpoint.best.123.tmp"}


def test_a_folder_that_cannot_take_its_place_leaves_the_one_before(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def refuse(source: Path, target: Path) -> None:
        if source.suffix == ".tmp":
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(ArtifactError, match="Input/output error"):
        save_checkpoint(tiny(1), saved)
    assert state(load_checkpoint(saved)) == state(tiny())
    assert names(saved.parent) == {"checkpoint"}


# -- what is not saved ---------------------------------------------------------------


def test_files_that_are_no_checkpoint_s_are_never_removed(saved: Path, tmp_path: Path) -> None:
    (saved / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds notes.txt, which belongs to no checkpoint") as e:
        save_checkpoint(tiny(1), saved)
    assert e.value.rule == "not-a-checkpoint"
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match=r"holds config\.json"):
        save_checkpoint(tiny(1), tmp_path / "bert")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file; a checkpoint is a folder"):
        save_checkpoint(tiny(1), tmp_path / "file")


@pytest.mark.parametrize(
    ("value", "dtype", "text"),
    [
        (float("nan"), "float32", "volume_head.weight hold values that are not finite: training"),
        (1e6, "float16", "volume_head.weight hold values beyond 65504"),
    ],
)
def test_weights_that_are_no_numbers_are_not_saved(
    saved: Path, value: float, dtype: module.WeightsType, text: str
) -> None:
    model = tiny(1)
    with torch.no_grad():
        model.volume_head.weight[0, 0] = value
    with pytest.raises(InputError, match=text):
        save_checkpoint(model, saved, dtype=dtype)
    assert state(load_checkpoint(saved)) == state(tiny())


def test_a_model_without_word_pieces_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="The text network has no tokeniser yet"):
        save_checkpoint(DualStream(CONFIG), tmp_path / "c")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"name": "my model"}, "name is letters, digits, .* got 'my model'"),
        ({"training": {"loss": float("nan")}}, "takes plain JSON types and finite numbers"),
        ({"training": {"loss": np.float32(1)}}, "float32 is not JSON serializable"),
    ],
)
def test_what_cannot_be_written_down_is_refused(
    tmp_path: Path, options: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConfigError, match=text):
        save_checkpoint(tiny(), tmp_path / "c", **options)


# -- what is not loaded --------------------------------------------------------------


def remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def change(update: Callable[[dict[str, Any]], Any]) -> Callable[[Path], object]:
    return lambda folder: edit(folder, update)


def damage(folder: Path) -> None:
    whole = bytearray((folder / "model.safetensors").read_bytes())
    whole[-1] ^= 1
    (folder / "model.safetensors").write_bytes(whole)


@pytest.mark.parametrize(
    ("harm", "kind", "text"),
    [
        (remove("config.json"), Incomplete, "has no config.json: it is no checkpoint, or a part"),
        (remove("tokenizer.json"), Incomplete, r"lacks tokenizer.json. Copy it again, whole"),
        (remove("model.safetensors"), Incomplete, "lacks model.safetensors"),
        (lambda f: (f / "config.json").write_text("{"), Mismatch, "is damaged: it is no JSON"),
        (lambda f: (f / "config.json").write_text("[]"), Mismatch, "no checkpoint of MedFinder"),
        (damage, Mismatch, r"has SHA-256 \w{12}…, config.json says \w{12}…: it is damaged"),
        (change(lambda c: c.pop("library")), Mismatch, "Another library reads it"),
        (
            change(lambda c: c.update(schema=2, package_version="9.1")),
            Mismatch,
            r"has schema 2, written by version 9.1; this version .* reads 1. Install a newer one",
        ),
        (
            change(lambda c: c.update(colour=1)),
            ConfigError,
            "Unknown setting 'colour'.* written by version",
        ),
        (
            change(lambda c: c["model"]["volume"].update(widht=1)),
            ConfigError,
            "Unknown setting 'volume.widht'. Did you mean 'volume.width'.* written by version",
        ),
        (
            change(lambda c: c["model"]["volume"].update(name="patches")),
            UnknownName,
            "cannot be built: Unknown volume network 'patches'. Did you mean 'patch'",
        ),
        (change(lambda c: c["model"].pop("preprocess")), Mismatch, "names no .* preprocessing"),
        (change(lambda c: c.update(files=[])), Mismatch, "names no model.safetensors"),
        (
            change(lambda c: c["model"].update(pooling="mean")),
            Mismatch,
            "of another architecture than its config.json says: unexpected narrow.bias, "
            "narrow.weight. The two",
        ),
        (
            change(lambda c: c["model"].update(fusion=True)),
            Mismatch,
            "missing fusion.asked.bias, fusion.asked.weight, fusion.asking.bias, "
            "fusion.asking.weight and 7 more. The two are not from one checkpoint",
        ),
        (
            change(lambda c: c["model"].update(dim=8)),
            Mismatch,
            r"text_head.bias is \(16,\), expected \(8,\)",
        ),
        (
            change(lambda c: c["model"]["text"].update(max_tokens=8)),
            Mismatch,
            "was changed after its weights were saved",
        ),
    ],
)
def test_what_is_wrong_with_a_checkpoint_is_said(
    saved: Path, harm: Callable[[Path], object], kind: type[MedFinderError], text: str
) -> None:
    harm(saved)
    with pytest.raises(kind, match=text):
        load_checkpoint(saved)


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(Incomplete, match=r"There is no checkpoint at .*nowhere'. Check the path"):
        load_checkpoint(tmp_path / "nowhere")


def test_a_file_of_tensors_that_is_none_is_said(saved: Path) -> None:
    (saved / "model.safetensors").write_bytes(b"not tensors")
    digest = module._sha256(saved / "model.safetensors")
    edit(saved, lambda c: c["files"].update({"model.safetensors": digest}))
    with pytest.raises(Mismatch, match=r"The model.safetensors of .* cannot be read"):
        load_checkpoint(saved)
