import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from medfinder.artifact import read_manifest
from medfinder.curate.curate import CurateConfig, curate
from medfinder.curate.sources.folder import FolderSource
from medfinder.embed import Embedder
from medfinder.errors import ConfigError, Incomplete, InputError, Mismatch
from medfinder.index.store import Index
from medfinder.search.build import build_index
from medfinder.search.finder import Finder, open_index
from medfinder.studies import read_rejections
from medfinder.volume.cache import PreprocessCache
from medfinder.volume.checks import CheckConfig
from medfinder.volume.nifti import write_nifti
from medfinder.volume.volume import Volume
from stubs.cases import CASES, block
from stubs.encoders import GridEncoder, WordEncoder

MakeStudies = Callable[[Path, Sequence[str]], Path]


def content(folder: Path) -> dict[str, tuple[bytes | None, ...]]:
    """Return study_id → the bytes of its vectors: what two equal indexes share."""
    index = open_index(folder).index
    ids = index.ids()
    return {
        study_id: tuple(
            None if vector is None else vector.tobytes()
            for vector in (
                *index.vectors("volume", [study_id]),
                *index.vectors("report", [study_id]),
            )
        )
        for study_id in ids
    }


def build(studies: Path, out: Path, **options: object) -> tuple[object, GridEncoder]:
    grid = GridEncoder()
    built = build_index(studies, out, Embedder(grid), Embedder(WordEncoder()), **options)  # type: ignore[arg-type]
    return built, grid


def test_every_study_gets_the_vectors_it_can_have(studies: Path, tmp_path: Path) -> None:
    built, _ = build(studies, tmp_path / "idx")
    assert built.n_studies == built.n_embedded == len(CASES)  # type: ignore[attr-defined]
    vectors = content(tmp_path / "idx")
    assert set(vectors) == set(CASES)
    assert all(v[0] is not None for v in vectors.values())
    assert [s for s, v in vectors.items() if v[1] is None] == ["s6"]  # it has no report


def test_a_second_run_has_nothing_to_do(studies: Path, tmp_path: Path) -> None:
    build(studies, tmp_path / "idx")
    before = (tmp_path / "idx" / "manifest.json").read_bytes()
    built, grid = build(studies, tmp_path / "idx")
    assert grid.n_encoded == 0
    assert built.n_embedded == 0  # type: ignore[attr-defined]
    assert (tmp_path / "idx" / "manifest.json").read_bytes() == before


def test_only_new_studies_are_embedded_and_vanished_ones_dropped(
    make_studies: MakeStudies, tmp_path: Path
) -> None:
    build(make_studies(tmp_path, ["s1", "s2", "s3"]), tmp_path / "idx")
    built, grid = build(make_studies(tmp_path, ["s2", "s3", "s4"]), tmp_path / "idx")
    assert grid.n_encoded == 1
    assert (built.n_embedded, built.n_deleted) == (1, 1)  # type: ignore[attr-defined]
    fresh = tmp_path / "fresh"
    build(tmp_path / "studies", fresh)
    assert content(tmp_path / "idx") == content(fresh)


