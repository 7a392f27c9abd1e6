"""The small text network: a report is a set of sentences, and its vector the weighted sum of theirs.

A transformer reads each sentence by itself; a learned gate weighs it, so that "unremarkable study"
and boiler plate can count little. Because a sum is linear, one finding's sentence, a keyword and a
whole report lie in one space by construction. A batch's repeated sentences are encoded once.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from medfinder.errors import ConfigError
from medfinder.model.text_encoder import (
    TextEncoder,
    TextEncoderConfig,
    TextFeatures,
    Tokens,
    text_networks,
)
from medfinder.report.sentences import sentences

VOCABULARY_SIZE = 4096
SENTENCE_TOKENS = 40
N_GROUPS = 4
TOKENIZER_FILE = "tokenizer.json"
MANY_CODES = 300_000
"""Sentences whose word pieces are kept, about 200 bytes each."""
_CENTIMETRES = re.compile(r"\b(\d+(?:[.,]\d+)?) ?cm\b", re.IGNORECASE)


class Layer(nn.Module):
    """A transformer layer, normalised before: attention, then a network twice as wide."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.n_heads = width // 32
        self.before_attention, self.before_mixing = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend = nn.Linear(width, 3 * width)
        self.gather = nn.Linear(width, width)
        self.mix = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        """(B, T, width) with a (B, 1, 1, T) mask, True where a token is -> (B, T, width)."""
        b, t, w = x.shape
        parts = self.attend(self.before_attention(x)).reshape(b, t, 3, self.n_heads, -1)
        asked, known, told = parts.permute(2, 0, 3, 1, 4)
        found = F.scaled_dot_product_attention(asked, known, told, attn_mask=there)
        x = x + self.gather(found.transpose(1, 2).reshape(b, t, w))
        out: Tensor = x + self.mix(self.before_mixing(x))
        return out


