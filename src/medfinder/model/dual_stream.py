"""The dual stream: volumes and texts into one space.

Nothing here reads a file, draws a random number or knows a loss. A volume's vector is read off its
regions by a head that may keep where each region lies; with a fusion, regions first ask those of
another view (in training) or of the same one (in use).
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medfinder.errors import ConfigError
from medfinder.model.fusion import Reranker, ViewFusion
from medfinder.model.text_encoder import TextEncoderConfig, TextFeatures, Tokens, text_networks
from medfinder.model.volume_encoder import VolumeEncoderConfig, volume_networks
from medfinder.volume.preprocess import PreprocessConfig

CURVE_HU = ((-1024.0, 0.0), (-960.0, 0.06), (-700.0, 0.36), (-200.0, 0.48), (-20.0, 0.55),
            (120.0, 0.75), (300.0, 0.87), (1200.0, 1.0))  # fmt: skip
"""Lung, fat, soft tissue, contrast and bone, each with room in 256 levels."""


@dataclass(frozen=True)
class ModelConfig:
    """The architecture; travels with a checkpoint.

    Attributes:
        volume: The volume stream's network.
        text: The text stream's network.
        preprocess: Of volumes, as the volume network takes them.
        dim: Of the joint space.
        pooling: Regions to one vector: "mean"; "layout", which keeps where each lies; or
            "evidence", which also keeps the strongest sign of each kind (`EvidencePooling`).
        layout_width: Features a region keeps in "layout" and "evidence".
        n_signs: Kinds of sign of "evidence".
        dropout: Share of what was pooled that a training step does not see.
        fusion: Cross-attention between two views' regions before pooling.
        reranker: A cross-attention between text tokens and regions for the top of a list.
        normalised: L2-normalise in training; the released code does not.
        temperature: At the start.
        learned_temperature: Else it stays.
    """

    volume: VolumeEncoderConfig = field(default_factory=VolumeEncoderConfig)
    text: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    preprocess: PreprocessConfig = field(
        default_factory=lambda: PreprocessConfig(
            frame="lungs",
            spacing_mm=(5.0, 3.75, 4.0),
            size=(64, 64, 80),
            scaling="curve",
            curve_hu=CURVE_HU,
            output_range=(0.0, 255.0),
            dtype="uint8",
        )
    )
    dim: int = 256
    pooling: Literal["mean", "layout", "evidence"] = "layout"
    layout_width: int = 24
    n_signs: int = 128
    dropout: float = 0.0
    fusion: bool = False
    reranker: bool = False
    normalised: bool = True
    temperature: float = 0.07
    learned_temperature: bool = True

    def __post_init__(self) -> None:
        if min(self.dim, self.layout_width, self.n_signs) < 1 or not self.temperature > 0:
            raise ConfigError(
                "Settings model.dim, layout_width and n_signs must be at least 1 and temperature "
                "above 0."
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(
                f"Setting model.dropout is {self.dropout}; expected a share from 0 to below 1."
            )


class VolumeOutput(NamedTuple):
    """What the volume stream returns.

    Attributes:
        embedding: (B, dim), of length 1 where the model is normalised.
        regions: (B, N, width), before fusion.
    """

    embedding: Tensor
    regions: Tensor


class TextOutput(NamedTuple):
    """What the text stream returns.

    Attributes:
        embedding: (B, dim), of length 1 where the model is normalised.
        features: Token features, for re-ranking.
    """

    embedding: Tensor
    features: TextFeatures


class EvidencePooling(nn.Module):
    """Regions to signs: how strongly each is seen where it is seen best.

    ``e_k = 1/t_k log 1/N sum_r exp(t_k (w_k . r + p_rk))`` lies between the mean over regions
    (t_k near 0) and their maximum (t_k large). A sign is looked for everywhere by the same w_k, so
    what was learned of a nodule in one lobe holds in the others; p_rk says where it counts. The
    signs are then normalised over the batch, as their ranges differ.

    Args:
        n_regions: N.
        width: Features of a region.
        n_signs: K.

    Source:
        Pooling of instances by log-sum-exp: Pinheiro and Collobert, arXiv 1411.6228, equation 6.
    """

    def __init__(self, n_regions: int, width: int, n_signs: int) -> None:
        super().__init__()
        self.look = nn.Linear(width, n_signs)
        nn.init.normal_(self.look.weight, std=width**-0.5)
        self.places = nn.Parameter(0.3 * torch.randn(n_regions, n_signs))
        self.log_sharpness = nn.Parameter(torch.zeros(n_signs))
        self.norm = nn.BatchNorm1d(n_signs)

    def forward(self, regions: Tensor) -> Tensor:
        """(B, N, width) -> (B, K)."""
        sharpness = self.log_sharpness.exp()
        seen = (self.signs(regions) * sharpness).logsumexp(1) - math.log(regions.shape[1])
        evidence: Tensor = self.norm(seen / sharpness)
        return evidence

    def shares(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Return each region's share of each sign, (B, N, K), which sum to 1, and the signs, (B, K)."""
        shown = self.signs(regions) * self.log_sharpness.exp()
        evidence: Tensor = self(regions)
        return shown.softmax(1), evidence

    def signs(self, regions: Tensor) -> Tensor:
        """Return how strongly each region shows each sign, (B, N, width) -> (B, N, K)."""
        shown: Tensor = self.look(regions) + self.places
        return shown


