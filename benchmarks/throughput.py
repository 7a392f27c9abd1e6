"""How many studies a second does training see? The published code's way, ours, a frozen encoder.

- The published code's way, its behaviour written anew: every step reads its NIfTI files with MONAI,
  scales by minimum and maximum, crops, resizes, runs MONAI's 3D ResNet-50 and a frozen BERT's class
  token, and takes the one-directional loss, in float32.
- ``configs/published_code.toml`` through `medfinder.train`: the same networks, input and batch, from
  volumes that were preprocessed once.
- ``configs/tiny.toml`` at its own size.
- A frozen 3D ResNet-18, run at every step, and its features made once (``train.cached_views``).

Weights are random throughout: speed does not depend on them. The published input of 96x224x224 from
CTs of 300x512x512 would take minutes a step here, so both are smaller by one factor (six times fewer
voxels); what reading costs beside the network stays. Much smaller inputs mislead: the step is then
that of 46 million weights, not of a volume. Contenders take turns, round after round, so that a busy machine slows
all of them alike; CPU seconds are of all threads.

Run: ``python benchmarks/throughput.py [--quick]``
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent))
from record import table, write_result

from medfinder.config import load_config
from medfinder.model.encoder import EncoderEntry, EncoderInfo, encoders
from medfinder.model.volume_encoder import VolumeEncoder, VolumeEncoderConfig, volume_networks
from medfinder.phantom.chest import PhantomConfig, make_phantom
from medfinder.train.dataset import TrainingSet
from medfinder.train.loop import fit
from medfinder.train.recipe import RecipeConfig
from medfinder.volume.nifti import write_nifti
from medfinder.volume.preprocess import PreprocessConfig, preprocess
from medfinder.volume.read import read_volume

CONFIGS = Path(__file__).parents[1] / "configs"
SEED = 0
STEM_STRIDE = (1, 2, 2)  # as ours; MONAI's default of 1 costs several times as much
QUIET = ["train.logger=none", "train.accelerator=cpu", "train.validate_every=100000"]


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        ct: Voxels of a CT of the published recipe along (D, H, W).
        volume: Of its networks' input.
        frozen: Of the frozen network's.
        n_small: Studies of tiny.toml and of the frozen network.
        frozen_batch: Studies a step of the frozen network.
        cached_views: Of the cache of its features.
        text_depth: Layers of BERT.
        steps: A round, of those that run a large network.
        fast_steps: A round, of the others.
        rounds: That are counted.
    """

    ct: tuple[int, int, int] = (192, 256, 256)
    volume: tuple[int, int, int] = (48, 128, 128)
    frozen: tuple[int, int, int] = (64, 64, 64)
    n_small: int = 64
    frozen_batch: int = 32
    cached_views: int = 2
    text_depth: int = 12
    steps: int = 1
    fast_steps: int = 4
    rounds: int = 2


QUICK = Sizes((40, 80, 80), (16, 32, 32), (32, 32, 32), 16, 8, 2, 2, 1, 2, 1)
THEIRS = "the published code's way"
SAME = "ours, the same recipe"
TINY = "ours, tiny.toml"
FROZEN = "frozen ResNet-18, run at every step"
CACHED = "frozen ResNet-18, features made once"
NOTES = (
    "Contenders take turns in one process; medians of rounds. CPU seconds are of all threads, "
    "steps alone: no set-up, no validation, no features made ahead. Other work ran on the cores: "
    "read ratios."
)


@dataclass(frozen=True)
class Took:
    """What some steps took."""

    n_seen: int
    cpu_s: float
    wall_s: float


Contender = Callable[[int], Took]


# Data


def write_cts(folder: Path, n: int, size: tuple[int, int, int]) -> list[tuple[Path, str]]:
    """Write phantoms as .nii.gz, each with its report."""
    made = []
    for seed in range(n):
        phantom = make_phantom(SEED + seed, PhantomConfig(size=size))
        path = folder / f"{seed}.nii.gz"
        write_nifti(phantom.volume, path)
        made.append((path, phantom.report_en))
    return made


