"""The training objective: L_total = w_mse L_mse + alpha L_sim + statements + choices + re-ranking.

In two halves, so that a batch may be larger than what fits in memory: `encode_volumes` and
`encode_texts` turn a piece of a batch into representations, `terms` turns those of the whole batch
into a loss. Nothing here draws a random number: a batch holds every choice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medfinder.errors import ConfigError
from medfinder.model import losses
from medfinder.model.dual_stream import DualStream
from medfinder.train.batch import Batch

Encoded = dict[str, Tensor]


@dataclass(frozen=True)
class ObjectiveConfig:
    """Which terms, and how much each weighs; 0 switches a term off.

    Attributes:
        similarity: L_sim: "info_nce", "one_directional" (as the released code) or "siglip".
        alpha: Weight of L_sim.
        view_mse: Weight of L_mse, the distance of two views of a volume.
        statements: Weight of asking each volume whether each sentence is true of it.
        attribute_choice: Weight of preferring a sentence to the same with one attribute changed.
        n_told: Statements a study that assert a finding, each with one changed version, at most.
        n_denied: Statements a study that only deny, at most.
        rerank: Weight of the reranker's choice between a pair and its hardest rivals.
        n_prompts: Labels a step that are asked as sentences, "Left pleural effusion.", of every
            study; they count among the statements.
        labels: Weight of telling the labels that reports give (`medfinder.train.labels`) from the
            volume's vector before it is normalised, by a linear layer that goes after training.
        label_min_count: Training reports that must hold a label.
        labels_first: Share of the run, from its start, in which `labels` counts alone.
    """

    similarity: losses.Similarity = "info_nce"
    alpha: float = 1.0
    view_mse: float = 0.0
    statements: float = 1.0
    attribute_choice: float = 1.0
    n_told: int = 2
    n_denied: int = 1
    n_prompts: int = 0
    rerank: float = 0.0
    labels: float = 0.0
    label_min_count: int = 20
    labels_first: float = 0.0

    def __post_init__(self) -> None:
        for name, weight in self.weights.items():
            if not 0 <= weight < float("inf"):
                raise ConfigError(
                    f"Setting objective.{name} is {weight}; expected a number of at least 0."
                )
        if not any(self.weights.values()):
            raise ConfigError("Every term of objective has weight 0: there is nothing to learn.")
        if min(self.n_told, self.n_denied, self.n_prompts, self.label_min_count) < 0:
            raise ConfigError(
                "Settings objective.n_told, n_denied, n_prompts and label_min_count must not be "
                "negative."
            )
        if self.has_statements and not (self.n_told or self.n_denied or self.n_prompts):
            raise ConfigError(
                "Settings objective.n_told, n_denied and n_prompts are all 0, but statements are "
                "weighed. Set one of them, or objective.statements and attribute_choice to 0."
            )
        if not 0 <= self.labels_first < 1 or (self.labels_first and not self.labels):
            raise ConfigError(
                f"Setting objective.labels_first is {self.labels_first}; expected a share from 0 "
                "to below 1, and objective.labels above 0 where it is not 0."
            )

    @property
    def weights(self) -> dict[str, float]:
        """Of each term, by its name."""
        return {
            "view_mse": self.view_mse,
            "alpha": self.alpha,
            "statements": self.statements,
            "attribute_choice": self.attribute_choice,
            "rerank": self.rerank,
            "labels": self.labels,
        }

    @property
    def has_statements(self) -> bool:
        """Whether single sentences take part."""
        return bool(self.statements or self.attribute_choice)

    @property
    def needs_labels(self) -> bool:
        """Whether labels are read from the reports."""
        return bool(self.labels or (self.statements and self.n_prompts))

    @property
    def needs_report(self) -> bool:
        """Whether a study without a report can teach nothing."""
        return not self.view_mse


class Terms(NamedTuple):
    """A loss and what it is made of.

    Attributes:
        total: The weighted sum, a scalar.
        named: Each term that took part, not weighted, by name.
    """

    total: Tensor
    named: dict[str, Tensor]


class Objective(nn.Module):
    """Computes the loss of a batch.

    A module, because it learns too: the bias of "siglip" and the label head, which no one needs
    after training.

    Over several processes L_sim sees the embeddings of all of them; statements, choices and
    re-ranking stay within each process, as their negatives are made, not met.

    Args:
        config: Which terms.
        dim: Of the joint space; for "labels" alone.
        label_rates: How often each label is true; the linear layer starts there.

    Attributes:
        labels_alone: Whether the run is in its share of `ObjectiveConfig.labels_first`; whoever
            counts steps sets it.
    """

    def __init__(
        self,
        config: ObjectiveConfig | None = None,
        dim: int = 0,
        label_rates: Sequence[float] = (),
    ) -> None:
        super().__init__()
        self.config = config or ObjectiveConfig()
        self.labels_alone = False
        if self.config.labels:
            self.label_head = nn.Linear(dim, len(label_rates))
            rates = torch.tensor(label_rates, dtype=torch.float32).clamp(1e-3, 0.5)
            self.label_head.bias.data = rates.logit()
        if self.config.similarity == "siglip":  # as in the paper: nearly all pairs are negative
            self.siglip_bias = nn.Parameter(torch.tensor(-10.0))

    def forward(self, model: DualStream, batch: Batch) -> Terms:
        """Encode a whole batch at once and return its loss."""
        encoded = self.encode_volumes(model, batch, slice(None))
        encoded |= self.encode_texts(model, self.texts(batch))
        return self.terms(model, encoded, batch)

    def has_two_views(self, model: DualStream) -> bool:
        """Tell whether a step computes two views of each volume."""
        return self.config.view_mse > 0 or model.fusion is not None

    def texts(self, batch: Batch) -> list[str]:
        """Return all that the text stream reads for a batch: reports, then statements."""
        if self.labels_alone:
            return []
        reports = [text for text in batch.texts if text is not None]
        return reports + list(batch.statements.sentences if batch.statements else ())

    def encode_volumes(self, model: DualStream, batch: Batch, part: slice) -> Encoded:
        """Encode some of a batch's volumes.

        Returns:
            ``volume`` (B, dim), what L_sim sees: the fused embedding of view 0 asked of view 1
            where the model has a fusion; with `view_mse` the embeddings of each view by itself,
            as in use, ``first`` and ``second`` (B, dim); with `rerank` the ``regions`` of view 0;
            with `labels` the vector before it is normalised, ``projected``.
        """
        regions = _regions(model, batch, 0, part)
        two = self.has_two_views(model) and not self.labels_alone
        others = _regions(model, batch, 1, part) if two else None
        projected = model.project(regions, others)
        if self.labels_alone:
            return {"projected": projected.float()}
        encoded: Encoded = {"volume": model.normalised(projected)}
        if self.config.view_mse:
            assert others is not None
            alone = model.fusion is None
            encoded["first"] = encoded["volume"] if alone else model.pool(regions)
            encoded["second"] = model.pool(others)
        if self.config.labels:
            encoded["projected"] = projected
        if self.config.rerank:
            encoded["regions"] = regions
        return {name: x.float() for name, x in encoded.items()}

    def encode_texts(self, model: DualStream, texts: Sequence[str]) -> Encoded:
        """Encode texts: ``text`` (T, dim), and with `rerank` their ``tokens`` and ``mask``."""
        device = model.log_scale.device
        if not texts:
            return {"text": torch.zeros(0, model.config.dim, device=device)}
        tokens = {name: x.to(device) for name, x in model.text.tokenize(texts).items()}
        output = model.embed_texts(tokens)
        encoded = {"text": output.embedding.float()}
        if self.config.rerank:
            encoded["tokens"] = output.features.tokens.float()
            encoded["mask"] = output.features.mask
        return encoded

    def terms(self, model: DualStream, encoded: Mapping[str, Tensor], batch: Batch) -> Terms:
        """Return the loss of a whole batch from its representations."""
        config = self.config
        if self.labels_alone:
            term = self._labels(encoded["projected"], batch)
            return Terms(config.labels * term, {"labels": term})
        volumes = encoded["volume"]
        device = volumes.device
        told = torch.tensor([i for i, t in enumerate(batch.texts) if t is not None], device=device)
        told = told.long()
        reports, sentences = encoded["text"][: len(told)], encoded["text"][len(told) :]
        groups = batch.report_group.to(device)[told]
        named: dict[str, Tensor] = {}
        if config.view_mse:
            named["view_mse"] = losses.view_mse(encoded["first"], encoded["second"])
        if config.alpha:
            named["similarity"] = self._similarity(
                model, reports, volumes[told], groups, batch.capacity
            )
        if batch.statements is not None and len(told):
            truth = torch.from_numpy(batch.statements.truth).to(device)
            if config.statements:
                named["statements"] = losses.statements(
                    volumes[told], sentences, truth, model.statement_scale, model.statement_bias
                )
            if config.attribute_choice:
                at = (batch.statements.told, batch.statements.changed, batch.statements.owner)
                right, wrong, owner = (torch.from_numpy(rows).to(device) for rows in at)
                named["attribute_choice"] = losses.attribute_choice(
                    volumes[told], sentences[right], sentences[wrong], owner, model.statement_scale
                )
        if config.labels and batch.labels is not None:
            named["labels"] = self._labels(encoded["projected"], batch)
        if config.rerank:
            n = len(told)
            named["rerank"] = _rerank(
                model,
                reports,
                volumes[told],
                encoded["regions"][told],
                encoded["tokens"][:n] if n else None,
                encoded["mask"][:n] if n else None,
                groups,
            )
        weights = {**config.weights, "similarity": config.alpha}
        total = volumes.sum() * 0  # a batch without any term has a loss too
        for name, term in named.items():
            total = total + weights[name] * term
        return Terms(total, named)

    def _labels(self, projected: Tensor, batch: Batch) -> Tensor:
        """``L = 1/B sum_i sum_l BCE(h_l(x_i), y_il)`` over the labels that are known."""
        if batch.labels is None:
            return projected.sum() * 0
        told = [i for i, text in enumerate(batch.texts) if text is not None]
        truth = torch.from_numpy(batch.labels).to(projected.device)
        answers = F.binary_cross_entropy_with_logits(
            self.label_head(projected[told]), (truth == 1).float(), reduction="none"
        )
        return (answers * (truth >= 0)).sum(1).mean()

    def _similarity(
        self, model: DualStream, reports: Tensor, volumes: Tensor, groups: Tensor, capacity: int
    ) -> Tensor:
        """L_sim over the pairs of all processes, however many each of them has."""
        room = capacity - len(groups)
        filled = F.pad(groups + 1, (0, room))  # 0: no pair here
        everyone = losses.gathered(filled)
        has = everyone > 0
        t = losses.gathered(F.pad(reports, (0, 0, 0, room)))[has]
        v = losses.gathered(F.pad(volumes, (0, 0, 0, room)))[has]
        if not len(t) or (len(t) == 1 and self.config.similarity != "siglip"):
            return (t.sum() + v.sum()) * 0  # one pair alone tells nothing apart
        if self.config.similarity == "one_directional":
            return losses.one_directional(t, v, model.scale)
        same = everyone[has][:, None] == everyone[has][None]
        if self.config.similarity == "siglip":
            return losses.siglip(t, v, model.scale, self.siglip_bias, same)
        return losses.info_nce(t, v, model.scale, same)


def _regions(model: DualStream, batch: Batch, which: int, part: slice) -> Tensor:
    """Return the regions of a view: those of the cache, where there is one, or the network's."""
    if batch.cached is not None:
        return batch.regions(which, part)
    regions: Tensor = model.volume(batch.views(which, part))
    return regions


def _rerank(
    model: DualStream,
    reports: Tensor,
    volumes: Tensor,
    regions: Tensor,
    tokens: Tensor | None,
    mask: Tensor | None,
    groups: Tensor,
) -> Tensor:
    """Prefer each pair to the rival that the dot product finds hardest to tell from it.

    ``L = 1/2 mean_i [softplus(s(t_i, v_h) - s(t_i, v_i)) + softplus(s(t_h, v_i) - s(t_i, v_i))]``
    with s the reranker's score and h the nearest volume, or report, of another report.
    """
    assert model.reranker is not None
    similar = (reports @ volumes.T).detach()
    same = groups[:, None] == groups[None]
    if tokens is None or mask is None or bool(same.all()):
        return volumes.sum() * 0
    rivals = similar.masked_fill(same, -torch.inf)
    volume, report = rivals.argmax(1), rivals.argmax(0)
    keep = ~same.all(1)  # one that shares its report with all others has no rival
    own, _ = model.reranker(tokens, mask, regions)
    other_volume, _ = model.reranker(tokens, mask, regions[volume])
    other_report, _ = model.reranker(tokens[report], mask[report], regions)
    lost = F.softplus(other_volume - own) + F.softplus(other_report - own)
    return lost[keep].mean() / 2
