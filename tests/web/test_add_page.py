"""Studies are added from the page, followed as it happens, and found."""

import shutil

import pytest

from medfinder.index.store import Index
from medfinder.search.finder import Finder
from medfinder.serve.config import IngestConfig, ServeConfig
from medfinder.volume.nifti import write_nifti
from serve.conftest import ENCODERS, chest
from stubs.pages import faults, search, until
from stubs.served import serving


@pytest.fixture
def own_site(index_folder, tmp_path):
    """A service over an index of the test's own, which takes studies in."""
    shutil.copytree(index_folder, tmp_path / "idx")
    config = ServeConfig(ingest=IngestConfig(folder=str(tmp_path / "store")))
    with serving(Finder(Index.open(tmp_path / "idx"), ENCODERS), config=config) as served:
        yield served.url


@pytest.fixture
def ct(tmp_path):
    write_nifti(chest(11), tmp_path / "Haversham.nii.gz")
    return tmp_path / "Haversham.nii.gz"


def test_a_study_is_added_followed_and_found(own_site, visit, ct):
    page = visit(own_site)
    page.click("nav a[href='#/add']")
    page.set_input_files("#add-file", ct)
    page.fill("#add textarea", "Spiculated mass in the left upper lobe.")
    with page.expect_request("**/v1/ingest") as sent:
        page.click("#add button[type=submit]")
    assert b"Haversham" not in (sent.value.post_data_buffer or b"")
    page.wait_for_selector("#jobs [data-state=done] a")
    assert faults(page) == []
    found = page.inner_text("#jobs a")
    page.click("nav a[href='#/']")
    search(page, "spiculated mass")
    assert page.get_attribute(".card >> nth=0", "data-study") == found


def test_what_is_no_ct_is_told_and_nothing_is_added(own_site, visit, tmp_path):
    page = visit(own_site + "#/add", ready="#add")
    (tmp_path / "letter.zip").write_bytes(b"Dear colleague")
    page.set_input_files("#add-file", tmp_path / "letter.zip")
    page.click("#add button[type=submit]")
    page.wait_for_selector("#error:not([hidden])")
    until(page, "document.querySelectorAll('#jobs [data-job]').length === 0")


def test_a_service_that_takes_none_offers_none(page):
    assert page.locator("nav a[href='#/add']").count() == 0
