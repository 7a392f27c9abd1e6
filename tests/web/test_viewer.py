"""What a radiologist does with a study: slices, slabs, measures, two studies, heat, 3D."""

import io
import json
import re
import time

import numpy as np
import pytest
from PIL import Image

from medfinder.embed import Embedder
from medfinder.index.store import Index, Stream
from medfinder.records import Report, Study
from medfinder.report.findings import extract_findings
from medfinder.search.finder import Finder
from medfinder.volume.nifti import write_nifti
from medfinder.volume.volume import Volume
from stubs.encoders import GridEncoder
from stubs.served import serving

GREYS = """selector => {
  const canvas = document.querySelector(selector);
  const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  const seen = new Set();
  for (let i = 0; i < data.length; i += 40) seen.add(data[i]);
  return seen.size;
}"""
# Mean [red, green, blue] of a canvas, and of its middle row every pixel's red.
COLOURS = """selector => {
  const canvas = document.querySelector(selector);
  const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  const sum = [0, 0, 0];
  for (let i = 0; i < data.length; i += 4) for (const c of [0, 1, 2]) sum[c] += data[i + c];
  return sum.map(v => v * 4 / data.length);
}"""
AXIAL = ".stage[data-plane=axial]"
INFORME = "Derrame pleural izquierdo. Sin nódulos."
IN_ENGLISH = "Left pleural effusion. No nodules."
CUBE_MM = (60.0, 24.0, 36.0)  # along D, H, W
CUBE = (slice(6, 26), slice(12, 24), slice(10, 34))  # of voxels of 3, 2 and 1.5 mm


def affine_of(spacing_mm):
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2] = spacing_mm
    affine[3, 3] = 1
    return affine


def cube():
    """A block of 200 HU in air, with noise of a known amount inside it."""
    hu = np.full((32, 40, 64), -1000.0)
    hu[CUBE] = 200 + np.random.default_rng(0).normal(0, 30, (20, 12, 24))
    return Volume(np.rint(hu).astype(np.int16), affine_of((3.0, 2.0, 1.5)))


def torso(n_slices, low, high, spacing_mm):
    """A body whose lungs begin at slice `low` and end before `high`."""
    hu = np.full((n_slices, 48, 64), -1000, dtype=np.int16)
    hu[:, 4:44, 4:60] = 40
    hu[low:high, 12:36, 10:28] = hu[low:high, 12:36, 36:54] = -820
    hu += np.arange(n_slices, dtype=np.int16)[:, None, None]  # every slice is another
    return Volume(hu, affine_of((spacing_mm, 2.0, 1.5)))


def limb():
    """Soft tissue in air, and no lung."""
    hu = np.full((30, 40, 40), -1000, dtype=np.int16)
    hu[:, 10:30, 10:30] = 40
    return Volume(hu, affine_of((4.0, 2.0, 2.0)))


VOLUMES = {
    "cube": cube(),
    "short": torso(24, 4, 20, 5.0),
    "long": torso(60, 33, 57, 2.5),
    "limb": limb(),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A server whose encoder reads text and tells regions apart."""
    folder = tmp_path_factory.mktemp("viewer")
    embedder = Embedder(GridEncoder(joint=True))
    stream = Stream("grid", embedder.model_id, 64, is_centred=False)
    index = Index.create(folder / "idx", {"volume": stream})
    rows = []
    for name, volume in VOLUMES.items():
        write_nifti(volume, folder / f"{name}.nii.gz")
        rows.append(
            Study(
                study_id=name,
                patient_id=f"patient-{name}",
                series_id=name,
                volume_path=str(folder / f"{name}.nii.gz"),
                volume_hash=volume.content_hash,
                shape=volume.shape,
                spacing_mm=volume.spacing_mm,
                body_part="chest",
                report=Report(INFORME, "es") if name == "short" else None,
                findings=extract_findings(INFORME) if name == "short" else (),
                translation=IN_ENGLISH if name == "short" else None,
            )
        )
    index.add(rows, {"volume": embedder.embed_volumes(list(VOLUMES.items()))})
    index.finish()
    with serving(Finder(index, {"volume": embedder})) as served:
        yield served.url


@pytest.fixture(scope="module")
def context(browser):
    """What keeps the page's code between tests, as a browser does."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme="dark")
    context.set_default_timeout(20_000)
    yield context
    context.close()


@pytest.fixture
def page(context, site):
    """A page that must end without an error in its console."""
    page = context.new_page()
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "console",
        lambda message: (
            problems.append(message.text)
            if message.type in ("error", "warning") and not is_expected(message.text)
            else None
        ),
    )
    page.site = site
    yield page
    page.close()
    assert problems == []


