"""Slabs, Hounsfield units and volumes over HTTP; slices and studies themselves: `test_routes`."""

import gzip
from dataclasses import replace

import numpy as np
import pytest
from fastapi.testclient import TestClient

from medfinder.index.store import Index
from medfinder.serve.app import create_app
from medfinder.volume.read import read_volume

BASE = "/v1/studies/study-0"


def error_of(response, status):
    assert response.status_code == status, response.text
    body = response.json()
    assert body["request_id"]
    return body["error"]


@pytest.fixture
def volume(studies):
    return read_volume(studies[0].volume_path)


def test_the_key_slice_comes_with_the_ends_of_the_lungs(client, volume):
    told = client.get(f"{BASE}/key-slice").json()
    lung = (volume.hu > -950) & (volume.hu < -500)
    for plane, axis in (("axial", 0), ("coronal", 1), ("sagittal", 2)):
        there = np.flatnonzero(lung.any(axis=tuple({0, 1, 2} - {axis})))
        low, high = told["lungs"][plane]
        assert there[0] <= low < high <= there[-1] + 3
        assert high - low > 0.5 * (there[-1] - there[0])
    assert told["lungs"]["axial"][0] <= told["index"] <= told["lungs"]["axial"][1]


@pytest.mark.parametrize("projection", ["mip", "minip", "mean"])
def test_a_slab_differs_from_its_slice_and_from_other_slabs(client, projection):
    slice_ = client.get(f"{BASE}/slices/axial/12.png")
    slab = client.get(f"{BASE}/slices/axial/12.png?slab_mm=30&projection={projection}")
    thin = client.get(f"{BASE}/slices/axial/12.png?slab_mm=10&projection={projection}")
    assert len({r.content for r in (slice_, slab, thin)}) == 3
    assert len({r.headers["etag"] for r in (slice_, slab, thin)}) == 3
    tag = {"if-none-match": slab.headers["etag"]}
    assert client.get(str(slab.url), headers=tag).status_code == 304
    assert client.get(str(thin.url), headers=tag).status_code == 200


def test_projections_have_different_tags(client):
    tags = {
        client.get(f"{BASE}/slices/axial/12.png?slab_mm=30&projection={p}").headers["etag"]
        for p in ("mip", "minip", "mean")
    }
    assert len(tags) == 3


@pytest.mark.parametrize(
    "query",
    ["slab_mm=0", "slab_mm=-1", "slab_mm=1e9", "slab_mm=nan", "slab_mm=thick", "projection=mip",
     "slab_mm=10&projection=max"],
)  # fmt: skip
@pytest.mark.parametrize("what", ["axial/1.png", "axial/1.hu"])
def test_a_slab_that_cannot_be_is_refused(client, what, query):
    assert error_of(client.get(f"{BASE}/slices/{what}?{query}"), 422)["hint"]


@pytest.mark.parametrize(("plane", "axis"), [("axial", 0), ("coronal", 1), ("sagittal", 2)])
def test_hounsfield_units_are_the_volumes_own(client, volume, plane, axis):
    response = client.get(f"{BASE}/slices/{plane}/7.hu")
    assert response.headers["content-type"] == "application/octet-stream"
    cut = volume.hu.take(7, axis)[::-1, ::-1]
    assert (np.frombuffer(response.content, "<i2").reshape(cut.shape) == cut).all()


def test_hounsfield_units_of_a_slab_are_projected(client, volume):
    response = client.get(f"{BASE}/slices/axial/7.hu?slab_mm=10&projection=mip")
    cut = volume.hu[6:9].max(axis=0)[::-1, ::-1]
    assert (np.frombuffer(response.content, "<i2").reshape(cut.shape) == cut).all()


def test_hounsfield_units_may_be_kept(client):
    tag = client.get(f"{BASE}/slices/axial/7.hu").headers["etag"]
    again = client.get(f"{BASE}/slices/axial/7.hu", headers={"if-none-match": tag})
    assert again.status_code == 304
    assert again.content == b""


@pytest.mark.parametrize("path", ["axial/24.hu", "axial/-1.hu", "oblique/1.hu", "coronal/key.hu"])
def test_hounsfield_units_of_no_slice_are_refused(client, path):
    error_of(client.get(f"{BASE}/slices/{path}"), 422)


def test_a_volume_lies_where_the_ct_does(client, volume, tmp_path):
    response = client.get(f"{BASE}/volume.nii.gz")
    assert response.headers["content-type"] == "application/gzip"
    assert "content-encoding" not in response.headers
    (tmp_path / "v.nii.gz").write_bytes(response.content)
    sent = read_volume(tmp_path / "v.nii.gz")
    assert (sent.hu == volume.hu).all()
    assert np.allclose(sent.affine, volume.affine, atol=1e-4)


def test_no_edge_of_a_volume_is_longer_than_asked(client, volume, tmp_path):
    response = client.get(f"{BASE}/volume.nii.gz?max_edge=20")
    (tmp_path / "v.nii.gz").write_bytes(response.content)
    sent = read_volume(tmp_path / "v.nii.gz")
    assert sent.shape == (12, 16, 16)  # blocks of 2, 3 and 4 voxels
    first = volume.hu[:2, :3, :4].astype(np.float64).mean()
    assert abs(sent.hu[0, 0, 0] - first) <= 0.5
    assert np.allclose(sent.affine @ [0, 0, 0, 1], volume.affine @ [0.5, 1, 1.5, 1], atol=1e-4)


def test_a_volume_may_be_kept(client):
    tag = client.get(f"{BASE}/volume.nii.gz").headers["etag"]
    headers = {"if-none-match": tag}
    assert client.get(f"{BASE}/volume.nii.gz", headers=headers).status_code == 304
    assert client.get(f"{BASE}/volume.nii.gz?max_edge=20", headers=headers).status_code == 200


@pytest.mark.parametrize("edge", ["15", "513", "-4", "many"])
def test_an_edge_out_of_range_is_refused(client, edge):
    error_of(client.get(f"{BASE}/volume.nii.gz?max_edge={edge}"), 422)


@pytest.mark.parametrize(
    "what", ["volume.nii.gz", "slices/axial/1.hu", "slices/axial/1.png?slab_mm=9"]
)
def test_what_needs_a_volume_that_is_gone_says_so(own_finder, studies, tmp_path, what):
    gone = replace(studies[0], volume_path=str(tmp_path / "v.nii.gz"))
    own_finder.index.add([gone])
    with TestClient(create_app(own_finder)) as client:
        assert "gone" in error_of(client.get(f"{BASE}/{what}"), 410)["message"]


@pytest.mark.parametrize("what", ["volume.nii.gz", "slices/axial/1.hu"])
def test_an_unknown_study_has_nothing(client, what):
    error_of(client.get(f"/v1/studies/nobody/{what}"), 404)


def test_a_volume_is_coarsened_from_the_pixels_that_are_held(client, monkeypatch):
    assert client.get(f"{BASE}/slices/axial/1.png").status_code == 200
    monkeypatch.setattr("medfinder.serve.service.read_volume", None)
    assert gzip.decompress(client.get(f"{BASE}/volume.nii.gz?max_edge=16").content)


def test_a_study_tells_the_translation_of_its_report(own_finder, studies):
    assert isinstance(own_finder.index, Index)
    own_finder.index.add([replace(studies[0], translation="There is a nodule.")])
    with TestClient(create_app(own_finder)) as client:
        assert client.get(BASE).json()["translation"] == "There is a nodule."
        assert client.get("/v1/studies/study-1").json()["translation"] is None
