"""The loop: a recipe and two training sets -> a trained model, its best checkpoint and its curves.

Lightning Fabric starts the processes and knows devices and precision; what a step does stands here.
A run may be killed at any moment: it goes on from its last state, and because nothing random is
carried along, to the same curve.
"""

import json
import logging
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

import medfinder.model.networks  # noqa: F401  fills the registries
from medfinder.config import config_hash, to_dict
from medfinder.errors import ConfigError, InputError, MedFinderError, Mismatch, MissingExtra
from medfinder.model.checkpoint import save_checkpoint
from medfinder.model.dual_stream import DualStream
from medfinder.report.language import detect_language
from medfinder.train.batch import Batch, Batches
from medfinder.train.curves import Curves, open_curves
from medfinder.train.dataset import TrainingSet
from medfinder.train.features import CachedViews, Features, make_features
from medfinder.train.gradients import average, backward
from medfinder.train.labels import encode_labels, fit_labels
from medfinder.train.objective import Objective, Terms
from medfinder.train.recipe import RecipeConfig, TrainConfig
from medfinder.train.state import STATE, load_state, save_state
from medfinder.train.validate import PRIMARY, validate

if TYPE_CHECKING:
    from lightning_fabric import Fabric

CHECKPOINT, BAD = "checkpoint", "bad.jsonl"
BETAS = (0.9, 0.98)
FLOOR = 0.02  # of the learning rate at the end of its cosine
MANY_SKIPPED = 10  # steps, before their share is looked at
LOOKED_AT = 1000  # reports, for their languages

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Fitted:
    """What a run made.

    Attributes:
        model: As it was after the last step; the best one is in `checkpoint`.
        checkpoint: Folder of the best one.
        measures: Of the best one, by name (`medfinder.train.validate`).
        step: After which it was the best.
        n_steps: Steps taken in all.
        n_seen: Studies seen, repeats counted.
        n_bad: Studies that turned out to be bad.
        n_skipped: Steps without an update, because a value was not finite.
        cpu_s: CPU seconds of all processes' steps.
        duration_s: Seconds of the clock that the steps took.
    """

    model: DualStream
    checkpoint: Path
    measures: Mapping[str, float]
    step: int
    n_steps: int
    n_seen: int
    n_bad: int
    n_skipped: int
    cpu_s: float
    duration_s: float


def open_fabric(config: TrainConfig) -> "Fabric":
    """Start the processes of a run; in each of them this returns.

    Under torchrun its number of processes counts, not `TrainConfig.devices`.

    Raises:
        MissingExtra: Lightning Fabric is not installed.
        ConfigError: The CPU cannot do `TrainConfig.precision`, or there is no such accelerator.
    """
    try:
        from lightning_fabric import Fabric
    except ImportError:
        raise MissingExtra("Training needs: pip install 'medfinder[train]'") from None
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    if config.accelerator == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "Setting train.accelerator is 'cuda', but PyTorch finds no GPU here. Set it to 'auto' or "
            "'cpu', or install a GPU build of PyTorch."
        )
    n_nodes, devices = 1, config.devices
    if "TORCHELASTIC_RUN_ID" in os.environ:  # started by torchrun, which has decided
        n_nodes = int(os.environ["GROUP_WORLD_SIZE"])
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
    fabric = Fabric(
        accelerator=config.accelerator,
        devices=devices,
        num_nodes=n_nodes,
        strategy="ddp" if n_nodes * devices > 1 else "auto",
        precision=config.precision,
    )
    if fabric.device.type == "cpu" and config.precision != "32-true" and not _has_bf16():
        raise ConfigError(
            f"Setting train.precision is {config.precision!r}, but this CPU has no bfloat16: torch "
            "gives wrong gradients of convolutions there. Set train.precision = '32-true'."
        )
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")):
        _meet_again("nccl" if fabric.device.type == "cuda" else "gloo")
    fabric.launch()
    return fabric


def _meet_again(backend: str) -> None:
    """Connect the processes that torchrun has started again.

    Its store outlives them, and still holds where those before could be reached: a process that
    believes it waits for half an hour. So each start looks under a name of its own.
    """
    from torch import distributed
    from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]

    store, rank, size = next(iter(rendezvous("env://")))
    count = os.environ["TORCHELASTIC_RESTART_COUNT"]
    own = PrefixStore(f"start-{count}", store)
    distributed.init_process_group(backend, store=own, rank=rank, world_size=size)


