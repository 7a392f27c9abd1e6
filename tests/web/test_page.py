"""What a user does on the page, with mouse and keyboard."""

import json
import time
from pathlib import Path
from urllib.parse import unquote

import pytest

from medfinder.volume.dicom_writer import write_dicom_series
from medfinder.volume.read import read_volume

GREYS = """canvas => {
  const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  const seen = new Set();
  for (let i = 0; i < data.length; i += 40) seen.add(data[i]);
  return seen.size;
}"""


def until(page, expression, arg=None):
    """Wait until a script's expression holds; Playwright's own way needs eval, which the page forbids."""
    deadline = time.monotonic() + 10
    while not page.evaluate(expression, arg):
        assert time.monotonic() < deadline, f"never so: {expression}"
        page.wait_for_timeout(30)


def search(page, text):
    page.fill("#text", text)
    page.keyboard.press("Enter")
    page.wait_for_selector(".card[data-study]")


def shown(page):
    return page.eval_on_selector_all(
        ".card[data-study]", "cards => cards.map(c => c.dataset.study)"
    )


def open_first(page):
    page.click(".card .title >> nth=0")
    page.wait_for_selector(".stage[data-state=drawn]")
    until(page, "location.hash.includes('/axial/')")


def index_of(page, plane="axial"):
    return int(page.get_attribute(f".stage[data-plane={plane}]", "data-index"))


def wait_index(page, index, plane="axial"):
    page.wait_for_selector(f".stage[data-plane={plane}][data-index='{index}'][data-state=drawn]")


def test_a_sentence_finds_cards_with_marked_sentences_findings_and_scores(page):
    search(page, "solid nodule in the right upper lobe")
    first = page.locator(".card >> nth=0")
    assert first.get_attribute("data-study") == "study-0"
    assert "solid nodule" in first.locator("mark").first.inner_text()
    assert "nodule" in first.locator(".chip.present").first.inner_text()
    assert first.locator(".parts li").count() == 3
    until(page, "document.querySelector('.card img').naturalWidth > 0")


def test_a_keyword_is_completed_and_found(page):
    page.fill("#keyword", "derrame pl")
    page.wait_for_selector("#suggestions li[data-name='pleural effusion']")
    page.keyboard.press("Enter")
    page.wait_for_selector(".card[data-study]")
    assert sorted(shown(page)) == ["study-1", "study-4"]
    assert "pleural effusion" in page.inner_text("#keyword-chips")


def test_accents_do_not_matter_to_completion(page):
    page.fill("#keyword", "nódulo")
    page.wait_for_selector("#suggestions li[data-name='nodule']")


def test_a_pasted_report_is_asked_as_a_report(page):
    page.fill("#text", "FINDINGS:\nEmphysema of both upper lobes.\nNo effusion.")
    with page.expect_request("**/v1/search") as asked:
        page.click("#go")
    assert set(json.loads(asked.value.post_data)) >= {"report"}
    page.wait_for_selector(".card[data-study]")
    assert shown(page)[0] == "study-3"


def test_a_ct_is_a_query(page, studies):
    page.set_input_files("#file", studies[2].volume_path)
    page.wait_for_selector(".card[data-study]")
    assert shown(page)[0] == "study-2"
    assert "looks like" in page.inner_text("#asked")


def test_the_name_of_an_uploaded_file_stays_here(page, studies, tmp_path):
    named = tmp_path / "Haversham.nii.gz"
    named.write_bytes(Path(studies[0].volume_path).read_bytes())
    with page.expect_request("**/v1/search/volume") as sent:
        page.set_input_files("#file", named)
    assert b"Haversham" not in (sent.value.post_data_buffer or b"")


def test_what_is_no_ct_is_refused_with_a_hint(page, tmp_path):
    letter = tmp_path / "letter.zip"
    letter.write_bytes(b"Dear colleague")
    page.set_input_files("#file", letter)
    page.wait_for_selector("#error:not([hidden])")
    text = page.inner_text("#error")
    assert "not a CT" in text
    assert "Send a NIfTI file" in text


def test_filters_narrow_the_results(page):
    search(page, "chest")
    page.check("#f-sex-F")
    until(page, "document.querySelectorAll('.card[data-study]').length === 3")
    assert set(shown(page)) == {"study-0", "study-2", "study-4"}
    until(
        page, "document.querySelector('.count').textContent.includes('3 of 6')"
    )  # its own request
    page.click("#clear-filters")
    until(page, "document.querySelectorAll('.card[data-study]').length > 3")


def test_more_like_this_leaves_the_patient_out(page):
    search(page, "large left effusion")
    page.click(".card[data-study=study-1] .card-foot button")
    page.wait_for_selector("#asked:not([hidden])")
    assert "study-1" in page.inner_text("#asked")
    until(page, "!document.querySelector('.card[data-study=study-1]')")
    assert not {"study-0", "study-1"} & set(shown(page))


def test_the_viewer_shows_a_slice_and_its_report(page):
    search(page, "solid nodule")
    open_first(page)
    assert page.eval_on_selector(".stage canvas", GREYS) > 10
    assert "solid nodule" in page.inner_text(".report-pane mark")
    assert page.inner_text(".edge.at-left") == "R"
    bar = page.eval_on_selector(".bar", "bar => bar.getBoundingClientRect().width")
    box = page.eval_on_selector(".stage", "s => Math.min(s.clientWidth / 96, s.clientHeight / 96)")
    assert bar == pytest.approx(50 * box, abs=4)


