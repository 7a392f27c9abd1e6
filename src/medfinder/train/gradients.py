"""A batch's loss -> gradients: in pieces where it does not fit in memory, averaged over processes.

`torch.nn.parallel.DistributedDataParallel` is not used: its hooks fire at every piece, and again for
what the loss itself holds (temperature, reranker). Gradients are averaged once, after the last piece.
"""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from medfinder.model.dual_stream import DualStream
from medfinder.train.batch import Batch, mix
from medfinder.train.objective import Encoded, Objective, Terms

_DROPOUT = 7


def backward(
    objective: Objective,
    model: DualStream,
    batch: Batch,
    micro_batch: int = 0,
    autocast: contextlib.AbstractContextManager[object] | None = None,
) -> Terms:
    """Add the gradients of a batch's loss to the parameters, and return the loss.

    With `micro_batch`, no more studies than that are held at once, and the result is the same: a
    first pass keeps representations only, the loss of the whole batch gives their gradients, and a
    second pass hands these on, piece by piece. Dropout repeats itself, as it is seeded by step and
    piece; batch normalisation sees a piece at a time, and its running means move once.

    Args:
        micro_batch: Studies at once; 0 for all. Texts are cut into as many pieces.
        autocast: Around the networks, not around the loss, which is float32.

    Source:
        Gao et al., arXiv 2101.06983 (cached gradients).
    """
    autocast = autocast or contextlib.nullcontext()
    texts = objective.texts(batch)
    n_pieces = -(-len(batch) // micro_batch) if micro_batch else 1
    if n_pieces == 1:
        _seed(batch, 0)
        with autocast:
            encoded = objective.encode_volumes(model, batch, slice(None))
            encoded |= objective.encode_texts(model, texts)
        terms = objective.terms(model, encoded, batch)
        terms.total.backward()  # type: ignore[no-untyped-call]
        return terms
    volume_parts = _cut(len(batch), micro_batch)
    text_parts = _cut(len(texts), -(-len(texts) // n_pieces)) if texts else [slice(0)]

    def pieces() -> Iterator[tuple[Encoded, slice]]:
        for k, part in enumerate(volume_parts + text_parts):
            _seed(batch, k)
            with autocast:
                if k < len(volume_parts):
                    encoded = objective.encode_volumes(model, batch, part)
                else:
                    encoded = objective.encode_texts(model, texts[part])
            yield encoded, part

    with torch.no_grad(), _still(model):
        kept = _joined([encoded for encoded, _ in pieces()])
    leaves = {name: x.detach().requires_grad_(x.is_floating_point()) for name, x in kept.items()}
    terms = objective.terms(model, leaves, batch)
    terms.total.backward()  # type: ignore[no-untyped-call]
    for encoded, part in pieces():
        outputs: list[Tensor] = []
        gradients: list[Tensor] = []
        for name, x in encoded.items():
            wanted = leaves[name].grad
            if x.requires_grad and wanted is not None:
                outputs.append(x)
                gradients.append(_like(wanted[part], x))
        if outputs:
            torch.autograd.backward(outputs, gradients)
    return terms


def average(parameters: Sequence[nn.Parameter]) -> None:
    """Replace each gradient by its mean over all processes; one that is missing counts as zero."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return
    flat = torch.cat(
        [(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in parameters]
    )
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    first = 0
    for p in parameters:
        mean = flat[first : first + p.numel()].view_as(p)
        p.grad = torch.empty_like(p.detach()).copy_(mean)  # in the order of p in memory
        first += p.numel()


def _cut(n: int, size: int) -> list[slice]:
    return [slice(i, min(i + size, n)) for i in range(0, n, size)]


def _seed(batch: Batch, piece: int) -> None:
    """Seed what networks draw (dropout): both passes, and a resumed run, draw the same."""
    torch.manual_seed(mix(batch.seed, batch.step, _DROPOUT, int(batch.rows[0]), piece))


def _joined(encoded: list[Encoded]) -> Encoded:
    """Concatenate pieces; token features are padded to the longest text's."""
    names = dict.fromkeys(name for one in encoded for name in one)
    joined: Encoded = {}
    for name in names:
        parts = [one[name] for one in encoded if name in one]
        if name in ("tokens", "mask"):
            longest = max(x.shape[1] for x in parts)
            parts = [F.pad(x, (0, 0) * (x.ndim - 2) + (0, longest - x.shape[1])) for x in parts]
        joined[name] = torch.cat(parts)
    return joined


def _like(gradient: Tensor, output: Tensor) -> Tensor:
    """Cut padding of `_joined` off a gradient."""
    return gradient[:, : output.shape[1]] if gradient.ndim == 3 else gradient


@contextlib.contextmanager
def _still(model: nn.Module) -> Iterator[None]:
    """Keep running means of batch normalisation as they are."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    before = [(m.momentum, m.num_batches_tracked) for m in norms]
    for m in norms:
        m.momentum = 0.0
        if m.num_batches_tracked is not None:
            m.num_batches_tracked = m.num_batches_tracked.clone()
    try:
        yield
    finally:
        for m, (momentum, n) in zip(norms, before, strict=True):
            m.momentum, m.num_batches_tracked = momentum, n
