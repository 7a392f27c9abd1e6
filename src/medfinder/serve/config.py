"""Bounds and settings of the service, and where they come from: file, environment, command line."""

import dataclasses
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medfinder.config import load_config
from medfinder.errors import ConfigError
from medfinder.registry import unknown
from medfinder.serve.access.config import AccessConfig

PREFIX = "MEDFINDER_SERVE_"
"""Of the environment's settings: ``MEDFINDER_SERVE_TRACING__ENDPOINT`` is ``tracing.endpoint``."""
SECTION = "serve"
MAX_WORKERS = 64
_SECRET = re.compile(r"_(?:key|secret|password|token|url)$")


@dataclass(frozen=True)
class TracingConfig:
    """Where traces go; nowhere by default.

    Attributes:
        endpoint: Of an OTLP collector over HTTP, such as ``"http://127.0.0.1:4318"``.
        service_name: By which the collector tells services apart.
        share: Of requests that are traced, 0 to 1.
    """

    endpoint: str = ""
    service_name: str = "medfinder"
    share: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is {self.share:g}; expected 0 to 1")


@dataclass(frozen=True)
class IngestConfig:
    """How studies are taken in; not at all by default.

    Attributes:
        folder: Where the volumes of studies that were taken in are kept; "" takes none.
        max_jobs: That wait or run at once; one more is asked to come back.
        keep_days: How long a finished job can be looked up.
        shift_dates: Whether dates are shifted by a number of days that each patient has.
        pseudonym_key: Site secret that pseudonyms are derived with.
    """

    folder: str = ""
    max_jobs: int = 8
    keep_days: float = 7.0
    shift_dates: bool = True
    pseudonym_key: str = ""

    def __post_init__(self) -> None:
        if self.max_jobs < 1:
            raise ValueError(f"max_jobs is {self.max_jobs}; expected at least 1")


@dataclass(frozen=True)
class ServeConfig:
    """Bounds of the service.

    Attributes:
        host: Address to listen on.
        port: 0 for any free one.
        workers: Processes that answer, each with the model and caches of its own.
        max_upload_bytes: Of an uploaded file.
        max_expanded_bytes: Of what an uploaded archive becomes.
        max_body_bytes: Of any other request.
        max_uploads: Uploads in work at once; one more is asked to come back.
        pixels_bytes: Memory for volumes that are being looked at (int16).
        pngs_bytes: Memory for finished slices.
        held_s: Seconds for which an uploaded CT is held, when the page asks for it.
        held_bytes: Of all of those together, on disk.
        held_folder: Where they lie; "" for a folder of the process's own.
        host_names: Names under which the service is reached, besides those of this machine.
        stop_s: Seconds that requests in work are given once the service is told to stop.
        watch_s: Seconds between looks at the index's folder, for another index in its place; 0
            never looks.
        access: Who may use the service.
        ingest: How studies are taken in.
        tracing: Where traces go.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    max_upload_bytes: int = 2 * 2**30
    max_expanded_bytes: int = 4 * 2**30
    max_body_bytes: int = 256 * 2**10
    max_uploads: int = 4
    pixels_bytes: int = 2**30
    pngs_bytes: int = 64 * 2**20
    held_s: float = 1800.0
    held_bytes: int = 4 * 2**30
    held_folder: str = ""
    host_names: tuple[str, ...] = ()
    stop_s: int = 10
    watch_s: float = 2.0
    access: AccessConfig = field(default_factory=AccessConfig)
    ingest: IngestConfig = field(default_factory=IngestConfig)
    tracing: TracingConfig = field(default_factory=TracingConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port is {self.port}; expected 0 to 65535")
        if not 1 <= self.workers <= MAX_WORKERS:
            raise ValueError(f"workers is {self.workers}; expected 1 to {MAX_WORKERS}")
        for name in ("max_upload_bytes", "max_expanded_bytes", "max_body_bytes", "max_uploads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.stop_s < 0 or self.watch_s < 0:
            raise ValueError("stop_s and watch_s are seconds; expected 0 or more")


def load_serve_config(
    path: str | Path | None = None,
    environment: Mapping[str, str] | None = None,
    overrides: Sequence[str] = (),
) -> ServeConfig:
    """Return the settings: defaults, then the file, then the environment, then `overrides`.

    Args:
        path: TOML file whose table ``serve`` is read; None for none.
        environment: Names that begin with `PREFIX` count; a table's name is followed by ``__``.
        overrides: ``key=value``, as typed after ``--set``.

    Raises:
        ConfigError: An unknown setting (the nearest is named), a value out of range, or a secret
            among `overrides` (rule ``secret-in-command``): other users can see a command line.
    """
    known = dict(_names(ServeConfig))
    given = []
    for name, value in sorted((environment or {}).items()):
        if not name.startswith(PREFIX):
            continue
        if name not in known:
            raise ConfigError(unknown("environment variable", name, sorted(known)))
        given.append(f"{known[name]}={value}")
    for override in overrides:
        key = override.partition("=")[0].strip()
        if _SECRET.search(key):
            raise ConfigError(
                f"The setting {key} is a secret, and a command line is seen by others. "
                f"Set it in the file or by {_variable(key)} in the environment.",
                rule="secret-in-command",
            )
    return load_config(ServeConfig, path, [*given, *overrides], SECTION)


def _names(cls: type, above: str = "") -> Iterator[tuple[str, str]]:
    """Yield each setting's variable and its dotted key."""
    hints = typing.get_type_hints(cls)
    for each in dataclasses.fields(cls):
        hint, key = hints[each.name], above + each.name
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            yield from _names(hint, f"{key}.")
        else:
            yield _variable(key), key


def _variable(key: str) -> str:
    return PREFIX + key.upper().replace(".", "__")
