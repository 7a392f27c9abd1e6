"""What a user does on the page: asks, narrows, refines, goes back; with mouse and keyboard."""

import json
from pathlib import Path
from urllib.parse import unquote

import pytest

from medfinder.volume.dicom_writer import write_dicom_series
from medfinder.volume.read import read_volume
from stubs.pages import drop, open_first, paste, search, shown, until

REPORT = "FINDINGS:\nEmphysema of both upper lobes.\nNo effusion."


def chips(page):
    return page.eval_on_selector_all(".ask .chip", "chips => chips.map(c => c.dataset.name)")


# ---- asking ---------------------------------------------------------------------------------


def test_a_sentence_finds_cards_with_marked_sentences_findings_and_scores(page):
    search(page, "solid nodule in the right upper lobe")
    first = page.locator(".card >> nth=0")
    assert first.get_attribute("data-study") == "study-0"
    assert "solid nodule" in first.locator("mark").first.inner_text()
    assert "nodule" in first.locator(".chip.present").first.inner_text()
    assert first.locator(".parts li").count() == 3
    assert "Shares: solid, right" in first.locator(".why").inner_text()
    until(page, "document.querySelector('.card img').naturalWidth > 0")


def test_a_finding_is_completed_in_the_box_and_found(page):
    page.fill("#text", "derrame pl")
    page.wait_for_selector("#suggestions li[data-name='pleural effusion']")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_selector(".card[data-study]")
    assert sorted(shown(page)) == ["study-1", "study-4"]
    assert chips(page) == ["pleural effusion"]
    assert page.input_value("#text") == ""


def test_accents_do_not_matter_to_completion(page):
    page.fill("#text", "nódulo")
    page.wait_for_selector("#suggestions li[data-name='nodule']")


def test_the_last_words_of_a_sentence_are_completed(page):
    page.fill("#text", "woman with pleural eff")
    page.click("#suggestions li[data-name='pleural effusion']")
    page.wait_for_selector(".card[data-study]")
    assert chips(page) == ["pleural effusion"]
    assert page.input_value("#text") == "woman with"


def test_enter_asks_the_sentence_whatever_is_suggested(page):
    page.fill("#text", "nodule")
    page.wait_for_selector("#suggestions li")
    with page.expect_request("**/v1/search") as asked:
        page.keyboard.press("Enter")
    assert json.loads(asked.value.post_data)["text"] == "nodule"


def test_a_finding_can_be_left_out_by_key_and_by_chip(page):
    search(page, "pleural effusion")
    page.fill("#text", "consolid")
    page.wait_for_selector("#suggestions li[data-name='consolidation']")
    page.keyboard.press("ArrowDown")
    with page.expect_request("**/v1/search") as asked:
        page.keyboard.press("Shift+Enter")
    sent = json.loads(asked.value.post_data)
    assert (sent["text"], sent["without"]) == ("pleural effusion", ["consolidation"])
    until(page, "!document.querySelector('.card[data-study=study-4]')")
    page.click(".ask .chip.without button")
    page.wait_for_selector(".card[data-study=study-4]")


def test_a_pasted_report_is_asked_as_a_report_and_is_in_no_address(page):
    with page.expect_request("**/v1/search") as asked:
        paste(page, "#text", REPORT)
    assert json.loads(asked.value.post_data)["report"] == REPORT
    page.wait_for_selector(".card[data-study]")
    assert shown(page)[0] == "study-3"
    assert "3 lines" in page.inner_text(".chip.base")
    assert "Emphysema" not in unquote(page.url)


def test_a_pasted_report_outlives_a_reload_in_its_tab_alone(page, visit):
    paste(page, "#text", REPORT)
    page.wait_for_selector(".card[data-study]")
    page.reload()
    page.wait_for_selector(".card[data-study=study-3]")
    other = visit(page.url)
    other.wait_for_selector("#error:not([hidden])")
    assert "pasted report of this search is gone" in other.inner_text("#error")


def test_a_pasted_report_can_be_edited(page):
    paste(page, "#text", REPORT)
    page.wait_for_selector(".card[data-study]")
    page.click(".chip.base .link")
    page.fill("#report-dialog textarea", "Bilateral pleural effusion\nand consolidation.")
    page.click("#report-dialog button[type=submit]")
    until(page, "document.querySelector('.card[data-study]')?.dataset.study === 'study-4'")


