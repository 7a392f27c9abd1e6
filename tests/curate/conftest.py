from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medfinder.volume.nifti import write_nifti
from medfinder.volume.volume import Volume


def body(seed: int = 0, n_slices: int = 24, size: int = 40) -> Volume:
    """An ellipse of tissue with two lungs in air: enough to pass for a CT; another seed, another build."""
    rng = np.random.default_rng(seed)
    width, height = rng.uniform(0.75, 0.95), rng.uniform(0.6, 0.8)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    hu = np.full((n_slices, size, size), -1000.0)
    hu[:, (x / width) ** 2 + (y / height) ** 2 < 1] = 40
    for side in (-0.4, 0.4):
        hu[4:-4, ((x - side) / 0.3) ** 2 + (y / 0.5) ** 2 < 1] = -850
    hu[:, (x / 0.12) ** 2 + ((y + 0.5) / 0.12) ** 2 < 1] = 500
    hu += rng.normal(0, 15, hu.shape)
    affine = np.array([[0, 0, 4.0, -80], [0, 4.0, 0, -80], [5.0, 0, 0, 0], [0, 0, 0, 1.0]])
    return Volume(np.clip(hu, -1024, 3000).astype(np.int16), affine)


@pytest.fixture
def archive(tmp_path: Path) -> Callable[..., Path]:
    """Return a maker of a folder of NIfTI files: name → seed."""

    def make(**seeds: int) -> Path:
        root = tmp_path / "raw"
        root.mkdir(exist_ok=True)
        for name, seed in seeds.items():
            write_nifti(body(seed), root / f"{name}.nii.gz")
        return root

    return make
