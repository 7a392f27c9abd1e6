"""The slow truth for cross-attention: one head, one question and one answer at a time."""

import math

import torch
from torch import Tensor, nn


@torch.no_grad()
def attention(layer: nn.MultiheadAttention, asking: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
    """softmax(Q K^T / sqrt(d)) V for every head, (N, width) x (M, width) -> (N, width), (N, M)."""
    n, width = asking.shape
    assert layer.in_proj_weight is not None
    to_q, to_k, to_v = layer.in_proj_weight.chunk(3)
    bias_q, bias_k, bias_v = layer.in_proj_bias.chunk(3)
    d = width // layer.num_heads
    found = torch.zeros(n, width)
    where = torch.zeros(n, len(asked))
    for head in range(layer.num_heads):
        rows = slice(head * d, (head + 1) * d)
        for i in range(n):
            q = to_q[rows] @ asking[i] + bias_q[rows]
            scores = [
                float(q @ (to_k[rows] @ known + bias_k[rows])) / math.sqrt(d) for known in asked
            ]
            total = sum(math.exp(s - max(scores)) for s in scores)
            for j, known in enumerate(asked):
                weight = math.exp(scores[j] - max(scores)) / total
                found[i, rows] += weight * (to_v[rows] @ known + bias_v[rows])
                where[i, j] += weight / layer.num_heads
    return found @ layer.out_proj.weight.T + layer.out_proj.bias, where