def test_a_short_paste_is_a_sentence(page):
    page.focus("#text")
    page.keyboard.insert_text("solid nodule")
    assert page.input_value("#text") == "solid nodule"
    assert page.locator(".chip.base").count() == 0


# ---- a CT as query --------------------------------------------------------------------------


def test_a_ct_is_a_query_and_its_address_holds_no_name(page, studies, tmp_path):
    named = tmp_path / "Haversham.nii.gz"
    named.write_bytes(Path(studies[2].volume_path).read_bytes())
    with page.expect_request("**/v1/search/volume") as sent:
        page.set_input_files("#file", named)
    assert b"Haversham" not in (sent.value.post_data_buffer or b"")
    page.wait_for_selector(".card[data-study]")
    assert shown(page)[0] == "study-2"
    assert "looks like Haversham.nii.gz" in page.inner_text("#asked")
    assert "Haversham" not in unquote(page.url)


def test_an_uploaded_ct_is_narrowed_and_refined_without_another_upload(page, studies):
    page.set_input_files("#file", studies[2].volume_path)
    page.wait_for_selector(".card[data-study]")
    uploads = []
    page.on("request", lambda r: uploads.append(r.url) if "search/volume" in r.url else None)
    page.check("#f-sex-M")
    until(page, "document.querySelectorAll('.card[data-study]').length === 3")
    assert set(shown(page)) == {"study-1", "study-3", "study-5"}
    page.go_back()
    page.wait_for_selector(".card[data-study=study-2]")
    assert uploads == []


def test_an_uploaded_ct_is_looked_at_beside_a_hit(page, studies):
    page.set_input_files("#file", studies[2].volume_path)
    page.wait_for_selector(".card[data-study=study-4]")
    page.click("#asked .link")
    page.wait_for_selector(".stage[data-state=drawn]")
    assert page.inner_text("#viewer h2").startswith("query-")
    page.go_back()
    page.wait_for_selector("#viewer", state="detached")
    page.click(".card[data-study=study-4] .card-actions [aria-haspopup]")
    page.click("role=menuitem[name='Compare with the query']")
    until(page, "document.querySelectorAll('.stage[data-state=drawn]').length === 2")
    assert "compare=query-" in page.url


def test_a_dropped_ct_is_a_query(page, studies):
    drop(page, [("Haversham.nii.gz", Path(studies[4].volume_path).read_bytes())])
    page.wait_for_selector(".card[data-study]")
    assert shown(page)[0] == "study-4"


def test_the_slices_of_a_series_are_a_query(page, studies, tmp_path):
    volume = read_volume(studies[4].volume_path)
    write_dicom_series(volume, tmp_path / "Haversham", patient_id="p", study_id="s")
    with page.expect_request("**/v1/search/volume") as sent:
        page.set_input_files("#file", sorted((tmp_path / "Haversham").iterdir()))
    page.wait_for_selector(".card[data-study]")
    assert shown(page)[0] == "study-4"
    assert b"Haversham" not in (sent.value.post_data_buffer or b"")


def test_a_folder_is_a_query(page, studies, tmp_path):
    volume = read_volume(studies[1].volume_path)
    write_dicom_series(volume, tmp_path / "series", patient_id="p", study_id="s")
    page.set_input_files("#folder", tmp_path / "series")
    page.wait_for_selector(".card[data-study]")
    assert shown(page)[0] == "study-1"


def test_what_is_no_ct_is_refused_with_a_hint(page, tmp_path):
    letter = tmp_path / "letter.zip"
    letter.write_bytes(b"Dear colleague")
    page.set_input_files("#file", letter)
    page.wait_for_selector("#error:not([hidden])")
    text = page.inner_text("#error")
    assert "not a CT" in text
    assert "Send a NIfTI file" in text


def test_an_upload_can_be_cancelled(page, studies):
    page.route("**/v1/search/volume", lambda route: None)  # it never answers
    page.set_input_files("#file", studies[0].volume_path)
    page.click("#cancel")
    page.wait_for_selector("#progress", state="detached")
    assert page.locator("#error").is_hidden()
    assert page.locator("#start").is_visible()