def _has_bf16() -> bool:
    known: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16") or "avx2" not in known)


def fit(
    recipe: RecipeConfig,
    train: TrainingSet,
    val: TrainingSet,
    out: str | Path,
    *,
    resume: bool = False,
    card: str | None = None,
    fabric: "Fabric | None" = None,
    features: str | Path | None = None,
    encoding: Progress | None = None,
    progress: Progress | None = None,
) -> Fitted:
    """Train a model and keep the best checkpoint by `medfinder.train.validate.PRIMARY`.

    Written to `out`: ``checkpoint/``; ``metrics.jsonl``, one line a step and one a validation;
    ``bad.jsonl``, studies left out and why; ``events…`` for TensorBoard; ``state.safetensors``.

    Args:
        val: Of other patients. A tenth of a minute a validation is a good size.
        resume: Go on from the state in `out`, if there is one.
        card: Of the checkpoint.
        fabric: From `open_fabric`, where the caller needed it before; None to open it here.
        features: Folder of the features of `TrainConfig.cached_views`, which runs may share; None
            for ``features`` in `out`.
        encoding: Called with (done, total) of each set after each study whose features are made.
        progress: Called with (step, steps) after each step, in every process.

    Raises:
        ConfigError: The batch is larger than the set, or does not divide by the processes.
        InputError: More studies than `train.max_bad_rate` turned out to be bad, the run has
            diverged, or a patient is in both sets.
        Mismatch: The state in `out` is of another recipe or other studies.
        MedFinderError: Another process of the run has ended.
    """
    fabric = fabric or open_fabric(recipe.train)
    _check_patients(train, val)
    with _telling_of_lost_processes(fabric.world_size):
        run = _Run(recipe, train, val, Path(out), fabric, resume, card)
        with closing(run.curves):
            if recipe.train.cached_views:
                run.make_features(Path(features or Path(out) / "features"), encoding)
            return run.to_end(progress)


@dataclass
class _Standing:
    """What a state file says beside tensors.

    Attributes:
        step: Steps taken.
        bad: Study -> why it is left out.
        best: Of the best validation: ``step``, ``key``, ``measures``.
    """

    step: int = 0
    n_seen: int = 0
    n_skipped: int = 0
    cpu_s: float = 0.0
    duration_s: float = 0.0
    bad: dict[str, str] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)


