from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from medfinder.errors import ConfigError, Mismatch, UnknownName
from medfinder.model.encoder import EncoderEntry, EncoderInfo, encoders
from medfinder.model.lora import merge_low_rank
from medfinder.model.pretrained.astra import AstraEncoder
from medfinder.model.resnet3d import InflatedResNet, from_published
from medfinder.model.volume_encoder import VolumeEncoder, VolumeEncoderConfig, volume_networks
from medfinder.model.volume_pretrained import TrainedNetwork
from medfinder.volume.preprocess import PreprocessConfig
from stubs.encoders import GridEncoder, WordEncoder

SIZE = (32, 64, 64)
INFO = EncoderInfo(
    name="small",
    streams=frozenset({"volume"}),
    dim=256,
    weights="1",
    licence="Apache-2.0",
    source="tests",
    needs="pip install nothing",
    preprocess=PreprocessConfig(size=SIZE, windows_hu=((-1000.0, 200.0),)),
    n_regions=(2, 2, 2),
)

Build = Callable[..., VolumeEncoder]


@pytest.fixture(scope="session")
def weights(small_network: Callable[..., InflatedResNet]) -> dict[str, Tensor]:
    return small_network(width=8).state_dict()


@pytest.fixture
def build(weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> Build:
    """Return a function that builds upon an encoder of Astra's architecture, small and random."""

    def make(
        trained: str = "none", *, info: EncoderInfo = INFO, **changed: object
    ) -> VolumeEncoder:
        def copied() -> dict[str, Tensor]:
            return {name: tensor.clone() for name, tensor in weights.items()}

        entry = EncoderEntry(
            info,
            lambda: AstraEncoder(copied(), "plain", info),
            lambda: (from_published(copied()), info),
        )
        for known in (entry, EncoderEntry(GridEncoder().info, GridEncoder),
                      EncoderEntry(WordEncoder().info, WordEncoder)):  # fmt: skip
            monkeypatch.setitem(encoders._entries, known.info.name, known)
        settings: dict[str, object] = {"pretrained": "small", "lora_rank": 2} | changed
        preprocess = settings.pop("preprocess", info.preprocess)
        assert isinstance(preprocess, PreprocessConfig)
        config = VolumeEncoderConfig(name="pretrained", trained=trained, **settings)  # type: ignore[arg-type]
        return volume_networks.get("pretrained")(config, preprocess)

    return make


@pytest.fixture(scope="module")
def volumes() -> Tensor:
    return torch.rand(2, 1, *SIZE, generator=torch.Generator().manual_seed(0))


def one_step(network: VolumeEncoder, volumes: Tensor) -> None:
    """Train for a step beside a head, as a dual stream would."""
    head = nn.Linear(network.width, 4)
    network.train()
    trained = [p for p in (*network.parameters(), *head.parameters()) if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=0.1, weight_decay=0.1)
    head(network(volumes)).square().sum().backward()
    optimiser.step()


def everything(network: nn.Module) -> dict[str, Tensor]:
    """Copy parameters and buffers, also those that no checkpoint holds."""
    return {
        name: tensor.detach().clone()
        for name, tensor in (*network.named_parameters(), *network.named_buffers())
    }


@pytest.mark.parametrize("trained", ["none", "lora", "all"])
def test_a_volume_becomes_the_encoders_regions(
    trained: str, build: Build, volumes: Tensor, weights: dict[str, Tensor]
) -> None:
    network = build(trained)
    assert network.n_regions == (2, 2, 2)
    assert network.width == 256
    expected = AstraEncoder(weights, "plain", INFO).region_features(volumes.numpy())
    with torch.no_grad():
        found = network(volumes)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.from_numpy(expected).float(), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("trained", ["none", "lora"])
def test_regions_lie_in_the_order_of_the_volume(trained: str, build: Build) -> None:
    network = build(trained)
    for corner in ((1, 0, 0), (0, 1, 0)):  # no exchange of two axes leaves both where they are
        quiet = torch.zeros(1, 1, *SIZE)
        loud = quiet.clone()
        loud[
            (
                0,
                0,
                *(
                    slice(-n // 8, None) if e else slice(n // 8)
                    for e, n in zip(corner, SIZE, strict=True)
                ),
            )
        ] = 1
        with torch.no_grad():
            change = (network(loud) - network(quiet)).abs().sum(2)[0]
        assert change.argmax() == np.ravel_multi_index(corner, (2, 2, 2))


def test_a_frozen_network_is_bit_equal_after_training(build: Build, volumes: Tensor) -> None:
    network = build("none")
    before = network(volumes)
    one_step(network, volumes)
    assert not list(network.parameters())
    assert not before.requires_grad
    assert torch.equal(network(volumes), before)


def test_training_with_updates_changes_only_them(build: Build, volumes: Tensor) -> None:
    network = build("lora")
    before, features = everything(network), network(volumes).detach()
    one_step(network, volumes)
    changed = {name for name, t in everything(network).items() if not torch.equal(t, before[name])}
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert changed == trained
    assert {name.rpartition(".")[2] for name in trained} == {"down", "up"}
    assert not torch.allclose(network(volumes), features, atol=1e-3)


def test_everything_but_the_statistics_is_trained(build: Build, volumes: Tensor) -> None:
    network = build("all")
    before = everything(network)
    one_step(network, volumes)
    changed = {name for name, t in everything(network).items() if not torch.equal(t, before[name])}
    assert changed == {name for name, _ in network.named_parameters()}


@pytest.mark.parametrize("trained", ["lora", "all"])
def test_normalisation_keeps_the_published_statistics_in_training(
    trained: str, build: Build, volumes: Tensor
) -> None:
    network = build(trained)
    with torch.no_grad():
        evaluated = network.eval()(volumes)
        assert torch.equal(network.train()(volumes), evaluated)


def test_merged_updates_give_the_same_features(build: Build, volumes: Tensor) -> None:
    network = build("lora")
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("up"):
                parameter.normal_(0, 0.1)
        before = network(volumes)
        assert merge_low_rank(network) > 0
        torch.testing.assert_close(network(volumes), before, rtol=1e-3, atol=1e-3)
    assert "network.conv1.weight" in network.state_dict()  # no longer the published weights


def test_a_checkpoint_holds_the_updates_and_not_the_published_weights(
    build: Build, volumes: Tensor
) -> None:
    network = nn.ModuleDict({"volume": build("lora")})
    one_step(network["volume"], volumes)  # type: ignore[arg-type]
    saved = network.state_dict()
    kinds = {name.rpartition(".")[2] for name in saved}
    assert kinds == {"down", "up", "published"}

    again = nn.ModuleDict({"volume": build("lora")})
    assert not torch.equal(again["volume"](volumes), network["volume"](volumes))
    again.load_state_dict(saved)
    assert torch.equal(again["volume"](volumes), network["volume"](volumes))


def test_a_checkpoint_without_an_update_is_refused(build: Build) -> None:
    network = build("lora")
    saved = network.state_dict()
    missing = next(name for name in saved if name.endswith("up"))
    del saved[missing]
    with pytest.raises(RuntimeError, match=missing):
        network.load_state_dict(saved)


@pytest.mark.parametrize("trained", ["none", "lora", "all"])
def test_a_checkpoint_upon_other_weights_is_refused(trained: str, build: Build) -> None:
    saved = build(trained).state_dict()
    other = build(trained, info=replace(INFO, weights="2"))
    with pytest.raises(Mismatch, match="upon the weights 'small@1'; here are 'small@2'"):
        other.load_state_dict(saved)


@pytest.mark.parametrize("trained", ["none", "lora"])
def test_the_encoder_gets_its_own_range(
    trained: str, build: Build, volumes: Tensor, weights: dict[str, Tensor]
) -> None:
    assert INFO.preprocess is not None
    own = replace(INFO.preprocess, output_range=(-1.0, 1.0))
    cached = replace(INFO.preprocess, output_range=(0.0, 255.0), dtype="uint8")
    network = build(trained, info=replace(INFO, preprocess=own), preprocess=cached)
    expected = from_published(weights)(2 * volumes - 1).flatten(2).mT
    with torch.no_grad():
        torch.testing.assert_close(network(volumes), expected, rtol=2e-3, atol=2e-3)


def test_an_encoder_without_a_torch_network_can_be_frozen(build: Build) -> None:
    info = GridEncoder().info
    network = build("none", pretrained="grid", preprocess=info.preprocess)
    regions = network(torch.rand(3, 1, 4, 4, 4))
    assert regions.shape == (3, 64, network.width) == (3, 64, 1)
    with pytest.raises(ConfigError, match=r"'lora', but encoder 'grid' has no network that can"):
        build("lora", pretrained="grid", preprocess=info.preprocess)


def test_a_wrong_declaration_is_named(build: Build, volumes: Tensor) -> None:
    network = build("lora", info=replace(INFO, n_regions=(2, 2, 3)))
    with pytest.raises(Mismatch, match=r"'small' gives regions of shape \(8, 256\).*\(12, 256\)"):
        network(volumes)


def test_another_preprocessing_is_refused_with_what_differs(build: Build) -> None:
    assert INFO.preprocess is not None
    other = replace(INFO.preprocess, size=(32, 64, 32))
    message = (
        r"encoder 'small' was trained on, in size: expected \(32, 64, 64\), got \(32, 64, 32\)"
    )
    with pytest.raises(ConfigError, match=message):
        build("none", preprocess=other)


def test_an_unknown_encoder_is_named_with_the_known_ones(build: Build) -> None:
    with pytest.raises(UnknownName, match=r"'smal'. Did you mean 'small'\? Known: astra, "):
        build("none", pretrained="smal")


@pytest.mark.parametrize("name", ["", "words"])
def test_an_encoder_without_regions_is_refused(name: str, build: Build) -> None:
    with pytest.raises(ConfigError, match=r"volume\.pretrained is .*: astra, .*small"):
        build("none", pretrained=name)


def test_astra_gives_its_network(
    weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    from medfinder.model.pretrained import astra

    monkeypatch.setattr(astra, "_installed", list)
    monkeypatch.setattr(astra, "read_weights", lambda shards: weights)
    load = encoders.get("astra").network
    assert load is not None
    network, info = load()
    assert info == astra.INFO
    batch: npt.NDArray[np.float32] = np.random.default_rng(0).random((1, 1, *SIZE), np.float32)
    assert network(torch.from_numpy(batch)).shape == (1, 256, 2, 2, 2)


def test_nothing_is_dropped_out_while_updates_are_trained() -> None:
    network = nn.Sequential(nn.Conv3d(1, 8, 1), nn.Dropout(0.5), nn.Conv3d(8, 256, 1))
    update = TrainedNetwork(network, replace(INFO, n_regions=(2, 2, 2)), 2)
    volumes = torch.rand(1, 1, 2, 2, 2)
    assert torch.equal(update.train()(volumes), update.train()(volumes))
