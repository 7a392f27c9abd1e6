import asyncio
import gzip
import io
import json
import logging
import shutil
import tempfile
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from medfinder.errors import Mismatch
from medfinder.records import Study
from medfinder.serve import service as service_module
from medfinder.serve.app import create_app
from medfinder.serve.config import ServeConfig
from medfinder.volume.checks import CheckConfig
from medfinder.volume.dicom_writer import write_dicom_series
from medfinder.volume.read import read_volume

PNG = b"\x89PNG\r\n\x1a\n"


def error_of(response, status):
    """Check the shape that every error has, and return it."""
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error", "request_id"}
    assert set(body["error"]) == {"type", "message", "hint"}
    assert all(body["error"].values())
    assert body["request_id"] == response.headers["x-request-id"]
    assert "secret-path" not in response.text
    return body["error"]


def ids(response):
    assert response.status_code == 200, response.text
    return [hit["study_id"] for hit in response.json()["hits"]]


# ---- searching ------------------------------------------------------------------------------


def test_a_sentence_finds_studies_with_reasons(client):
    response = client.post("/v1/search", json={"text": "solid nodule", "k": 2})
    first, second = response.json()["hits"]
    assert first["study_id"] == "study-0"
    assert (first["rank"], second["rank"]) == (1, 2)
    assert set(first["why"]["terms"]) >= {"solid", "nodule"}
    assert first["why"]["sentences"][0] in first["study"]["report"]["text"]
    assert set(first["why"]["parts"]) == {"bm25", "report", "findings"}
    assert response.json()["query_kind"] == "text"


def test_an_answer_holds_no_path_and_no_series_uid(client):
    text = client.post("/v1/search", json={"text": "nodule", "k": 100}).text
    assert "secret-path" not in text
    assert "1.2.3." not in text
    assert ".nii" not in text


@pytest.mark.parametrize(
    ("query", "kind", "first"),
    [
        ({"keywords": ["nodule"]}, "keywords", "study-0"),
        ({"keywords": ["derrame pleural"], "filters": {"sex": ["M"]}}, "keywords", "study-1"),
        ({"report": "Findings: emphysema of the upper lobes."}, "report", "study-3"),
        ({"study_id": "study-1"}, "study_id", "study-4"),
        ({"text": "large", "keywords": ["consolidation"]}, "text", "study-4"),
    ],
)
def test_every_kind_of_query_finds(client, query, kind, first):
    response = client.post("/v1/search", json=query)
    assert ids(response)[0] == first
    assert response.json()["query_kind"] == kind


def test_a_keyword_finds_only_what_is_affirmed(client):
    assert ids(client.post("/v1/search", json={"keywords": ["nodule"]})) == ["study-0"]
    effusions = ids(client.post("/v1/search", json={"keywords": ["pleural effusion"]}))
    assert sorted(effusions) == ["study-1", "study-4"]


@pytest.mark.parametrize(
    ("narrowing", "expected"),
    [
        ({"filters": {"sex": ["F"]}}, {"study-0", "study-2", "study-4"}),
        ({"filters": {"age_min": 50, "age_max": 60}}, {"study-1", "study-2"}),
        ({"filters": {"findings": ["pleural effusion"]}}, {"study-1", "study-4"}),
        ({"filters": {"findings_absent": ["pleural effusion"]}}, {"study-0"}),
        ({"filters": {"sex": ["F"]}, "where": "age > 40 OR age < 10"}, {"study-2", "study-4"}),
        ({"filters": {"manufacturer": ["x') OR 1=1 --"]}}, set()),
    ],
)
def test_filters_narrow_what_is_found(client, narrowing, expected):
    query = {"study_id": "study-5", "exclude_same_patient": False, **narrowing}
    assert set(ids(client.post("/v1/search", json=query))) == expected


def test_the_same_patient_is_left_out_unless_wanted(client):
    without = ids(client.post("/v1/search", json={"study_id": "study-1"}))
    query = {"study_id": "study-1", "exclude_same_patient": False}
    assert set(ids(client.post("/v1/search", json=query))) - set(without) == {"study-0"}


