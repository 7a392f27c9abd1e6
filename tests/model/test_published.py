from pathlib import Path

import pytest
import torch

from medfinder.errors import Mismatch
from medfinder.model.published import n_layers, read_tensors, shape_of
from stubs import published


def test_half_precision_is_read_as_float32(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(2, dtype=torch.float16), "n": torch.ones(2, dtype=torch.int64)}
    file = published.write_tensors(tmp_path / "model.safetensors", tensors)
    read = read_tensors(file, "x")
    assert (read["a"].dtype, read["n"].dtype) == (torch.float32, torch.int64)


def test_tensors_under_state_dict_are_unwrapped(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(2)}, "epoch": 3}, tmp_path / "model.bin")
    assert read_tensors(tmp_path / "model.bin", "x").keys() == {"a"}


@pytest.mark.parametrize("name", ["model.safetensors", "model.bin"])
def test_a_damaged_file_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"damaged" * 10)
    with pytest.raises(Mismatch, match=rf"weights of x in {name} cannot be read \(\w+\): the file"):
        read_tensors(tmp_path / name, "x")


def test_a_file_with_code_in_it_is_not_run(tmp_path: Path) -> None:
    torch.save({"a": Path("x")}, tmp_path / "model.bin")
    with pytest.raises(Mismatch, match="cannot be read"):
        read_tensors(tmp_path / "model.bin", "x")


def test_a_file_without_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "model.bin")
    with pytest.raises(Mismatch, match=r"The file model.bin of x holds no tensors by name"):
        read_tensors(tmp_path / "model.bin", "x")


def test_a_size_is_not_read_off_a_tensor_of_other_axes() -> None:
    with pytest.raises(Mismatch, match=r"w is \(3,\), expected 2 axes"):
        shape_of({"w": torch.zeros(3)}, "w", 2, "x")


def test_a_layer_that_is_missing_in_between_is_counted() -> None:
    assert n_layers({k: torch.zeros(1) for k in ("b.0.w", "b.2.w", "c.7.w")}, "b.") == 3
    assert n_layers({}, "b.") == 0
