"""Cross-attention is its equation, and every part of it learns."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medfinder.model.fusion import Reranker, ViewFusion
from reference.attention import attention


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fusion(width: int = 8) -> ViewFusion:
    torch.manual_seed(0)
    return ViewFusion(width, 2)


def reranker() -> Reranker:
    torch.manual_seed(0)
    return Reranker(6, 5, width=8, n_heads=2)


def learns(module: nn.Module, loss: Tensor) -> dict[str, bool]:
    loss.backward()  # type: ignore[no-untyped-call]
    return {
        name: p.grad is not None and bool(p.grad.abs().sum() > 0)
        for name, p in module.named_parameters()
    }


def test_one_view_asks_the_other_by_the_equation() -> None:
    layer = fusion()
    mine, theirs = random(5, 8), random(3, 8, seed=1)
    found, _ = attention(layer.attention, layer.asking(mine), layer.asked(theirs))
    with torch.no_grad():
        expected = layer.norm(mine + layer.gain * found)
        got = layer(mine[None], theirs[None])[0]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_a_fusion_reads_the_other_view_and_not_its_order() -> None:
    layer = fusion()
    mine, theirs = random(2, 5, 8), random(2, 5, 8, seed=1)
    fused = layer(mine, theirs)
    assert not torch.allclose(fused, layer(mine, mine), atol=1e-4)
    torch.testing.assert_close(fused, layer(mine, theirs.flip(1)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fused.flip(1), layer(mine.flip(1), theirs), rtol=1e-4, atol=1e-5)


def test_a_fresh_fusion_stays_near_the_first_view() -> None:
    mine, theirs = random(2, 5, 8), random(2, 5, 8, seed=1)
    kept = F.cosine_similarity(fusion()(mine, theirs), F.layer_norm(mine, (8,)), dim=-1)
    assert float(kept.detach().min()) > 0.95


def test_gradients_reach_every_part_of_the_fusion_and_both_views() -> None:
    layer = fusion()
    mine, theirs = (random(2, 5, 8, seed=s).requires_grad_() for s in (0, 1))
    aim = random(2, 5, 8, seed=2)
    found = learns(layer, (layer(mine, theirs) * aim).sum())
    assert all(found.values()), [name for name, it_does in found.items() if not it_does]
    assert layer.attention.in_proj_weight is not None
    assert layer.attention.in_proj_weight.grad is not None
    queries, keys, values = layer.attention.in_proj_weight.grad.chunk(3)
    assert min(float(g.abs().sum()) for g in (queries, keys, values)) > 0
    for view in (mine, theirs):
        assert view.grad is not None
        assert float(view.grad.abs().sum()) > 0


def test_the_score_of_a_pair_is_its_equation() -> None:
    judge = reranker()
    tokens, regions = random(3, 5), random(4, 6, seed=1)
    asked, known = judge.tokens(tokens), judge.regions(regions)
    found, where = attention(judge.attention, asked, known)
    weight = judge.gate(asked)[:, 0].softmax(0)
    expected = sum(
        w * judge.judge(torch.cat([a, f]))[0] for w, a, f in zip(weight, asked, found, strict=True)
    )
    score, shown = judge(tokens[None], torch.ones(1, 3, dtype=torch.bool), regions[None])
    torch.testing.assert_close(score[0], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(shown[0], where, rtol=1e-4, atol=1e-5)


def test_what_is_no_token_counts_for_nothing() -> None:
    judge = reranker()
    tokens, regions = random(2, 4, 5), random(2, 4, 6, seed=1)
    mask = torch.tensor([[True, True, True, True], [True, True, False, False]])
    score, _ = judge(tokens, mask, regions)
    other = tokens.clone()
    other[1, 2:] = 9
    assert torch.equal(judge(other, mask, regions)[0], score)
    assert not torch.allclose(judge(other, torch.ones_like(mask), regions)[0][1], score[1])
    alone, _ = judge(tokens[1:, :2], mask[1:, :2], regions[1:])
    torch.testing.assert_close(alone[0], score[1])


def test_attention_says_where_and_moves_with_the_regions() -> None:
    judge = reranker()
    tokens, regions = random(2, 3, 5), random(2, 4, 6, seed=1)
    mask = torch.ones(2, 3, dtype=torch.bool)
    score, where = judge(tokens, mask, regions)
    assert where.shape == (2, 3, 4)
    torch.testing.assert_close(where.sum(-1), torch.ones(2, 3))
    again, moved = judge(tokens, mask, regions.flip(1))
    torch.testing.assert_close(again, score)
    torch.testing.assert_close(moved, where.flip(2))


def test_gradients_reach_every_part_of_the_reranker() -> None:
    judge = reranker()
    score, _ = judge(random(2, 3, 5), torch.ones(2, 3, dtype=torch.bool), random(2, 4, 6, seed=1))
    found = learns(judge, (score * torch.tensor([1.0, -2.0])).sum())
    assert all(found.values()), [name for name, it_does in found.items() if not it_does]


def test_heads_divide_the_width() -> None:
    with pytest.raises(AssertionError, match="divisible"):
        ViewFusion(6, 4)
