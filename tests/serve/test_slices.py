import gzip
import struct
import threading
import zlib

import numpy as np
import pytest

from medfinder.errors import InputError, UnknownName
from medfinder.serve.slices import (
    MAX_PIXELS,
    WINDOWS,
    Landmarks,
    PixelCache,
    Pixels,
    PngCache,
    Slab,
    Window,
    check_slice,
    cut_slice,
    encode_hu,
    encode_png,
    find_landmarks,
    find_slab,
    find_window,
    plane_geometry,
    region_voxels,
    render_slice,
    to_pixels,
)
from medfinder.volume.volume import Volume

WIDE = Window(0, 2000)


def decode_png(png):
    """Read an 8-bit grey PNG whose lines are filtered by Sub: slow and obvious."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(png):
        (n,) = struct.unpack(">I", png[at : at + 4])
        kind, data = png[at + 4 : at + 8], png[at + 8 : at + 8 + n]
        assert struct.unpack(">I", png[at + 8 + n : at + 12 + n])[0] == zlib.crc32(kind + data)
        chunks[kind] = data
        at += 12 + n
    columns, rows, depth, colour, *_ = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (depth, colour) == (8, 0)
    raw = zlib.decompress(chunks[b"IDAT"])
    out = []
    for r in range(rows):
        line = raw[r * (columns + 1) : (r + 1) * (columns + 1)]
        assert line[0] == 1
        before, values = 0, []
        for byte in line[1:]:
            before = (before + byte) % 256
            values.append(before)
        out.append(values)
    return np.array(out, dtype=np.uint8)


def pixels_of(hu, spacing_mm=(1.0, 1.0, 1.0)):
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2] = spacing_mm
    affine[3, 3] = 1
    return Pixels(np.asarray(hu, dtype=np.int16), affine, Landmarks(0, None))


def marked(d, h, w):
    """Air with one white voxel."""
    hu = np.full((6, 8, 10), -1000)
    hu[d, h, w] = 1000
    return pixels_of(hu)


def where_white(png):
    rows, columns = np.nonzero(decode_png(png) == 255)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def test_a_png_holds_the_grey_values_that_were_given():
    grey = np.random.default_rng(0).integers(0, 256, (7, 13), dtype=np.uint8)
    assert (decode_png(encode_png(grey)) == grey).all()


def test_an_axial_slice_has_the_front_on_top_and_the_right_on_the_left():
    pixels = marked(2, 7, 9)  # most anterior, most right
    assert where_white(render_slice(pixels, "axial", 2, WIDE)) == [(0, 0)]


def test_a_coronal_slice_has_the_head_up_and_the_right_on_the_left():
    pixels = marked(5, 3, 9)  # most superior, most right
    assert where_white(render_slice(pixels, "coronal", 3, WIDE)) == [(0, 0)]


def test_a_sagittal_slice_has_the_head_up_and_the_front_on_the_left():
    pixels = marked(5, 7, 4)
    assert where_white(render_slice(pixels, "sagittal", 4, WIDE)) == [(0, 0)]


def test_the_edges_say_what_lies_there():
    edges = {
        p: plane_geometry((6, 8, 10), (1, 1, 1), p).edges for p in ("axial", "coronal", "sagittal")
    }
    assert edges == {
        "axial": ("R", "L", "A", "P"),
        "coronal": ("R", "L", "S", "I"),
        "sagittal": ("A", "P", "S", "I"),
    }


def test_pixels_are_square_in_millimetres():
    hu = np.zeros((10, 40, 40))
    png = decode_png(render_slice(pixels_of(hu, (5.0, 0.8, 0.8)), "coronal", 0, WIDE))
    assert png.shape == (round(10 * 5 / 0.8), 40)


def test_a_ball_is_round_in_every_plane():
    spacing = (4.0, 1.0, 2.0)
    shape = (20, 80, 40)
    grid = np.meshgrid(
        *((np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)),
        indexing="ij",
    )
    hu = np.where(sum(g**2 for g in grid) < 30**2, 1000, -1000)
    for axis, plane in enumerate(("axial", "coronal", "sagittal")):
        png = decode_png(render_slice(pixels_of(hu, spacing), plane, shape[axis] // 2, WIDE)) > 127
        height, width = png.any(axis=1).sum(), png.any(axis=0).sum()
        assert abs(int(height) - int(width)) <= 4


def test_a_window_maps_its_ends_to_black_and_white():
    hu = np.array([[[-1350, -1349, -600, 149, 150, 3000]]])
    row = decode_png(render_slice(pixels_of(hu), "axial", 0, WINDOWS["lung"]))[0, ::-1]
    assert row[0] == 0
    assert row[2] in (127, 128)
    assert row[4] == row[5] == 255


def slab_slowly(hu, spacing_mm, plane, index, slab):
    """Voxel by voxel: every slice whose centre lies within half the slab, then its projection."""
    axis = ("axial", "coronal", "sagittal").index(plane)
    across = [n for i, n in enumerate(hu.shape) if i != axis]
    out = np.empty(across)
    near = [
        i for i in range(hu.shape[axis])
        if abs(i - index) * spacing_mm[axis] <= slab.thickness_mm / 2
    ]  # fmt: skip
    for row in range(across[0]):
        for column in range(across[1]):
            at = [row, column]
            seen = [int(hu[(*at[:axis], i, *at[axis:])]) for i in near]
            value = {"mip": max(seen), "minip": min(seen), "mean": sum(seen) / len(seen)}
            out[across[0] - 1 - row, across[1] - 1 - column] = value[slab.projection]
    return out


@pytest.mark.parametrize("projection", ["mip", "minip", "mean"])
@pytest.mark.parametrize(("plane", "n"), [("axial", 9), ("coronal", 7), ("sagittal", 11)])
@pytest.mark.parametrize("thickness_mm", [0.1, 5.0, 6.0, 14.9, 900.0])
def test_a_slab_is_the_projection_of_the_slices_around_it(projection, plane, n, thickness_mm):
    spacing = (2.5, 3.0, 1.5)
    hu = np.random.default_rng(2).integers(-1000, 1000, (9, 7, 11)).astype(np.int16)
    slab = Slab(thickness_mm, projection)
    for index in (0, n // 2, n - 1):
        cut = cut_slice(pixels_of(hu, spacing), plane, index, slab)
        expected = slab_slowly(hu, spacing, plane, index, slab)
        assert np.allclose(cut, expected, atol=1e-3)


def test_a_slab_is_drawn_as_its_projection():
    hu = np.full((6, 8, 10), -1000)
    hu[1, 7, 9] = 1000
    assert where_white(render_slice(pixels_of(hu), "axial", 3, WIDE, Slab(4, "mip"))) == [(0, 0)]
    assert where_white(render_slice(pixels_of(hu), "axial", 3, WIDE, Slab(3, "mip"))) == []
    assert where_white(render_slice(pixels_of(hu), "axial", 1, WIDE, Slab(4, "minip"))) == []


def test_a_slab_without_a_word_is_a_mip():
    assert find_slab(10) == Slab(10, "mip")


def test_without_a_thickness_there_is_no_slab():
    assert find_slab() is None


@pytest.mark.parametrize("slab_mm", [0.0, -5.0, 1000.5, float("nan"), float("inf")])
def test_a_slab_that_no_body_has_is_refused(slab_mm):
    with pytest.raises(InputError, match=r"slab of .* mm is out of range: expected") as error:
        find_slab(slab_mm, "mean")
    assert error.value.rule == "bad-slab"


def test_a_projection_of_nothing_is_refused():
    with pytest.raises(InputError, match="needs a slab") as error:
        find_slab(None, "mip")
    assert error.value.rule == "bad-slab"


def test_an_unknown_projection_is_refused_with_the_known_ones():
    with pytest.raises(UnknownName, match="minip"):
        find_slab(10, "max")


@pytest.mark.parametrize("slab", [None, Slab(4, "mean")])
@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_hounsfield_units_are_sent_as_they_are_displayed(plane, slab):
    hu = np.random.default_rng(3).integers(-1000, 1000, (6, 8, 10)).astype(np.int16)
    pixels = pixels_of(hu, (2.0, 1.0, 1.0))
    cut = np.rint(cut_slice(pixels, plane, 4, slab))
    sent = np.frombuffer(gzip.decompress(encode_hu(pixels, plane, 4, slab)), "<i2")
    assert (sent.reshape(cut.shape) == cut).all()


def test_an_enormous_aspect_stays_within_the_largest_picture():
    geometry = plane_geometry((4000, 512, 512), (5.0, 0.5, 0.5), "coronal")
    assert max(geometry.width, geometry.height) == MAX_PIXELS


def test_stored_values_become_hounsfield_units_as_the_volume_says():
    stored = np.array([[[0, 1024, 4000]]], dtype=np.uint16)
    pixels = to_pixels(Volume(stored, np.eye(4), slope=1.0, intercept=-1024.0))
    assert pixels.hu.tolist() == [[[-1024, 0, 2976]]]


def test_values_beyond_int16_and_nan_are_held_within_it():
    stored = np.array([[[np.nan, 1e6, -1e6]]])
    assert to_pixels(Volume(stored, np.eye(4))).hu.tolist() == [[[0, 32767, -32768]]]


@pytest.mark.parametrize(
    ("dtype", "slope", "intercept"),
    [("i2", 1, 0), ("i2", 1, -30000), ("u2", 1, -1024), ("u2", 1, -1024.5), ("i2", 0.5, 3),
     ("i1", 1, 0), ("i4", 1, 7), ("f4", 1, 0), (">i2", 1, 0)],
)  # fmt: skip
def test_every_way_of_storing_becomes_what_the_rescale_says(dtype, slope, intercept):
    info = np.iinfo(dtype) if dtype[-2] != "f" else np.iinfo(np.int32)
    values = np.random.default_rng(1).integers(info.min, info.max, (3, 5, 4), endpoint=True)
    stored = values.astype(dtype).transpose(1, 2, 0)[:, ::-1]
    made = to_pixels(Volume(stored, np.eye(4), slope, intercept)).hu
    expected = np.rint(stored.astype(np.float64) * slope + intercept).clip(-32768, 32767)
    assert (made == expected).all()
    assert made.flags.c_contiguous


def test_the_lungs_end_where_they_do():
    hu = np.full((40, 64, 80), -1000, dtype=np.int16)
    hu[:, 4:60, 4:76] = 40
    hu[9:30, 16:48, 12:36] = hu[9:30, 16:48, 44:68] = -800
    assert find_landmarks(hu).lungs == ((9, 29), (16, 47), (12, 67))


def test_a_bubble_in_the_bowel_is_no_lung():
    hu = np.full((40, 64, 80), 40, dtype=np.int16)
    hu[:, 0] = hu[:, -1] = -1000
    hu[20:36, 16:48, 12:68] = -800
    hu[3, 8:16, 36:40] = -800
    assert find_landmarks(hu).lungs == ((20, 35), (16, 47), (12, 67))


def test_ends_of_lungs_lie_within_the_volume():
    hu = np.full((8, 62, 63), 40, dtype=np.int16)
    hu[:, 12:61, 12:62] = -800
    hu[:, 61:] = hu[:, :, 62:] = 40
    _, rows, columns = find_landmarks(
        np.pad(hu, ((0, 0), (0, 3), (0, 2)), constant_values=40)
    ).lungs
    assert rows == (12, 63)
    assert columns == (12, 63)


def test_the_key_slice_shows_most_lung():
    hu = np.full((30, 64, 64), 40, dtype=np.int16)
    hu[:, :4] = hu[:, -4:] = -1000
    hu[8:14, 20:44, 12:52] = -800
    hu[11, 16:48, 8:56] = -800
    assert find_landmarks(hu).key_slice == 11


def test_foam_around_a_limb_is_no_lung():
    hu = np.full((20, 64, 64), -800, dtype=np.int16)  # foam everywhere
    hu[:, 24:40, 24:40] = 40
    hu[15, 20:44, 20:44] = 40
    assert find_landmarks(hu).key_slice == 15


def test_without_any_difference_the_key_slice_is_the_middle():
    assert find_landmarks(np.full((9, 8, 8), -1000, dtype=np.int16)) == Landmarks(4, None)


@pytest.mark.parametrize("index", [-1, 6])
def test_a_slice_outside_of_the_volume_is_refused_with_its_range(index):
    with pytest.raises(InputError, match=rf"no axial slice {index}: expected 0 to 5") as error:
        check_slice((6, 8, 10), "axial", index)
    assert error.value.rule == "slice-out-of-range"


def test_an_unknown_plane_is_refused_with_the_known_ones():
    with pytest.raises(UnknownName, match="axial"):
        check_slice((6, 8, 10), "oblique", 0)


def test_without_a_word_the_window_is_lung():
    assert find_window() == WINDOWS["lung"]


def test_a_level_and_a_width_make_a_window():
    assert find_window(None, 50, 350) == Window(50, 350)


@pytest.mark.parametrize(
    "given",
    [
        ("lung", 40.0, 400.0),
        (None, 40.0, None),
        (None, None, 4.0),
        (None, 0.0, 0.0),
        (None, float("nan"), 4.0),
    ],
)
def test_half_a_window_or_an_impossible_one_is_refused(given):
    with pytest.raises(InputError, match="indow") as error:
        find_window(*given)
    assert error.value.rule == "bad-window"


def test_a_volume_is_loaded_once_however_many_ask():
    cache = PixelCache(10**6)
    gate, loads = threading.Event(), []

    def load():
        loads.append(1)
        gate.wait(5)
        return pixels_of(np.zeros((1, 2, 2)))

    futures = [cache.get("a", load) for _ in range(20)]
    gate.set()
    assert len({id(f.result(5)) for f in futures}) == 1
    assert len(loads) == 1
    cache.close()


def test_the_volumes_longest_unseen_go_first():
    cache = PixelCache(2 * 2000)
    for key in ("a", "b"):
        cache.get(key, lambda: pixels_of(np.zeros((1, 10, 100)))).result(5)
    cache.get("a", lambda: pixels_of(np.zeros(0))).result(5)
    cache.get("c", lambda: pixels_of(np.zeros((1, 10, 100)))).result(5)
    cache.close()
    assert [k in cache for k in "abc"] == [True, False, True]
    assert cache.size_bytes == 4000


def test_a_load_that_failed_is_tried_again():
    cache = PixelCache(1000)

    def fail():
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        cache.get("a", fail).result(5)
    assert cache.get("a", lambda: pixels_of(np.zeros((1, 1, 1)))).result(5).hu.shape == (1, 1, 1)
    cache.close()


def test_finished_pictures_are_kept_within_their_bound():
    cache = PngCache(10)
    cache.put("a", b"12345")
    cache.put("b", b"12345")
    cache.get("a")
    cache.put("c", b"12345")
    assert [cache.get(k) is not None for k in "abc"] == [True, False, True]


def drawn_box(plane, box, shape=(20, 40, 60), index=5):
    return region_voxels(shape, (2.0, 1.0, 1.0), plane, index, box)


@pytest.mark.parametrize(
    ("plane", "across", "down"), [("axial", 2, 1), ("coronal", 2, 0), ("sagittal", 1, 0)]
)
def test_a_box_drawn_at_the_top_left_is_at_the_ends_of_both_axes(plane, across, down):
    shape = (20, 40, 60)
    low, high = drawn_box(plane, (0, 0, 0.25, 0.25))
    for axis in (across, down):
        assert (low[axis], high[axis]) == (shape[axis] * 3 // 4, shape[axis])


def test_a_boxs_depth_is_the_mean_of_its_sides():
    low, high = drawn_box("axial", (0.5, 0.5, 0.6, 0.6))  # 6 mm by 4 mm, slices of 2 mm
    assert (low[0], high[0]) == (4, 7)


def test_a_box_without_any_size_is_a_voxel():
    low, high = drawn_box("axial", (1, 1, 1, 1))
    assert low[1:] == (0, 0)
    assert high[1:] == (1, 1)
    assert (low[0], high[0]) == (5, 6)


def test_a_box_may_be_drawn_from_any_corner():
    assert drawn_box("axial", (0.6, 0.8, 0.2, 0.3)) == drawn_box("axial", (0.2, 0.3, 0.6, 0.8))
