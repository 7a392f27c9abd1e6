"""Curate → an index in PostgreSQL → search → the service: the hits of an index in a folder."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from medfinder.embed import Embedder
from medfinder.errors import ConfigError
from medfinder.search.build import build_index
from medfinder.search.finder import Finder, open_index
from medfinder.serve.app import create_app
from medfinder.serve.config import ServeConfig
from stubs import postgres
from stubs.cases import CASES, block
from stubs.encoders import GridEncoder, WordEncoder

MakeStudies = Callable[[Path, Sequence[str]], Path]
QUERIES = [
    {"text": "pleural effusion"},
    {"text": "derrame pleural sin nodulos", "k": 4},
    {"keyword": "nodule"},
    {"keyword": "pleural effusion", "without": "cardiomegaly"},
    {"study_id": "s1"},
    {"study_id": "s4", "exclude_same_patient": False, "where": "sex = 'M'"},
    {"text": "emphysema", "where": "age >= 50 AND sex IN ('F')", "sort": "-age"},
    {"text": "effusion", "like": ["s2"], "unlike": ["s8"]},
    {"report": "Left pleural effusion. Cardiomegaly."},
]


@pytest.fixture(scope="module")
def database():
    with postgres.server("vector") as url:
        yield postgres.new_database(url)


def embedders() -> dict[str, Embedder]:
    return {"volume": Embedder(GridEncoder()), "report": Embedder(WordEncoder())}


def build(studies: Path, out: str | Path, **options: object):
    made = embedders()
    return build_index(studies, out, made["volume"], made["report"], **options)


@pytest.fixture(scope="module")
def location(database: str, studies: Path) -> str:
    url = f"{database}&schema=ct"
    built = build(studies, url)
    assert (built.n_studies, built.n_embedded) == (len(CASES), len(CASES))
    assert built.where == url
    return url


@pytest.fixture(scope="module")
def ours(location: str) -> Finder:
    return Finder(open_index(location).index, embedders())


@pytest.mark.parametrize("asked", QUERIES, ids=lambda q: json.dumps(q))
def test_hits_are_those_of_a_folder(ours: Finder, finder: Finder, asked: dict) -> None:
    found, truth = ours.search(**asked), finder.search(**asked)
    assert [h.study_id for h in found] == [h.study_id for h in truth]
    for one, other in zip(found, truth, strict=True):
        assert one.study == other.study
        assert one.score == pytest.approx(other.score, rel=1e-5)
        assert one.why.parts == pytest.approx(other.why.parts, rel=1e-5)
        assert dataclasses.replace(one.why, parts={}) == dataclasses.replace(other.why, parts={})
    assert found


def test_a_ct_finds_what_it_finds_in_a_folder(ours: Finder, finder: Finder) -> None:
    volume = block(0, "left")
    found = [h.study_id for h in ours.search(volume=volume)]
    assert found == [h.study_id for h in finder.search(volume=volume)]


def test_the_index_says_what_it_was_made_of(ours: Finder, finder: Finder) -> None:
    assert ours.check == finder.check
    (mine, theirs) = (f.index.manifest() for f in (ours, finder))
    assert mine.config["content"] == theirs.config["content"]
    assert mine.parents == theirs.parents


def test_a_second_run_embeds_what_changed_and_drops_what_is_gone(
    database: str, make_studies: MakeStudies, tmp_path: Path
) -> None:
    url = f"{database}&schema=again"
    studies = make_studies(tmp_path, list(CASES)[:5])
    assert build(studies, url, keep_regions=True).n_embedded == 5
    first = open_index(url).index
    assert build(studies, url, keep_regions=True).n_embedded == 0
    mark = first.mark()
    studies = make_studies(tmp_path, list(CASES)[1:7])
    built = build(studies, url, keep_regions=True)
    assert (built.n_embedded, built.n_deleted, built.n_studies) == (2, 1, 6)
    assert len(list(first.regions.list())) == 6
    assert first.ids() == sorted(list(CASES)[1:7])
    assert first.mark() != mark
    assert not first.is_changing


def test_a_volume_that_is_gone_is_told_of_in_a_table(
    database: str, make_studies: MakeStudies, tmp_path: Path
) -> None:
    studies = make_studies(tmp_path, ["s1", "s2"])
    (tmp_path / "raw" / "s2.nii.gz").unlink()
    built = build(studies, f"{database}&schema=gone")
    assert built.n_rejections == 1
    assert built.rejections == "the table gone.rejections"
    index = open_index(f"{database}&schema=gone").index
    assert [r.item for r in index.read_rejections()] == ["s2"]


# -- the service -------------------------------------------------------------------------


def test_the_service_answers_as_from_a_folder(ours: Finder, finder: Finder) -> None:
    config = ServeConfig(watch_s=3600)
    with TestClient(create_app(ours, config)) as mine, TestClient(create_app(finder, config)) as other:  # fmt: skip
        for body in ({"text": "pleural effusion"}, {"text": "nodule", "where": "age > 30"}):
            answers = [c.post("/v1/search", json=body).json() for c in (mine, other)]
            assert [h["study_id"] for h in answers[0]["hits"]] == [
                h["study_id"] for h in answers[1]["hits"]
            ]
            assert answers[0]["hits"]
        for path in ("/v1/status", "/v1/facets", "/v1/studies/s1", "/v1/studies/s3/report"):
            first, second = mine.get(path), other.get(path)
            assert first.status_code == second.status_code, path
        assert mine.post("/v1/search", json={"text": "x", "where": "a ="}).status_code == 422


def test_the_service_takes_a_newer_version(database: str, make_studies, tmp_path: Path) -> None:
    url = f"{database}&schema=swapped"
    studies = make_studies(tmp_path, list(CASES)[:4])
    build(studies, url)
    finder = Finder(open_index(url).index, embedders())
    with TestClient(create_app(finder, ServeConfig(watch_s=3600))) as client:
        look = lambda: client.portal.call(client.app.state.watch.look)  # noqa: E731
        assert not look()
        assert client.get("/v1/status").json()["n_studies"] == 4
        build(make_studies(tmp_path, list(CASES)[:6]), url)
        assert look()
        assert not look()
        assert client.get("/v1/status").json()["n_studies"] == 6
        assert client.post("/v1/search", json={"text": "effusion"}).json()["hits"]


def test_a_server_that_stops_is_told_and_its_return_is_noticed(
    make_studies: MakeStudies, tmp_path: Path
) -> None:
    with postgres.server("vector") as server:
        url = f"{postgres.new_database(server)}&schema=ct"
        build(make_studies(tmp_path, list(CASES)[:3]), url)
        client = TestClient(
            create_app(Finder(open_index(url).index, embedders()), ServeConfig(watch_s=3600)),
            raise_server_exceptions=False,
        ).__enter__()
        assert client.post("/v1/search", json={"text": "effusion"}).status_code == 200
    try:
        refused = client.post("/v1/search", json={"text": "effusion"})
        assert refused.status_code in (500, 503)
        assert str(Path("/tmp")) not in refused.text
    finally:
        client.__exit__(None, None, None)


def test_accounts_need_a_place_of_their_own(location: str, ours: Finder) -> None:
    from medfinder.serve.app import serve

    with pytest.raises(
        ConfigError, match=r"expected a file of their own\. Name one with --database"
    ):
        serve(ours, host="0.0.0.0", port=0)


def test_a_study_is_taken_in_by_the_service(
    database: str, make_studies: MakeStudies, tmp_path: Path
) -> None:
    from medfinder.serve.config import IngestConfig

    url = f"{database}&schema=ingested"
    build(make_studies(tmp_path / "a", list(CASES)[:3]), url)
    make_studies(tmp_path / "b", ["s9"])
    finder = Finder(open_index(url).index, embedders())
    config = ServeConfig(watch_s=3600, ingest=IngestConfig(folder=str(tmp_path / "kept")))
    with TestClient(create_app(finder, config)) as client:
        with (tmp_path / "b" / "raw" / "s9.nii.gz").open("rb") as file:
            sent = client.post(
                "/v1/ingest",
                files={"file": ("ct.nii.gz", file)},
                data={"text": CASES["s9"][4], "study_id": "s9", "patient_id": "p9"},
            )
        assert sent.status_code in (200, 201, 202), sent.text
        job = sent.json()["job_id"]
        for _ in range(600):
            told = client.get(f"/v1/jobs/{job}").json()
            if told["state"] not in ("queued", "running"):
                break
            client.portal.call(__import__("asyncio").sleep, 0.05)
        assert told["state"] == "done", told
    assert finder.index.count() == 4


# -- the command line ----------------------------------------------------------------------


def test_the_command_line_builds_and_searches(studies: Path, database: str) -> None:
    url = f"{database}&schema=typed"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        code = "from medfinder.cli.app import main; main()"
        return subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120
        )

    made = run("index", str(studies), url, "--encoder", "none", "--text-encoder", "none")
    assert made.returncode == 2
    assert "An index needs an encoder" in made.stderr
    build(studies, url)
    found = run("search", url, "--keyword", "pleural effusion", "--json")
    assert found.returncode == 0, found.stderr
    assert {h["study_id"] for h in json.loads(found.stdout)} == {"s1", "s2", "s5", "s8"}
