"""Region features of the phantom benchmark's splits, kept by the model that made them."""

import hashlib
import time
from pathlib import Path

import numpy as np
import phantom_pools as pools
from numpy.typing import NDArray

from medfinder.embed import Embedder
from medfinder.phantom.splits import BenchmarkSplit

BATCH = 4


def region_features(
    embedder: Embedder, data: pools.Data, split: BenchmarkSplit, folder: Path
) -> NDArray[np.float16]:
    """Return (N, regions, F) of a split's volumes; what another run kept is not made again."""
    pool = data.pool(split)
    asked = [embedder.model_id, split, str(pool.volumes.shape), data.seed]
    place = folder / hashlib.sha256(repr(asked).encode()).hexdigest()[:16]
    path = place.with_suffix(".npy")
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        start, n = time.perf_counter(), len(pool.studies)
        encode = embedder.encoder.region_features
        made = [encode(pool.volumes[i : i + BATCH]) for i in range(0, n, BATCH)]
        print(f"{split}: {1000 * (time.perf_counter() - start) / n:.0f} ms a volume", flush=True)
        with path.with_suffix(".part").open("wb") as file:
            np.save(file, np.concatenate(made))
        path.with_suffix(".part").replace(path)
    kept: NDArray[np.float16] = np.load(path, mmap_mode="r")
    return kept
