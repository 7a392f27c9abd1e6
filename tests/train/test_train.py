"""The stage: curated studies and a recipe become an artifact with a checkpoint in it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medfinder.artifact import MANIFEST, Manifest, manifest_hash, read_manifest, write_manifest
from medfinder.embed import Embedder
from medfinder.errors import Incomplete, InputError, MedFinderError, Mismatch
from medfinder.model.checkpoint import load_encoder_from
from medfinder.records import Report, Study
from medfinder.studies import read_rejections, write_studies
from medfinder.train.loop import CHECKPOINT
from medfinder.train.state import STATE
from medfinder.train.train import train
from medfinder.volume.nifti import write_nifti
from medfinder.volume.read import read_volume
from stubs.cases import CASES, block
from stubs.training import recipe

pytest.importorskip("lightning_fabric")
RECIPE = recipe(train={"steps": 3, "checkpoint_every": 1})


def curated(folder: Path, **changes: dict[str, Any]) -> Path:
    """Nine studies as ``medfinder curate`` writes them: six to train, three to validate."""
    (folder / "raw").mkdir(parents=True)
    studies = []
    for i, (name, (patient, side, _, _, text)) in enumerate(CASES.items()):
        path = folder / "raw" / f"{name}.nii.gz"
        write_nifti(block(i, side), path)
        volume = read_volume(path)
        made = Study(
            study_id=name,
            patient_id=patient,
            series_id=name,
            volume_path=str(path),
            volume_hash=volume.content_hash,
            shape=volume.stored.shape,
            spacing_mm=volume.spacing_mm,
            report=Report(text) if text else None,
            split="val" if name in ("s2", "s3", "s4") else "train",
        )
        studies.append(replace(made, **changes.get(name, {})))
    write_studies(folder / "studies.parquet", studies)
    write_manifest(folder, Manifest("curate", {}, {}, {"studies": len(studies)}))
    return folder


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return curated(tmp_path_factory.mktemp("curated") / "studies")


def test_the_artifact_says_what_it_was_made_from(studies: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    made = train(
        studies, tmp_path / "run", RECIPE, workers=1, progress=lambda *said: seen.append(said)
    )
    assert (made.n_train, made.n_val, made.n_rejections, made.n_bad) == (6, 3, 0, 0)
    said = read_manifest(tmp_path / "run", "train")
    assert said.parents == {"studies": manifest_hash(read_manifest(studies, "curate"))}
    assert said.config["train"]["steps"] == 3
    assert said.seed == 0
    assert said.counts == {
        "train": 6, "val": 3, "rejections": 0, "bad": 0, "steps": 3, "best_step": made.step
    }  # fmt: skip
    assert [(n, total) for what, n, total in seen if what == "Training"] == [(1, 3), (2, 3), (3, 3)]
    assert ("Reading train", 6, 6) in seen
    assert ("Reading val", 3, 3) in seen
    assert not (tmp_path / "run" / STATE).exists()
    assert made.checkpoint == tmp_path / "run" / CHECKPOINT


def test_the_checkpoint_is_an_encoder_of_volumes_and_texts(studies: Path, tmp_path: Path) -> None:
    made = train(studies, tmp_path / "run", RECIPE, workers=1)
    embedder = Embedder(load_encoder_from(made.checkpoint))
    volume = embedder.embed_volume(read_volume(studies / "raw" / "s1.nii.gz"))
    text = embedder.embed_texts(["Left pleural effusion."]).vectors[0]
    assert volume.shape == text.shape == (32,)
    assert np.linalg.norm(volume) == pytest.approx(1, abs=1e-5)


def stop(at: int) -> Any:
    def progress(what: str, step: int, steps: int) -> None:
        if what == "Training" and step == at:
            raise KeyboardInterrupt

    return progress


def test_a_run_that_was_stopped_goes_on_only_with_resume(studies: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(studies, out, RECIPE, workers=1, progress=stop(2))
    assert not (out / MANIFEST).exists()
    with pytest.raises(InputError, match=r"holds a run that was stopped\. Add --resume"):
        train(studies, out, RECIPE, workers=1)
    other = replace(RECIPE, train=replace(RECIPE.train, lr=0.5))
    with pytest.raises(Mismatch, match="another recipe or other studies"):
        train(studies, out, other, workers=1, resume=True)
    steps: list[int] = []

    def progress(what: str, step: int, _: int) -> None:
        if what == "Training":
            steps.append(step)

    assert train(studies, out, RECIPE, workers=1, resume=True, progress=progress).step == 3
    assert steps == [3]
    with pytest.raises(InputError, match=r"has finished\. Give another folder, or delete"):
        train(studies, out, RECIPE, workers=1, resume=True)


def test_runs_share_preprocessed_volumes(studies: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    train(studies, tmp_path / "a", RECIPE, workers=1, cache=cache)
    read: list[str] = []
    train(
        studies,
        tmp_path / "b",
        RECIPE,
        workers=1,
        cache=cache,
        progress=lambda what, *_: read.append(what),
    )
    assert set(read) == {"Training"}
    assert not (tmp_path / "b" / "volumes").exists()


def test_a_volume_that_changed_after_curation_is_a_rejection(tmp_path: Path) -> None:
    folder = curated(tmp_path / "studies", s7={"volume_hash": "0" * 64})
    made = train(folder, tmp_path / "run", RECIPE, workers=1)
    assert (made.n_train, made.n_rejections) == (5, 1)
    (rejection,) = read_rejections(tmp_path / "run" / "rejections.parquet")
    assert (rejection.item, rejection.rule) == ("s7", "changed-volume")


def test_a_study_without_a_report_is_no_pair_but_has_views(tmp_path: Path) -> None:
    folder = curated(tmp_path / "studies")  # s6 has none
    pairs = replace(RECIPE, train=replace(RECIPE.train, batch_size=6, steps=1))
    with pytest.raises(MedFinderError, match="there are 5 studies to draw from that have a report"):
        train(folder, tmp_path / "pairs", pairs, workers=1)
    views = replace(pairs, objective=replace(RECIPE.objective, view_mse=1.0))
    assert train(folder, tmp_path / "views", views, workers=1).n_train == 6


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"s5": {"split": "val"}}, "1 patients have studies in both splits, train and val"),
        ({f"s{i}": {"split": "train"} for i in (2, 3, 4)}, "is in the split 'val'"),
        ({f"s{i}": {"report": None} for i in (2, 3)}, "at least two studies with a report, got 1"),
    ],
)
def test_splits_that_cannot_be_used_are_refused(
    tmp_path: Path, changes: dict[str, Any], text: str
) -> None:
    folder = curated(tmp_path / "studies", **changes)
    with pytest.raises(InputError, match=text):
        train(folder, tmp_path / "run", RECIPE, workers=1)


def test_what_is_no_input_or_no_output_is_said(studies: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file; a run needs a folder"):
        train(studies, tmp_path / "file", RECIPE)
    (tmp_path / "restored").mkdir()
    (tmp_path / "restored" / "restoring.json").write_text("{}")
    with pytest.raises(Incomplete, match=r"A restore into .* has not ended"):
        train(studies, tmp_path / "restored", RECIPE)
    with pytest.raises(InputError, match="There is no curate folder at"):
        train(tmp_path / "nowhere", tmp_path / "run", RECIPE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(Incomplete, match=r"has no manifest\.json"):
        train(tmp_path / "empty", tmp_path / "run", RECIPE)
    assert not (tmp_path / "run").exists()
