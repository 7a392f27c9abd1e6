"""Exports as others read them, and what goes wrong on the way."""

import csv
import dataclasses
import gc
import gzip
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import warnings
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pyarrow.parquet as pq
import pytest

from medfinder.curate.export import ExportConfig, Exported, export, is_bare
from medfinder.curate.exports.bimcv_r import COLUMNS, neutral, table_cells
from medfinder.curate.exports.hub import HubLayout
from medfinder.curate.exports.layout import file_key
from medfinder.curate.exports.webdataset import WebDatasetLayout
from medfinder.curate.sources.bimcv_r import BimcvRSource
from medfinder.curate.sources.source import Facts, TableRow
from medfinder.curate.tables import plain_cell
from medfinder.errors import ConfigError, Incomplete, InputError
from medfinder.records import Finding, Report, Study
from medfinder.report.vocabulary import vocabulary
from medfinder.volume.dicom_writer import write_dicom_series
from medfinder.volume.nifti import read_nifti, write_nifti
from medfinder.volume.read import read_volume
from stubs.cases import block
from stubs.curated import phantom_studies, write_curated

N = 24
CANARY = "GARCIA LOPEZ"


def plain(name: str, **settings: Any) -> ExportConfig:
    """Return the settings of an export without its card, whose pictures take a second."""
    return ExportConfig(format=name, card=False, **settings)  # type: ignore[arg-type]


FORMATS = ("hub", "webdataset", "bimcv-r")
NO_VOLUMES = {name: plain(name, volumes="none") for name in FORMATS}


def with_volumes(root: Path, studies: list[Study]) -> list[Study]:
    """Write a volume for every study that says it has one: NIfTI, and each fifth a DICOM series."""
    made = []
    for number, study in enumerate(studies):
        if not study.volume_hash:
            made.append(study)
            continue
        volume = block(number)
        if number % 5 == 1:
            path = root / f"{number}"
            write_dicom_series(volume, path, patient_id=CANARY, study_id="1.2.3", intercept=0)
        else:
            path = root / f"{number}.nii.gz"
            write_nifti(volume, path)
        read = read_volume(path)
        made.append(
            dataclasses.replace(
                study,
                series_id=read.series_id,
                volume_path=str(path),
                volume_hash=read.content_hash,
                shape=read.shape,
                spacing_mm=read.spacing_mm,
            )
        )
    return made


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> list[Study]:
    root = tmp_path_factory.mktemp("archive")
    made = with_volumes(root, phantom_studies(N))
    # A header with words, as converters leave them.
    described = Path(made[2].volume_path)
    image: Any = nibabel.load(described)  # type: ignore[attr-defined]
    image.header["descrip"] = CANARY.encode()
    image.to_filename(described)
    kept = read_volume(described).content_hash
    made[2] = dataclasses.replace(made[2], volume_hash=kept, study_id="S.with.points")
    report = Report('=HYPERLINK("x"). "Nódulo", derrame.\n- No masas.', "es")
    made[3] = dataclasses.replace(made[3], report=report, translation="- Nodule, effusion.")
    return sorted(made, key=lambda study: study.study_id)


