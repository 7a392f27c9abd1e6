"""Refined, paged and regional searches, uploads that are held, and explanations."""

import io
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from medfinder.embed import Embedder
from medfinder.index.store import Index, Stream
from medfinder.search.finder import Finder
from medfinder.serve.app import create_app
from medfinder.serve.config import ServeConfig
from medfinder.serve.held import ID_PREFIX
from medfinder.volume.read import read_volume
from stubs.encoders import GridEncoder

REGION = {"study_id": "study-1", "plane": "axial", "index": 12, "box": [0.1, 0.2, 0.5, 0.8]}


@pytest.fixture(scope="module")
def joint(studies, tmp_path_factory):
    """A service whose volume encoder reads text and tells regions apart."""
    embedder = Embedder(GridEncoder(joint=True))
    stream = Stream("grid", embedder.model_id, 64, is_centred=False)
    index = Index.create(tmp_path_factory.mktemp("joint") / "idx", {"volume": stream})
    volumes = [(study.study_id, read_volume(study.volume_path)) for study in studies]
    index.add(studies, {"volume": embedder.embed_volumes(volumes)})
    index.finish()
    with TestClient(create_app(Finder(index, {"volume": embedder}))) as client:
        yield client


@pytest.fixture
def nifti(studies):
    return Path(studies[2].volume_path).read_bytes()


