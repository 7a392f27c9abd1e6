"""What two readers do on the review's page, with the keyboard above all."""

from dataclasses import replace

import pytest

from medfinder.curate.review import Decision, ReviewQueue
from medfinder.records import Doubt
from stubs import reviewed
from stubs.pages import until

CONTRAST = """() => {
  const light = (c) => {
    const [r, g, b] = c.map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const parse = (c) => { const n = c.match(/[\\d.]+/g).map(Number); return { rgb: n.slice(0, 3), a: n[3] ?? 1 }; };
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.a === 1) return c.rgb;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility() || e.closest('.stage, noscript, option, .hidden, .skip')) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color).rgb), light(ground(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push(`${e.tagName}.${e.className} ${ratio.toFixed(2)} ${e.textContent.slice(0, 30)}`);
  }
  return poor;
}"""


@pytest.fixture
def folder(tmp_path, studies):
    """Four doubted studies; the CT of the first is in the index."""
    seen = {
        k: getattr(studies[0], k) for k in ("volume_path", "volume_hash", "shape", "spacing_mm")
    }
    first = replace(reviewed.study(0), **seen)
    own = [first, *(reviewed.study(i) for i in (1, 2, 3, 4))]
    return reviewed.make(tmp_path / "studies", studies=own)


@pytest.fixture
def visit(review_site, visit):  # in this order: the pages close first
    """Return a function that opens the review as a reader."""

    def go(name="Ana Gómez", scheme="dark"):
        page = visit(review_site + "#/review", scheme=scheme, ready="#who[open]")
        page.keyboard.type(name)
        page.keyboard.press("Enter")
        return page

    return go


def wait_study(page, study_id):
    """Wait until a study is there, and has been long enough for a key to count."""
    until(
        page,
        "id => document.querySelector('#study h2')?.textContent === id && !document.querySelector('#study textarea')",
        study_id,
    )
    page.wait_for_timeout(300)


def test_a_key_that_bounces_decides_once(visit, folder):
    page = visit()
    wait_study(page, "study-0")
    for _ in range(4):
        page.keyboard.press("a")
    wait_study(page, "study-2")
    assert [e.study_id for e in ReviewQueue(folder).history()] == ["study-0"]


def test_the_most_doubted_study_is_open_with_both_texts_and_its_doubts(visit):
    page = visit()
    wait_study(page, "study-0")
    assert "derrame pleural" in page.inner_text(".texts [lang=es] .present")
    assert "pneumothorax" in page.inner_text(".texts [lang=en] .absent").lower()
    assert "failed its checks · number" in page.inner_text(".failed-checks")
    assert "3 in the report, 5 in the English." in page.inner_text(".doubts")
    assert "pleural effusion" in page.inner_text("#labels")
    assert "null" not in page.inner_text("body")
    assert "undefined" not in page.inner_text("body")


def test_the_ct_is_shown_where_the_index_has_it_and_else_said_so(visit):
    page = visit()
    wait_study(page, "study-0")
    page.wait_for_selector(".ct .stage[data-state=drawn]")
    page.keyboard.press("2")
    page.wait_for_selector("button[data-window=mediastinum][aria-pressed=true]")
    page.keyboard.press("j")
    wait_study(page, "study-2")
    assert page.locator(".ct .stage").count() == 0
    assert "not in the index" in page.inner_text("#no-ct")


def test_keys_alone_review_the_queue(visit, folder):
    page = visit()
    wait_study(page, "study-0")
    page.keyboard.press("a")
    wait_study(page, "study-2")
    page.keyboard.press("r")
    page.wait_for_selector("#why[open]")
    page.keyboard.type("A placeholder.")
    page.keyboard.press("Enter")
    wait_study(page, "study-1")
    page.keyboard.press("e")
    page.wait_for_selector("#english")
    page.keyboard.press("Control+a")
    page.keyboard.type("A nodule, jkare.")
    page.keyboard.press("Control+Enter")
    wait_study(page, "study-3")
    page.keyboard.press("k")
    wait_study(page, "study-1")
    page.keyboard.press("j")
    wait_study(page, "study-3")
    page.keyboard.press("a")
    until(page, "document.querySelector('#told').textContent.includes('Nothing is left')")
    events = ReviewQueue(folder).history()
    assert [(e.study_id, e.after["verdict"], e.reader) for e in events] == [
        ("study-0", "accept", "Ana Gómez"),
        ("study-2", "reject", "Ana Gómez"),
        ("study-1", "edit", "Ana Gómez"),
        ("study-3", "accept", "Ana Gómez"),
    ]
    assert events[2].after["translation"] == "A nodule, jkare."


