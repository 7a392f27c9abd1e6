"""Views: seeded random changes of a preprocessed volume that leave its report true.

No mirror images: sides would change. Shifts of whole voxels, gain, offset and noise on the values as
they are stored, 0 to 255, so that a view costs about a copy.
"""

from dataclasses import dataclass

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
        if min(self.shift_voxels, self.gain, self.offset, self.noise) < 0:
            raise ConfigError("Settings of augment must not be negative.")


def view(
    volumes: Tensor, config: AugmentConfig, generator: torch.Generator, out: Tensor | None = None
) -> Tensor:
    """Return a random view of each volume.

    Args:
        volumes: (B, C, D, H, W) uint8 in 0..255, or floats in 0..1.
        generator: CPU; its draws alone decide the view. Noise is drawn on the volumes' device, so
            that it differs between kinds of device.
        out: Where to write it, float32 of the same shape; None for a new tensor.

    Returns:
        float32 of the same shape, in 0..1.
    """
    b, m = len(volumes), config.shift_voxels
    x = torch.empty(volumes.shape, device=volumes.device) if out is None else out
    draws = torch.rand(b, 3, generator=generator) * 2 - 1
    if m:
        shifts = torch.randint(-m, m + 1, (b, 3), generator=generator).tolist()
        for volume, by, place in zip(volumes, shifts, x, strict=True):
            _shift(volume, by, place)
    else:
        x.copy_(volumes)
    top = 255 if volumes.dtype == torch.uint8 else 1
    if config.gain or config.offset:
        gains = (1 + config.gain * draws[:, 0]).to(x.device)[:, None, None, None, None]
        offsets = (config.offset * draws[:, 1]).to(x.device)[:, None, None, None, None]
        x.mul_(gains / top).add_(0.5 + offsets - 0.5 * gains)
    else:
        x.div_(top)
    if config.noise:
        sd = (config.noise * draws[:, 2].abs()).to(x.device)[:, None, None, None, None]
        if x.device.type == "cpu":
            near = generator
        else:  # on a GPU, noise from the CPU would take longer than the step
            near = torch.Generator(x.device)
            near.manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
        grain = torch.randn(x[:, :1].shape, generator=near, device=x.device)
        x.addcmul_(grain, sd)
    return x.clamp_(0, 1)


def _shift(volume: Tensor, by: list[int], out: Tensor) -> None:
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
