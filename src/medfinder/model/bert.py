"""A BERT whose sizes are read off its published tensors, and the word pieces of its texts.

The published BERTs that are read this way (PubMedBERT in BiomedCLIP, CXR-BERT in COLIPRI, MiniLM)
have 12 attention heads, which no tensor tells.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from medfinder.errors import Mismatch
from medfinder.model.published import n_layers, shape_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers.models.bert import BertModel

N_HEADS = 12


def bert_for(tensors: Mapping[str, Tensor], name: str) -> "BertModel":
    """Build a BERT without pooling layer of the tensors' sizes, with random weights.

    Args:
        tensors: By their names within the BERT: ``embeddings.…``, ``encoder.layer.…``.
        name: Of the encoder, for messages.

    Raises:
        Mismatch: A tensor that tells a size is missing.
    """
    from transformers.models.bert import BertConfig, BertModel

    words, width = shape_of(tensors, "embeddings.word_embeddings.weight", 2, name)
    places, _ = shape_of(tensors, "embeddings.position_embeddings.weight", 2, name)
    types, _ = shape_of(tensors, "embeddings.token_type_embeddings.weight", 2, name)
    inner, _ = shape_of(tensors, "encoder.layer.0.intermediate.dense.weight", 2, name)
    config = BertConfig(
        vocab_size=words,
        hidden_size=width,
        num_hidden_layers=n_layers(tensors, "encoder.layer."),
        num_attention_heads=N_HEADS,
        intermediate_size=inner,
        max_position_embeddings=places,
        type_vocab_size=types,
    )
    return BertModel(config, add_pooling_layer=False)


def read_word_pieces(file: Path) -> "Tokenizer":
    """Read ``tokenizer.json``, or the ``vocab.txt`` of an uncased BERT.

    With ``vocab.txt``, ``do_lower_case`` of a ``tokenizer_config.json`` beside it is honoured.

    Raises:
        Mismatch: The file is damaged.
    """
    from tokenizers import Tokenizer
    from tokenizers.implementations.bert_wordpiece import BertWordPieceTokenizer

    try:
        if file.suffix == ".json":
            return Tokenizer.from_file(str(file))
        settings: dict[str, Any] = {}
        beside = file.with_name("tokenizer_config.json")
        if beside.is_file():
            settings = json.loads(beside.read_text(encoding="utf-8"))
        pieces = BertWordPieceTokenizer(
            str(file), lowercase=bool(settings.get("do_lower_case", True))
        )
        return Tokenizer.from_str(pieces.to_str())
    except Exception as error:  # the library raises plain Exception
        raise Mismatch(
            f"The tokeniser in {file.name} cannot be read ({type(error).__name__}). Get it again."
        ) from None


def prepare(tokenizer: "Tokenizer", max_tokens: int, n_words: int, pad_id: int = 0) -> None:
    """Let a tokeniser cut texts to `max_tokens`, ends included, and pad a batch to its longest.

    Args:
        n_words: Rows of the network's word embeddings.

    Raises:
        Mismatch: The tokeniser knows more word pieces than the network.
    """
    if tokenizer.get_vocab_size() > n_words:
        raise Mismatch(
            f"The tokeniser has {tokenizer.get_vocab_size()} word pieces, its network {n_words}: "
            "they belong to two models. Get both from one."
        )
    tokenizer.enable_truncation(max_tokens)
    tokenizer.enable_padding(pad_id=pad_id, pad_token=tokenizer.id_to_token(pad_id) or "[PAD]")


def batch_ids(tokenizer: "Tokenizer", texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return token ids and mask, both (B, T) int64; T is the longest text's after cutting."""
    coded = tokenizer.encode_batch(list(texts))
    return (
        torch.tensor([e.ids for e in coded], dtype=torch.long),
        torch.tensor([e.attention_mask for e in coded], dtype=torch.long),
    )