def ask(client, **query):
    answer = client.post("/v1/search", json=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(found):
    return [hit["study_id"] for hit in found["hits"]]


def send(client, data, options="{}"):
    files = {"file": ("ct.nii.gz", io.BytesIO(data))}
    return client.post("/v1/search/volume", files=files, data={"options": options})


def test_pages_follow_each_other_to_the_end(client):
    whole = ids(ask(client, text="effusion", k=6))
    seen, offset = [], 0
    while offset is not None:
        page = ask(client, text="effusion", k=2, offset=offset)
        seen += ids(page)
        offset = page["next_offset"]
    assert seen == whole


def test_the_last_page_names_no_other(client):
    assert ask(client, keywords=["pleural effusion"], k=2)["next_offset"] is None
    assert ask(client, keywords=["pleural effusion"], k=1)["next_offset"] == 1


def test_findings_are_left_out(client):
    assert "study-1" in ids(ask(client, text="effusion"))
    found = ids(ask(client, text="effusion", without=["cardiomegaly"]))
    assert "study-1" not in found
    assert "study-4" in found


def test_an_unliked_study_is_no_hit(client):
    first = ids(ask(client, text="effusion"))[0]
    assert first not in ids(ask(client, text="effusion", unlike=[first]))


def test_liked_studies_are_a_query(client):
    found = ask(client, like=["study-1"])
    assert found["query_kind"] == "like"
    assert ids(found)[0] == "study-1"


def test_an_unknown_liked_study_is_refused(client):
    answer = client.post("/v1/search", json={"text": "effusion", "like": ["study-99"]})
    assert answer.status_code == 422
    assert "study-99" in answer.json()["error"]["message"]


def test_hits_come_in_the_order_that_is_asked_for(client):
    found = ask(client, text="effusion", sort="-age")
    ages = [hit["study"]["age"] for hit in found["hits"]]
    assert ages == sorted(ages, reverse=True)


@pytest.mark.parametrize(
    "query",
    [
        {"text": "x", "offset": -1},
        {"text": "x", "offset": 801},
        {"text": "x", "sort": "size"},
        {"text": "x", "like": ["a"] * 21},
        {"text": "x", "without": [""]},
        {"text": "x", "region": REGION},
        {"region": REGION | {"box": [0, 0, 2, 1]}},
        {"region": REGION | {"plane": "oblique"}},
        {"region": REGION | {"index": 24}},
    ],
)
def test_what_cannot_be_asked_is_refused(joint, query):
    assert joint.post("/v1/search", json=query).status_code == 422


def test_side_and_place_are_facets(client):
    facets = client.get("/v1/facets").json()["facets"]
    assert facets["laterality"] == {"left": 1, "right": 1, "bilateral": 2}
    assert facets["location"]["upper lobe"] == 2
    assert facets["slice_mm"] == {"3-5": 6}


def test_a_side_is_that_of_the_finding_that_is_asked_for(client):
    nodule = {"findings": ["nodule"], "laterality": ["left"]}
    assert client.post("/v1/facets", json={"filters": nodule}).json()["n_studies"] == 0
    nodule["laterality"] = ["right"]
    assert client.post("/v1/facets", json={"filters": nodule}).json()["n_studies"] == 1
    anything = {"laterality": ["left"]}
    assert client.post("/v1/facets", json={"filters": anything}).json()["n_studies"] == 1


@pytest.mark.parametrize(("low", "high", "n"), [(None, 3, 0), (3, 5, 6), (5, None, 0)])
def test_slices_are_filtered_by_their_distance(client, low, high, n):
    filters = {k: v for k, v in (("slice_mm_min", low), ("slice_mm_max", high)) if v is not None}
    assert client.post("/v1/facets", json={"filters": filters}).json()["n_studies"] == n


def test_an_upload_is_not_held_unless_that_is_asked_for(client, nifti):
    assert send(client, nifti).json()["query_study"] is None


def test_a_held_upload_is_looked_at_and_asked_again(client, nifti):
    found = send(client, nifti, '{"hold": true, "k": 2}').json()
    held = found["query_study"]["study_id"]
    assert held.startswith(ID_PREFIX)
    assert found["query_study"]["shape"] == [24, 48, 64]
    assert client.get(f"/v1/studies/{held}").json()["report"] is None
    png = client.get(f"/v1/studies/{held}/slices/axial/key.png?window=lung")
    own = client.get("/v1/studies/study-2/slices/axial/key.png?window=lung")
    assert png.content == own.content
    again = ask(client, study_id=held, k=2, offset=2)
    assert again["query_kind"] == "volume"
    assert not set(ids(again)) & set(ids(found))


def test_an_upload_that_is_no_longer_held_says_so(finder, nifti):
    with TestClient(create_app(finder, ServeConfig(held_s=0))) as client:
        held = send(client, nifti, '{"hold": true}').json()["query_study"]["study_id"]
        answer = client.post("/v1/search", json={"study_id": held})
        assert answer.status_code == 404
        assert "Send the CT again" in answer.json()["error"]["hint"]


def test_held_uploads_go_with_the_service(finder, nifti, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with TestClient(create_app(finder)) as client:
        send(client, nifti, '{"hold": true}')
        assert list(tmp_path.rglob("query-*.npy"))
    assert not list(tmp_path.rglob("query-*"))


def test_a_region_finds_studies_alike_there(joint):
    found = ask(joint, region=REGION, k=6)
    assert found["query_kind"] == "region"
    assert "study-0" not in ids(found)  # of the same patient, as is study-1
    assert "study-1" in ids(ask(joint, region=REGION, exclude_same_patient=False))


def test_a_region_of_a_held_upload_is_a_query(joint, nifti):
    held = send(joint, nifti, '{"hold": true}').json()["query_study"]["study_id"]
    assert ids(ask(joint, region=REGION | {"study_id": held}))


def test_an_explanation_tells_where(joint):
    answer = joint.post("/v1/studies/study-1/explanation", json={"text": "left"})
    told = answer.json()
    assert answer.status_code == 200, told
    values = np.array(told["values"]).reshape(told["shape"])
    assert values.max() == 1
    assert values[:, :, :2].sum() > values[:, :, 2:].sum()
    assert told["slices"] == dict(zip(("axial", "coronal", "sagittal"), told["peak"], strict=True))
    reach = np.array(told["origin"]) + np.array(told["step"]) * told["shape"]
    np.testing.assert_allclose(reach, (24, 48, 64), atol=1e-6)


@pytest.mark.parametrize(
    "query",
    [
        {"keywords": ["nodule"]},
        {"report": "Left pleural effusion."},
        {"study_id": "study-2"},
        {"region": REGION},
    ],
)
def test_every_kind_of_question_is_explained(joint, query):
    answer = joint.post("/v1/studies/study-3/explanation", json=query)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("query", "status"),
    [({}, 422), ({"text": " "}, 422), ({"study_id": "none"}, 404), ({"k": 3, "text": "a"}, 422)],
)
def test_an_explanation_of_nothing_is_refused(joint, query, status):
    assert joint.post("/v1/studies/study-3/explanation", json=query).status_code == status


def test_an_encoder_that_cannot_explain_says_so(client):
    answer = client.post("/v1/studies/study-1/explanation", json={"study_id": "study-2"})
    assert answer.status_code == 422
    assert answer.json()["error"]["type"] == "NoExplanation"
