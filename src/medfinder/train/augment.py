"""Views: seeded random changes of a preprocessed volume that leave its report true.

No mirror images: sides would change. Shifts of whole voxels, gain, offset and noise on the values as
they are stored, 0 to 255, so that a view costs about a copy.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

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


def view(volumes: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Return a random view of each volume.

    Args:
        volumes: (B, C, D, H, W) uint8 in 0..255, or floats in 0..1.
        generator: CPU; its draws alone decide the view. Noise is drawn on the volumes' device, so
            that it differs between kinds of device.

    Returns:
        float32 of the same shape, in 0..1.
    """
    b = len(volumes)
    x = volumes.to(torch.float32, copy=True)
    if volumes.dtype == torch.uint8:
        x.div_(255)
    draws = torch.rand(b, 3, generator=generator) * 2 - 1
    gains = (1 + config.gain * draws[:, 0]).to(x.device)[:, None, None, None, None]
    offsets = (config.offset * draws[:, 1]).to(x.device)[:, None, None, None, None]
    if config.gain or config.offset:
        x = (x - 0.5).mul_(gains).add_(0.5 + offsets)
    if config.noise:
        sd = (config.noise * draws[:, 2].abs()).to(x.device)[:, None, None, None, None]
        if x.device.type == "cpu":
            near = generator
        else:  # on a GPU, noise from the CPU would take longer than the step
            near = torch.Generator(x.device)
            near.manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
        grain = torch.randn(x[:, :1].shape, generator=near, device=x.device)
        x = x.addcmul_(grain, sd)
    m = config.shift_voxels
    if m:
        shifts = torch.randint(-m, m + 1, (b, 3), generator=generator).tolist()
        padded = F.pad(x, (m,) * 6, mode="replicate")
        d, h, w = x.shape[2:]
        x = torch.stack(
            [
                one[:, m + i : m + i + d, m + j : m + j + h, m + k : m + k + w]
                for one, (i, j, k) in zip(padded, shifts, strict=True)
            ]
        )
    return x.clamp_(0, 1)
