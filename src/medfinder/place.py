"""Where an artifact lies: a folder, or a prefix in a bucket of an S3-compatible store.

Both keep files by name ("derived/volume.json"), put whole or not at all. A store's endpoint, region
and keys come from the environment as everywhere (``AWS_ENDPOINT_URL``, ``AWS_REGION``,
``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_ALLOW_HTTP=true`` for http). Knows nothing of
what the files hold.
"""

import contextlib
import dataclasses
import hashlib
import io
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import IO, Any, Protocol

from medfinder.errors import ArtifactError, ConfigError, InputError, MissingExtra

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

S3 = "s3://"
RETRIES = 8
"""Tries again of a request that a store answered with 500 or 503, or not at all."""
RETRY_S = 60.0
"""No try begins later than this after the first."""
_BLOCK = 1 << 20
_TEMPORARY = ".tmp"
_ENDPOINT = re.compile(r"https?://[^/?#\s@]+/?[^?#\s]*")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A file of a place.

    Attributes:
        name: With slashes, seen from the place.
        size: In bytes.
        mark: What changes when the file is written again: a store's ETag, or inode, time and size.
    """

    name: str
    size: int
    mark: str


class Place(Protocol):
    """Files by name. A name that is not there raises FileNotFoundError where it is read."""

    def __str__(self) -> str: ...

    def at(self, name: str) -> "Place":
        """Return the place of everything under `name`."""
        ...

    def read(self, name: str) -> bytes:
        """Return the file's bytes."""
        ...

    def open(self, name: str) -> IO[bytes]:
        """Open the file for reading, with ``seek``."""
        ...

    def write(self, name: str) -> contextlib.AbstractContextManager[IO[bytes]]:
        """Open a file that appears, whole, when the block ends without error."""
        ...

    def entry(self, name: str) -> Entry | None:
        """Return the file's size and mark; None where it is not there."""
        ...

    def mark(self, name: str) -> str | None:
        """Return what changes when the file is written again; None where it is not there."""
        ...

    def list(self, under: str = "") -> Iterator[Entry]:
        """Yield every file below a folder's name, in no particular order."""
        ...

    def delete(self, name: str) -> None:
        """Delete the file, or do nothing where there is none."""
        ...

    def fetch(self, name: str, to: Path) -> None:
        """Write the file's bytes to a new local file."""
        ...

    def store(self, source: Path, name: str) -> None:
        """Put a local file's bytes under `name`."""
        ...


Location = str | Path | Place
"""What names a place: a path, ``s3://BUCKET/PREFIX``, or the place itself."""


def place_of(location: Location) -> Place:
    """Return the place that a location names; nothing is looked up.

    Raises:
        InputError: It is no location.
        MissingExtra: It is an S3 URL, and obstore is not installed.
    """
    if isinstance(location, (str, Path)):
        text = str(location)
        if text.startswith(S3):
            return StorePlace(text)
        if text.startswith("s3:"):  # what pathlib makes of it
            raise InputError(
                f"{text!r} is a path; expected a URL such as 's3://BUCKET/PREFIX'. Give it as text.",
                rule="bad-location",
            )
        if "://" in text:
            scheme = text.partition("://")[0]
            raise InputError(
                f"{scheme}:// is no place for files; expected a folder or 's3://BUCKET/PREFIX'.",
                rule="bad-location",
            )
        return FolderPlace(Path(location))
    return location


def join(location: Location, name: str) -> str | Path:
    """Return the location of a file or folder in a place."""
    place = place_of(location)
    return place.path / name if isinstance(place, FolderPlace) else f"{place}/{name}"


def split(location: str | Path) -> tuple[Place, str]:
    """Return the place that holds a file, and the file's name in it."""
    if is_remote(location):
        folder, _, name = str(location).rpartition("/")
        return place_of(folder), name
    path = Path(location)
    return FolderPlace(path.parent), path.name


def is_remote(location: Location) -> bool:
    """Whether the location is in a store."""
    return not isinstance(place_of(location), FolderPlace)


def local_folder(location: Location) -> Path:
    """Return the folder that a location is.

    Raises:
        InputError: It is in a store.
    """
    place = place_of(location)
    if isinstance(place, FolderPlace):
        return place.path
    raise InputError(
        f"{str(place)!r} lies in a store, but this step works in a folder of this machine. Run it in "
        "a folder, and copy the result with 'medfinder backup'.",
        rule="not-local",
    )


