"""The page in a headless Chromium, over a real server on a free port of this machine."""

import importlib.util
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

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

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-gpu",
]


@pytest.fixture(scope="session")
def browser():
    if not CHROMIUM.exists():
        pytest.skip("no /usr/bin/chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


def finder(index):
    return hospital.Finder(index, hospital.ENCODERS)


@pytest.fixture(scope="session")
def site(shared_index):
    """The URL of a server that runs as long as the tests do."""
    with serving(finder(shared_index)) as served:
        yield served.url


@pytest.fixture
def review_site(shared_index, folder):
    """The URL of a server with the review of a test's own folder."""
    with serving(finder(shared_index), review=folder) as served:
        yield served.url


@pytest.fixture
def page(browser, site):
    """A fresh page that must end without an error in its console."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, color_scheme="dark")
    context.set_default_timeout(10_000)
    page = context.new_page()
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "console",
        lambda message: (
            problems.append(message.text)
            if message.type in ("error", "warning") and "status of 4" not in message.text
            else None
        ),
    )
    page.goto(site)
    page.wait_for_selector("fieldset[data-facet=sex]")
    yield page
    context.close()
    assert problems == []