class _Run:
    def __init__(
        self,
        recipe: RecipeConfig,
        train: TrainingSet,
        val: TrainingSet,
        out: Path,
        fabric: "Fabric",
        resume: bool,
        card: str | None,
    ) -> None:
        self.recipe, self.val, self.out, self.fabric, self.card = recipe, val, out, fabric, card
        self.n_studies = len(train)
        self.languages = _languages(train)
        self.leads = fabric.is_global_zero
        self.source = {"recipe": config_hash(recipe), "train": train.digest, "val": val.digest}
        state = out / STATE
        resuming = resume and state.is_file()
        if self.leads and not resuming:
            _clear(out)
        self.model, self.objective, labels = _build(recipe, train)
        self.model.to(fabric.device)
        self.objective.to(fabric.device)
        self.modules: dict[str, nn.Module] = {"model": self.model, "objective": self.objective}
        self.parameters = [
            p for m in self.modules.values() for p in m.parameters() if p.requires_grad
        ]
        self.optimizer = _optimizer(self.parameters, recipe.train)
        self.standing = _Standing()
        if resuming:
            facts = load_state(state, self.modules, self.optimizer)
            if facts.pop("source") != self.source:
                raise Mismatch(
                    f"The run in {str(out)!r} was started with another recipe or other studies. "
                    "Resume it with the same, or train into another folder."
                )
            self.standing = _Standing(**facts)
        fabric.barrier()  # nobody writes before everybody has read
        self.batches = Batches(
            train,
            recipe.train.batch_size,
            recipe.train.seed,
            recipe.sampling,
            recipe.augment,
            n_told=recipe.objective.n_told if recipe.objective.has_statements else 0,
            n_denied=recipe.objective.n_denied if recipe.objective.has_statements else 0,
            n_prompts=recipe.objective.n_prompts if recipe.objective.statements else 0,
            labels=labels,
            needs_report=recipe.objective.needs_report,
            rank=fabric.global_rank,
            n_ranks=fabric.world_size,
            device=fabric.device,
        )
        self.curves: Curves = open_curves(
            out, recipe.train.logger if self.leads else "", self.standing.step, to_dict(recipe)
        )
        self.val_features: Features | None = None
        _start_alike(self.modules)

    def make_features(self, folder: Path, progress: Progress | None) -> None:
        """Run the frozen network over both sets, or find that it was; steps then read features."""
        settings = self.recipe.train
        views = CachedViews(settings.cached_views, settings.seed, self.recipe.augment)

        def made(data: TrainingSet, views: CachedViews, rows: Sequence[int]) -> Features:
            return make_features(
                self.model.volume,
                self.recipe.model.volume,
                data,
                views,
                folder,
                rows=rows,
                device=self.fabric.device,
                rank=self.fabric.global_rank,
                n_ranks=self.fabric.world_size,
                barrier=self.fabric.barrier,
                progress=progress,
            )

        features = made(self.batches.data, views, self.batches.pool.tolist())
        self.val_features = made(self.val, CachedViews(), range(len(self.val)))
        n_views = 2 if self.objective.has_two_views(self.model) else 1
        self.batches = replace(self.batches, features=features, n_views=n_views)
        known = self.standing.bad
        new = {study: why for study, why in features.rejected.items() if study not in known}
        if new:  # every process knows the same
            self._leave_out(new)

    def to_end(self, progress: Progress | None) -> Fitted:
        settings, now = self.recipe.train, self.standing
        ahead = _Ahead(self.batches)
        try:
            self.model.train()
            while self._share() < 1:
                self._step(ahead)
                ends = self._share() >= 1
                if ends or now.step % settings.validate_every == 0:
                    self._validate()
                if not ends and now.step % settings.checkpoint_every == 0:
                    self._save()
                if progress:
                    progress(now.step, settings.steps)
        finally:
            ahead.close()
            self.curves.close()
        if not now.best and self.leads:
            raise InputError("The run ended before its first step. Raise train.steps or max_cpu_s.")
        now.best = self.fabric.broadcast(now.best)
        return Fitted(
            model=self.model.eval(),
            checkpoint=self.out / CHECKPOINT,
            measures=now.best["measures"],
            step=now.best["step"],
            n_steps=now.step,
            n_seen=now.n_seen,
            n_bad=len(now.bad),
            n_skipped=now.n_skipped,
            cpu_s=now.cpu_s,
            duration_s=now.duration_s,
        )

    def _share(self) -> float:
        """Return the share of the run that is done: of its steps or of its budget."""
        settings, now = self.recipe.train, self.standing
        shares = [now.step / settings.steps]
        shares += [now.cpu_s / settings.max_cpu_s] if settings.max_cpu_s else []
        shares += [now.duration_s / settings.max_s] if settings.max_s else []
        return max(shares)

    def _step(self, ahead: "_Ahead") -> None:
        settings, now = self.recipe.train, self.standing
        cpu, clock = time.process_time(), time.monotonic()
        batch = ahead.get(now.step, frozenset(now.bad))
        rate = learning_rate(settings, max(self._share(), (now.step + 1) / settings.steps))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        self.objective.labels_alone = self._share() < self.recipe.objective.labels_first
        terms = backward(
            self.objective, self.model, batch, settings.micro_batch, self.fabric.autocast()
        )
        average(self.parameters)
        norm = nn.utils.clip_grad_norm_(self.parameters, settings.clip)
        values = _values(terms, norm)
        loss, size = values["loss"], values["norm"]
        bad = dict.fromkeys(batch.unreadable, "a voxel is not finite")
        is_finite = math.isfinite(loss) and math.isfinite(size)
        if not is_finite:
            bad |= self._culprits(batch)
        n_bad, n_not_finite = self._summed([len(bad), not is_finite])
        if n_not_finite:
            now.n_skipped += 1
        else:
            self.optimizer.step()
        now.step += 1
        now.n_seen += settings.batch_size
        if n_bad:
            self._leave_out(bad)
        used, took = self._summed([time.process_time() - cpu, time.monotonic() - clock])
        now.cpu_s += used
        now.duration_s += took / self.fabric.world_size
        self.curves.step(
            now.step,
            {**values, "lr": rate, "cpu_s": now.cpu_s},
        )
        if now.n_skipped > max(MANY_SKIPPED, settings.max_bad_rate * now.step):
            raise InputError(
                f"{now.n_skipped} of {now.step} steps had a loss or gradient that is not finite: the "
                "run has diverged. Lower train.lr, or look at bad.jsonl.",
                rule="diverged",
            )

    def _culprits(self, batch: Batch) -> dict[str, str]:
        """Return the studies that are not finite by themselves, or say that all are."""
        bad: dict[str, str] = {}
        with torch.no_grad(), _in_evaluation(self.model), self.fabric.autocast():
            for i, study_id in enumerate(batch.study_ids):
                text = batch.texts[i]
                made = self.objective.encode_volumes(self.model, batch, slice(i, i + 1))
                if not _is_finite(made.values()):
                    bad[study_id] = "its volume's features are not finite"
                elif text is not None and not _is_finite(
                    self.objective.encode_texts(self.model, [text]).values()
                ):
                    bad[study_id] = "its report's features are not finite"
        if len(bad) == len(batch.study_ids) > 1:
            raise InputError(
                f"At step {self.standing.step + 1} the features of every study are not finite: the "
                "run has diverged. Lower train.lr.",
                rule="diverged",
            )
        return bad

    def _leave_out(self, mine: dict[str, str]) -> None:
        """Share what processes found, write it down, and refuse where it is too much."""
        now = self.standing
        found: dict[str, str] = {}
        for one in _everybodys(mine):
            found |= one
        now.bad |= found
        if self.leads:
            with (self.out / BAD).open("a", encoding="utf-8") as file:
                for study_id, reason in found.items():
                    line = {"step": now.step, "study_id": study_id, "reason": reason}
                    file.write(json.dumps(line) + "\n")
        share = len(now.bad) / self.n_studies
        if share > self.recipe.train.max_bad_rate:
            names = ", ".join(list(now.bad)[:4]) + (" …" if len(now.bad) > 4 else "")
            raise InputError(
                f"{len(now.bad)} of {self.n_studies} studies are bad ({names}), at most "
                f"{self.recipe.train.max_bad_rate:.1%} may be (train.max_bad_rate). See {BAD} for "
                "the reason of each.",
                rule="too-many-bad",
            )

    def _summed(self, values: Sequence[float]) -> list[float]:
        """Sum over processes."""
        if self.fabric.world_size == 1:
            return list(values)
        tensor = torch.tensor(values, device=self.fabric.device, dtype=torch.float64)
        torch.distributed.all_reduce(tensor)
        summed: list[float] = tensor.tolist()
        return summed

    def _validate(self) -> None:
        now = self.standing
        if self.leads:
            scores = validate(self.model, self.val, self.val_features)
            self.curves.validation(now.step, scores.measures)
            if not now.best or scores.key > tuple(now.best["key"]):
                now.best = {"step": now.step, "key": scores.key, "measures": scores.measures}
                save_checkpoint(
                    self.model,
                    self.out / CHECKPOINT,
                    card=self.card,
                    training={
                        "data": {
                            "studies in training": self.n_studies,
                            "studies in validation": len(self.val),
                            "digest": self.source["train"],
                        },
                        "languages": self.languages,
                        "recipe": to_dict(self.recipe),
                        "primary": PRIMARY,
                        "measures": {"validation": scores.measures},
                        "seed": self.recipe.train.seed,
                        "step": now.step,
                        "duration_s": round(now.duration_s, 1),
                        "cpu_s": round(now.cpu_s, 1),
                    },
                    source=f"{self.n_studies} studies, digest {self.source['train']}",
                )
        self.fabric.barrier()

    def _save(self) -> None:
        if self.leads:
            self.curves.flush()
            facts = {**vars(self.standing), "source": self.source}
            save_state(self.out / STATE, self.modules, self.optimizer, facts)


