"""`InflatedResNet` on a CPU that multiplies bfloat16 and 8-bit integers: the same features, sooner.

What is done, and what it costs in exactness:

1. Batch normalisation is folded into the convolutions, and the equal input channels into one
   (exact).
2. The stem's stride of 2 in the plane becomes 4 channels of half the size (exact), and stem and
   pooling run over slabs of slices: the 260 MB between them are never in memory.
3. Every convolution takes its ReLU, and the last of a bottleneck also its addition, into one oneDNN
   call in bfloat16, so that no map is read twice.
4. The 3x3x3 convolutions, 73 % of the work, run in 8-bit integers, at twice the speed of bfloat16.
   Weights have a scale for each output channel. Activations have one scale, from the largest
   activation of *this* volume: nothing is calibrated and nothing saturates. Before that each channel is
   divided by what batch normalisation says it spans, and the kernel multiplied by it (exact, as a
   ReLU lets a positive factor through), so that one scale serves all channels.

Measured against float32 in ``benchmarks/astra.py``; the slow truth is `InflatedResNet`.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfinder.model.resnet3d import Bottleneck, InflatedResNet

SLAB = (
    8  # pooled slices at a time: 2 * 8 + 1 slices of the stem are 27 MB, within a last-level cache
)
SPAN_SIGMAS = 3.0
MAX_CODE = 253.0  # leaves room for the factor's rounding, and for a half: bfloat16 makes 255.5 256
ONES = [1, 1, 1]
ZEROS = [0, 0, 0]
CHANNELS_LAST = torch.channels_last_3d


def is_supported() -> bool:
    """Say whether this CPU and this torch can run `FastResNet` faster than float32.

    Without AVX512-VNNI oneDNN multiplies 8-bit numbers in a way that can overflow: refused.
    """
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return (
        bool(capabilities.get("avx512_vnni") and capabilities.get("avx512_bf16"))
        and bool(torch._C._has_mkldnn)
        and hasattr(torch.ops.onednn, "qconv_pointwise")
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    )


class FastResNet:
    """Runs the network that `network` is; called with the same input, returns the same features.

    Args:
        network: In evaluation mode; it is only read.
        size: (D, H, W) of the input that weights are laid out for; other sizes run slower.
    """

    def __init__(self, network: InflatedResNet, size: tuple[int, int, int]) -> None:
        self.stem = _Stem(network.conv1, network.bn1, size)
        shape = tuple(_halved(n) for n in (size[0], _halved(size[1]), _halved(size[2])))
        self.blocks: list[_Block] = []
        for layer in network.layers:
            for block in layer:
                self.blocks.append(_Block(block, shape))
                shape = self.blocks[-1].shape_out

    def __call__(self, x: Tensor) -> Tensor:
        """(B, 1, D, H, W) float32 -> (B, 32 * width, D / 16, H / 32, W / 32) float32.

        Volumes go one by one, so that the features of one never depend on its neighbours.
        """
        return torch.cat([self._one(volume[None]) for volume in x])

    def _one(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return x.float()


class _Stem:
    """Convolution, ReLU and max pooling: (1, 1, D, H, W) -> (1, width, D / 2, H / 4, W / 4)."""

    def __init__(self, conv: nn.Conv3d, bn: nn.Module, size: tuple[int, int, int]) -> None:
        weight, bias = _folded(conv, bn)
        weight = weight.sum(1)  # all input channels hold the same volume
        # 7 taps of stride 2 = 8 taps, the last 0 = 4 taps of stride 1 in each of two phases
        n_out, depth = weight.shape[:2]
        phases = F.pad(weight, (0, 1, 0, 1)).view(n_out, depth, 4, 2, 4, 2)
        kernel = phases.permute(0, 3, 5, 1, 2, 4).reshape(n_out, 4, depth, 4, 4)
        plane = [_halved(n) + 3 for n in size[1:]]
        self.conv = _Conv(kernel, bias, (2 * SLAB + 3, plane[0], plane[1]))

    def __call__(self, x: Tensor) -> Tensor:
        depth, height, width = x.shape[2:]
        padded = F.pad(x[0, 0].bfloat16(), (3, 3 + width % 2, 3, 3 + height % 2, 1, 1))
        phases = padded.view(depth + 2, padded.shape[1] // 2, 2, padded.shape[2] // 2, 2)
        phases = phases.permute(0, 1, 3, 2, 4).flatten(3).permute(3, 0, 1, 2)[None]
        slabs = []
        for first in range(0, _halved(depth), SLAB):
            # pooled slice i covers the stem's slices 2 i - 1 .. 2 i + 1
            start = 2 * first - 1
            stop = 2 * min(first + SLAB, _halved(depth))
            before, after = max(-start, 0), max(stop - depth, 0)
            part = phases[:, :, start + before : stop - after + 2]
            y = self.conv(part.contiguous(memory_format=CHANNELS_LAST), "relu")
            if before or after:  # nothing is below 0 after a ReLU: zeros never win
                y = F.pad(y, (0, 0, 0, 0, before, after))
            slabs.append(F.max_pool3d(y, 3, 2, (0, 1, 1)))
        return torch.cat(slabs, 2).contiguous(memory_format=CHANNELS_LAST)


class _Block:
    """A bottleneck in three calls (four with a projection); the input may be overwritten."""

    def __init__(self, block: Bottleneck, shape: tuple[int, ...]) -> None:
        self.shape_out = tuple((n - 1) // block.stride + 1 for n in shape)
        narrow, narrow_bias = _folded(block.conv1, block.bn1)
        middle, middle_bias = _folded(block.conv2, block.bn2)
        span = (block.bn1.bias + SPAN_SIGMAS * block.bn1.weight.abs()).clamp(min=1e-3)
        self.narrow = _Conv(narrow / span.view(-1, 1, 1, 1, 1), narrow_bias / span, shape)
        self.middle = _IntegerConv(
            middle * span.view(1, -1, 1, 1, 1), middle_bias, block.stride, shape
        )
        self.widen = _Conv(*_folded(block.conv3, block.bn3), self.shape_out)
        self.project: _Conv | None = None
        if block.downsample is not None:
            conv, bn = block.downsample
            assert isinstance(conv, nn.Conv3d)
            self.project = _Conv(*_folded(conv, bn), shape, block.stride)

    def __call__(self, x: Tensor) -> Tensor:
        y = self.middle(self.narrow(x, "relu"))
        return self.widen.add_to(x if self.project is None else self.project(x), y)


class _Conv:
    """A convolution without padding, in bfloat16, over (1, C, D, H, W) channels-last."""

    def __init__(
        self, weight: Tensor, bias: Tensor, shape: tuple[int, ...], stride: int = 1
    ) -> None:
        self.stride = [stride] * 3
        self.bias = bias.bfloat16()
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(
            weight.bfloat16(), ZEROS, self.stride, ONES, 1, [1, weight.shape[1], *shape]
        )

    def __call__(self, x: Tensor, then: str = "none") -> Tensor:
        """Convolve, then apply ``"relu"`` or ``"none"``."""
        y: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, ZEROS, self.stride, ONES, 1, then, [], ""
        )
        return y

    def add_to(self, shortcut: Tensor, x: Tensor) -> Tensor:
        """Return relu(shortcut + convolution of x), written over `shortcut`."""
        y: Tensor = torch.ops.mkldnn._convolution_pointwise_(
            shortcut, x, self.weight, self.bias, ZEROS, self.stride, ONES, 1,
            "add", 1.0, "relu", [], "",
        )  # fmt: skip
        return y


class _IntegerConv:
    """A 3x3x3 convolution and ReLU in 8-bit integers, from and to bfloat16, input not negative."""

    def __init__(self, weight: Tensor, bias: Tensor, stride: int, shape: tuple[int, ...]) -> None:
        self.stride = [stride] * 3
        self.bias = bias
        self.scales = weight.abs().amax((1, 2, 3, 4)).clamp(min=1e-12) / 127
        self.zero_points = torch.zeros(len(bias), dtype=torch.int32)
        self.half = torch.tensor(0.5, dtype=torch.bfloat16)
        codes = (weight / self.scales.view(-1, 1, 1, 1, 1)).round().to(torch.int8)
        self.codes: Any = torch.ops.onednn.qconv_prepack(
            codes, self.scales, 1.0, 0, self.stride, ONES, ONES, 1, [1, weight.shape[1], *shape]
        )

    def __call__(self, x: Tensor) -> Tensor:
        """Convolve and apply the ReLU; `x` is overwritten."""
        # bfloat16 numbers that are not negative are in the order of their bits
        largest = x.view(torch.int16).amax().view(torch.bfloat16).item()
        # torch rounds the factor to bfloat16, so the scale has to be the inverse of that
        usable = 1e-30 < largest < math.inf
        factor = torch.tensor(MAX_CODE / largest if usable else 1.0, dtype=x.dtype).item()
        codes = torch.add(self.half, x, alpha=factor, out=x).to(torch.uint8)
        y: Tensor = torch.ops.onednn.qconv_pointwise(
            codes, 1 / factor, 0, self.codes, self.scales, self.zero_points, self.bias,
            self.stride, ONES, ONES, 1, 1.0, 0, torch.bfloat16, "none", [], "",
        )  # fmt: skip
        return y.relu_()


def _folded(conv: nn.Conv3d, bn: nn.Module) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the convolution that is `conv` followed by `bn`."""
    assert isinstance(bn, nn.BatchNorm3d)
    assert bn.running_var is not None
    assert bn.running_mean is not None
    gain = bn.weight / torch.sqrt(bn.running_var + bn.eps)
    return conv.weight * gain.view(-1, 1, 1, 1, 1), bn.bias - bn.running_mean * gain


def _halved(n: int) -> int:
    """Return n / 2, rounded up: what stride 2 leaves of n."""
    return (n + 1) // 2
