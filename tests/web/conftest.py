"""The page in a headless Chromium, over a real server on a free port of this machine.

``MEDFINDER_SCREENSHOTS=FOLDER`` makes the tests that have a picture to show write it there.
"""

import importlib.util
import os
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from medfinder.curate.curate import curate
from medfinder.curate.sources.folder import FolderSource
from medfinder.phantom.phantom import write_phantoms
from medfinder.search.build import build_index
from medfinder.serve.page_routes import Documents
from stubs.served import serving

_path = Path(__file__).parents[1] / "serve" / "conftest.py"
_spec = importlib.util.spec_from_file_location("hospital", _path)
assert _spec is not None
assert _spec.loader is not None
hospital = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(hospital)

studies = hospital.studies
index_folder = hospital.index_folder
shared_index = hospital.shared_index

SCREENSHOTS = os.environ.get("MEDFINDER_SCREENSHOTS")
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# What the browser says by itself: a refusal is an answer, a frame runs nothing, a test cuts a line.
EXPECTED = ("status of 4", "Blocked script execution", "net::ERR_FAILED")
DRAWS_3D = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"]  # slower at all else


@pytest.fixture(scope="module")
def chromium():
    """Return a function that starts a browser with flags.

    It goes with its file: while it is there no other event loop can run in this thread.
    """
    if not CHROMIUM.exists():
        pytest.skip("no /usr/bin/chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        started = []

        def start(flags):
            browser = playwright.chromium.launch(
                executable_path=str(CHROMIUM), args=[*FLAGS, *flags]
            )
            started.append(browser)
            return browser

        yield start
        for browser in started:
            browser.close()


@pytest.fixture(scope="module")
def browser(chromium):
    """A browser that draws in two dimensions."""
    return chromium(["--disable-gpu"])


@pytest.fixture(scope="module")
def browser_3d(chromium):
    """A browser with WebGL, in software."""
    return chromium(DRAWS_3D)


def finder(index):
    return hospital.Finder(index, hospital.ENCODERS)


@pytest.fixture(scope="session")
def hospital_finder(shared_index):
    return finder(shared_index)


@pytest.fixture(scope="session")
def documents(tmp_path_factory):
    """A card and a benchmark of a few words, with a style and a script that must not run."""
    folder = tmp_path_factory.mktemp("documents")
    for name in ("card", "benchmark"):
        (folder / f"{name}.html").write_text(
            f"<!doctype html><title>{name}</title><style>h1 {{ color: rgb(1, 2, 3) }}</style>"
            f"<h1>The {name}</h1><script>document.title = 'ran'</script>"
        )
    return Documents(folder / "card.html", folder / "benchmark.html")


@pytest.fixture(scope="session")
def site(shared_index, documents):
    """The URL of a server that runs as long as the tests do."""
    with serving(finder(shared_index), documents=documents) as served:
        yield served.url


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory):
    """The URL of a service over phantom CTs, indexed with the encoder that comes along."""
    folder = tmp_path_factory.mktemp("phantoms")
    n, size = (40, (96, 160, 160)) if SCREENSHOTS else (6, (48, 80, 80))
    write_phantoms(folder / "raw", n, 5, size=size)
    curate(FolderSource(folder / "raw", folder / "raw" / "studies.csv"), folder / "studies")
    build_index(folder / "studies", folder / "idx", encoder="medfinder")
    with serving(folder / "idx", review=folder / "studies") as served:
        yield served.url


@pytest.fixture
def review_site(shared_index, folder):
    """The URL of a server with the review of a test's own folder."""
    with serving(finder(shared_index), review=folder) as served:
        yield served.url


@pytest.fixture
def visit(browser):
    """Return a function that opens an address; no page may leave an error in its console."""
    contexts = []
    problems = []

    def note(message):
        if message.type in ("error", "warning") and not any(t in message.text for t in EXPECTED):
            problems.append(message.text)

    def go(url, *, scheme="dark", size=(1440, 900), ready="fieldset[data-facet=sex]", **options):
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme=scheme,
            **{"locale": "en-US", **options},
        )
        contexts.append(context)
        context.set_default_timeout(15_000)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", note)
        page.goto(url)
        page.wait_for_selector(ready, state="attached")
        return page

    yield go
    for context in contexts:
        context.close()
    assert problems == []


@pytest.fixture
def page(visit, site):
    """A fresh page over the small hospital."""
    return visit(site)


@pytest.fixture
def picture():
    """Return a function that writes a page's picture, where pictures are wanted."""

    def take(page, name):
        if SCREENSHOTS:
            Path(SCREENSHOTS).mkdir(parents=True, exist_ok=True)
            page.wait_for_timeout(1500)  # pictures that are still on their way
            page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png")

    return take
