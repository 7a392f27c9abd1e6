"""What an index in a folder does, one in PostgreSQL does too: the same tests, run on it.

The tests are those of ``test_store.py`` and ``test_where.py``; here they meet fixtures whose indexes lie
in a database, and a path means a schema there.
"""

import hashlib
import inspect
from pathlib import Path

import pytest

from index import test_store as behaviours
from index import test_where as filters
from index.conftest import STREAMS
from medfinder.index.open import create_index, open_index
from stubs import postgres

_OF_FOLDERS = {  # what these touch, a database does not have; see test_postgres.py
    "test_a_missing_folder_is_refused",
    "test_a_file_is_no_index",
    "test_another_schema_is_refused",
    "test_a_table_that_is_gone_is_told_and_never_made_by_a_reader",
    "test_a_table_with_other_columns_is_refused",
    "test_settings_travel_with_the_index",
}
_OF_TABLES = {  # likewise
    "test_a_filter_cut_into_conditions_keeps_what_the_whole_keeps",
    "test_no_column_but_the_facets_can_be_named",
}
globals().update(
    {
        name: test
        for module in (behaviours, filters)
        for name, test in vars(module).items()
        if name.startswith("test_")
        and name not in _OF_FOLDERS | _OF_TABLES
        and {"filled", "empty", "worded", "gallery"} & set(inspect.signature(test).parameters)
    }
)


@pytest.fixture(scope="module")
def database():
    with postgres.server("vector") as url:
        yield postgres.new_database(url)


class InDatabase:
    """`Index`, as the tests call it, where a path names a schema of a database."""

    def __init__(self, url: str) -> None:
        self.url = url

    def location(self, path):
        if not isinstance(path, Path):
            return path
        return f"{self.url}&schema=i{hashlib.md5(str(path).encode()).hexdigest()}"

    def create(self, path, streams, config=None):
        return create_index(self.location(path), streams, config)

    def open(self, path):
        return open_index(self.location(path))


@pytest.fixture(autouse=True, scope="module")
def indexes(database: str):
    here = InDatabase(database)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(behaviours, "Index", here)
        yield here


@pytest.fixture
def empty(indexes: InDatabase, tmp_path: Path):
    return indexes.create(tmp_path / "idx", STREAMS)


@pytest.fixture(scope="module")
def filled(indexes: InDatabase, gallery, tmp_path_factory: pytest.TempPathFactory):
    index = indexes.create(tmp_path_factory.mktemp("filled") / "idx", STREAMS)
    gallery.add(index, range(60))
    index.finish()
    return index


worded = behaviours.worded
