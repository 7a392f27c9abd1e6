"""The page's files and the documents that it frames."""

import re
from importlib.resources import files

import pytest
from fastapi.testclient import TestClient

from medfinder.errors import InputError
from medfinder.serve.app import create_app
from medfinder.serve.page_routes import Documents


@pytest.fixture
def documents(tmp_path):
    for name in ("card", "benchmark"):
        (tmp_path / f"{name}.html").write_text(f"<!doctype html><style>p{{}}</style><p>The {name}")
    return Documents(tmp_path / "card.html", tmp_path / "benchmark.html")


def test_the_page_names_its_files_and_all_are_there(client):
    page = client.get("/").text
    assert "not a medical device" in page
    addresses = re.findall(r'(?:href|src)="([^"#]+)"', page)
    assert len(addresses) >= 3
    for address in addresses:
        assert address.startswith("/")  # nothing is loaded from elsewhere
        assert client.get(address).status_code == 200, address


def test_the_licences_of_what_the_page_is_made_of_are_served(client):
    licences = client.get("/licences.md")
    assert licences.headers["content-type"] == "text/plain; charset=utf-8"
    for name in ("preact", "@niivue/niivue"):
        assert f"## {name} - " in licences.text


def test_the_page_has_no_script_or_style_within(client):
    page = client.get("/").text
    assert "<style" not in page
    assert "style=" not in page
    assert all("src=" in script for script in re.findall(r"<script[^>]*>", page))


def test_a_file_is_kept_for_good_and_the_page_itself_is_asked_for(client):
    page = client.get("/")
    assert page.headers["cache-control"] == "no-cache"
    again = client.get("/", headers={"if-none-match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    script = client.get(re.search(r'src="(/assets/[^"]+)"', page.text)[1])
    assert "immutable" in script.headers["cache-control"]
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"


def test_a_file_is_sent_packed_to_who_can_unpack_it(client):
    address = re.search(r'src="(/assets/[^"]+)"', client.get("/").text)[1]
    plain = client.get(address, headers={"accept-encoding": "identity"})
    packed = client.get(address, headers={"accept-encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert packed.text == plain.text


def test_only_files_of_the_page_exist(client):
    assert files("medfinder.serve").joinpath("static", "index.html").is_file()
    for address in ("/page_routes.py", "/assets/../../app.py", "/assets/%2e%2e%2findex.html", "/a"):
        assert client.get(address).status_code == 404


def test_without_documents_and_review_there_are_none(client):
    there = client.get("/v1/pages").json()
    assert there.pop("collections")
    assert not any(there.values())
    assert client.get("/review").status_code == 404
    answer = client.get("/v1/pages/card")
    assert answer.status_code == 404
    assert "--card FILE.html" in answer.json()["error"]["hint"]


def test_documents_run_nothing_and_are_framed_by_the_page_alone(finder, documents):
    with TestClient(create_app(finder, documents=documents)) as client:
        there = client.get("/v1/pages").json()
        assert (there["card"], there["benchmark"], there["review"]) == (True, True, False)
        for name in ("card", "benchmark"):
            answer = client.get(f"/v1/pages/{name}")
            assert f"The {name}" in answer.text
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "sandbox;" in policy
            assert "script-src" not in policy
            assert "frame-ancestors 'self'" in policy


def test_a_document_that_is_gone_is_not_found(finder, documents):
    with TestClient(create_app(finder, documents=documents)) as client:
        documents.card.unlink()
        assert client.get("/v1/pages/card").status_code == 404


def test_an_unknown_document_is_refused(client):
    assert client.get("/v1/pages/passwd").status_code == 422


def test_a_document_must_be_an_html_file(tmp_path):
    (tmp_path / "card.md").write_text("A card")
    for path in (tmp_path / "card.md", tmp_path / "nothing.html", tmp_path):
        with pytest.raises(InputError, match="There is no page for --card: expected an HTML file"):
            Documents(card=path)


def test_a_document_has_a_size(tmp_path):
    with (tmp_path / "card.html").open("wb") as file:
        file.truncate(65 * 2**20)
    with pytest.raises(InputError, match="at most 64 MiB"):
        Documents(card=tmp_path / "card.html")