class SentenceNetwork(TextEncoder):
    """Reports -> sentence features and their weighted sum.

    Args:
        width: Of a sentence's features; a multiple of 32.
        depth: Transformer layers within a sentence.
        max_tokens: Tokens of a report that are read: whole sentences until they are used up.
        tokenizer: None until `fit_tokenizer` learns one from the training reports.

    Attributes:
        codes: Sentence -> its word pieces, of sentences met before.
    """

    def __init__(
        self, width: int, depth: int, max_tokens: int, tokenizer: Tokenizer | None = None
    ) -> None:
        super().__init__()
        self.width, self.max_tokens = width, max_tokens
        self.tokenizer = tokenizer
        self.codes: dict[str, list[int]] = {}
        self.words = nn.Embedding(VOCABULARY_SIZE, width, padding_idx=0)
        self.places = nn.Parameter(0.02 * torch.randn(SENTENCE_TOKENS, width))
        nn.init.normal_(self.words.weight, std=0.05)
        self.layers = nn.ModuleList(Layer(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.gate = nn.Linear(width, 1)

    def fit_tokenizer(self, texts: Sequence[str]) -> None:
        """Learn the word pieces of the training reports; the same texts give the same pieces."""
        self.tokenizer = Tokenizer.from_str(_learned(tuple(texts)))
        self.codes.clear()

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Return ``ids`` (S, L) of the distinct sentences and ``sentence`` (B, K), -1 where none is.

        Raises:
            ConfigError: There is no tokeniser yet.
        """
        if self.tokenizer is None:
            raise ConfigError("The text network has no tokeniser: call fit_tokenizer first.")
        split = [_split(text) for text in texts]
        self._code({sentence for parts in split for sentence in parts})
        numbers: dict[str, int] = {}
        kept: list[list[int]] = []
        for parts in split:
            left = self.max_tokens
            keep: list[int] = []
            for sentence in parts:
                left -= len(self.codes[sentence])
                if keep and left < 0:
                    break
                keep.append(numbers.setdefault(sentence, len(numbers)))
            kept.append(keep)
        ids = _padded([self.codes[sentence] for sentence in numbers], 0)
        return {"ids": ids, "sentence": _padded(kept, -1)}

    def _code(self, distinct: set[str]) -> None:
        """Tokenise the sentences that are not in `codes`."""
        assert self.tokenizer is not None
        new = sorted(distinct - self.codes.keys())
        if len(self.codes) + len(new) > MANY_CODES:
            self.codes.clear()
            new = sorted(distinct)
        read = self.tokenizer.encode_batch([_millimetres(sentence) for sentence in new])
        for sentence, code in zip(new, read, strict=True):
            self.codes[sentence] = code.ids[:SENTENCE_TOKENS] or [1]

    def forward(self, tokens: Tokens) -> TextFeatures:
        """Encode; `TextFeatures.tokens` are a report's sentences, already gated."""
        gated = self.encode_sentences(tokens["ids"])
        sentence = tokens["sentence"]
        mask = sentence >= 0
        features = gated[sentence.clamp(min=0)] * mask[..., None]
        return TextFeatures(features.sum(1) / features.shape[-1] ** 0.5, features, mask)

    def encode_sentences(self, ids: Tensor) -> Tensor:
        """(S, L) token ids, 0 where none is -> (S, width) gated sentence features.

        On a CPU sentences of like length go together, so that few of the tokens computed are padding;
        a GPU would wait for each length longer than it works on padding.
        """
        if ids.is_cuda:
            return self._read(ids)
        lengths = (ids > 0).sum(1)
        order = lengths.argsort()
        groups = order.tensor_split(min(N_GROUPS, len(order)))
        read = [self._read(ids[rows, : int(lengths[rows].max())]) for rows in groups]
        return torch.cat(read)[order.argsort()]

    def _read(self, ids: Tensor) -> Tensor:
        there = ids > 0
        x = self.words(ids) + self.places[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x, there[:, None, None, :])
        x = (x * there[..., None]).sum(1) / there.sum(1, keepdim=True)
        x = self.norm(x)
        gated: Tensor = x * F.softplus(self.gate(x))
        return gated

    def save_tokenizer(self, folder: Path) -> None:
        """Write ``tokenizer.json``."""
        if self.tokenizer is not None:
            self.tokenizer.save(str(folder / TOKENIZER_FILE))


@lru_cache(maxsize=2)
def _learned(texts: tuple[str, ...]) -> str:
    """Return the tokeniser that texts teach, as JSON; runs on the same reports share it."""
    from tokenizers import models, normalizers, pre_tokenizers, trainers

    def empty(vocabulary: dict[str, int] | None = None) -> Tokenizer:
        model = models.WordPiece(vocabulary, unk_token="[UNK]")  # noqa: S106
        tokenizer = Tokenizer(model)
        tokenizer.normalizer = normalizers.BertNormalizer(strip_accents=True, lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        return tokenizer

    learning = empty()
    alike = [_millimetres(text) for text in texts]
    # The trainer numbers continuing letters in the order of a hash table, which is another in every
    # run, and breaks ties between merges by these numbers. Given as special, they have fixed ones.
    special = ["[PAD]", "[UNK]", *(f"##{letter}" for letter in _continuing(learning, alike))]
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=special,
        min_frequency=2,
        show_progress=False,
    )
    learning.train_from_iterator(alike, trainer)
    made: str = empty(learning.get_vocab()).to_str()
    return made


@lru_cache(maxsize=400_000)
def _split(text: str) -> tuple[str, ...]:
    return tuple(text[a:b] for a, b in sentences(text)) or (text,)


def _padded(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    """Return rows of different lengths as one tensor of int64."""
    table = np.full((len(rows), max(map(len, rows))), fill, np.int64)
    for row, values in zip(table, rows, strict=True):
        row[: len(values)] = values
    return torch.from_numpy(table)


def _continuing(tokenizer: Tokenizer, texts: Sequence[str]) -> list[str]:
    """Return the letters that stand within a word, sorted."""
    letters: set[str] = set()
    for word in {word for text in texts for word in text.split()}:
        for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(
            tokenizer.normalizer.normalize_str(word)
        ):
            letters.update(piece[1:])
    return sorted(letters)


def _millimetres(text: str) -> str:
    """Write every length in millimetres: one spelling a size."""
    return _CENTIMETRES.sub(lambda m: f"{round(10 * float(m[1].replace(',', '.')))} mm", text)


@text_networks.register("sentences")
def build(config: TextEncoderConfig, folder: Path | None) -> TextEncoder:
    """Build the network; the tokeniser is read from a checkpoint's folder."""
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE)) if folder else None
    return SentenceNetwork(config.width, config.depth, config.max_tokens, tokenizer)