def cache_folder() -> Path:
    """Return the folder for what can be fetched or made again, made where it is missing.

    ``MEDFINDER_CACHE``, or this platform's own, such as ``~/.cache/medfinder``.
    """
    if said := os.environ.get("MEDFINDER_CACHE"):
        path = Path(said)
    elif sys.platform == "darwin":
        path = Path.home() / "Library" / "Caches" / "medfinder"
    elif os.name == "nt":
        path = Path(os.environ.get("LOCALAPPDATA", str(Path.home()))) / "medfinder"
    else:
        path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medfinder"
    path.mkdir(parents=True, exist_ok=True)
    return path


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path` that replaces it when the block ends without error.

    After a crash at any moment `path` holds either its old or its new bytes, whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file, temporary = _held_temporary(path)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            if fcntl is None:  # Windows replaces no open file
                file.close()
            os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _held_temporary(path: Path) -> tuple[IO[bytes], str]:
    """Open a new file beside `path`, locked for as long as it is open."""
    while True:
        handle, temporary = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=_TEMPORARY, dir=path.parent
        )
        file = os.fdopen(handle, "wb")
        if _locked(file) is not False and os.fstat(handle).st_nlink:
            return file, temporary
        file.close()  # whoever looks for what was left has come between
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _locked(file: IO[bytes]) -> bool | None:
    """Lock an open file; False where somebody else has, None where the file system knows no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def is_temporary(name: str) -> bool:
    """Whether `atomic_write` gave a file this name, and is at it or was killed."""
    last = name.rpartition("/")[2]
    return last.startswith(".") and last.endswith(_TEMPORARY)


def is_abandoned(path: Path, remove: bool = False) -> bool:
    """Whether `atomic_write` was killed at this file; False where the file system knows no locks.

    Args:
        remove: Delete it then.
    """
    if not is_temporary(path.name):
        return False
    try:
        with path.open("rb") as file:
            if not _locked(file):
                return False
            if remove:
                path.unlink(missing_ok=True)
            return True
    except OSError:  # gone meanwhile, or another user's
        return False


class FolderPlace:
    """A folder of this machine.

    Attributes:
        path: The folder, which need not be there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"FolderPlace({str(self)!r})"

    def at(self, name: str) -> "FolderPlace":
        """As `Place` says."""
        return FolderPlace(self.path / name)

    def read(self, name: str) -> bytes:
        """As `Place` says."""
        return (self.path / name).read_bytes()

    def open(self, name: str) -> IO[bytes]:
        """As `Place` says."""
        return (self.path / name).open("rb")

    def write(self, name: str) -> contextlib.AbstractContextManager[IO[bytes]]:
        """As `Place` says."""
        return atomic_write(self.path / name)

    def entry(self, name: str) -> Entry | None:
        """As `Place` says."""
        try:
            status = (self.path / name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Entry(name, status.st_size, _mark(status))

    def mark(self, name: str) -> str | None:
        """As `Place` says."""
        found = self.entry(name)
        return None if found is None else found.mark

    def list(self, under: str = "") -> Iterator[Entry]:
        """As `Place` says."""
        for folder, folders, names in os.walk(
            self.path / under, onerror=_unless_gone, followlinks=True
        ):
            folders[:] = [name for name in folders if not _leads_back(folder, name)]
            for name in names:
                path = Path(folder, name)
                with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                    status = path.stat()
                    said = path.relative_to(self.path).as_posix()
                    yield Entry(said, status.st_size, _mark(status))

    def delete(self, name: str) -> None:
        """As `Place` says."""
        (self.path / name).unlink(missing_ok=True)

    def fetch(self, name: str, to: Path) -> None:
        """As `Place` says."""
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.path / name, to)

    def store(self, source: Path, name: str) -> None:
        """As `Place` says."""
        with source.open("rb") as file, self.write(name) as out:
            shutil.copyfileobj(file, out, _BLOCK)


def _unless_gone(error: OSError) -> None:
    """Raise where a folder may not be read: what is in it would be left out in silence."""
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error


def _leads_back(folder: str, name: str) -> bool:
    """Whether a subfolder is a link to a folder that it lies in: walking it has no end."""
    path = os.path.join(folder, name)
    if not os.path.islink(path):
        return False
    real, here = os.path.realpath(path), os.path.realpath(folder)
    return here == real or here.startswith(real.rstrip(os.sep) + os.sep)


class StorePlace:
    """A prefix in a bucket.

    A request that fails with 500 or 503, or is cut off, is tried again with growing pauses, at most
    `RETRIES` times and for `RETRY_S`.

    Raises:
        InputError: The URL names no bucket.
        MissingExtra: obstore is not installed.
        ConfigError: ``AWS_ENDPOINT_URL`` is no URL; told by the first request.
    """

    def __init__(self, url: str) -> None:
        bucket, _, prefix = url.removeprefix(S3).partition("/")
        if not _BUCKET.fullmatch(bucket):
            raise InputError(
                f"{url!r} names no bucket, whose name is of letters, digits, '.', '-' and '_'; "
                "expected 's3://BUCKET/PREFIX'.",
                rule="bad-location",
            )
        self.bucket = bucket
        self.prefix = "/".join(part for part in prefix.split("/") if part)
        self._store: Any = None
        self._process = 0
        _obstore()

    def __str__(self) -> str:
        return f"{S3}{self.bucket}/{self.prefix}".rstrip("/")

    def __repr__(self) -> str:
        return f"StorePlace({str(self)!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {"bucket": self.bucket, "prefix": self.prefix, "_store": None, "_process": 0}

    def at(self, name: str) -> "StorePlace":
        """As `Place` says."""
        return StorePlace(f"{self}/{name}")

    def read(self, name: str) -> bytes:
        """As `Place` says."""
        with self._explained("read", name) as store:
            return bytes(store.get(self._key(name)).bytes())

    def open(self, name: str) -> IO[bytes]:
        """As `Place` says; the bytes are held in memory."""
        return io.BytesIO(self.read(name))

    @contextlib.contextmanager
    def write(self, name: str) -> Iterator[IO[bytes]]:
        """As `Place` says."""
        with tempfile.SpooledTemporaryFile(max_size=16 * _BLOCK) as file:
            yield file
            file.seek(0)
            with self._explained("written", name) as store:
                store.put(self._key(name), file)

    def entry(self, name: str) -> Entry | None:
        """As `Place` says."""
        try:
            with self._explained("read", name) as store:
                meta = store.head(self._key(name))
        except FileNotFoundError:
            return None
        return Entry(name, meta["size"], _etag(meta))

    def mark(self, name: str) -> str | None:
        """As `Place` says."""
        found = self.entry(name)
        return None if found is None else found.mark

    def list(self, under: str = "") -> Iterator[Entry]:
        """As `Place` says."""
        root = self._key(under)
        cut = len(self.prefix) + 1 if self.prefix else 0
        with self._explained("listed", under) as store:
            for chunk in store.list(root or None):
                for found in chunk:
                    yield Entry(found["path"][cut:], found["size"], _etag(found))

    def delete(self, name: str) -> None:
        """As `Place` says."""
        with contextlib.suppress(FileNotFoundError), self._explained("deleted", name) as store:
            store.delete(self._key(name))

    def fetch(self, name: str, to: Path) -> None:
        """As `Place` says."""
        to.parent.mkdir(parents=True, exist_ok=True)
        with self._explained("read", name) as store:
            found = store.get(self._key(name))
            with to.open("wb") as file:
                for chunk in found.stream(min_chunk_size=4 * _BLOCK):
                    file.write(chunk)

    def store(self, source: Path, name: str) -> None:
        """As `Place` says."""
        with self._explained("written", name) as store:
            store.put(self._key(name), source)

    def put_new(self, name: str, data: bytes) -> str | None:
        """Put an object where there is none; return its mark, None where there is one.

        Raises:
            ArtifactError: The store cannot do that.
        """
        import obstore.exceptions as failed

        with self._explained("written", name) as store:
            try:
                return _etag(store.put(self._key(name), data, mode="create"))
            except failed.AlreadyExistsError:
                return None

    def put_over(self, name: str, data: bytes, mark: str) -> str | None:
        """Put an object in place of the one with this mark; return its mark, None if it has another.

        Raises:
            ArtifactError: The store cannot do that.
        """
        import obstore.exceptions as failed

        with self._explained("written", name) as store:
            try:
                return _etag(store.put(self._key(name), data, mode={"e_tag": mark}))
            except (failed.PreconditionError, FileNotFoundError):
                return None

    def _key(self, name: str) -> str:
        return "/".join(part for part in (self.prefix, name) if part)

    def _client(self) -> Any:
        """Return the store's client; one a process, as its threads do not outlive a fork."""
        if self._store is None or self._process != os.getpid():
            _check_endpoint()
            self._store = _obstore().S3Store(
                self.bucket,
                client_options={
                    "timeout": "60s",
                    "connect_timeout": "10s",
                    "allow_http": os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true"),
                },
                retry_config={
                    "max_retries": RETRIES,
                    "retry_timeout": timedelta(seconds=RETRY_S),
                    "backoff": {
                        "init_backoff": timedelta(milliseconds=100),
                        "max_backoff": timedelta(seconds=5),
                        "base": 2,
                    },
                },
            )
            self._process = os.getpid()
        return self._store

    @contextlib.contextmanager
    def _explained(self, what: str, name: str) -> Iterator[Any]:
        """Hand out the client; what goes wrong names bucket and key, and nothing secret."""
        import obstore.exceptions as failed

        try:
            yield self._client()
        except FileNotFoundError as error:  # obstore's own NotFoundError, with a page of XML
            if "NoSuchBucket" in str(error):
                raise ArtifactError(
                    f"{S3}{self.bucket} could not be {what}: {cause(error)}"
                ) from None
            raise FileNotFoundError(f"There is no {S3}{self.bucket}/{self._key(name)}.") from None
        except (failed.BaseError, OSError) as error:
            where = f"{S3}{self.bucket}/{self._key(name)}"
            raise ArtifactError(f"{where} could not be {what}: {cause(error)}") from None


def _check_endpoint() -> None:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"):
        said = os.environ.get(name, "")
        if said and not _ENDPOINT.fullmatch(said):
            raise ConfigError(
                f"{name} is {said!r}; expected a URL such as 'https://minio.example' or "
                "'http://localhost:9000'. Set it so."
            )


def cause(error: BaseException) -> str:
    """Return in one sentence or two why a store refused, without the request that it refused."""
    text = str(error)
    lower = text.lower()
    for status, said in _CAUSES:
        if any(word in lower for word in status):
            return said
    first = next((line for line in text.splitlines() if line.strip()), type(error).__name__)
    return f"{first[:200]}. Check the store, and run the same command again."


_CAUSES = (
    (
        ("403", "forbidden", "permissiondenied", "accessdenied", "signaturedoesnotmatch"),
        "the store refuses these keys. Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and what "
        "they are allowed.",
    ),
    (
        ("401", "unauthenticated", "no credentials", "credential"),
        "the store got no keys that it knows. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
    ),
    (
        ("nosuchbucket", "no such bucket", "bucket does not exist"),
        "there is no such bucket. Make it, or check its name.",
    ),
    (
        ("builder error", "url scheme is not allowed"),
        "the endpoint is http, which is off by default. Set AWS_ALLOW_HTTP=true.",
    ),
    (
        ("not supported", "notimplemented", "not implemented", "501"),
        "the store does not know conditional writes, which keep two writers apart. Use a store "
        "that does.",
    ),
    (
        ("500 internal", "503 service", "slowdown", "slow down", "502 bad", "504 gateway"),
        f"the store went on answering that it is busy or broken, in up to {RETRIES + 1} tries. "
        "Run the same command again later; it goes on.",
    ),
    (
        (
            "error sending request", "connect", "dns", "timed out", "timeout", "connection",
            "body", "closed", "incomplete",
        ),
        f"the store could not be reached in up to {RETRIES + 1} tries. Check AWS_ENDPOINT_URL and "
        "the network, and run the same command again; it goes on.",
    ),
)  # fmt: skip


def _obstore() -> Any:
    try:
        import obstore.store
    except ImportError:
        raise MissingExtra(
            'Places in a store need obstore. Install it: pip install "medfinder[s3]".'
        ) from None
    return obstore.store


def _etag(meta: Any) -> str:
    return str(meta["e_tag"])


def _mark(status: os.stat_result) -> str:
    return f"{status.st_ino}-{status.st_mtime_ns}-{status.st_size}"


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
