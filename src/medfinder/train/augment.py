"""Views: seeded random changes of a preprocessed volume that leave its report true.

No mirror images: sides would change. Shifts of whole voxels, gain, offset and noise on the values as
they are stored, 0 to 255, so that a view costs about a copy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from medfinder.errors import ConfigError


@dataclass(frozen=True)
class AugmentConfig:
    """How far a view departs from the volume.

    Attributes:
        shift_voxels: Largest shift along each axis; edges are repeated.
        gain: Largest relative change of contrast.
        offset: Largest change of brightness, as a share of the range.
        noise: Largest standard deviation of added noise, as a share of the range.
    """

    shift_voxels: int = 2
    gain: float = 0.06
    offset: float = 0.03
    noise: float = 0.02

    def __post_init__(self) -> None:
        for name in ("shift_voxels", "gain", "offset", "noise"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(
                    f"Setting augment.{name} is {getattr(self, name)}; expected a finite number of at "
                    "least 0."
                )


class Change(NamedTuple):
    """How one view departs from its volume.

    Attributes:
        shift: Voxels along (D, H, W): place i shows what lay at i + shift.
        gain: Factor of contrast about the middle of the range.
        offset: Added, as a share of the range.
        noise: Standard deviation of added noise, as a share of the range.
        seed: Of the noise.
    """

    shift: tuple[int, int, int]
    gain: float
    offset: float
    noise: float
    seed: int


def draw_change(config: AugmentConfig, generator: torch.Generator) -> Change:
    """Draw how a view departs from its volume."""
    m = config.shift_voxels
    gain, offset, noise = (torch.rand(3, generator=generator) * 2 - 1).tolist()
    d, h, w = torch.randint(-m, m + 1, (3,), generator=generator).tolist()
    seed = int(torch.randint(2**62, (1,), generator=generator)) if config.noise else 0
    return Change(
        (d, h, w),
        1 + config.gain * gain,
        config.offset * offset,
        abs(config.noise * noise),
        seed,
    )


def view(
    volumes: Tensor, config: AugmentConfig, generator: torch.Generator, out: Tensor | None = None
) -> Tensor:
    """Return a random view of each volume; see `change`.

    Args:
        generator: CPU; its draws alone decide the view.
    """
    return change(volumes, [draw_change(config, generator) for _ in volumes], out)


def change(volumes: Tensor, changes: Sequence[Change], out: Tensor | None = None) -> Tensor:
    """Return a view of each volume.

    Noise is drawn on the volumes' device, so that it differs between kinds of device.

    Args:
        volumes: (B, C, D, H, W) uint8 in 0..255, or floats in 0..1.
        changes: B.
        out: Where to write it, float32 of the same shape; None for a new tensor.

    Returns:
        float32 of the same shape, in 0..1.
    """
    x = torch.empty(volumes.shape, device=volumes.device) if out is None else out
    if not any(any(one.shift) for one in changes):
        x.copy_(volumes)
    elif volumes.device.type == "cpu":
        for volume, one, place in zip(volumes, changes, x, strict=True):
            _shift(volume, one.shift, place)
    else:
        x.copy_(_shifted(volumes, changes))
    top = 255 if volumes.dtype == torch.uint8 else 1
    settings = torch.tensor([(one.gain, one.offset, one.noise) for one in changes])
    gain, offset, noise = settings.to(x.device).T[..., None, None, None, None]
    if any(one.gain != 1 or one.offset for one in changes):
        x.mul_(gain / top).add_(0.5 + offset - 0.5 * gain)
    else:
        x.div_(top)
    if any(one.noise for one in changes):
        grain = torch.empty_like(x[:, :1])
        for place, one in zip(grain, changes, strict=True):
            near = torch.Generator(x.device)
            near.manual_seed(one.seed)
            place.normal_(generator=near)
        x.addcmul_(grain, noise)
    return x.clamp_(0, 1)


def _shifted(volumes: Tensor, changes: Sequence[Change]) -> Tensor:
    """Return ``volumes[b, :, clamp(i + shift of b)]``: one gather, as a GPU likes it."""
    shifts = torch.tensor([one.shift for one in changes]).to(volumes.device)  # (B, 3)
    at = []
    for axis, size in enumerate(volumes.shape[2:]):
        places = (torch.arange(size, device=volumes.device) + shifts[:, axis, None]).clamp(
            0, size - 1
        )
        at.append(places.view(-1, 1, *(size if a == axis else 1 for a in range(3))))
    batch = torch.arange(len(volumes), device=volumes.device).view(-1, 1, 1, 1, 1)
    channel = torch.arange(volumes.shape[1], device=volumes.device).view(1, -1, 1, 1, 1)
    return volumes[batch, channel, at[0], at[1], at[2]]


def _shift(volume: Tensor, by: Sequence[int], out: Tensor) -> None:
    """Write ``volume[clamp(i + by)]`` to ``out[i]`` along (D, H, W): edges are repeated.

    One copy, which also changes the type, then the few slices that came from outside.
    """
    axes = list(zip(by, volume.shape[1:], strict=True))
    source = tuple(slice(max(n, 0), size + min(n, 0)) for n, size in axes)
    goal = tuple(slice(max(-n, 0), size - max(n, 0)) for n, size in axes)
    out[(slice(None), *goal)] = volume[(slice(None), *source)]
    for axis, (n, size) in enumerate(axes, 1):
        if n > 0:
            out.narrow(axis, size - n, n).copy_(out.narrow(axis, size - n - 1, 1))
        elif n < 0:
            out.narrow(axis, 0, -n).copy_(out.narrow(axis, -n, 1))
