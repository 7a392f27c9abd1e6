"""Signing in on the page, what each role sees, and collections."""

import json
import re

import pytest

from medfinder.serve.access.accounts import add_account
from medfinder.serve.access.config import AccessConfig
from medfinder.serve.access.passwords import Passwords
from medfinder.serve.config import ServeConfig
from medfinder.serve.database import Database
from stubs.pages import faults, open_first, search, shown, until
from stubs.served import serving

PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def guarded(shared_index, hospital_finder, tmp_path_factory):
    """The URL of a service that asks who is there: an admin, two viewers, one of them confined."""
    place = tmp_path_factory.mktemp("accounts") / "service.sqlite"
    access = AccessConfig(
        mode="required",
        database_url=str(place),
        argon2_time=1,
        argon2_memory_kib=1024,
        argon2_lanes=1,
    )
    database = Database.open(place)
    hashed = Passwords(access).hash(PASSWORD)
    accounts = (("ada", "admin", None), ("vera", "viewer", None), ("nobu", "viewer", ["elsewhere"]))
    for name, role, sources in accounts:
        database.write(lambda c, n=name, r=role, s=sources: add_account(c, n, r, s, hashed))
    database.close()
    with serving(hospital_finder, config=ServeConfig(access=access)) as served:
        yield served.url


@pytest.fixture
def sign_in(visit, guarded):
    """Return a function that opens the page as an account."""

    def go(name, **options):
        page = visit(guarded, ready="#sign-in", **options)
        page.fill("#name", name)
        page.fill("#password", PASSWORD)
        page.keyboard.press("Enter")
        page.wait_for_selector("fieldset[data-facet=sex], .count", state="attached")
        return page

    return go


def make_collection(page, name):
    """Make a collection of the first study that is found."""
    search(page, "effusion")
    page.click(".card .card-actions [aria-haspopup] >> nth=0")
    page.click("role=menuitem[name='Add to collection']")
    page.wait_for_selector("#collect-which")
    page.select_option("#collect-which", "")
    page.fill("#collect-name", name)
    page.fill("#collect-note", "Shows it <b>well</b>.")
    page.click("#collect-dialog button[type=submit]")
    until(page, "document.querySelector('#toast').textContent.includes('Added to')")


# ---- who is there ---------------------------------------------------------------------------


def test_nothing_is_shown_before_signing_in(visit, guarded):
    page = visit(guarded + "#/?q=effusion", ready="#sign-in")
    assert page.locator("nav, #filters, .card").count() == 0
    assert page.locator(".notice").is_visible()
    assert page.evaluate("document.activeElement.id") == "name"


def test_a_wrong_password_is_told_and_asked_for_again(visit, guarded):
    page = visit(guarded, ready="#sign-in")
    page.fill("#name", "vera")
    page.fill("#password", "wrong")
    page.keyboard.press("Enter")
    page.wait_for_selector("#wrong")
    assert page.input_value("#password") == ""
    assert page.input_value("#name") == "vera"