@pytest.fixture(scope="module")
def curated(studies: list[Study], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_curated(tmp_path_factory.mktemp("curated"), studies, config={"check": {}})


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Studies without volumes."""
    none = {"volume_path": "", "volume_hash": "", "series_id": "", "shape": (0, 0, 0)}
    made = [dataclasses.replace(s, **none) for s in phantom_studies(N)]  # type: ignore[arg-type]
    return write_curated(tmp_path_factory.mktemp("bare"), made)


@pytest.fixture(scope="module")
def made(curated: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    """One whole export of each format; tests only read them."""
    root = tmp_path_factory.mktemp("exports")
    return {f: export(curated, root / f, plain(f)) for f in FORMATS}


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# --- the Hub's layout


@pytest.fixture(scope="module")
def loaded(made: dict[str, Exported], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the datasets library makes of the export, without a network."""
    code = (
        "import datasets, json, sys; datasets.disable_progress_bars();"
        "d = datasets.load_dataset(sys.argv[1], cache_dir=sys.argv[2]);"
        "b = datasets.load_dataset_builder(sys.argv[1], cache_dir=sys.argv[2]);"
        "print(json.dumps({'rows': {k: list(v) for k, v in d.items()},"
        " 'same': all(v.features == b.info.features for v in d.values()),"
        " 'splits': {k: v.num_examples for k, v in b.info.splits.items()},"
        " 'license': b.info.license}))"
    )
    cache = tmp_path_factory.mktemp("cache")
    home = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(made["hub"].folder), str(cache)],
        capture_output=True, text=True, env={**os.environ, **home},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_load_dataset_reads_the_hub_layout_offline_row_for_row(
    loaded: dict[str, Any], studies: list[Study]
) -> None:
    names = {"train": "train", "val": "validation", "test": "test", None: "unsplit"}
    for split, name in names.items():
        expected = [s for s in studies if s.split == split]
        rows = loaded["rows"].get(name, [])
        assert [r["study_id"] for r in rows] == [s.study_id for s in expected]
        for row, study in zip(rows, expected, strict=True):
            assert row["text"] == (study.text or None)
            assert row["report_text"] == (study.report.text if study.report else None)
            assert row["translation_text"] == study.translation
            assert row["labels"] == list(study.labels)
            assert tuple(Finding(**f) for f in row["findings"]) == study.findings
            assert row["age"] == study.age


def test_the_readme_declares_the_features_and_the_splits_that_are_there(
    loaded: dict[str, Any],
) -> None:
    assert loaded["same"]
    assert loaded["splits"] == {name: len(rows) for name, rows in loaded["rows"].items()}


def test_the_readme_names_the_licence_and_holds_the_card(bare: Path, tmp_path: Path) -> None:
    out = export(bare, tmp_path / "out", ExportConfig(volumes="none")).folder
    text = (out / "README.md").read_text()
    assert 'license: "other"\nlicense_name: bimcv-research-use\n' in text
    assert "# Dataset card" in text
    assert (out / "card" / "flow.svg").is_file()
    assert (out / "card.html").is_file()


def test_every_volume_is_beside_at_its_relative_path_with_the_same_voxels(
    made: dict[str, Exported], loaded: dict[str, Any], studies: list[Study]
) -> None:
    rows = {r["study_id"]: r for rows in loaded["rows"].values() for r in rows}
    n = 0
    for study in studies:
        path = rows[study.study_id]["volume"]
        assert (path is None) == (not study.volume_hash)
        if path:
            assert not Path(path).is_absolute()
            volume = read_nifti(made["hub"].folder / path)
            assert volume.content_hash == study.volume_hash
            n += 1
    assert n == made["hub"].n_volumes == sum(bool(s.volume_hash) for s in studies)


def test_a_dataset_without_splits_is_all_train(tmp_path: Path, bare: Path) -> None:
    from medfinder.studies import read_studies

    studies = read_studies(bare / "studies.parquet")
    folder = write_curated(tmp_path / "c", [dataclasses.replace(s, split=None) for s in studies])
    out = export(folder, tmp_path / "out", NO_VOLUMES["hub"]).folder
    assert [p.name for p in (out / "data").iterdir()] == ["train-00000-of-00001.parquet"]


def test_a_long_table_is_cut_into_files_of_bounded_size(tmp_path: Path) -> None:
    studies = [dataclasses.replace(s, split="train") for s in phantom_studies(60)]
    layout = HubLayout(tmp_path, 1, True)
    for k in range(600):
        layout.add(dataclasses.replace(studies[k % 60], study_id=f"S-{k:04d}"), None, None)
    layout.finish()
    paths = sorted((tmp_path / "data").iterdir())
    assert [p.name for p in paths] == [f"train-0000{k}-of-00003.parquet" for k in range(3)]
    ids = [i for p in paths for i in pq.read_table(p)["study_id"].to_pylist()]
    assert ids == [f"S-{k:04d}" for k in range(600)]


# --- WebDataset


