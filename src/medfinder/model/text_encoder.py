"""The text stream: reports, sentences or keywords -> token features and one pooled vector.

A network is an `nn.Module` that brings its own tokeniser, built by a function registered in
`text_networks` from a `TextEncoderConfig`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from medfinder.errors import ConfigError
from medfinder.registry import Registry


@dataclass(frozen=True)
class TextEncoderConfig:
    """Which text network, and how big.

    Attributes:
        name: A key of `text_networks`.
        width: Features of each token; networks of a fixed width ignore it.
        depth: Layers; networks of a fixed depth ignore it.
        pretrained: Folder or Hub id of published weights; "" for random ones.
        trained: "all", "none" (frozen) or "last:N" (the last N layers).
        max_tokens: Tokens of a text that are read, special ones included.
    """

    name: str = "sentences"
    width: int = 192
    depth: int = 2
    pretrained: str = ""
    trained: str = "all"
    max_tokens: int = 512

    def __post_init__(self) -> None:
        last = self.trained.removeprefix("last:")
        if self.trained not in ("all", "none") and not (last != self.trained and last.isdigit()):
            raise ConfigError(
                f"Setting text.trained is {self.trained!r}; expected 'all', 'none' or 'last:N'."
            )
        if min(self.width, self.depth, self.max_tokens) < 1:
            raise ConfigError("Settings text.width, depth and max_tokens must be at least 1.")


class TextFeatures(NamedTuple):
    """What a text network returns.

    Attributes:
        pooled: (B, width).
        tokens: (B, T, width); T is the longest text's.
        mask: (B, T) bool, True where a token is.
    """

    pooled: Tensor
    tokens: Tensor
    mask: Tensor


Tokens = Mapping[str, Tensor]


class TextEncoder(nn.Module):
    """What every text network is.

    Attributes:
        width: Features of each token and of the pooled vector.
    """

    width: int

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Turn texts of any length into CPU tensors that `forward` takes."""
        raise NotImplementedError

    def forward(self, tokens: Tokens) -> TextFeatures:
        """Encode what `tokenize` made."""
        raise NotImplementedError

    def save_tokenizer(self, folder: Path) -> None:
        """Write the tokeniser's own files (``tokenizer.json`` …) into a checkpoint's folder."""
        raise NotImplementedError


TextBuilder = Callable[[TextEncoderConfig, Path | None], TextEncoder]
text_networks: Registry[TextBuilder] = Registry("text network")
"""Name -> function of the config and a checkpoint's folder, where the tokeniser's files lie; None
before there is a checkpoint."""