def is_expected(text):
    """Tell what a browser says by itself.

    Requests that are refused, slow drawing without a card, and that these tests read canvases.
    """
    said = ("status of 4", "status of 501", "GPU stall", "willReadFrequently")
    return any(part in text for part in said)


def until(page, expression, arg=None):
    """Wait until a script's expression holds."""
    deadline = time.monotonic() + 15
    while not page.evaluate(expression, arg):
        assert time.monotonic() < deadline, f"never so: {expression}"
        page.wait_for_timeout(30)


def open_study(page, where, drawn=AXIAL):
    page.goto(f"{page.site}#/study/{where}")
    page.wait_for_selector(f"{drawn}[data-state=drawn]")


def index_of(page, plane="axial", study=None):
    of = f"[data-study={study}]" if study else ""
    return int(page.get_attribute(f".stage[data-plane={plane}]{of}", "data-index"))


def wait_index(page, index, plane="axial", study=None):
    of = f"[data-study={study}]" if study else ""
    page.wait_for_selector(
        f".stage[data-plane={plane}]{of}[data-index='{index}'][data-state=drawn]"
    )


def at(page, study, plane, x, y, of=""):
    """Return where a place of a slice, in fractions, is on the screen: the slice fits the stage."""
    box = page.locator(f".stage[data-plane={plane}]{of} canvas").bounding_box()
    axes = {"axial": (2, 1), "coronal": (2, 0), "sagittal": (1, 0)}[plane]
    volume = VOLUMES[study]
    wide, high = (volume.shape[a] * volume.spacing_mm[a] for a in axes)
    scale = min(box["width"] / wide, box["height"] / high)
    left = box["x"] + (box["width"] - wide * scale) / 2
    top = box["y"] + (box["height"] - high * scale) / 2
    return left + x * wide * scale, top + y * high * scale


def drag(page, start, *stops):
    page.mouse.move(*start)
    page.mouse.down()
    for stop in stops:
        page.mouse.move(*stop, steps=3)
    page.mouse.up()


def pixel(page, selector, x, y, colour="red"):
    """Return the red, or another colour, of the canvas at a place of the screen."""
    channel = ("red", "green", "blue").index(colour)
    return page.evaluate(
        """([selector, x, y, channel]) => {
          const canvas = document.querySelector(selector);
          const box = canvas.getBoundingClientRect();
          const at = [(x - box.left) / box.width * canvas.width, (y - box.top) / box.height * canvas.height];
          return canvas.getContext('2d').getImageData(Math.floor(at[0]), Math.floor(at[1]), 1, 1).data[channel];
        }""",
        [selector, x, y, channel],
    )


def label_of(page, kind):
    page.wait_for_selector(f".measures li[data-measure={kind}] b")
    return page.inner_text(f".measures li[data-measure={kind}] >> nth=-1 >> b")


# ---- slices ---------------------------------------------------------------------------------


def test_a_study_opens_at_its_key_slice_and_is_not_blank(page):
    open_study(page, "long")
    wait_index(page, 33)  # the lungs' slice that is nearest the middle
    assert page.evaluate(GREYS, f"{AXIAL} canvas") > 2


@pytest.mark.parametrize(
    ("plane", "edges"),
    [("axial", "RLAP"), ("coronal", "RLSI"), ("sagittal", "APSI")],
)
def test_every_plane_is_drawn_the_right_way_round(page, plane, edges):
    index = {"axial": 16, "coronal": 18, "sagittal": 20}[plane]
    open_study(page, f"cube/{plane}/{index}?window=bone", f".stage[data-plane={plane}]")
    wait_index(page, index, plane)
    said = [page.inner_text(f".edge.at-{side}") for side in ("left", "right", "top", "bottom")]
    assert "".join(said) == edges
    # The block's middle is bright, and the place opposite of it is not.
    d, h, w = (1 - (s.start + s.stop) / 2 / n for s, n in zip(CUBE, (32, 40, 64), strict=True))
    x, y = {"axial": (w, h), "coronal": (w, d), "sagittal": (h, d)}[plane]
    canvas = f".stage[data-plane={plane}] canvas"
    assert pixel(page, canvas, *at(page, "cube", plane, x, y)) > 60
    assert pixel(page, canvas, *at(page, "cube", plane, 0.03, 0.97)) == 0


