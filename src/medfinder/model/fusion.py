"""Cross-attention between token features: of two views of a volume, and of a text and a volume."""

import torch
from torch import Tensor, nn


class ViewFusion(nn.Module):
    """Let the regions of one view ask those of another.

    ``F = LN(R + g softmax(Q(R) K(R')^T / sqrt(d)) V(R'))`` with R, R' the regions of the two views,
    normalised where they ask and are asked, and g learned, 0.1 at the start, so that a fresh fusion
    leaves the first view nearly as it is.

    Args:
        width: Features of a region.
        n_heads: Divides `width`.
    """

    def __init__(self, width: int, n_heads: int = 4) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, n_heads, batch_first=True)
        self.asking, self.asked = nn.LayerNorm(width), nn.LayerNorm(width)
        self.norm = nn.LayerNorm(width)
        self.gain = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, regions: Tensor, others: Tensor) -> Tensor:
        """(B, N, width) x (B, M, width) -> (B, N, width)."""
        others = self.asked(others)
        update, _ = self.attention(self.asking(regions), others, others, need_weights=False)
        fused: Tensor = self.norm(regions + self.gain * update)
        return fused


class Reranker(nn.Module):
    """Score a text against a volume's regions: slower than a dot product, for the top of a list.

    Each text token asks the regions, and the score is a linear function of what the tokens, weighted
    by a learned gate, find; the attention says where.

    Args:
        region_width: Features of a region.
        token_width: Features of a text token.
        width: Of the common space.
        n_heads: Divides `width`.
    """

    def __init__(
        self, region_width: int, token_width: int, width: int = 128, n_heads: int = 4
    ) -> None:
        super().__init__()
        self.regions = nn.Linear(region_width, width)
        self.tokens = nn.Linear(token_width, width)
        self.attention = nn.MultiheadAttention(width, n_heads, batch_first=True)
        self.judge = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, 1))
        self.gate = nn.Linear(width, 1)

    def forward(self, tokens: Tensor, mask: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Score pairs.

        Args:
            tokens: (B, T, token_width).
            mask: (B, T) bool, True where a token is.
            regions: (B, N, region_width), of the volume to be judged with each text.

        Returns:
            (B,) scores and (B, T, N) attention, each row of which sums to 1.
        """
        asked = self.tokens(tokens)
        known = self.regions(regions)
        found, where = self.attention(asked, known, known, need_weights=True)
        weight = self.gate(asked)[..., 0].masked_fill(~mask, float("-inf")).softmax(1)
        judged = self.judge(torch.cat([asked, found], -1))[..., 0]
        return (weight * judged).sum(1), where
