"""The volume network "pretrained": starts from an encoder that others trained.

Frozen, it is the encoder as it is searched with, fast arithmetic included. Trained, whole or by
low-rank updates, it is the encoder's plain network (`EncoderEntry.network`). Published weights that
do not change are in no checkpoint: it keeps which they were, and loading compares.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medfinder.errors import ConfigError, Mismatch
from medfinder.model.encoder import Encoder, EncoderInfo, encoders
from medfinder.model.lora import add_low_rank, low_rank_names
from medfinder.model.volume_encoder import VolumeEncoder, VolumeEncoderConfig
from medfinder.volume.preprocess import PreprocessConfig

ID_BYTES = 64
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class PublishedNetwork(VolumeEncoder):
    """What frozen and trained ones share: the declared sizes, the input's range, the identity.

    Attributes:
        info: What the encoder declares.
    """

    def __init__(self, info: EncoderInfo) -> None:
        super().__init__()
        assert info.preprocess is not None
        assert info.n_regions is not None
        self.info = info
        self.n_regions = info.n_regions
        self.width = info.region_dim or info.dim
        self._range = info.preprocess.output_range
        identity = f"{info.name}@{info.weights}".encode()[:ID_BYTES].ljust(ID_BYTES)
        self.register_buffer("published", torch.tensor(list(identity), dtype=torch.uint8))
        hooks: Any = self  # torch leaves these methods untyped
        hooks.register_load_state_dict_pre_hook(_compare)

    def _input(self, volumes: Tensor) -> Tensor:
        """Map 0..1 to the range that the encoder takes."""
        low, high = self._range
        return volumes if (low, high) == (0.0, 1.0) else low + volumes * (high - low)

    def _checked(self, regions: Tensor) -> Tensor:
        shape = (int(np.prod(self.n_regions)), self.width)
        if tuple(regions.shape[1:]) != shape:
            raise Mismatch(
                f"Encoder {self.info.name!r} gives regions of shape {tuple(regions.shape[1:])}, its "
                f"info declares {shape}. Correct n_regions and region_dim in its EncoderInfo."
            )
        return regions


class FrozenNetwork(PublishedNetwork):
    """The encoder as it is: no parameter, no gradient, the features that a search sees.

    Args:
        encoder: Decides itself on which device it runs.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder.info)
        self.encoder = encoder

    def forward(self, volumes: Tensor) -> Tensor:
        """(B, C, D, H, W) in 0..1 -> (B, N, width), rounded to float16, where `volumes` is."""
        batch = self._input(volumes.detach().float()).cpu().numpy()
        with torch.autocast(volumes.device.type, enabled=False):  # the same in training and in use
            regions = torch.from_numpy(self.encoder.region_features(batch))
        return self._checked(regions.to(volumes.device, volumes.dtype))


class TrainedNetwork(PublishedNetwork):
    """The encoder's plain network, trained whole or by low-rank updates.

    Batch normalisation keeps the published statistics: the few volumes of a batch are too few for
    others. With low-rank updates the whole network stays in evaluation mode.

    Args:
        network: (B, C, D, H, W) -> (B, width, *n_regions).
        info: What the encoder declares.
        lora_rank: None to train everything.
        kernels: See `add_low_rank`.
    """

    def __init__(
        self,
        network: nn.Module,
        info: EncoderInfo,
        lora_rank: int | None = None,
        *,
        kernels: bool = False,
    ) -> None:
        super().__init__(info)
        self.network = network
        self.has_low_rank = lora_rank is not None
        if lora_rank is None:
            network.requires_grad_(True)
        else:
            add_low_rank(network, lora_rank, kernels=kernels)
            hooks: Any = self
            hooks.register_state_dict_post_hook(_leave_out_published)
            hooks.register_load_state_dict_pre_hook(_fill_in_published)
        self.train()

    def forward(self, volumes: Tensor) -> Tensor:
        """(B, C, D, H, W) in 0..1 -> (B, N, width)."""
        grid = self.network(self._input(volumes))
        return self._checked(grid.flatten(2).transpose(1, 2))

    def train(self, mode: bool = True) -> "TrainedNetwork":
        """Set the mode of what has one; see the class."""
        super().train(mode)
        if self.has_low_rank:
            self.network.eval()
        for module in self.network.modules():
            if isinstance(module, BATCH_NORMS):
                module.eval()
        return self


