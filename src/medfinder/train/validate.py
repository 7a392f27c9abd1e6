"""A model and a validation set -> retrieval measures, through `Embedder`, as in use.

Whole reports and unchanged volumes: nothing is sampled and nothing augmented.
"""

from dataclasses import dataclass

from medfinder.embed import Embedder
from medfinder.errors import InputError
from medfinder.model.dual_stream import DualStream
from medfinder.model.joint_encoder import JointEncoder
from medfinder.ranking.measures import mean_rank, success_at_k
from medfinder.ranking.ranks import rank_vectors
from medfinder.train.dataset import TrainingSet
from medfinder.train.features import Features

PRIMARY = "mean_success_at_10"
"""By which the best checkpoint is chosen: the mean of success@10 (R@10) in both directions."""
KS = (1, 5, 10)
BATCH = 8  # volumes embedded at once


@dataclass(frozen=True)
class Validation:
    """What a model scores.

    Attributes:
        measures: By name: ``report_to_volume_success_at_1`` …, ``…_mean_rank``, `PRIMARY`.
    """

    measures: dict[str, float]

    @property
    def key(self) -> tuple[float, float]:
        """Greater is better: the primary measure, then the lower mean rank."""
        ranks = [v for name, v in self.measures.items() if name.endswith("mean_rank")]
        return self.measures[PRIMARY], -sum(ranks)


def validate(model: DualStream, data: TrainingSet, features: Features | None = None) -> Validation:
    """Retrieve each study by its report and each report by its study.

    A study without a report stays in the gallery of volumes; a report that several studies share
    is answered by any of them.

    Args:
        features: Of `data`, by the model's frozen volume network, which then does not run: the
            vectors are the same.

    Raises:
        InputError: Fewer than two studies have a report, or a vector is not finite.
    """
    told = [i for i, texts in enumerate(data.reports) if texts]
    if len(told) < 2:
        raise InputError(
            f"Validation needs at least two studies with a report, got {len(told)}.", rule="split"
        )
    embedder = Embedder(JointEncoder(model, weights="in-training"), batch_size=BATCH)
    if features is None:
        volumes = embedder.embed_prepared(data.study_ids, data.iter_volumes()).vectors
    else:
        volumes = embedder.embed_regions(data.study_ids, features.iter_unchanged()).vectors
    reports = embedder.embed_texts([data.reports[i][0] for i in told]).vectors
    groups = data.report_groups
    same = groups[told][:, None] == groups[None]
    directions = {
        "report_to_volume": rank_vectors(reports, volumes, same),
        "volume_to_report": rank_vectors(volumes[told], reports, same[:, told].T),
    }
    measures: dict[str, float] = {}
    for name, ranks in directions.items():
        for k in KS:
            measures[f"{name}_success_at_{k}"] = float(success_at_k(ranks, k).mean())
        measures[f"{name}_mean_rank"] = mean_rank(ranks)
    measures[PRIMARY] = sum(measures[f"{name}_success_at_10"] for name in directions) / 2
    return Validation(measures)