def samples(folder: Path) -> list[dict[str, Any]]:
    import webdataset

    shards = sorted(str(path) for path in folder.glob("*.tar"))
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ResourceWarning
        )  # the library leaves files to the collector
        found = list(webdataset.WebDataset(shards, shardshuffle=False))
        gc.collect()
    return found


def test_webdataset_reads_every_study_with_its_texts_and_voxels(
    made: dict[str, Exported], studies: list[Study]
) -> None:
    found = {}
    for sample in samples(made["webdataset"].folder):
        facts = json.loads(sample["json"])
        found[facts["study_id"]] = sample
        study = next(s for s in studies if s.study_id == facts["study_id"])
        assert f"/{(study.split or 'unsplit')}-" in sample["__url__"]
        assert facts["findings_present"] == list(
            dict.fromkeys(f.name for f in study.findings if f.status == "present")
        )
        assert ("nii.gz" in sample) == bool(study.volume_hash)
        if study.volume_hash:
            image = nibabel.Nifti1Image.from_bytes(gzip.decompress(sample["nii.gz"]))  # type: ignore[no-untyped-call]
            assert image.shape == study.shape[::-1]
        spanish = study.report and study.report.language == "es"
        assert sample.get("es.txt", b"").decode() == (study.report.text if spanish else "")  # type: ignore[union-attr]
        english = study.translation or ("" if spanish else study.text)
        assert sample.get("txt", b"").decode() == english
    assert found.keys() == {s.study_id for s in studies}


def test_the_same_studies_give_the_same_tars_without_times_and_owners(
    curated: Path, made: dict[str, Exported], tmp_path: Path
) -> None:
    config = plain("webdataset", workers=1)
    again = export(curated, tmp_path / "again", config).folder
    assert files(again) == files(made["webdataset"].folder)
    for path in again.glob("*.tar"):
        with tarfile.open(path) as tar:
            for member in tar:
                assert (member.mtime, member.uid, member.gid) == (0, 0, 0)
                assert (member.uname, member.gname, member.mode) == ("", "", 0o644)


def test_a_shard_is_no_larger_than_asked_unless_one_sample_is(tmp_path: Path) -> None:
    studies = [dataclasses.replace(s, split="train") for s in phantom_studies(40)]
    volume = tmp_path / "v.nii.gz"
    layout = WebDatasetLayout(tmp_path, 40_000, True)
    for k, study in enumerate(studies):
        if k == 20:
            volume.write_bytes(bytes(100_000))
        layout.add(study, volume if k == 20 else None, None)
    layout.finish()
    sizes = {p.name: p.stat().st_size for p in sorted(tmp_path.glob("*.tar"))}
    assert len(sizes) > 3
    assert [name for name, size in sizes.items() if size > 40_000 + 10_240] != []
    large = [name for name, size in sizes.items() if size > 100_000]
    assert len(large) == 1
    with tarfile.open(tmp_path / large[0]) as tar:
        assert len({m.name.split(".")[0] for m in tar}) == 1
    assert len(samples(tmp_path)) == 40


@pytest.mark.parametrize(
    ("study_id", "key"),
    [("S-1_a", "S-1_a"), ("a.b", "a_b-"), ("../x", "x-"), ("", "id-"), ("é/ñ", "id-"), ("x" * 99, "x" * 60)],
)  # fmt: skip
def test_an_id_becomes_a_key_without_points_and_slashes(study_id: str, key: str) -> None:
    made = file_key(study_id)
    assert made.startswith(key)
    assert set(made) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
    assert len(made) <= 80


# --- BIMCV-R's columns


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "meta" / "BIMCV-R.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_has_the_published_columns_in_their_order(made: dict[str, Exported]) -> None:
    rows = table(made["bimcv-r"].folder)
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == N


