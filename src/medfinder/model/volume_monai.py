"""Volume networks of MONAI: 3D ResNet-18 and ResNet-50, and a 3D vision transformer, untrained.

MONAI is imported when one is built. Its 3D ResNets come without torchvision; its transformer needs
einops.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from medfinder.errors import ConfigError, MissingExtra
from medfinder.model.volume_encoder import (
    VolumeEncoder,
    VolumeEncoderConfig,
    check_untrained,
    input_size,
)
from medfinder.volume.preprocess import PreprocessConfig

PIP = "pip install 'medfinder[train]'"
RESNET_CELL = (16, 32, 32)
"""Voxels of a region: slices of a CT are thicker than pixels, so the stem strides in the plane."""
RESNET_STEM_STRIDE = (1, 2, 2)
VIT_PATCH = (16, 16, 16)
HEAD_WIDTH = 64  # features of one attention head, as in ViT-B


class ResNet(VolumeEncoder):
    """MONAI's ResNet without its head: one region for each 16 x 32 x 32 voxels.

    Source:
        He et al. 2016 (arXiv 1512.03385) in three dimensions, as in Hara et al. 2018 (arXiv
        1711.09577). Shortcuts are projections ("B"): those of type "A" carry no gradient in MONAI.

    Args:
        name: "resnet18" or "resnet50".
        n_channels: Of the input.
        size: Of the input along (D, H, W), multiples of (16, 32, 32).
    """

    def __init__(self, name: str, n_channels: int, size: tuple[int, int, int]) -> None:
        super().__init__()
        self.n_regions = _grid(size, RESNET_CELL)
        network: Any = _monai("monai.networks.nets.resnet", name)(
            spatial_dims=3,
            n_input_channels=n_channels,
            conv1_t_stride=RESNET_STEM_STRIDE,
            shortcut_type="B",
            bias_downsample=False,  # a normalisation follows
            feed_forward=False,
        )
        self.width = int(network.in_planes)
        self.network = network.to(memory_format=torch.channels_last_3d)

    def forward(self, volumes: Tensor) -> Tensor:
        """(B, C, D, H, W) in 0..1 -> (B, N, 512 or 2048), not negative."""
        net: Any = self.network
        x = net.maxpool(net.act(net.bn1(net.conv1(volumes))))
        x = net.layer4(net.layer3(net.layer2(net.layer1(x))))
        regions: Tensor = x.flatten(2).transpose(1, 2)
        return regions


class ViT(VolumeEncoder):
    """MONAI's vision transformer: one region for each 16 x 16 x 16 voxels, learned positions.

    Source:
        Dosovitskiy et al. 2021 (arXiv 2010.11929) in three dimensions; 768 wide and 12 deep is
        ViT-B.

    Args:
        n_channels: Of the input.
        size: Of the input along (D, H, W), multiples of 16.
        width: Features of a region, a multiple of 64; each 64 are an attention head.
        depth: Blocks.
    """

    def __init__(self, n_channels: int, size: tuple[int, int, int], width: int, depth: int) -> None:
        super().__init__()
        self.n_regions = _grid(size, VIT_PATCH)
        self.width = width
        network: Any = _monai("monai.networks.nets.vit", "ViT")(
            in_channels=n_channels,
            img_size=size,
            patch_size=VIT_PATCH,
            hidden_size=width,
            mlp_dim=4 * width,
            num_layers=depth,
            num_heads=width // HEAD_WIDTH,
            qkv_bias=True,
        )
        for block in network.blocks:
            block.norm_cross_attn = nn.Identity()  # never used: it would have no gradient
        self.network = network

    def forward(self, volumes: Tensor) -> Tensor:
        """(B, C, D, H, W) in 0..1 -> (B, N, width), normalised over the width."""
        regions: Tensor = self.network(2 * volumes - 1)[0]
        return regions


def build(config: VolumeEncoderConfig, preprocess: PreprocessConfig) -> VolumeEncoder:
    """Build the network that `config` names, for an input of fixed size.

    Raises:
        MissingExtra: MONAI, or einops for "vit", is not installed.
        ConfigError: The input's size or the width does not suit the network, or the config asks
            for published or partly trained weights.
    """
    check_untrained(config)
    if config.name != "vit":
        return ResNet(config.name, preprocess.n_channels, input_size(preprocess, RESNET_CELL))
    if config.width % HEAD_WIDTH:
        raise ConfigError(
            f"Setting volume.width is {config.width}; network 'vit' needs a multiple of "
            f"{HEAD_WIDTH}."
        )
    size = input_size(preprocess, VIT_PATCH)
    return ViT(preprocess.n_channels, size, config.width, config.depth)


def _grid(size: tuple[int, int, int], cell: tuple[int, int, int]) -> tuple[int, int, int]:
    return size[0] // cell[0], size[1] // cell[1], size[2] // cell[2]


def _monai(module: str, name: str) -> Callable[..., nn.Module]:
    """Return MONAI's builder `name`; calling it, too, may find a package missing."""
    from importlib import import_module

    def made(**arguments: Any) -> nn.Module:
        try:
            network: nn.Module = getattr(import_module(module), name)(**arguments)
        except ImportError:
            raise MissingExtra(PIP) from None
        return network

    return made
