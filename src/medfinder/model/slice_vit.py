"""A 2D vision transformer for slices: (B, 3, H, W) images -> (B, width), the class token.

The architecture is ViT (Dosovitskiy et al. 2021, arXiv 2010.11929), normalised before each branch.
Parameter names and shapes are those of timm's ``vit_base_patch16_224``, with which BiomedCLIP was
published. Knows nothing of weights files or of CT.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON = 1e-6  # timm's, not torch's 1e-5


class Attention(nn.Module):
    """Self-attention with one product for queries, keys and values."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) -> the same shape."""
        # (B, N, 3 * width) -> 3 of (B, heads, N, width / heads)
        q, k, v = self.qkv(x).unflatten(2, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        out: Tensor = self.proj(mixed)
        return out


class Mlp(nn.Module):
    """Two linear layers with GELU between."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) -> the same shape."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    """Attention and MLP, each added to its input."""

    def __init__(self, width: int, n_heads: int, inner: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, EPSILON)
        self.attn = Attention(width, n_heads)
        self.norm2 = nn.LayerNorm(width, EPSILON)
        self.mlp = Mlp(width, inner)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) -> the same shape."""
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class PatchEmbedding(nn.Module):
    """Cuts images into squares, one token each."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, N, width), row by row."""
        tokens: Tensor = self.proj(images).flatten(2).transpose(1, 2)
        return tokens


class SliceViT(nn.Module):
    """The network.

    Args:
        width: Features of a token; a multiple of `n_heads`.
        depth: Blocks.
        n_heads: Of the attention.
        inner: Width inside the MLPs.
        patch: Pixels of a token's side.
        n_patches: Tokens an image has, without the class token.
    """

    def __init__(
        self, width: int, depth: int, n_heads: int, inner: int, patch: int, n_patches: int
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbedding(width, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 1 + n_patches, width))
        self.blocks = nn.Sequential(*(Block(width, n_heads, inner) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, EPSILON)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), standardised -> (B, width)."""
        tokens = self.patch_embed(images)
        x = torch.cat((self.cls_token.expand(len(tokens), -1, -1), tokens), 1) + self.pos_embed
        pooled: Tensor = self.norm(self.blocks(x)[:, 0])
        return pooled
