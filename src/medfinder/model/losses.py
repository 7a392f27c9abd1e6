"""The objective's terms as pure functions of embeddings; each docstring has its equation.

Below, v_i and t_i are the L2-normalised embeddings of volume i and report i, tau the temperature.
None of these functions holds state, draws random numbers or knows a network.
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Similarity = Literal["info_nce", "one_directional", "siglip"]


def view_mse(first: Tensor, second: Tensor) -> Tensor:
    """L_mse: mean squared distance of two views of one volume.

    ``L_mse = 1/(B dim) sum_i ||f(a(x_i)) - f(a'(x_i))||^2``

    Args:
        first: (B, dim), of any length (normalise first to bound it).
        second: (B, dim), of the other view.

    Source:
        The paper's view consistency.
    """
    return F.mse_loss(first, second)


def one_directional(texts: Tensor, volumes: Tensor, scale: Tensor | float) -> Tensor:
    """L_sim as the released code has it: each text finds its volume, and not the other way.

    ``L = -1/B sum_i log softmax_j(scale t_i . v_j)[i]``; the released code passes vectors that are
    not normalised, and ``scale = 1 / 0.07``.
    """
    return F.cross_entropy(scale * texts @ volumes.T, torch.arange(len(texts), device=texts.device))


def info_nce(
    texts: Tensor, volumes: Tensor, scale: Tensor | float, same: Tensor | None = None
) -> Tensor:
    """L_sim: symmetric InfoNCE, with several positives where studies share a report.

    ``L = 1/2 (CE(scale T V^T, P) + CE(scale V T^T, P))`` with P the rows of `same`, each summing
    to 1, and ``scale = 1 / tau``.

    Args:
        same: (B, B) bool, True where report i is also study j's; None for the diagonal.

    Source:
        van den Oord et al., arXiv 1807.03748; symmetric as in arXiv 2103.00020.
    """
    logits = scale * texts @ volumes.T
    target = torch.eye(len(texts), device=texts.device) if same is None else same.to(logits.dtype)
    rows = F.cross_entropy(logits, target / target.sum(1, keepdim=True))
    columns = F.cross_entropy(logits.T, target.T / target.T.sum(1, keepdim=True))
    return (rows + columns) / 2


def siglip(
    texts: Tensor,
    volumes: Tensor,
    scale: Tensor | float,
    bias: Tensor | float,
    same: Tensor | None = None,
) -> Tensor:
    """L_sim as independent yes/no questions over all pairs.

    ``L = -1/B sum_ij log sigmoid(z_ij (scale t_i . v_j + bias))`` with z = 1 for a pair, else -1.

    Source:
        Zhai et al., arXiv 2303.15343.
    """
    if same is None:
        same = torch.eye(len(texts), device=texts.device, dtype=torch.bool)
    sign = same.to(texts.dtype) * 2 - 1
    return -F.logsigmoid(sign * (scale * texts @ volumes.T + bias)).sum() / len(texts)


def statements(
    volumes: Tensor, sentences: Tensor, truth: Tensor, scale: Tensor | float, bias: Tensor | float
) -> Tensor:
    """Ask of every volume whether each sentence is true of it: label-prompt supervision.

    ``L = 1/3 sum_c mean_{(i,s) in c} softplus(-z_is (scale v_i . p_s + bias))`` over the classes
    c = true (z = 1), false (z = -1) and false by one attribute only (z = -1), so that neither the
    many easy negatives nor the few hard ones drown the rest.

    Args:
        volumes: (B, dim).
        sentences: (S, dim), p_s.
        truth: (B, S) int8: 1 true, 0 false, 2 false by one attribute, -1 unknown (left out).
    """
    logits = scale * volumes @ sentences.T + bias
    lost = logits.new_zeros(())
    for value, sign in ((1, -1.0), (0, 1.0), (2, 1.0)):
        chosen = truth == value
        lost = lost + (F.softplus(sign * logits) * chosen).sum() / chosen.sum().clamp(min=1)
    return lost / 3


def attribute_choice(
    volumes: Tensor, told: Tensor, changed: Tensor, owner: Tensor, scale: Tensor | float
) -> Tensor:
    """Prefer a sentence to the same sentence with one attribute changed.

    ``L = mean_k softplus(-scale v_{o(k)} . (p_k - q_k))``

    Args:
        told: (K, dim), p_k, sentences of the reports.
        changed: (K, dim), q_k, the same with one attribute changed.
        owner: (K,) row of `volumes` that p_k was told of.
    """
    if not len(owner):
        return volumes.sum() * 0
    return F.softplus(-scale * (volumes[owner] * (told - changed)).sum(1)).mean()


def gathered(rows: Tensor) -> Tensor:
    """Gather the rows of every process, with gradients to all of them.

    Gradients are those of one process that held the whole batch, when the processes' gradients are
    then averaged, as DistributedDataParallel does, and each computes the loss of the whole batch.

    Args:
        rows: (B, ...), as many in every process.

    Returns:
        (world x B, ...) in the order of ranks; `rows` itself where there is one process.
    """
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows
    every: Tensor = _Gather.apply(rows)  # type: ignore[no-untyped-call]
    return every


class _Gather(torch.autograd.Function):
    """All processes' rows; backwards, the sum of what every process asks of one's own."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        import torch.distributed as dist

        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        ctx.n = len(rows)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        import torch.distributed as dist

        whole = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(whole)
        first = dist.get_rank() * ctx.n
        return whole[first : first + ctx.n]