def test_the_source_of_the_published_table_reads_the_same_back(
    made: dict[str, Exported], studies: list[Study]
) -> None:
    folder = made["bimcv-r"].folder
    source = BimcvRSource(folder / "meta" / "BIMCV-R.csv", split="published")
    facts: dict[str, Facts] = {}
    for row in source.items():
        assert isinstance(row, TableRow), row
        facts[str(row.facts.study_id)] = row.facts
    assert facts.keys() == {s.study_id for s in studies}
    for study in studies:
        got = facts[study.study_id]
        text = study.report.text if study.report else ""
        if text.startswith("="):  # the source takes a formula's power and keeps its words
            text = text.lstrip("=")
        assert got.patient_id == study.patient_id
        assert got.text == plain_cell(text)[0]
        spanish = study.report is not None and study.report.language == "es"
        assert got.translation == ((study.translation or "") if spanish else "")
        labels = dict.fromkeys(f.name for f in study.findings if f.status == "present")
        assert (got.labels or ()) == tuple(labels)
        if study.volume_hash:
            assert got.split == study.split


def test_the_source_finds_every_volume_by_its_name(
    made: dict[str, Exported], studies: list[Study]
) -> None:
    from medfinder.volume.read import VolumeRef

    folder = made["bimcv-r"].folder
    source = BimcvRSource(folder / "meta" / "BIMCV-R.csv", folder)
    ids = set()
    for item in source.items():
        assert isinstance(item, VolumeRef), item
        ids.add(source.facts(item, {}).study_id)
    assert ids == {s.study_id for s in studies if s.volume_hash}


def test_a_patient_lies_in_one_shard_and_a_split_in_its_own(
    made: dict[str, Exported], studies: list[Study]
) -> None:
    shards: dict[str, set[int]] = {}
    of_split = {"train": range(1, 8), "val": [8], "test": [9, 10], None: [0]}
    by_id = {s.study_id: s for s in studies}
    for row in table(made["bimcv-r"].folder):
        if row["path"]:
            shard = int(row["path"].split("/")[0].removeprefix("CT"))
            shards.setdefault(row["PatientID"], set()).add(shard)
            assert shard in of_split[by_id[row["ReportID"]].split]
    assert all(len(found) == 1 for found in shards.values())


def test_lists_of_names_and_cuis_go_together_and_sentences_keep_their_order() -> None:
    text = (
        "Derrame pleural izquierdo. No hay masas. Estudio con contraste. Nódulo en lóbulo superior."
    )
    effusion = Finding("pleural effusion", "C0032227", "present", "left", None, 0, 15)
    mass = Finding("pulmonary mass", "C1", "absent", None, None, 34, 39)
    nodule = Finding("nodule", "C0034079", "present", None, "upper lobe", 64, 70)
    study = dataclasses.replace(
        phantom_studies(1)[0], report=Report(text, "es"), findings=(effusion, mass, nodule)
    )
    cells = dict(zip(COLUMNS, table_cells(study, "CT1/ct/x.nii.gz"), strict=True))
    assert cells["Labels"] == "['pleural effusion', 'nodule']"
    assert cells["Localizations"] == "['loc left', 'loc upper lobe']"
    assert cells["LabelsLocalizationsBySentence"] == (
        "['pleural effusion', 'loc left', 'normal', 'exclude', 'nodule', 'loc upper lobe']"
    )
    known = [vocabulary().get(n).cui or "" for n in ("pleural effusion", "nodule")]
    assert cells["labelCUIS"] == f"[{','.join(known)}]"
    places = [vocabulary().get(n).cui or "" for n in ("left", "upper lobe")]
    assert cells["LocalizationsCUIS"] == f"[{','.join(places)}]"


@pytest.mark.parametrize(
    "cell", ["=1+1", "+cmd|' /C calc'!A0", "-1", "@SUM(A1)", "\t=1", "- No masas."]
)
def test_a_cell_that_a_spreadsheet_would_run_begins_with_an_apostrophe(cell: str) -> None:
    assert neutral(cell) == f"'{cell}"


def test_every_cell_of_the_table_is_neutral(made: dict[str, Exported]) -> None:
    for row in table(made["bimcv-r"].folder):
        assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in row.values())


def test_a_table_alone_says_shard_and_name_in_its_paths(bare: Path, tmp_path: Path) -> None:
    out = export(bare, tmp_path / "out", NO_VOLUMES["bimcv-r"]).folder
    assert all(row["path"].startswith("CT") for row in table(out))
    assert not list(out.glob("CT*"))


# --- nothing of the archive leaves


