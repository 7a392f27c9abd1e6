"""Astra's network on slices: each axial slice -> 2,048 numbers; a volume pools its slices'.

A 2D encoder of CT slices with real weights, for the method of 3D-MIR (arXiv 2311.13752): the volume's
vector is the median, the maximum or the mean, number by number, of its slices' vectors of length 1.
Every kernel is summed along depth, which undoes the inflation: the 2D network gives what Astra's
gives, far from its ends, for a volume that is this one slice over and over. Nothing is learnt anew, and
nothing of how slices follow each other is seen.

Input contract: Astra's window, body box and 224 x 224 in plane; the volume is stretched by area to 16
slabs, as `biomedclip_slices` does with 32. No text stream: it answers CTs with CTs alone.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from medfinder.errors import ConfigError
from medfinder.model.encoder import EncoderEntry, EncoderInfo, encoders
from medfinder.model.pretrained import astra

if TYPE_CHECKING:
    from torch import Tensor

Pooling = Literal["median", "max", "mean"]
POOLINGS: dict[str, Callable[..., Any]] = {"median": np.median, "max": np.max, "mean": np.mean}
N_SLICES = 16
N_TOGETHER = 8  # slices encoded at once
assert astra.INFO.preprocess is not None
INFO = replace(
    astra.INFO,
    name="astra_slices",
    source=f"{astra.INFO.source}; kernels summed along depth, slices pooled as in 3D-MIR",
    preprocess=replace(astra.INFO.preprocess, size=(N_SLICES, 224, 224)),
    n_regions=(N_SLICES, 1, 1),
)


class AstraSlices:
    """The loaded encoder.

    Args:
        weights: The published tensors by name.
        pooling: How a volume's vector comes from its slices'.
        info: What it declares; differs from `INFO` by the pooling, or for other weights.

    Raises:
        ConfigError: There is no such pooling.
    """

    def __init__(
        self,
        weights: "dict[str, Tensor]",
        pooling: Pooling = "median",
        info: EncoderInfo = INFO,
    ) -> None:
        import torch

        from medfinder.model.resnet3d import from_published

        if pooling not in POOLINGS:
            raise ConfigError(
                f"The pooling of slices is {pooling!r}; expected {', '.join(POOLINGS)}."
            )
        self.info, self.pooling = info, pooling
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = from_published(weights)
        for layer in self.network.modules():
            if isinstance(layer, torch.nn.Conv3d):
                layer.weight = torch.nn.Parameter(layer.weight.sum(2, keepdim=True), False)
                layer.kernel_size = (1, *layer.kernel_size[1:])
                layer.padding = (0, *layer.padding[1:])
                layer.stride = (1, *layer.stride[1:])
        self.network.to(self._device)

    def encode_volumes(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(B, 1, D, H, W) in 0..1 -> (B, dim): its slices' vectors, pooled."""
        return self._pool(self._slices(batch))

    def region_features(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
        """(B, 1, D, H, W) in 0..1 -> (B, D, dim): a vector a slice, inferior to superior."""
        return self._slices(batch).astype(np.float16)

    def pool_regions(self, regions: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
        """(B, D, dim) -> (B, dim); what `encode_volumes` gives, up to float16's rounding."""
        return self._pool(regions.astype(np.float32))

    def _slices(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(B, 1, D, H, W) in 0..1 -> (B, D, dim), each of length 1."""
        import torch
        from torch.nn.functional import normalize

        n, _, depth, height, width = batch.shape
        pictures = torch.from_numpy(np.ascontiguousarray(batch)).view(-1, 1, 1, height, width)
        with torch.inference_mode():
            vectors = [
                normalize(self.network(part.to(self._device)).mean((2, 3, 4))).cpu()
                for part in torch.split(pictures, N_TOGETHER)
            ]
        slices: npt.NDArray[np.float32] = torch.cat(vectors).view(n, depth, -1).numpy()
        return slices

    def _pool(self, slices: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        pooled: npt.NDArray[np.float32] = POOLINGS[self.pooling](slices, axis=1)
        return pooled


def load(pooling: Pooling = "median") -> AstraSlices:
    """Load the encoder from astra's installed weights.

    Args:
        pooling: How a volume's vector comes from its slices'.

    Raises:
        MissingExtra: A shard of the weights is not installed.
        Mismatch: The installed weights are not the pinned ones.
    """
    return AstraSlices(astra.read_installed(), pooling, info_of(pooling))


def info_of(pooling: Pooling) -> EncoderInfo:
    """Return what the encoder with this pooling declares; the median needs no suffix."""
    return INFO if pooling == "median" else replace(INFO, name=f"{INFO.name}_{pooling}")


encoders.register("astra_slices")(EncoderEntry(INFO, load))
encoders.register("astra_slices_max")(EncoderEntry(info_of("max"), lambda: load("max")))
encoders.register("astra_slices_mean")(EncoderEntry(info_of("mean"), lambda: load("mean")))
