"""Curate → an index in an S3-compatible store → search → the service and the command line."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from medfinder.cli.app import app
from medfinder.embed import Embedder
from medfinder.errors import InputError
from medfinder.index.backup import backup, restore
from medfinder.index.check import check_index
from medfinder.model.encoder import EncoderEntry, encoders
from medfinder.search.build import Built, build_index
from medfinder.search.finder import Finder, open_index
from medfinder.serve.app import create_app
from medfinder.serve.config import ServeConfig
from stubs import s3
from stubs.cases import CASES, block
from stubs.encoders import GridEncoder, WordEncoder

MakeStudies = Callable[[Path, Sequence[str]], Path]
CONFIG = ServeConfig(watch_s=3600)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3.Server]:
    with s3.server() as made, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDFINDER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield made


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoder in (GridEncoder(), WordEncoder()):
        entry = EncoderEntry(encoder.info, type(encoder))
        monkeypatch.setitem(encoders._entries, encoder.info.name, entry)


def build(studies: str | Path, out: str, **options: object) -> Built:
    return build_index(
        studies,
        out,
        Embedder(GridEncoder()),
        Embedder(WordEncoder()),
        **options,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def url(server: s3.Server, studies: Path) -> str:
    """An index in the store, of a curated folder that lies there too."""
    bucket = server.bucket()
    backup(studies, f"s3://{bucket}/backup")
    restore(f"s3://{bucket}/backup", f"s3://{bucket}/studies")
    built = build(f"s3://{bucket}/studies", f"s3://{bucket}/idx", keep_regions=True)
    assert (built.n_studies, built.n_embedded) == (len(CASES), len(CASES))
    assert built.where == f"s3://{bucket}/idx"
    assert built.rejections == f"s3://{bucket}/idx/rejections.parquet"
    return built.where


@pytest.fixture
def ours(url: str, registered: None) -> Finder:
    return open_index(url)


@pytest.mark.parametrize(
    "asked",
    [
        {"text": "pleural effusion"},
        {"keyword": "nodule"},
        {"study_id": "s4", "exclude_same_patient": False, "where": "sex = 'M'"},
        {"text": "effusion", "like": ["s2"], "unlike": ["s8"]},
    ],
    ids=json.dumps,
)
def test_hits_are_those_of_a_folder(ours: Finder, finder: Finder, asked: dict) -> None:
    found, truth = ours.search(**asked), finder.search(**asked)
    assert [hit.study for hit in found] == [hit.study for hit in truth]
    assert [hit.score for hit in found] == pytest.approx([hit.score for hit in truth], rel=1e-5)


def test_a_ct_finds_what_it_finds_in_a_folder(ours: Finder, finder: Finder) -> None:
    volume = block(0, "left")
    found = [hit.study for hit in ours.search(volume=volume)]
    assert found == [hit.study for hit in finder.search(volume=volume)]
    assert ours.check == finder.check


def test_the_index_and_its_region_features_are_sound(url: str) -> None:
    assert check_index(url).is_sound
    regions = open_index(url).index.regions
    assert len(list(regions.list())) == len(CASES)


def test_a_second_run_does_nothing_and_a_third_what_changed(
    server: s3.Server, make_studies: MakeStudies, tmp_path: Path
) -> None:
    out = f"s3://{server.bucket()}/idx"
    studies = make_studies(tmp_path, ["s1", "s2"])
    assert build(studies, out).n_embedded == 2
    mark = open_index(out).index.mark()
    assert build(studies, out).n_embedded == 0
    assert open_index(out).index.mark() == mark
    built = build(make_studies(tmp_path, ["s2", "s3"]), out)
    assert (built.n_embedded, built.n_deleted) == (1, 1)
    assert not open_index(out).index.is_changing


def test_the_service_answers_and_takes_a_newer_version(
    server: s3.Server, make_studies: MakeStudies, tmp_path: Path, registered: None
) -> None:
    out = f"s3://{server.bucket()}/idx"
    build(make_studies(tmp_path, ["s1", "s2"]), out)
    with TestClient(create_app(out, CONFIG)) as client:

        def look() -> bool:
            return bool(client.portal.call(client.app.state.watch.look))  # type: ignore[union-attr,attr-defined]

        assert not look()
        assert client.get("/v1/status").json()["n_studies"] == 2
        hits = client.post("/v1/search", json={"text": "pleural effusion"}).json()["hits"]
        assert {hit["study_id"] for hit in hits} == {"s1", "s2"}
        build(make_studies(tmp_path, ["s1", "s2", "s3"]), out)
        assert look()
        assert not look()
        assert client.get("/v1/status").json()["n_studies"] == 3


def test_the_command_line_takes_urls(url: str, tmp_path: Path, registered: None) -> None:
    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    hits = json.loads(run("search", url, "--keyword", "nodule", "--json"))
    assert {hit["study_id"] for hit in hits} == {"s3", "s4"}
    copied = json.loads(run("backup", url, str(tmp_path / "b"), "--json"))
    assert copied["stage"] == "index"
    assert copied["copied"] <= copied["files"]
    run("restore", str(tmp_path / "b"), str(tmp_path / "idx"), "--json")
    hits = json.loads(run("search", str(tmp_path / "idx"), "--keyword", "nodule", "--json"))
    assert {hit["study_id"] for hit in hits} == {"s3", "s4"}


def test_a_url_that_pathlib_has_mangled_is_told() -> None:
    with pytest.raises(InputError, match="is a path; expected a URL"):
        open_index(Path("s3://bucket/idx"))
