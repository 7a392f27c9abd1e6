"""A small hospital: six studies on disk, their index, and a finder with encoders of a few lines."""

import re
import shutil
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from medfinder.embed import Embedder
from medfinder.index.store import Index, Stream
from medfinder.model.encoder import EncoderInfo
from medfinder.records import Study
from medfinder.report.findings import extract_findings
from medfinder.report.parse import parse_report
from medfinder.search.finder import Finder
from medfinder.serve.app import create_app
from medfinder.serve.database import Database
from medfinder.volume.nifti import write_nifti
from medfinder.volume.preprocess import PreprocessConfig
from medfinder.volume.volume import Volume
from stubs import postgres

REPORTS = (
    "There is a solid nodule in the right upper lobe. No pleural effusion.",
    "Large left pleural effusion. The heart is enlarged.",
    "Normal chest. <script>window.hacked = true</script><img src=x onerror=window.hacked=true>",
    "Possible mass in the left lower lobe 🫁. Emphysema of both upper lobes.",
    "Bilateral pleural effusion and consolidation.",
    None,
)


class ShapeEncoder:
    """A volume is its own thumbnail."""

    info = EncoderInfo(
        "thumbnail", frozenset({"volume"}), 512, "1", "none", "tests", "nothing",
        PreprocessConfig(size=(8, 8, 8)),
    )  # fmt: skip

    def encode_volumes(self, batch):
        return batch.reshape(len(batch), -1)


class WordEncoder:
    """A text is the bag of its words."""

    info = EncoderInfo("bag", frozenset({"text"}), 256, "1", "none", "tests", "nothing")

    def encode_texts(self, texts):
        vectors = np.zeros((len(texts), 256), np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            for word in re.findall(r"\w+", text.lower()):
                vector[zlib.crc32(word.encode()) % 256] += 1
            vector[0] += 0.01
        return vectors


ENCODERS = {"volume": Embedder(ShapeEncoder()), "report": Embedder(WordEncoder())}


def chest(seed, shape=(24, 48, 64), spacing_mm=(5.0, 2.0, 1.5)):
    """A body with two lungs, the right one larger, and a little noise, int16 HU."""
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    hu = np.full(shape, -1000.0)
    hu[(x / 0.9) ** 2 + (y / (0.7 + 0.02 * seed)) ** 2 < 1] = 40
    high = 0.75 - 0.5 * (z - 0.1) ** 2
    for side, size in ((0.4, 0.32), (-0.4, 0.20 + 0.02 * seed)):
        hu[((x - side) / size) ** 2 + (y / (0.7 * high)) ** 2 < 1] = -820
    hu += np.random.default_rng(seed).normal(0, 12, shape)
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2] = spacing_mm
    affine[3, 3] = 1
    return Volume(hu.astype(np.int16), affine)


def make_studies(folder: Path):
    made = []
    for i, text in enumerate(REPORTS):
        volume = chest(i)
        path = folder / f"v{i}.nii.gz"
        write_nifti(volume, path)
        report = None if text is None else replace(parse_report(text), text=text)
        made.append(
            Study(
                study_id=f"study-{i}",
                patient_id=f"patient-{i // 2}",
                series_id=f"1.2.3.{i}",
                volume_path=str(path),
                volume_hash=volume.content_hash,
                shape=volume.shape,
                spacing_mm=volume.spacing_mm,
                report=report,
                findings=extract_findings(text) if text else (),
                sex="FM"[i % 2],
                age=40 + 10 * i,
                manufacturer="ACME",
                body_part="chest",
            )
        )
    return made


def make_index(folder: Path, studies):
    streams = {
        n: Stream(e.info.name, e.model_id, e.info.dim, is_centred=n == "volume")
        for n, e in ENCODERS.items()
    }
    index = Index.create(folder, streams)
    for i, study in enumerate(studies):
        vectors = {"volume": ENCODERS["volume"].embed_volumes([(study.study_id, chest(i))])}
        if study.report:
            vectors["report"] = ENCODERS["report"].embed_texts(
                [study.report.text], [study.study_id]
            )
        index.add([study], vectors)
    index.finish()


@pytest.fixture(scope="session")
def studies(tmp_path_factory):
    return make_studies(tmp_path_factory.mktemp("hospital-secret-path"))


@pytest.fixture(scope="session")
def index_folder(tmp_path_factory, studies):
    folder = tmp_path_factory.mktemp("secret-path") / "idx"
    make_index(folder, studies)
    return folder


@pytest.fixture(scope="session")
def shared_index(index_folder):
    return Index.open(index_folder)


@pytest.fixture
def finder(shared_index):
    return Finder(shared_index, ENCODERS)


@pytest.fixture
def own_finder(index_folder, tmp_path):
    """A finder over an index that the test may change."""
    folder = tmp_path / "secret-path-own"
    shutil.copytree(index_folder, folder)
    return Finder(Index.open(folder), ENCODERS)


@pytest.fixture
def client(finder):
    with TestClient(create_app(finder)) as client:
        yield client


@pytest.fixture(scope="session")
def postgres_url():
    with postgres.server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request, tmp_path):
    """Where a new database is to be: a file, or a URL of a real server."""
    if request.param == "sqlite":
        return tmp_path / "idx.service.sqlite"
    return postgres.new_database(request.getfixturevalue("postgres_url"))


@pytest.fixture
def database(where):
    database = Database.open(where)
    yield database
    database.close()
