"""What an encoder is, what it declares, and the table of those that a user can name.

Listing costs nothing: an entry holds plain facts and a function that loads. Only that function
imports torch and touches weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from medfinder.config import config_hash
from medfinder.registry import Registry
from medfinder.volume.preprocess import PreprocessConfig

Stream = Literal["volume", "text"]


@dataclass(frozen=True)
class EncoderInfo:
    """What an encoder declares, known before anything is loaded.

    Attributes:
        name: The name a user types.
        streams: What it takes; both mean one joint space, in which text finds volumes.
        dim: Length of its vectors.
        weights: Identifies the weights, such as the first digits of their SHA-256; changes
            whenever the same input may give another vector.
        licence: Of the weights.
        source: Where they come from, with version.
        needs: One line: the command that brings the weights.
        preprocess: Input contract of the volume stream; None for text alone.
        n_regions: Region features a volume has, in (D, H, W) order; None for none.
        region_dim: Length of a region's features; None where it is `dim`.
        where: What `load_encoder` takes to load it again, where its name alone does not: a
            checkpoint's folder, or a repository of the Hub.
        languages: That its text stream was trained to read, such as "en"; empty where not declared.
    """

    name: str
    streams: frozenset[Stream]
    dim: int
    weights: str
    licence: str
    source: str
    needs: str
    preprocess: PreprocessConfig | None = None
    n_regions: tuple[int, int, int] | None = None
    region_dim: int | None = None
    where: str = ""
    languages: tuple[str, ...] = ()

    @property
    def model_id(self) -> str:
        """``name@weights``, plus the hash of the preprocessing where volumes are taken.

        Vectors are comparable exactly when their model_id is equal.
        """
        parts = [f"{self.name}@{self.weights}"]
        if self.preprocess is not None:
            parts.append(config_hash(self.preprocess))
        return "+".join(parts)


class Encoder(Protocol):
    """A loaded encoder. It has the methods of the streams that its info names.

    Vectors are not normalised: `medfinder.embed.Embedder` does that, and checks them.
    """

    info: EncoderInfo

    def encode_volumes(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Encode volumes preprocessed as `EncoderInfo.preprocess` says, (B, C, D, H, W) -> (B, dim)."""
        ...

    def region_features(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
        """Encode volumes, keeping one vector a region: (B, C, D, H, W) -> (B, n_regions, F).

        Regions lie in C order of `EncoderInfo.n_regions`.
        """
        ...

    def pool_regions(self, regions: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
        """Turn region features into vectors, (B, n_regions, F) -> (B, dim)."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Encode texts of any length, -> (B, dim)."""
        ...


@dataclass(frozen=True)
class EncoderEntry:
    """A row of the registry.

    Attributes:
        info: What the encoder declares.
        load: Reads the weights and returns the encoder; raises MissingExtra where it cannot.
        network: Reads the weights and returns the plain volume network for gradients, a
            `torch.nn.Module` of float32 (B, C, D, H, W) -> (B, region_dim, *n_regions), beside the
            info of what was read; None where there is none.
    """

    info: EncoderInfo
    load: Callable[..., Any]
    network: Callable[[], tuple[Any, EncoderInfo]] | None = None


encoders: Registry[EncoderEntry] = Registry("encoder")


def list_encoders() -> list[EncoderInfo]:
    """Return what every known encoder declares, by name; imports no torch, reads no weights."""
    return [encoders.get(name).info for name in encoders]


def find_encoder(name: str) -> EncoderEntry:
    """Return what a name stands for; imports no torch, reads no weights.

    Args:
        name: Of an encoder; a checkpoint's folder; or a repository of the Hub that holds one,
            ``owner/name`` or ``owner/name@revision``, which is fetched unless it is in the cache.

    Raises:
        UnknownName: It stands for nothing; the message lists the encoders.
        MissingExtra: The repository is neither in the cache nor within reach.
        InputError: There is no such repository.
        ArtifactError, ConfigError: The folder or repository is no checkpoint, or a damaged one.
    """
    if name in encoders:
        return encoders.get(name)
    from medfinder.model import hub

    return hub.entry(name) or encoders.get(name)


def load_encoder(name: str) -> Encoder:
    """Load an encoder with its weights.

    Args:
        name: See `find_encoder`.

    Raises:
        UnknownName: No encoder has this name; the message lists those that exist.
        MissingExtra: Its weights or packages are not installed; the text is the pip command.
        Mismatch: The weights are there, but are not those that MedFinder was tested with, or a
            checkpoint's are not its own.
        InputError, ArtifactError, ConfigError: See `find_encoder`.
    """
    encoder: Encoder = find_encoder(name).load()
    return encoder
