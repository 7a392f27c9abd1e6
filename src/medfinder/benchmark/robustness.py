"""A volume, or a text, as another archive or another person would give it: named, seeded changes.

Changes act before preprocessing, on HU and geometry, and on words. The same input and name give the
same output, on every machine; nothing here knows a model or a score.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medfinder.errors import InputError
from medfinder.registry import Registry
from medfinder.report.findings import extract_findings
from medfinder.report.sentences import sentences
from medfinder.volume.volume import Volume

Floats = NDArray[np.float32]
MIN_MM = 60.0
"""Least length, along any axis, that a cut may leave."""
_LETTERS = re.compile(r"[^\W\d_]{4,}")
_KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


@dataclass(frozen=True, slots=True)
class Perturbation:
    """A named change.

    Attributes:
        name: What a user types.
        acts_on: ``volume`` or ``text``.
        says: One line, with units.
        change: From a `Volume`, or a text, to the changed one.
    """

    name: str
    acts_on: Literal["volume", "text"]
    says: str
    change: Callable[[Any], Any]


perturbations: Registry[Perturbation] = Registry("perturbation")


def perturb_volume(volume: Volume, names: Sequence[str]) -> Volume:
    """Apply the named changes of volumes, in order; those of texts are passed over.

    Raises:
        UnknownName: No such perturbation.
        InputError: Rule ``too-small``: a cut would leave less than `MIN_MM`.
    """
    for name in names:
        one = perturbations.get(name)
        if one.acts_on == "volume":
            volume = one.change(volume)
    return volume


def perturb_text(text: str, names: Sequence[str]) -> str:
    """Apply the named changes of texts, in order; those of volumes are passed over.

    Raises:
        UnknownName: No such perturbation.
    """
    for name in names:
        one = perturbations.get(name)
        if one.acts_on == "text":
            text = one.change(text)
    return text


# --- volumes


def thicker_slices(volume: Volume, mm: float) -> Volume:
    """Average to slices of `mm`, without overlap, as a thicker reconstruction gives them.

    Each new slice is the mean over its own length of the old ones, weighted by how much of each
    lies in it; a rest at the top shorter than half a slice is left out. A volume whose slices are
    as thick already stays as it is.
    """
    old = volume.spacing_mm[0]
    if mm <= old:
        return volume
    n_old = volume.shape[0]
    n = max(1, int(np.floor(n_old * old / mm + 0.5)))
    edges = np.arange(n + 1) * mm / old  # in old slices
    low, high = edges[:-1, None], np.minimum(edges[1:, None], n_old)
    at = np.arange(n_old)
    weights = np.clip(np.minimum(high, at + 1) - np.maximum(low, at), 0, None)
    weights /= weights.sum(axis=1, keepdims=True)
    hu = np.einsum("nd,dhw->nhw", weights.astype(np.float32), volume.hu, optimize=True)
    affine = volume.affine.copy()
    step = affine[:3, 0] / old  # a millimetre along D
    affine[:3, 3] += step * (mm - old) / 2  # first edges coincide
    affine[:3, 0] = step * mm
    return _stored(volume, hu, affine)


def add_noise(volume: Volume, hu: float, seed: int = 0) -> Volume:
    """Add normal noise of standard deviation `hu`, independent from voxel to voxel.

    The noise is drawn from the voxels themselves and `seed`: one volume gets one noise, whatever
    its place in a list.
    """
    content = int(volume.content_hash[:16], 16)
    noise = np.random.default_rng([content, seed]).standard_normal(volume.shape, dtype=np.float32)
    return _stored(volume, volume.hu + np.float32(hu) * noise)


def smooth_kernel(volume: Volume, mm: float) -> Volume:
    """Blur in plane by a normal curve of standard deviation `mm`, as a softer kernel does."""
    return _stored(volume, _blurred(volume, mm))


def sharp_kernel(volume: Volume, mm: float, gain: float = 1.0) -> Volume:
    """Add `gain` times what a blur of `mm` in plane takes away, noise included, as a sharp kernel."""
    return _stored(volume, volume.hu + np.float32(gain) * (volume.hu - _blurred(volume, mm)))


def mirror(volume: Volume, axes: Sequence[int]) -> Volume:
    """Turn the voxels over along axes of (D, H, W) while the header stays: it says what is not so."""
    return replace(volume, stored=np.flip(volume.stored, tuple(axes)))


def swap_axes(volume: Volume, axes: tuple[int, int, int]) -> Volume:
    """Read the stack with its axes in another order, each with its own spacing.

    Args:
        axes: Which old axis becomes D, H and W.
    """
    affine = volume.affine.copy()
    directions = affine[:3, :3] / np.array(volume.spacing_mm)
    spacing = np.array(volume.spacing_mm)[list(axes)]
    affine[:3, :3] = directions * spacing
    return replace(volume, stored=volume.stored.transpose(axes), affine=affine)


def cut(
    volume: Volume,
    *,
    below_mm: float = 0.0,
    above_mm: float = 0.0,
    field_mm: float | None = None,
) -> Volume:
    """Take slices off at the bottom and the top, and keep the middle of each slice.

    Args:
        below_mm: Length taken off at the feet's end.
        above_mm: Length taken off at the head's end.
        field_mm: Edge of the square that is kept; None for all.

    Raises:
        InputError: Rule ``too-small``: less than `MIN_MM` would be left along an axis.
    """
    spacing = volume.spacing_mm
    bounds: list[tuple[int, int]] = [(0, n) for n in volume.shape]
    first = round(below_mm / spacing[0])
    bounds[0] = (first, volume.shape[0] - round(above_mm / spacing[0]))
    if field_mm is not None:
        for axis in (1, 2):
            n = volume.shape[axis]
            kept = min(n, round(field_mm / spacing[axis]))
            bounds[axis] = ((n - kept) // 2, (n - kept) // 2 + kept)
    left = [(b - a) * mm for (a, b), mm in zip(bounds, spacing, strict=True)]
    if min(left) < MIN_MM:
        raise InputError(
            f"The cut would leave {min(left):.0f} mm along an axis, at least {MIN_MM:.0f} mm are "
            "needed. Leave this perturbation out for volumes that short.",
            rule="too-small",
        )
    (d0, d1), (h0, h1), (w0, w1) = bounds
    affine = volume.affine.copy()
    affine[:, 3] = affine @ np.array([d0, h0, w0, 1.0])
    return replace(volume, stored=volume.stored[d0:d1, h0:h1, w0:w1], affine=affine)


def offset_hu(volume: Volume, hu: float) -> Volume:
    """Add a constant to every value, as a scanner out of calibration does."""
    return replace(volume, intercept=volume.intercept + hu)


def _blurred(volume: Volume, mm: float) -> Floats:
    from scipy import ndimage

    _, h, w = volume.spacing_mm
    out: Floats = ndimage.gaussian_filter(volume.hu, (0, mm / h, mm / w), mode="nearest")
    return out


def _stored(volume: Volume, hu: Floats, affine: NDArray[np.float64] | None = None) -> Volume:
    """Return the volume with other values, whole HU as a scanner stores them."""
    if not np.isfinite(hu).all():
        raise InputError(
            "The volume holds values that are not finite: it cannot be changed. Look at its values.",
            rule="not-finite",
        )
    stored = np.rint(hu).clip(-32768, 32767).astype(np.int16)
    return replace(
        volume,
        stored=stored,
        slope=1.0,
        intercept=0.0,
        affine=volume.affine if affine is None else affine,
    )


# --- texts


def misspell(text: str, n: int, seed: int = 0) -> str:
    """Make `n` typing errors in each sentence: letters swapped, left out, doubled or mistaken.

    Words of at least four letters are hit, no first letter and no word twice; a sentence with fewer
    such words has fewer errors. The errors are drawn from the text itself and `seed`.
    """
    digest = hashlib.sha256(text.encode("utf-8", "replace")).digest()
    rng = np.random.default_rng([int.from_bytes(digest[:8], "big"), seed])
    pieces: list[str] = []
    end = 0
    for start, stop in sentences(text):
        words = list(_LETTERS.finditer(text, start, stop))
        chosen = sorted(rng.permutation(len(words))[:n].tolist())
        for at in chosen:
            word = words[at]
            pieces += [text[end : word.start()], _mistyped(word.group(), rng)]
            end = word.end()
    return "".join([*pieces, text[end:]])


def _mistyped(word: str, rng: np.random.Generator) -> str:
    at = int(rng.integers(1, len(word) - 1))
    kind = int(rng.integers(4))
    if kind == 0 and word[at] != word[at + 1]:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if kind == 1:
        return word[:at] + word[at + 1 :]
    row = next((keys for keys in _KEYS if word[at].lower() in keys), "")
    if kind == 2 and row:
        place = row.index(word[at].lower())
        near = row[place + 1] if place + 1 < len(row) else row[place - 1]
        return word[:at] + near + word[at + 1 :]
    return word[:at] + word[at] + word[at:]


def affirmed_sentences(text: str) -> str:
    """Keep the sentences that affirm or suspect a finding; all of them where none does."""
    kept = [
        text[a:b]
        for a, b in sentences(text)
        if any(f.status != "absent" for f in extract_findings(text[a:b]))
    ]
    return " ".join(kept) or text


def finding_names(text: str) -> str:
    """Keep the names of what is affirmed, with commas between; the text where nothing is.

    Words that state several findings at once, as "nodule in the upper lobe" states a lung nodule
    too, give the first.
    """
    by_words = {f.start: f.name for f in reversed(extract_findings(text)) if f.status == "present"}
    return ", ".join(dict.fromkeys(by_words[start] for start in sorted(by_words))) or text


def names_as_sentences(text: str) -> str:
    """Make a sentence of each name of what is affirmed: "Pleural effusion. Nodule."."""
    names = finding_names(text)
    if names == text:
        return text
    return " ".join(f"{name.capitalize()}." for name in names.split(", "))


def first_finding(text: str) -> str:
    """Keep the name of the first finding that is affirmed; the text where none is."""
    names = finding_names(text)
    return text if names == text else names.split(", ")[0]


# --- names


def _add(
    name: str, acts_on: Literal["volume", "text"], says: str, change: Callable[[Any], Any]
) -> None:
    perturbations.register(name)(Perturbation(name, acts_on, says, change))


for _mm in (5, 10, 15):
    _add(
        f"slices-{_mm}mm",
        "volume",
        f"slices averaged to {_mm} mm; thicker ones stay",
        partial(thicker_slices, mm=_mm),
    )
for _hu in (30, 60):
    _add(
        f"noise-{_hu}hu",
        "volume",
        f"normal noise of {_hu} HU added to every voxel",
        partial(add_noise, hu=_hu),
    )
_add(
    "smooth-kernel",
    "volume",
    "blurred in plane by a normal curve of 3 mm",
    partial(smooth_kernel, mm=3.0),
)
_add(
    "sharp-kernel",
    "volume",
    "what a blur of 3 mm in plane takes away is added once more",
    partial(sharp_kernel, mm=3.0),
)
_add(
    "flipped-left-right",
    "volume",
    "left and right exchanged under the same header",
    partial(mirror, axes=(2,)),
)
_add(
    "orientation-missing",
    "volume",
    "no orientation in the header, and the file's own order wrongly assumed: left is right and "
    "front is back",
    partial(mirror, axes=(1, 2)),
)
_add(
    "upside-down",
    "volume",
    "slices in the opposite order under the same header",
    partial(mirror, axes=(0,)),
)
_add(
    "axes-swapped",
    "volume",
    "a coronal stack taken for an axial one",
    partial(swap_axes, axes=(1, 0, 2)),
)
_add("field-250mm", "volume", "the middle 250 x 250 mm of each slice", partial(cut, field_mm=250.0))
_add("top-cut-60mm", "volume", "the uppermost 60 mm left out", partial(cut, above_mm=60.0))
_add("bottom-cut-60mm", "volume", "the lowest 60 mm left out", partial(cut, below_mm=60.0))
_add("offset-plus-50hu", "volume", "every value 50 HU too high", partial(offset_hu, hu=50.0))
_add("offset-minus-50hu", "volume", "every value 50 HU too low", partial(offset_hu, hu=-50.0))
for _n in (1, 2):
    _add(
        f"misspelt-{_n}",
        "text",
        f"{_n} typing error{'s' * (_n > 1)} in each sentence",
        partial(misspell, n=_n),
    )
_add("lower-case", "text", "no capitals", str.lower)
_add(
    "affirmed-only",
    "text",
    "only the sentences that affirm or suspect a finding",
    affirmed_sentences,
)
_add("names-only", "text", "only the names of the findings affirmed, with commas", finding_names)
_add(
    "names-as-sentences",
    "text",
    "only the names of the findings affirmed, a sentence each",
    names_as_sentences,
)
_add("one-name", "text", "only the name of the first finding affirmed", first_finding)
