"""Encoders that are small, deterministic and really computed: for tests of what uses encoders."""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from medfinder.model.encoder import EncoderInfo
from medfinder.volume.preprocess import PreprocessConfig


class GridEncoder:
    """Volumes → their 4³ block means; a text → the mean of places that its words stand for.

    Small, deterministic and really computed; `joint` gives it both streams in one space.
    """

    def __init__(self, joint: bool = False, weights: str = "1") -> None:
        self.info = EncoderInfo(
            name="grid",
            streams=frozenset({"volume", "text"} if joint else {"volume"}),
            dim=64,
            weights=weights,
            licence="Apache-2.0",
            source="tests",
            needs="nothing",
            preprocess=PreprocessConfig(size=(4, 4, 4), windows_hu=((-1000.0, 1000.0),)),
            n_regions=(4, 4, 4),
            region_dim=1,
        )
        self.n_encoded = 0

    def encode_volumes(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        self.n_encoded += len(batch)
        return batch.reshape(len(batch), 64) + np.float32(1e-3)

    def region_features(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
        self.n_encoded += len(batch)
        return batch.reshape(len(batch), 64, 1).astype(np.float16) + np.float16(1e-3)

    def pool_regions(self, regions: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
        return regions[..., 0].astype(np.float32)

    def contributions(
        self, regions: npt.NDArray[np.float16], texts: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        # Region r is the vector's number r, and nothing else.
        vectors = regions[..., 0].astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors[:, None, :] * texts[None]

    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        # "dense left" is the place of dense voxels on the left: w grows to the right.
        rows = []
        for text in texts:
            grid = np.full((4, 4, 4), 0.2, np.float32)
            if "left" in text:
                grid[:, :, :2] = 1
            if "right" in text:
                grid[:, :, 2:] = 1
            rows.append(grid.ravel())
        return np.stack(rows)


class WordEncoder:
    """Texts → hashed bags of words: enough for "the same words are near"."""

    def __init__(self) -> None:
        self.info = EncoderInfo(
            name="words",
            streams=frozenset({"text"}),
            dim=64,
            weights="1",
            licence="Apache-2.0",
            source="tests",
            needs="nothing",
        )

    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        rows = np.full((len(texts), 64), 1e-3, np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.lower().replace(".", " ").split():
                row[int(hashlib.md5(word.encode()).hexdigest(), 16) % 64] += 1
        return rows