@pytest.mark.parametrize(
    "body", [{}, {"text": ""}, {"text": "  \n"}, {"report": ""}, {"study_id": " "}]
)
def test_an_empty_query_is_refused(client, body):
    assert "xpected" in error_of(client.post("/v1/search", json=body), 422)["message"]


def test_no_keyword_is_no_query(client):
    error_of(client.post("/v1/search", json={"keywords": []}), 422)


def test_two_queries_at_once_are_refused(client):
    error = error_of(client.post("/v1/search", json={"text": "a", "study_id": "study-1"}), 422)
    assert "text and study_id" in error["message"]


@pytest.mark.parametrize("k", [0, -1, 101, 10**12, 2.5, "many"])
def test_an_absurd_k_is_refused(client, k):
    assert error_of(client.post("/v1/search", json={"text": "a", "k": k}), 422)[
        "message"
    ].startswith("k: ")


def test_a_megabyte_of_query_is_refused(client):
    error = error_of(client.post("/v1/search", json={"text": "x" * 2**20}), 413)
    assert "0.25 MiB" in error["message"]


def test_a_megabyte_without_a_told_length_is_refused(client):
    chunks = (b"x" * 2**16 for _ in range(16))
    headers = {"content-type": "application/json"}
    error_of(client.post("/v1/search", content=chunks, headers=headers), 413)


def test_a_long_query_is_refused_without_repeating_it(client):
    response = client.post("/v1/search", json={"text": "Smith " * 1000})
    assert "text" in error_of(response, 422)["message"]
    assert "Smith" not in response.text


def test_an_unknown_filter_is_refused_by_name(client):
    error = error_of(
        client.post("/v1/search", json={"text": "a", "filters": {"colour": "red"}}), 422
    )
    assert error["message"] == "filters.colour is no field of this request"


def test_what_is_not_json_is_refused(client):
    headers = {"content-type": "application/json"}
    error = error_of(client.post("/v1/search", content=b"{text:", headers=headers), 422)
    assert "not JSON" in error["message"]


@pytest.mark.parametrize(
    "where", ["no_such_column = 3", "1=1) OR (1=1", "age > 3; DROP TABLE studies"]
)
def test_a_bad_condition_is_refused(client, where):
    error_of(client.post("/v1/search", json={"text": "a", "where": where}), 422)


def test_more_like_an_unknown_study_is_not_found(client):
    error_of(client.post("/v1/search", json={"study_id": "nobody"}), 404)


def test_lone_surrogates_and_nul_are_no_failure_of_the_service(client):
    headers = {"content-type": "application/json"}
    for text in (rb'"\ud800"', rb'"a\u0000b"'):
        response = client.post("/v1/search", content=b'{"text": ' + text + b"}", headers=headers)
        assert response.status_code < 500


def test_a_query_is_never_logged(client, caplog):
    caplog.set_level(logging.DEBUG)
    client.post("/v1/search", json={"text": "Mrs Haversham"})
    client.post("/v1/search", json={"text": "Mrs Haversham", "study_id": "study-1"})
    assert "POST /v1/search 200" in caplog.text
    assert "Haversham" not in caplog.text


def test_an_unknown_keyword_is_repeated_to_its_sender_and_not_logged(client, caplog):
    caplog.set_level(logging.DEBUG)
    response = client.post("/v1/search", json={"keywords": ["nodulle"]})
    assert "nodulle" in error_of(response, 422)["message"]
    assert "nodulle" not in caplog.text


@pytest.mark.parametrize("column", ["volume_path", "series_id", "report_text", "volume"])
def test_a_condition_reaches_no_hidden_column(client, column):
    body = {"where": f"{column} IS NOT NULL"}
    for path, query in (("/v1/search", {"keywords": ["nodule"], **body}), ("/v1/facets", body)):
        error = error_of(client.post(path, json=query), 422)
        assert f"no column '{column}'" in error["message"]


