"""What tests do on the page, whatever they are about."""

import time

from axe_playwright_python.sync_playwright import Axe


def until(page, expression, arg=None, within_s=15.0):
    """Wait until a script's expression holds; Playwright's own way needs eval, which the page forbids."""
    deadline = time.monotonic() + within_s
    while not page.evaluate(expression, arg):
        assert time.monotonic() < deadline, f"never so: {expression}"
        page.wait_for_timeout(30)


def search(page, text):
    page.fill("#text", text)
    page.keyboard.press("Enter")
    page.wait_for_selector(".card[data-study]")


def shown(page):
    """The ids of the studies that are listed, best first."""
    return page.eval_on_selector_all(
        ".card[data-study]", "cards => cards.map(c => c.dataset.study)"
    )


def open_first(page):
    page.click(".card .title >> nth=0")
    page.wait_for_selector(".stage[data-state=drawn]")


def paste(page, selector, text):
    """Paste a text, as Ctrl+V does."""
    page.focus(selector)
    page.evaluate(
        """text => {
        const clipboardData = new DataTransfer();
        clipboardData.setData('text/plain', text);
        const event = new ClipboardEvent('paste', {clipboardData, bubbles: true, cancelable: true});
        document.activeElement.dispatchEvent(event);
    }""",
        text,
    )


def drop(page, names_and_bytes):
    """Drop files on the page, as a file manager does."""
    page.evaluate(
        """files => {
        const dataTransfer = new DataTransfer();
        for (const [name, bytes] of files) dataTransfer.items.add(new File([new Uint8Array(bytes)], name));
        for (const kind of ['dragenter', 'dragover', 'drop'])
            document.body.dispatchEvent(new DragEvent(kind, {dataTransfer, bubbles: true, cancelable: true}));
    }""",
        [[name, list(body)] for name, body in names_and_bytes],
    )


def faults(page):
    """What axe finds wrong with the page as it is, at the levels A and AA of WCAG and its advice."""
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    found = Axe().run(page, options={"runOnly": {"type": "tag", "values": tags}, "iframes": False})
    return [
        f"{v['id']}: {node['target']} {node.get('failureSummary', '')[:200]}"
        for v in found.response["violations"]
        for node in v["nodes"][:4]
    ]
