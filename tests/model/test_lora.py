from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from medfinder.errors import ConfigError
from medfinder.model.lora import add_low_rank, low_rank_names, merge_low_rank
from medfinder.model.resnet3d import InflatedResNet

KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(12, 10), (2, 5, 12)),
    "linear without bias": (lambda: nn.Linear(12, 10, bias=False), (2, 12)),
    "1x1x1": (lambda: nn.Conv3d(6, 8, 1, stride=2), (2, 6, 4, 5, 6)),
    "kernel": (
        lambda: nn.Conv3d(6, 8, (3, 5, 3), (1, 2, 2), (1, 2, 1), bias=False),
        (2, 6, 5, 6, 7),
    ),
    "replicated edges": (
        lambda: nn.Conv3d(6, 8, 3, padding=1, padding_mode="replicate"),
        (1, 6, 4, 4, 4),
    ),
    "dilated": (lambda: nn.Conv3d(6, 8, 3, dilation=2, padding="same"), (1, 6, 5, 5, 5)),
}


def updated(network: nn.Module) -> None:
    """Give the updates values, as training would."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("up"):
                parameter.normal_()


@pytest.mark.parametrize("kind", KINDS)
def test_an_update_starts_as_nothing_and_merges_into_the_weights(kind: str) -> None:
    torch.manual_seed(0)
    layer, shape = KINDS[kind][0](), KINDS[kind][1]
    network, x = nn.Sequential(layer), torch.randn(shape)
    before = network(x)
    assert add_low_rank(network, 3, scale=0.5, kernels=True) == ["0"]
    assert torch.equal(network(x), before)

    updated(network)
    after = network(x)
    assert not torch.allclose(after, before, atol=0.1)
    assert merge_low_rank(network) == 1
    assert type(network[0]) is type(layer)
    torch.testing.assert_close(network(x), after, rtol=1e-4, atol=1e-4)


def test_an_update_is_its_formula() -> None:
    network = nn.Sequential(nn.Linear(7, 5))
    add_low_rank(network, 2, scale=3.0)
    updated(network)
    layer, x = network[0], torch.randn(4, 7)
    change = 3.0 * layer.up @ layer.down
    torch.testing.assert_close(network(x), x @ (layer.weight + change).T + layer.bias)
    assert layer.up.shape == (5, 2)
    assert layer.down.shape == (2, 7)


def test_only_the_updates_are_trained() -> None:
    network = InflatedResNet((1, 1, 1, 1), 8).eval()
    names = add_low_rank(network, 2)
    assert "layer1.0.conv1" in names
    assert "layer2.0.downsample.0" in names
    assert "layer1.0.conv2" not in names  # 3x3x3
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert trained == {f"{name}.{part}" for name in names for part in ("down", "up")}
    assert trained == low_rank_names(network)

    network(torch.rand(1, 1, 16, 32, 32)).sum().backward()
    assert {name for name, p in network.named_parameters() if p.grad is not None} == trained
    ups = [p.grad for name, p in network.named_parameters() if name.endswith("up")]
    assert all(grad is not None and grad.abs().sum() > 0 for grad in ups)


def test_kernels_take_an_update_where_asked() -> None:
    network = InflatedResNet((1, 1, 1, 1), 8).eval()
    names = add_low_rank(network, 2, kernels=True)
    assert {"conv1", "layer1.0.conv2"} < set(names)
    assert network(torch.rand(1, 1, 16, 32, 32)).shape == (1, 256, 1, 1, 1)


def test_a_networks_own_tensors_keep_their_names_and_values() -> None:
    network = InflatedResNet((1, 1, 1, 1), 8)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    add_low_rank(network, 2)
    after = network.state_dict()
    assert after.keys() - low_rank_names(network) == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_what_reads_its_layers_weights_is_left_alone() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    network = nn.Sequential(layer, nn.Linear(16, 16), nn.Conv3d(16, 16, 1, groups=2))
    assert add_low_rank(network, 2) == ["1"]


def test_a_rank_as_large_as_the_layer_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"No layer of Sequential .* rank 4: .* Lower the rank"):
        add_low_rank(nn.Sequential(nn.Linear(4, 9)), 4)


def test_a_rank_below_one_is_an_error() -> None:
    with pytest.raises(ConfigError, match="updates is 0; expected at least 1"):
        add_low_rank(nn.Sequential(nn.Linear(4, 9)), 0)


def test_a_layers_mode_and_precision_are_kept() -> None:
    network: nn.Module = nn.Sequential(nn.Linear(8, 8)).bfloat16().eval()
    add_low_rank(network, 2)
    tensors: list[Tensor] = list(network.parameters())
    assert {t.dtype for t in tensors} == {torch.bfloat16}
    assert not any(module.training for module in network.modules())
