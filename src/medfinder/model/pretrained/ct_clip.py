"""CT-CLIP: CT-ViT and CXR-BERT in one space of 512 numbers, for chest CT and reports.

Trained on CT-RATE, 25,692 chest CTs without contrast and their reports (arXiv 2403.17834). A volume
becomes 24 x 24 x 24 patches, each one of 8,192 codebook vectors; their mean over the axial layers is
projected, place by place, into the vector. Of a text the first 512 tokens are read, without quotes
and brackets, and the first token's state is projected. For zero-shot the authors ask with
"Pleural effusion." against "not Pleural effusion.".

Input contract (``scripts/data_inference_nii.py`` of the authors): resample to 0.75 x 0.75 x 1.5 mm
with trilinear interpolation, HU -1000..1000 -> -1..1, clipped, centre-crop or pad to 480 x 480 x 240.
The authors take the arrays as they lie in CT-RATE's files: axes (S, L, P), so ours are turned into
that order inside, and the regions back into (D, H, W).

Proved, on random weights in the published format: names, shapes and file format, as the authors'
code writes them; that the volume network computes what that code computes (recorded numbers); the
contract, the orientation, the pooling, the cut of texts. Not proved: any number of the published
weights, which are gated and were never at hand; and resampling to the last voxel: the authors clip
before they interpolate, and round sizes down.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from medfinder.errors import Mismatch, MissingExtra
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

    from medfinder.model.ct_vit import CTViT

DATASET = "ibrahimhamamci/CT-RATE"  # a dataset repository holds the weights
CHECKPOINT = "models/CT-CLIP-Related/CT-CLIP_v2.pt"
VARIABLE = "MEDFINDER_CT_CLIP"
WORDS = Published(
    "ct_clip",
    VARIABLE,
    (HubFile("microsoft/BiomedVLP-CXR-BERT-specialized", ("vocab.txt", "tokenizer.json")),),
)
NEEDS = f"hf download --repo-type dataset {DATASET} {CHECKPOINT} && {WORDS.needs}"
VOLUME, TEXT = "visual_transformer.", "text_transformer."
NOT_RUN = (  # what the file holds of training and of CT-ViT's decoder
    TEXT + "pooler.",
    *(VOLUME + part for part in ("to_patch_emb_first_frame.", "to_pixels", "dec_", "vgg.", "discr.",
                                 "vq._codebook.initted", "vq._codebook.cluster_size")),
    "to_text_latent_extra.", "to_visual_latent_extra.", "temperature",
)  # fmt: skip
NOT_READ = (".context_norm.", ".null_kv")  # of attention to another stream
DEPTHS = (4, 4)  # layers in the plane, and through the planes
N_TEXT_LAYERS = 12
N_TOKENS = 512
N_TOGETHER = 8  # texts encoded at once
LEFT_OUT = str.maketrans("", "", "\"'()")
INFO = EncoderInfo(
    name="ct_clip",
    streams=frozenset({"volume", "text"}),
    dim=512,
    weights="v2",  # the files' own SHA-256 takes its place when they are loaded
    licence="CC BY-NC-SA 4.0",
    source=f"{CHECKPOINT} of the gated dataset {DATASET} on the Hugging Face Hub",
    needs=NEEDS,
    preprocess=PreprocessConfig(
        spacing_mm=(1.5, 0.75, 0.75),
        size=(240, 480, 480),
        interpolation="trilinear",
        windows_hu=((-1000.0, 1000.0),),
        output_range=(-1.0, 1.0),
    ),
    n_regions=(24, 24, 24),
)


class CTCLIPEncoder:
    """The loaded encoder.

    Args:
        weights: The published tensors by name; widths are read off them.
        tokenizer: CXR-BERT's.
        info: What it declares; differs from `INFO` by the weights' identity.

    Raises:
        Mismatch: The tensors are not CT-CLIP's, or `info` declares another input or dim.
    """

    def __init__(
        self, weights: "Mapping[str, Tensor]", tokenizer: "Tokenizer", info: EncoderInfo = INFO
    ) -> None:
        import torch
        from torch import nn

        from medfinder.model import bert

        self.info = info
        weights = {
            k: v
            for k, v in weights.items()
            if not k.startswith(NOT_RUN) and not any(part in k for part in NOT_READ)
        }
        text = without_prefix(weights, TEXT)
        if n_layers(text, "encoder.layer.") != N_TEXT_LAYERS:
            raise Mismatch(
                f"The weights of {info.name} are not of the architecture that is read: "
                f"{n_layers(text, 'encoder.layer.')} layers {TEXT}encoder.layer.N, expected "
                f"{N_TEXT_LAYERS}. Get the published file again."
            )
        self.transformer = bert.bert_for(text, info.name)
        self.volume_network = _volume_network(weights, info)
        dim, n_projected = shape_of(weights, "to_visual_latent.weight", 2, info.name)
        self.project_volume = nn.Linear(n_projected, dim, bias=False)
        self.project_text = nn.Linear(self.transformer.config.hidden_size, dim, bias=False)
        network = nn.ModuleDict(
            {
                "text_transformer": self.transformer,
                "visual_transformer": self.volume_network,
                "to_text_latent": self.project_text,
                "to_visual_latent": self.project_volume,
            }
        )
        load_strictly(network, weights, info.name)
        if dim != info.dim:
            raise Mismatch(f"The weights of {info.name} make {dim} numbers, expected {info.dim}.")
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network.eval().requires_grad_(False).to(self._device)
        bert.prepare(tokenizer, N_TOKENS, self.transformer.config.vocab_size)
        self.tokenizer = tokenizer

    def encode_volumes(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(B, 1, D, H, W) in -1..1 -> (B, dim)."""
        return self._pooled(self._patches(batch))

    def region_features(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
        """(B, 1, D, H, W) in -1..1 -> (B, 13824, 512): codebook vectors in C order of (D, H, W)."""
        features: npt.NDArray[np.float16] = self._patches(batch).half().flatten(1, 3).cpu().numpy()
        return features

    def pool_regions(self, regions: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
        """(B, 13824, 512) -> (B, dim); what `encode_volumes` gives, up to float16's rounding."""
        import torch

        assert self.info.n_regions is not None
        patches = torch.from_numpy(np.ascontiguousarray(regions)).to(self._device).float()
        return self._pooled(patches.reshape(len(patches), *self.info.n_regions, -1))

    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Encode texts, of which the first 512 tokens are read, -> (B, dim)."""
        import torch

        from medfinder.model.bert import batch_ids

        vectors = []
        with torch.inference_mode():
            for start in range(0, len(texts), N_TOGETHER):
                part = [text.translate(LEFT_OUT) for text in texts[start : start + N_TOGETHER]]
                ids, mask = (t.to(self._device) for t in batch_ids(self.tokenizer, part))
                states = self.transformer(input_ids=ids, attention_mask=mask).last_hidden_state
                vectors.append(self.project_text(states[:, 0]).cpu().numpy())
        encoded: npt.NDArray[np.float32] = np.concatenate(vectors)
        return encoded

    def _patches(self, batch: npt.NDArray[np.float32]) -> "Tensor":
        """(B, 1, D, H, W) -> (B, *n_regions, width), one volume at a time."""
        import torch

        patches = []
        with torch.inference_mode():
            for volume in batch:
                x = torch.from_numpy(np.ascontiguousarray(volume)).to(self._device)[None]
                patches.append(_turned(self.volume_network(_turned(x, 3)), 2))
            return torch.cat(patches)

    def _pooled(self, patches: "Tensor") -> npt.NDArray[np.float32]:
        """(B, *n_regions, width) -> (B, dim)."""
        import torch

        with torch.inference_mode():
            layer = _turned(patches, 2).mean(1)
            vectors: npt.NDArray[np.float32] = self.project_volume(layer.flatten(1)).cpu().numpy()
        return vectors


def _turned(x: "Tensor", axis: int) -> "Tensor":
    """Turn (P->A, L->R) at `axis` and the next into (R->L, A->P), or back: it is its own inverse."""
    return x.transpose(axis, axis + 1).flip(axis, axis + 1)


def _volume_network(weights: "Mapping[str, Tensor]", info: EncoderInfo) -> "CTViT":
    """Build the volume network of the tensors' sizes; its patch follows from what `info` declares."""
    from medfinder.model.ct_vit import CTViT

    def shape(key: str, n_axes: int) -> tuple[int, ...]:
        return shape_of(weights, key, n_axes, info.name)

    width, n_voxels = shape(VOLUME + "to_patch_emb.2.weight", 2)
    n_heads, _ = shape(VOLUME + "spatial_rel_pos_bias.net.2.weight", 2)
    layer = VOLUME + "enc_spatial_transformer.layers.0."
    (head,) = shape(layer + "1.q_scale", 1)
    _, inner = shape(layer + "3.4.weight", 2)
    _, n_codes, _ = shape(VOLUME + "vq._codebook.embed", 3)
    _, n_projected = shape("to_visual_latent.weight", 2)

    assert info.preprocess is not None
    size, regions = info.preprocess.size, info.n_regions
    assert size is not None
    assert regions is not None
    patch = (size[0] // regions[0], size[1] // regions[1], size[2] // regions[2])
    if prod(patch) != n_voxels or regions[1] * regions[2] * width != n_projected:
        raise Mismatch(
            f"The weights of {info.name} are for another input: {n_voxels} voxels a patch and "
            f"{n_projected} features to project, expected {prod(patch)} and "
            f"{regions[1] * regions[2] * width}. Get {CHECKPOINT.rpartition('/')[2]}."
        )
    return CTViT(patch, width, DEPTHS, n_heads, head, inner, n_codes)


def find(folder: Path | None = None) -> tuple[Path, Path]:
    """Return the paths of the checkpoint and of the tokeniser.

    Args:
        folder: Holds both; None for ``MEDFINDER_CT_CLIP``, else the Hugging Face cache.

    Raises:
        MissingExtra: One is not there; the text names it and the commands that bring both.
    """
    if folder is None and os.environ.get(VARIABLE):
        folder = Path(os.environ[VARIABLE])
    name = CHECKPOINT.rpartition("/")[2]
    if folder is not None:
        found = next((f for f in (folder / name, folder / CHECKPOINT) if f.is_file()), None)
    else:
        from huggingface_hub import constants, try_to_load_from_cache

        cached = try_to_load_from_cache(
            DATASET, CHECKPOINT, cache_dir=constants.HF_HUB_CACHE, repo_type="dataset"
        )
        found = Path(cached) if isinstance(cached, str) else None
    if found is None:
        raise MissingExtra(f"ct_clip has no {name}, whose terms you accept on the Hub: {NEEDS}")
    try:
        (words,) = WORDS.find(folder)
    except MissingExtra:
        raise MissingExtra(f"ct_clip has no vocab.txt or tokenizer.json: {NEEDS}") from None
    return found, words


def load(folder: Path | None = None) -> CTCLIPEncoder:
    """Load the encoder from the published files; see `find`.

    Raises:
        MissingExtra: A file is not there.
        Mismatch: A file is damaged or another model's.
    """
    from medfinder.model.bert import read_word_pieces

    checkpoint, words = find(folder)
    identity = hashlib.sha256((file_sha256(checkpoint) + file_sha256(words)).encode()).hexdigest()
    return CTCLIPEncoder(
        read_tensors(checkpoint, "ct_clip"),
        read_word_pieces(words),
        replace(INFO, weights=identity[:12]),
    )


encoders.register("ct_clip")(EncoderEntry(INFO, load))