def test_a_click_in_one_of_three_planes_moves_the_others(page):
    open_study(page, "cube/all/16")
    until(page, "document.querySelectorAll('.stage[data-state=drawn]').length === 3")
    page.mouse.click(*at(page, "cube", "axial", 0.26, 0.26))
    wait_index(page, 47, "sagittal")
    wait_index(page, 29, "coronal")
    assert index_of(page) == 16
    cross = 1 - 47.5 / 64
    x, y = at(page, "cube", "axial", cross, 0.95)
    greens = [pixel(page, f"{AXIAL} canvas", x + dx, y, "green") for dx in (-8, -1, 0, 1, 8)]
    assert max(greens[1:4]) > greens[0] + 40
    assert greens[0] == greens[4]
    page.mouse.click(*at(page, "cube", "coronal", 0.5, 0.2))
    until(page, f"document.querySelector('{AXIAL}').dataset.index === '25'")


def test_wheel_slider_and_keys_scroll(page):
    open_study(page, "cube/axial/16")
    page.hover(f"{AXIAL} canvas")
    page.mouse.wheel(0, 40)
    wait_index(page, 15)
    page.fill(".slider", "3")
    wait_index(page, 3)
    page.focus(f"{AXIAL} canvas")
    for key, index in (("ArrowUp", 4), ("PageUp", 14), ("Home", 31), ("End", 0)):
        page.keyboard.press(key)
        wait_index(page, index)
    until(page, "location.hash.includes('/axial/0')")


def test_an_address_that_changes_moves_the_slices(page):
    open_study(page, "cube/axial/16")
    page.keyboard.press("ArrowUp")
    until(page, "location.hash.includes('/axial/17')")
    page.evaluate("location.hash = '#/study/cube/axial/5?window=bone'")
    wait_index(page, 5)
    page.wait_for_selector("[data-window=bone][aria-pressed=true]")
    page.evaluate("location.hash = '#/study/cube/coronal/7'")
    wait_index(page, 7, "coronal")
    page.go_back()
    wait_index(page, 5)


def test_the_slices_play_and_stop(page):
    open_study(page, "cube/axial/2")
    page.click("[data-control=cine]")
    until(page, f"Number(document.querySelector('{AXIAL}').dataset.index) > 5")
    page.keyboard.press("Escape")
    page.wait_for_selector("[data-control=cine][aria-pressed=false]")


def test_zoom_and_pan_move_the_picture_and_a_double_click_brings_it_back(page):
    open_study(page, "cube/axial/16?window=bone")
    whole = page.evaluate(COLOURS, f"{AXIAL} canvas")
    bar = "document.querySelector('.bar').getBoundingClientRect().width"
    before = page.evaluate(bar)
    page.keyboard.press("+")
    assert page.evaluate(bar) == pytest.approx(1.25 * before, rel=0.01)
    page.click("[data-tool=pan]")
    start = at(page, "cube", "axial", 0.5, 0.5)
    drag(page, start, (start[0] + 400, start[1]))
    moved = page.evaluate(COLOURS, f"{AXIAL} canvas")
    assert abs(moved[0] - whole[0]) > 1
    page.keyboard.press("0")
    assert page.evaluate(COLOURS, f"{AXIAL} canvas") == pytest.approx(whole, abs=0.01)
    assert page.evaluate(bar) == pytest.approx(before, abs=0.5)


# ---- windows --------------------------------------------------------------------------------


