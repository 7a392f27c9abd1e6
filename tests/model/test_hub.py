"""Against a Hub on this machine, through the Hub's own library."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from medfinder.errors import Incomplete, InputError, MedFinderError, Mismatch, MissingExtra
from medfinder.model import hub as module
from medfinder.model.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from medfinder.model.dual_stream import DualStream
from medfinder.model.encoder import encoders, find_encoder, list_encoders, load_encoder
from medfinder.model.hub import from_pretrained, push_to_hub
from stubs.dual_streams import TEXTS, tiny
from stubs.hub import Hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    from huggingface_hub import constants

    server = Hub()
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setenv("HF_TOKEN", server.token)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tiny(), tmp_path_factory.mktemp("hub") / "c", training={"seed": 1})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def same(a: DualStream, b: DualStream) -> bool:
    return all(x.equal(y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_what_is_pushed_is_what_others_load(hub: Hub, saved: Path) -> None:
    address = push_to_hub(saved, "lab/tiny")
    assert hub.commits["lab/tiny"]["main"] == contents(saved)
    commit = address.rpartition("/")[2]
    assert same(from_pretrained("lab/tiny"), tiny())
    assert same(from_pretrained("lab/tiny", revision=commit), tiny())
    assert same(from_pretrained(f"lab/tiny@{commit}"), tiny())


def test_a_checkpoint_without_a_card_gets_one(hub: Hub, tmp_path: Path) -> None:
    push_to_hub(save_checkpoint(tiny(), tmp_path / "c"), "lab/tiny", private=True)
    assert b"Not a medical device" in hub.commits["lab/tiny"]["main"]["README.md"]
    assert hub.private == {"lab/tiny"}


def test_only_the_checkpoint_s_own_files_travel(hub: Hub, saved: Path, tmp_path: Path) -> None:
    mine = Path(shutil.copytree(saved, tmp_path / "mine"))
    (mine / "notes.txt").write_text("not for others")
    push_to_hub(mine, "lab/tiny")
    assert "notes.txt" not in hub.commits["lab/tiny"]["main"]
    hub.put("lab/tiny", {"pytorch_model.bin": b"a pickle"})
    from_pretrained("lab/tiny")
    assert not any("pytorch_model" in path for _, path in hub.asked)


def test_a_damaged_checkpoint_is_not_pushed(hub: Hub, saved: Path, tmp_path: Path) -> None:
    mine = Path(shutil.copytree(saved, tmp_path / "mine"))
    (mine / "tokenizer.json").write_text("{}")
    with pytest.raises(Mismatch, match=r"The tokenizer.json of .* is damaged"):
        push_to_hub(mine, "lab/tiny")
    assert hub.asked == []


def test_a_repository_is_an_encoder_that_an_index_can_name(hub: Hub, saved: Path) -> None:
    commit = hub.put("lab/tiny", contents(saved))
    encoder = load_encoder("lab/tiny")
    assert encoder.info.where == f"lab/tiny@{commit}"
    assert encoder.info.model_id == load_encoder(str(saved)).info.model_id
    hub.put("lab/tiny", {"README.md": b"changed"})
    asked = len(hub.asked)
    again = load_encoder(encoder.info.where)  # the very commit, from the cache
    assert again.info == encoder.info
    assert len(hub.asked) == asked


def test_what_was_fetched_is_there_without_the_hub(hub: Hub, saved: Path) -> None:
    hub.put("lab/tiny", contents(saved))
    from_pretrained("lab/tiny")
    hub.commits.clear()
    assert same(from_pretrained("lab/tiny", local_files_only=True), tiny())


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("lab/none", InputError, "no folder 'lab/none', and no repository of that name"),
        ("lab/tiny@v9", InputError, "The repository 'lab/tiny' has no revision 'v9'"),
        ("lab/bert", Mismatch, "lab/bert is no checkpoint of MedFinder: its config.json lists no"),
        ("lab/empty", Mismatch, "'lab/empty' is no checkpoint of MedFinder, or a part of one"),
        ("lab/part", Mismatch, "'lab/part' is no checkpoint of MedFinder, or a part of one"),
        ("lab/evil", Mismatch, r"names the file '\.\./\.\./x', which is no plain name"),
        ("nobody", InputError, "neither a folder nor a repository's id"),
        ("lab/a--b", InputError, "'lab/a--b' is no repository's id"),
    ],
)
def test_what_is_wrong_with_a_repository_is_said(
    hub: Hub, saved: Path, name: str, kind: type[MedFinderError], text: str
) -> None:
    hub.put("lab/tiny", contents(saved))
    hub.put("lab/bert", {"config.json": b'{"model_type": "bert"}'})
    hub.put("lab/empty", {"README.md": b""})
    hub.put("lab/part", {"config.json": contents(saved)["config.json"]})
    hub.put("lab/evil", {"config.json": json.dumps({"files": {"../../x": ""}}).encode()})
    with pytest.raises(kind, match=text):
        from_pretrained(name)


def test_a_private_repository_needs_a_sign_in(
    hub: Hub, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.put("lab/tiny", contents(saved))
    hub.private.add("lab/tiny")
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(InputError, match="for a private one sign in: hf auth login"):
        from_pretrained("lab/tiny")
    with pytest.raises(InputError, match=r"refuses 'lab/mine' with status 403. Sign in"):
        push_to_hub(saved, "lab/mine")


def test_a_hub_out_of_reach_is_said(hub: Hub, saved: Path) -> None:
    with pytest.raises(MissingExtra, match="hf download lab/tiny  # it is not in the Hub's cache"):
        from_pretrained("lab/tiny", local_files_only=True)


def test_a_folder_goes_before_a_repository(
    hub: Hub, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(saved, tmp_path / "lab" / "tiny")
    assert same(from_pretrained("lab/tiny"), tiny())
    assert load_encoder("lab/tiny").info.where == str(tmp_path / "lab" / "tiny")
    assert hub.asked == []


def test_a_folder_is_an_encoder(saved: Path) -> None:
    entry = find_encoder(str(saved))
    encoder = load_encoder(str(saved))
    assert entry.info.model_id == encoder.info.model_id
    assert entry.info.where == encoder.info.where == str(saved)
    assert encoder.encode_texts(TEXTS).shape == (len(TEXTS), 16)
    np.testing.assert_array_equal(
        encoder.encode_texts(TEXTS), load_encoder(str(saved)).encode_texts(TEXTS)
    )


@pytest.mark.parametrize("name", ["./nowhere", "/no/where", "~/nowhere", "runs/a/best"])
def test_a_path_that_leads_nowhere_is_no_repository(name: str) -> None:
    with pytest.raises(Incomplete, match="There is no checkpoint at"):
        find_encoder(name)


def test_the_packaged_checkpoint_is_an_encoder_when_it_is_there(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoders, "_entries", dict(encoders._entries))
    encoders._entries.pop("medfinder", None)
    monkeypatch.setattr(module, "FOLDER", saved)
    module.register()
    (info,) = (info for info in list_encoders() if info.name == "medfinder")
    assert info.model_id == read_checkpoint(saved).info().model_id
    assert info.where == ""  # its name leads to it on every machine
    assert load_encoder("medfinder").info == info
    assert same(from_pretrained("medfinder"), load_checkpoint(saved))


def test_without_the_packaged_checkpoint_its_name_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(encoders, "_entries", dict(encoders._entries))
    encoders._entries.pop("medfinder", None)
    monkeypatch.setattr(module, "FOLDER", tmp_path / "none")
    module.register()
    assert "medfinder" not in encoders
    for ask in (load_encoder, from_pretrained):
        with pytest.raises(MissingExtra, match="'medfinder' is not in this installation") as e:
            ask("medfinder")
        assert "\n" not in str(e.value)