def test_labels_are_edited(visit, folder):
    page = visit()
    wait_study(page, "study-0")
    page.click(".items [data-study=study-1]")
    wait_study(page, "study-1")
    page.keyboard.press("e")
    page.click("button[aria-label='Remove adenopathy']")
    page.fill("#label", "neumotórax")
    page.keyboard.press("Enter")
    page.keyboard.press("Control+Enter")
    until(page, "document.querySelector('#told').textContent.includes('study-1: edited')")
    (event,) = ReviewQueue(folder).history()
    assert event.after["labels"] == ["nodule", "pneumothorax"]
    assert event.after["translation"] is None


def test_a_label_nobody_knows_is_told_and_the_edit_stays(visit):
    page = visit()
    wait_study(page, "study-0")
    page.keyboard.press("e")
    page.fill("#label", "pneumothorx")
    page.keyboard.press("Enter")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#error:not([hidden])")
    assert "Did you mean 'pneumothorax'" in page.inner_text("#error")
    assert page.locator("#english").is_visible()


def test_an_edit_that_was_left_is_there_again(visit):
    page = visit()
    wait_study(page, "study-0")
    page.keyboard.press("e")
    page.fill("#english", "Half a sentence")
    page.click(".items [data-study=study-1]")
    wait_study(page, "study-1")
    page.click(".items [data-study=study-0]")
    page.wait_for_selector("#english")
    assert page.input_value("#english") == "Half a sentence"


def test_a_refusal_is_told_with_what_to_do(visit):
    page = visit()
    wait_study(page, "study-0")
    page.click(".items [data-study=study-2]")
    wait_study(page, "study-2")
    page.keyboard.press("a")
    page.wait_for_selector("#error:not([hidden])")
    assert "is a placeholder, not a translation" in page.inner_text("#error")


def test_two_readers_and_an_adjudicator_settle_a_study(visit, folder):
    ana = visit("Ana")
    wait_study(ana, "study-0")
    luis = visit("Luis")
    wait_study(luis, "study-0")
    assert luis.locator("#study .votes").count() == 0
    ana.keyboard.press("a")
    wait_study(ana, "study-2")
    luis.keyboard.press("r")
    luis.keyboard.type("Number is wrong.")
    luis.keyboard.press("Enter")
    wait_study(luis, "study-2")
    luis.click(".items [data-study=study-0]")
    wait_study(luis, "study-0")
    assert "Ana" not in luis.inner_text("#study")
    eva = visit("Eva")
    wait_study(eva, "study-0")
    assert "Two readers disagree" in eva.inner_text("#study")
    assert "Ana: accepted" in eva.inner_text(".votes")
    assert "Luis: rejected · Number is wrong." in eva.inner_text(".votes")
    eva.keyboard.press("r")
    eva.keyboard.type("Indeed.")
    eva.keyboard.press("Enter")
    until(eva, "document.querySelector('#facts').textContent.startsWith('1 of 4 settled')")
    assert "κ 0.00 over 1" in eva.inner_text("#agreement summary")
    assert set(ReviewQueue(folder).settled()) == {"study-0"}


def test_a_settled_study_is_reopened_by_key(visit, folder):
    for reader in ("Luis", "Eva"):
        ReviewQueue(folder).decide(reader, "study-0", Decision("accept"))
    page = visit("Ana")
    wait_study(page, "study-2")
    page.select_option("#which", "settled")
    page.wait_for_selector(".items [data-study=study-0]")
    page.click(".items [data-study=study-0]")
    wait_study(page, "study-0")
    assert "Settled: accepted" in page.inner_text("#outcome")
    assert page.locator("#do-accept").count() == 0
    page.keyboard.press("u")
    page.keyboard.type("Not right.")
    page.keyboard.press("Enter")
    page.wait_for_selector("#do-accept")
    assert ReviewQueue(folder).settled() == {}