# ---- narrowing and refining -----------------------------------------------------------------


def test_filters_narrow_the_results_and_count(page):
    search(page, "chest")
    page.check("#f-sex-F")
    until(page, "document.querySelectorAll('.card[data-study]').length === 3")
    assert set(shown(page)) == {"study-0", "study-2", "study-4"}
    until(page, "document.querySelector('.count').textContent.includes('3 of 6')")
    page.click("#clear-filters")
    until(page, "document.querySelectorAll('.card[data-study]').length > 3")


def test_an_age_range_narrows(page):
    search(page, "chest")
    page.fill("#f-age_min", "70")
    page.keyboard.press("Tab")
    until(page, "document.querySelector('.count').textContent.includes('3 of 6')")
    until(page, "document.querySelectorAll('.card[data-study]').length <= 3")
    assert set(shown(page)) <= {"study-3", "study-4", "study-5"}


def test_a_finding_that_is_stated_as_absent_is_a_filter(page):
    search(page, "chest")
    page.focus("fieldset[data-facet=findings] li:has(#f-findings-pleural-effusion) .negate")
    page.keyboard.press("Enter")
    until(page, "document.querySelectorAll('.card[data-study]').length === 1")
    assert shown(page) == ["study-0"]


def test_filters_on_findings_alone_are_a_search(page):
    page.check("#f-findings-emphysema")
    page.wait_for_selector(".card[data-study]")
    assert shown(page) == ["study-3"]


def test_a_side_and_a_place_are_filters(page):
    search(page, "effusion")
    page.check("#f-laterality-left")
    until(page, "document.querySelectorAll('.card[data-study]').length === 1")
    assert shown(page) == ["study-1"]


def test_slice_spacing_is_a_filter(page):
    search(page, "chest")
    page.check("#f-slice_mm-3-5")
    until(page, "location.hash.includes('slice_mm_min=3')")
    until(page, "document.querySelector('.count').textContent.includes('6 of 6')")


def test_results_are_put_in_another_order(page):
    search(page, "chest")
    page.select_option("#sort", "-age")
    until(page, "document.querySelector('.card[data-study]').dataset.study === 'study-4'")
    ages = [int(s.removeprefix("study-")) for s in shown(page)]
    assert ages == sorted(ages, reverse=True)


def test_more_like_this_leaves_the_patient_out_until_asked(page):
    search(page, "large left effusion")
    page.click(".card[data-study=study-1] .similar")
    page.wait_for_selector("#asked:not([hidden])")
    assert "study-1" in page.inner_text("#asked")
    until(page, "!document.querySelector('.card[data-study=study-1]')")
    assert not {"study-0", "study-1"} & set(shown(page))
    page.click("#asked .link")
    page.wait_for_selector(".card[data-study=study-0]")


def test_a_search_is_refined_by_studies(page):
    search(page, "effusion")
    page.click(".card[data-study=study-4] .card-actions [aria-haspopup]")
    with page.expect_request("**/v1/search") as asked:
        page.click("role=menuitem[name='Refine: more like this one']")
    assert json.loads(asked.value.post_data)["like"] == ["study-4"]
    page.click(".card[data-study=study-1] .card-actions [aria-haspopup]")
    with page.expect_request("**/v1/search") as asked:
        page.click("role=menuitem[name='Refine: less like this one']")
    assert json.loads(asked.value.post_data)["unlike"] == ["study-1"]
    assert chips(page) == ["study-4", "study-1"]
    page.click("text=Clear all refinements")
    until(page, "document.querySelectorAll('.ask .chip').length === 0")


def test_a_finding_of_a_card_refines(page):
    search(page, "effusion")
    page.click(".card[data-study=study-4] .chip.present >> nth=1")
    page.click("role=menuitem[name='− must not have consolidation']")
    until(page, "!document.querySelector('.card[data-study=study-4]')")
    assert chips(page) == ["consolidation"]
    assert page.input_value("#text") == "effusion"


# ---- history --------------------------------------------------------------------------------