def test_a_failure_inside_says_and_logs_nothing_of_the_query(finder, caplog):
    def fail(*args, **kwargs):
        raise ValueError("Haversham at /secret-path")

    finder.search = fail
    with TestClient(create_app(finder)) as client:
        response = client.post("/v1/search", json={"text": "Haversham"})
    error = error_of(response, 500)
    assert "Haversham" not in response.text + caplog.text
    assert "ValueError at test_routes.py" in caplog.text
    assert "request id" in error["hint"]


# ---- uploads --------------------------------------------------------------------------------


@pytest.fixture
def nifti(studies: list[Study]) -> bytes:
    return Path(studies[0].volume_path).read_bytes()


@pytest.fixture(autouse=True)
def temp(tmp_path, monkeypatch):
    """The temporary folder, which every test must leave empty."""
    folder = tmp_path / "temp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


def send(client, data, name="ct.nii.gz", **options):
    form = {"options": json.dumps(options)} if options else {}
    return client.post("/v1/search/volume", files={"file": (name, data)}, data=form)


def zipped(files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def test_a_nifti_file_is_a_query(client, nifti):
    response = send(client, nifti, k=2, filters={"sex": ["F"]})
    assert ids(response) == ["study-0", "study-2"]
    assert response.json()["query_kind"] == "volume"


def test_a_nifti_file_in_a_zip_is_a_query(client, nifti):
    ids(send(client, zipped({"a/ct.nii.gz": nifti}), "x.zip"))


def test_a_dicom_series_in_a_zip_is_a_query(client, studies, tmp_path):
    volume = read_volume(studies[2].volume_path)
    write_dicom_series(volume, tmp_path / "series", patient_id="p", study_id="s")
    series = {f"IM/{p.name}": p.read_bytes() for p in (tmp_path / "series").iterdir()}
    assert ids(send(client, zipped(series), "x.zip"))[0] == "study-2"


def test_two_series_in_a_zip_are_refused(client, studies, tmp_path):
    files = {}
    for i in (0, 1):
        volume = read_volume(studies[i].volume_path)
        write_dicom_series(volume, tmp_path / str(i), patient_id="p", study_id="s")
        files |= {f"{i}/{p.name}": p.read_bytes() for p in (tmp_path / str(i)).iterdir()}
    error_of(send(client, zipped(files), "x.zip"), 422)


def test_what_it_is_is_told_by_its_bytes_not_its_name(client, nifti):
    ids(send(client, nifti, "report.pdf"))


@pytest.mark.parametrize("data", [b"%PDF-1.7 ...", b"<html>", bytes(1000)])
def test_an_upload_that_is_not_a_ct_is_refused(client, data):
    error_of(send(client, data), 415)


def test_an_upload_cut_short_is_refused(client, nifti):
    error_of(send(client, nifti[: len(nifti) // 2]), 422)


def test_a_zip_without_a_ct_is_refused(client):
    error_of(send(client, zipped({"a.txt": b"hello", "b.txt": b"hello"})), 422)


def test_a_zip_bomb_is_refused(finder):
    with TestClient(create_app(finder, ServeConfig(max_expanded_bytes=10**6))) as client:
        error_of(send(client, zipped({"a.dcm": bytes(2 * 10**6)})), 413)


def test_a_compressed_nifti_that_grows_beyond_the_limit_is_refused(finder, nifti):
    with TestClient(create_app(finder, ServeConfig(max_expanded_bytes=10**5))) as client:
        error_of(send(client, nifti), 413)


def test_a_gzip_bomb_is_refused(client, nifti):
    header = bytearray(gzip.decompress(nifti)[:352])
    header[42:48] = (30000).to_bytes(2, "little") * 3  # 27 thousand million voxels
    error_of(send(client, gzip.compress(bytes(header) + bytes(10**6))), 413)


def test_a_zip_that_climbs_out_is_refused(client):
    error_of(send(client, zipped({"../../evil.dcm": b"x"})), 422)


def test_an_upload_beyond_the_limit_is_refused(finder):
    with TestClient(create_app(finder, ServeConfig(max_upload_bytes=1000))) as client:
        error_of(send(client, bytes(2**20)), 413)


def test_an_upload_without_a_file_is_refused(client):
    assert (
        "file" in error_of(client.post("/v1/search/volume", data={"options": "{}"}), 422)["message"]
    )


@pytest.mark.parametrize(
    "options",
    [
        "{",
        '{"k": 0}',
        '{"filters": {"colour": 1}}',
        '{"text": "x"}',
        '{"exclude_same_patient": true}',
    ],
)
def test_bad_options_of_an_upload_are_refused(client, nifti, options):
    files = {"file": ("a.nii.gz", nifti)}
    error_of(client.post("/v1/search/volume", files=files, data={"options": options}), 422)


def test_too_many_uploads_at_once_are_asked_to_come_back(client, nifti):
    client.app.state.service.n_uploads = 4
    response = send(client, nifti)
    error_of(response, 503)
    assert response.headers["retry-after"] == "10"


def test_who_must_come_back_is_told_before_the_upload_is_read(client):
    client.app.state.service.n_uploads = 4
    read = []
    headers = {"content-type": "multipart/form-data; boundary=x", "host": "localhost"}
    scope = {
        "type": "http", "method": "POST", "path": "/v1/search/volume", "query_string": b"",
        "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
    }  # fmt: skip
    sent = []

    async def receive():
        read.append(1)
        return {"type": "http.request", "body": b"--x", "more_body": True}

    async def send_out(message):
        sent.append(message)

    asyncio.run(client.app(scope, receive, send_out))
    assert sent[0]["status"] == 503
    assert read == []


def test_a_place_for_uploads_is_free_again_after_each_answer(client, nifti):
    ids(send(client, nifti))
    error_of(send(client, b"%PDF-1.7 ..."), 415)
    assert client.app.state.service.n_uploads == 0


@pytest.mark.parametrize("path", ["/v1/search", "/v1/facets", "/v1/search/volume/"])
def test_only_an_upload_may_be_large_whatever_a_body_says_it_is(client, path):
    files = {"file": ("a.nii.gz", bytes(2**20))}
    error_of(client.post(path, files=files), 413)


def test_an_upload_that_is_no_form_is_as_small_as_any_query(client):
    headers = {"content-type": "application/x-www-form-urlencoded"}
    error_of(client.post("/v1/search/volume", content=bytes(2**20), headers=headers), 413)


def test_slices_are_served_while_a_search_computes(finder):
    started, finish = threading.Event(), threading.Event()
    quick = finder.search

    def slow(*args, **kwargs):
        started.set()
        finish.wait(10)
        return quick(*args, **kwargs)

    finder.search = slow
    with TestClient(create_app(finder)) as client:
        searches = [
            threading.Thread(
                target=client.post, args=("/v1/search",), kwargs={"json": {"text": "a"}}
            )
            for _ in range(3)
        ]
        for search in searches:
            search.start()
        assert started.wait(5)
        assert client.get("/v1/studies/study-0/slices/axial/3.png").status_code == 200
        assert client.get("/health").status_code == 200
        assert all(search.is_alive() for search in searches)
        finish.set()
        for search in searches:
            search.join()


# ---- studies and slices ---------------------------------------------------------------------


def test_a_study_tells_its_facts_report_findings_and_geometry(client):
    study = client.get("/v1/studies/study-0").json()
    assert study["age"] == 40
    assert study["report"]["text"].startswith("There is a solid nodule")
    told = {(f["name"], f["status"]) for f in study["findings"]}
    assert told >= {("nodule", "present"), ("pleural effusion", "absent")}
    assert study["planes"]["axial"] == {
        "n_slices": 24, "width": 64, "height": 64, "pixel_mm": 1.5, "step_mm": 5.0,
        "left": "R", "right": "L", "top": "A", "bottom": "P",
    }  # fmt: skip


def test_a_study_without_a_report_has_none(client):
    assert client.get("/v1/studies/study-5").json()["report"] is None


def test_report_text_is_json_not_markup(client):
    response = client.get("/v1/studies/study-2")
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", ["nobody", "..%2F..%2Fetc%2Fpasswd", "a'; DROP TABLE x", "é" * 50])
def test_an_unknown_study_is_not_found(client, name):
    error_of(client.get(f"/v1/studies/{name}/slices/axial/0.png"), 404)


@pytest.mark.parametrize("query", ["", "?window=bone", "?level=40&width=350"])
def test_a_slice_is_a_png_that_may_be_kept(client, query):
    response = client.get(f"/v1/studies/study-0/slices/coronal/20.png{query}")
    assert response.content.startswith(PNG)
    assert response.headers["content-type"] == "image/png"
    assert response.headers["cache-control"] == "private, max-age=3600"
    tag = response.headers["etag"]
    again = client.get(
        f"/v1/studies/study-0/slices/coronal/20.png{query}", headers={"if-none-match": tag}
    )
    assert again.status_code == 304
    assert again.content == b""


def test_slices_that_differ_have_different_tags(client):
    paths = ["axial/1.png", "axial/2.png", "coronal/1.png", "axial/1.png?window=bone"]
    tags = {client.get(f"/v1/studies/study-0/slices/{p}").headers["etag"] for p in paths}
    assert len(tags) == 4


def test_the_key_slice_says_which_it_is(client):
    index = client.get("/v1/studies/study-0/key-slice").json()["index"]
    response = client.get("/v1/studies/study-0/slices/axial/key.png")
    assert response.headers["x-slice-index"] == str(index)
    assert response.content == client.get(f"/v1/studies/study-0/slices/axial/{index}.png").content


@pytest.mark.parametrize(
    "path",
    [
        "axial/24.png", "axial/-1.png", "axial/9999999999999.png", "axial/1e3.png", "axial/²2.png",
        "oblique/1.png", "coronal/key.png", "axial/1.png?window=soft", "axial/1.png?level=40",
        "axial/1.png?window=lung&level=1&width=2", "axial/1.png?level=nan&width=1",
        "axial/1.png?level=40&width=0", "axial/1.png?level=x&width=3",
    ],
)  # fmt: skip
def test_a_slice_that_cannot_be_is_refused(client, path):
    error_of(client.get(f"/v1/studies/study-0/slices/{path}"), 422)


def test_an_unknown_window_names_the_known_ones(client):
    response = client.get("/v1/studies/study-0/slices/axial/1.png?window=lungs")
    assert "lung" in error_of(response, 422)["message"]


def test_a_volume_is_read_once_for_many_slices_at_once(client, monkeypatch):
    reads = []
    real = service_module.read_volume

    def counted(path, **kwargs):
        reads.append(path)
        time.sleep(0.2)
        return real(path, **kwargs)

    monkeypatch.setattr(service_module, "read_volume", counted)
    answers = []

    def fetch(i):
        answers.append(client.get(f"/v1/studies/study-3/slices/axial/{i}.png").status_code)

    threads = [threading.Thread(target=fetch, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 8
    assert len(reads) == 1


def test_a_volume_whose_file_is_gone_is_gone(own_finder, studies, tmp_path):
    path = tmp_path / "secret-path" / "v.nii.gz"
    own_finder.index.add([replace(studies[0], volume_path=str(path))])
    with TestClient(create_app(own_finder)) as client:
        error = error_of(client.get("/v1/studies/study-0/slices/axial/1.png"), 410)
        assert "Its report can still be read" in error["hint"]
        error_of(client.get("/v1/studies/study-0/key-slice"), 410)
        assert client.get("/v1/studies/study-0").status_code == 200


def test_a_volume_whose_file_is_broken_is_gone(own_finder, studies, tmp_path):
    (tmp_path / "v.nii.gz").write_bytes(Path(studies[0].volume_path).read_bytes()[:2000])
    own_finder.index.add([replace(studies[0], volume_path=str(tmp_path / "v.nii.gz"))])
    with TestClient(create_app(own_finder)) as client:
        error_of(client.get("/v1/studies/study-0/slices/axial/1.png"), 410)


def test_another_volume_in_the_files_place_is_not_shown(own_finder, studies):
    own_finder.index.add([replace(studies[0], volume_path=studies[1].volume_path)])
    with TestClient(create_app(own_finder)) as client:
        for path in ("slices/axial/1.png", "slices/axial/key.png", "key-slice"):
            error = error_of(client.get(f"/v1/studies/study-0/{path}"), 410)
            assert "not the one that was indexed" in error["message"]


def test_an_upload_has_no_more_voxels_than_may_be_expanded(finder, nifti, monkeypatch):
    limits = []
    real = service_module.read_volume

    def noted(path, *, config):
        limits.append(config.max_voxels)
        return real(path, config=config)

    monkeypatch.setattr(service_module, "read_volume", noted)
    with TestClient(create_app(finder, ServeConfig(max_expanded_bytes=10**6))) as client:
        ids(send(client, nifti))
    assert limits == [500_000]


def test_volumes_are_read_with_the_limits_of_their_dataset(finder, nifti):
    finder.check = CheckConfig(min_slices=25)  # the volumes have 24
    with TestClient(create_app(finder)) as client:
        error_of(client.get("/v1/studies/study-0/key-slice"), 410)
        assert "at least 25" in error_of(send(client, nifti), 422)["message"]


# ---- what there is --------------------------------------------------------------------------


def test_facets_count_the_values(client):
    body = client.get("/v1/facets").json()
    assert body["n_studies"] == 6
    assert body["facets"]["sex"] == {"F": 3, "M": 3}
    assert body["facets"]["findings"]["pleural effusion"] == 2
    assert body["facets"]["split"] == {}


def test_facets_can_be_counted_under_filters(client):
    assert client.post("/v1/facets", json={"filters": {"sex": ["F"]}}).status_code == 200
    error_of(client.post("/v1/facets", json={"filters": {"colour": ["F"]}}), 422)


def test_the_vocabulary_is_for_completion(client):
    findings = {f["name"]: f for f in client.get("/v1/findings").json()["findings"]}
    effusion = findings["pleural effusion"]
    assert effusion["cui"].startswith("C")
    assert "derrame pleural" in effusion["synonyms"]
    assert effusion["n_studies"] == 2
    assert not any("~" in s or "(" in s for f in findings.values() for s in f["synonyms"])


def test_the_status_tells_what_the_service_can_do(client):
    status = client.get("/v1/status").json()
    assert status["n_studies"] == 6
    assert list(status["windows"]) == ["lung", "mediastinum", "bone", "abdomen", "brain"]


def test_a_service_over_an_index_is_alive_and_ready(client):
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json() == {"status": "ok"}


def test_an_index_of_another_model_is_the_services_trouble(finder):
    def refuse(*args, **kwargs):
        raise Mismatch("The index at '/secret-path' was made by another encoder.")

    finder.search = refuse
    with TestClient(create_app(finder)) as client:
        error_of(client.post("/v1/search", json={"text": "a"}), 503)


def test_an_index_removed_while_serving_is_told(index_folder, tmp_path):
    folder = tmp_path / "secret-path-index"
    shutil.copytree(index_folder, folder)
    with TestClient(create_app(folder)) as client:
        assert client.get("/ready").status_code == 200
        shutil.rmtree(folder)
        for answer in (
            client.get("/ready"),
            client.get("/v1/status"),
            client.get("/v1/studies/study-0"),
            client.post("/v1/search", json={"keywords": ["nodule"]}),
        ):
            error_of(answer, 503)
        assert client.get("/health").status_code == 200