def prepared(folder: Path, cts: list[tuple[Path, str]], config: PreprocessConfig) -> TrainingSet:
    """Preprocess CTs once, into a memory-mapped file."""
    volumes = np.stack([preprocess(read_volume(path), config) for path, _ in cts])
    np.save(folder / "volumes.npy", volumes)
    return TrainingSet(
        study_ids=tuple(str(i) for i in range(len(cts))),
        patient_ids=tuple(str(i) for i in range(len(cts))),
        volumes=np.load(folder / "volumes.npy", mmap_mode="r"),
        reports=tuple((report,) for _, report in cts),
        preprocess=config,
    )


def two_of(data: TrainingSet) -> TrainingSet:
    """Return a validation set as small as may be: validation is not measured."""
    return replace(
        data,
        study_ids=("a", "b"),
        patient_ids=("a", "b"),
        volumes=data.volumes[:2],
        reports=data.reports[:2],
        findings=(),
        rows=None,
    )


def write_bert(folder: Path, reports: list[str], depth: int) -> Path:
    """Write BioBERT's architecture without weights, with word pieces of these reports' words."""
    from tokenizers.implementations import BertWordPieceTokenizer

    size = {
        "vocab_size": 28996,
        "hidden_size": 768,
        "num_hidden_layers": depth,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "max_position_embeddings": 512,
    }
    words = sorted({word for report in reports for word in report.replace(".", " . ").split()})
    letters = sorted({letter for word in words for letter in word})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    pieces += [f"##{letter}" for letter in letters] + [word for word in words if len(word) > 1]
    pieces += [f"[unused{i}]" for i in range(size["vocab_size"] - len(pieces))]
    folder.mkdir()
    numbered = {piece: i for i, piece in enumerate(pieces)}
    BertWordPieceTokenizer(numbered, lowercase=False).save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", **size}))
    return folder


# The published code's way


