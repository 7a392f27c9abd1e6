"""The volume stream: preprocessed volumes -> region features; a table of networks by name.

A network is an `nn.Module` with `n_regions` and `width`, built by a function registered in
`volume_networks` from a `VolumeEncoderConfig` and the `PreprocessConfig` of its input. Names in
`LATER` are known from the start; their modules are imported when one is built.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Literal

from torch import Tensor, nn

from medfinder.errors import ConfigError
from medfinder.registry import Registry
from medfinder.volume.preprocess import PreprocessConfig


@dataclass(frozen=True)
class VolumeEncoderConfig:
    """Which volume network, and how big.

    Attributes:
        name: A key of `volume_networks`.
        width: Features of each region; networks of a fixed width ignore it.
        depth: Blocks or layers; networks of a fixed depth ignore it.
        region_voxels: Voxels along an axis that a region of "patch" stands for, 8 or 16.
        cell_voxels: Voxels along an axis between the places that "patch" looks at first, 2 or 4.
        pretrained: Name of an encoder of `medfinder.model.encoder.encoders`, for networks that
            start from one; "" for random weights.
        trained: "all", "none" (frozen) or "lora".
        lora_rank: Rank of the low-rank updates of "lora".
    """

    name: str = "patch"
    width: int = 256
    depth: int = 3
    region_voxels: Literal[8, 16] = 16
    cell_voxels: Literal[2, 4] = 4
    pretrained: str = ""
    trained: str = "all"
    lora_rank: int = 8

    def __post_init__(self) -> None:
        if self.trained not in ("all", "none", "lora"):
            raise ConfigError(
                f"Setting volume.trained is {self.trained!r}; expected 'all', 'none' or 'lora'."
            )
        if min(self.width, self.depth, self.lora_rank) < 1:
            raise ConfigError("Settings volume.width, depth and lora_rank must be at least 1.")


class VolumeEncoder(nn.Module):
    """What every volume network is.

    Attributes:
        n_regions: Regions along (D, H, W).
        width: Features of each region.
    """

    n_regions: tuple[int, int, int]
    width: int

    def forward(self, volumes: Tensor) -> Tensor:
        """(B, C, D, H, W) float32 in 0..1 -> (B, N, width).

        N regions lie in C order of `n_regions`.
        """
        raise NotImplementedError


VolumeBuilder = Callable[[VolumeEncoderConfig, PreprocessConfig], VolumeEncoder]
volume_networks: Registry[VolumeBuilder] = Registry("volume network")

LATER = {
    "resnet18": "medfinder.model.volume_monai",
    "resnet50": "medfinder.model.volume_monai",
    "vit": "medfinder.model.volume_monai",
    "pretrained": "medfinder.model.volume_pretrained",
}
"""Name -> the module whose ``build`` builds it."""


def _later(module: str) -> VolumeBuilder:
    def build(config: VolumeEncoderConfig, preprocess: PreprocessConfig) -> VolumeEncoder:
        network: VolumeEncoder = import_module(module).build(config, preprocess)
        return network

    return build


for _name, _module in LATER.items():
    volume_networks.register(_name)(_later(_module))


def check_untrained(config: VolumeEncoderConfig) -> None:
    """Refuse what only a network with weights of somebody's can be.

    Raises:
        ConfigError: The config asks for published, frozen or partly trained weights.
    """
    if config.pretrained or config.trained != "all":
        raise ConfigError(
            f"Settings volume.pretrained {config.pretrained!r} and volume.trained "
            f"{config.trained!r}: network {config.name!r} starts from random weights and is wholly "
            "trained. Set volume.name to 'pretrained', or leave both out."
        )


def input_size(preprocess: PreprocessConfig, patch: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return the input's size along (D, H, W), which must be a multiple of the network's patch.

    Raises:
        ConfigError: The preprocessing has no fixed size, or one that the patch does not divide.
    """
    size = preprocess.size
    if size is None or any(n % p for n, p in zip(size, patch, strict=True)):
        raise ConfigError(
            f"Setting preprocess.size is {size}; this network needs multiples of {patch} along "
            "(D, H, W)."
        )
    return size
