"""How fast training and embedding are at full input size on one CUDA GPU, and what they hold of it.

- ``configs/base.toml`` and ``configs/paper.toml`` through the steps of `medfinder.train`: what is
  timed is a step as a run takes it, with its batch made ahead in a thread.
- The published code's networks, loss and batch, as ``benchmarks/throughput.py`` writes them anew,
  in float32 as published and in bfloat16. Volumes come from memory: what reading costs is there.
- A frozen 3D ResNet-18, run at every step, and its features made once (``train.cached_views``).
- Volumes embedded a second through `Embedder`.
- The order of a convolution's axes in memory, and cuDNN's own search for kernels.
- A whole run with validation and checkpoint, whose vectors are compared with the CPU's.

Volumes and weights are random: speed does not depend on them. Reports are those of
phantoms. A BERT of BioBERT's size stands for BiomedCLIP's text tower too. Times are medians after
warm-up, with the GPU waited for. Parts that come after the budget is used up are skipped, and named.

Run: ``python benchmarks/gpu.py [--out FILE] [--budget-s 100] [--profile]``, or ``--quick`` for tiny
sizes on the CPU, which are recorded only with ``--out``.
"""

import argparse
import contextlib
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from record import table, write_result
from throughput import CONFIGS, FrozenResNet, Published, write_bert

from medfinder.config import load_config
from medfinder.embed import Embedder
from medfinder.errors import MedFinderError
from medfinder.model.checkpoint import load_checkpoint, load_encoder_from
from medfinder.model.dual_stream import DualStream
from medfinder.model.encoder import EncoderEntry, encoders
from medfinder.model.joint_encoder import JointEncoder
from medfinder.phantom.splits import benchmark_studies, report_of
from medfinder.train.batch import Batch
from medfinder.train.dataset import TrainingSet
from medfinder.train.loop import _Ahead, _Run, fit, open_fabric
from medfinder.train.recipe import RecipeConfig
from medfinder.volume.preprocess import PreprocessConfig

START = time.perf_counter()
SEED = 0
NOTES = (
    "One process; medians of steps after warm-up, the GPU waited for before and after each. A step is "
    "a run's own, with the next batch made and copied to the GPU in a thread meanwhile; the published "
    "code's reads no file here. float32 is torch's default, convolutions in TF32. Peak memory is what "
    "torch allocated, the next batch included."
)
Size = tuple[int, int, int]


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        sizes: Of the input along (D, H, W); the first one's parts are measured most.
        n_studies: Of the training set.
        n_volumes: Different ones among them, to spare memory.
        small_batch: Studies a step of base.toml without cached gradients.
        base_settings, paper_settings: For these recipes.
        published_batch: Studies a step.
        frozen_batch: Studies a step, and of the set, of the frozen network.
        cached_views: Of its features.
        embed_batch: Volumes embedded at once.
        n_embedded: Volumes embedded in a round.
        text_depth: Layers of BERT.
        run_steps: Of the whole run.
        repeats: Steps that are timed, at most.
        row_s: Seconds after which a row is timed no more.
    """

    sizes: tuple[Size, ...] = ((96, 224, 224), (160, 224, 224))
    n_studies: int = 128
    n_volumes: int = 32
    small_batch: int = 16
    base_settings: tuple[str, ...] = ()
    paper_settings: tuple[str, ...] = ()
    published_batch: int = 4
    frozen_batch: int = 32
    cached_views: int = 2
    embed_batch: int = 8
    n_embedded: int = 32
    text_depth: int = 12
    run_steps: int = 3
    repeats: int = 5
    row_s: float = 5.0


# bfloat16 on a CPU: weight gradients of a channels-last 3D convolution hold chance values (torch 2.13)
QUICK_SETTINGS = ("train.batch_size=8", "train.micro_batch=4", "train.precision=32-true")
QUICK = Scale(
    sizes=((16, 32, 32),),
    n_studies=8,
    n_volumes=4,
    small_batch=4,
    base_settings=("objective.label_min_count=1", *QUICK_SETTINGS),
    paper_settings=QUICK_SETTINGS,
    frozen_batch=4,
    embed_batch=2,
    n_embedded=4,
    text_depth=1,
    run_steps=2,
    repeats=1,
    row_s=1.0,
)


class Frozen(FrozenResNet):
    """MONAI's ResNet-18 with random weights on a device, as an encoder a recipe may start from."""

    def __init__(self, preprocessing: PreprocessConfig, device: torch.device) -> None:
        super().__init__(preprocessing)
        self.device = device
        self.network.to(device)

    def region_features(self, batch: NDArray[Any]) -> NDArray[np.float16]:
        """Encode volumes in 0..255, eight at once."""
        with torch.no_grad():
            volumes = torch.split(torch.from_numpy(batch).float(), 8)
            parts = [self.network(x.to(self.device) / 255) for x in volumes]
        regions: NDArray[np.float16] = torch.cat(parts).half().cpu().numpy()
        return regions