def test_presets_numbers_and_the_mouse_change_the_window(page):
    open_study(page, "short/axial/10")
    canvas = f"{AXIAL} canvas"
    lung = page.evaluate(COLOURS, canvas)
    page.keyboard.press("2")
    page.wait_for_selector("[data-window=mediastinum][aria-pressed=true]")
    page.wait_for_selector(f"{AXIAL}[data-state=drawn]")
    until(
        page, f"([canvas, lung]) => Math.abs(({COLOURS})(canvas)[0] - lung) > 20", [canvas, lung[0]]
    )
    page.fill(".numbers input >> nth=0", "100")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('.grey').textContent.startsWith('L 100  W 400')")
    start = at(page, "short", "axial", 0.5, 0.5)
    drag(page, start, (start[0] + 60, start[1] + 30))
    until(page, "document.querySelector('.grey').textContent.startsWith('L 130  W 460')")
    page.wait_for_selector(f"{AXIAL}[data-state=drawn]")


def test_a_window_that_is_dragged_is_drawn_before_its_pictures_come(page):
    open_study(page, "short/axial/10")
    held = []
    page.route("**/*.png?level=*", lambda route: held.append(route))  # none ever comes
    page.mouse.move(*at(page, "short", "axial", 0.5, 0.4))
    with page.expect_response("**/axial/10.hu*"):
        page.mouse.move(*at(page, "short", "axial", 0.5, 0.5))
    start = at(page, "short", "axial", 0.5, 0.5)
    drag(page, start, (start[0] + 10, start[1] + 100))
    level, width = map(int, re.findall(r"-?\d+", page.inner_text(".grey").split("\n")[0]))
    assert level > -600
    grey = pixel(page, f"{AXIAL} canvas", *start)
    assert grey == pytest.approx((50 - level + width / 2) * 255 / width, abs=2)
    until_held = time.monotonic() + 10
    while not held and time.monotonic() < until_held:
        page.wait_for_timeout(50)
    assert held  # once the hand rests they are asked for


def test_the_hounsfield_units_under_the_pointer_are_told(page):
    open_study(page, "short/axial/10")
    page.mouse.move(*at(page, "short", "axial", 0.5, 0.5))
    page.mouse.move(*at(page, "short", "axial", 0.5, 0.52))
    page.wait_for_selector(".probe")
    assert page.inner_text(".probe") == "50 HU"  # 40, and the slice's own 10


# ---- slabs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("projection", ["mip", "minip", "mean"])
def test_a_slab_is_the_projection_of_the_slices_around_it(page, projection):
    open_study(page, "cube/axial/16?window=abdomen")
    canvas = f"{AXIAL} canvas"
    alone = page.evaluate(COLOURS, canvas)
    page.select_option("[data-control=projection]", projection)
    page.fill(".slab-of input", "30")
    page.keyboard.press("Enter")
    page.wait_for_selector(".slab")
    block = VOLUMES["cube"].hu[11:22]  # 16 ± 15 mm of slices of 3 mm
    shown = {"mip": block.max(axis=0), "minip": block.min(axis=0), "mean": block.mean(axis=0)}
    rows = np.clip((np.arange(53) + 0.5) * 40 / 53 - 0.5, 0, 39)  # 2 mm to pixels of 1.5 mm
    square = np.array([np.interp(rows, range(40), c) for c in shown[projection].T.astype(float)])
    grey = np.clip((square - (60 - 180)) * 255 / 360, 0, 255)
    expected = grey.mean() * page.evaluate(
        """([wide, high]) => {
          const {clientWidth: w, clientHeight: h} = document.querySelector('.stage');
          const scale = Math.min(w / wide, h / high);
          return wide * scale * high * scale / (w * h);
        }""",
        [64 * 1.5, 40 * 2.0],
    )
    until(
        page,
        f"([canvas, expected]) => Math.abs(({COLOURS})(canvas)[0] - expected) < 0.35",
        [canvas, float(expected)],
    )
    if projection != "mean":
        assert abs(page.evaluate(COLOURS, canvas)[0] - alone[0]) > 0.8


# ---- measures -------------------------------------------------------------------------------


def edge(axis, index, n):
    """Return the fraction at which a voxel's far side is shown."""
    return 1 - index / n


