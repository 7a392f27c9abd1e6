"""BiomedCLIP on slices: each axial slice and each text -> 512 numbers of one space; a volume pools its.

The method of 3D-MIR (arXiv 2311.13752): the volume's vector is the median, the maximum or the mean,
number by number, of its slices' vectors of length 1. Texts are cut at 256 tokens, as in training;
the vector is a projection of the class token.

Input contract: BiomedCLIP (arXiv 2303.00915) reads 224 x 224 pictures as a journal prints them. The
volume is stretched by area to 32 slabs of 224 x 224, each shown in a lung and a soft-tissue window,
turned as a radiologist sees it (anterior up, the patient's right on the left), grey in three
channels, standardised with CLIP's mean and deviation; the vectors of the two windows are averaged.
Slabs and windows are ours: 3D-MIR took every slice without a window.

Proved, on random weights in the published format: the tensors' names, shapes and file formats, that
the networks compute what timm 1.0.22, open_clip 3.3.0 and transformers compute, the contract, the
pooling and the orientation. Not proved: any number of the published weights, which were never at
hand, and open_clip's mending of mis-decoded text (ftfy), which is left out.
"""

import hashlib
import html
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from medfinder.errors import ConfigError, Mismatch
from medfinder.model.encoder import EncoderEntry, EncoderInfo, encoders
from medfinder.model.published import (
    HubFile,
    Published,
    file_sha256,
    load_strictly,
    n_layers,
    read_tensors,
    shape_of,
    without_prefix,
)
from medfinder.volume.preprocess import PreprocessConfig

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor, nn
    from transformers.models.bert import BertModel

Pooling = Literal["median", "max", "mean"]
POOLINGS: dict[str, Callable[..., Any]] = {"median": np.median, "max": np.max, "mean": np.mean}

REPO = "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
WEIGHTS_FILES = ("open_clip_pytorch_model.bin", "open_clip_model.safetensors")
PUBLISHED = Published(
    "biomedclip",
    "MEDFINDER_BIOMEDCLIP",
    (
        HubFile(REPO, WEIGHTS_FILES),
        HubFile(REPO, ("open_clip_config.json",)),
        HubFile(REPO, ("vocab.txt", "tokenizer.json")),
    ),
)
N_TOKENS = 256
N_HEADS = 12
N_TOGETHER = 16  # slices encoded at once
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CONTRACT: dict[str, Any] = {  # of open_clip_config.json, by dotted key
    "model_cfg.vision_cfg.timm_model_name": "vit_base_patch16_224",
    "model_cfg.vision_cfg.timm_proj": "linear",
    "model_cfg.text_cfg.hf_pooler_type": "cls_last_hidden_state_pooler",
    "model_cfg.text_cfg.hf_proj_type": "mlp",
    "model_cfg.text_cfg.context_length": N_TOKENS,
    "preprocess_cfg.mean": list(MEAN),
    "preprocess_cfg.std": list(DEVIATION),
}
INFO = EncoderInfo(
    name="biomedclip_slices",
    streams=frozenset({"volume", "text"}),
    dim=512,
    weights="published",  # the file's own SHA-256 takes its place when it is loaded
    licence="MIT",
    source=f"{REPO} on the Hugging Face Hub; slices pooled as in 3D-MIR (arXiv 2311.13752)",
    needs=PUBLISHED.needs,
    preprocess=PreprocessConfig(
        size=(32, 224, 224),
        interpolation="area",
        windows_hu=((-1350.0, 150.0), (-160.0, 240.0)),
    ),
    n_regions=(32, 1, 1),
)