def test_a_study_that_others_hold_is_told_and_not_decided(visit, folder):
    queue = ReviewQueue(folder)
    for reader in ("Luis", "Eva"):
        queue.lease(reader, "study-0")
    page = visit("Ana")
    wait_study(page, "study-2")
    page.select_option("#which", "all")
    page.wait_for_selector(".items [data-study=study-0]")
    page.click(".items [data-study=study-0]")
    wait_study(page, "study-0")
    assert "Enough readers are at work" in page.inner_text("#study")
    page.keyboard.press("a")
    page.wait_for_timeout(200)
    assert queue.history() == []


def test_markup_in_reports_names_and_reasons_is_text(visit, folder):
    queue = ReviewQueue(folder)
    for reader in ("<img src=x onerror=window.hacked=1>", "Eva"):
        queue.decide(reader, "study-2", Decision("reject", reason="1 < 2 <u>b</u>"))
    page = visit("<b>Ana</b>")
    wait_study(page, "study-0")
    assert "<b>Ana</b>" in page.inner_text("#reader")
    page.select_option("#which", "settled")
    page.click(".items [data-study=study-2]")
    wait_study(page, "study-2")
    assert "<script>window.hacked" in page.inner_text("#study")
    assert "<img src=x" in page.inner_text(".votes")
    assert page.evaluate("window.hacked") is None
    assert page.locator("#study script, #study img, #study b, #reader b").count() == 0


def test_the_readers_name_is_asked_once_and_kept_in_the_tab(visit):
    page = visit("Łucja Żółć 李")
    wait_study(page, "study-0")
    page.reload()
    wait_study(page, "study-0")
    assert "Łucja Żółć 李" in page.inner_text("#reader")
    assert not page.locator("#who").is_visible()
    assert page.evaluate("Object.keys(localStorage).includes('reader')") is False


def test_without_a_name_nothing_is_shown(visit):
    page = visit("  ")
    page.keyboard.press("Escape")
    page.keyboard.press("a")
    assert page.locator("#who").is_visible()
    assert page.locator("#study h2").count() == 0


def test_a_name_that_is_refused_is_asked_again(visit):
    page = visit("Ana\u200b")
    page.wait_for_selector("#error:not([hidden])", state="attached")
    page.wait_for_selector("#who[open]")
    page.fill("#name", "Ana")
    page.keyboard.press("Enter")
    wait_study(page, "study-0")


def test_help_lists_the_keys(visit):
    page = visit()
    wait_study(page, "study-0")
    page.keyboard.press("?")
    page.wait_for_selector("#help[open]")
    assert "reject, with a reason" in page.inner_text("#help")
    page.keyboard.press("a")  # behind the dialog: nothing is decided
    page.keyboard.press("Escape")
    page.wait_for_selector("#help", state="hidden")
    assert page.inner_text("#study h2") == "study-0"


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_every_text_stands_out_from_its_ground(visit, scheme):
    page = visit("Eva", scheme)
    wait_study(page, "study-0")
    page.wait_for_selector(".ct .stage[data-state=drawn]")
    assert page.evaluate(CONTRAST) == []
    page.keyboard.press("e")
    assert page.evaluate(CONTRAST) == []
    page.keyboard.press("Escape")
    page.keyboard.press("r")
    assert page.evaluate(CONTRAST) == []
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert page.evaluate(CONTRAST) == []


@pytest.mark.parametrize("width", [1440, 1000, 600])
def test_nothing_runs_out_of_a_window_of_any_width(visit, width):
    page = visit()
    wait_study(page, "study-0")
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("#do-accept").is_visible()


def test_every_control_has_a_name(visit):
    page = visit()
    wait_study(page, "study-0")
    page.keyboard.press("e")
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, input, select, textarea, canvas, img, meter, progress, dialog')]
        .filter(e => e.checkVisibility())
        .filter(e => !(e.textContent.trim() || e.ariaLabel || e.hasAttribute('alt') || e.title || e.labels?.length))
        .map(e => e.outerHTML)"""
    )
    assert nameless == []


def test_a_long_queue_is_listed_in_parts(visit, folder):
    studies = [reviewed.study(0, study_id=f"study-{i:04d}") for i in range(250)]
    doubts = [Doubt(s.study_id, "short-report", "Short.", 0.5) for s in studies]
    reviewed.make(folder, studies=studies, doubts=doubts)
    page = visit()
    wait_study(page, "study-0000")
    assert page.locator(".items button").count() == 200
    page.click("#more")
    until(page, "document.querySelectorAll('.items button').length === 250")