def test_a_length_is_right_in_millimetres(page):
    open_study(page, "cube/coronal/18?window=bone", ".stage[data-plane=coronal]")
    page.keyboard.press("l")
    right, left = edge(2, 34, 64), edge(2, 10, 64)
    drag(page, at(page, "cube", "coronal", right, 0.5), at(page, "cube", "coronal", left, 0.5))
    assert float(label_of(page, "length").split()[0]) == pytest.approx(CUBE_MM[2], abs=0.6)
    top, low = edge(0, 26, 32), edge(0, 6, 32)
    drag(page, at(page, "cube", "coronal", 0.6, top), at(page, "cube", "coronal", 0.6, low))
    until(page, "document.querySelectorAll('.measures li').length === 2")
    assert float(label_of(page, "length").split()[0]) == pytest.approx(CUBE_MM[0], abs=0.6)


def test_an_angle_is_right_whatever_the_voxels(page):
    open_study(page, "cube/axial/16")
    page.keyboard.press("n")
    # 30 mm to the left and 30 mm up: 45 degrees, though voxels are 1.5 by 2 mm.
    vertex = (0.6, 0.7)
    page.mouse.click(*at(page, "cube", "axial", 0.6 - 30 / 96, 0.7))
    page.mouse.click(*at(page, "cube", "axial", *vertex))
    page.mouse.click(*at(page, "cube", "axial", 0.6 - 30 / 96, 0.7 - 30 / 80))
    assert float(label_of(page, "angle").rstrip("°")) == pytest.approx(45, abs=0.7)


def test_a_region_of_interest_tells_the_mean_and_spread_of_its_voxels(page):
    open_study(page, "cube/axial/16")
    page.keyboard.press("o")
    x = [edge(2, i, 64) for i in (36, 8)]  # beyond the block, so that corners would tell
    y = [edge(1, i, 40) for i in (26, 10)]
    drag(page, at(page, "cube", "axial", x[0], y[0]), at(page, "cube", "axial", x[1], y[1]))
    until(page, "document.querySelector('.measures b')?.textContent.includes('HU')")
    mean, _, sd, *_ = label_of(page, "roi").split()
    rows, columns = np.mgrid[10:26, 8:36]
    inside = ((rows + 0.5 - 18) / 8) ** 2 + ((columns + 0.5 - 22) / 14) ** 2 <= 1
    values = VOLUMES["cube"].hu[16][10:26, 8:36][inside]
    # A pixel of the screen may take in or leave out voxels of air at the rim.
    assert float(mean) == pytest.approx(values.mean(), abs=15)
    assert float(sd) == pytest.approx(values.std(), abs=15)


def test_measures_are_made_and_removed_by_keys_alone(page):
    open_study(page, "cube/axial/16")
    page.keyboard.press("l")
    page.focus(f"{AXIAL} canvas")
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert float(label_of(page, "length").split()[0]) == pytest.approx(0.2 * 96, abs=0.1)
    assert "19.2 mm" in page.inner_text(
        "[role=status][aria-live=polite]:below(.viewer-body), .reading > [role=status]"
    )
    page.keyboard.press("Delete")
    until(page, "!document.querySelector('.measures')")


def test_measures_stay_with_their_study_and_slice(page):
    open_study(page, "cube/axial/16")
    page.keyboard.press("l")
    drag(page, at(page, "cube", "axial", 0.2, 0.3), at(page, "cube", "axial", 0.6, 0.3))
    kept = label_of(page, "length")
    page.evaluate("location.hash = '#/study/short/axial/5'")
    page.wait_for_selector(f"{AXIAL}[data-study=short][data-state=drawn]")
    assert page.locator(".measures").count() == 0
    page.evaluate("location.hash = '#/study/cube/axial/3'")
    page.wait_for_selector(f"{AXIAL}[data-study=cube][data-state=drawn]")
    assert label_of(page, "length") == kept
    page.click(".measures .go")
    wait_index(page, 16)


def test_escape_ends_a_drawing_then_the_tool_then_the_study(page):
    open_study(page, "cube/axial/16")
    page.keyboard.press("l")
    page.mouse.click(*at(page, "cube", "axial", 0.3, 0.3))
    page.keyboard.press("Escape")
    page.mouse.click(*at(page, "cube", "axial", 0.6, 0.3))
    assert page.locator(".measures").count() == 0
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    page.wait_for_selector("[data-tool=window][aria-pressed=true]")
    page.keyboard.press("Escape")
    page.wait_for_selector("#viewer", state="detached")


