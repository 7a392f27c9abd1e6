"""A recipe: everything that decides a training run, as one TOML."""

from dataclasses import dataclass, field
from typing import Literal

from medfinder.errors import ConfigError
from medfinder.model.dual_stream import ModelConfig
from medfinder.train.augment import AugmentConfig
from medfinder.train.objective import ObjectiveConfig
from medfinder.train.sampling import SamplingConfig


@dataclass(frozen=True)
class TrainConfig:
    """How a run goes.

    Attributes:
        steps: At most.
        batch_size: Studies a step, over all processes: it decides the loss, `devices` does not.
        micro_batch: Studies at once in each process, for batches that do not fit in memory; the
            gradient is the same (`medfinder.train.gradients`). 0 for all.
        lr: Highest learning rate, of AdamW.
        weight_decay: Of matrices; vectors (biases, norms, temperatures) have none.
        warmup: Share of the run in which the learning rate rises; it falls as a cosine after.
        clip: Largest norm of the gradient.
        seed: Of every random choice.
        precision: "bf16-mixed" halves memory on hardware that has it.
        accelerator: "auto" is a GPU where there is one.
        devices: Processes, one a device.
        validate_every: Steps between validations; the last step is validated too.
        checkpoint_every: Steps between states to resume from.
        max_cpu_s: Budget in CPU seconds of all processes, steps alone; 0 for none. The learning
            rate then follows the share of the budget that is used, and the run ends with it.
        max_s: The same in seconds of the clock.
        cached_views: Views of each volume whose features are made once, before the first step, for
            a frozen volume network (`medfinder.train.features`); each step draws among them. 1 is
            the unchanged volume alone. 0 to run the network at every step. Not in the budgets.
        max_bad_rate: Share of studies that may turn out to be bad before the run is refused.
        logger: Where curves go beside metrics.jsonl.
    """

    steps: int = 1000
    batch_size: int = 64
    micro_batch: int = 0
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.1
    clip: float = 1.0
    seed: int = 0
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = 1
    validate_every: int = 100
    checkpoint_every: int = 100
    max_cpu_s: float = 0.0
    max_s: float = 0.0
    cached_views: int = 0
    max_bad_rate: float = 0.01
    logger: Literal["tensorboard", "wandb", "none"] = "tensorboard"

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "devices", "validate_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"Setting train.{name} is {getattr(self, name)}; expected at least 1."
                )
        for name in ("micro_batch", "weight_decay", "seed", "max_cpu_s", "max_s", "cached_views"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(
                    f"Setting train.{name} is {getattr(self, name)}; expected at least 0."
                )
        for name in ("lr", "clip"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(
                    f"Setting train.{name} is {getattr(self, name)}; expected a finite number above 0."
                )
        if self.seed >= 2**63:
            raise ConfigError(f"Setting train.seed is {self.seed}; expected less than 2^63.")
        if not (0 <= self.warmup < 1 and 0 <= self.max_bad_rate <= 1):
            raise ConfigError(
                "Settings train.warmup and max_bad_rate are shares: from 0 to 1, warmup below 1."
            )


@dataclass(frozen=True)
class RecipeConfig:
    """A run's whole configuration; it travels with the artifact.

    Attributes:
        train: How the run goes.
        model: The architecture.
        objective: The terms of the loss.
        sampling: What a step sees of a report.
        augment: What a step sees of a volume.
    """

    train: TrainConfig = field(default_factory=TrainConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        similarity = self.objective.similarity
        if self.train.batch_size == 1 and self.objective.alpha and similarity != "siglip":
            raise ConfigError(
                f"Setting train.batch_size is 1, but objective.similarity = {similarity!r} compares "
                "each pair with the others of its batch. Use a batch of at least 2 (micro_batch = 1 "
                "where memory is short), or 'siglip'."
            )
        size = self.model.preprocess.size
        if size is not None and self.augment.shift_voxels >= min(size):
            raise ConfigError(
                f"Setting augment.shift_voxels is {self.augment.shift_voxels}; expected less than the "
                f"shortest side of model.preprocess.size, {min(size)}."
            )
        if self.objective.rerank and not self.model.reranker:
            raise ConfigError(
                "Setting objective.rerank is above 0, but the model has no reranker. Set "
                "model.reranker = true."
            )
        if self.train.cached_views and self.model.volume.trained != "none":
            raise ConfigError(
                f"Setting train.cached_views is {self.train.cached_views}, but model.volume.trained "
                f"is {self.model.volume.trained!r}: the features of a network that learns change at "
                "every step. Set model.volume.trained = 'none', or train.cached_views = 0."
            )
        if self.train.cached_views == 1 and (self.objective.view_mse or self.model.fusion):
            raise ConfigError(
                "Setting train.cached_views is 1, but objective.view_mse and model.fusion take two "
                "views of each volume. Set it to at least 2."
            )
        if self.model.preprocess.size is None:
            raise ConfigError(
                "Setting model.preprocess.size is missing: training needs volumes of one size."
            )
