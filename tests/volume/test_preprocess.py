"""The one-pass kernel against the slow truth, and against the pipelines that encoders publish."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medfinder.config import config_hash, from_dict, to_dict
from medfinder.errors import ConfigError, GeometryError
from medfinder.phantom.chest import SMALL, PhantomConfig, make_phantom
from medfinder.volume.preprocess import PreprocessConfig, output_affine, preprocess
from medfinder.volume.volume import Volume
from reference import preprocess as reference

ASTRA = PreprocessConfig(
    foreground_above_hu=-1000, size=(160, 224, 224), windows_hu=((-1000, 200),)
)
MERLIN = PreprocessConfig(
    spacing_mm=(3, 1.5, 1.5), size=(160, 224, 224), interpolation="trilinear", grid="centres"
)
PUBLISHED = PreprocessConfig(foreground_above_hu="minimum", scaling="minmax", size=(96, 224, 224))
DTYPES = ["u1", "i1", "?", "i2", "u2", "i4", "u4", "i8", "f2", "f4", "f8", ">i2", ">f4"]


def volume_of(
    stored: np.ndarray, spacing_mm: Any = (2.0, 1.0, 1.0), slope: float = 1, intercept: float = 0
) -> Volume:
    affine = np.zeros((4, 4))
    affine[[2, 1, 0, 3], [0, 1, 2, 3]] = [*spacing_mm, 1]
    return Volume(stored, affine, slope, intercept)


def ct(shape: tuple[int, int, int] = (20, 30, 26), seed: int = 0, margin: int = 0) -> np.ndarray:
    """Noise between -1000 and 1500 HU, inside a margin of padding at -1024."""
    values = np.random.default_rng(seed).integers(-1000, 1500, shape).astype(np.int16)
    if margin:
        inner = tuple(slice(margin, -margin) for _ in shape)
        padded = np.full(shape, -1024, np.int16)
        padded[inner] = np.maximum(values[inner], -999)
        return padded
    return values


@st.composite
def views(draw: Any) -> np.ndarray:
    """Any view a reader or a user may hand over: permuted, mirrored, with gaps, any type."""
    order = draw(st.permutations(range(3)))
    steps = [draw(st.sampled_from([1, -1, 1, -1, 2, -3])) for _ in range(3)]
    shape = [draw(st.integers(1, 9)) * abs(step) for step in steps]
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    low, high = (0, 2) if dtype.kind == "b" else (0, 120) if dtype.itemsize == 1 else (0, 2000)
    values = rng.integers(low, high, shape).astype(dtype)
    margin = draw(st.integers(0, 2))
    if margin and min(shape) > 2 * margin:
        background = np.zeros_like(values)
        inner = tuple(slice(margin, n - draw(st.integers(0, margin))) for n in shape)
        background[inner] = values[inner]
        values = background
    return values.transpose(order)[tuple(slice(None, None, step) for step in steps)]


@st.composite
def configs(draw: Any) -> PreprocessConfig:
    sizes = st.tuples(*[st.integers(1, 12)] * 3)
    spacings = st.tuples(*[st.sampled_from([0.5, 0.9, 1.0, 1.7, 3.0, 40.0])] * 3)
    windows = st.sampled_from([((-1000.0, 200.0),), ((-200.0, 300.0), (0.0, 1.5), (-2e3, 3e3))])
    return PreprocessConfig(
        foreground_above_hu=draw(st.sampled_from([None, "minimum", -1000.0, 0.0, 80.0, 1e6])),
        size=draw(st.none() | sizes),
        spacing_mm=draw(st.none() | spacings),
        interpolation=draw(st.sampled_from(["area", "trilinear"])),
        grid=draw(st.sampled_from(["edges", "centres"])),
        scaling=draw(st.sampled_from(["window", "minmax"])),
        windows_hu=draw(windows),
        output_range=draw(st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])),
        pad_hu=draw(st.sampled_from([-1000.0, 0.0])),
    )


@settings(deadline=None, max_examples=250, suppress_health_check=list(HealthCheck))
@given(
    stored=views(),
    config=configs(),
    spacing=st.tuples(*[st.sampled_from([0.7, 1.0, 2.5])] * 3),
    rescale=st.sampled_from([(1.0, 0.0), (1.0, -1024.0), (0.5, -1000.0), (-1.0, 100.0)]),
    n_threads=st.sampled_from([1, 3]),
)
def test_every_view_and_config_agrees_with_the_slow_truth(
    stored: np.ndarray, config: PreprocessConfig, spacing: Any, rescale: Any, n_threads: int
) -> None:
    volume = volume_of(stored, spacing, *rescale)
    truth = reference.preprocess(volume, config)
    result = preprocess(volume, config, n_threads=n_threads)
    assert result.shape == truth.shape
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    windows = config.windows_hu if config.scaling == "window" else ((truth.min(), truth.max()),)
    narrowest = min(b - a for a, b in windows)
    width = config.output_range[1] - config.output_range[0]
    # float32 rounding of sums of values up to 3000, seen through the narrowest window
    tolerance = width * (1e-5 + 2e-3 / max(narrowest, 1.0))
    np.testing.assert_allclose(result, truth, atol=tolerance)


def test_the_result_does_not_depend_on_the_number_of_threads() -> None:
    volume = volume_of(ct((40, 33, 31)))
    config = dataclasses.replace(ASTRA, size=(17, 12, 13))
    one = preprocess(volume, config, n_threads=1)
    np.testing.assert_array_equal(one, preprocess(volume, config, n_threads=5))


def test_mirrored_and_permuted_storage_gives_the_same_values() -> None:
    straight = ct((24, 21, 22))
    config = dataclasses.replace(ASTRA, size=(10, 11, 9))
    expected = preprocess(volume_of(straight), config)
    stored = np.ascontiguousarray(straight[::-1, ::-1, ::-1])[::-1, ::-1, ::-1]
    np.testing.assert_allclose(preprocess(volume_of(stored), config), expected, atol=1e-6)
    stored = np.asfortranarray(straight)
    np.testing.assert_allclose(preprocess(volume_of(stored), config), expected, atol=1e-6)


def test_the_volume_is_not_written_to() -> None:
    stored = ct(margin=3)
    before = stored.copy()
    preprocess(volume_of(stored), dataclasses.replace(ASTRA, size=(5, 5, 5)))
    np.testing.assert_array_equal(stored, before)


@pytest.mark.parametrize("margin", [0, 4])
def test_area_and_foreground_are_what_torch_and_the_astra_contract_say(margin: int) -> None:
    torch = pytest.importorskip("torch")
    volume = volume_of(ct((30, 50, 44), margin=margin))
    config = dataclasses.replace(ASTRA, size=(16, 23, 47))
    hu = torch.from_numpy(volume.hu.copy())
    inside = torch.nonzero(hu > -1000)
    first, last = inside.min(0).values, inside.max(0).values + 1
    cropped = hu[first[0] : last[0], first[1] : last[1], first[2] : last[2]]
    resized = torch.nn.functional.interpolate(cropped[None, None], config.size, mode="area")[0]
    expected = ((resized + 1000) / 1200).clamp(0, 1).numpy()
    np.testing.assert_allclose(preprocess(volume, config), expected, atol=1e-5)


def test_trilinear_to_a_size_is_what_torch_says() -> None:
    torch = pytest.importorskip("torch")
    volume = volume_of(ct((9, 14, 30)))
    config = PreprocessConfig(
        size=(12, 7, 30), interpolation="trilinear", windows_hu=((-2e3, 2e3),)
    )
    resized = torch.nn.functional.interpolate(
        torch.from_numpy(volume.hu.copy())[None, None], config.size, mode="trilinear"
    )[0]
    np.testing.assert_allclose(preprocess(volume, config), (resized + 2000) / 4000, atol=1e-5)


@pytest.mark.slow
def test_the_published_recipe_is_what_monai_says() -> None:
    transforms = pytest.importorskip("monai.transforms")
    volume = volume_of(ct((24, 40, 38), margin=3))
    image = volume.hu.copy()[None]
    image = transforms.ScaleIntensity()(image)
    image = transforms.CropForeground(allow_smaller=True)(image)
    image = transforms.Resize((10, 22, 24))(image)
    config = dataclasses.replace(PUBLISHED, size=(10, 22, 24))
    np.testing.assert_allclose(preprocess(volume, config), image, atol=1e-5)


@pytest.mark.slow
def test_spacing_and_padding_are_what_monai_says_for_merlin() -> None:
    transforms = pytest.importorskip("monai.transforms")
    from monai.data import MetaTensor

    volume = volume_of(ct((24, 40, 60)), (2.5, 0.8, 0.8))
    size = (30, 18, 20)
    image: Any = MetaTensor(volume.hu.copy()[None], affine=np.diag([2.5, 0.8, 0.8, 1]))
    image = transforms.Spacing((3.0, 1.5, 1.5), mode="bilinear")(image)
    image = transforms.ScaleIntensityRange(-1000, 1000, 0, 1, clip=True)(image)
    image = transforms.CenterSpatialCrop(size)(transforms.SpatialPad(size)(image))
    expected = np.asarray(image)
    np.testing.assert_allclose(
        preprocess(volume, dataclasses.replace(MERLIN, size=size)), expected, atol=1e-4
    )


def test_values_are_averaged_before_they_are_clipped() -> None:
    stored = np.array([-1000, 1000], np.int16).reshape(1, 1, 2)
    config = PreprocessConfig(size=(1, 1, 1), windows_hu=((-100, 100),))
    assert preprocess(volume_of(stored), config).item() == pytest.approx(0.5)  # clip first: 0.5
    stored = np.array([0, 1000], np.int16).reshape(1, 1, 2)
    assert preprocess(volume_of(stored), config).item() == 1.0  # clip first: 0.75


def test_several_windows_become_channels_in_their_order() -> None:
    stored = np.full((2, 2, 2), 40, np.int16)
    config = PreprocessConfig(windows_hu=((0, 80), (40, 400), (-1000, 40)))
    assert preprocess(volume_of(stored), config)[:, 0, 0, 0] == pytest.approx([0.5, 0, 1])


def test_a_volume_without_foreground_is_kept_whole() -> None:
    volume = volume_of(np.full((4, 5, 6), -1000, np.int16))
    assert preprocess(volume, PreprocessConfig(foreground_above_hu=-1000)).shape == (1, 4, 5, 6)


def test_a_constant_volume_scales_to_the_low_end() -> None:
    volume = volume_of(np.full((4, 5, 6), 7, np.int16))
    assert (preprocess(volume, dataclasses.replace(PUBLISHED, size=(3, 3, 3))) == 0).all()


def test_the_pad_is_windowed_like_a_voxel() -> None:
    volume = volume_of(np.full((1, 1, 1), 500, np.int16), (1, 1, 1))
    config = PreprocessConfig(spacing_mm=(1, 1, 1), size=(3, 3, 3), pad_hu=0.0)
    result = preprocess(volume, config)[0]
    assert result[1, 1, 1] == pytest.approx(0.75)
    assert result[0, 0, 0] == 0.5


@pytest.mark.parametrize("dtype", ["float16", "uint8"])
def test_small_types_are_the_float_result_rounded(dtype: Any) -> None:
    volume = volume_of(ct(), (2.0, 1.0, 1.0))
    config = PreprocessConfig(spacing_mm=(3, 2, 2), size=(12, 20, 12), output_range=(0, 255))
    exact = preprocess(volume, config)
    small = preprocess(volume, dataclasses.replace(config, dtype=dtype))
    assert small.dtype == dtype
    expected = np.rint(exact).astype(dtype) if dtype == "uint8" else exact.astype(dtype)
    np.testing.assert_array_equal(small, expected)


def test_a_result_too_large_to_make_is_refused() -> None:
    volume = volume_of(ct((4, 4, 4)), (1000.0, 1000.0, 1000.0))
    with pytest.raises(GeometryError, match="Check the volume's spacing"):
        preprocess(volume, PreprocessConfig(spacing_mm=(0.01, 0.01, 0.01)))
    with pytest.raises(GeometryError, match="voxels along one axis"):
        preprocess(volume, PreprocessConfig(spacing_mm=(1e-9, 1, 1)))


@pytest.mark.parametrize("spacing", [0.0, float("nan"), float("inf")])
def test_a_volume_without_spacing_cannot_be_resampled_to_one(spacing: float) -> None:
    volume = volume_of(ct((4, 4, 4)), (1.0, spacing, 1.0))
    with pytest.raises(GeometryError, match="spacing along axis H is"):
        preprocess(volume, PreprocessConfig(spacing_mm=(1, 1, 1)))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("foreground_above_hu", float("nan"), "a number or 'minimum'"),
        ("foreground_above_hu", "maximum", "a number or 'minimum'"),
        ("spacing_mm", (1.0, 0.0, 1.0), "three lengths above 0"),
        ("spacing_mm", (1.0, 1.0), "three lengths above 0"),
        ("size", (1, 2, 0), "three whole numbers above 0"),
        ("size", (1, 2, 2.5), "three whole numbers above 0"),
        ("interpolation", "cubic", "one of area, trilinear"),
        ("grid", "corners", "one of edges, centres"),
        ("scaling", "z", "one of window, minmax"),
        ("windows_hu", (), "at least one (low, high)"),
        ("windows_hu", ((200.0, -1000.0),), "low < high"),
        ("output_range", (1.0, 1.0), "low < high"),
        ("pad_hu", float("inf"), "a finite number"),
        ("dtype", "int8", "one of float32, float16, uint8"),
    ],
)
def test_a_bad_setting_is_named(field: str, value: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PreprocessConfig(**{field: value})
    assert f"preprocess.{field} is " in str(caught.value)
    assert words in str(caught.value)


def test_uint8_needs_the_range_of_a_byte() -> None:
    with pytest.raises(ConfigError, match=r"preprocess\.output_range is .* where dtype is uint8"):
        PreprocessConfig(dtype="uint8")


@pytest.mark.parametrize("config", [ASTRA, MERLIN, PUBLISHED])
def test_a_config_survives_its_journey_as_plain_values(config: PreprocessConfig) -> None:
    again = from_dict(PreprocessConfig, to_dict(config))
    assert config_hash(again) == config_hash(config)


def test_equal_configs_hash_alike_whatever_the_spelling() -> None:
    a = PreprocessConfig(foreground_above_hu=-1000, windows_hu=((-1000, 200),))
    b = PreprocessConfig(foreground_above_hu=-1000.0, windows_hu=((-1000.0, 200.0),))
    assert config_hash(a) == config_hash(b)


def test_importing_the_module_does_not_import_numba() -> None:
    code = "import sys, medfinder.volume.preprocess; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_an_unwritable_cache_costs_time_and_nothing_else(tmp_path: Path) -> None:
    """Numba finds nowhere to keep compiled code: it compiles again, quietly."""
    code = (
        "import numba.core.caching as c\n"
        "c.CacheImpl._locator_classes = []\n"
        "from medfinder.volume import kernels\n"
        "import numpy as np\n"
        "print(kernels.foreground_bounds(np.ones((2, 2, 2), np.int16), 0.5, True))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "(0, 2, 0, 2, 0, 2)", done.stderr


def test_a_constant_volume_and_its_padding_are_low_under_minmax() -> None:
    volume = Volume(np.zeros((3, 3, 3), np.uint8), np.eye(4), intercept=-1024.0)
    config = PreprocessConfig(spacing_mm=(1, 1, 3), size=(3, 3, 3), scaling="minmax")
    assert not preprocess(volume, config).any()


SPREAD = {"windows_hu": ((0.0, 2000.0),), "output_range": (0.0, 2000.0)}


@pytest.mark.parametrize(
    "config",
    [
        PreprocessConfig(**SPREAD),
        PreprocessConfig(size=(16, 24, 12), **SPREAD),
        PreprocessConfig(foreground_above_hu=50.0, size=(8, 8, 8), **SPREAD),
        PreprocessConfig(spacing_mm=(5.0, 3.0, 2.0), **SPREAD),
        PreprocessConfig(spacing_mm=(4.0, 2.0, 2.0), size=(40, 10, 90), **SPREAD),
        PreprocessConfig(spacing_mm=(4.0, 2.5, 2.0), interpolation="trilinear", **SPREAD),
        PreprocessConfig(size=(9, 31, 15), interpolation="trilinear", grid="centres", **SPREAD),
        PreprocessConfig(
            spacing_mm=(3.0, 3.0, 3.0), size=(20, 20, 40), interpolation="trilinear",
            grid="centres", **SPREAD,
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("is_mirrored", [False, True])
def test_a_result_lies_where_its_affine_says(
    config: PreprocessConfig, axis: int, is_mirrored: bool
) -> None:
    # A volume whose values are a coordinate: each output tells where it lies.
    shape = (32, 48, 60)
    ramp = np.broadcast_to(
        (10.0 * np.arange(shape[axis])).reshape([-1 if a == axis else 1 for a in range(3)]), shape
    ).astype(np.float32)
    if is_mirrored:  # as a reader hands it over
        ramp = np.ascontiguousarray(ramp[::-1, :, ::-1])[::-1, :, ::-1]
    volume = volume_of(ramp, (2.0, 1.5, 1.25))
    made, affine = preprocess(volume, config)[0], output_affine(volume, config)
    index = np.stack(np.meshgrid(*map(np.arange, made.shape), indexing="ij"), -1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    voxel = (world - volume.affine[:3, 3]) @ np.linalg.inv(volume.affine[:3, :3]).T
    others = [a for a in range(3) if a != axis]
    last = np.array(shape) - 1
    inside = ((voxel >= 2) & (voxel <= last - 2)).all(-1) & (made > 0)
    assert inside.any()
    assert all((voxel[..., a][inside] >= 0).all() for a in others)
    step = np.linalg.norm(affine[:3, axis]) / np.linalg.norm(volume.affine[:3, axis])
    # The published area average counts whole voxels: half a voxel off at most.
    allowed = 0.51 if config.interpolation == "area" and step != 1 else 1e-3
    assert np.abs(made[inside] / 10 - voxel[..., axis][inside]).max() <= allowed


@pytest.mark.parametrize("at", [(12, 20, 14), (20, 30, 33)])
def test_a_mark_in_a_chest_is_found_where_the_affine_of_its_frame_says(
    at: tuple[int, int, int],
) -> None:
    chest = make_phantom(3, PhantomConfig(size=SMALL)).volume
    stored = chest.stored.copy()
    stored[at] = 30000
    marked = dataclasses.replace(chest, stored=stored)
    config = PreprocessConfig(
        frame="lungs", spacing_mm=(5.0, 3.75, 4.0), size=(64, 64, 80), windows_hu=((0.0, 40000.0),)
    )
    made, affine = preprocess(marked, config)[0], output_affine(marked, config)
    hottest = np.argwhere(made == made.max()).mean(0)
    found = affine @ [*hottest, 1]
    assert found[:3] == pytest.approx((chest.affine @ [*at, 1])[:3], abs=4)  # half a voxel
