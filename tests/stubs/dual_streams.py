"""Dual streams that are small enough for a test, with random weights and a tokeniser."""

from dataclasses import replace
from functools import cache
from typing import Any

import torch

import medfinder.model.text_sentences
import medfinder.model.volume_patch  # noqa: F401  (both register their networks)
from medfinder.model.dual_stream import CURVE_HU, DualStream, ModelConfig
from medfinder.model.text_encoder import TextEncoderConfig
from medfinder.model.text_sentences import SentenceNetwork
from medfinder.model.volume_encoder import VolumeEncoderConfig
from medfinder.volume.preprocess import PreprocessConfig

TEXTS = (
    "Left pleural effusion. No nodule. The heart is of normal size.",
    "Right pleural effusion of 2 cm. No pneumothorax.",
    "Nodule of 8 mm in the right upper lobe. No adenopathy.",
    "Derrame pleural derecho. No se observan nodulos.",
)
CONFIG = ModelConfig(
    volume=VolumeEncoderConfig(width=32, depth=1),
    text=TextEncoderConfig(width=32, depth=1),
    preprocess=PreprocessConfig(
        frame="lungs",
        spacing_mm=(10.0, 10.0, 10.0),
        size=(32, 32, 32),
        scaling="curve",
        curve_hu=CURVE_HU,
        output_range=(0.0, 255.0),
        dtype="uint8",
    ),
    dim=16,
    layout_width=4,
)


def tiny(seed: int = 0, texts: tuple[str, ...] = TEXTS, **changes: Any) -> DualStream:
    """Return a model of `CONFIG`, of which `changes` replace attributes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DualStream(replace(CONFIG, **changes))
    assert isinstance(model.text, SentenceNetwork)
    model.text.tokenizer = _word_pieces(texts)
    return model


@cache
def _word_pieces(texts: tuple[str, ...]) -> Any:
    network = SentenceNetwork(CONFIG.text.width, 1, CONFIG.text.max_tokens)
    network.fit_tokenizer(texts)
    return network.tokenizer