def test_after_signing_in_the_address_is_where_one_wanted_to_be(visit, guarded):
    page = visit(guarded + "#/?q=effusion", ready="#sign-in")
    page.fill("#name", "vera")
    page.fill("#password", PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_selector(".card[data-study]")
    assert page.input_value("#text") == "effusion"
    page.reload()
    page.wait_for_selector(".card[data-study]")


def test_signing_out_leaves_nothing_behind(sign_in, guarded):
    page = sign_in("vera")
    search(page, "effusion")
    page.click("#account")
    page.click("role=menuitem[name='Sign out']")
    page.wait_for_selector("#sign-in")
    page.go_back()
    page.wait_for_selector("#sign-in")
    assert page.locator(".card").count() == 0
    assert page.evaluate("sessionStorage.length") == 0


def test_a_session_that_ended_elsewhere_asks_again(sign_in, guarded):
    page = sign_in("vera")
    page.context.clear_cookies()
    page.fill("#text", "effusion")
    page.keyboard.press("Enter")
    page.wait_for_selector("#sign-in")


def test_another_account_sees_nothing_of_the_one_before(sign_in):
    page = sign_in("vera")
    search(page, "effusion")
    page.context.clear_cookies()
    page.evaluate("document.querySelector('#f-sex-M').click()")  # the answer: nobody is signed in
    page.wait_for_selector("#sign-in")
    page.fill("#name", "nobu")
    page.fill("#password", PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_selector(".count:has-text('All 0 studies')")  # the page has loaded anew
    assert page.locator(".card").count() == 0
    assert "effusion" not in page.url


def test_a_viewer_sees_no_admin_view_and_is_told_when_asking_for_one(sign_in, guarded, picture):
    page = sign_in("vera")
    assert page.locator("nav a[href='#/accounts']").count() == 0
    page.goto(guarded + "#/audit")
    page.wait_for_selector("#refused")
    assert "viewer" in page.inner_text("#refused")
    picture(page, "refused")


def test_an_account_that_is_confined_finds_only_its_source(sign_in):
    page = sign_in("nobu")
    assert "All 0 studies" in page.inner_text(".count")
    page.fill("#text", "effusion")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('#summary')?.textContent === 'Nothing found'")


def test_a_password_is_changed(sign_in, visit, guarded):
    admin = sign_in("ada")
    admin.click("nav a[href='#/accounts']")
    admin.click("#new-account")
    admin.fill("#account-name", "petra")
    admin.fill("#account-password", PASSWORD)
    admin.click("#account-new button[type=submit]")
    admin.wait_for_selector("#accounts th:has-text('petra')")
    page = sign_in("petra")
    page.click("#account")
    page.click("role=menuitem[name='Password and tokens']")
    page.fill("#password-form input >> nth=0", PASSWORD)
    page.fill("#password-form input >> nth=1", "another horse staple")
    page.click("#password-form button")
    until(page, "document.querySelector('#toast').textContent.includes('changed')")


def test_a_token_is_shown_once_and_revoked(sign_in):
    page = sign_in("vera")
    page.click("#account")
    page.click("role=menuitem[name='Password and tokens']")
    page.fill("#token-name", "a script")
    page.keyboard.press("Enter")
    page.wait_for_selector("#made-token")
    token = page.inner_text("#made-token")
    assert token.startswith("mf_")
    answer = page.request.get(page.url.split("#")[0] + "v1/status")
    assert answer.ok
    page.click("button[aria-label='Revoke a script']")
    until(page, "document.querySelectorAll('#tokens li').length === 0")


def test_an_admin_changes_a_role_and_reads_the_log(sign_in):
    page = sign_in("ada")
    search(page, "effusion")
    page.click("nav a[href='#/accounts']")
    page.wait_for_selector("#accounts th:has-text('nobu')")
    with page.expect_response("**/v1/accounts/nobu") as changed:
        page.select_option("#accounts select[aria-label='Role of nobu']", "reviewer")
    assert changed.value.ok
    page.click("nav a[href='#/audit']")
    page.wait_for_selector("#audit tbody tr")
    table = page.inner_text("#audit")
    assert "effusion" not in table  # ids, never words
    assert "study-1" in table
    page.click("#verify")
    until(page, "document.querySelector('#toast').textContent.startsWith('Intact')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_signing_in_and_a_refusal_are_accessible(visit, guarded, sign_in, scheme):
    page = visit(guarded, ready="#sign-in", scheme=scheme)
    page.fill("#name", "vera")
    page.fill("#password", "wrong")
    page.keyboard.press("Enter")
    page.wait_for_selector("#wrong")
    assert faults(page) == []
    page = sign_in("vera", scheme=scheme)
    page.goto(guarded + "#/audit")
    page.wait_for_selector("#refused")
    assert faults(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_views_of_accounts_and_of_the_log_are_accessible(sign_in, scheme):
    page = sign_in("ada", scheme=scheme)
    page.click("nav a[href='#/accounts']")
    page.wait_for_selector("#accounts th:has-text('nobu')")
    assert faults(page) == []
    page.click("#new-account")
    page.wait_for_selector("#account-new[open]")
    assert faults(page) == []
    page.keyboard.press("Escape")
    page.click("nav a[href='#/audit']")
    page.wait_for_selector("#audit tbody tr")
    assert faults(page) == []
    page.click("#account")
    page.click("role=menuitem[name='Password and tokens']")
    page.wait_for_selector("#account-dialog[open]")
    assert faults(page) == []


# ---- collections ----------------------------------------------------------------------------


def test_a_study_is_put_into_a_collection_with_a_note(sign_in, picture):
    page = sign_in("vera")
    make_collection(page, "Effusions")
    page.click("nav a[href='#/collections']")
    page.click(".tile:has-text('Effusions')")
    page.wait_for_selector("#collected .card")
    assert page.input_value("#collected .note") == "Shows it <b>well</b>."
    page.fill("#collected .note", "Shows it best.")
    with page.expect_response("**/studies/*") as saved:
        page.keyboard.press("Tab")
    assert saved.value.ok
    page.reload()
    page.wait_for_selector("#collected .card")
    assert page.input_value("#collected .note") == "Shows it best."
    picture(page, "collection")
    page.click("#collected .title")
    page.wait_for_selector(".stage[data-state=drawn]")
    assert "/collections/" in page.url
    page.go_back()
    page.wait_for_selector("#viewer", state="detached")


def test_a_study_is_put_into_a_collection_from_the_viewer(sign_in):
    page = sign_in("vera")
    search(page, "consolidation")
    open_first(page)
    page.click("#collect")
    page.wait_for_selector("#collect-which")
    page.select_option("#collect-which", "")
    page.fill("#collect-name", "From the viewer")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('#toast').textContent.includes('From the viewer')")


def test_a_collection_is_exported_without_who_it_is(sign_in):
    page = sign_in("vera")
    make_collection(page, "To export")
    page.click("nav a[href='#/collections']")
    page.click(".tile:has-text('To export')")
    page.click("#export")
    with page.expect_download() as download:
        page.click("role=menuitem[name='JSON']")
    exported = json.dumps(json.loads(download.value.path().read_text()))
    assert "study-" not in exported
    assert re.search(r'"patient-\d"', exported) is None  # new ids have three digits


def test_a_collection_is_shared_and_read_by_another(sign_in):
    vera = sign_in("vera")
    make_collection(vera, "Shared")
    vera.click("nav a[href='#/collections']")
    vera.click(".tile:has-text('Shared')")
    vera.click("#share")
    vera.fill("#share-name", "ada")
    vera.click("#share-dialog button[type=submit]")
    vera.wait_for_selector("#shares li:has-text('ada')")
    ada = sign_in("ada")
    ada.click("nav a[href='#/collections']")
    ada.click(".tile:has-text('Shared')")
    ada.wait_for_selector("#collected .card")
    assert ada.locator("#collected .note").count() == 0  # to read, not to write
    assert ada.locator("#delete-collection").count() == 0


def test_a_collection_is_deleted_after_a_question(sign_in):
    page = sign_in("vera")
    make_collection(page, "To delete")
    page.click("nav a[href='#/collections']")
    page.click(".tile:has-text('To delete')")
    page.click("#delete-collection")
    page.wait_for_selector("#delete-dialog")
    assert page.evaluate("document.activeElement.textContent") == "Cancel"
    page.click("#do-delete")
    page.wait_for_selector("#new-collection")
    until(page, "!document.querySelector('#collections').textContent.includes('To delete')")


def test_a_search_is_saved_and_asked_again(sign_in):
    page = sign_in("vera")
    search(page, "effusion")
    page.check("#f-sex-M")
    until(page, "location.hash.includes('f.sex=M')")
    page.click("#save-search")
    page.fill("#save-dialog input", "Men with effusion")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('#toast').textContent.includes('Men with effusion')")
    page.click(".brand")
    page.click(".saved .example:has-text('Men with effusion')")
    page.wait_for_selector(".card[data-study=study-1]")
    assert page.is_checked("#f-sex-M")
    assert "study-4" not in shown(page)
    page.click(".brand")
    page.click(".saved .icon")
    page.wait_for_selector(".saved", state="detached")
