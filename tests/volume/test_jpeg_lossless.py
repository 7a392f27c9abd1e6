"""JPEG Lossless: every predictor, precision and restart, against a slow encoder by the book."""

import contextlib
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medfinder.volume.jpeg_lossless import BrokenStream, decode, encode


def guess(x: np.ndarray, r: int, c: int, predictor: int, fresh: bool, start: int) -> int:
    """T.81 table H.1, with the edges of H.1.2.1."""
    if fresh:
        return start if c == 0 else int(x[r, c - 1])
    if c == 0:
        return int(x[r - 1, 0])
    a, b, d = int(x[r, c - 1]), int(x[r - 1, c]), int(x[r - 1, c - 1])
    return [a, b, d, a + b - d, a + ((b - d) >> 1), b + ((a - d) >> 1), (a + b) >> 1][predictor - 1]


def slow_encode(x: np.ndarray, predictor=1, precision=16, shift=0, restart_rows=0) -> bytes:
    """Encode symbol by symbol as a string of bits; codes of 5 bits equal the symbol."""
    x = x >> shift
    parts, bits = [], ""

    def flush(bits: str) -> bytes:
        bits += "1" * (-len(bits) % 8)
        raw = bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
        return raw.replace(b"\xff", b"\xff\x00")

    for r in range(x.shape[0]):
        fresh = r == 0 or (restart_rows > 0 and r % restart_rows == 0)
        if fresh and r:
            parts.append(flush(bits) + bytes([0xFF, 0xD0 + (r // restart_rows - 1) % 8]))
            bits = ""
        for c in range(x.shape[1]):
            start = 1 << (precision - shift - 1)
            diff = (int(x[r, c]) - guess(x, r, c, predictor, fresh, start)) & 0xFFFF
            diff = diff - 65536 if diff > 32768 else diff
            n = abs(diff).bit_length()
            bits += f"{n:05b}"
            if 0 < n < 16:
                bits += f"{diff if diff > 0 else diff - 1 + (1 << n):0{n}b}"
    parts.append(flush(bits))
    restart = struct.pack(">HHH", 0xFFDD, 4, restart_rows * x.shape[1]) if restart_rows else b""
    return (
        b"\xff\xd8\xff\xfe\x00\x07hello"  # a comment, to be passed over
        + b"\xff\xc3"
        + struct.pack(">HBHHBBBB", 11, precision, *x.shape, 1, 1, 0x11, 0)
        + b"\xff\xc4"
        + struct.pack(">HB16B17B", 36, 0, *[0, 0, 0, 0, 17], *[0] * 11, *range(17))
        + restart
        + b"\xff\xda"
        + struct.pack(">HBBBBBB", 8, 1, 1, 0, predictor, 0, shift)
        + b"".join(parts)
        + b"\xff\xd9"
    )


def noise(shape=(9, 7), high=65536, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, high, shape).astype(np.uint16)


@pytest.mark.parametrize("predictor", range(1, 8))
@pytest.mark.parametrize("restart_rows", [0, 1, 2])
def test_every_predictor_is_decoded_with_and_without_restarts(predictor, restart_rows):
    x = noise()
    np.testing.assert_array_equal(decode(slow_encode(x, predictor, restart_rows=restart_rows)), x)


@pytest.mark.parametrize("precision", [2, 8, 12, 16])
def test_every_precision_is_decoded(precision):
    x = noise(high=1 << precision)
    np.testing.assert_array_equal(decode(slow_encode(x, 4, precision)), x)


def test_a_point_transform_is_undone():
    x = noise(high=1 << 12) & 0xFFF8
    np.testing.assert_array_equal(decode(slow_encode(x, 6, 12, shift=3)), x)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (33, 40)])
def test_what_is_encoded_comes_back(shape):
    x = noise(shape).view(np.int16)
    np.testing.assert_array_equal(decode(encode(x)).view(np.int16), x)


def test_the_fast_encoder_writes_what_the_slow_one_writes():
    x = noise((8, 11))
    assert encode(x)[-300:-2].endswith(slow_encode(x)[-200:-2])


def test_data_that_end_early_are_told():
    data = encode(noise((20, 20)))
    with pytest.raises(BrokenStream, match=r"the data end in row 1\d of 20"):
        decode(data[: len(data) * 3 // 4])


def test_markers_that_break_off_are_told():
    with pytest.raises(BrokenStream, match="break off"):
        decode(encode(noise())[:20])


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"\xff\xd8", b"\x00\x00", "no start of image"),
        (b"\xff\xc3", b"\xff\xc0", "another JPEG process"),
        (b"\xff\xc4", b"\xab\xc4", "a marker is missing"),
        (b"\xff\xc4", b"\xff\xfe", "fits no frame or table"),
        (b"\x10\x00\x09\x00\x07\x01", b"\x10\x00\x09\x00\x07\x03", "not one grey component"),
    ],
)
def test_other_streams_are_told(old, new, words):
    data = encode(noise())
    assert old in data
    with pytest.raises(BrokenStream, match=words):
        decode(data.replace(old, new, 1))


def test_a_huge_declared_size_is_told_before_it_is_allocated():
    data = encode(noise()).replace(b"\x10\x00\x09\x00\x07", b"\x10\xff\xff\xff\xff", 1)
    with pytest.raises(BrokenStream, match="more pixels are declared than the bytes can hold"):
        decode(data)


def test_an_impossible_huffman_table_is_told():
    data = encode(noise()).replace(bytes([0, 0, 0, 0, 17]), bytes([17, 0, 0, 0, 0]), 1)
    with pytest.raises(BrokenStream, match="impossible Huffman table"):
        decode(data)


@settings(max_examples=200, deadline=None)
@given(
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    cut=st.floats(0.2, 1),
)
def test_damage_gives_pixels_or_an_error_never_more(edits, cut):
    data = bytearray(slow_encode(noise((6, 6)), 4, restart_rows=2))
    for where, what in edits:
        data[int(where * len(data))] = what
    data = data[: int(cut * len(data))]
    with contextlib.suppress(BrokenStream):
        assert decode(bytes(data)).size <= 8 * len(data)
