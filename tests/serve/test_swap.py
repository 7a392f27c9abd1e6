"""An index is replaced, added to, broken and removed while it is served."""

import logging
import shutil
import threading
import time
from collections import Counter

import httpx
import pytest
from fastapi.testclient import TestClient

from medfinder.artifact import MANIFEST
from medfinder.index.store import Index
from medfinder.model.encoder import EncoderEntry, encoders
from medfinder.serve.app import create_app
from medfinder.serve.config import ServeConfig
from medfinder.serve.swap import held_to
from serve.conftest import ENCODERS, make_index
from stubs.served import serving

QUICK = ServeConfig(watch_s=0.05)


@pytest.fixture
def versions(index_folder, studies, tmp_path):
    """Two versions of an index, of six studies and of two, and a link to the first."""
    folder = tmp_path / "secret-path"
    folder.mkdir()
    shutil.copytree(index_folder, folder / "v1")
    make_index(folder / "v2", studies[:2])
    link = folder / "current"
    link.symlink_to("v1")
    return link


def point(link, to):
    """Point the link elsewhere, as one step."""
    new = link.with_name("next")
    new.symlink_to(to)
    new.replace(link)


@pytest.fixture
def registered(monkeypatch):
    """The encoders of a few lines can be had by name."""
    for embedder in ENCODERS.values():
        entry = EncoderEntry(embedder.info, type(embedder.encoder))
        monkeypatch.setitem(encoders._entries, embedder.info.name, entry)


def look(client):
    """Have the service look now."""
    return client.portal.call(client.app.state.watch.look)


def n_studies(client):
    return client.get("/v1/status").json().get("n_studies")


@pytest.fixture
def client(versions, registered):
    with TestClient(create_app(versions, ServeConfig(watch_s=3600))) as client:
        client.post("/v1/search", json={"text": "nodule"})  # its encoders are loaded
        yield client


def test_a_link_that_is_pointed_elsewhere_changes_nothing_until_it_is_looked_at(client, versions):
    point(versions, "v2")
    assert n_studies(client) == 6
    assert look(client)
    assert n_studies(client) == 2


def test_a_path_through_a_link_is_held_to(versions):
    assert held_to(versions).name == "v1"
    assert held_to(versions.parent / "v1") == versions.parent / "v1"


def test_nothing_new_is_no_swap(client):
    before = client.app.state.service.finder
    assert not look(client)
    assert client.app.state.service.finder is before


def test_encoders_that_are_the_same_are_not_loaded_again(client, versions):
    before = client.app.state.service.finder._encoders["report"]
    point(versions, "v2")
    look(client)
    assert client.app.state.service.finder._encoders["report"] is before


def test_a_study_of_the_index_before_is_no_longer_known(client, versions):
    assert client.get("/v1/studies/study-5").status_code == 200
    point(versions, "v2")
    look(client)
    assert client.get("/v1/studies/study-5").status_code == 404


def test_new_rows_are_found_without_a_swap_and_a_new_manifest_is_one(client, versions, studies):
    point(versions, "v2")
    look(client)
    index = Index.open(versions.resolve())
    index.add([studies[2]])
    assert n_studies(client) == 3
    assert not look(client)
    index.finish()
    assert look(client)
    assert n_studies(client) == 3


@pytest.mark.parametrize("harm", ["no manifest", "bad manifest", "no table", "no folder"])
def test_a_broken_index_is_refused_and_logged_and_the_old_one_stays(client, versions, caplog, harm):
    broken = versions.parent / "v2"
    if harm == "no manifest":
        (broken / MANIFEST).unlink()
    elif harm == "bad manifest":
        (broken / MANIFEST).write_text("{")
    elif harm == "no table":
        shutil.rmtree(broken / "table")
    else:
        shutil.rmtree(broken)
    point(versions, "v2")
    with caplog.at_level(logging.WARNING):
        assert not look(client)
        assert not look(client)
    assert n_studies(client) == 6
    assert client.post("/v1/search", json={"text": "nodule"}).status_code == 200
    assert caplog.text.count("another index was found and refused") == 1  # told once
    assert "the one before stays" in caplog.text
    assert "secret-path" not in caplog.text
    assert 'medfinder_index_swaps_total{result="refused"} 1.0' in client.get("/metrics").text


