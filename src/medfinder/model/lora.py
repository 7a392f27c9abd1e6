"""Low-rank updates: a frozen network learns through a few numbers a layer, mergeable into its weights.

Source:
    Hu et al. 2021, LoRA (arXiv 2106.09685), eq. 3: W x + scale * up (down x), `up` zero at the
    start. A convolution's `down` has the layer's own kernel and stride and `rank` output channels,
    its `up` is 1x1x1.

A layer keeps its class's attributes and its tensors' names; ``down`` and ``up`` stand beside them.
"""

import math
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medfinder.errors import ConfigError

NOT_CALLED = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
"""These read their layers' weights and leave out `forward`, and with it an update."""


class LowRankLinear(nn.Linear):
    """A linear layer, frozen, with a low-rank update.

    Args:
        layer: Its tensors are shared, not copied.
        rank: Of the update.
        scale: Of the update.
    """

    def __init__(self, layer: nn.Linear, rank: int, scale: float) -> None:
        has_bias = layer.bias is not None
        super().__init__(layer.in_features, layer.out_features, has_bias, device="meta")
        self.scale = scale
        self.down, self.up = _start(self, layer, rank)

    def forward(self, x: Tensor) -> Tensor:
        """(..., n_in) -> (..., n_out)."""
        return super().forward(x) + self.scale * F.linear(F.linear(x, self.down), self.up)

    def merged(self) -> nn.Linear:
        """Return the plain layer that computes the same; it takes this one's tensors over."""
        layer = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        return _merge(self, layer)


class LowRankConv3d(nn.Conv3d):
    """A 3D convolution of one group, frozen, with a low-rank update.

    Args:
        layer: Its tensors are shared, not copied.
        rank: Of the update.
        scale: Of the update.
    """

    def __init__(self, layer: nn.Conv3d, rank: int, scale: float) -> None:
        super().__init__(**_shape(layer))
        self.scale = scale
        self.down, self.up = _start(self, layer, rank)

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_in, D, H, W) -> (B, n_out, D', H', W')."""
        low = self._conv_forward(x, self.down, None)
        return super().forward(x) + self.scale * F.conv3d(low, self.up[..., None, None, None])

    def merged(self) -> nn.Conv3d:
        """Return the plain layer that computes the same; it takes this one's tensors over."""
        return _merge(self, nn.Conv3d(**_shape(self)))


LowRank = LowRankLinear | LowRankConv3d
Layer = TypeVar("Layer", nn.Linear, nn.Conv3d)


def add_low_rank(
    network: nn.Module, rank: int, scale: float = 1.0, *, kernels: bool = False
) -> list[str]:
    """Freeze a network and give its layers low-rank updates, in place.

    Linear layers and 1x1x1 convolutions take one; grouped convolutions and the insides of torch's
    own attention modules never do.

    Args:
        rank: At least 1. A layer whose smaller side is not above it is left without.
        scale: Of every update.
        kernels: Convolutions of any size take one.

    Returns:
        The names of the layers that have an update: only their ``down`` and ``up`` require
        gradients.

    Raises:
        ConfigError: `rank` is below 1, or no layer can take an update.
    """
    if rank < 1:
        raise ConfigError(f"The rank of low-rank updates is {rank}; expected at least 1.")
    network.requires_grad_(False)
    names: list[str] = []
    for parent_name, parent in list(network.named_modules()):
        if isinstance(parent, NOT_CALLED):
            continue
        for child_name, child in list(parent.named_children()):
            update: LowRank
            # exactly these classes: a subclass may compute something else
            if type(child) is nn.Linear and min(child.weight.shape) > rank:
                update = LowRankLinear(child, rank, scale)
            elif type(child) is nn.Conv3d and _takes_update(child, rank, kernels):
                update = LowRankConv3d(child, rank, scale)
            else:
                continue
            setattr(parent, child_name, update)
            names.append(f"{parent_name}.{child_name}".removeprefix("."))
    if not names:
        raise ConfigError(
            f"No layer of {type(network).__name__} takes a low-rank update of rank {rank}: it has "
            "no linear layer or 1x1x1 convolution with both sides above the rank. Lower the rank."
        )
    return names


def merge_low_rank(network: nn.Module) -> int:
    """Add every update to its layer's weight, in place, and leave plain layers; return how many."""
    n_merged = 0
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LowRankLinear | LowRankConv3d):
                setattr(parent, name, child.merged())
                n_merged += 1
    return n_merged


def low_rank_names(network: nn.Module) -> set[str]:
    """Return the names of the updates' tensors in the network's ``state_dict``."""
    return {
        f"{name}.{part}".removeprefix(".")
        for name, module in network.named_modules()
        if isinstance(module, LowRankLinear | LowRankConv3d)
        for part in ("down", "up")
    }


def _shape(layer: nn.Conv3d) -> dict[str, Any]:
    """Return what builds a convolution like this one, without memory for its weights."""
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation")
    like = {name: getattr(layer, name) for name in (*names, "padding_mode")}
    return like | {"bias": layer.bias is not None, "device": "meta"}


def _takes_update(layer: nn.Conv3d, rank: int, kernels: bool) -> bool:
    small = math.prod(layer.kernel_size) == 1
    wide = min(layer.in_channels * math.prod(layer.kernel_size), layer.out_channels) > rank
    return layer.groups == 1 and wide and (small or kernels)


def _start(
    update: LowRank, layer: nn.Linear | nn.Conv3d, rank: int
) -> tuple[nn.Parameter, nn.Parameter]:
    """Share the layer's tensors and return `down`, drawn as torch draws a layer, and `up`, zero."""
    _share(layer, update)
    weight = layer.weight
    down = torch.empty(rank, *weight.shape[1:], dtype=weight.dtype, device=weight.device)
    nn.init.kaiming_uniform_(down, a=math.sqrt(5))
    return nn.Parameter(down), nn.Parameter(weight.new_zeros(weight.shape[0], rank))


def _share(source: nn.Linear | nn.Conv3d, target: nn.Linear | nn.Conv3d) -> None:
    target.weight, target.bias = source.weight, source.bias
    target.train(source.training)


def _merge(update: LowRank, layer: Layer) -> Layer:
    with torch.no_grad():
        change = update.up @ update.down.flatten(1)
        update.weight += update.scale * change.view_as(update.weight)
    _share(update, layer)
    return layer
