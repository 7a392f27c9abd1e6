"""Networks for tests of training, and a set whose volumes can hold a NaN."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import medfinder.model.networks  # noqa: F401
from medfinder.model.text_encoder import TextEncoder, TextEncoderConfig, TextFeatures, text_networks
from medfinder.model.text_sentences import SentenceNetwork
from medfinder.model.volume_encoder import VolumeEncoder, VolumeEncoderConfig, volume_networks
from medfinder.train.dataset import TrainingSet
from medfinder.volume.preprocess import PreprocessConfig
from stubs.training import without_batch_norm

FLOATS = PreprocessConfig(
    spacing_mm=(11.0, 11.0, 11.0), size=(32, 32, 32), output_range=(-1.0, 1.0)
)
POISON = "poison"


@volume_networks.register("plain")
def plain(config: VolumeEncoderConfig, preprocess: PreprocessConfig) -> VolumeEncoder:
    """The patch network without batch normalisation: a study's features are its own."""
    network = volume_networks.get("patch")(config, preprocess)
    without_batch_norm(network)
    return network


class Fragile(VolumeEncoder):
    """Breaks at a volume whose first voxel is at the top of the range."""

    def __init__(self, network: VolumeEncoder) -> None:
        super().__init__()
        self.network, self.width, self.n_regions = network, network.width, network.n_regions

    def forward(self, volumes: Tensor) -> Tensor:
        breaks = volumes[:, 0, 0, 0, 0] == 1
        regions: Tensor = self.network(volumes)
        return torch.where(breaks[:, None, None], torch.nan, regions)


@volume_networks.register("fragile")
def fragile(config: VolumeEncoderConfig, preprocess: PreprocessConfig) -> VolumeEncoder:
    """See `Fragile`."""
    return Fragile(plain(config, preprocess))


class FragileText(SentenceNetwork):
    """Breaks at a text that holds `POISON`."""

    def tokenize(self, texts: Any) -> Any:
        return {
            **super().tokenize(texts),
            "breaks": torch.tensor([POISON in text for text in texts]),
        }

    def forward(self, tokens: Any) -> TextFeatures:
        features = super().forward(tokens)
        broken = torch.where(tokens["breaks"][:, None], torch.nan, features.pooled)
        return features._replace(pooled=broken)


@text_networks.register("fragile")
def fragile_text(config: TextEncoderConfig, folder: Path | None) -> TextEncoder:
    """See `FragileText`."""
    return FragileText(config.width, config.depth, config.max_tokens)


def in_floats(data: TrainingSet, *, bad: int | None = None) -> TrainingSet:
    """The set with its volumes as floats in -1..1 (`FLOATS`), one of them with a NaN."""
    volumes = data.volumes.astype(np.float32) / 127.5 - 1
    if bad is not None:
        volumes[bad, 0, 3, 3, 3] = np.nan
    return replace(data, volumes=volumes, preprocess=FLOATS)