class BiomedCLIPSlices:
    """The loaded encoder.

    Args:
        weights: The published tensors by name; widths and depths are read off them.
        tokenizer: Of BiomedCLIP's texts.
        pooling: How a volume's vector comes from its slices'.
        info: What it declares; differs from `INFO` by the weights' identity and the pooling.

    Raises:
        Mismatch: The tensors are not BiomedCLIP's, or `info` declares another input or dim.
    """

    def __init__(
        self,
        weights: "Mapping[str, Tensor]",
        tokenizer: "Tokenizer",
        pooling: Pooling = "median",
        info: EncoderInfo = INFO,
    ) -> None:
        import torch
        from torch import nn

        from medfinder.model import bert
        from medfinder.model.slice_vit import SliceViT

        if pooling not in POOLINGS:
            raise ConfigError(
                f"The pooling of slices is {pooling!r}; expected {', '.join(POOLINGS)}."
            )
        self.info, self.pooling = info, pooling
        width, _, patch, _ = shape_of(weights, "visual.trunk.patch_embed.proj.weight", 4, info.name)
        places = shape_of(weights, "visual.trunk.pos_embed", 3, info.name)[1]
        inner, _ = shape_of(weights, "visual.trunk.blocks.0.mlp.fc1.weight", 2, info.name)
        dim, _ = shape_of(weights, "visual.head.proj.weight", 2, info.name)
        depth = n_layers(weights, "visual.trunk.blocks.")
        trunk = SliceViT(width, depth, N_HEADS, inner, patch, places - 1)
        head = nn.ModuleDict({"proj": nn.Linear(width, dim, bias=False)})
        transformer, projection = text_tower(weights, info.name)
        network = nn.ModuleDict(
            {
                "visual": nn.ModuleDict({"trunk": trunk, "head": head}),
                "text": nn.ModuleDict({"transformer": transformer, "proj": projection}),
            }
        )
        network.register_parameter("logit_scale", nn.Parameter(torch.zeros(())))
        load_strictly(network, weights, info.name)
        side = patch * round((places - 1) ** 0.5)
        config = info.preprocess
        if config is None or config.size is None or config.size[1:] != (side, side):
            raise Mismatch(
                f"The weights of {info.name} take slices of {side} x {side}, its preprocessing "
                f"makes {config.size if config else None} (D, H, W)."
            )
        if dim != info.dim:
            raise Mismatch(f"The weights of {info.name} make {dim} numbers, expected {info.dim}.")
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network.eval().requires_grad_(False).to(self._device)
        self.trunk, self.head = trunk, head["proj"]
        self.transformer, self.projection = transformer, projection
        bert.prepare(tokenizer, N_TOKENS, transformer.config.vocab_size)
        self.tokenizer = tokenizer

    def encode_volumes(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(B, windows, D, H, W) in 0..1 -> (B, dim): its slices' vectors, pooled."""
        return self._pool(self._slices(batch))

    def region_features(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
        """(B, windows, D, H, W) in 0..1 -> (B, D, dim): a vector a slice, inferior to superior."""
        return self._slices(batch).astype(np.float16)

    def pool_regions(self, regions: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
        """(B, D, dim) -> (B, dim); what `encode_volumes` gives, up to float16's rounding."""
        return self._pool(regions.astype(np.float32))

    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Encode texts, of which the first 256 tokens are read, -> (B, dim)."""
        import torch

        from medfinder.model.bert import batch_ids

        vectors = []
        with torch.inference_mode():
            for start in range(0, len(texts), N_TOGETHER):
                part = [clean(text) for text in texts[start : start + N_TOGETHER]]
                ids, mask = (t.to(self._device) for t in batch_ids(self.tokenizer, part))
                states = self.transformer(input_ids=ids, attention_mask=mask).last_hidden_state
                vectors.append(self.projection(states[:, 0]).cpu().numpy())
        encoded: npt.NDArray[np.float32] = np.concatenate(vectors)
        return encoded

    def _slices(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(B, windows, D, H, W) in 0..1 -> (B, D, dim): windows' vectors of length 1, averaged."""
        import torch
        from torch.nn.functional import normalize

        n, windows, depth, height, width = batch.shape
        # upright: rows from anterior down, columns from the patient's right
        pictures = torch.from_numpy(np.ascontiguousarray(batch[..., ::-1, ::-1]))
        pictures = pictures.transpose(1, 2).reshape(-1, 1, height, width)
        mean, deviation = (
            torch.tensor(values, device=self._device)[:, None, None] for values in (MEAN, DEVIATION)
        )
        vectors = []
        with torch.inference_mode():
            for part in torch.split(pictures, N_TOGETHER):
                seen = (part.to(self._device) - mean) / deviation  # grey in three channels
                vectors.append(normalize(self.head(self.trunk(seen))).cpu())
        averaged = torch.cat(vectors).view(n, depth, windows, -1).mean(2)
        slices: npt.NDArray[np.float32] = averaged.numpy()
        return slices

    def _pool(self, slices: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        pooled: npt.NDArray[np.float32] = POOLINGS[self.pooling](slices, axis=1)
        return pooled


def clean(text: str) -> str:
    """Undo HTML's escapes, twice, and collapse white space, as the published tokeniser does."""
    return " ".join(html.unescape(html.unescape(text)).split())


def text_tower(weights: "Mapping[str, Tensor]", name: str) -> "tuple[BertModel, nn.Sequential]":
    """Build the text network of open_clip's checkpoint, with random weights: BERT and projection.

    The projection has two linear layers without bias and GELU between: ``text.proj.0``, ``.2``.

    Raises:
        Mismatch: A tensor that tells a size is missing.
    """
    from torch import nn

    from medfinder.model.bert import bert_for

    transformer = bert_for(without_prefix(weights, "text.transformer."), name)
    middle, width = shape_of(weights, "text.proj.0.weight", 2, name)
    dim, _ = shape_of(weights, "text.proj.2.weight", 2, name)
    projection = nn.Sequential(
        nn.Linear(width, middle, bias=False), nn.GELU(), nn.Linear(middle, dim, bias=False)
    )
    return transformer, projection


def check_contract(file: Path) -> None:
    """Compare the published ``open_clip_config.json`` with what this module does.

    Raises:
        Mismatch: It cannot be read, or says otherwise.
    """
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise Mismatch(f"{file.name} of biomedclip is not JSON. Get it again.") from None
    for key, expected in CONTRACT.items():
        value: Any = config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value != expected:
            raise Mismatch(
                f"{file.name} of biomedclip says {key} = {value!r}, expected {expected!r}: it is "
                f"another model. Get {REPO}."
            )


def read_published(folder: Path | None = None) -> "tuple[dict[str, Tensor], Tokenizer, str]":
    """Find and read the published files: tensors, tokeniser, and the files' identity (12 digits).

    Args:
        folder: Holds them; None for ``MEDFINDER_BIOMEDCLIP``, else the Hugging Face cache.

    Raises:
        MissingExtra: A file is not there.
        Mismatch: A file is damaged or another model's.
    """
    from medfinder.model.bert import read_word_pieces

    weights, config, pieces = PUBLISHED.find(folder)
    check_contract(config)
    identity = hashlib.sha256((file_sha256(weights) + file_sha256(pieces)).encode()).hexdigest()
    return read_tensors(weights, "biomedclip"), read_word_pieces(pieces), identity[:12]


def load(pooling: Pooling = "median", folder: Path | None = None) -> BiomedCLIPSlices:
    """Load the encoder from the published files.

    Args:
        pooling: How a volume's vector comes from its slices'.
        folder: Holds the files; None for ``MEDFINDER_BIOMEDCLIP``, else the Hugging Face cache.

    Raises:
        MissingExtra: A file is not there.
        Mismatch: A file is damaged or another model's.
    """
    weights, tokenizer, identity = read_published(folder)
    return BiomedCLIPSlices(
        weights, tokenizer, pooling, replace(info_of(pooling), weights=identity)
    )


def info_of(pooling: Pooling) -> EncoderInfo:
    """Return what the encoder with this pooling declares; the median needs no suffix."""
    return INFO if pooling == "median" else replace(INFO, name=f"{INFO.name}_{pooling}")


encoders.register("biomedclip_slices")(EncoderEntry(INFO, load))
encoders.register("biomedclip_slices_max")(EncoderEntry(info_of("max"), lambda: load("max")))
encoders.register("biomedclip_slices_mean")(EncoderEntry(info_of("mean"), lambda: load("mean")))