def build(config: VolumeEncoderConfig, preprocess: PreprocessConfig) -> VolumeEncoder:
    """Build the network from the encoder that ``config.pretrained`` names.

    Raises:
        UnknownName: No encoder has this name.
        ConfigError: The encoder has no volume stream, regions or network to train, or takes
            another preprocessing; `dtype` and `output_range` may differ.
        MissingExtra: Its weights are not installed.
    """
    if not config.pretrained:
        raise ConfigError(
            "Setting volume.pretrained is ''; network 'pretrained' needs the name of an encoder: "
            f"{', '.join(_usable())}."
        )
    entry = encoders.get(config.pretrained)
    info = entry.info
    if info.preprocess is None or info.n_regions is None:
        raise ConfigError(
            f"Setting volume.pretrained is {info.name!r}, which gives no region features of "
            f"volumes; expected one of: {', '.join(_usable())}."
        )
    same = replace(
        preprocess, dtype=info.preprocess.dtype, output_range=info.preprocess.output_range
    )
    if same != info.preprocess:
        raise ConfigError(
            f"Setting preprocess differs from what encoder {info.name!r} was trained on, in "
            f"{_differences(same, info.preprocess)}. Use the encoder's own preprocessing; only "
            "dtype and output_range are free."
        )
    if config.trained == "none":
        return FrozenNetwork(entry.load())
    if entry.network is None:
        raise ConfigError(
            f"Setting volume.trained is {config.trained!r}, but encoder {info.name!r} has no "
            "network that can be trained; expected 'none'."
        )
    rank = config.lora_rank if config.trained == "lora" else None
    return TrainedNetwork(*entry.network(), rank)


def _usable() -> list[str]:
    infos = [encoders.get(name).info for name in encoders]
    return [info.name for info in infos if info.preprocess and info.n_regions]


def _differences(given: PreprocessConfig, expected: PreprocessConfig) -> str:
    names = [name for name in vars(expected) if getattr(given, name) != getattr(expected, name)]
    return "; ".join(
        f"{name}: expected {getattr(expected, name)}, got {getattr(given, name)}" for name in names
    )


def _compare(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Refuse a checkpoint that was trained upon other published weights."""
    assert isinstance(module, PublishedNetwork)
    found = state_dict.get(f"{prefix}published")
    own = module.get_buffer("published").cpu()
    if found is not None and not torch.equal(found.cpu(), own):
        before, now = (
            bytes(t.tolist()).decode(errors="replace").strip() for t in (found.cpu(), own)
        )
        raise Mismatch(
            f"The checkpoint was trained upon the weights {before!r}; here are {now!r}. Install "
            "those weights, or train again."
        )


def _leave_out_published(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, _: Any
) -> None:
    """Keep, of the network's tensors, those of the updates."""
    assert isinstance(module, TrainedNetwork)
    kept = {f"{prefix}network.{name}" for name in low_rank_names(module.network)}
    if not kept:  # merged: every weight is its own
        return
    for key in [k for k in state_dict if k.startswith(f"{prefix}network.") and k not in kept]:
        del state_dict[key]


def _fill_in_published(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Give every left-out tensor its own value, so that a strict load finds nothing missing."""
    assert isinstance(module, TrainedNetwork)
    updates = low_rank_names(module.network)
    for name, tensor in module.network.state_dict().items():
        if updates and name not in updates:
            state_dict.setdefault(f"{prefix}network.{name}", tensor)