def test_keys_scroll_slices_and_change_plane_and_window(page):
    search(page, "solid nodule")
    open_first(page)
    start = index_of(page)
    page.focus(".stage canvas")
    page.keyboard.press("ArrowUp")
    wait_index(page, start + 1)
    page.keyboard.press("PageDown")
    wait_index(page, max(0, start - 9))
    page.keyboard.press("Home")
    wait_index(page, 23)
    page.keyboard.press("c")
    page.wait_for_selector(".stage[data-plane=coronal][data-state=drawn]")
    page.keyboard.press("2")
    page.wait_for_selector("button[data-window=mediastinum][aria-pressed=true]")
    page.keyboard.press("m")
    until(page, "document.querySelectorAll('.stage[data-state=drawn]').length === 3")
    page.keyboard.press("Escape")
    page.wait_for_selector("#viewer", state="hidden")


def test_the_wheel_scrolls_and_the_slider_jumps(page):
    search(page, "solid nodule")
    open_first(page)
    start = index_of(page)
    page.hover(".stage canvas")
    page.mouse.wheel(0, 40)
    wait_index(page, start - 1)
    page.fill(".slider", "3")
    wait_index(page, 3)


def test_dragging_changes_level_and_width(page):
    search(page, "solid nodule")
    open_first(page)
    before = page.inner_text(".grey")
    box = page.locator(".stage canvas").bounding_box()
    page.mouse.move(box["x"] + 200, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 260, box["y"] + 230, steps=4)
    page.mouse.up()
    until(page, "before => document.querySelector('.grey').textContent !== before", before)
    page.wait_for_selector(".stage[data-state=drawn]")


def test_a_click_in_one_plane_moves_the_others(page):
    search(page, "solid nodule")
    open_first(page)
    page.keyboard.press("m")
    until(page, "document.querySelectorAll('.stage[data-state=drawn]').length === 3")
    canvas = page.locator(".stage[data-plane=coronal] canvas")
    box = canvas.bounding_box()
    canvas.click(position={"x": box["width"] / 2, "y": box["height"] / 2 - 30})
    until(page, "Number(document.querySelector('.stage[data-plane=axial]').dataset.index) > 12")


def test_the_url_holds_what_is_looked_at_and_not_what_was_asked(page, site):
    search(page, "solid nodule Haversham")
    open_first(page)
    page.focus(".stage canvas")
    page.keyboard.press("End")
    until(page, "location.hash.includes('/axial/0')")
    assert "Haversham" not in unquote(page.url)
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    wait_index(page, 0)
    page.go_back()


def test_back_closes_the_study(page):
    search(page, "solid nodule")
    open_first(page)
    page.go_back()
    page.wait_for_selector("#viewer", state="hidden")
    assert shown(page)


def test_markup_in_a_report_is_text(page):
    search(page, "normal chest")
    open_card = page.locator(".card[data-study=study-2]")
    open_card.locator("summary").click()
    assert "<script>" in open_card.locator(".report").inner_text()
    open_card.locator(".title").click()
    page.wait_for_selector(".stage[data-state=drawn]")
    assert "<script>window.hacked" in page.inner_text(".report-pane")
    assert page.evaluate("window.hacked") is None
    assert page.locator("#main script, #viewer script, .report img").count() == 0


def test_keys_alone_reach_a_study(page):
    page.keyboard.press("/")
    page.keyboard.type("solid nodule")
    page.keyboard.press("Enter")
    page.wait_for_selector(".card[data-study]")
    page.focus(".card .title")
    page.keyboard.press("Enter")
    page.wait_for_selector(".stage[data-state=drawn]")
    first = page.inner_text(".viewer-head h2")
    page.keyboard.press("j")
    until(page, "first => document.querySelector('.viewer-head h2').textContent !== first", first)


def test_every_control_has_a_name(page):
    search(page, "solid nodule")
    open_first(page)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, input, select, textarea, canvas, img')]
        .filter(e => e.checkVisibility())
        .filter(e => !(e.textContent.trim() || e.ariaLabel || e.hasAttribute('alt') || e.title || e.labels?.length))
        .map(e => e.outerHTML)"""
    )
    assert nameless == []


def test_the_notice_is_always_in_sight(page):
    assert page.locator(".notice").is_visible()
    search(page, "solid nodule")
    open_first(page)
    assert page.locator(".notice").is_visible()


def test_a_theme_is_chosen_and_kept(page):
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark != light
    page.reload()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == light


def test_a_narrow_window_shows_the_viewer_alone(page):
    page.set_viewport_size({"width": 800, "height": 900})
    search(page, "solid nodule")
    open_first(page)
    assert page.eval_on_selector(".stage canvas", GREYS) > 10
    assert not page.locator("#main").is_visible()


def test_a_study_that_is_not_there_is_told(page, site):
    page.goto(site + "#/study/nobody")
    page.wait_for_selector("#error:not([hidden])")
    assert "no study with this id" in page.inner_text("#error")


def test_the_slices_of_a_series_are_a_query(page, studies, tmp_path):
    volume = read_volume(studies[4].volume_path)
    write_dicom_series(volume, tmp_path / "Haversham", patient_id="p", study_id="s")
    with page.expect_request("**/v1/search/volume") as sent:
        page.set_input_files("#file", sorted((tmp_path / "Haversham").iterdir()))
    page.wait_for_selector(".card[data-study]")
    assert shown(page)[0] == "study-4"
    assert b"Haversham" not in (sent.value.post_data_buffer or b"")