class DualStream(nn.Module):
    """MedFinder's model.

    Args:
        config: The architecture.
        folder: Of a checkpoint, where the text network's tokeniser lies; None for a new model.

    Attributes:
        scale: 1 / temperature of the reports' similarity; a scalar.
        statement_scale, statement_bias: Of single sentences.
    """

    def __init__(self, config: ModelConfig, folder: Path | None = None) -> None:
        super().__init__()
        self.config = config
        self.volume = volume_networks.get(config.volume.name)(config.volume, config.preprocess)
        self.text = text_networks.get(config.text.name)(config.text, folder)
        width = self.volume.width
        if config.pooling != "mean":
            n_regions = math.prod(self.volume.n_regions)
            self.narrow = nn.Linear(width, config.layout_width)
            n_pooled = config.layout_width * n_regions
            if config.pooling == "evidence":
                self.evidence = EvidencePooling(n_regions, width, config.n_signs)
                n_pooled += config.n_signs
            width = n_pooled
        self.dropout = nn.Dropout(config.dropout)
        self.volume_head = nn.Linear(width, config.dim)
        self.text_head = nn.Linear(self.text.width, config.dim)
        self.fusion = ViewFusion(self.volume.width) if config.fusion else None
        self.reranker = Reranker(self.volume.width, self.text.width) if config.reranker else None
        log_scale = torch.tensor(math.log(1 / config.temperature))
        self.log_scale = nn.Parameter(log_scale, requires_grad=config.learned_temperature)
        self.log_statement_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.statement_bias = nn.Parameter(torch.tensor(-2.0))

    @property
    def scale(self) -> Tensor:
        """1 / temperature, at most 100."""
        return self.log_scale.exp().clamp(max=100.0)

    @property
    def statement_scale(self) -> Tensor:
        """Of `medfinder.model.losses.statements`, at most 100."""
        return self.log_statement_scale.exp().clamp(max=100.0)

    def embed_volumes(self, volumes: Tensor, views: Tensor | None = None) -> VolumeOutput:
        """Embed volumes.

        Args:
            volumes: (B, C, D, H, W) in 0..1.
            views: Another view of each, which the fusion asks; None for the same.
        """
        regions = self.volume(volumes)
        others = regions if views is None else self.volume(views)
        return VolumeOutput(self.pool(regions, others), regions)

    def pool(self, regions: Tensor, others: Tensor | None = None) -> Tensor:
        """Turn regions into embeddings, (B, N, width) -> (B, dim); see `embed_volumes`."""
        return self.normalised(self.project(regions, others))

    def project(self, regions: Tensor, others: Tensor | None = None) -> Tensor:
        """Turn regions into vectors of any length, which `normalised` makes embeddings."""
        if self.fusion is not None:
            regions = self.fusion(regions, regions if others is None else others)
        return self._head(regions)

    def _head(self, regions: Tensor) -> Tensor:
        """Pool and project regions that were fused, where the model fuses."""
        if self.config.pooling == "mean":
            pooled = regions.mean(1)
        else:
            pooled = F.gelu(self.narrow(regions)).flatten(1)
        if self.config.pooling == "evidence":
            pooled = torch.cat([pooled, self.evidence(regions)], 1)
        projected: Tensor = self.volume_head(self.dropout(pooled))
        return projected

    def contributions(self, regions: Tensor, texts: Tensor) -> Tensor:
        """Say what each region adds to the similarity of volumes and texts.

        The projection is a sum over regions, but for the evidence, whose log-sum-exp is shared out
        by its softmax: to each region as much as the sign's value would move with it. So what the
        regions add, and what a constant does, is the inner product of `project` and the text, exactly.

        Args:
            regions: (B, N, width), as of `embed_volumes`.
            texts: (T, dim) embeddings.

        Returns:
            (B, T, N), divided by the length of each volume's projection where the model is
            normalised: parts of a cosine.

        Source:
            For pooling that is a mean: class activation maps, Zhou et al., arXiv 1512.04150.
        """
        if self.fusion is not None:
            regions = self.fusion(regions, regions)
        weight = texts @ self.volume_head.weight  # (T, pooled)
        n = regions.shape[1]
        if self.config.pooling == "mean":
            parts = torch.einsum("bnw,tw->btn", regions, weight) / n
        else:
            kept = F.gelu(self.narrow(regions))
            place = weight[:, : kept.shape[2] * n].reshape(len(texts), n, -1)
            parts = torch.einsum("bnw,tnw->btn", kept, place)
        if self.config.pooling == "evidence":
            share, evidence = self.evidence.shares(regions)
            parts = parts + torch.einsum("bnk,bk,tk->btn", share, evidence, weight[:, -self.config.n_signs:])  # fmt: skip
        if self.config.normalised:
            # Fused already: not once more.
            length = self._head(regions).norm(dim=-1).clamp(min=1e-12)
            parts = parts / length[:, None, None]
        return parts

    def embed_texts(self, tokens: Tokens) -> TextOutput:
        """Embed what ``self.text.tokenize`` made."""
        features = self.text(tokens)
        return TextOutput(self.normalised(self.text_head(features.pooled)), features)

    def normalised(self, x: Tensor) -> Tensor:
        """Scale rows to length 1, where the model is normalised."""
        return F.normalize(x, dim=-1) if self.config.normalised else x
