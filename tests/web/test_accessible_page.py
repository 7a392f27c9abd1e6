"""Each view by axe, light and dark; and the pictures that the README shows."""

import pytest

from medfinder.records import Doubt
from stubs import reviewed
from stubs.pages import faults, open_first, search, until

SCHEMES = ("light", "dark")


@pytest.fixture
def folder(tmp_path):
    """A short queue for the review."""
    own = [reviewed.study(i) for i in range(3)]
    doubts = [Doubt(s.study_id, "short-report", "Short.", 0.5) for s in own]
    return reviewed.make(tmp_path / "studies", studies=own, doubts=doubts)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_search_is_accessible(visit, site, scheme):
    page = visit(site, scheme=scheme)
    assert faults(page) == []
    page.fill("#text", "pleur")
    page.wait_for_selector("#suggestions li")
    page.keyboard.press("ArrowDown")
    assert faults(page) == []
    search(page, "left pleural effusion")
    page.check("#f-sex-M")
    until(page, "document.querySelectorAll('.card[data-study]').length === 2")
    page.click(".card summary")
    page.click(".card .card-actions [aria-haspopup] >> nth=0")
    assert faults(page) == []
    page.keyboard.press("Escape")
    open_first(page)
    assert faults(page) == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_search_is_accessible_on_a_narrow_screen(visit, site, scheme):
    page = visit(site, scheme=scheme, size=(390, 844))
    search(page, "left pleural effusion")
    assert faults(page) == []
    page.click("main > button.only-narrow")
    assert faults(page) == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_error_and_the_dialogs_are_accessible(visit, site, scheme):
    page = visit(site + "#/study/nobody", scheme=scheme)
    page.wait_for_selector("#error:not([hidden])")
    assert faults(page) == []
    page.keyboard.press("?")
    page.wait_for_selector("#help[open]")
    assert faults(page) == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_collections_and_documents_are_accessible(visit, site, scheme):
    page = visit(site, scheme=scheme)
    page.click("nav a[href='#/collections']")
    page.click("#new-collection")
    page.fill("#collection-name", f"Of {scheme}")
    assert faults(page) == []
    page.keyboard.press("Enter")
    page.wait_for_selector("#export")
    assert faults(page) == []
    page.click("nav a[href='#/collections']")
    page.wait_for_selector(".tile")
    assert faults(page) == []
    page.click("nav a[href='#/card']")
    page.wait_for_selector("iframe")
    assert faults(page) == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_review_is_accessible(review_site, visit, scheme):
    page = visit(review_site + "#/review", scheme=scheme, ready="#who[open]")
    assert faults(page) == []
    page.fill("#name", "Ana")
    page.keyboard.press("Enter")
    page.wait_for_selector("#study h2")
    assert faults(page) == []
    page.wait_for_timeout(300)
    page.keyboard.press("e")
    page.wait_for_selector("#label")
    assert faults(page) == []


# ---- as the README shows it -----------------------------------------------------------------


def test_phantoms_are_found_with_the_slice_that_the_answer_points_at(visit, phantoms, picture):
    page = visit(phantoms, scheme="dark")
    picture(page, "start")
    search(page, "left pleural effusion")
    page.wait_for_selector(".card .thumb[data-explained]")
    until(page, "document.querySelector('.card img').naturalWidth > 0")
    until(page, "document.querySelectorAll('.thumb[data-explained]').length >= 3", within_s=60)
    note = page.inner_text(".thumb[data-explained] .thumb-note >> nth=0")
    assert "slice" in note
    assert page.locator(".peak").count() > 0
    picture(page, "search")
    shown = int(
        page.get_attribute(".thumb[data-explained] img >> nth=0", "src")
        .split("/")[-1]
        .split(".")[0]
    )
    page.click(".card:has(.thumb[data-explained]) .title >> nth=0")
    page.wait_for_selector(f".stage[data-plane=axial][data-index='{shown}'][data-state=drawn]")
    picture(page, "viewer")
    page.set_viewport_size({"width": 390, "height": 844})
    page.go_back()
    page.wait_for_selector("#viewer", state="detached")
    picture(page, "narrow")


def test_a_hit_is_looked_at_beside_the_study_it_was_asked_with(visit, phantoms, picture):
    page = visit(phantoms, scheme="dark")
    search(page, "left pleural effusion")
    page.wait_for_selector(".card")
    first = page.get_attribute(".card >> nth=0", "data-study")
    page.click(".card >> nth=0 >> text=More like this")
    until(
        page,
        f"document.querySelector('.card') && document.querySelector('.card').dataset.study !== '{first}'",
    )
    page.click(".card >> nth=0 >> text=⋯")
    page.click("[role=menu] >> text=Compare with the query")
    page.wait_for_selector(".stage[data-plane=axial][data-state=drawn] >> nth=1")
    assert f"compare={first}" in page.url
    assert faults(page) == []
    picture(page, "beside")


def test_the_light_page_in_spanish(visit, phantoms, picture):
    page = visit(phantoms, scheme="light", locale="es-ES")
    search(page, "derrame pleural izquierdo")
    page.wait_for_selector(".card .thumb[data-explained]")
    assert "Se ve mejor en el corte" in page.inner_text(".card:has([data-explained]) .why >> nth=0")
    picture(page, "search-es-light")
