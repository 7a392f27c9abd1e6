"""Index with an encoder of one's own: python examples/bring_your_own_encoder.py STUDIES OUT.

The encoder here is a histogram of HU, which knows the air, fat, tissue and bone of a CT and nothing
of where they lie: a baseline that any trained encoder must beat.
"""

import sys

import numpy as np

from medfinder.embed import Embedder
from medfinder.model.encoder import EncoderInfo
from medfinder.search.build import build_index
from medfinder.search.finder import Finder, open_index
from medfinder.volume.preprocess import PreprocessConfig
from medfinder.volume.read import read_volume


class HistogramEncoder:
    """Volume → the shares of its voxels in 64 bins from -1000 to 1000 HU."""

    info = EncoderInfo(
        name="histogram",
        streams=frozenset({"volume"}),
        dim=64,
        weights="64-bins",
        licence="Apache-2.0",
        source="examples/bring_your_own_encoder.py",
        needs="nothing",
        preprocess=PreprocessConfig(size=(64, 64, 64), windows_hu=((-1000.0, 1000.0),)),
    )

    def encode_volumes(self, batch):
        """Encode (B, 1, D, H, W) float32 in 0..1 -> (B, 64)."""
        counts = [np.histogram(volume, bins=64, range=(0, 1))[0] for volume in batch]
        return np.sqrt(np.array(counts, np.float32))


def main(studies: str, out: str) -> None:
    """Build the index and look for the first study's neighbours."""
    embedder = Embedder(HistogramEncoder())
    build_index(studies, out, embedder, text_encoder=None)
    finder = Finder(open_index(out).index, {"volume": embedder})
    first = finder.index.studies(finder.index.ids()[:1])[0]
    for hit in finder.search(volume=read_volume(first.volume_path), k=3):
        print(hit)


if __name__ == "__main__":
    main(*sys.argv[1:])