# ---- two studies ----------------------------------------------------------------------------


def test_two_studies_scroll_by_their_place_between_the_lungs_ends(page):
    open_study(page, "short/axial/4?compare=long", f"{AXIAL}[data-study=long]")
    # Lungs of 4 to 19 and of 33 to 56: the first slices meet, the last ones, and the middle.
    for here, there in ((4, 33), (19, 56), (12, 45), (0, 27)):
        page.fill(".pane[data-study=short] .slider", str(here))
        wait_index(page, here, study="short")
        wait_index(page, there, study="long")
    page.fill(".pane[data-study=long] .slider", "56")
    wait_index(page, 19, study="short")


def test_without_lungs_two_studies_scroll_by_millimetres_from_the_key_slice(page):
    open_study(page, "short/axial/4?compare=limb", f"{AXIAL}[data-study=limb]")
    key, other = (
        page.request.get(f"{page.site}v1/studies/{name}/key-slice").json()["index"]
        for name in ("short", "limb")
    )
    page.fill(".pane[data-study=short] .slider", str(key))
    wait_index(page, other, study="limb")
    page.fill(".pane[data-study=short] .slider", str(key + 4))  # 20 mm
    wait_index(page, other + 5, study="limb")


def test_window_zoom_and_plane_are_shared_until_they_are_unlocked(page):
    open_study(page, "short/axial/8?compare=long", f"{AXIAL}[data-study=long]")
    greys = "[...document.querySelectorAll('.grey')].map(g => g.textContent.slice(0, 8))"
    bars = "[...document.querySelectorAll('.bar')].map(b => b.getBoundingClientRect().width)"
    page.keyboard.press("3")
    until(page, f"{greys}.every(g => g === 'L 400  W')")
    page.keyboard.press("+")
    before = page.evaluate(bars)
    assert before[0] == pytest.approx(before[1], rel=0.02)
    page.keyboard.press("y")
    page.wait_for_selector("[data-control=sync][aria-pressed=false]")
    page.focus(f"{AXIAL}[data-study=long] canvas")
    page.keyboard.press("1")
    until(page, f"JSON.stringify({greys}) === JSON.stringify(['L 400  W', 'L -600  '])")
    page.keyboard.press("+")
    after = page.evaluate(bars)
    assert after[0] == before[0]
    assert after[1] == pytest.approx(1.25 * before[1], rel=0.01)
    here = index_of(page, study="short")
    page.keyboard.press("PageUp")
    page.wait_for_timeout(100)
    assert index_of(page, study="short") == here
    page.keyboard.press("c")
    until(
        page,
        "document.querySelectorAll('.stage[data-plane=coronal][data-state=drawn]').length === 2",
    )
    page.click("[data-control=uncompare]")
    until(page, "document.querySelectorAll('.pane').length === 1")
    assert "compare" not in page.url


# ---- heat -----------------------------------------------------------------------------------


def warmth(page, selector):
    """Return by how much a canvas is redder than blue, on average: greys are not."""
    red, _, blue = page.evaluate(COLOURS, selector)
    return red - blue


def test_the_heat_map_lies_over_the_ct_and_goes_again(page):
    open_study(page, "short/axial/12?q=left")
    canvas = f"{AXIAL} canvas"
    page.wait_for_selector("[data-control=heat]")
    assert warmth(page, canvas) == 0
    page.keyboard.press("h")
    page.wait_for_selector(f"{AXIAL}[data-heat=on]")
    until(page, f"canvas => {{ const [r, , b] = ({COLOURS})(canvas); return r - b > 3; }}", canvas)
    full = warmth(page, canvas)
    page.fill("[data-control=heat-share]", "0.1")
    assert 0 < warmth(page, canvas) < full / 2
    # "left" is the patient's left: the right half of what is shown.
    y = at(page, "short", "axial", 0, 0.5)[1]
    halves = page.evaluate(
        f"""y => {{
          const canvas = document.querySelector('{canvas}');
          const row = canvas.getContext('2d').getImageData(0, Math.round(y), canvas.width, 1).data;
          const sum = [0, 0];
          for (let i = 0; i < row.length; i += 4) sum[i * 2 < row.length ? 0 : 1] += row[i] - row[i + 2];
          return sum;
        }}""",
        y - page.locator(canvas).bounding_box()["y"],
    )
    assert halves[1] > 1.3 * halves[0]
    page.keyboard.press("h")
    page.wait_for_selector(f"{AXIAL}[data-heat=off]")
    assert warmth(page, canvas) == 0