def test_a_broken_index_that_is_mended_is_taken(client, versions):
    manifest = versions.parent / "v2" / MANIFEST
    text = manifest.read_bytes()
    manifest.unlink()
    point(versions, "v2")
    assert not look(client)
    manifest.write_bytes(text)
    assert look(client)
    assert n_studies(client) == 2


def test_an_index_whose_encoder_cannot_be_had_is_refused(versions):
    with TestClient(create_app(versions, ServeConfig(watch_s=3600))) as client:
        # Nobody gave encoders, and those of the index are in no registry.
        point(versions, "v2")
        assert not look(client)
        assert n_studies(client) == 6


def test_a_removed_index_is_told_and_is_served_again_once_it_is_back(client, versions):
    real = versions.resolve()
    away = real.with_name("away")
    real.rename(away)
    answer = client.get("/v1/status")
    assert answer.status_code == 503
    assert answer.json()["error"]["hint"]
    assert client.get("/ready").status_code == 503
    assert client.get("/health").status_code == 200
    assert not look(client)
    away.rename(real)
    look(client)
    assert n_studies(client) == 6


def test_another_index_in_a_removed_ones_place_is_taken(client, versions):
    real = versions.resolve()
    shutil.rmtree(real)
    assert client.get("/v1/status").status_code == 503
    shutil.copytree(versions.parent / "v2", real)
    assert client.get("/v1/status").status_code == 503  # until it has been opened
    assert look(client)
    assert n_studies(client) == 2


def test_a_look_that_fails_is_not_the_last(versions, registered, monkeypatch):
    with TestClient(create_app(versions, QUICK)) as client:
        service = client.app.state.service
        with monkeypatch.context() as patch:
            patch.setattr("medfinder.serve.swap.mark_of", lambda path: 1 / 0)
            time.sleep(0.3)
        point(versions, "v2")
        deadline = time.monotonic() + 20
        while service.finder.index.count() != 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert n_studies(client) == 2


def swaps(url: str) -> float:
    lines = httpx.get(f"{url}metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if 'swaps_total{result="swapped"}' in line)


def test_no_request_fails_while_the_index_is_swapped_again_and_again(versions, registered):
    asked = Counter()
    stop = threading.Event()
    paths = [
        ("POST", "/v1/search", {"text": "nodule"}),
        ("POST", "/v1/search", {"study_id": "study-1"}),
        ("GET", "/v1/studies/study-0", None),
        ("GET", "/v1/facets", None),
        ("GET", "/ready", None),
        ("GET", "/v1/studies/study-1/slices/axial/3.png", None),
    ]

    def ask(url, i):
        with httpx.Client(base_url=url, timeout=60) as http:
            while not stop.is_set():
                method, path, body = paths[i % len(paths)]
                asked[http.request(method, path, json=body).status_code] += 1
                i += 1

    with serving(versions, config=QUICK) as served:
        threads = [threading.Thread(target=ask, args=(served.url, i)) for i in range(6)]
        for thread in threads:
            thread.start()
        for n in range(8):
            time.sleep(0.4)
            point(versions, f"v{2 - n % 2}")
        n_swaps = swaps(served.url)
        deadline = time.monotonic() + 120
        while (sum(asked.values()) <= 50 or n_swaps < 4) and time.monotonic() < deadline:
            time.sleep(0.4)  # a slow machine has the same number to answer, not the same time
            n += 1
            point(versions, f"v{2 - n % 2}")
            n_swaps = swaps(served.url)
        stop.set()
        for thread in threads:
            thread.join()
    assert set(asked) == {200}
    assert asked[200] > 50
    assert n_swaps >= 4
