"""From a dual stream's checkpoint to an index that answers text, reports and CTs in one space."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from medfinder.curate.curate import CurateConfig, curate
from medfinder.curate.sources.folder import FolderSource
from medfinder.embed import Embedder
from medfinder.errors import Incomplete, Mismatch
from medfinder.index.store import Index
from medfinder.model.checkpoint import save_checkpoint
from medfinder.model.encoder import EncoderEntry, encoders
from medfinder.model.joint_encoder import JointEncoder
from medfinder.model.losses import info_nce
from medfinder.phantom.phantom import write_phantoms
from medfinder.records import Hit, Study
from medfinder.search.build import build_index
from medfinder.search.finder import Finder, open_index
from medfinder.studies import read_studies
from medfinder.volume.preprocess import preprocess
from medfinder.volume.read import read_volume
from stubs.dual_streams import CONFIG, tiny
from stubs.encoders import GridEncoder, WordEncoder

N = 16
MakeStudies = Callable[[Path, Sequence[str]], Path]


def ids(hits: list[Hit]) -> list[str]:
    return [hit.study_id for hit in hits]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Curated phantoms with their reports."""
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantoms(folder / "raw", N, 3, size=(32, 40, 40), workers=1)
    table = folder / "raw" / "studies.csv"
    source = FolderSource(folder / "raw", table)
    curate(source, folder / "studies", CurateConfig(workers=1))
    return folder / "studies"


