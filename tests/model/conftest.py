"""Networks of the published architecture at a small size, with random weights."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from medfinder.model.resnet3d import InflatedResNet


@pytest.fixture(scope="session")
def small_network() -> Callable[..., InflatedResNet]:
    """Return a function that builds a network whose normalisation is not the identity."""

    def build(seed: int = 0, width: int = 16) -> InflatedResNet:
        torch.manual_seed(seed)
        network = InflatedResNet((1, 2, 2, 1), width).eval().requires_grad_(False)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1)
                module.bias.normal_(0, 0.1)
        return network

    return build


@pytest.fixture(scope="session")
def published(small_network: Callable[..., InflatedResNet]) -> dict[str, Tensor]:
    """The tensors of a small network by their published names, in bfloat16."""
    weights = small_network().state_dict()
    return {k: v.bfloat16() if v.is_floating_point() else v for k, v in weights.items()}