def test_back_and_forward_walk_through_what_was_asked(page):
    search(page, "solid nodule")
    page.check("#f-sex-F")
    until(page, "document.querySelectorAll('.card[data-study]').length === 3")
    search(page, "large left effusion")
    until(page, "location.hash.includes('large')")
    page.go_back()
    until(page, "document.querySelector('#text').value === 'solid nodule'")
    until(page, "document.querySelector('.card').dataset.study === 'study-0'")
    assert page.is_checked("#f-sex-F")
    page.go_back()
    until(page, "!document.querySelector('#f-sex-F').checked")
    page.go_back()
    page.wait_for_selector("#start")
    page.go_forward()
    page.wait_for_selector(".card[data-study=study-0]")


def test_an_address_holds_the_search_and_never_reaches_the_server(page, visit):
    search(page, "solid nodule Haversham")
    page.check("#f-sex-F")
    until(page, "location.hash.includes('f.sex=F')")
    seen = []
    other = visit("about:blank", ready="body")
    other.on("request", lambda request: seen.append(request.url))
    other.goto(page.url)
    other.wait_for_selector(".card[data-study=study-0]")
    assert other.input_value("#text") == "solid nodule Haversham"
    assert other.is_checked("#f-sex-F")
    assert not any("Haversham" in url for url in seen if "#" not in url)


def test_the_address_holds_what_is_looked_at(page):
    search(page, "solid nodule")
    open_first(page)
    page.focus(".stage canvas")
    page.keyboard.press("End")
    until(page, "location.hash.includes('/axial/0')")
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_selector(".stage[data-plane=axial][data-index='0'][data-state=drawn]")


def test_addresses_of_earlier_versions_still_open_a_study(page, site):
    page.goto(site + "#/study/study-3/axial/7?window=bone")
    page.wait_for_selector(".stage[data-plane=axial][data-index='7'][data-state=drawn]")
    page.wait_for_selector("button[data-window=bone][aria-pressed=true]")


def test_back_closes_the_study(page):
    search(page, "solid nodule")
    open_first(page)
    page.go_back()
    page.wait_for_selector("#viewer", state="detached")
    assert shown(page)


def test_a_study_that_is_not_there_is_told(page, site):
    page.goto(site + "#/study/nobody")
    page.wait_for_selector("#error:not([hidden])")
    assert "no study with this id" in page.inner_text("#error")


@pytest.mark.parametrize(
    "hash",
    ["#/nowhere", "#/%E0%A4%A", "#/collections/none", "#/search?region=axial_x&sort=evil&f.age_min=old&f.date_from=1"],
)  # fmt: skip
def test_an_address_that_means_nothing_leads_back(page, site, hash):
    page.goto(site + hash)
    page.wait_for_selector("#main")
    page.click(".brand")
    page.wait_for_selector("#start")


# ---- whoever it is ---------------------------------------------------------------------------


def test_markup_in_a_report_is_text(page):
    search(page, "normal chest")
    card = page.locator(".card[data-study=study-2]")
    card.locator("summary").click()
    assert "<script>" in card.locator(".report").inner_text()
    card.locator(".title").click()
    page.wait_for_selector(".stage[data-state=drawn]")
    assert page.evaluate("window.hacked") is None
    assert page.locator("#main script, #viewer script, .report img").count() == 0


def test_markup_in_a_question_is_text(page):
    page.fill("#text", "<img src=x onerror=window.hacked=1>")
    page.keyboard.press("Enter")
    page.wait_for_selector("#found")
    page.reload()
    page.wait_for_selector("#found")
    assert page.evaluate("window.hacked") is None


def test_keys_alone_reach_a_study(page):
    page.keyboard.press("/")
    page.keyboard.type("solid nodule")
    page.keyboard.press("Enter")
    page.wait_for_selector(".card[data-study]")
    page.focus(".card .title")
    page.keyboard.press("Enter")
    page.wait_for_selector(".stage[data-state=drawn]")
    until(page, "document.activeElement.closest('#viewer') !== null")
    first = page.get_attribute(".card.open", "data-study")
    page.keyboard.press("j")
    until(page, "first => document.querySelector('.card.open')?.dataset.study !== first", first)
    page.wait_for_selector(".stage[data-state=drawn]")
    page.keyboard.press("k")
    until(page, "first => document.querySelector('.card.open')?.dataset.study === first", first)
    page.keyboard.press("Escape")
    page.wait_for_selector("#viewer", state="detached")
    until(page, "document.activeElement.classList.contains('title')")


