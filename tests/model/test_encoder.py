import subprocess
import sys

import pytest

from medfinder.errors import UnknownName
from medfinder.model.encoder import encoders, list_encoders, load_encoder


def test_the_list_says_what_each_encoder_declares() -> None:
    infos = {info.name: info for info in list_encoders()}
    assert infos["astra"].streams == {"volume"}
    assert infos["astra"].dim == 2048
    assert infos["minilm"].streams == {"text"}
    for info in infos.values():
        assert info.licence
        assert info.source
        assert info.needs.startswith(("pip install", "hf download"))
        assert "\n" not in info.needs
        assert info.weights in info.model_id
        assert info.preprocess is not None or "volume" not in info.streams


def test_listing_imports_no_torch() -> None:
    code = (
        "import sys; from medfinder.model.encoder import list_encoders; list_encoders();"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_encoder_is_named_with_the_known_ones() -> None:
    with pytest.raises(UnknownName, match=r"Unknown encoder 'astro'. Did you mean 'astra'\? Known"):
        load_encoder("astro")


def test_an_entry_is_filed_under_its_own_name() -> None:
    assert all(encoders.get(name).info.name == name for name in encoders)