def test_a_study_whose_facts_changed_keeps_its_vectors(
    make_studies: MakeStudies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(make_studies(tmp_path, ["s1", "s2"]), tmp_path / "idx")
    patient, side, sex, _, text = CASES["s1"]
    monkeypatch.setitem(CASES, "s1", (patient, side, sex, 88, text))
    _, grid = build(make_studies(tmp_path, ["s1", "s2"]), tmp_path / "idx")
    assert grid.n_encoded == 0
    (study,) = open_index(tmp_path / "idx").index.studies(["s1"])
    assert study.age == 88


def test_a_volume_that_vanished_is_a_rejection_and_its_report_stays(
    make_studies: MakeStudies, tmp_path: Path
) -> None:
    studies = make_studies(tmp_path, ["s1", "s2"])
    (tmp_path / "raw" / "s1.nii.gz").unlink()
    built, _ = build(studies, tmp_path / "idx")
    assert built.n_rejections == 1  # type: ignore[attr-defined]
    assert [r.item for r in read_rejections(tmp_path / "idx" / "rejections.parquet")] == ["s1"]
    vectors = content(tmp_path / "idx")
    assert vectors["s1"][0] is None
    assert vectors["s1"][1] is not None


def test_a_volume_that_was_swapped_is_a_rejection(
    make_studies: MakeStudies, tmp_path: Path
) -> None:
    studies = make_studies(tmp_path, ["s1", "s2"])
    shutil.copy(tmp_path / "raw" / "s2.nii.gz", tmp_path / "raw" / "s1.nii.gz")
    build(studies, tmp_path / "idx")
    (rejection,) = read_rejections(tmp_path / "idx" / "rejections.parquet")
    assert (rejection.item, rejection.rule) == ("s1", "changed-volume")


def test_another_encoder_s_index_is_refused(studies: Path, tmp_path: Path) -> None:
    build(studies, tmp_path / "idx")
    with pytest.raises(Mismatch):
        build_index(
            studies, tmp_path / "idx", Embedder(GridEncoder(weights="2")), Embedder(WordEncoder())
        )


def test_region_features_are_kept_on_request(make_studies: MakeStudies, tmp_path: Path) -> None:
    studies = make_studies(tmp_path, ["s1", "s2"])
    build(studies, tmp_path / "idx", keep_regions=True)
    kept = np.load(tmp_path / "idx" / "regions" / "s1.npy")
    assert kept.shape == (64, 1)
    assert kept.dtype == np.float16
    (tmp_path / "idx" / "regions" / "s2.npy").unlink()
    _, grid = build(studies, tmp_path / "idx", keep_regions=True)
    assert grid.n_encoded == 1


def test_reports_alone_can_be_indexed(studies: Path, tmp_path: Path) -> None:
    build_index(studies, tmp_path / "idx", None, Embedder(WordEncoder()))
    finder = open_index(tmp_path / "idx")
    with pytest.raises(InputError, match="no volume vectors"):
        finder.search(volume=object())  # type: ignore[arg-type]


def test_no_encoder_at_all_and_an_unfinished_dataset_are_named(
    studies: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="needs an encoder"):
        build_index(studies, tmp_path / "idx", None, None)
    with pytest.raises(Incomplete, match="has not finished"):
        build(tmp_path, tmp_path / "idx")


SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from stubs.encoders import GridEncoder, WordEncoder
from medfinder.embed import Embedder
from medfinder.search import build

build.BATCH, build.SHARE = 2, 1.0

class Slow(GridEncoder):
    def encode_volumes(self, batch):
        time.sleep(0.15)
        return super().encode_volumes(batch)

build.build_index(sys.argv[2], sys.argv[3], Embedder(Slow()), Embedder(WordEncoder()),
    progress=lambda done, total: print(done, flush=True))
"""


@pytest.mark.slow
def test_a_run_killed_and_started_again_ends_in_the_same_index(
    studies: Path, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    build(studies, whole)
    for n_done in (1, 3, 6, 9):
        child = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(Path(__file__).parents[1]), studies, killed],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        for line in child.stdout:
            if int(line) >= n_done:
                break
        time.sleep(0.01 * n_done)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
    build(studies, killed)
    assert content(killed) == content(whole)
    words = {"volume": Embedder(GridEncoder()), "report": Embedder(WordEncoder())}
    a, b = (Finder(open_index(f).index, words).search("pleural effusion") for f in (whole, killed))
    assert [h.study_id for h in a] == [h.study_id for h in b]


def test_volumes_are_read_with_the_limits_they_were_curated_with(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    whole = block(1, "left")
    write_nifti(Volume(whole.stored[:6], whole.affine), raw / "thin.nii.gz")
    curate(
        FolderSource(raw), tmp_path / "studies", CurateConfig(CheckConfig(min_slices=4), workers=1)
    )
    build_index(tmp_path / "studies", tmp_path / "idx", Embedder(GridEncoder()), None)
    index = open_index(tmp_path / "idx")
    assert index.check.min_slices == 4
    assert index.index.vectors("volume", ["thin"])[0] is not None


def test_a_finished_index_can_be_searched_while_it_is_brought_up_to_date(
    make_studies: MakeStudies, tmp_path: Path
) -> None:
    build(make_studies(tmp_path, ["s1", "s2"]), tmp_path / "idx")
    seen: list[int] = []

    def look(done: int, total: int) -> None:
        seen.append(open_index(tmp_path / "idx").index.count())

    build(make_studies(tmp_path, ["s1", "s2", "s3"]), tmp_path / "idx", progress=look)
    assert seen == [2]
    assert open_index(tmp_path / "idx").index.count() == 3


def test_a_cache_keeps_preprocessed_volumes(make_studies: MakeStudies, tmp_path: Path) -> None:
    cache = PreprocessCache(tmp_path / "cache")
    embedder = Embedder(GridEncoder(), cache)
    build_index(make_studies(tmp_path, ["s1", "s2"]), tmp_path / "idx", embedder, None)
    assert len([p for p in (tmp_path / "cache").rglob("*") if p.is_file()]) == 2


@pytest.mark.parametrize(
    ("part", "named"),
    [
        ("table", "has lost table"),
        ("derived", "has lost derived/"),
        ("manifest.json", "no manifest"),
    ],
)
def test_an_index_that_lost_a_part_says_so_and_is_mended_by_indexing_again(
    studies: Path, tmp_path: Path, part: str, named: str
) -> None:
    out = tmp_path / "idx"

    def build() -> None:
        build_index(studies, out, None, Embedder(WordEncoder()))

    build()
    before = Index.open(out).search_text("effusion", 5)
    lost = out / part
    if lost.is_dir():
        shutil.rmtree(lost)
    else:
        lost.unlink()
    with pytest.raises(Incomplete, match=named):
        Index.open(out)
    build()
    assert Index.open(out).search_text("effusion", 5) == before


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b"\xff\xfe"])
def test_a_damaged_record_is_told_with_what_to_do_and_mended(
    studies: Path, tmp_path: Path, content: bytes
) -> None:
    out = tmp_path / "idx"
    build_index(studies, out, None, Embedder(WordEncoder()))
    (out / "manifest.json").write_bytes(content)
    (out / "derived" / "report.json").write_bytes(b"{")
    with pytest.raises(Mismatch, match="Run 'medfinder index' on it again"):
        Index.open(out)
    build_index(studies, out, None, Embedder(WordEncoder()))
    assert Index.open(out).search_text("effusion", 5)


@pytest.mark.parametrize("content", ['{"schema": 1}', "[]"])
def test_a_record_of_encoders_that_says_nothing_is_refused(
    studies: Path, tmp_path: Path, content: str
) -> None:
    (tmp_path / "idx").mkdir()
    (tmp_path / "idx" / "streams.json").write_text(content)
    with pytest.raises(Mismatch, match="does not say which encoders it holds"):
        build_index(studies, tmp_path / "idx", None, Embedder(WordEncoder()))


def test_a_study_of_a_table_alone_is_searched_by_its_report(tmp_path: Path) -> None:
    from medfinder.artifact import Manifest, write_manifest
    from medfinder.records import Report, Study
    from medfinder.studies import write_studies

    only = Study(
        study_id="s1",
        patient_id="p1",
        series_id="",
        volume_path="",
        volume_hash="",
        shape=(0, 0, 0),
        spacing_mm=(0.0, 0.0, 0.0),
        report=Report("derrame pleural izquierdo", "es"),
        translation="Left pleural effusion",
    )
    write_studies(tmp_path / "studies" / "studies.parquet", [only])
    write_manifest(tmp_path / "studies", Manifest("curate", {}, {"studies": "x"}, {"studies": 1}))
    build_index(tmp_path / "studies", tmp_path / "idx", Embedder(GridEncoder()), None)
    (rejection,) = read_rejections(tmp_path / "idx" / "rejections.parquet")
    assert (rejection.item, rejection.rule) == ("s1", "no-volume")
    index = open_index(tmp_path / "idx").index
    assert [name for name, _ in index.search_text("derrame")] == ["s1"]
    assert [name for name, _ in index.search_text("effusion")] == ["s1"]  # the translation's word


def test_de_identified_dicom_copies_are_indexed(tmp_path: Path) -> None:
    from medfinder.volume.dicom_writer import write_dicom_series

    write_dicom_series(block(1, "left"), tmp_path / "raw" / "s", patient_id="p", study_id="1.2.3")
    curate(FolderSource(tmp_path / "raw"), tmp_path / "out", CurateConfig(workers=1, copy="dicom"))
    build_index(tmp_path / "out", tmp_path / "idx", Embedder(GridEncoder()), None)
    assert read_rejections(tmp_path / "idx" / "rejections.parquet") == []
    assert open_index(tmp_path / "idx").index.count() == 1


def test_studies_of_another_folder_are_added_and_none_is_dropped(
    make_studies: MakeStudies, tmp_path: Path
) -> None:
    first = make_studies(tmp_path / "a", ["s1", "s2"])
    other = make_studies(tmp_path / "b", ["s3"])
    build(first, tmp_path / "idx")
    before = read_manifest(tmp_path / "idx", "index")
    built, _ = build(other, tmp_path / "idx", keep_others=True)
    assert (built.n_studies, built.n_embedded, built.n_deleted) == (3, 1, 0)  # type: ignore[attr-defined]
    after = read_manifest(tmp_path / "idx", "index")
    assert after.parents["studies"] == before.parents["studies"]
    assert set(after.parents) == {"studies", "added"}
    again, _ = build(other, tmp_path / "idx", keep_others=True)
    assert again.n_embedded == 0  # type: ignore[attr-defined]
    dropped, _ = build(first, tmp_path / "idx")
    assert dropped.n_deleted == 1  # type: ignore[attr-defined]
