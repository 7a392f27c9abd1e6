"""A joint encoder whose right answers are known: no weights, no torch, deterministic.

A volume is its eight octants' brightness; a text is the octants that its words name, so that
"superior left" lies nearest to volumes that are bright there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from medfinder.model.encoder import EncoderInfo
from medfinder.volume.preprocess import PreprocessConfig

WORDS = (("inferior", "superior"), ("posterior", "anterior"), ("left", "right"))
INFO = EncoderInfo(
    name="octants",
    streams=frozenset({"volume", "text"}),
    dim=8,
    weights="none",
    licence="Apache-2.0",
    source="tests/stubs/octants.py",
    needs="nothing",
    preprocess=PreprocessConfig(size=(2, 2, 2), windows_hu=((-1000.0, 1000.0),)),
    n_regions=(2, 2, 2),
)


@dataclass
class OctantEncoder:
    """Encodes where a volume is bright, and where a text says that it is."""

    info: EncoderInfo = field(default_factory=lambda: INFO)

    def encode_volumes(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return batch.reshape(len(batch), 8).astype(np.float32)

    def region_features(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
        octants = self.encode_volumes(batch)
        return (octants[:, :, None] * np.eye(8)).astype(np.float16)

    def pool_regions(self, regions: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
        return regions.sum(1, dtype=np.float32)

    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        vectors = np.ones((len(texts), 2, 2, 2), np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            for axis, words in enumerate(WORDS):
                named = [word in text for word in words]
                if any(named):
                    shape = [1, 1, 1]
                    shape[axis] = 2
                    vector *= np.reshape(named, shape)
        return vectors.reshape(len(texts), 8)