class _Ahead:
    """Makes the next batch in a thread while a step runs."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches
        self.pool = ThreadPoolExecutor(1, "medfinder-batch")
        self.made: dict[tuple[int, frozenset[str]], Future[Batch]] = {}

    def get(self, step: int, left_out: frozenset[str]) -> Batch:
        waiting = self.made.pop((step, left_out), None)
        self.made.clear()  # made before a study turned out to be bad
        batch = waiting.result() if waiting else self.batches.batch(step, left_out)
        self.made[step + 1, left_out] = self.pool.submit(self.batches.batch, step + 1, left_out)
        return batch

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)


def learning_rate(config: TrainConfig, share: float) -> float:
    """Return the learning rate at a share of the run: a straight rise, then half a cosine."""
    if share < config.warmup:
        return config.lr * share / config.warmup
    fall = min(1.0, (share - config.warmup) / (1 - config.warmup))
    return config.lr * (FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * fall)) / 2)


def _build(
    recipe: RecipeConfig, train: TrainingSet
) -> tuple[DualStream, Objective, tuple[str, ...]]:
    """Build model and objective from the seed; what they learn from reports at first is the same
    in every process, and after a resume.
    """
    torch.manual_seed(recipe.train.seed)
    model = DualStream(recipe.model)
    fit_tokenizer = getattr(model.text, "fit_tokenizer", None)
    if fit_tokenizer is not None:
        fit_tokenizer([text for texts in train.reports for text in texts])
    labels: tuple[str, ...] = ()
    rates: list[float] = []
    if recipe.objective.needs_labels:
        first = [texts[0] for texts in train.reports if texts]
        labels = fit_labels(first, recipe.objective.label_min_count)
        if not labels:
            raise InputError(
                f"No label is in {recipe.objective.label_min_count} training reports. Lower "
                "objective.label_min_count, or set objective.labels and n_prompts to 0.",
                rule="no-labels",
            )
        rates = np.mean([encode_labels(text, labels) == 1 for text in first], 0).tolist()
    return model, Objective(recipe.objective, recipe.model.dim, rates), labels


def _languages(train: TrainingSet) -> list[str]:
    """List the languages of at least a tenth of the reports."""
    told = Counter(detect_language(texts[0]) for texts in train.reports[:LOOKED_AT] if texts)
    return sorted(language for language, n in told.items() if 10 * n >= told.total())


def _optimizer(parameters: Sequence[nn.Parameter], config: TrainConfig) -> torch.optim.AdamW:
    matrices = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.lr, betas=BETAS)


def _start_alike(modules: Mapping[str, nn.Module]) -> None:
    """Give every process the first one's weights."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for module in modules.values():
            for tensor in (*module.parameters(), *module.buffers()):
                torch.distributed.broadcast(tensor.data, 0)