class Measuring:
    """Measures part by part into `figures`."""

    def __init__(self, scale: Scale, device: torch.device, folder: Path, budget_s: float) -> None:
        self.scale, self.device, self.folder, self.budget_s = scale, device, folder, budget_s
        studies = benchmark_studies("train", scale.n_studies)
        self.reports = [report_of(study) for study in studies]
        self.bert = write_bert(folder / "bert", self.reports, scale.text_depth)
        self.made: dict[Size, NDArray[np.uint8]] = {}
        self.training: list[dict[str, Any]] = []
        self.embedding: list[dict[str, Any]] = []
        self.orders: list[dict[str, Any]] = []
        self.figures: dict[str, Any] = {
            "device": describe(device),
            "sizes": [list(size) for size in scale.sizes],
            "training": self.training,
            "embedding": self.embedding,
            "orders": self.orders,
            "skipped": [],
            "failed": {},
            "wall_s": 0.0,
        }

    def parts(self) -> dict[str, Callable[[], None]]:
        """Return what is measured, in order of weight."""
        parts: dict[str, Callable[[], None]] = {}
        for size in self.scale.sizes:
            parts[f"base.toml at {edges(size)}"] = partial(self.base, size)
        for size in self.scale.sizes:
            parts[f"the published code at {edges(size)}"] = partial(self.published, size)
        for size in self.scale.sizes:
            parts[f"paper.toml at {edges(size)}"] = partial(self.paper, size)
        first = self.scale.sizes[0]
        parts["a frozen network"] = partial(self.frozen, first)
        parts["a whole run"] = partial(self.whole, first)
        parts["orders in memory"] = partial(self.in_orders, first)
        if self.device.type == "cuda":
            parts["cuDNN's search"] = partial(self.in_orders, first, search=True)
        return parts

    def has_time(self, what: str, seconds: float = 0.0) -> bool:
        """Tell whether `seconds` more lie within the budget; else note what is skipped."""
        has = time.perf_counter() - START + seconds <= self.budget_s
        if not has:
            self.figures["skipped"].append(what)
            print(f"{what}: skipped, it would end after {self.budget_s:.0f} s", flush=True)
        return has

    # -- parts

    def base(self, size: Size) -> None:
        """Time steps of base.toml, and volumes embedded with its model."""
        run = self.run("base.toml", size, self.scale.base_settings)
        batch, micro = run.recipe.train.batch_size, run.recipe.train.micro_batch
        piece = self.steps("base.toml", run, self.scale.small_batch, 0, warm=2)
        self.training.append(piece)
        # the first passes of cached gradients are a third more; its pieces are warm
        if self.has_time(f"batch {batch} at {edges(size)}", 4 / 3 * batch / piece["studies_per_s"]):
            self.training.append(self.steps("base.toml", run, batch, micro, warm=0))
        self.embed(size, run.model)

    def paper(self, size: Size) -> None:
        """Time steps of paper.toml."""
        text = ["model.text.name=bert", f"model.text.pretrained={self.bert}"]
        run = self.run("paper.toml", size, [*text, *self.scale.paper_settings])
        batch, micro = run.recipe.train.batch_size, run.recipe.train.micro_batch
        piece = self.steps("paper.toml", run, micro, 0, warm=1, repeats=2)
        self.training.append(piece)
        if self.has_time(f"batch {batch} at {edges(size)}", 4 / 3 * batch / piece["studies_per_s"]):
            self.training.append(self.steps("paper.toml", run, batch, micro, warm=0))

    def published(self, size: Size) -> None:
        """Time steps of the published code, but for its reading."""
        from tokenizers import Tokenizer

        n = self.scale.published_batch
        pieces = Tokenizer.from_file(str(self.bert / "tokenizer.json"))
        pieces.enable_truncation(100)
        pieces.enable_padding(length=100)
        torch.manual_seed(SEED)
        model = Published(self.bert).to(self.device)
        model.volume.train()
        learned = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(learned, lr=1e-4, weight_decay=0.01)
        volumes = torch.from_numpy(self.volumes(size, n)).float() / 255

        def step(autocast: contextlib.AbstractContextManager[object]) -> None:
            tokens = pieces.encode_batch(self.reports[:n])
            ids, mask = (
                torch.tensor([getattr(one, name) for one in tokens], device=self.device)
                for name in ("ids", "attention_mask")
            )
            with autocast, self.device:  # the loss makes its targets there
                loss = model(volumes.to(self.device), ids, mask)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

        half = torch.autocast(self.device.type, torch.bfloat16)
        for precision, autocast in (("32-true", contextlib.nullcontext()), ("bf16-mixed", half)):
            took = self.timed(partial(step, autocast), warm=2)
            self.training.append(row("the published code", size, n, 0, precision, took))

    def embed(self, size: Size, model: DualStream) -> None:
        """Time prepared volumes: in float32, as a checkpoint is loaded, and in bfloat16."""
        n = self.scale.n_embedded
        volumes = self.volumes(size, n)
        ids = [str(i) for i in range(n)]
        found: dict[str, NDArray[np.float32]] = {}
        for dtype in (torch.float32, torch.bfloat16):  # the run has no more use for float32
            encoder = JointEncoder(model.to(dtype), weights="timed")
            embedder = Embedder(encoder, batch_size=self.scale.embed_batch)
            name = str(dtype).removeprefix("torch.")

            def once(embedder: Embedder = embedder, name: str = name) -> None:
                found[name] = embedder.embed_prepared(ids, volumes).vectors

            took = self.timed(once, warm=1)
            self.embedding.append(
                {
                    "size": list(size),
                    "dtype": name,
                    "batch": self.scale.embed_batch,
                    "volumes_per_s": n / median(took.seconds),
                    "peak_gib": took.peak_gib,
                }
            )
        cosines = (found["float32"] * found["bfloat16"]).sum(1)
        self.embedding[-1]["min_cosine_with_float32"] = float(cosines.min())

    def frozen(self, size: Size) -> None:
        """Time a frozen network at every step, and its features made once."""
        n = self.scale.frozen_batch
        settings = [
            *self.scale.base_settings,
            "objective.label_min_count=1",
            "model.volume.name=pretrained",
            "model.volume.pretrained=frozen",
            "model.volume.trained=none",
            f"train.batch_size={n}",
            "train.micro_batch=0",
        ]
        encoder = Frozen(self.recipe("base.toml", size, []).model.preprocess, self.device)
        encoders.register("frozen")(EncoderEntry(encoder.info, lambda: encoder))
        every = self.steps("frozen", self.run("base.toml", size, settings, n), n, 0, warm=1)
        views = f"train.cached_views={self.scale.cached_views}"
        run = self.run("base.toml", size, [*settings, views], n)
        begin = self.now()
        run.make_features(self.folder / "features", None)
        fill_s = self.now() - begin
        cached = self.steps("frozen", run, n, 0, warm=1)
        n_views = n * self.scale.cached_views + len(run.val)
        self.figures["frozen"] = {
            "size": list(size),
            "batch": n,
            "cached_views": self.scale.cached_views,
            "every_step": every,
            "cached": cached,
            "studies_per_s_ratio": cached["studies_per_s"] / every["studies_per_s"],
            "fill_views_per_s": n_views / fill_s,
        }

    def whole(self, size: Size) -> None:
        """Run to a checkpoint; compare its vectors on this device with the CPU's."""
        n_steps = self.scale.run_steps
        recipe = self.recipe(
            "base.toml", size, [*self.scale.base_settings, f"train.steps={n_steps}"]
        )
        data, val = self.data(recipe, self.scale.n_studies), self.data(recipe, 8, "val")
        ends: list[float] = []
        begin = self.now()
        done = fit(
            recipe,
            data,
            val,
            self.folder / "run",
            fabric=open_fabric(recipe.train),
            progress=lambda *_: ends.append(self.now()),
        )
        whole_s = self.now() - begin
        volumes = val.volumes[:2]
        here = Embedder(load_encoder_from(done.checkpoint)).embed_prepared("ab", volumes)
        there = Embedder(JointEncoder(load_checkpoint(done.checkpoint)))
        cosines = (here.vectors * there.embed_prepared("ab", volumes).vectors).sum(1)
        self.figures["run"] = {
            "size": list(size),
            "n_steps": done.n_steps,
            "n_skipped": done.n_skipped,
            "s_with_set_up_validation_checkpoint": whole_s,
            "s_of_steps": done.duration_s,
            "min_cosine_with_cpu": float(cosines.min()),
        }

    def in_orders(self, size: Size, search: bool = False) -> None:
        """Time the same step with weights in other orders, also with cuDNN's search."""
        run = self.run("base.toml", size, self.scale.base_settings)
        network: Any = run.model.volume.network
        orders: dict[str, tuple[tuple[nn.Module, torch.memory_format], ...]] = {
            "channels last": ((network, torch.channels_last_3d),),
            "C order": ((network, torch.contiguous_format),),
            "C order in the stem, else channels last": (
                (network, torch.channels_last_3d),
                (network.conv1, torch.contiguous_format),
            ),
        }
        torch.backends.cudnn.benchmark = search
        try:
            for name, changes in orders.items():
                for module, order in changes:
                    for parameter in module.parameters():
                        if parameter.ndim == 5:
                            parameter.data = reordered(parameter.data, order)
                run.optimizer.zero_grad()
                run.optimizer.state.clear()  # moments lie as their parameters do
                took = self.steps("base.toml", run, self.scale.small_batch, 0, warm=2, repeats=3)
                self.orders.append({"order": name, "cudnn_search": search, **took})
        finally:
            torch.backends.cudnn.benchmark = False

    def profile(self) -> None:
        """Print which kernels a step of base.toml spends its time in."""
        from torch.profiler import ProfilerActivity, profile

        run = self.run("base.toml", self.scale.sizes[0], self.scale.base_settings)
        batch = self.scale.small_batch
        self.steps("base.toml", run, batch, 0, warm=1, repeats=1)
        on_gpu = self.device.type == "cuda"
        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
        with profile(activities=kinds) as seen:
            self.steps("base.toml", run, batch, 0, warm=0, repeats=1)
        by = "device_time_total" if on_gpu else "cpu_time_total"
        print(seen.key_averages().table(sort_by=f"self_{by}", row_limit=30))

    # -- what parts share

    def recipe(
        self, config: str, size: Size, settings: "list[str] | tuple[str, ...]"
    ) -> RecipeConfig:
        """Read a recipe at a size, for this device, without what is not timed."""
        own = [
            f"model.preprocess.size={list(size)}",
            f"train.accelerator={self.device.type}",
            "train.logger=none",
            "train.validate_every=1000000",
            "train.checkpoint_every=1000000",
            "objective.labels_first=0.0",  # a step with every term
        ]
        return load_config(RecipeConfig, CONFIGS / config, [*own, *settings])

    def run(
        self, config: str, size: Size, settings: "list[str] | tuple[str, ...]", n: int = 0
    ) -> _Run:
        """Set up a run as `fit` does, upon `n` studies; 0 for all."""
        free(self.device)
        recipe = self.recipe(config, size, settings)
        data, val = self.data(recipe, n or self.scale.n_studies), self.data(recipe, 2, "val")
        out = Path(tempfile.mkdtemp(dir=self.folder))
        run = _Run(recipe, data, val, out, open_fabric(recipe.train), False, None)
        run.model.train()
        return run

    def steps(
        self, name: str, run: _Run, batch: int, micro: int, *, warm: int, repeats: int = 0
    ) -> dict[str, Any]:
        """Time steps of a run with this batch and micro-batch."""
        settings = replace(run.recipe.train, batch_size=batch, micro_batch=micro)
        run.recipe = replace(run.recipe, train=settings)
        run.batches = replace(run.batches, size=batch)
        run.batches.batch(run.standing.step)  # what it reads of the reports is kept
        begin = self.now()
        made: Future[Batch] = Future()
        made.set_result(run.batches.batch(run.standing.step))
        made_s = self.now() - begin
        ahead = _Ahead(run.batches)
        ahead.made[run.standing.step, frozenset()] = made
        del made
        try:
            took = self.timed(lambda: run._step(ahead), warm=warm, repeats=repeats)
        finally:
            ahead.close()
        size = run.recipe.model.preprocess.size
        assert size is not None
        return {
            **row(name, size, batch, micro, settings.precision, took),
            "batch_made_s": made_s,
            "n_skipped": run.standing.n_skipped,
        }

    def timed(self, step: Callable[[], object], *, warm: int, repeats: int = 0) -> "Took":
        """Time a function until it was called `repeats` times or the row's seconds are used up."""
        for _ in range(warm):
            step()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        seconds: list[float] = []
        while len(seconds) < (repeats or self.scale.repeats) and sum(seconds) < self.scale.row_s:
            begin = self.now()
            step()
            seconds.append(self.now() - begin)
        peak = None
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device) / 2**30
        return Took(seconds, peak)

    def now(self) -> float:
        """Return seconds, with all that was asked of the device done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def volumes(self, size: Size, n: int) -> NDArray[np.uint8]:
        """Return random blocks of 8 voxels with noise upon them, (n, 1, D, H, W).

        Noise alone would look the same everywhere to the last layers, whose batch normalisation
        would then divide by almost nothing.
        """
        if size not in self.made:
            n_made, random = self.scale.n_volumes, np.random.default_rng(SEED)
            shape = n_made, 1, *(edge // 8 for edge in size)
            blocks = random.integers(0, 192, shape, np.uint8)
            made = random.integers(0, 64, (n_made, 1, *size), np.uint8)
            for axis in (2, 3, 4):
                blocks = blocks.repeat(8, axis)
            made += blocks
            self.made[size] = made
        return self.made[size][:n]

    def data(self, recipe: RecipeConfig, n: int, split: str = "train") -> TrainingSet:
        """Return studies with reports, which share a few random volumes."""
        size = recipe.model.preprocess.size
        assert size is not None
        names = tuple(f"{split}-{i}" for i in range(n))
        volumes = self.volumes(size, n)
        return TrainingSet(
            study_ids=names,
            patient_ids=names,
            volumes=volumes,
            reports=tuple((report,) for report in self.reports[:n]),
            preprocess=recipe.model.preprocess,
            rows=np.arange(n) % len(volumes),
        )


@dataclass(frozen=True)
class Took:
    """What calls took, and the most memory that was held."""

    seconds: list[float]
    peak_gib: float | None


def row(
    recipe: str, size: Size, batch: int, micro: int, precision: str, took: Took
) -> dict[str, Any]:
    return {
        "recipe": recipe,
        "size": list(size),
        "precision": precision,
        "batch": batch,
        "micro_batch": micro,
        "s_a_step": median(took.seconds),
        "studies_per_s": batch / median(took.seconds),
        "peak_gib": took.peak_gib,
        "s_of_steps": took.seconds,
    }


def reordered(weight: Tensor, order: torch.memory_format) -> Tensor:
    """Copy a weight into an order, also where one channel makes it ambiguous."""
    return torch.empty_like(weight, memory_format=order).copy_(weight)


def describe(device: torch.device) -> dict[str, Any]:
    on_gpu = device.type == "cuda"
    cudnn: Any = torch.backends.cudnn
    return {
        "name": torch.cuda.get_device_name(device) if on_gpu else "CPU",
        "memory_gib": torch.cuda.get_device_properties(device).total_memory / 2**30
        if on_gpu
        else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": cudnn.version(),
    }


def free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def edges(size: "Size | list[int]") -> str:
    return "×".join(map(str, size))


def written(figures: dict[str, Any], out: Path | None, commit: str) -> Path:
    """Write the record to `out`, or where records lie."""
    name = str(out.resolve().with_suffix("")) if out else "gpu"
    path = write_result(name, figures, seeds=[SEED], notes=NOTES)
    record = json.loads(path.read_text(encoding="utf-8")) | {"name": "gpu"}
    if not record["commit"]:  # a copy without its history
        record |= {"commit": commit, "commit_is_clean": None}
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return path


def show(figures: dict[str, Any]) -> None:
    def shown(one: dict[str, Any]) -> dict[str, Any]:
        left_out = ("s_of_steps", "size")
        kept = {k: v for k, v in one.items() if k not in left_out}
        return {"input": edges(one["size"]), **kept}

    print(figures["device"])
    for name in ("training", "orders", "embedding"):
        print(f"\n{name}\n{table([shown(one) for one in figures[name]])}")
    if "frozen" in figures:
        rows = {name: figures["frozen"][name] for name in ("every_step", "cached")}
        print(f"\nfrozen\n{table([{'way': name, **shown(one)} for name, one in rows.items()])}")
        print({k: v for k, v in figures["frozen"].items() if k not in rows})
    print(f"\nrun: {figures.get('run')}\nskipped: {figures['skipped']}")
    print(f"failed: {figures['failed']}\n{figures['wall_s']:.0f} s in all")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="tiny sizes on the CPU")
    parser.add_argument("--out", type=Path, help="the record's file, NAME.json")
    parser.add_argument("--budget-s", type=float, default=100.0, help="parts start within it")
    parser.add_argument("--commit", default="", help="for the record, where git is not there")
    parser.add_argument("--profile", action="store_true", help="print a step's kernels as well")
    given = parser.parse_args()
    if not given.quick and not torch.cuda.is_available():
        sys.exit("benchmarks/gpu.py needs a CUDA GPU; with --quick it runs tiny sizes on the CPU.")
    device = torch.device("cpu") if given.quick else torch.device("cuda", 0)
    scale = QUICK if given.quick else Scale()
    with tempfile.TemporaryDirectory() as folder:
        measuring = Measuring(scale, device, Path(folder), given.budget_s)
        figures = measuring.figures
        for name, part in measuring.parts().items():
            if not measuring.has_time(name):
                continue
            begin = time.perf_counter()
            try:
                part()
            except (
                RuntimeError,
                MedFinderError,
            ) as error:  # such as out of memory: the other parts are measured still
                figures["failed"][name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
                print(f"{name}: {figures['failed'][name]}", flush=True)
            free(device)
            print(f"{name}: {time.perf_counter() - begin:.1f} s", flush=True)
            figures["wall_s"] = time.perf_counter() - START
            if given.out or not given.quick:  # after each part, so that a kill loses only one
                written(figures, given.out, given.commit)
        if given.out or not given.quick:
            written(figures, given.out, given.commit)  # with what was skipped last
        if given.profile:
            measuring.profile()
    show(figures)


if __name__ == "__main__":
    main()
