from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfinder.model import fast_resnet3d
from medfinder.model.resnet3d import InflatedResNet

needs_cpu = pytest.mark.skipif(
    not fast_resnet3d.is_supported(), reason="this CPU has no AVX512-VNNI and AVX512-BF16"
)
SIZES = [(32, 64, 64), (33, 45, 38), (17, 31, 70), (35, 37, 39)]


def cosine(a: Tensor, b: Tensor) -> float:
    return float(F.cosine_similarity(a.double().flatten(), b.double().flatten(), 0))


@needs_cpu
@pytest.mark.parametrize("size", SIZES)
def test_features_are_those_of_the_plain_network(
    size: tuple[int, int, int], small_network: Callable[..., InflatedResNet]
) -> None:
    network = small_network()
    x = torch.rand(1, 1, *size)
    with torch.inference_mode():
        truth, fast = network(x), fast_resnet3d.FastResNet(network, size)(x)
    assert fast.shape == truth.shape
    assert cosine(fast, truth) > 0.9999


@needs_cpu
@pytest.mark.parametrize("size", SIZES)
def test_the_stem_in_phases_and_slabs_is_the_strided_stem(
    size: tuple[int, int, int], small_network: Callable[..., InflatedResNet]
) -> None:
    network = small_network()
    x = torch.rand(1, 1, *size)
    with torch.inference_mode():
        made = fast_resnet3d._Stem(network.conv1, network.bn1, size)(x).float()
        y = network.bn1(network.conv1(x.expand(-1, 3, -1, -1, -1)))
        truth = F.max_pool3d(F.relu(y), 3, 2, 1)
    torch.testing.assert_close(made, truth, atol=0.01, rtol=0.01)  # bfloat16


@pytest.mark.parametrize("stride", [1, 2])
def test_folding_normalisation_is_exact(stride: int) -> None:
    torch.manual_seed(1)
    conv = nn.Conv3d(5, 7, 3, stride, 1, bias=False)
    bn = nn.BatchNorm3d(7).eval()
    bn.running_mean.normal_()
    bn.running_var.uniform_(0.5, 2)
    x = torch.randn(1, 5, 7, 6, 5)
    with torch.inference_mode():
        weight, bias = fast_resnet3d._folded(conv, bn)
        folded = F.conv3d(x, weight, bias, stride, 1)
        torch.testing.assert_close(folded, bn(conv(x)), atol=1e-4, rtol=1e-4)


@needs_cpu
@pytest.mark.parametrize("stride", [1, 2])
def test_integer_convolution_is_off_by_no_more_than_its_rounding(stride: int) -> None:
    torch.manual_seed(2)
    weight, bias = torch.randn(24, 20, 3, 3, 3), torch.randn(24)
    x = torch.rand(1, 20, 7, 9, 11).bfloat16().contiguous(memory_format=torch.channels_last_3d)
    truth = F.relu(F.conv3d(x.float(), weight, bias, stride, 1))
    with torch.inference_mode():
        made = fast_resnet3d._IntegerConv(weight, bias, stride, (7, 9, 11))(x.clone()).float()
    assert made.shape == truth.shape
    assert cosine(made, truth) > 0.9998
    assert (made - truth).abs().max() < 0.03 * truth.max()


@needs_cpu
def test_the_largest_activation_does_not_wrap_round() -> None:
    # 255.5 in bfloat16 is 256, whose low byte is 0
    for largest in torch.linspace(0.1, 9, 200):
        x = torch.zeros(1, 1, 3, 3, 3)
        x[0, 0, 1, 1, 1] = largest
        x = x.bfloat16().contiguous(memory_format=torch.channels_last_3d)
        weight = torch.zeros(1, 1, 3, 3, 3)
        weight[0, 0, 1, 1, 1] = 1.0
        conv = fast_resnet3d._IntegerConv(weight, torch.zeros(1), 1, (3, 3, 3))
        y = conv(x.clone()).float()
        torch.testing.assert_close(y.max(), x.float().max(), atol=0, rtol=0.01)


@needs_cpu
def test_a_volume_of_zeros_passes(small_network: Callable[..., InflatedResNet]) -> None:
    network = small_network()
    x = torch.zeros(1, 1, 16, 32, 32)
    with torch.inference_mode():
        fast = fast_resnet3d.FastResNet(network, (16, 32, 32))(x)
        assert cosine(fast, network(x)) > 0.999


@needs_cpu
def test_features_do_not_depend_on_the_rest_of_the_batch(
    small_network: Callable[..., InflatedResNet],
) -> None:
    fast = fast_resnet3d.FastResNet(small_network(), (16, 32, 32))
    x = torch.rand(2, 1, 16, 32, 32)
    x[1] *= 5
    with torch.inference_mode():
        torch.testing.assert_close(fast(x)[:1], fast(x[:1]), atol=0, rtol=0)
