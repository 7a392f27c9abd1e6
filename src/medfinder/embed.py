"""Volumes or text -> L2-normalised vectors. There is no other way from one to the other.

Training's validation, the index, the benchmark, the command line and the server all call `Embedder`,
so that what is claimed is what runs. It knows nothing of files: volumes come in as `Volume`, or as a
function that reads one.
"""

import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from medfinder.errors import ConfigError, InputError, Mismatch
from medfinder.model.encoder import Encoder, EncoderInfo, Stream, load_encoder
from medfinder.volume.preprocess import PreprocessConfig, preprocess
from medfinder.volume.volume import Volume

if TYPE_CHECKING:
    from medfinder.volume.cache import PreprocessCache

N_AHEAD = 2  # volumes preprocessed ahead of the encoder: 32 MB each for astra

Vector = npt.NDArray[np.float32]
VolumeSource = Volume | Callable[[], Volume]
OnError = Callable[[str, InputError], None]


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Vectors with their ids and the model that made them.

    Attributes:
        ids: One for each row, in order.
        vectors: (N, dim) float32, each row of length 1.
        model_id: `EncoderInfo.model_id` of the encoder.
    """

    ids: tuple[str, ...]
    vectors: npt.NDArray[np.float32]
    model_id: str

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or len(self.ids) != len(self.vectors):
            raise ConfigError(
                f"Embeddings need one row an id, got {len(self.ids)} ids and vectors of shape "
                f"{self.vectors.shape}."
            )

    def __len__(self) -> int:
        return len(self.ids)

    def centred(self, mean: Vector | None = None) -> "Embeddings":
        """Subtract a mean vector and normalise again.

        Vectors of an encoder that was not trained to compare, such as astra, share a large common
        part: cosines lie at 0.84-0.99 whatever is compared. Without it they use the whole range.

        Args:
            mean: (dim,) mean of the gallery's vectors, for queries; None for the mean of these.
        """
        shifted = self.vectors - (self.vectors.mean(0) if mean is None else mean)
        return Embeddings(self.ids, normalised(shifted), self.model_id)

    def check_comparable(self, model_id: str) -> None:
        """Refuse to be compared with another model's vectors.

        Raises:
            Mismatch: `model_id` is not the one that made these.
        """
        if model_id != self.model_id:
            raise Mismatch(
                f"Vectors of another model: expected {self.model_id}, got {model_id}. "
                "Embed both with one encoder and one preprocessing."
            )


class Embedded(NamedTuple):
    """One embedded volume.

    Attributes:
        study_id: As it was given.
        vector: (dim,) float32, length 1.
        regions: (n_regions, F) float16 before pooling; None unless asked for.
    """

    study_id: str
    vector: Vector
    regions: npt.NDArray[np.float16] | None


class Embedder:
    """Turns volumes and texts into vectors with one encoder.

    Args:
        encoder: A registered name, which is loaded, or an encoder.
        cache: Keeps preprocessed volumes on disk; None to preprocess each time.
        batch_size: Volumes encoded at once. A CPU gains nothing from more than 1.
    """

    def __init__(
        self,
        encoder: str | Encoder,
        cache: "PreprocessCache | None" = None,
        *,
        batch_size: int = 1,
    ) -> None:
        self.encoder: Encoder = load_encoder(encoder) if isinstance(encoder, str) else encoder
        self.cache = cache
        self.batch_size = batch_size

    @property
    def info(self) -> EncoderInfo:
        """What the encoder declares."""
        return self.encoder.info

    @property
    def model_id(self) -> str:
        """Changes with the encoder, its weights or its preprocessing; see `EncoderInfo`."""
        return self.info.model_id

    def embed_volume(self, volume: Volume) -> Vector:
        """Embed one volume, -> (dim,) of length 1.

        Raises:
            InputError: The encoder takes no volumes, or its output is not finite.
        """
        return next(self.iter_volumes([("the volume", volume)])).vector

    def region_features(self, volume: Volume) -> npt.NDArray[np.float16]:
        """Return the region features of one volume, (n_regions, F), in C order of (D, H, W).

        Raises:
            InputError: The encoder has no region features, or its output is not finite.
        """
        regions = next(self.iter_volumes([("the volume", volume)], regions=True)).regions
        assert regions is not None
        return regions

    def check_contributions(self) -> None:
        """Refuse an encoder that cannot tell what each region adds to a volume's vector.

        Raises:
            InputError: Rule ``no-explanation``.
        """
        if self.info.n_regions is None or not hasattr(self.encoder, "contributions"):
            raise InputError(
                f"The encoder {self.info.name!r} cannot tell what the parts of a CT add to its "
                "vector. Use one that can, such as 'medfinder'.",
                rule="no-explanation",
            )

    def contributions(self, features: npt.NDArray[np.float16], vectors: Vector) -> Vector:
        """Say what each region of a volume adds to its cosine with each vector.

        Args:
            features: (n_regions, F), as `region_features` returned them.
            vectors: (T, dim), of the space of the volumes.

        Returns:
            (T, n_regions) float32.

        Raises:
            InputError: As `check_contributions`.
        """
        self.check_contributions()
        told: Vector = self.encoder.contributions(features[None], vectors)[0]  # type: ignore[attr-defined]
        return told

    def embed_volumes(
        self, items: Iterable[tuple[str, VolumeSource]], on_error: OnError | None = None
    ) -> Embeddings:
        """Embed many volumes; see `iter_volumes` for items and errors."""
        done = list(self.iter_volumes(items, on_error=on_error))
        vectors = np.stack([d.vector for d in done]) if done else np.zeros((0, self.info.dim))
        return Embeddings(
            tuple(d.study_id for d in done), vectors.astype(np.float32, copy=False), self.model_id
        )

    def iter_volumes(
        self,
        items: Iterable[tuple[str, VolumeSource]],
        *,
        regions: bool = False,
        on_error: OnError | None = None,
    ) -> Iterator[Embedded]:
        """Embed volumes as a stream, in order, so that a long run can save as it goes.

        The next volumes are read and preprocessed in a thread while one is encoded.

        Args:
            items: (study_id, volume) pairs, or (study_id, function that reads the volume). The
                functions, and `items` itself, run in that thread.
            regions: Also return region features.
            on_error: Called with (study_id, error) for a volume that cannot be read,
                preprocessed or embedded, after which the stream goes on with the next; None
                raises the error here, which ends the stream. Only an InputError is a bad volume:
                anything else is raised either way.

        Raises:
            InputError: The encoder takes no volumes, or has no region features.
        """
        self._needs("volume")
        if regions:
            self._needs_regions()
        batch: list[tuple[str, npt.NDArray[np.generic]]] = []
        for study_id, prepared in _ahead(self._prepare(items)):
            if isinstance(prepared, InputError):
                if on_error is None:
                    raise prepared
                on_error(study_id, prepared)
                continue
            batch.append((study_id, prepared))
            if len(batch) == self.batch_size:
                yield from self.encode_prepared(batch, regions=regions, on_error=on_error)
                batch = []
        if batch:
            yield from self.encode_prepared(batch, regions=regions, on_error=on_error)

    def embed_prepared(
        self, ids: Sequence[str], arrays: Iterable[npt.NDArray[np.generic]]
    ) -> Embeddings:
        """Embed volumes that were preprocessed before, such as those a training run keeps.

        Args:
            ids: One for each array.
            arrays: (C, D, H, W) each, as `EncoderInfo.preprocess` makes them; an array of all of
                them, possibly memory-mapped, will do. Read one batch at a time.

        Raises:
            InputError: The encoder takes no volumes, an array is of another shape or type than
                the preprocessing makes, or a value or an output is not finite.
            ConfigError: There are more ids than arrays, or fewer.
        """
        self._needs("volume")
        rows: list[Vector] = []
        batch: list[tuple[str, npt.NDArray[np.generic]]] = []
        given = iter(arrays)
        for study_id in ids:
            array = next(given, None)
            if array is None:
                raise ConfigError(f"Expected one array an id, got {len(ids)} ids, fewer arrays.")
            batch.append((study_id, self._as_prepared(study_id, array)))
            if len(batch) == self.batch_size:
                rows += [done.vector for done in self.encode_prepared(batch)]
                batch = []
        if next(given, None) is not None:
            raise ConfigError(f"Expected one array an id, got {len(ids)} ids, more arrays.")
        if batch:
            rows += [done.vector for done in self.encode_prepared(batch)]
        vectors = np.stack(rows) if rows else np.zeros((0, self.info.dim), np.float32)
        return Embeddings(tuple(ids), vectors, self.model_id)

    def embed_regions(
        self, ids: Sequence[str], regions: Iterable[npt.NDArray[np.float16]]
    ) -> Embeddings:
        """Embed volumes whose region features are known, such as those a training run keeps.

        Args:
            ids: One for each array.
            regions: (n_regions, F) each, as `region_features` returned them. Read one batch at a
                time.

        Raises:
            InputError: The encoder has no region features, or an output is not finite.
            ConfigError: There are more ids than arrays, or fewer.
        """
        self._needs("volume")
        self._needs_regions()
        rows: list[Vector] = []
        given = iter(regions)
        for start in range(0, len(ids), self.batch_size):
            names = ids[start : start + self.batch_size]
            batch = list(itertools.islice(given, len(names)))
            if len(batch) < len(names):
                raise ConfigError(f"Expected one array an id, got {len(ids)} ids, fewer arrays.")
            rows.append(self._checked(names, self.encoder.pool_regions(np.stack(batch))))
        if next(given, None) is not None:
            raise ConfigError(f"Expected one array an id, got {len(ids)} ids, more arrays.")
        vectors = np.concatenate(rows) if rows else np.zeros((0, self.info.dim), np.float32)
        return Embeddings(tuple(ids), normalised(vectors), self.model_id)

    def embed_texts(self, texts: Sequence[str], ids: Sequence[str] | None = None) -> Embeddings:
        """Embed texts.

        Args:
            texts: Any length; an empty one has no meaning to embed and is refused.
            ids: One for each text; None for "0", "1", ….

        Raises:
            InputError: The encoder takes no text, a text is empty, or an output is not finite.
        """
        self._needs("text")
        names = tuple(ids) if ids is not None else tuple(map(str, range(len(texts))))
        if len(names) != len(texts):
            raise ConfigError(f"Expected one id a text, got {len(names)} ids, {len(texts)} texts.")
        for name, text in zip(names, texts, strict=True):
            if not text.strip():
                raise InputError(f"The text {name} is empty: nothing to embed.", rule="empty-text")
        if not texts:
            return Embeddings((), np.zeros((0, self.info.dim), np.float32), self.model_id)
        vectors = self._checked(names, self.encoder.encode_texts(list(texts)))
        return Embeddings(names, normalised(vectors), self.model_id)

    def _prepare(
        self, items: Iterable[tuple[str, VolumeSource]]
    ) -> Iterator[tuple[str, npt.NDArray[np.generic] | InputError]]:
        """Yield each volume as the encoder wants it, (C, D, H, W), or why it cannot be had."""
        config = self.info.preprocess
        assert config is not None
        for study_id, source in items:
            try:
                yield study_id, prepare(study_id, source, config, self.cache)
            except InputError as error:
                yield study_id, error

    def _as_prepared(
        self, study_id: str, array: npt.NDArray[np.generic]
    ) -> npt.NDArray[np.generic]:
        """Return the array, or say how it differs from what the preprocessing makes."""
        config = self.info.preprocess
        assert config is not None
        array = np.asarray(array)
        shape = (config.n_channels, *(config.size or array.shape[1:]))
        if array.shape != shape or array.ndim != 4 or array.dtype != config.dtype:
            raise InputError(
                f"The array of {study_id} is {array.dtype} of shape {array.shape}, expected "
                f"{config.dtype} of shape {shape}: it was not preprocessed as {self.info.name} "
                "asks. Preprocess with EncoderInfo.preprocess.",
                rule="not-prepared",
            )
        _check_finite(study_id, array)
        return array

    def encode_prepared(
        self,
        batch: Sequence[tuple[str, npt.NDArray[np.generic]]],
        *,
        regions: bool = False,
        on_error: OnError | None = None,
    ) -> Iterator[Embedded]:
        """Embed, all at once, what `prepare` made.

        Args:
            batch: (study_id, array of (C, D, H, W)) of each; not checked again.
            regions: As of `iter_volumes`.
            on_error: As of `iter_volumes`.
        """
        stacked = np.stack([volume for _, volume in batch])
        features: npt.NDArray[np.float16] | None = None
        if regions:
            features = self.encoder.region_features(stacked)
            vectors = self.encoder.pool_regions(features)
        else:
            vectors = self.encoder.encode_volumes(stacked)
        for i, (study_id, _) in enumerate(batch):
            try:
                vector = normalised(self._checked([study_id], vectors[i : i + 1]))[0]
            except InputError as error:
                if on_error is None:
                    raise
                on_error(study_id, error)
                continue
            yield Embedded(study_id, vector, None if features is None else features[i])

    def _needs(self, stream: Stream) -> None:
        if stream not in self.info.streams:
            raise InputError(
                f"The encoder {self.info.name} takes {' and '.join(sorted(self.info.streams))}, "
                f"not {stream}. `medfinder list encoders` shows those that do.",
                rule="wrong-stream",
            )

    def _needs_regions(self) -> None:
        if self.info.n_regions is None:
            raise InputError(
                f"The encoder {self.info.name} has no region features.", rule="regions"
            )

    def _checked(self, ids: Sequence[str], vectors: Vector) -> Vector:
        """Return vectors of the declared shape, finite and not zero, or say whose are not."""
        if vectors.shape != (len(ids), self.info.dim):
            raise ConfigError(
                f"The encoder {self.info.name} returned shape {vectors.shape}, expected "
                f"{(len(ids), self.info.dim)}: its declaration and its network disagree."
            )
        for study_id, length in zip(ids, np.linalg.norm(vectors, axis=1), strict=True):
            if not np.isfinite(length) or length == 0:
                raise InputError(
                    f"The vector of {study_id} is {'zero' if length == 0 else 'not finite'}: "
                    f"{self.info.name} cannot embed this input. Look at its values.",
                    rule="bad-vector",
                )
        return vectors


def prepare(
    study_id: str,
    source: VolumeSource,
    config: PreprocessConfig,
    cache: "PreprocessCache | None" = None,
    *,
    n_threads: int | None = None,
) -> npt.NDArray[np.generic]:
    """Read and preprocess one volume, without the encoder that it is for.

    Args:
        study_id: For messages.
        source: The volume, or what reads it.
        config: `EncoderInfo.preprocess`.
        cache: Keeps what was made.
        n_threads: As of `preprocess`, which the result does not depend on.

    Returns:
        (C, D, H, W).

    Raises:
        InputError: It cannot be read or preprocessed, or holds values that are not finite.
    """
    try:
        volume = source if isinstance(source, Volume) else source()
        make = preprocess if cache is None else cache.fetch
        made: npt.NDArray[np.generic] = make(volume, config, n_threads=n_threads)
        _check_finite(study_id, made)
    except InputError as error:
        if error.rule == "not-finite":  # told before whole numbers would hide it
            raise _not_finite(study_id) from None
        raise
    return made


def normalised(vectors: Vector) -> Vector:
    """Scale rows to length 1; a row of zeros stays zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Vector = (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32, copy=False)
    return scaled


def _check_finite(study_id: str, made: npt.NDArray[Any]) -> None:
    if not np.isfinite(made).all():  # integer arithmetic would hide a NaN
        raise _not_finite(study_id)


def _not_finite(study_id: str) -> InputError:
    return InputError(
        f"The volume of {study_id} holds values that are not finite: it cannot be embedded. "
        "Look at its values.",
        rule="not-finite",
    )


_Prepared = tuple[str, npt.NDArray[np.generic] | InputError]


def _ahead(items: Iterator[_Prepared]) -> Iterator[_Prepared]:
    """Run an iterator in a thread, at most `N_AHEAD` items ahead of whoever reads this one.

    An exception of the iterator is raised here, in its place. When this one is closed early, the
    thread ends at its next item.
    """
    ready: queue.Queue[_Prepared | BaseException | None] = queue.Queue(N_AHEAD)
    closed = threading.Event()

    def put(item: _Prepared | BaseException | None) -> None:
        while not closed.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put(item)
                if closed.is_set():
                    return
            put(None)
        except BaseException as error:  # handed over, not swallowed
            put(error)

    thread = threading.Thread(target=work, name="medfinder-preprocess", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        closed.set()
        thread.join()
