from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medfinder.model.resnet3d import BLOCKS_152, InflatedResNet, from_published


def test_the_network_has_the_published_tensors() -> None:
    with torch.device("meta"):
        weights = InflatedResNet(BLOCKS_152).state_dict()
    assert len(weights) == 930
    parameters = [v for k, v in weights.items() if "num_batches" not in k]
    assert round(sum(v.numel() for v in parameters) / 1e5) == 1175
    assert weights["conv1.weight"].shape == (64, 3, 3, 7, 7)
    assert weights["layer3.35.conv2.weight"].shape == (256, 256, 3, 3, 3)
    assert weights["layer4.0.downsample.0.weight"].shape == (2048, 1024, 1, 1, 1)


def test_the_grid_is_a_16th_and_a_32nd_of_the_input(
    small_network: Callable[..., InflatedResNet],
) -> None:
    assert small_network()(torch.rand(2, 1, 32, 64, 96)).shape == (2, 512, 2, 2, 3)


def test_a_bottleneck_is_its_formula(small_network: Callable[..., InflatedResNet]) -> None:
    block = small_network().layers[1][0]
    x = torch.rand(1, block.conv1.in_channels, 5, 6, 7)

    def norm(y: Tensor, bn: torch.nn.BatchNorm3d) -> Tensor:
        return F.batch_norm(y, bn.running_mean, bn.running_var, bn.weight, bn.bias)

    y = F.relu(norm(F.conv3d(x, block.conv1.weight), block.bn1))
    y = F.relu(norm(F.conv3d(y, block.conv2.weight, stride=2, padding=1), block.bn2))
    y = norm(F.conv3d(y, block.conv3.weight), block.bn3)
    assert block.downsample is not None
    conv, bn = block.downsample
    shortcut = norm(F.conv3d(x, conv.weight, stride=2), bn)
    torch.testing.assert_close(block(x), F.relu(y + shortcut))


def test_published_weights_take_height_and_width_in_our_order(
    small_network: Callable[..., InflatedResNet],
) -> None:
    trained = small_network()  # sees (..., X, Y), as the published code feeds it
    ours = from_published(trained.state_dict())
    x = torch.rand(1, 1, 16, 40, 56)  # (..., H, W) = (..., Y, X)
    torch.testing.assert_close(ours(x), trained(x.mT).mT, atol=1e-4, rtol=1e-4)


def test_a_missing_tensor_is_an_error(published: dict[str, Tensor]) -> None:
    with pytest.raises(RuntimeError, match=r"bn1\.weight"):
        from_published({k: v for k, v in published.items() if k != "bn1.weight"})
