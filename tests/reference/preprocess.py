"""Preprocessing as its definition reads: float64 HU, one step after another, loops over outputs."""

import math

import numpy as np

from medfinder.volume.preprocess import PreprocessConfig
from medfinder.volume.volume import Volume


def preprocess(volume: Volume, config: PreprocessConfig) -> np.ndarray:
    """Return (channels, D, H, W) float64, not yet rounded to ``config.dtype``."""
    hu = volume.stored.astype(np.float64) * volume.slope + volume.intercept
    span = hu.min(), hu.max()
    if config.foreground_above_hu is not None:
        threshold = (
            span[0] if config.foreground_above_hu == "minimum" else config.foreground_above_hu
        )
        inside = np.argwhere(hu > threshold)
        if len(inside):
            first, last = inside.min(axis=0), inside.max(axis=0) + 1
            hu = hu[first[0] : last[0], first[1] : last[1], first[2] : last[2]]
    for axis in range(3):
        hu = np.moveaxis(_resample(np.moveaxis(hu, axis, 0), volume, config, axis), 0, axis)
    if config.size is not None:
        hu = _centre(hu, config.size, config.pad_hu)
    windows = config.windows_hu if config.scaling == "window" else (span,)
    low, high = config.output_range
    channels = []
    for a, b in windows:
        if b > a:
            channels.append(np.clip(low + (hu - a) / (b - a) * (high - low), low, high))
        else:
            channels.append(np.full(hu.shape, low))
    return np.stack(channels)


def _resample(hu: np.ndarray, volume: Volume, config: PreprocessConfig, axis: int) -> np.ndarray:
    n = len(hu)
    centres = config.interpolation == "trilinear" and config.grid == "centres"
    if config.spacing_mm is not None:
        step = config.spacing_mm[axis] / volume.spacing_mm[axis]
        m = round((n - 1) / step + 1) if centres else max(round(n / step), 1)
    elif config.size is not None:
        m = config.size[axis]
        step = (n - 1) / (m - 1) if centres and m > 1 else n / m
    else:
        return hu
    out = np.empty((m, *hu.shape[1:]))
    for i in range(m):
        if config.interpolation == "area":
            out[i] = hu[math.floor(i * n / m) : math.ceil((i + 1) * n / m)].mean(axis=0)
        else:
            at = i * step if centres else (i + 0.5) * step - 0.5
            at = min(max(at, 0.0), n - 1.0)
            left = math.floor(at)
            right = min(left + 1, n - 1)
            out[i] = hu[left] * (1 - (at - left)) + hu[right] * (at - left)
    return out


def _centre(hu: np.ndarray, size: tuple[int, int, int], pad_hu: float) -> np.ndarray:
    for axis, want in enumerate(size):
        have = hu.shape[axis]
        if have > want:
            start = have // 2 - want // 2
            hu = np.take(hu, range(start, start + want), axis)
        elif have < want:
            before = (want - have) // 2
            widths = [(0, 0)] * 3
            widths[axis] = (before, want - have - before)
            hu = np.pad(hu, widths, constant_values=pad_hu)
    return hu
