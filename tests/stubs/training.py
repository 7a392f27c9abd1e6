"""Training at the smallest size that is still the real thing: drawn phantoms, 32 voxels an edge."""

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import nn

import medfinder.model.networks  # noqa: F401
from medfinder.config import from_dict, to_dict
from medfinder.model.dual_stream import CURVE_HU, DualStream, ModelConfig
from medfinder.model.text_encoder import TextEncoderConfig
from medfinder.model.volume_encoder import VolumeEncoderConfig
from medfinder.phantom.chest import PhantomConfig, make_phantom
from medfinder.phantom.splits import benchmark_studies, report_of
from medfinder.train.batch import Batches
from medfinder.train.dataset import TrainingSet
from medfinder.train.recipe import RecipeConfig, TrainConfig
from medfinder.volume.preprocess import PreprocessConfig, preprocess

PREPROCESS = PreprocessConfig(
    spacing_mm=(11.0, 11.0, 11.0),
    size=(32, 32, 32),
    scaling="curve",
    curve_hu=CURVE_HU,
    output_range=(0.0, 255.0),
    dtype="uint8",
)
MODEL = ModelConfig(
    volume=VolumeEncoderConfig(width=32, depth=1),
    text=TextEncoderConfig(width=32, depth=1),
    preprocess=PREPROCESS,
    dim=32,
    layout_width=8,
)
RECIPE = RecipeConfig(
    train=TrainConfig(
        steps=6,
        batch_size=4,
        validate_every=3,
        checkpoint_every=2,
        accelerator="cpu",
        logger="none",
        max_bad_rate=0.5,
    ),
    model=MODEL,
)


@lru_cache(maxsize=4)
def phantoms(split: str = "train", n: int = 8) -> TrainingSet:
    """Phantoms of a benchmark split, each with two wordings of its report."""
    studies = benchmark_studies(split, n)  # type: ignore[arg-type]
    volumes = [
        preprocess(
            make_phantom(s.seed, PhantomConfig(size=(32, 48, 48)), s.case).volume, PREPROCESS
        )
        for s in studies
    ]
    return TrainingSet(
        study_ids=tuple(s.study_id for s in studies),
        patient_ids=tuple(s.patient_id for s in studies),
        volumes=np.stack(volumes),
        reports=tuple((report_of(s), report_of(s, variant=1)) for s in studies),
        preprocess=PREPROCESS,
    )


def recipe(**settings: Any) -> RecipeConfig:
    """`RECIPE` with some settings changed: ``recipe(train={"steps": 3}, model={"fusion": True})``."""
    values = to_dict(RECIPE)
    for table, changed in settings.items():
        values[table] |= changed
    return from_dict(RecipeConfig, values)


def without(data: TrainingSet, *studies: int) -> TrainingSet:
    """Take the reports of some studies away."""
    reports = tuple(() if i in studies else r for i, r in enumerate(data.reports))
    return replace(data, reports=reports)


def stream(config: ModelConfig = MODEL, data: TrainingSet | None = None) -> DualStream:
    """A fresh model with the tokeniser of the phantoms' reports."""
    torch.manual_seed(0)
    model = DualStream(config)
    texts = [t for r in (data or phantoms()).reports for t in r]
    model.text.fit_tokenizer(texts)  # type: ignore[operator]
    return model


def without_batch_norm(model: nn.Module) -> nn.Module:
    """Replace batch normalisation, whose result depends on what else is in the batch."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm3d):
                setattr(module, name, nn.GroupNorm(1, child.num_features))
    return model


def batches(data: TrainingSet | None = None, **settings: Any) -> Batches:
    """Batches of four."""
    return Batches(data or phantoms(), **{"size": 4, **settings})
