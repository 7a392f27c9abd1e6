import json
from pathlib import Path

import pytest
import torch

from medfinder.errors import Mismatch
from medfinder.model.bert import batch_ids, bert_for, prepare, read_word_pieces
from stubs import published


def test_sizes_are_read_off_the_tensors() -> None:
    config = bert_for(published.patterned(published.bert(width=36, depth=3, inner=60)), "x").config
    sizes = (config.hidden_size, config.num_hidden_layers, config.intermediate_size)
    assert sizes == (36, 3, 60)
    assert (config.vocab_size, config.max_position_embeddings) == (len(published.WORDS), 512)


def test_both_files_of_a_tokeniser_give_the_same_tokens(tmp_path: Path) -> None:
    texts = ["Small LEFT nodules, unknown", "normal"]
    coded = []
    for file in (published.write_tokenizer(tmp_path), published.write_vocabulary(tmp_path)):
        tokenizer = read_word_pieces(file)
        prepare(tokenizer, 8, len(published.WORDS))
        coded.append(batch_ids(tokenizer, texts))
    torch.testing.assert_close(coded[0], coded[1])
    words = [published.WORDS[i] for i in coded[0][0][0]]
    assert words == ["[CLS]", "small", "left", "nodule", "##s", ",", "[UNK]", "[SEP]"]
    assert coded[0][1].tolist() == [[1] * 8, [1, 1, 1] + [0] * 5]


def test_a_cased_vocabulary_is_left_cased(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    tokenizer = read_word_pieces(published.write_vocabulary(tmp_path))
    assert tokenizer.encode("LEFT left").tokens == ["[CLS]", "[UNK]", "left", "[SEP]"]


def test_a_damaged_tokeniser_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(Mismatch, match=r"The tokeniser in tokenizer.json cannot be read"):
        read_word_pieces(tmp_path / "tokenizer.json")


def test_a_tokeniser_of_another_network_is_refused(tmp_path: Path) -> None:
    tokenizer = read_word_pieces(published.write_vocabulary(tmp_path))
    n = len(published.WORDS)
    with pytest.raises(Mismatch, match=f"tokeniser has {n} word pieces, its network {n - 1}"):
        prepare(tokenizer, 8, n - 1)
