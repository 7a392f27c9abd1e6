"""Spanish reports → English by MarianMT, such as the published opus-mt-es-en.

Reads the published layout: ``config.json``, weights, ``vocab.json``, ``source.spm`` and
``target.spm``. The sentencepiece models are read here and cut into pieces by the tokenizers library,
so sentencepiece itself is not needed. Reports are cut into sentences and sentences into batches of
like length; nothing leaves this machine.

Proved on random weights in that layout; what the published weights make of radiology is not.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from medfinder.errors import InputError, MissingExtra
from medfinder.model.published import cached_folder
from medfinder.report.clean import clean
from medfinder.report.sentences import sentences
from medfinder.report.translate import Failed, Price, translators

MODEL = "Helsinki-NLP/opus-mt-es-en"
FILES = ("config.json", "vocab.json", "source.spm", "target.spm")
_LONE_POINT = re.compile(r"\s\.(?=\s|$)")
_SPACE = "\u2581"  # stands for a space in sentencepiece's pieces


class Marian:
    """The translator that is a neural network on this machine.

    Args:
        model: A folder in the published layout, or a Hub id that is in the cache.
        batch: Sentences at once.
        max_tokens: Longest sentence in pieces; what is longer is cut at a space.

    Raises:
        InputError: Not such a folder, or a file of it cannot be read.
        MissingExtra: The libraries are not installed, or the Hub id is not in the cache.
    """

    def __init__(self, model: str = MODEL, *, batch: int = 16, max_tokens: int = 400) -> None:
        try:
            from transformers import MarianMTModel
        except ImportError:
            raise MissingExtra("MarianMT needs transformers: pip install transformers") from None
        folder = Path(model) if Path(model).is_dir() else cached_folder(model)
        if folder is None:
            raise MissingExtra(
                f"The MarianMT model {model!r} is neither a folder nor in the Hugging Face cache: "
                f"hf download {MODEL}"
            )
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            raise InputError(
                f"The folder {model!r} is no MarianMT model - expected {', '.join(FILES)} and weights, "
                f"{', '.join(missing)} is missing - give the folder of opus-mt-es-en.",
                rule="translator",
            )
        try:
            self._ids: dict[str, int] = json.loads((folder / "vocab.json").read_text("utf-8"))
            self._pieces = {number: piece for piece, number in self._ids.items()}
            self._cut = read_pieces((folder / "source.spm").read_bytes())
            network: Any = MarianMTModel
            self._network = network.from_pretrained(folder).eval()
        except (ValueError, OSError, KeyError, IndexError, RuntimeError) as error:
            raise InputError(
                f"The MarianMT model in {model!r} cannot be read - {type(error).__name__}: "
                f"{str(error)[:200]} - fetch it again.",
                rule="translator",
            ) from None
        config = self._network.config
        self._unknown = self._ids.get("<unk>", 1)
        self._end, self._pad = int(config.eos_token_id), int(config.pad_token_id)
        self._batch = batch
        places = int(getattr(config, "max_position_embeddings", 512))
        # The English may have twice as many pieces, and there are places for no more.
        self._max_tokens = max(4, min(max_tokens, places // 2 - 6))
        digest = hashlib.sha256()
        for name in FILES:
            digest.update((folder / name).read_bytes())
        digest.update(_fingerprint(self._network))
        self.name = f"marian {digest.hexdigest()[:12]}"

    def translate(
        self, texts: Sequence[str], hints: Sequence[str] = ()
    ) -> Iterator[tuple[int, str | Failed]]:
        """Yield each text's English, in order. Hints are ignored: it has one answer."""
        del hints
        cut = [self._sentences(text) for text in texts]
        every = sorted({s for lines in cut for line in lines for s in line}, key=len)
        made: dict[str, str] = {}
        for k in range(0, len(every), self._batch):
            some = every[k : k + self._batch]
            made.update(zip(some, self._english(some), strict=True))
        for position, lines in enumerate(cut):
            yield position, "\n".join(" ".join(made[s] for s in line) for line in lines)

    def price(self, texts: Sequence[str]) -> Price | None:
        """Return None: it costs time alone."""
        del texts
        return None

    def _sentences(self, text: str) -> list[list[str]]:
        """Cut a text into lines of sentences, each short enough for the network."""
        joint = "\n" if "\n" in text.strip() else " "
        whole = clean(_LONE_POINT.sub(".\n", text))
        lines = []
        for line in whole.split("\n"):
            spans = sentences(line)
            lines.append([part for a, b in spans for part in self._short(line[a:b])])
        return lines if joint == "\n" else [[s for line in lines for s in line]]

    def _short(self, sentence: str) -> list[str]:
        if len(self._cut.encode(sentence).ids) < self._max_tokens:
            return [sentence]
        words = sentence.split(" ")
        if len(words) == 1:
            return [sentence[: self._max_tokens]]
        half = len(words) // 2
        return [*self._short(" ".join(words[:half])), *self._short(" ".join(words[half:]))]

    def _english(self, texts: Sequence[str]) -> list[str]:
        rows = [
            [self._ids.get(piece, self._unknown) for piece in self._cut.encode(text).tokens]
            + [self._end]
            for text in texts
        ]
        longest = max(len(row) for row in rows)
        ids = torch.tensor([row + [self._pad] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        with torch.inference_mode():
            made = self._network.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=_most(longest),
            )
        # Each sentence ends where it would alone, whatever longer ones are beside it.
        return [
            self._text(out[: _most(len(row))]) for row, out in zip(rows, made.tolist(), strict=True)
        ]

    def _text(self, row: Sequence[int]) -> str:
        special = {self._end, self._pad, self._unknown}
        pieces = [self._pieces.get(number, "") for number in row if number not in special]
        return " ".join("".join(pieces).replace(_SPACE, " ").split())


translators.register("marian")(Marian)


def _most(n_pieces: int) -> int:
    """Return the most pieces that a sentence's English may have."""
    return 2 * n_pieces + 8


def _fingerprint(network: Any) -> bytes:
    """Return a few bytes that change with the weights: other weights translate otherwise."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        flat = tensor.detach().reshape(-1).float()
        digest.update(name.encode())
        digest.update(flat[:: max(1, flat.numel() // 64)].numpy().tobytes())
    return digest.digest()


# ------------------------------------------------------------------------- sentencepiece's file
def read_pieces(data: bytes) -> Any:
    """Return a tokenizer that cuts text as a sentencepiece unigram model does.

    Args:
        data: A ``.spm`` file: sentencepiece's ModelProto.

    Raises:
        ValueError: It is no such file.

    Source:
        sentencepiece_model.proto: pieces are field 1 (piece 1, score 2, type 3), the normalizer is
        field 3 (precompiled_charsmap 2, add_dummy_prefix 3).
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    pieces: list[tuple[str, float]] = []
    unknown = 0
    charsmap = b""
    for field, value in _fields(data):
        if field == 1 and isinstance(value, bytes):
            piece, score, kind = "", 0.0, 1
            for inner, what in _fields(value):
                if inner == 1 and isinstance(what, bytes):
                    piece = what.decode("utf-8")
                elif inner == 2 and isinstance(what, float):
                    score = what
                elif inner == 3 and isinstance(what, int):
                    kind = what
            if kind == 2:
                unknown = len(pieces)
            pieces.append((piece, score))
        elif field == 3 and isinstance(value, bytes):
            charsmap = next((w for f, w in _fields(value) if f == 2 and isinstance(w, bytes)), b"")
    if not pieces:
        raise ValueError("the sentencepiece file holds no pieces")
    tokenizer: Any = Tokenizer(models.Unigram(pieces, unknown, False))
    steps: list[Any] = [normalizers.Precompiled(charsmap)] if charsmap else []
    steps += [normalizers.Strip(), normalizers.Replace(Regex(r"\s+"), " ")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, prepend_scheme="always", split=False)
    return tokenizer


def _fields(data: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """Yield number and value of each field of a protocol buffer.

    Raises:
        ValueError: The bytes are no protocol buffer, or end within a field.
    """
    import struct

    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        value: int | float | bytes
        if kind == 0:
            value, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            if at + size > len(data):
                raise ValueError("the sentencepiece file ends within a number")
            value = struct.unpack_from("<d" if kind == 1 else "<f", data, at)[0]
            at += size
        elif kind == 2:
            size, at = _varint(data, at)
            if at + size > len(data):
                raise ValueError("the sentencepiece file ends within a piece")
            value, at = data[at : at + size], at + size
        else:
            raise ValueError("the file is no sentencepiece model")
        yield tag >> 3, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("the sentencepiece file ends within a number")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