def test_the_matching_slice_is_one_click_away(page):
    open_study(page, "short/axial/0?q=left")
    told = page.request.post(
        f"{page.site}v1/studies/short/explanation", data={"text": "left"}
    ).json()["slices"]
    page.click("[data-control=match]")
    wait_index(page, told["axial"])
    page.wait_for_selector(f"{AXIAL}[data-heat=on]")
    page.keyboard.press("m")
    wait_index(page, told["coronal"], "coronal")
    wait_index(page, told["sagittal"], "sagittal")


def test_the_map_is_warmest_where_its_greatest_value_lies(page):
    answer = {
        "study_id": "short", "shape": [4, 4, 4], "origin": [0, 0, 0], "step": [6, 12, 16],
        "values": [0.0] * 64, "peak": [9, 42, 8],
        "slices": {"axial": 9, "coronal": 42, "sagittal": 8},
    }  # fmt: skip
    answer["values"][1 * 16 + 3 * 4 + 0] = 1.0  # d 6-11, h 36-47 (front), w 0-15 (left)
    page.route(
        "**/explanation",
        lambda route: route.fulfill(content_type="application/json", body=json.dumps(answer)),
    )
    open_study(page, "short/axial/9?q=left")
    page.wait_for_selector("[data-control=heat]")
    page.keyboard.press("h")
    page.wait_for_selector(f"{AXIAL}[data-heat=on]")
    warmest = page.evaluate(
        f"""() => {{
          const canvas = document.querySelector('{AXIAL} canvas');
          const {{data}} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
          let best = [-1, 0];
          for (let i = 0; i < data.length; i += 4) if (data[i] - data[i + 2] > best[0]) best = [data[i] - data[i + 2], i / 4];
          const box = canvas.getBoundingClientRect();
          return [box.x + best[1] % canvas.width, box.y + Math.floor(best[1] / canvas.width)];
        }}"""
    )
    low, high = (at(page, "short", "axial", *corner) for corner in ((0.75, 0.0), (1.0, 0.25)))
    assert low[0] <= warmest[0] <= high[0]
    assert low[1] <= warmest[1] <= high[1]
    page.keyboard.press("End")  # three regions away there is nothing
    wait_index(page, 0)
    page.keyboard.press("Home")
    wait_index(page, 23)
    assert warmth(page, f"{AXIAL} canvas") == 0


def test_an_index_without_heat_maps_says_so(page):
    page.route(
        "**/explanation",
        lambda route: route.fulfill(
            status=422,
            content_type="application/json",
            body='{"error": {"type": "NoExplanation", "message": "None.", "hint": "None."}}',
        ),
    )
    open_study(page, "short/axial/9?q=left")
    page.wait_for_selector(".heat[data-heat=never]")
    assert page.locator("[data-control=heat]").count() == 0


# ---- region, 3D, words ----------------------------------------------------------------------


def test_a_region_that_is_drawn_becomes_the_query(page):
    open_study(page, "short/axial/9")
    page.click("[data-tool=region]")
    with page.expect_request("**/v1/search") as asked:
        drag(page, at(page, "short", "axial", 0.6, 0.7), at(page, "short", "axial", 0.2, 0.3))
    region = json.loads(asked.value.post_data)["region"]
    assert (region["study_id"], region["plane"], region["index"]) == ("short", "axial", 9)
    assert region["box"] == pytest.approx([0.2, 0.3, 0.6, 0.7], abs=0.01)