def unpacked(content: bytes, name: str) -> bytes:
    """All that a file says, packed or not."""
    if name.endswith(".gz"):
        return gzip.decompress(content)
    if name.endswith(".parquet"):
        return repr(pq.read_table(io.BytesIO(content)).to_pylist()).encode()
    if name.endswith(".tar"):
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            return b"".join(
                m.name.encode() + unpacked(tar.extractfile(m).read(), m.name)  # type: ignore[union-attr]
                for m in tar
            )
    return content


@pytest.mark.parametrize("name", FORMATS)
def test_no_path_no_series_number_and_no_canary_is_in_any_file(
    name: str, made: dict[str, Exported], studies: list[Study], curated: Path
) -> None:
    root = Path(studies[-1].volume_path).parent
    series = {s.series_id.encode() for s in studies if "." in s.series_id}
    assert series
    for file, content in files(made[name].folder).items():
        said = file.encode() + unpacked(content, file)
        for secret in (CANARY.encode(), str(root).encode(), str(curated).encode(), *series):
            assert secret not in said, file


@pytest.fixture
def nifti(tmp_path: Path) -> Path:
    write_nifti(block(1), tmp_path / "v.nii.gz")
    return tmp_path / "v.nii.gz"


def test_a_file_of_voxels_and_geometry_alone_is_bare(nifti: Path) -> None:
    assert is_bare(nifti)


@pytest.mark.parametrize("at", [4, 20, 150, 230, 330, 348])
def test_a_header_with_a_word_or_an_extension_is_not_bare(nifti: Path, at: int) -> None:
    content = bytearray(gzip.decompress(nifti.read_bytes()))
    content[at] = 65
    nifti.write_bytes(gzip.compress(bytes(content)))
    assert not is_bare(nifti)


def test_a_file_with_something_after_its_voxels_is_not_bare(nifti: Path) -> None:
    nifti.write_bytes(gzip.compress(gzip.decompress(nifti.read_bytes()) + CANARY.encode()))
    assert not is_bare(nifti)


def test_a_file_whose_gzip_header_has_a_name_is_not_bare(nifti: Path) -> None:
    content = gzip.decompress(nifti.read_bytes())
    with nifti.open("wb") as raw, gzip.GzipFile(CANARY, "wb", fileobj=raw) as file:
        file.write(content)
    assert not is_bare(nifti)


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b\x08\x00", b"no gzip at all"])
def test_a_file_that_is_none_is_not_bare(nifti: Path, content: bytes) -> None:
    nifti.write_bytes(content)
    assert not is_bare(nifti)


def test_bare_files_are_linked_and_others_are_written_anew(
    curated: Path, studies: list[Study], tmp_path: Path
) -> None:
    out = export(curated, tmp_path / "out", plain("hub", volumes="link")).folder
    linked = {p.stat().st_ino for p in (out / "volumes").rglob("*.gz")}
    for study in studies:
        if study.volume_hash and Path(study.volume_path).is_file():
            is_linked = Path(study.volume_path).stat().st_ino in linked
            assert is_linked == (study.study_id != "S.with.points")


# --- what goes wrong


@pytest.mark.parametrize("name", FORMATS)
def test_a_lost_changed_or_broken_volume_costs_its_study_the_volume_only(
    name: str, tmp_path: Path
) -> None:
    from medfinder.studies import read_rejections

    made = with_volumes(tmp_path, phantom_studies(8))
    lost, changed, broken = made[2], made[3], made[4]
    Path(lost.volume_path).unlink()
    write_nifti(block(99), changed.volume_path)
    Path(broken.volume_path).write_bytes(b"not NIfTI")
    folder = write_curated(tmp_path / "c", made)
    found = export(folder, tmp_path / "out", plain(name))
    assert found.n_studies == 8
    assert found.left_out == {"changed-volume": 1, "not-nifti": 1, "volume-missing": 1}
    assert found.n_volumes == sum(bool(s.volume_hash) for s in made) - 3
    told = {r.item: r for r in read_rejections(found.folder / "rejections.parquet")}
    assert told.keys() == {lost.study_id, changed.study_id, broken.study_id}
    assert "no longer where it was curated" in told[lost.study_id].reason
    assert "its content has changed" in told[changed.study_id].reason


