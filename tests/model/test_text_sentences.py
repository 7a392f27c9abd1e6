"""Sentences in, one sum out: what is kept between calls changes nothing."""

import pytest
import torch

from medfinder.model import text_sentences
from medfinder.model.text_sentences import SentenceNetwork

TEXTS = (
    "Left pleural effusion. No pneumothorax.",
    "Solid nodule of 1.2 cm in the right upper lobe. The heart is of normal size. No adenopathy.",
    "No pneumothorax.",
)


@pytest.fixture
def network() -> SentenceNetwork:
    torch.manual_seed(0)
    made = SentenceNetwork(width=32, depth=1, max_tokens=64)
    made.fit_tokenizer(TEXTS)
    return made.eval()


def test_a_sentence_that_several_texts_share_is_read_once(network: SentenceNetwork) -> None:
    tokens = network.tokenize(TEXTS)
    assert tokens["ids"].shape[0] == 5
    assert tokens["sentence"].tolist() == [[0, 1, -1], [2, 3, 4], [1, -1, -1]]


def test_sentences_met_before_are_tokenised_as_at_first(network: SentenceNetwork) -> None:
    first = network.tokenize(TEXTS)
    again = network.tokenize(TEXTS)
    for name in first:
        assert torch.equal(first[name], again[name])


def test_no_more_sentences_are_kept_than_there_is_room_for(
    network: SentenceNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = network.tokenize(TEXTS)
    network.codes.clear()
    monkeypatch.setattr(text_sentences, "MANY_CODES", 3)
    for text in TEXTS:
        network.tokenize([text])
    assert len(network.codes) <= 3
    assert torch.equal(network.tokenize(TEXTS)["ids"], whole["ids"])


def test_another_tokeniser_forgets_what_the_last_one_read(network: SentenceNetwork) -> None:
    network.tokenize(TEXTS)
    network.fit_tokenizer(["Quite other words, in other reports. Other words."] * 3)
    assert not network.codes


def test_sentences_read_in_groups_of_like_length_are_those_read_at_once(
    network: SentenceNetwork,
) -> None:
    ids = network.tokenize(TEXTS)["ids"]
    with torch.no_grad():
        torch.testing.assert_close(network.encode_sentences(ids), network._read(ids))


def test_a_text_longer_than_is_read_keeps_whole_sentences(network: SentenceNetwork) -> None:
    network.max_tokens = 8
    tokens = network.tokenize([TEXTS[1]])
    n = int((tokens["sentence"] >= 0).sum())
    assert 1 <= n < 3
    assert int((tokens["ids"][:n] > 0).sum()) <= max(8, int((tokens["ids"][0] > 0).sum()))
