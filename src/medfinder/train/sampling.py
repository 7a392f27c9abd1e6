"""Text sampling: what of a report one training step sees. Never used at evaluation."""

import random
from dataclasses import dataclass
from typing import Literal

from medfinder.errors import ConfigError, EmptyReport
from medfinder.report.parse import parse_report
from medfinder.report.sentences import sentences

TextSampling = Literal["whole", "window", "sentences", "mixed"]


@dataclass(frozen=True)
class SamplingConfig:
    """How texts are sampled in training.

    Attributes:
        text: "whole" report; "window": `window_words` running words from a random place, as the
            released code does; "sentences": a random share of the sentences, order kept; "mixed":
            at random the whole report, a share of its sentences, its impression, or only the
            sentences of its findings section.
        min_share: Least share of sentences kept.
        window_words: Of "window".
    """

    text: TextSampling = "whole"
    min_share: float = 0.5
    window_words: int = 100

    def __post_init__(self) -> None:
        if not 0 < self.min_share <= 1 or self.window_words < 1:
            raise ConfigError(
                "Settings sampling.min_share must be above 0 and at most 1, window_words at least 1."
            )


def sample_text(report: str, config: SamplingConfig, chooser: random.Random) -> str:
    """Return the part of a report that this step sees; never empty unless the report is."""
    kind: str = config.text
    if kind == "mixed":
        kind = chooser.choice(("whole", "sentences", "impression", "findings"))
    if kind == "window":
        words = report.split()
        start = chooser.randrange(max(1, len(words) - config.window_words + 1))
        return " ".join(words[start : start + config.window_words])
    if kind == "sentences":
        spans = sentences(report)
        n = max(1, round(len(spans) * chooser.uniform(config.min_share, 1)))
        kept = sorted(chooser.sample(range(len(spans)), min(n, len(spans))))
        return " ".join(report[spans[k][0] : spans[k][1]] for k in kept) or report
    if kind in ("impression", "findings"):
        try:
            parsed = parse_report(report)
        except EmptyReport:  # no letter in it: a section has none either
            return report
        part = parsed.impression_text if kind == "impression" else parsed.findings_text
        return part if part and part.strip() else report
    return report