@pytest.fixture(scope="module")
def trained(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that knows these phantoms and their reports by heart."""
    studies = told(phantoms)
    texts = tuple(s.report.text for s in studies if s.report)
    model = tiny(texts=texts).train()
    volumes = np.stack([preprocess(read_volume(s.volume_path), CONFIG.preprocess) for s in studies])
    x = torch.from_numpy(volumes).float() / 255
    tokens = model.text.tokenize(texts)
    learner = torch.optim.Adam(model.parameters(), 3e-3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(60):
            seen, read = model.embed_volumes(x).embedding, model.embed_texts(tokens).embedding
            loss = info_nce(read, seen, model.scale)
            learner.zero_grad()
            loss.backward()
            learner.step()
    assert loss < 0.1, "the phantoms were not learned"
    return save_checkpoint(model, tmp_path_factory.mktemp("trained") / "c", source="16 phantoms")


def told(folder: Path) -> list[Study]:
    return [s for s in read_studies(folder / "studies.parquet") if s.report is not None]


@pytest.fixture(scope="module")
def finder(phantoms: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Finder:
    out = tmp_path_factory.mktemp("joint") / "idx"
    build_index(phantoms, out, str(trained), None)
    return open_index(out)


def test_a_checkpoint_s_folder_makes_a_joint_index(finder: Finder, trained: Path) -> None:
    assert finder.has_joint_space
    assert set(finder.index.model_ids) == {"volume", "joint"}
    assert len(set(finder.index.model_ids.values())) == 1
    assert finder.index.encoder_names["volume"] == str(trained)


def by(part: str, hits: list[Hit]) -> str:
    return max(hits, key=lambda hit: hit.why.parts.get(part, -1)).study_id


def test_a_report_finds_its_own_volume(finder: Finder, phantoms: Path) -> None:
    for study in told(phantoms):
        assert study.report is not None
        assert by("volume", finder.search(report=study.report.text, k=N)) == study.study_id


def test_a_text_finds_its_own_volume(finder: Finder, phantoms: Path) -> None:
    for study in told(phantoms)[:3]:
        assert study.report is not None
        assert by("volume", finder.search(study.report.text, k=N)) == study.study_id


def test_a_volume_without_a_report_finds_the_report_that_tells_of_it(
    finder: Finder, phantoms: Path
) -> None:
    for study in told(phantoms):
        hits = finder.search(volume=read_volume(study.volume_path), k=N)
        assert set(hits[0].why.parts) == {"volume", "joint"}
        assert by("joint", hits) == study.study_id
        assert hits[0].study_id == study.study_id


def test_a_volume_is_matched_with_sentences_of_the_report(finder: Finder, phantoms: Path) -> None:
    study = told(phantoms)[0]
    assert study.report is not None
    (hit,) = finder.search(volume=read_volume(study.volume_path), k=1)
    assert 1 <= len(hit.why.sentences) <= 2
    assert all(sentence in study.report.text for sentence in hit.why.sentences)
    embedder = finder._embedder("volume")
    assert embedder is not None
    place = embedder.embed_volume(read_volume(study.volume_path))
    scores = embedder.embed_texts(hit.why.sentences).vectors @ place
    assert list(scores) == sorted(scores, reverse=True)


def test_the_same_checkpoint_for_reports_is_loaded_once(
    phantoms: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    init = JointEncoder.__init__

    def count(self: JointEncoder, *args: object, **options: object) -> None:
        loaded.append("once")
        init(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(JointEncoder, "__init__", count)
    build_index(phantoms, tmp_path / "idx", str(trained), str(trained))
    assert loaded == ["once"]
    assert set(Index.open(tmp_path / "idx").model_ids) == {"volume", "report", "joint"}


# -- any weights -------------------------------------------------------------------


@pytest.fixture
def untrained(tmp_path: Path) -> Path:
    return save_checkpoint(tiny(), tmp_path / "untrained")


def test_studies_without_a_report_have_a_volume_s_place_alone(
    studies: Path, untrained: Path, tmp_path: Path
) -> None:
    build_index(studies, tmp_path / "idx", str(untrained), None)
    index = open_index(tmp_path / "idx").index
    assert index.vectors("joint", ["s6"]) == [None]
    (volume,) = index.vectors("volume", ["s6"])
    assert volume is not None
    one, two = index.vectors("joint", ["s1", "s2"])
    assert one is not None
    assert two is not None
    assert not np.allclose(one, two)


def test_more_like_a_study_without_a_report_asks_the_reports(
    studies: Path, untrained: Path, tmp_path: Path
) -> None:
    build_index(studies, tmp_path / "idx", str(untrained), None)
    finder = open_index(tmp_path / "idx")
    assert any("joint" in hit.why.parts for hit in finder.search(study_id="s6", k=9))
    assert not any("joint" in hit.why.parts for hit in finder.search(study_id="s1", k=9))


def test_only_what_changed_is_embedded_again(
    make_studies: MakeStudies, untrained: Path, tmp_path: Path
) -> None:
    def index(*names: str) -> int:
        made = make_studies(tmp_path, names)
        return build_index(made, tmp_path / "idx", str(untrained), None).n_embedded

    assert [index("s1", "s2"), index("s1", "s2"), index("s1", "s2", "s3")] == [2, 0, 1]


def test_an_index_goes_on_with_a_checkpoint_that_moved(
    studies: Path, untrained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "idx"
    build_index(studies, out, str(untrained), None)
    before = open_index(out).search("left pleural effusion", k=9)
    moved = Path(shutil.move(untrained, tmp_path / "moved"))
    with pytest.raises(Incomplete, match=r"There is no checkpoint at .* say where it lies now"):
        open_index(out).search("left pleural effusion")
    again = build_index(studies, out, str(moved), None)
    assert again.n_embedded == 0
    assert open_index(out).index.encoder_names["volume"] == str(moved)
    assert ids(open_index(out).search("left pleural effusion", k=9)) == ids(before)


def test_a_moved_checkpoint_is_found_among_the_encoders(
    studies: Path, untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_index(studies, tmp_path / "idx", str(untrained), None)
    shutil.rmtree(untrained)
    monkeypatch.setattr(encoders, "_entries", dict(encoders._entries))
    model_id = open_index(tmp_path / "idx").index.model_ids["volume"]
    renamed = JointEncoder(tiny(), weights=model_id.split("@")[1].split("+")[0])
    assert renamed.info.model_id == model_id
    encoders.register("moved")(EncoderEntry(renamed.info, lambda: renamed))
    assert open_index(tmp_path / "idx").search("left pleural effusion", k=1)


def test_a_checkpoint_trained_on_in_place_is_refused(
    studies: Path, untrained: Path, tmp_path: Path
) -> None:
    build_index(studies, tmp_path / "idx", str(untrained), None)
    save_checkpoint(tiny(1), untrained)
    with pytest.raises(Mismatch, match="Vectors of two models cannot be compared"):
        open_index(tmp_path / "idx").search("left pleural effusion")
    with pytest.raises(Mismatch, match="is an index of other encoders"):
        build_index(studies, tmp_path / "idx", str(untrained), None)


def test_an_encoder_of_volumes_alone_gets_no_joint_stream(studies: Path, tmp_path: Path) -> None:
    build_index(studies, tmp_path / "idx", Embedder(GridEncoder()), Embedder(WordEncoder()))
    assert set(Index.open(tmp_path / "idx").model_ids) == {"volume", "report"}
