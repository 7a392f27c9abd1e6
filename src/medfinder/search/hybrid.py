"""Several rankings of the same studies → one."""

from collections.abc import Mapping, Sequence


def reciprocal_rank_fusion(
    rankings: Mapping[str, Sequence[str]], k: int = 60, weights: Mapping[str, float] | None = None
) -> list[tuple[str, float]]:
    """Fuse rankings by the sum over rankers of ``weight / (k + rank)``, rank from 1.

    Only ranks count, so scores of any scale can be fused. Ties are broken by id.

    Args:
        rankings: Ranker's name → study ids, best first, without repeats.
        k: Damping; a larger one makes the first ranks less decisive.
        weights: Ranker's name → weight; 1 where absent.

    Returns:
        (study_id, score), best first; scores are in (0, sum of weights / (k + 1)].

    Source:
        Cormack, Clarke, Büttcher, "Reciprocal rank fusion outperforms Condorcet and individual
        rank learning methods", SIGIR 2009.
    """
    scores: dict[str, float] = {}
    for name, ids in rankings.items():
        weight = 1.0 if weights is None else weights.get(name, 1.0)
        for rank, study_id in enumerate(ids, start=1):
            scores[study_id] = scores.get(study_id, 0.0) + weight / (k + rank)
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))