class Published(nn.Module):
    """MONAI's ResNet-50 and a frozen BERT's class token, each through a linear layer to 512."""

    def __init__(self, bert: Path) -> None:
        super().__init__()
        from monai.networks.nets.resnet import resnet50
        from transformers import BertConfig, BertModel

        self.volume = resnet50(
            spatial_dims=3, n_input_channels=1, conv1_t_stride=STEM_STRIDE, feed_forward=False
        )
        self.text = BertModel(BertConfig.from_pretrained(bert)).eval().requires_grad_(False)
        self.volume_head = nn.Linear(2048, 512)
        self.text_head = nn.Linear(self.text.config.hidden_size, 512)

    def forward(self, volumes: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the loss: each text finds its volume among the batch's."""
        with torch.no_grad():
            states = self.text(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]
        similar = self.text_head(states) @ self.volume_head(self.volume(volumes)).T / 0.07
        return F.cross_entropy(similar, torch.arange(len(volumes), device=volumes.device))


def published(
    cts: list[tuple[Path, str]], bert: Path, size: tuple[int, int, int], seconds: dict[str, float]
) -> Contender:
    """Return the published code's way; `seconds` takes the CPU seconds that reading took."""
    import monai.transforms as t
    from tokenizers import Tokenizer

    read = t.Compose(
        [
            t.LoadImage(image_only=True),
            t.EnsureChannelFirst(),
            t.ScaleIntensity(),
            t.CropForeground(allow_smaller=True),
            t.Resize(size[::-1]),
        ]
    )
    pieces = Tokenizer.from_file(str(bert / "tokenizer.json"))
    pieces.enable_truncation(100)
    pieces.enable_padding(length=100)
    torch.manual_seed(SEED)
    model = Published(bert)
    model.volume.train()
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=1e-4, weight_decay=0.01)
    chooser = random.Random(SEED)

    def window(report: str) -> str:
        words = report.split()
        start = chooser.randrange(max(1, len(words) - 99))
        return " ".join(words[start : start + 100])

    def steps(n: int) -> Took:
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(n):
            reading = time.process_time()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                volumes = torch.stack([read(path).as_tensor() for path, _ in cts])
            tokens = pieces.encode_batch([window(report) for _, report in cts])
            seconds["cpu_s"] = seconds.get("cpu_s", 0) + time.process_time() - reading
            seconds["n"] = seconds.get("n", 0) + len(cts)
            loss = model(
                volumes,
                torch.tensor([one.ids for one in tokens]),
                torch.tensor([one.attention_mask for one in tokens]),
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return Took(n * len(cts), time.process_time() - cpu, time.perf_counter() - wall)

    return steps


# Ours


def ours(config: str | None, settings: list[str], data: TrainingSet, features: Path) -> Contender:
    """Return a recipe's steps through `medfinder.train`; set-up and validation are not counted."""
    path = CONFIGS / config if config else None

    def steps(n: int) -> Took:
        recipe = load_config(RecipeConfig, path, [*QUIET, *settings, f"train.steps={n}"])
        with tempfile.TemporaryDirectory() as out:
            done = fit(recipe, data, two_of(data), out, features=features)
        return Took(done.n_seen, done.cpu_s, done.duration_s)

    return steps


class FrozenResNet:
    """MONAI's ResNet-18 with random weights, as an encoder that a recipe may start from."""

    def __init__(self, preprocessing: PreprocessConfig) -> None:
        torch.manual_seed(SEED)
        build = volume_networks.get("resnet18")
        self.network: VolumeEncoder = build(VolumeEncoderConfig(name="resnet18"), preprocessing)
        self.network.eval().requires_grad_(False)
        self.info = EncoderInfo(
            name="frozen",
            streams=frozenset({"volume"}),
            dim=self.network.width,
            weights="random",
            licence="Apache-2.0",
            source="benchmarks/throughput.py",
            needs="nothing",
            preprocess=preprocessing,
            n_regions=self.network.n_regions,
        )

    def region_features(self, batch: NDArray[Any]) -> NDArray[np.float16]:
        """Encode volumes in 0..255, eight at once."""
        with torch.no_grad():
            parts = [self.network(x / 255) for x in torch.from_numpy(batch).float().split(8)]
        return torch.cat(parts).half().numpy()


# Measuring


def take_turns(contenders: dict[str, tuple[Contender, int]], rounds: int) -> dict[str, Any]:
    """Run each contender's steps once a round; medians of seconds a study."""
    found: dict[str, list[Took]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, (contender, n) in contenders.items():
            took = contender(n if number else 1)
            print(
                f"round {number}, {name}: {took.cpu_s / took.n_seen:.4f} CPU-s a study", flush=True
            )
            if number:  # what is lazy is done in the first round, which is not counted
                found[name].append(took)
    return {
        name: {
            "cpu_s_a_study": median(one.cpu_s / one.n_seen for one in took),
            "wall_s_a_study": median(one.wall_s / one.n_seen for one in took),
            "studies_per_s": median(one.n_seen / one.wall_s for one in took),
            "cpu_s_a_study_of_rounds": [one.cpu_s / one.n_seen for one in took],
            "batch": took[0].n_seen // contenders[name][1],
        }
        for name, took in found.items()
    }


def measure(sizes: Sizes, folder: Path) -> dict[str, Any]:
    """Return all figures."""
    for name in ("cts", "small", "published", "tiny", "frozen"):
        (folder / name).mkdir()
    cts = 2 * write_cts(folder / "cts", 2, sizes.ct)  # each is read as often as it is named
    small = write_cts(folder / "small", sizes.n_small, (32, 48, 48))
    bert = write_bert(folder / "bert", [report for _, report in cts], sizes.text_depth)

    code = [
        f"model.text.pretrained={bert}",
        f"model.preprocess.size={list(sizes.volume)}",
    ]
    settings = load_config(RecipeConfig, CONFIGS / "published_code.toml", code)
    assert settings.train.batch_size == len(cts)
    preprocess(read_volume(cts[0][0]), settings.model.preprocess)  # compiles
    start = time.process_time()
    data = prepared(folder / "published", cts, settings.model.preprocess)
    prepare_s = (time.process_time() - start) / len(cts)

    n = sizes.n_small
    tiny = [f"train.batch_size={min(64, n)}", "objective.label_min_count=2"]
    config = load_config(RecipeConfig, CONFIGS / "tiny.toml", tiny).model.preprocess
    tiny_data = prepared(folder / "tiny", small, config)

    frozen = [
        "model.volume.name=pretrained",
        "model.volume.pretrained=frozen",
        "model.volume.trained=none",
        "model.text.width=128",
        "model.text.depth=2",
        f"model.preprocess.size={list(sizes.frozen)}",
        "model.preprocess.scaling=minmax",
        "model.preprocess.output_range=[0, 255]",
        "model.preprocess.dtype=uint8",
        f"train.batch_size={sizes.frozen_batch}",
    ]
    config = load_config(RecipeConfig, None, frozen).model.preprocess
    frozen_data = prepared(folder / "frozen", small[: sizes.frozen_batch], config)
    encoder = FrozenResNet(config)
    encoders.register("frozen")(EncoderEntry(encoder.info, lambda: encoder))

    seconds: dict[str, float] = {}
    features = folder / "features"
    fast, slow = sizes.fast_steps, sizes.steps
    published_code = ours("published_code.toml", code, data, features)
    cached = [*frozen, f"train.cached_views={sizes.cached_views}"]
    start = time.process_time()
    ours(None, cached, frozen_data, features)(1)  # the features are made here
    fill_s = time.process_time() - start
    contenders = {
        THEIRS: (published(cts, bert, sizes.volume, seconds), slow),
        SAME: (published_code, slow),
        TINY: (ours("tiny.toml", tiny, tiny_data, features), fast),
        FROZEN: (ours(None, frozen, frozen_data, features), slow),
        CACHED: (ours(None, cached, frozen_data, features), fast),
    }
    found = take_turns(contenders, sizes.rounds)

    def ratio(a: str, b: str) -> dict[str, float]:
        return {k: found[a][f"{k}_a_study"] / found[b][f"{k}_a_study"] for k in ("cpu_s", "wall_s")}

    gained = found[FROZEN]["cpu_s_a_study"] - found[CACHED]["cpu_s_a_study"]
    return {
        "sizes": asdict(sizes),
        "n_threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "training": found,
        "ratios": {
            "published_over_same_recipe": ratio(THEIRS, SAME),
            "published_over_tiny": ratio(THEIRS, TINY),
            "frozen_over_cached": ratio(FROZEN, CACHED),
        },
        "reading_cpu_s_a_study": {
            "published, at every step": seconds["cpu_s"] / seconds["n"],
            "ours, once": prepare_s,
        },
        "features": {
            "fill_cpu_s": fill_s,
            "n_studies": len(frozen_data),
            "epochs_until_it_pays": fill_s / len(frozen_data) / gained,
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="small, one round, no record")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(QUICK if quick else Sizes(), Path(folder))
    rows = [
        {
            "training": name,
            "batch": row["batch"],
            "studies a second": row["studies_per_s"],
            "CPU-s a study": row["cpu_s_a_study"],
        }
        for name, row in figures["training"].items()
    ]
    print(table(rows))
    print(table([{"ratio": name, **row} for name, row in figures["ratios"].items()]))
    print(figures["reading_cpu_s_a_study"], figures["features"])
    if not quick:
        print(write_result("throughput", figures, seeds=[SEED], notes=NOTES))


if __name__ == "__main__":
    main()
