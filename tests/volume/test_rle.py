"""DICOM RLE against pydicom's encoder, and on broken data."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.pixels.encoders.native import _encode_frame
from pydicom.uid import RLELossless

from medfinder.volume.rle import decode


class Runner:
    """The part of pydicom's EncodeRunner that its RLE encoder looks at."""

    transfer_syntax = RLELossless
    samples_per_pixel = 1

    def __init__(self, x: np.ndarray) -> None:
        self.rows, self.columns = x.shape
        self.bits_allocated = x.itemsize * 8

    def get_option(self, name: str, default: object = None) -> object:
        return {"byteorder": "<"}.get(name, default)


def encoded(x: np.ndarray) -> bytes:
    return bytes(_encode_frame(x.tobytes(), Runner(x)))  # type: ignore[arg-type]


def image(dtype: str = "<i2", seed: int = 0) -> np.ndarray:
    """Return runs and noise, both."""
    x = np.random.default_rng(seed).integers(0, 255, (13, 17)).astype(dtype)
    x[3:9, 2:] = 7
    return x


@pytest.mark.parametrize("dtype", ["u1", "<i2", "<u4"])
def test_what_pydicom_encodes_comes_back(dtype):
    x = image(dtype)
    out = np.empty_like(x)
    assert decode(encoded(x), out)
    np.testing.assert_array_equal(out, x)


@pytest.mark.parametrize("cut", [0, 10, 64, 100, -40])
def test_data_that_end_early_are_told(cut):
    x = image()
    assert not decode(encoded(x)[:cut], np.empty_like(x))


def test_another_number_of_planes_is_told():
    assert not decode(encoded(image("u1")), np.empty((13, 17), "<i2"))


@settings(max_examples=200, deadline=None)
@given(edits=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=10))
def test_damage_never_writes_outside(edits):
    x = image()
    data = bytearray(encoded(x))
    for at, what in edits:
        data[at % len(data)] = what
    guarded = np.full((15, 17), -7, np.int16)
    decode(bytes(data), guarded[1:-1])
    assert (guarded[[0, -1]] == -7).all()