def test_a_menu_is_walked_by_arrows_and_left_by_escape(page):
    search(page, "effusion")
    page.focus(".card .card-actions [aria-haspopup]")
    page.keyboard.press("Enter")
    page.wait_for_selector("[role=menu]")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.textContent") == "Refine: less like this one"
    page.keyboard.press("Escape")
    page.wait_for_selector("[role=menu]", state="detached")
    assert page.evaluate("document.activeElement.getAttribute('aria-haspopup')") == "menu"


def test_the_keys_are_listed(page):
    page.keyboard.press("?")
    page.wait_for_selector("#help[open]")
    assert "search box" in page.inner_text("#help")
    page.keyboard.press("Escape")
    page.wait_for_selector("#help", state="detached")


def test_the_page_speaks_spanish_and_remembers(page):
    search(page, "solid nodule")
    page.click("#language")
    assert "5 estudios" in page.inner_text("#summary")
    assert page.inner_text("#go") == "Buscar"
    assert "producto sanitario" in page.inner_text(".notice")
    assert page.evaluate("document.documentElement.lang") == "es"
    assert page.locator("label[for=f-sex-F]").inner_text() == "mujeres"
    page.reload()
    page.wait_for_selector(".card[data-study]")
    assert page.inner_text("#go") == "Buscar"


def test_a_spanish_browser_gets_a_spanish_page(visit, site):
    page = visit(site, locale="es-ES")
    assert page.inner_text("#go") == "Buscar"
    assert page.inner_text(".start-title") == "Encuentre TC como la que tiene en mente"


def test_every_word_has_its_spanish():
    words = Path(__file__).parents[2] / "web" / "src" / "words"
    keys = {}
    for name in ("en", "es"):
        lines = (words / f"{name}.ts").read_text(encoding="utf-8").splitlines()
        keys[name] = {line.split('": ')[0]: line.split('": ')[1] for line in lines if '": ' in line}
    assert keys["en"].keys() == keys["es"].keys()
    for key, text in keys["en"].items():
        assert sorted(fields(text)) == sorted(fields(keys["es"][key])) or ".one" in key, key


def fields(text):
    return [part.split("}")[0] for part in text.split("{")[1:]]


def test_the_notice_is_always_in_sight(page):
    assert page.locator(".notice").is_visible()
    search(page, "solid nodule")
    open_first(page)
    assert page.locator(".notice").is_visible()
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.locator(".notice").is_visible()


def test_a_theme_is_chosen_and_kept(page):
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark != light
    page.reload()
    page.wait_for_selector("#start")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == light


def test_a_narrow_window_shows_the_viewer_alone_and_filters_on_demand(page):
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.locator("#filters").is_hidden()
    page.click("main > button.only-narrow")
    page.check("#f-sex-F")
    page.click("#filters button.only-narrow")
    search(page, "solid nodule")
    assert len(shown(page)) == 3
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    open_first(page)
    assert page.locator("#main").is_hidden()


def test_documents_are_framed_and_run_nothing(page):
    for name, text in (("card", "The card"), ("benchmark", "The benchmark")):
        page.click(f"nav a[href='#/{name}']")
        frame = page.frame_locator("iframe")
        assert frame.locator("h1").inner_text() == text
        assert "rgb(1, 2, 3)" in frame.locator("h1").evaluate("e => getComputedStyle(e).color")
        assert frame.locator("h1").evaluate("e => e.ownerDocument.title") == name


def test_a_service_that_is_gone_is_told(page):
    page.route("**/v1/search", lambda route: route.abort())
    page.fill("#text", "solid nodule")
    page.keyboard.press("Enter")
    page.wait_for_selector("#error:not([hidden])")
    assert "The service does not answer" in page.inner_text("#error")
    page.unroute("**/v1/search")
    search(page, "solid nodule")
    assert page.locator("#error").is_hidden()