KILLED = """
import os, signal, sys
from pathlib import Path
from medfinder.curate.export import ExportConfig, export

def advance(done, total):
    if done == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)

config = ExportConfig(format=sys.argv[3], card=False, workers=1)
export(Path(sys.argv[1]), Path(sys.argv[2]), config, advance)
"""


def killed_at(n: int, curated: Path, out: Path, name: str) -> Path:
    """Run an export that is killed after `n` studies; return the folder it was writing."""
    command = [sys.executable, "-c", KILLED, curated, out, name, str(n)]
    done = subprocess.run(list(map(str, command)), capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not out.exists()
    return out.parent / f".{out.name}.partial"


@pytest.mark.parametrize("name", FORMATS)
def test_a_killed_export_goes_on_and_ends_as_if_it_had_not_been_killed(
    name: str, curated: Path, made: dict[str, Exported], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    aside = killed_at(N // 2, curated, out, name)
    before = {p: p.stat().st_mtime_ns for p in aside.rglob("*.nii.gz") if ".volumes" not in p.parts}
    (aside / ".ct.nii.gz.half.tmp").write_bytes(b"x")  # a kill may fall on a file being written
    export(curated, out, plain(name))
    assert files(out) == files(made[name].folder)
    assert os.listdir(tmp_path) == ["out"]
    assert name == "webdataset" or len(before) >= N // 3
    for path, time in before.items():
        assert (out / path.relative_to(aside)).stat().st_mtime_ns == time


def test_finished_shards_are_not_written_again(
    curated: Path, studies: list[Study], tmp_path: Path
) -> None:
    def run(n: int | None) -> tuple[list[str], list[str]]:
        layout = WebDatasetLayout(tmp_path, 20_000, False)
        skipped, added = [], []
        for study in studies[:n]:
            if layout.is_done(study):
                skipped.append(study.study_id)
            else:
                layout.add(study, None, None)
                added.append(study.study_id)
        if n is None:
            layout.finish()
        else:
            layout.abandon()
        return skipped, added

    run(20)
    whole = [p.name for p in sorted(tmp_path.glob("*.tar")) if not p.name.startswith(".")]
    times = {name: (tmp_path / name).stat().st_mtime_ns for name in whole}
    assert whole
    skipped, added = run(None)
    assert skipped
    assert [*skipped, *added] == [s.study_id for s in studies]
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in whole} == times
    keys = [json.loads(sample["json"])["study_id"] for sample in samples(tmp_path)]
    assert keys == [s.study_id for s in studies]


def test_what_was_begun_of_another_dataset_is_begun_anew(
    curated: Path, bare: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    killed_at(5, curated, out, "hub")
    export(bare, out, NO_VOLUMES["hub"])
    assert not (out / "volumes").exists()


def test_the_same_export_again_changes_nothing(bare: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = export(bare, out, NO_VOLUMES["hub"])
    times = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    assert export(bare, out, NO_VOLUMES["hub"]) == first
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == times


def test_an_export_of_another_dataset_is_left_alone(
    bare: Path, curated: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export(bare, out, NO_VOLUMES["hub"])
    before = files(out)
    with pytest.raises(InputError, match=r"holds another export: it differs in dataset\. Give"):
        export(curated, out, NO_VOLUMES["hub"])
    with pytest.raises(
        InputError, match=r"differs in format\. .* nothing there was changed"
    ) as told:
        export(bare, out, NO_VOLUMES["bimcv-r"])
    assert told.value.rule == "other-export"
    assert files(out) == before


def test_a_folder_that_holds_something_else_is_left_alone(bare: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="is not empty and holds no export") as told:
        export(bare, tmp_path / "out", NO_VOLUMES["hub"])
    assert told.value.rule == "not-empty"
    assert os.listdir(tmp_path / "out") == ["thesis.txt"]


def test_the_dataset_itself_is_no_place_for_an_export(bare: Path) -> None:
    with pytest.raises(InputError, match="is not empty and holds no export"):
        export(bare, bare, NO_VOLUMES["hub"])


def test_an_empty_folder_is_taken(bare: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert export(bare, tmp_path / "out", NO_VOLUMES["bimcv-r"]).n_studies == N


def test_a_file_is_no_place_for_an_export(bare: Path, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(InputError, match="is a file; an export needs a folder"):
        export(bare, tmp_path / "out", NO_VOLUMES["hub"])


def test_a_dataset_without_studies_is_not_exported(tmp_path: Path) -> None:
    folder = write_curated(tmp_path / "c", [])
    with pytest.raises(InputError, match="has no studies, so there is nothing to export") as told:
        export(folder, tmp_path / "out")
    assert told.value.rule == "nothing-to-export"


def test_an_unfinished_dataset_is_not_exported(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    with pytest.raises(Incomplete, match="its stage has not finished"):
        export(tmp_path / "c", tmp_path / "out")


def test_two_runs_do_not_write_one_export(bare: Path, tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl", reason="locks of files are POSIX's")
    with (tmp_path / ".out.partial.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="Another run is writing this export") as told:
            export(bare, tmp_path / "out", NO_VOLUMES["hub"])
    assert told.value.rule == "export-running"


FULL = """
import resource, signal, sys
from pathlib import Path
from medfinder.curate.export import ExportConfig, export
from medfinder.errors import InputError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails instead, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), resource.RLIM_INFINITY))
try:
    export(Path(sys.argv[1]), Path(sys.argv[2]), ExportConfig(format=sys.argv[3], card=False))
except InputError as error:
    print(error.rule, error)
"""


@pytest.mark.parametrize("name", FORMATS)
def test_a_disk_that_is_full_is_named_and_nothing_half_is_taken_for_whole(
    name: str, curated: Path, made: dict[str, Exported], tmp_path: Path
) -> None:
    pytest.importorskip("resource", reason="limits of file sizes are POSIX's")
    out = tmp_path / "out"
    command = [sys.executable, "-c", FULL, str(curated), str(out), name, "9000"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.startswith("disk-full The disk cannot hold the export: "), done.stderr
    assert "Free some space and run the same command again" in done.stdout
    assert not out.exists()
    export(curated, out, plain(name))
    assert files(out) == files(made[name].folder)


def test_an_unknown_format_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"export.format.*'hubb'.*hub"):
        ExportConfig(format="hubb")  # type: ignore[arg-type]


def test_a_shard_of_no_size_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"shard_mb must be at least 1, got 0"):
        ExportConfig(shard_mb=0)


# --- the command


def medfinder(*arguments: object) -> subprocess.CompletedProcess[str]:
    code = "from medfinder.cli.app import main; main()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_command_exports_and_tells_the_terms_and_what_comes_next(
    bare: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = medfinder(
        "export", bare, out, "--format", "bimcv-r", "--volumes", "none", "--no-card", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["studies"] == N
    assert "no part of it may be distributed" in done.stderr
    assert "medfinder curate bimcv-r" in done.stderr


def test_the_command_refuses_an_unknown_format(bare: Path, tmp_path: Path) -> None:
    done = medfinder("export", bare, tmp_path / "out", "--format", "zip")
    assert done.returncode == 2
    assert "zip" in done.stderr


@pytest.mark.slow
def test_the_memory_of_an_export_is_flat_in_the_number_of_studies(tmp_path: Path) -> None:
    some = phantom_studies(500)
    code = (
        "import resource, sys; from pathlib import Path;"
        "from medfinder.curate.export import ExportConfig, export;"
        "export(Path(sys.argv[1]), Path(sys.argv[2]), ExportConfig(volumes='none'));"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = []
    for n in (2_000, 20_000):
        made = [
            dataclasses.replace(some[k % 500], study_id=f"S-{k:06d}", patient_id=f"P-{k // 2:06d}")
            for k in range(n)
        ]
        folder = write_curated(tmp_path / f"c{n}", made)
        command = [sys.executable, "-c", code, str(folder), str(tmp_path / f"o{n}")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout))
    assert peaks[1] < 1.5 * peaks[0], np.diff(peaks)
