"""MarianMT at random weights in the published layout, its sentencepiece files written here."""

import json
import struct
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from medfinder.errors import InputError, MissingExtra  # noqa: E402
from medfinder.model.marian import Marian, read_pieces  # noqa: E402
from medfinder.report.translate import Translator, translate_all, translator  # noqa: E402

PIECES = [
    ("<unk>", 0.0, 2),
    ("<s>", 0.0, 3),
    ("</s>", 0.0, 3),
    ("\u2581derrame", -1.0, 1),
    ("\u2581pleural", -1.5, 1),
    ("\u2581de", -2.0, 1),
    ("\u2581pleur", -3.0, 1),
    ("al", -3.5, 1),
    ("\u2581", -4.0, 1),
    (".", -4.0, 1),
    *((letter, -6.0, 1) for letter in "abcdefghijklmnopqrstuvwxyz0123456789"),
]


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def model_proto(pieces: list[tuple[str, float, int]]) -> bytes:
    """Write a sentencepiece ModelProto: pieces, a trainer_spec to be skipped, a normalizer_spec."""
    out = b""
    for piece, score, kind in pieces:
        text = piece.encode()
        entry = b"\x0a" + varint(len(text)) + text + b"\x15" + struct.pack("<f", score)
        entry += b"\x18" + varint(kind)
        out += b"\x0a" + varint(len(entry)) + entry
    trainer = b"\x18\x01"
    out += b"\x12" + varint(len(trainer)) + trainer
    normalizer = b"\x0a\x08identity"
    return out + b"\x1a" + varint(len(normalizer)) + normalizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import MarianConfig, MarianMTModel

    path = tmp_path_factory.mktemp("opus-mt-es-en")
    vocabulary = ["</s>", "<unk>", *(p for p, _, kind in PIECES if kind == 1), "<pad>"]
    pad = len(vocabulary) - 1
    config = MarianConfig(
        vocab_size=len(vocabulary),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=64,
        pad_token_id=pad,
        eos_token_id=0,
        decoder_start_token_id=pad,
        forced_eos_token_id=0,
    )
    torch.manual_seed(0)
    model = MarianMTModel(config)
    model.save_pretrained(path)
    (path / "vocab.json").write_text(json.dumps({p: i for i, p in enumerate(vocabulary)}))
    for name in ("source.spm", "target.spm"):
        (path / name).write_bytes(model_proto(PIECES))
    return path


def test_every_text_gets_its_english(folder: Path) -> None:
    texts = ["derrame pleural .", "nodulo de 5 mm . derrame .", "a\nb"]
    made = dict(Marian(str(folder)).translate(texts))
    assert set(made) == {0, 1, 2}
    assert all(isinstance(text, str) for text in made.values())


def test_a_batch_gives_what_one_by_one_gives(folder: Path) -> None:
    texts = ["derrame pleural de 5 mm .", "nodulo .", "derrame de pleura . nodulo de 12 mm ."]
    together = dict(Marian(str(folder), batch=16).translate(texts))
    alone = {k: dict(Marian(str(folder), batch=1).translate([t]))[0] for k, t in enumerate(texts)}
    assert together == alone


def test_the_same_text_gets_the_same_english(folder: Path) -> None:
    made_by = Marian(str(folder))
    assert dict(made_by.translate(["derrame ."])) == dict(made_by.translate(["derrame ."]))


def test_a_sentence_longer_than_the_network_is_cut(folder: Path) -> None:
    ((_, made),) = Marian(str(folder)).translate(["derrame pleural " * 200])
    assert isinstance(made, str)


def test_lines_stay_lines(folder: Path) -> None:
    ((_, made),) = Marian(str(folder)).translate(["derrame pleural .\nnodulo ."])
    assert isinstance(made, str)
    assert made.count("\n") == 1


def test_what_random_weights_say_is_queued_and_not_passed_on(folder: Path, tmp_path: Path) -> None:
    items = [("a", "derrame pleural derecho de 12 mm .")]
    (made,) = translate_all(items, Marian(str(folder)), tmp_path / "c")
    assert made.text is None
    assert made.problems


def test_other_weights_have_another_name(folder: Path, tmp_path: Path) -> None:
    from transformers import MarianMTModel

    other = tmp_path / "other"
    model = MarianMTModel.from_pretrained(folder)
    with torch.no_grad():
        model.final_logits_bias += 1.0
    model.save_pretrained(other)
    for name in ("vocab.json", "source.spm", "target.spm"):
        (other / name).write_bytes((folder / name).read_bytes())
    assert Marian(str(other)).name != Marian(str(folder)).name
    assert Marian(str(folder)).name == Marian(str(folder)).name


def test_it_is_a_translator_by_name(folder: Path) -> None:
    assert isinstance(translator("marian", model=str(folder)), Translator)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("derrame pleural.", ["\u2581derrame", "\u2581pleural", "."]),
        ("  derrame   de ", ["\u2581derrame", "\u2581de"]),
        ("de pleur", ["\u2581de", "\u2581pleur"]),
    ],
)
def test_pieces_are_cut_by_their_scores(text: str, pieces: list[str]) -> None:
    assert read_pieces(model_proto(PIECES)).encode(text).tokens == pieces


@pytest.mark.parametrize(
    "data", [b"", b"\xff" * 40, b"<html>", model_proto(PIECES)[:-3], b"\x0a\x05ab"]
)
def test_a_damaged_sentencepiece_file_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="sentencepiece"):
        read_pieces(data)


def test_a_folder_without_its_files_names_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is no MarianMT model - expected config.json") as caught:
        Marian(str(tmp_path))
    assert caught.value.rule == "translator"


def test_damaged_weights_are_named(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "source.spm").write_bytes(b"\xff" * 20)
    with pytest.raises(InputError, match="cannot be read - ValueError"):
        Marian(str(tmp_path))


def test_a_model_that_is_nowhere_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MissingExtra, match="neither a folder nor in the Hugging Face cache"):
        Marian("nobody/opus-mt-xx-yy")
