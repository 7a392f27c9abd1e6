"""Merlin: an inflated ResNet-152 and Clinical-Longformer in one space of 512 numbers, for CT and text.

Trained on abdominal CTs of one hospital, their reports and diagnosis codes (arXiv 2406.06512; Nature
2026). A volume becomes 10 x 7 x 7 regions of 2,048 features; a linear layer turns their mean into the
vector. The network is `medfinder.model.resnet3d`'s, run as astra is. Of a text, in lower case with
words and punctuation apart, the first 1,024 tokens are read and the first token's state is
projected. A short text costs as much as 512 tokens: the network attends in windows of that length.

Input contract (the package merlin-vlm 0.0.7): RAS, resample to 1.5 x 1.5 x 3 mm with trilinear
interpolation, HU -1000..1000 -> 0..1, clipped, centre-crop or pad with 0 to 224 x 224 x 160 (X, Y, Z).
It was trained on the abdomen: chests are not what it knows best.

Proved, on random weights in the published format: names, shapes and file format, as that package's
code writes them; that the volume network computes what that code computes (recorded numbers); the
cleaning and the tokens of texts; the contract, the orientation, the pooling. Not proved: any number
of the published weights, which were never at hand.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medfinder.errors import Mismatch
from medfinder.model.encoder import EncoderEntry, EncoderInfo, encoders
from medfinder.model.pretrained.astra import Arithmetic, AstraEncoder
from medfinder.model.published import (
    HubFile,
    Published,
    file_sha256,
    load_strictly,
    read_tensors,
    shape_of,
    without_prefix,
)
from medfinder.volume.preprocess import PreprocessConfig

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor, nn

REPO, TEXT_REPO = "stanfordmimi/Merlin", "yikuan8/Clinical-Longformer"
CHECKPOINT = "i3_resnet_clinical_longformer_best_clip_04-02-2024_23-21-36_epoch_99.pt"
PUBLISHED = Published(
    "merlin",
    "MEDFINDER_MERLIN",
    (
        HubFile(REPO, (CHECKPOINT,)),
        HubFile(TEXT_REPO, ("vocab.json", "tokenizer.json")),
        HubFile(TEXT_REPO, ("merges.txt", "tokenizer.json")),
    ),
)
VOLUME, TEXT = "encode_image.i3_resnet.", "encode_text."
NOT_RUN = (VOLUME + "classifier.", "logit_scale")  # 1,692 diagnosis codes; the loss's temperature
N_TEXT_LAYERS, N_HEADS, WINDOW = 12, 12, 512
START, PAD, END = SPECIAL = (("<s>", 0), ("<pad>", 1), ("</s>", 2))  # as the network counts them
N_TOKENS = 1024
N_TOGETHER = 4  # texts encoded at once
PIECE = re.compile(r"\w+|[^\w\s]+")
INFO = EncoderInfo(
    name="merlin",
    streams=frozenset({"volume", "text"}),
    dim=512,
    weights="04-02-2024",  # the files' own SHA-256 takes its place when they are loaded
    licence="MIT",
    source=f"{REPO} on the Hugging Face Hub, read as the package merlin-vlm 0.0.7 does",
    needs=PUBLISHED.needs,
    preprocess=PreprocessConfig(
        spacing_mm=(3.0, 1.5, 1.5),
        size=(160, 224, 224),
        interpolation="trilinear",
        grid="centres",
        windows_hu=((-1000.0, 1000.0),),
    ),
    n_regions=(10, 7, 7),
    region_dim=2048,
)


class MerlinEncoder:
    """The loaded encoder.

    Args:
        weights: The published tensors by name; widths are read off them.
        tokenizer: Clinical-Longformer's.
        info: What it declares; differs from `INFO` by the weights' identity.
        arithmetic: Of the volume network, as `AstraEncoder` takes it.

    Raises:
        Mismatch: The tensors are not Merlin's, or make another number of features than `info` says.
    """

    def __init__(
        self,
        weights: "Mapping[str, Tensor]",
        tokenizer: "Tokenizer",
        info: EncoderInfo = INFO,
        arithmetic: Arithmetic = "fast",
    ) -> None:
        import torch
        from torch import nn

        from medfinder.model import bert

        self.info = info
        weights = {k: v for k, v in weights.items() if not k.startswith(NOT_RUN)}
        with torch.device("meta"):  # first every name and shape at once, without memory
            network = nn.ModuleDict(
                {
                    "encode_image": nn.ModuleDict({"i3_resnet": _volume_network(weights, info)}),
                    "encode_text": _text_network(weights, info),
                }
            )
        load_strictly(network, {k: v.to("meta") for k, v in weights.items()}, info.name)

        volume = without_prefix(weights, VOLUME)
        head, self._shift = (volume.pop(f"contrastive_head.{k}") for k in ("weight", "bias"))
        self._project = head.flatten(1)
        text: Any = _text_network(weights, info)
        load_strictly(text, without_prefix(weights, TEXT), info.name)
        for made in (len(self._project), text["linear_layer"].out_features):
            if made != info.dim:
                raise Mismatch(
                    f"The weights of {info.name} make {made} numbers, expected {info.dim}."
                )
        self.regions = AstraEncoder(volume, arithmetic, info)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        text.eval().requires_grad_(False).to(self._device)
        self.transformer, self.project_text = text["text_encoder"], text["linear_layer"]
        bert.prepare(tokenizer, N_TOKENS, self.transformer.config.vocab_size, PAD[1])
        tokenizer.enable_padding(pad_id=PAD[1], pad_token=PAD[0], pad_to_multiple_of=WINDOW)
        self.tokenizer = tokenizer

    def encode_volumes(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(B, 1, D, H, W) in 0..1 -> (B, dim)."""
        return self._projected(self.regions.encode_volumes(batch))

    def region_features(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
        """(B, 1, D, H, W) in 0..1 -> (B, 490, 2048), in C order of (D/16, H/32, W/32)."""
        return self.regions.region_features(batch)

    def pool_regions(self, regions: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
        """(B, 490, 2048) -> (B, dim); what `encode_volumes` gives, up to float16's rounding."""
        return self._projected(self.regions.pool_regions(regions))

    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Encode texts, of which the first 1,024 tokens are read, -> (B, dim)."""
        import torch

        from medfinder.model.bert import batch_ids

        vectors = []
        with torch.inference_mode():
            for start in range(0, len(texts), N_TOGETHER):
                part = [spaced(text) for text in texts[start : start + N_TOGETHER]]
                ids, mask = (t.to(self._device) for t in batch_ids(self.tokenizer, part))
                states = self.transformer(input_ids=ids, attention_mask=mask).last_hidden_state
                vectors.append(self.project_text(states[:, 0]).cpu().numpy())
        encoded: npt.NDArray[np.float32] = np.concatenate(vectors)
        return encoded

    def _projected(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        import torch

        vectors: npt.NDArray[np.float32] = torch.nn.functional.linear(
            torch.from_numpy(features), self._project, self._shift
        ).numpy()
        return vectors


def spaced(text: str) -> str:
    """Write a text in lower case, with words and runs of punctuation apart, as in training."""
    return " ".join(PIECE.findall(text.lower()))


def _volume_network(weights: "Mapping[str, Tensor]", info: EncoderInfo) -> "nn.Module":
    from torch import nn

    from medfinder.model.resnet3d import InflatedResNet

    width, n_channels, *_ = shape_of(weights, VOLUME + "conv1.weight", 5, info.name)
    dim = shape_of(weights, VOLUME + "contrastive_head.weight", 5, info.name)[0]
    network = InflatedResNet(width=width, n_channels=n_channels)
    network.add_module("contrastive_head", nn.Conv3d(32 * width, dim, 1))
    return network


def _text_network(weights: "Mapping[str, Tensor]", info: EncoderInfo) -> "nn.ModuleDict":
    from torch import nn
    from transformers.models.longformer import LongformerConfig, LongformerModel

    def shape(key: str) -> tuple[int, ...]:
        return shape_of(weights, f"{TEXT}{key}.weight", 2, info.name)

    words, width = shape("text_encoder.embeddings.word_embeddings")
    config = LongformerConfig(
        vocab_size=words,
        hidden_size=width,
        num_hidden_layers=N_TEXT_LAYERS,
        num_attention_heads=N_HEADS,
        intermediate_size=shape("text_encoder.encoder.layer.0.intermediate.dense")[0],
        max_position_embeddings=shape("text_encoder.embeddings.position_embeddings")[0],
        type_vocab_size=shape("text_encoder.embeddings.token_type_embeddings")[0],
        attention_window=[WINDOW] * N_TEXT_LAYERS,
        layer_norm_eps=1e-5,
        pad_token_id=PAD[1],
    )
    head = nn.Linear(width, shape("linear_layer")[0])
    return nn.ModuleDict({"text_encoder": LongformerModel(config), "linear_layer": head})


def read_byte_pairs(vocabulary: Path, merges: Path) -> "Tokenizer":
    """Read ``vocab.json`` and ``merges.txt`` of a RoBERTa, or ``tokenizer.json`` where one is that.

    Raises:
        Mismatch: A file is damaged, or another network's.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.processors import RobertaProcessing

    whole = next((f for f in (vocabulary, merges) if f.name == "tokenizer.json"), None)
    name = whole.name if whole else f"{vocabulary.name} and {merges.name}"
    try:
        if whole:
            tokenizer = Tokenizer.from_file(str(whole))
        else:
            tokenizer = Tokenizer(BPE.from_file(str(vocabulary), str(merges)))
            tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
            tokenizer.post_processor = RobertaProcessing(END, START, add_prefix_space=False)
    except Exception as error:  # the library raises plain Exception
        raise Mismatch(
            f"The tokeniser in {name} cannot be read ({type(error).__name__}). Get it again."
        ) from None
    for word, number in SPECIAL:
        if tokenizer.token_to_id(word) != number:
            raise Mismatch(
                f"The tokeniser in {name} counts {word} as {tokenizer.token_to_id(word)}, expected "
                f"{number}: it is another model's. Get {TEXT_REPO}'s."
            )
    return tokenizer


def load(folder: Path | None = None, arithmetic: Arithmetic = "fast") -> MerlinEncoder:
    """Load the encoder from the published files.

    Args:
        folder: Holds them; None for ``MEDFINDER_MERLIN``, else the Hugging Face cache.
        arithmetic: Of the volume network, as `AstraEncoder` takes it.

    Raises:
        MissingExtra: A file is not there.
        Mismatch: A file is damaged or another model's.
    """
    checkpoint, vocabulary, merges = PUBLISHED.find(folder)
    sums = "".join(map(file_sha256, (checkpoint, vocabulary, merges)))
    return MerlinEncoder(
        read_tensors(checkpoint, "merlin"),
        read_byte_pairs(vocabulary, merges),
        replace(INFO, weights=hashlib.sha256(sums.encode()).hexdigest()[:12]),
        arithmetic,
    )


encoders.register("merlin")(EncoderEntry(INFO, load))
