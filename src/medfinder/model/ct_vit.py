"""CT-ViT's encoder: (B, 1, S, L, P) -> a grid of codebook vectors, as CT-CLIP takes them.

A volume is cut into patches; attention runs within each axial layer of patches, then through each
column of them; the nearest of a codebook's vectors takes each patch's place (GenerateCT,
arXiv 2305.16037, after Phenaki, arXiv 2210.02399; CT-CLIP, arXiv 2403.17834). Parameter names and
shapes are those of the published weights, without the parts that an encoder does not run. Knows
nothing of weights files or of HU.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ATTENTION_SCALE = 8.0
N_MATCHED = 2048  # patches compared with the codebook at once: 67 MB at 8,192 vectors


class Norm(nn.Module):
    """Layer normalisation with a learnt scale; the shift is a constant."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))
        self.register_buffer("beta", torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        return F.layer_norm(x, self.gamma.shape, self.gamma, cast(Tensor, self.beta))


class PlaceConvolution(nn.Module):
    """A depthwise 3x3x3 convolution that tells tokens where they are; it looks down, never up."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dsconv = nn.Conv3d(width, width, 3, groups=width)

    def forward(self, x: Tensor, grid: tuple[int, int, int, int]) -> Tensor:
        """(N, T, width) -> the same shape; N * T tokens are read as a (B, S, L, P) `grid`."""
        volumes = x.reshape(*grid, -1).movedim(-1, 1)
        volumes = self.dsconv(F.pad(volumes, (1, 1, 1, 1, 2, 0)))
        return cast(Tensor, volumes.movedim(1, -1).reshape(x.shape))


class CosineAttention(nn.Module):
    """Attention by the cosine of queries and keys; only queries see the normalised tokens."""

    def __init__(self, width: int, n_heads: int, head: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm = Norm(width)
        self.to_q = nn.Linear(width, n_heads * head, bias=False)
        self.to_kv = nn.Linear(width, 2 * n_heads * head, bias=False)
        self.q_scale = nn.Parameter(torch.ones(head))
        self.k_scale = nn.Parameter(torch.ones(head))
        self.to_out = nn.Linear(n_heads * head, width, bias=False)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """(N, T, width) -> (N, T, width); `bias` is (n_heads, T, T)."""
        keys, values = self.to_kv(x).chunk(2, -1)
        q, k, v = (
            t.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for t in (self.to_q(self.norm(x)), keys, values)
        )
        q = F.normalize(q, dim=-1) * self.q_scale
        k = F.normalize(k, dim=-1) * self.k_scale
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=ATTENTION_SCALE)
        return cast(Tensor, self.to_out(seen.transpose(1, 2).flatten(2)))


class GatedGELU(nn.Module):
    """Multiply one half of the features by the GELU of the other."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., 2 F) -> (..., F)."""
        x, gate = x.chunk(2, -1)
        return F.gelu(gate) * x


class Transformer(nn.Module):
    """Layers of place convolution, attention and feed-forward, each added to its input."""

    def __init__(self, width: int, depth: int, n_heads: int, head: int, inner: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleDict(  # "2" would attend to another stream: this network has none
                {
                    "0": PlaceConvolution(width),
                    "1": CosineAttention(width, n_heads, head),
                    "3": nn.Sequential(
                        nn.LayerNorm(width),
                        nn.Linear(width, 2 * inner, bias=False),
                        GatedGELU(),
                        nn.Identity(),
                        nn.Linear(inner, width, bias=False),
                    ),
                }
            )
            for _ in range(depth)
        )
        self.norm_out = Norm(width)

    def forward(
        self, x: Tensor, grid: tuple[int, int, int, int], bias: Tensor | None = None
    ) -> Tensor:
        """(N, T, width) -> (N, T, width), where N * T tokens fill `grid`."""
        for layer in self.layers:
            parts = cast(nn.ModuleDict, layer)
            x = x + parts["0"](x, grid)
            x = x + parts["1"](x, bias)
            x = x + parts["3"](x)
        return cast(Tensor, self.norm_out(x))


class DistanceBias(nn.Module):
    """What attention adds for the offset of two patches in a layer."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.net = nn.ModuleList(
            [
                nn.Sequential(nn.Linear(2, width), nn.LeakyReLU(0.1)),
                nn.Sequential(nn.Linear(width, width), nn.LeakyReLU(0.1)),
                nn.Linear(width, n_heads),
            ]
        )

    def forward(self, height: int, width: int) -> Tensor:
        """Return (n_heads, T, T) for T = height * width patches in C order."""
        device = next(self.parameters()).device
        axes = [torch.arange(n, dtype=torch.float32, device=device) for n in (height, width)]
        places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 1)
        offsets = places[:, None] - places[None]
        bias = offsets.sign() * (offsets.abs() + 1).log()
        for layer in self.net:
            bias = layer(bias)
        return bias.movedim(-1, 0)


class Codebook(nn.Module):
    """Vectors that stand for what a patch may be."""

    def __init__(self, n_codes: int, width: int) -> None:
        super().__init__()
        self._codebook = nn.Module()
        self._codebook.register_buffer("embed", torch.zeros(1, n_codes, width))

    def forward(self, x: Tensor) -> Tensor:
        """(N, width) -> (N, width): for each the vector of the largest cosine."""
        codes = cast(Tensor, self._codebook.embed)[0]
        unit = F.normalize(codes, dim=-1)
        nearest = [
            (F.normalize(part, dim=-1) @ unit.T).argmax(-1) for part in torch.split(x, N_MATCHED)
        ]
        return codes[torch.cat(nearest)]


class CTViT(nn.Module):
    """The encoder.

    Args:
        patch: Voxels of a patch along (S, L, P); the last two are equal.
        width: Features of a patch.
        depths: Layers of the transformer in the plane, and of the one through the planes.
        n_heads: Of attention, each with `head` features.
        inner: Features inside the feed-forward layers.
        n_codes: Vectors of the codebook.
    """

    def __init__(
        self,
        patch: tuple[int, int, int],
        width: int,
        depths: tuple[int, int],
        n_heads: int,
        head: int,
        inner: int,
        n_codes: int,
    ) -> None:
        super().__init__()
        self.patch = patch
        n_voxels = patch[0] * patch[1] * patch[2]
        self.to_patch_emb = nn.Sequential(
            nn.Identity(),
            nn.LayerNorm(n_voxels),
            nn.Linear(n_voxels, width),
            nn.LayerNorm(width),
        )
        self.spatial_rel_pos_bias = DistanceBias(width, n_heads)
        sizes = (n_heads, head, inner)
        self.enc_spatial_transformer = Transformer(width, depths[0], *sizes)
        self.enc_temporal_transformer = Transformer(width, depths[1], *sizes)
        self.vq = Codebook(n_codes, width)

    def forward(self, volumes: Tensor) -> Tensor:
        """(B, 1, S, L, P) -> (B, S / patch, L / patch, P / patch, width).

        The published network reads the columns' tokens, which lie (B, L, P, S), as a grid of
        (B, S, L, P) when it convolves them: the weights were trained so, and it is kept.
        """
        s, h, w = (n // size for n, size in zip(volumes.shape[2:], self.patch, strict=True))
        grid = (len(volumes), s, h, w)
        split = volumes.reshape(-1, s, self.patch[0], h, self.patch[1], w, self.patch[2])
        x: Tensor = self.to_patch_emb(split.permute(0, 1, 3, 5, 2, 4, 6).flatten(4))
        bias = self.spatial_rel_pos_bias(h, w)
        layers = self.enc_spatial_transformer(x.flatten(2, 3).flatten(0, 1), grid, bias)
        columns = layers.reshape(x.shape).movedim(1, 3).flatten(0, 2)
        columns = self.enc_temporal_transformer(columns, grid)
        columns = columns.reshape(-1, h, w, s, x.shape[-1]).movedim(3, 1)
        coded: Tensor = self.vq(columns.flatten(0, 3))
        return coded.reshape(x.shape)
