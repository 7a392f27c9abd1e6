"""A `DualStream` as an encoder: volumes and texts -> vectors of one space, as numpy arrays.

Whoever embeds with the model comes through here: training's validation, the index, the benchmark.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from medfinder.model.dual_stream import DualStream
from medfinder.model.encoder import EncoderInfo
from medfinder.volume.preprocess import PreprocessConfig

TEXT_BATCH = 64  # texts encoded at once, of similar length


class JointEncoder:
    """The model in use: never in training mode while it encodes, no gradients, repeatable.

    Args:
        model: Stays the caller's: its training mode is as it was after each call. When its weights
            change, make another encoder, whose `EncoderInfo.weights` is another.
        name: `EncoderInfo.name`.
        weights: `EncoderInfo.weights`; "" for the first 12 digits of `weights_sha256`.
        licence: Of the weights.
        source: Where they come from.
        needs: One line: what brings the weights.
        where: `EncoderInfo.where`.
        languages: `EncoderInfo.languages`.
        device: Where the model is moved to; None for where it is.
    """

    info: EncoderInfo

    def __init__(
        self,
        model: DualStream,
        *,
        name: str = "medfinder",
        weights: str = "",
        licence: str = "Apache-2.0",
        source: str = "this process",
        needs: str = "nothing: it is in memory",
        where: str = "",
        languages: Sequence[str] = (),
        device: str | torch.device | None = None,
    ) -> None:
        self.model = model if device is None else model.to(device)
        self.info = EncoderInfo(
            name=name,
            streams=frozenset({"volume", "text"}),
            dim=model.config.dim,
            weights=weights or weights_sha256(model.state_dict())[:12],
            licence=licence,
            source=source,
            needs=needs,
            preprocess=model.config.preprocess,
            n_regions=model.volume.n_regions,
            region_dim=model.volume.width,
            where=where,
            languages=tuple(languages),
        )

    @property
    def device(self) -> torch.device:
        """Where the model is now."""
        return self.model.log_scale.device

    def encode_volumes(self, batch: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
        """Encode what the preprocessing gives, uint8 or floats, (B, C, D, H, W) -> (B, dim)."""
        with _in_use(self.model):
            return _vectors(self.model.embed_volumes(self._input(batch)).embedding)

    def region_features(self, batch: npt.NDArray[np.generic]) -> npt.NDArray[np.float16]:
        """Encode volumes, keeping one vector a region: (B, C, D, H, W) -> (B, n_regions, width)."""
        with _in_use(self.model):
            regions = self.model.volume(self._input(batch)).half().cpu()
            features: npt.NDArray[np.float16] = regions.contiguous().numpy()
        return features

    def pool_regions(self, regions: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
        """(B, n_regions, width) -> (B, dim): `encode_volumes`, up to float16's rounding."""
        with _in_use(self.model):
            x = _tensor(regions).to(self.device, self.model.log_scale.dtype)
            return _vectors(self.model.pool(x))

    def contributions(
        self, regions: npt.NDArray[np.float16], texts: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        """Say what each region adds to the cosine of a volume and a text.

        Args:
            regions: (B, n_regions, width), as of `region_features`.
            texts: (T, dim) of length 1.

        Returns:
            (B, T, n_regions); see `DualStream.contributions`.
        """
        with _in_use(self.model):
            dtype = self.model.log_scale.dtype
            x = _tensor(regions).to(self.device, dtype)
            asked = _tensor(texts).to(self.device, dtype)
            return _vectors(self.model.contributions(x, asked))

    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Encode texts of any length, -> (B, dim)."""
        vectors = np.zeros((len(texts), self.info.dim), np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # little padding
        with _in_use(self.model):
            for start in range(0, len(order), TEXT_BATCH):
                rows = order[start : start + TEXT_BATCH]
                tokens = self.model.text.tokenize([texts[i] for i in rows])
                tokens = {key: value.to(self.device) for key, value in tokens.items()}
                vectors[rows] = _vectors(self.model.embed_texts(tokens).embedding)
        return vectors

    def _input(self, batch: npt.NDArray[np.generic]) -> Tensor:
        x = _tensor(batch).to(self.device).to(self.model.log_scale.dtype)
        return to_unit_range(x, self.model.config.preprocess)


def to_unit_range(volumes: Tensor, preprocess: PreprocessConfig) -> Tensor:
    """Map floats from the preprocessing's `output_range` to 0..1, which `DualStream` takes."""
    low, high = preprocess.output_range
    return volumes if (low, high) == (0.0, 1.0) else (volumes - low) / (high - low)


def weights_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over tensors with their names, types and shapes, in order of names."""
    whole = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        whole.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()


@contextlib.contextmanager
def _in_use(model: nn.Module) -> Iterator[None]:
    """Run a block in evaluation, without gradients, with repeatable convolutions on a GPU.

    Each module's own mode is put back: a frozen part of a model in training stays as it was.
    """
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        with (
            torch.inference_mode(),
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
        ):
            yield
    finally:
        for module in training:
            module.training = True


def _tensor(array: npt.NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def _vectors(embedding: Tensor) -> npt.NDArray[np.float32]:
    vectors: npt.NDArray[np.float32] = embedding.float().cpu().numpy()
    return vectors
