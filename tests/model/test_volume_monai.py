import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from medfinder.errors import ConfigError, MissingExtra
from medfinder.model.volume_encoder import VolumeEncoder, VolumeEncoderConfig, volume_networks
from medfinder.volume.preprocess import PreprocessConfig

PIP = "pip install 'medfinder[train]'"
SIZES = {"resnet18": (32, 64, 64), "resnet50": (32, 64, 64), "vit": (32, 32, 48)}
REGIONS = {"resnet18": (2, 2, 2), "resnet50": (2, 2, 2), "vit": (2, 2, 3)}
NAMES = list(SIZES)


def needed(name: str) -> None:
    pytest.importorskip("monai", reason=PIP)
    if name == "vit":
        pytest.importorskip("einops", reason=PIP)


def build(name: str, n_channels: int = 1) -> VolumeEncoder:
    needed(name)
    torch.manual_seed(0)
    windows = ((-1000.0, 200.0), (-200.0, 300.0))[:n_channels]
    config = VolumeEncoderConfig(name=name, width=64, depth=2)
    return volume_networks.get(name)(config, PreprocessConfig(size=SIZES[name], windows_hu=windows))


def test_the_names_are_known_without_monai() -> None:
    code = (
        "import sys; from medfinder.model.volume_encoder import volume_networks as known;"
        "assert {'resnet18', 'resnet50', 'vit', 'pretrained'} <= set(known);"
        "import medfinder.model.volume_monai;"
        "sys.exit('monai' in sys.modules or 'torchvision' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_volume_becomes_regions_of_the_declared_size(name: str) -> None:
    network = build(name, n_channels=2)
    with torch.no_grad():
        regions = network(torch.rand(2, 2, *SIZES[name]))
    assert network.n_regions == REGIONS[name]
    assert network.width == {"resnet18": 512, "resnet50": 2048, "vit": 64}[name]
    assert regions.shape == (2, np.prod(REGIONS[name]), network.width)


@pytest.mark.parametrize("name", NAMES)
def test_regions_lie_in_the_order_of_the_volume(name: str) -> None:
    network, size = build(name).eval(), SIZES[name]
    for corner in ((1, 0, 0), (0, 1, 0)):  # no exchange of two axes leaves both where they are
        quiet = torch.zeros(1, 1, *size)
        loud = quiet.clone()
        loud[(0, 0, *(slice(-6, None) if end else slice(6) for end in corner))] = 1
        with torch.no_grad():
            change = (network(loud) - network(quiet)).abs().sum(2)[0]
        place = [end * (n - 1) for end, n in zip(corner, network.n_regions, strict=True)]
        assert change.argmax() == np.ravel_multi_index(place, network.n_regions)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_parameter(name: str) -> None:
    network = build(name)
    regions = network(torch.rand(2, 1, *SIZES[name]))
    (regions * torch.randn_like(regions)).sum().backward()
    without = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_shortcuts_carry_gradients(name: str) -> None:
    block = build(name).network.layer2[0]
    for module in block.modules():
        if isinstance(module, nn.BatchNorm3d) and module is not block.downsample[1]:
            nn.init.zeros_(module.weight)  # nothing flows but by the shortcut
    x = torch.rand(2, block.downsample[0].in_channels, 4, 4, 4, requires_grad=True)
    block(x).square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("name", "size", "cell"),
    [
        ("resnet18", (32, 64, 48), r"\(16, 32, 32\)"),
        ("resnet50", None, r"\(16, 32, 32\)"),
        ("vit", (32, 40, 32), r"\(16, 16, 16\)"),
    ],
)
def test_an_input_of_another_size_is_refused(
    name: str, size: tuple[int, int, int] | None, cell: str
) -> None:
    with pytest.raises(ConfigError, match=f"preprocess.size is .* multiples of {cell}"):
        volume_networks.get(name)(VolumeEncoderConfig(name=name), PreprocessConfig(size=size))


def test_a_transformers_width_is_whole_heads() -> None:
    config = VolumeEncoderConfig(name="vit", width=100)
    with pytest.raises(ConfigError, match="width is 100; network 'vit' needs a multiple of 64"):
        volume_networks.get("vit")(config, PreprocessConfig(size=(32, 32, 32)))


@pytest.mark.parametrize("given", [{"pretrained": "astra"}, {"trained": "lora"}])
def test_published_weights_are_refused(given: dict[str, str]) -> None:
    config = VolumeEncoderConfig(name="resnet18", **given)
    with pytest.raises(ConfigError, match="'resnet18' starts from random weights"):
        volume_networks.get("resnet18")(config, PreprocessConfig(size=(32, 32, 32)))


@pytest.mark.parametrize(
    ("name", "module"),
    [("resnet18", "monai.networks.nets.resnet"), ("vit", "monai.networks.nets.vit")],
)
def test_without_monai_the_pip_command_is_given(
    name: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    config = VolumeEncoderConfig(name=name)
    with pytest.raises(MissingExtra) as error:
        volume_networks.get(name)(config, PreprocessConfig(size=(32, 32, 32)))
    assert str(error.value) == PIP