def _everybodys(mine: dict[str, str]) -> list[dict[str, str]]:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [mine]
    every: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(every, mine)
    return every


def _check_patients(train: TrainingSet, val: TrainingSet) -> None:
    both = set(train.patient_ids) & set(val.patient_ids)
    if both:
        raise InputError(
            f"{len(both)} patients are in both sets, training and validation: the model would be "
            "judged on patients that it knows. Split by patient.",
            rule="split",
        )


def _clear(out: Path) -> None:
    """Remove what a run before left, so that its curves do not run on into this one's."""
    for name in (STATE, BAD):
        (out / name).unlink(missing_ok=True)


def _values(terms: Terms, norm: Tensor) -> dict[str, float]:
    """Return a step's figures, by one wait for the device."""
    named = {"loss": terms.total, **terms.named, "norm": norm}
    together = torch.stack([x.detach().float() for x in named.values()])
    return dict(zip(named, together.tolist(), strict=True))


def _is_finite(tensors: Any) -> bool:
    return all(bool(t.isfinite().all()) for t in tensors if isinstance(t, Tensor))


@contextmanager
def _in_evaluation(model: nn.Module) -> Iterator[None]:
    model.eval()
    try:
        yield
    finally:
        model.train()


@contextmanager
def _telling_of_lost_processes(n: int) -> Iterator[None]:
    """Turn the network's message into one that says what happened."""
    try:
        yield
    except RuntimeError as error:
        text = str(error).lower()
        if n > 1 and any(word in text for word in ("gloo", "nccl", "connection", "peer", "timed")):
            raise MedFinderError(
                f"Another of this run's {n} processes has ended, so this one ends too. Look at its "
                "message; then run again with --resume."
            ) from error
        raise
