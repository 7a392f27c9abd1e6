"""Where an index lies → the index: a folder, ``s3://…``, or ``postgresql://…``."""

from collections.abc import Callable, Mapping
from pathlib import Path

from medfinder.index.check import Checked, check_index
from medfinder.index.interface import AnyIndex
from medfinder.index.postgres_link import Address, Link, is_database
from medfinder.index.repair import Repaired, repair_index
from medfinder.index.schema import IndexConfig, Stream
from medfinder.index.store import Index
from medfinder.place import Location, Place, place_of


def create_index(
    location: Location, streams: Mapping[str, Stream], config: IndexConfig | None = None
) -> AnyIndex:
    """Make an index, or go on with one that was begun with the same encoders.

    Args:
        location: A folder, ``s3://BUCKET/PREFIX``, or
            ``postgresql://[USER@]HOST[:PORT]/DATABASE?schema=NAME``.
        streams: Stream → its encoder; at least one.

    Raises:
        InputError: The location cannot be used.
        Mismatch: It holds an index of other encoders, or of another schema.
        MissingExtra: It is in a database, or a store, whose driver is not installed.
        UnknownName: There is no such stream.
    """
    if (url := database_url(location)) is not None:
        from medfinder.index.postgres import PostgresIndex

        return PostgresIndex.create(url, streams, config)
    return Index.create(location, streams, config)


def open_index(location: Location) -> AnyIndex:
    """Open a finished index.

    Args:
        location: As for `create_index`, or the `folder` of an index that is open.

    Raises:
        InputError: There is no index.
        Incomplete: It has not been finished, or has lost a part since.
        Mismatch: It is of a schema this version does not read.
        ArtifactError: The database or store does not answer.
    """
    if (url := database_url(location)) is not None:
        from medfinder.index.postgres import PostgresIndex

        return PostgresIndex.open(url)
    return Index.open(location)


def check(location: Location, progress: Callable[[int, int], None] | None = None) -> Checked:
    """Compare all of an index with what it should be; change nothing.

    Args:
        location: As for `create_index`.
        progress: Called with (done, total) after each few thousand rows.

    Raises:
        InputError: There is no index.
        Mismatch: It holds another stage's artifact.
        ArtifactError: The database or store cannot be read.
    """
    if (url := database_url(location)) is not None:
        from medfinder.index.postgres_care import check_postgres

        return check_postgres(url, progress)
    return check_index(location, progress)


def repair(location: Location, progress: Callable[[int, int], None] | None = None) -> Repaired:
    """Mend what `check` finds: drop what cannot be trusted, make anew what is derived.

    What was dropped is listed in the answer and in ``repaired.json``. A repair that is killed can be
    run again. Readers go on meanwhile.

    Raises:
        InputError, Mismatch, ArtifactError: As `check`; or too much is lost: restore a backup.
    """
    if (url := database_url(location)) is not None:
        from medfinder.index.postgres_care import repair_postgres

        return repair_postgres(url, progress)
    return repair_index(location, progress)


def database_url(location: Location) -> str | None:
    """Return the URL of the database that a location names; None for a folder or a store.

    It may hold a password: not to be shown.
    """
    if isinstance(location, str) and is_database(location):
        return location
    if isinstance(location, (str, Path)):
        return None
    from medfinder.index.postgres_place import PostgresPlace

    return location.url if isinstance(location, PostgresPlace) else None


def index_place(location: Location) -> Place:
    """Return where an index keeps its manifest; nothing is looked up."""
    if isinstance(location, str) and is_database(location):
        from medfinder.index.postgres_place import PostgresPlace

        return PostgresPlace(Link(Address.of(location)))
    return place_of(location)


def shown(location: Location) -> str:
    """Return a location as it may be printed: a database's URL without its password."""
    if isinstance(location, str) and is_database(location):
        return str(Address.of(location))
    return str(location)
