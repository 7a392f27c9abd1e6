"""Where an index lies → the index: a folder, ``s3://…``, or ``postgresql://…``."""

from collections.abc import Mapping
from pathlib import Path

from medfinder.index.interface import AnyIndex
from medfinder.index.postgres_link import Address, Link, is_database
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