def test_a_study_is_drawn_in_3d_and_turned_by_keys(page):
    open_study(page, "short/3d", ".stage[data-plane='3d']")

    def picture():
        return page.locator(".stage[data-plane='3d'] canvas").screenshot()

    def greys(png):
        with Image.open(io.BytesIO(png)) as image:
            return len(np.unique(np.asarray(image.convert("L"))[150:500, 150:450]))

    first = picture()
    assert greys(first) > 8
    page.focus(".stage[data-plane='3d'] canvas")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    assert picture() != first
    assert page.url.split("#")[1].startswith("/study/short/3d")
    page.keyboard.press("a")
    page.wait_for_selector(f"{AXIAL}[data-state=drawn]")


def test_a_browser_without_webgl_is_told_what_to_do(page):
    page.add_init_script(
        """const get = HTMLCanvasElement.prototype.getContext;
        HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {
          return kind === 'webgl2' ? null : get.call(this, kind, ...rest);
        };"""
    )
    page.goto(f"{page.site}#/study/short/3d")
    page.wait_for_selector(".stage[data-plane='3d'] .failed")
    assert "WebGL 2" in page.inner_text(".failed")
    page.keyboard.press("a")
    page.wait_for_selector(f"{AXIAL}[data-state=drawn]")


def test_a_study_whose_volume_is_gone_says_so_and_keeps_its_facts(page):
    page.route(
        "**/slices/**",
        lambda route: route.fulfill(
            status=410,
            content_type="application/json",
            body='{"error": {"message": "The file is gone.", "hint": "Put it back."}}',
        ),
    )
    page.goto(f"{page.site}#/study/short/axial/3")
    page.wait_for_selector(".failed")
    assert "The file is gone." in page.inner_text(".failed")
    assert "24 × 48 × 64" in page.inner_text(".report-pane")


def test_everything_is_done_by_keys_and_the_help_tells_which(page):
    open_study(page, "short/axial/9?q=left")
    page.keyboard.press("?")
    page.wait_for_selector(".viewer-help[open]")
    assert page.locator(".viewer-help dt").count() > 12
    page.keyboard.press("Escape")
    page.wait_for_selector(".viewer-help", state="detached")
    for key, drawn in (("c", "coronal"), ("s", "sagittal"), ("a", "axial")):
        page.keyboard.press(key)
        page.wait_for_selector(f".stage[data-plane={drawn}][data-state=drawn]")
    page.keyboard.press("t")
    page.keyboard.press("]")
    until(page, "document.querySelector('.slab')?.textContent === 'MIP 15 mm'")
    page.keyboard.press("g")
    page.wait_for_selector(f"{AXIAL}[data-heat=on]")
    names = page.evaluate(
        """() => [...document.querySelectorAll('.reading button, .reading input, .reading select, .reading canvas')]
          .filter(e => !(e.ariaLabel || e.labels?.length || e.textContent.trim()) || e.tabIndex < 0).map(e => e.outerHTML)"""
    )
    assert names == []


def test_a_report_is_read_as_written_and_in_english(page):
    open_study(page, "short/axial/9")
    assert page.inner_text(".report") == IN_ENGLISH  # the page is in English
    assert page.get_attribute(".report", "lang") == "en"
    page.click("[data-report=original]")
    assert page.inner_text(".report") == INFORME
    assert page.get_attribute(".report", "lang") == "es"
    assert page.inner_text(".report .present").lower() == "derrame pleural izquierdo"
    assert page.locator(".reading .chip.present").count() == 1
    page.goto(f"{page.site}#/study/long/axial/9")
    page.wait_for_selector(f"{AXIAL}[data-study=long]")
    assert "no report" in page.inner_text(".report-pane")


def test_the_viewer_speaks_spanish(page):
    open_study(page, "short/axial/9?q=left")
    page.click("#language")
    until(page, "document.querySelector('[data-layout=sagittal]').textContent === 'Sagital'")
    assert page.inner_text("[data-window=lung]") == "Pulmón"
    assert page.inner_text(".edge.at-left") == "D"
    page.click("#language")
    until(page, "document.querySelector('[data-layout=sagittal]').textContent === 'Sagittal'")


def test_nothing_overflows_on_a_narrow_screen(page):
    page.set_viewport_size({"width": 390, "height": 844})
    open_study(page, "short/axial/9?q=left&compare=long")
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= 390
    box = page.locator(f"{AXIAL}[data-study=short] canvas").bounding_box()
    assert box["width"] > 300
    assert box["height"] > 200
