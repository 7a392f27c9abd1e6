"""Primus: a 3D vision transformer on cubes of voxels, with rotary places. (B, 1, X, Y, Z) -> a grid.

The architecture is Primus (Wald et al. 2025, arXiv 2503.01835) with EVA-02's blocks (Fang et al.
2023, arXiv 2303.11331): SwiGLU with a normalisation inside, one within the attention, layer scale,
rotary embeddings (Su et al. 2021, arXiv 2104.09864) whose axes share a head's features in thirds.
Parameter names and shapes are those of the published weights. Knows nothing of weights files or CT.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LONGEST_PERIOD = 10_000.0  # in cells, divided by 2 pi


class Attention(nn.Module):
    """Self-attention with rotary places; keys have no bias."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
        """(B, N, width) and (N, width / heads) twice -> (B, N, width)."""
        q, k, v = (
            project(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(rotate(q, sin, cos), rotate(k, sin, cos), v)
        out: Tensor = self.proj(self.norm(mixed.transpose(1, 2).flatten(2)))
        return out


class GatedMlp(nn.Module):
    """SwiGLU with a normalisation before its last layer."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1_g = nn.Linear(width, inner)
        self.fc1_x = nn.Linear(width, inner)
        self.norm = nn.LayerNorm(inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) -> the same shape."""
        out: Tensor = self.fc2(self.norm(F.silu(self.fc1_g(x)) * self.fc1_x(x)))
        return out


class Block(nn.Module):
    """Attention and MLP, each scaled by feature and added to its input."""

    def __init__(self, width: int, n_heads: int, inner: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, n_heads)
        self.gamma_1 = nn.Parameter(torch.full((width,), 0.1))
        self.norm2 = nn.LayerNorm(width)
        self.mlp = GatedMlp(width, inner)
        self.gamma_2 = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
        """(B, N, width) -> the same shape."""
        x = x + self.gamma_1 * self.attn(self.norm1(x), sin, cos)
        out: Tensor = x + self.gamma_2 * self.mlp(self.norm2(x))
        return out


class Eva(nn.Module):
    """The transformer over tokens."""

    def __init__(self, width: int, depth: int, n_heads: int, inner: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, n_heads, inner) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
        """(B, N, width) -> the same shape."""
        for block in self.blocks:
            x = block(x, sin, cos)
        out: Tensor = self.norm(x)
        return out


class CubeEmbedding(nn.Module):
    """Cuts volumes into cubes, one token each."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(1, width, patch, patch)

    def forward(self, volumes: Tensor) -> Tensor:
        """(B, 1, X, Y, Z) -> (B, width, X / patch, Y / patch, Z / patch)."""
        out: Tensor = self.proj(volumes)
        return out


class Primus(nn.Module):
    """The network without its decoder.

    Args:
        width: Features of a token; a multiple of 6 * `n_heads`.
        depth: Blocks.
        n_heads: Of the attention.
        inner: Width inside the MLPs.
        patch: Voxels of a token's side.
    """

    def __init__(self, width: int, depth: int, n_heads: int, inner: int, patch: int) -> None:
        super().__init__()
        self.head_width = width // n_heads
        self.down_projection = CubeEmbedding(width, patch)
        self.eva = Eva(width, depth, n_heads, inner)
        self.mask_token: Tensor
        self.register_buffer("mask_token", torch.zeros(1, 1, width))  # of pre-training; not read

    def forward(self, volumes: Tensor) -> Tensor:
        """(B, 1, X, Y, Z) -> (B, width, X / patch, Y / patch, Z / patch)."""
        grid = self.down_projection(volumes)
        sin, cos = places(tuple(grid.shape[2:]), self.head_width)
        tokens = self.eva(grid.flatten(2).transpose(1, 2), sin.to(grid.device), cos.to(grid.device))
        out: Tensor = tokens.transpose(1, 2).unflatten(2, grid.shape[2:])
        return out


class MeanAttention(nn.Module):
    """Pools tokens by attention that their mean asks for."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, n_heads, batch_first=True)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, N, width), mask (B, N) that is 0 where no token is -> (B, width)."""
        if mask is None:
            mask = tokens.new_ones(tokens.shape[:2])
        share = mask / mask.sum(1, keepdim=True)
        query = (tokens * share[..., None]).sum(1, keepdim=True)
        pooled: Tensor = self.attn(
            query, tokens, tokens, key_padding_mask=mask == 0, need_weights=False
        )[0]
        return pooled[:, 0]


def places(shape: tuple[int, ...], head_width: int) -> tuple[Tensor, Tensor]:
    """Return sine and cosine of every cell's angles, each (N, head_width), cells in C order.

    The first third of the features turns with the first axis, and so on; neighbours in pairs share
    an angle, which is the cell's number times a frequency from 1 down to 1 / 10,000.
    """
    n_bands = head_width // 6
    bands = LONGEST_PERIOD ** -(torch.arange(n_bands, dtype=torch.float32) / n_bands)
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in shape), indexing="ij")
    angles = (torch.stack(axes, -1)[..., None] * bands).flatten(-2).flatten(0, -2)
    angles = angles.repeat_interleave(2, -1)
    return angles.sin(), angles.cos()


def rotate(x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    """Turn neighbouring pairs of the last axis: (a, b) -> (a cos - b sin, b cos + a sin)."""
    a, b = x[..., ::2], x[..., 1::2]
    turned = torch.stack((-b, a), -1).flatten(-2)
    return x * cos + turned * sin
