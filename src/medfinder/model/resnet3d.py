"""An inflated 3D ResNet of bottlenecks: (B, 1, D, H, W) -> a grid of region features.

The architecture is ResNet-152 (He et al. 2016, arXiv 1512.03385; stride in the 3x3, as in "v1.5")
with every kernel inflated along depth (Carreira & Zisserman 2017, arXiv 1705.07750). Parameter
names and shapes are those of the published weights. Knows nothing of weights files or of CT.
"""

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

BLOCKS_152 = (3, 8, 36, 3)


class Bottleneck(nn.Module):
    """1x1x1, 3x3x3, 1x1x1 convolutions with a shortcut; the output has 4 * `width` channels."""

    def __init__(self, n_in: int, width: int, stride: int, project: bool) -> None:
        super().__init__()
        n_out = 4 * width
        self.stride = stride
        self.conv1 = nn.Conv3d(n_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = nn.Conv3d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm3d(width)
        self.conv3 = nn.Conv3d(width, n_out, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(n_out)
        self.downsample: nn.Sequential | None = None
        if project:
            self.downsample = nn.Sequential(
                nn.Conv3d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm3d(n_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_in, D, H, W) -> (B, 4 * width, D / stride, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + shortcut)


class InflatedResNet(nn.Module):
    """The network as published: the slow truth beside `medfinder.model.fast_resnet3d`.

    Args:
        blocks: Bottlenecks in each of the four layers.
        width: Channels of the stem; layer i has ``width * 2**i`` inside its bottlenecks.
        n_channels: Input channels; volumes with one channel are repeated to fill them.
    """

    def __init__(
        self,
        blocks: tuple[int, int, int, int] = BLOCKS_152,
        width: int = 64,
        n_channels: int = 3,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(n_channels, width, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        n_in = width
        for i, n_blocks in enumerate(blocks):
            inside = width * 2**i
            layer = nn.Sequential()
            for j in range(n_blocks):
                stride = 2 if i > 0 and j == 0 else 1
                layer.append(Bottleneck(n_in, inside, stride, project=j == 0))
                n_in = 4 * inside
            setattr(self, f"layer{i + 1}", layer)

    @property
    def layers(self) -> list[list[Bottleneck]]:
        """The four layers, each a list of bottlenecks."""
        return [
            [cast(Bottleneck, block) for block in cast(nn.Sequential, getattr(self, f"layer{i}"))]
            for i in range(1, 5)
        ]

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, D, H, W) -> (B, 32 * width, D / 16, H / 32, W / 32), fractions rounded up."""
        x = x.expand(-1, self.conv1.in_channels, -1, -1, -1)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool3d(x, 3, 2, 1)
        for layer in self.layers:
            for block in layer:
                x = block(x)
        return x


def from_published(weights: dict[str, Tensor]) -> InflatedResNet:
    """Build the network that the published tensors belong to, in float32, for input (B, 1, D, H, W).

    The weights were trained on input (..., X, Y): the last two axes of every kernel are exchanged,
    so that the network takes (..., Y, X) = (..., H, W) and no array has to be transposed.

    Raises:
        RuntimeError: Tensors are missing, surplus or of another shape.
    """
    blocks = [
        len({k.split(".")[1] for k in weights if k.startswith(f"layer{i}.")}) for i in range(1, 5)
    ]
    width, n_channels = weights["conv1.weight"].shape[:2]
    network = InflatedResNet((blocks[0], blocks[1], blocks[2], blocks[3]), width, n_channels)
    network.load_state_dict(
        {k: v.transpose(-1, -2) if v.ndim == 5 else v for k, v in weights.items()}
    )
    return network.eval().requires_grad_(False)
