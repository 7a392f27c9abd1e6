"""An index in PostgreSQL that somebody wrote to: told by what is wrong with it, and mended."""

from collections.abc import Iterator

import numpy as np
import psycopg
import pytest

from index.conftest import STREAMS, Gallery
from medfinder.errors import InputError
from medfinder.index.open import check, create_index, open_index, repair
from medfinder.index.postgres_link import Address
from medfinder.index.schema import IndexConfig
from stubs import postgres

QUERY = np.ones(16, np.float32)


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with postgres.server("vector") as url:
        yield postgres.new_database(url)


@pytest.fixture
def url(database: str, request: pytest.FixtureRequest, gallery: Gallery) -> str:
    """A finished index of 78 studies whose volume column has an HNSW index."""
    schema = "c_" + "".join(c if c.isalnum() else "_" for c in request.node.name.lower())[-40:]
    url = f"{database}&schema={schema}"
    index = create_index(url, STREAMS, IndexConfig(exact_below=40))
    for start in range(0, 80, 20):
        gallery.add(index, range(start, start + 20))  # type: ignore[arg-type]
    index.delete(["s0003", "s0077"])
    index.finish(parents={"studies": "abc"}, settings={"check": {"a": 1}})
    return url


def run_sql(url: str, *statements: str) -> None:
    address = Address.of(url)
    with psycopg.connect(address.url, autocommit=True) as connection:
        connection.execute(f'SET search_path = "{address.schema}", public')
        for statement in statements:
            connection.execute(statement)


def answers(url: str) -> list[object]:
    index = open_index(url)
    return [
        index.studies(index.ids()),
        index.search_vector("volume", QUERY, 200),
        index.search_text("nodule effusion report 17", 200),
        index.search_findings(["nodule"], k=200),
    ]


def test_a_sound_index_has_no_defect_and_says_what_was_compared(url: str) -> None:
    seen: list[tuple[int, int]] = []
    checked = check(url, lambda done, total: seen.append((done, total)))
    assert checked.is_sound, checked.defects
    assert (checked.n_studies, checked.n_vectors) == (78, 78 + 52)
    assert seen == [(78, 78)]
    assert repair(url).before.is_sound


MADE = {
    "DELETE FROM words WHERE term LIKE 'emph%'": "text-index",
    "UPDATE words SET postings = set_byte(postings, 2, 9) WHERE term = 'effus'": "text-index",
    "INSERT INTO words VALUES ('zz', 0, '\\x0000010100')": "text-index",
    "DELETE FROM word_blocks": "text-index",
    "UPDATE files SET content = '3' WHERE name = 'derived/text.json'": "text-index",
    "UPDATE files SET content = '{' WHERE name = 'derived/volume.json'": "record",
    "DELETE FROM files WHERE name = 'derived/report.json'": "record",
    "UPDATE files SET content = replace(convert_from(content, 'UTF8'), '\"centre\": [', "
    "'\"centre\": [1')::bytea WHERE name = 'derived/volume.json'": "record",
    "DO $$ BEGIN EXECUTE (SELECT 'DROP INDEX ' || indexname FROM pg_indexes WHERE "
    "schemaname = current_schema AND indexname LIKE 'near_volume%'); END $$": "partitions",
    "UPDATE files SET content = '{' WHERE name = 'manifest.json'": "manifest",
    "DELETE FROM files WHERE name = 'manifest.json'": "unfinished",
    "UPDATE files SET content = '{' WHERE name = 'streams.json'": "streams",
}


@pytest.mark.parametrize("statement", MADE, ids=range(len(MADE)))
def test_what_is_derived_is_made_anew_and_nothing_is_lost(url: str, statement: str) -> None:
    before = answers(url)
    run_sql(url, statement)
    assert {defect.rule for defect in check(url).defects} == {MADE[statement]}
    done = repair(url)
    assert done.after.is_sound, done.after.defects
    assert done.dropped == ()
    assert answers(url) == before


OF_A_ROW = {
    "UPDATE studies SET age = age + 1 WHERE study_id = 's0010'": "columns",
    "UPDATE studies SET findings_present = '{mass}' WHERE study_id = 's0010'": "columns",
    "UPDATE studies SET row_digest = 'x' WHERE study_id = 's0010'": "not the study that was added",
    "UPDATE studies SET key_volume = key_volume + 1 WHERE study_id = 's0010'": "volume vector",
    "UPDATE studies SET key_volume = NULL WHERE study_id = 's0010'": "do not go together",
    "UPDATE texts SET study = (replace(study::text, 'Report 10', 'Report 11'))::json FROM studies "
    "WHERE studies.number = texts.number AND study_id = 's0010'": "not the study that was added",
    "UPDATE texts SET study = '[]' FROM studies "
    "WHERE studies.number = texts.number AND study_id = 's0010'": "cannot be decoded",
    "UPDATE texts SET counts[1] = 7 FROM studies "
    "WHERE studies.number = texts.number AND study_id = 's0010'": "its words",
    "DELETE FROM texts USING studies "
    "WHERE studies.number = texts.number AND study_id = 's0010'": "missing",
    "DELETE FROM vectors_report USING studies WHERE studies.number = vectors_report.number "
    "AND study_id = 's0010'": "do not go together",
    "UPDATE vectors_volume SET vector = vector * vector FROM studies WHERE "
    "studies.number = vectors_volume.number AND study_id = 's0010'": "length 1",
    "UPDATE vectors_volume SET vector = (SELECT vector FROM vectors_volume LIMIT 1) FROM studies "
    "WHERE studies.number = vectors_volume.number AND study_id = 's0010'": "not the one",
}


@pytest.mark.parametrize("statement", OF_A_ROW, ids=range(len(OF_A_ROW)))
def test_a_row_that_was_changed_is_named_dropped_and_added_again(
    url: str, statement: str, gallery: Gallery
) -> None:
    before = answers(url)
    run_sql(url, statement)
    (defect,) = check(url).defects
    assert (defect.rule, defect.where) == ("row", "s0010")
    assert OF_A_ROW[statement] in defect.found
    done = repair(url)
    assert done.after.is_sound, done.after.defects
    assert done.dropped == ("s0010",)
    index = open_index(url)
    assert "s0010" not in index.ids()
    assert b'"dropped": [' in index.place.read("repaired.json")
    gallery.add(index, [10])  # type: ignore[arg-type]
    index.finish()
    assert answers(url) == before


def test_rows_that_came_since_are_told_and_the_index_is_finished(
    url: str, gallery: Gallery
) -> None:
    index = open_index(url)
    index.begin_changes()
    gallery.add(index, [90])  # type: ignore[arg-type]
    assert {defect.rule for defect in check(url).defects} == {"content", "unfinished"}
    done = repair(url)
    assert done.after.is_sound
    assert "s0090" in open_index(url).ids()
    manifest = open_index(url).manifest()
    assert (manifest.parents, manifest.config["check"]) == ({"studies": "abc"}, {"a": 1})


def test_a_schema_that_is_not_there_is_refused(database: str) -> None:
    for care in (check, repair):
        with pytest.raises(InputError, match="no such schema"):
            care(f"{database}&schema=nowhere")
