"""COLIPRI: a 3D vision transformer and CXR-BERT in one space of 768 numbers, for chest CT and reports.

Microsoft's COLIPRI-CRM (arXiv 2510.15042), trained on chest CTs of Turkey and the USA. A volume
becomes 24 x 24 x 24 cells of 8 voxels (Primus-M: 16 blocks, 864 features), each projected to 768;
attention, asked by the cells' mean, pools them into the vector. Texts are cut at 512 tokens and
pooled in the same way, padding left out.

Input contract (the package colipri 0.1.3): resample to 2 mm with trilinear interpolation, HU
-1000..1000 -> -1..1, clipped, centre-crop or pad to 192 x 192 x 192. The network takes (X, Y, Z) =
RAS, our axes reversed; the cells are returned in (D, H, W). The package's README shows SAR, which
was the orientation until 0.1.1; 0.1.2 set RAS and its example's score rose, so the code is followed.

Proved, on random weights in the published format: the tensors' names, shapes and file format, that
the networks compute what colipri 0.1.3 with dynamic-network-architectures 0.4.3 and timm 1.0.22
compute, the contract, the orientation and the pooling. Not proved: any number of the published
weights, which were never at hand; and the resampling grid, which the package centres and whose size
it rounds down: ours may lie up to half a voxel (1 mm) beside it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from medfinder.errors import Mismatch
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
    from torch import Tensor

REPO, TEXT_REPO = "microsoft/colipri", "microsoft/BiomedVLP-CXR-BERT-specialized"
TEXT_REVISION = "5157bdba1437a3aed316dacb1a5b68edf96b9902"
PUBLISHED = Published(
    "colipri",
    "MEDFINDER_COLIPRI",
    (
        HubFile(REPO, ("model.safetensors",)),
        HubFile(TEXT_REPO, ("vocab.txt", "tokenizer.json"), TEXT_REVISION),
    ),
)
N_TOKENS = 512
N_HEADS = 12
N_TOGETHER = 8  # texts encoded at once
INFO = EncoderInfo(
    name="colipri",
    streams=frozenset({"volume", "text"}),
    dim=768,
    weights="published",  # the files' own SHA-256 takes its place when they are loaded
    licence="MIT",
    source=f"{REPO} on the Hugging Face Hub, read as the package colipri 0.1.3 does; for research",
    needs=PUBLISHED.needs,
    preprocess=PreprocessConfig(
        spacing_mm=(2.0, 2.0, 2.0),
        size=(192, 192, 192),
        interpolation="trilinear",
        windows_hu=((-1000.0, 1000.0),),
        output_range=(-1.0, 1.0),
    ),
    n_regions=(24, 24, 24),
)


class COLIPRIEncoder:
    """The loaded encoder.

    Args:
        weights: The published tensors by name; widths and depths are read off them.
        tokenizer: CXR-BERT's.
        info: What it declares; differs from `INFO` by the weights' identity.

    Raises:
        Mismatch: The tensors are not COLIPRI's, or `info` declares another input or dim.
    """

    def __init__(
        self, weights: "Mapping[str, Tensor]", tokenizer: "Tokenizer", info: EncoderInfo = INFO
    ) -> None:
        import torch
        from torch import nn

        from medfinder.model import bert
        from medfinder.model.primus import MeanAttention, Primus

        self.info = info
        backbone = "image_encoder.backbone."
        width, _, patch, _, _ = shape_of(
            weights, backbone + "down_projection.proj.weight", 5, info.name
        )
        inner, _ = shape_of(weights, backbone + "eva.blocks.0.mlp.fc1_g.weight", 2, info.name)
        dim = shape_of(weights, "image_encoder.projector.weight", 5, info.name)[0]
        self.primus = Primus(
            width, n_layers(weights, backbone + "eva.blocks."), N_HEADS, inner, patch
        )
        self.projector = nn.Conv3d(width, dim, 1)
        self.transformer = bert.bert_for(
            without_prefix(weights, "text_encoder.backbone."), info.name
        )
        self.volume_pooler, self.text_pooler = (MeanAttention(dim, N_HEADS) for _ in range(2))
        network = nn.ModuleDict(
            {
                "image_encoder": nn.ModuleDict(
                    {
                        "backbone": self.primus,
                        "projector": self.projector,
                        "pooler": self.volume_pooler,
                    }
                ),
                "text_encoder": nn.ModuleDict(
                    {"backbone": self.transformer, "pooler": self.text_pooler}
                ),
            }
        )
        network.register_buffer("softmax_temperature", torch.ones(()))
        load_strictly(network, weights, info.name)
        config = info.preprocess
        grid = tuple(n * patch for n in info.n_regions or ())
        if config is None or config.size != grid:
            raise Mismatch(
                f"The weights of {info.name} have cells of {patch} voxels: {info.n_regions} of "
                f"them take {grid}, its preprocessing makes {config.size if config else None}."
            )
        if dim != info.dim:
            raise Mismatch(f"The weights of {info.name} make {dim} numbers, expected {info.dim}.")
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network.eval().requires_grad_(False).to(self._device)
        bert.prepare(tokenizer, N_TOKENS, self.transformer.config.vocab_size)
        self.tokenizer = tokenizer

    def encode_volumes(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(B, 1, D, H, W) in -1..1 -> (B, dim)."""
        return self._pooled(self._cells(batch))

    def region_features(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
        """(B, 1, D, H, W) in -1..1 -> (B, 13824, dim): projected cells in C order of (D, H, W)."""
        features: npt.NDArray[np.float16] = self._cells(batch).half().cpu().numpy()
        return features

    def pool_regions(self, regions: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
        """(B, 13824, dim) -> (B, dim); what `encode_volumes` gives, up to float16's rounding."""
        import torch

        cells = torch.from_numpy(np.ascontiguousarray(regions)).to(self._device).float()
        return self._pooled(cells)

    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Encode texts, of which the first 512 tokens are read, -> (B, dim)."""
        import torch

        from medfinder.model.bert import batch_ids

        vectors = []
        with torch.inference_mode():
            for start in range(0, len(texts), N_TOGETHER):
                part = texts[start : start + N_TOGETHER]
                ids, mask = (t.to(self._device) for t in batch_ids(self.tokenizer, part))
                states = self.transformer(input_ids=ids, attention_mask=mask).last_hidden_state
                vectors.append(self.text_pooler(states, mask).cpu().numpy())
        encoded: npt.NDArray[np.float32] = np.concatenate(vectors)
        return encoded

    def _cells(self, batch: npt.NDArray[np.float32]) -> "Tensor":
        import torch

        with torch.inference_mode():
            volumes = torch.from_numpy(np.ascontiguousarray(batch)).to(self._device)
            volumes = volumes.permute(0, 1, 4, 3, 2)  # (D, H, W) -> (X, Y, Z)
            grid = self.projector(self.primus(volumes))
            cells: Tensor = grid.permute(0, 4, 3, 2, 1).flatten(1, 3)
        return cells

    def _pooled(self, cells: "Tensor") -> npt.NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            vectors: npt.NDArray[np.float32] = self.volume_pooler(cells).cpu().numpy()
        return vectors


def load(folder: Path | None = None) -> COLIPRIEncoder:
    """Load the encoder from the published files.

    Args:
        folder: Holds them; None for ``MEDFINDER_COLIPRI``, else the Hugging Face cache.

    Raises:
        MissingExtra: A file is not there.
        Mismatch: A file is damaged or another model's.
    """
    from medfinder.model.bert import read_word_pieces

    weights, pieces = PUBLISHED.find(folder)
    identity = hashlib.sha256((file_sha256(weights) + file_sha256(pieces)).encode()).hexdigest()
    return COLIPRIEncoder(
        read_tensors(weights, "colipri"),
        read_word_pieces(pieces),
        replace(INFO, weights=identity[:12]),
    )


encoders.register("colipri")(EncoderEntry(INFO, load))
