"""Preprocessed arrays on disk, keyed by the volume's content and the config's hash.

An entry is a plain ``.npy`` file (``np.load`` reads it) with a checksum after its last byte. It is
written beside its place and renamed into it, so that readers, other writers and a kill at any
moment see a whole entry or none. Nothing is flushed to the platter: after a power cut the
checksum tells, and an entry that fails it is made again. Knows nothing of encoders or batches.
"""

import contextlib
import errno
import io
import logging
import math
import os
import struct
import tempfile
import time
import tokenize
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medfinder.config import config_hash
from medfinder.errors import ArtifactError, ConfigError
from medfinder.volume.preprocess import PreprocessConfig, preprocess
from medfinder.volume.volume import Volume

PREPROCESS_VERSION = 1  # raise when `preprocess` gives other values for the same config
TRAILER = struct.Struct("<8sQI")  # magic, bytes before the trailer, their CRC-32
MAGIC = b"MFCACHE1"
STALE_S = 3600.0  # a temporary file this old was left by a process that was killed
_log = logging.getLogger(__name__)


class PreprocessCache:
    """A folder of preprocessed arrays that any number of processes may share.

    Args:
        folder: Made when missing. Deleting it, or anything in it, is always safe.
        max_bytes: Bound on the folder's size; the entries unused for longest go first. Each
            process counts what it writes itself and looks at the folder every tenth of the bound,
            so that several writers may pass it by that much for a while. None: no bound.
    """

    def __init__(self, folder: str | os.PathLike[str], max_bytes: int | None = None) -> None:
        if max_bytes is not None and max_bytes <= 0:
            raise ConfigError(f"Setting max_bytes is {max_bytes}; expected a number above 0.")
        self.folder = Path(folder)
        self.max_bytes = max_bytes
        self._unseen_bytes: float = math.inf  # written since the folder was last measured

    def fetch(
        self, volume: Volume, config: PreprocessConfig, *, n_threads: int | None = None
    ) -> npt.NDArray[Any]:
        """Return ``preprocess(volume, config)``, from disk where it was made before.

        Returns:
            A read-only array (a memory map when it came from disk).

        Raises:
            ArtifactError: The disk is full or the folder cannot be written.
        """
        found = self.get(volume.content_hash, config)
        if found is not None:
            return found
        made = preprocess(volume, config, n_threads=n_threads)
        self.put(volume.content_hash, config, made)
        made.setflags(write=False)
        return made

    def get(self, volume_hash: str, config: PreprocessConfig) -> npt.NDArray[Any] | None:
        """Return an entry as a read-only memory map, or None where there is none that is whole.

        Every byte is checked; a damaged entry is deleted and logged.
        """
        path = self.path(volume_hash, config)
        try:
            with open(path, "rb") as file:
                found = _read(file, config)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            _log.warning("A damaged entry of the preprocessing cache is made again: %s.", error)
            with contextlib.suppress(OSError):
                os.unlink(path)
            return None
        with contextlib.suppress(OSError):  # the time of last use; a read-only folder has none
            os.utime(path)
        return found

    def put(self, volume_hash: str, config: PreprocessConfig, array: npt.NDArray[Any]) -> None:
        """Store an array; whoever finishes last wins, and all store the same.

        Raises:
            ArtifactError: The disk is full or the folder cannot be written; no part of the entry
                is left.
        """
        import deflate

        head = io.BytesIO()
        array = np.ascontiguousarray(array)
        np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(array))
        start = head.getvalue()
        n_bytes = len(start) + array.nbytes
        if self.max_bytes is not None and n_bytes + TRAILER.size > self.max_bytes:
            return
        body = array.reshape(-1).view(np.uint8).data
        trailer = TRAILER.pack(MAGIC, n_bytes, deflate.crc32(body, deflate.crc32(start)))
        path = self.path(volume_hash, config)
        temporary = ""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(".tmp", ".", path.parent)
            with os.fdopen(handle, "wb", buffering=0) as file:
                for part in (start, body, trailer):
                    _write_all(file, part)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException as error:
            if temporary:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
            if isinstance(error, OSError):
                raise _no_room(error, n_bytes) from None
            raise
        self._unseen_bytes += n_bytes + TRAILER.size
        if self.max_bytes is not None and self._unseen_bytes > self.max_bytes / 10:
            self.trim()

    def trim(self) -> None:
        """Delete what killed writers left and, above `max_bytes`, the entries unused for longest."""
        now = time.time()
        entries: list[tuple[float, int, str]] = []
        for folder, _, names in os.walk(self.folder):
            for name in names:
                path = os.path.join(folder, name)
                with contextlib.suppress(OSError):  # another process deleted it
                    status = os.stat(path)
                    if name.endswith(".tmp"):
                        if now - status.st_mtime > STALE_S:
                            os.unlink(path)
                    elif name.endswith(".npy"):
                        entries.append((status.st_mtime, status.st_size, path))
        self._unseen_bytes = 0
        if self.max_bytes is None:
            return
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self.max_bytes:
                break
            with contextlib.suppress(OSError):
                os.unlink(path)
            total -= size

    def path(self, volume_hash: str, config: PreprocessConfig) -> Path:
        """Return where the entry of a volume and a config lies, whether it is there or not."""
        name = f"{volume_hash}-{config_hash(config)}-{PREPROCESS_VERSION}.npy"
        return self.folder / volume_hash[:2] / name


def _read(file: Any, config: PreprocessConfig) -> npt.NDArray[Any]:
    """Map and check one entry; ValueError says what is wrong with it."""
    import deflate

    size = os.fstat(file.fileno()).st_size
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"format version {version}")
    try:
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    except tokenize.TokenError:  # numpy reads a broken header as Python, and lets this through
        raise ValueError("its header is broken") from None
    start = file.tell()
    n_bytes = start + math.prod(shape) * dtype.itemsize
    if size != n_bytes + TRAILER.size:
        raise ValueError(f"{size} bytes, expected {n_bytes + TRAILER.size}")
    if dtype != config.dtype or len(shape) != 4 or shape[0] != config.n_channels:
        raise ValueError(f"it holds {dtype} of shape {shape}")
    data = np.memmap(file, np.uint8, "r")
    magic, declared, crc = TRAILER.unpack(data[n_bytes:].tobytes())
    if magic != MAGIC or declared != n_bytes or deflate.crc32(data[:n_bytes]) != crc:
        raise ValueError("its checksum is wrong")
    return data[start:n_bytes].view(dtype).reshape(shape)


def _write_all(file: Any, part: Any) -> None:
    rest = memoryview(part)
    while len(rest):  # the kernel writes at most 2 GiB a call, and less on a disk that fills up
        rest = rest[file.write(rest) :]


def _no_room(error: OSError, n_bytes: int) -> ArtifactError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ArtifactError(
            f"The preprocessing cache's disk is full: an entry needs {n_bytes / 2**20:.0f} MiB. "
            "Free space, bound the cache with max_bytes, or run without it."
        )
    return ArtifactError(
        f"The preprocessing cache cannot be written: {error.strerror}. "
        "Check the folder's permissions, or run without it."
    )
