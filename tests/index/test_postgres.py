"""An index in PostgreSQL: what a folder has no need of, and that both answer alike."""

import contextlib
import dataclasses
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import psycopg
import pytest

from index.conftest import STREAMS, Gallery
from medfinder.errors import ArtifactError, ConfigError, Incomplete, InputError, Mismatch
from medfinder.index.exact import top_k
from medfinder.index.open import create_index, open_index, shown
from medfinder.index.postgres_link import Address
from medfinder.index.postgres_where import condition
from medfinder.index.schema import IndexConfig, Stream
from medfinder.records import Rejection, Report
from stubs import postgres
from stubs.curated import phantom_studies

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def database():
    with postgres.server("vector") as url:
        yield postgres.new_database(url)


@pytest.fixture
def url(database: str, request: pytest.FixtureRequest) -> str:
    """A schema for the test alone."""
    name = "".join(c if c.isalnum() else "_" for c in request.node.name.lower())[-50:]
    return f"{database}&schema=t_{name}"


def query(seed: int, dim: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(dim).astype(np.float32)


def run_sql(url: str, *statements: str) -> list[tuple]:
    address = Address.of(url)
    with psycopg.connect(address.url, autocommit=True) as connection:
        connection.execute(f'SET search_path = "{address.schema}", public')
        for statement in statements:
            done = connection.execute(statement)
        return done.fetchall() if done.description else []


# -- both back ends alike ----------------------------------------------------------


@pytest.fixture(scope="module")
def pair(database: str, tmp_path_factory: pytest.TempPathFactory):
    """The same phantom studies in a folder and in a database."""
    made = []
    studies = phantom_studies(240)
    rows = np.random.default_rng(0).standard_normal((240, 8)).astype(np.float32)
    ids = tuple(s.study_id for s in studies)
    batch = dataclasses.make_dataclass("Batch", ["ids", "vectors", "model_id"])(ids, rows, "m@1")
    for where in (tmp_path_factory.mktemp("pair") / "idx", f"{database}&schema=pair"):
        index = create_index(where, {"volume": Stream("m", "m@1", 8)})
        index.add(studies, {"volume": batch})
        index.finish()
        made.append(index)
    return made


def test_both_hold_the_same_content(pair) -> None:
    folder, database = (index.manifest() for index in pair)
    assert database.config["content"] == folder.config["content"]
    assert database.counts == folder.counts
    assert pair[1].study_hashes() == pair[0].study_hashes()


def test_both_rank_words_alike(pair) -> None:
    folder, database = pair
    asked = ["pleural effusion", "nódulo pulmonar", "no pneumothorax", "vidrio deslustrado", "5 mm"]
    asked += [s.report.text for s in folder.studies(folder.ids()[:30]) if s.report]
    for words in asked:
        ours, theirs = database.search_text(words, 20), folder.search_text(words, 20)
        assert [i for i, _ in ours] == [i for i, _ in theirs], words
        np.testing.assert_allclose([s for _, s in ours], [s for _, s in theirs], rtol=1e-5)


FILTERS = [
    "sex = 'F'", "sex != 'F'", "sex IS NOT NULL AND NOT (sex = 'M')", "age >= 50 AND age < 60",
    "age BETWEEN 30 AND 40 OR sex IS NULL", "sex IN ('F', 'X')", "age NOT IN (30, 31)",
    "study_id LIKE 'S-000_1'", "study_id NOT LIKE '%1'", "manufacturer ILIKE 'siem%'",
    "manufacturer LIKE 'a|b%'", "manufacturer = 'a|b <i>'", "array_has(findings_present, 'nodule')",
    "array_has_any(findings_present, ['nodule', 'mass']) IS NOT TRUE",
    "array_has_all(findings_absent, ['pleural effusion'])", "array_length(findings_present) > 2",
    "array_contains(findings_uncertain, 'it''s')", "findings_present[1] = 'nodule'",
    "study_date >= date '2019-01-01'", "study_date < '2020-03-01'", "CAST(age AS double) / 2 > 20.5",
    "age::float > 41", "lower(sex) = 'f' AND upper(manufacturer) = 'GE'", "length(sex) = 1",
    "coalesce(sex, 'M') = 'M'", "starts_with(study_id, 'S-0001')", "ends_with(study_id, '7')",
    "contains(patient_id, '-0001')", "regexp_like(study_id, '[05]$')", "abs(age - 50) <= 5",
    "round(spacing_mm_d) = 1",
     "sex == 'F'", "age % 2 = 0 AND age + 1 > 40", "language <> 'es'",
    "`age` > 60 AND \"sex\" = 'F'", "sex || 'x' = 'Fx'", "true", "false", "spacing_mm_d = 1.25",
    "array_has_any(findings_placed, ['nodule, right'])", "n_slices > 100", "source = 'b''imcv'",
]  # fmt: skip


@pytest.mark.parametrize("where", FILTERS)
def test_a_filter_keeps_the_same_studies_in_both(pair, where: str) -> None:
    folder, database = pair
    assert database.ids(where) == folder.ids(where)
    assert database.facets("sex", where) == folder.facets("sex", where)


def test_filtered_searches_are_alike(pair) -> None:
    folder, database = pair
    for where in FILTERS[:12]:
        for seed in range(2):
            ours = database.search_vector("volume", query(seed, 8), 7, where)
            theirs = folder.search_vector("volume", query(seed, 8), 7, where)
            assert [i for i, _ in ours] == [i for i, _ in theirs]
            np.testing.assert_allclose([s for _, s in ours], [s for _, s in theirs], atol=1e-7)
        asked = {"present": ["pleural effusion", "nodule"], "absent": ["pneumothorax"]}
        assert database.search_findings(**asked, k=9, where=where) == folder.search_findings(
            **asked, k=9, where=where
        )
        assert database.search_text("nodule effusion", 9, where)[:1] == [
            (i, pytest.approx(s, rel=1e-5))
            for i, s in folder.search_text("nodule effusion", 9, where)[:1]
        ]


# -- filters are rewritten, not handed on --------------------------------------------


@pytest.mark.parametrize(
    "where",
    [
        "true) OR pg_sleep(9) IS NULL OR (true",
        "sex = 'F') UNION SELECT 1 --",
        "sex = E'\\' OR true --'",
        "sex = U&'\\0027'",
        "sex = 'F' FROM studies",
        "sex = 'F'::regclass",
        "current_user = 'medfinder'",
        '"sex" = $1',
        "sex @> 'F'",
        "sex = %s",
        "sex ~ 'F'",
        "set_config('a', 'b', true) = 'b'",
        "sex COLLATE \"C\" = 'F'",
        "lo_import('/etc/passwd') > 0",
        "CAST((age) AS regclass) > 0",
        "CAST(age)",
        "lower(sex, sex) = 'f'",
        "array[age] = 1",
        "age = 1 LIMIT 1",
        "TRY_CAST(sex AS int) = 1",
    ],
)
def test_what_is_no_filter_reaches_no_table(pair, where: str) -> None:
    with pytest.raises(InputError, match="The filter cannot be used") as error:
        pair[1].count(where)
    assert error.value.rule == "bad-filter"
    assert pair[1].count() == 240


@pytest.mark.parametrize("value", ["'; DROP TABLE studies; --", "%s %(a)s %%", "\\' OR true", "\0"])
def test_text_in_a_filter_is_data_whatever_it_holds(pair, value: str) -> None:
    quoted = value.replace("'", "''")
    assert pair[1].ids(f"study_id = 'S-00001' OR patient_id = '{quoted}'") == ["S-00001"]
    assert pair[1].search_findings([value]) == []
    assert pair[1].delete([value]) == 0


def test_a_condition_is_written_in_known_words_alone() -> None:
    assert condition("array_has(findings_present, 'a%')") == "(('a%%' = ANY(\"findings_present\")))"
    assert condition("x.sex = 'F'" if False else "sex in ('F')") == "(\"sex\" IN ('F'))"


def test_a_filter_that_is_nested_without_end_is_refused(pair) -> None:
    for depth in (200, 5_000):
        where = "(" * depth + "true" + ")" * depth
        with contextlib.suppress(InputError):
            assert pair[1].count(where) == 240


def test_a_schema_that_is_dropped_is_no_bad_filter(url: str) -> None:
    index = create_index(url, STREAMS)
    run_sql(url, f"DROP SCHEMA {Address.of(url).schema} CASCADE")
    with pytest.raises(ArtifactError, match=r"A part of the index .* is missing"):
        index.count("sex = 'F'")


def test_every_filter_of_fuzz_is_a_filter_or_refused(pair) -> None:
    random = np.random.default_rng(5)
    parts = [*"()[],=<>+-*/%.|'\"`:;~^&#!", "sex", "age", "'F'", "1", "and", "or", "not", "null", "in",
             "case", "when", "then", "end", "cast", "as", "int", "date", "array", "::", "is", "like",
             "lower", "array_has", "findings_present", "between", "escape", "distinct", "from"]  # fmt: skip
    for _ in range(300):
        where = " ".join(random.choice(parts, int(random.integers(1, 9))))
        with contextlib.suppress(InputError):  # anything else is a bug
            assert 0 <= pair[1].count(where) <= 240


# -- opening ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("postgresql://h/d?schema=pg_catalog", "is no plain name"),
        ("postgresql://h/d?schema=a;b", "is no plain name"),
        ("postgresql://h/d?schema=A", "is no plain name"),
        ("postgresql://h/d?schema=a&schema=b", "names two schemas"),
        ("postgresql://h/d?nonsense=1&schema=a", "driver cannot read it"),
        ("postgresql://[h/d", "cannot be read"),
    ],
)
def test_an_address_that_cannot_be_used_says_why(location: str, said: str) -> None:
    with pytest.raises(InputError, match="This address of a database cannot be used") as error:
        open_index(location)
    assert said in str(error.value)
    assert error.value.rule == "bad-location"


def test_an_index_that_is_not_there_is_told_from_one_that_is_unfinished(
    url: str, gallery: Gallery
) -> None:
    with pytest.raises(InputError, match="There is no index at 'postgresql://"):
        open_index(url)
    index = create_index(url, STREAMS)
    gallery.add(index, [1])
    with pytest.raises(Incomplete, match=r"has no manifest\.json: its stage has not finished"):
        open_index(url)
    with pytest.raises(InputError, match="There is no such database"):
        open_index(re.sub(r"/t[0-9a-f]+\?", "/none?", url))


def test_a_schema_of_another_program_is_left_alone(url: str) -> None:
    schema = Address.of(url).schema
    run_sql(url, f"CREATE SCHEMA {schema}", f"CREATE TABLE {schema}.patients (name text)")
    with pytest.raises(InputError, match="holds other tables; an index has one of its own"):
        create_index(url, STREAMS)
    with pytest.raises(InputError, match="There is no index at"):
        open_index(url)


def test_tables_of_another_version_are_refused(url: str, gallery: Gallery) -> None:
    index = create_index(url, STREAMS)
    index.finish()
    run_sql(url, "UPDATE files SET content = convert_to(replace(convert_from(content, 'UTF8'), "
                 "'\"schema\": 1', '\"schema\": 99'), 'UTF8') WHERE name = 'streams.json'")  # fmt: skip
    with pytest.raises(Mismatch, match="has index schema 99"):
        create_index(url, STREAMS)
    run_sql(url, "ALTER TABLE studies DROP COLUMN sex")
    with pytest.raises(Mismatch, match="has other columns than this version"):
        open_index(url)


def test_settings_travel_with_the_index(url: str, gallery: Gallery) -> None:
    config = IndexConfig(exact_below=77, centre_from=3)
    index = create_index(url, STREAMS, config)
    gallery.add(index, range(4))
    index.finish({"studies": "abc"}, 2.5, "9.9", {"check": {"a": 1}})
    opened = open_index(url)
    assert opened.config == config
    manifest = opened.manifest()
    assert manifest.parents == {"studies": "abc"}
    assert (manifest.duration_s, manifest.package_version) == (2.5, "9.9")
    assert manifest.counts == {"studies": 4, "volume": 4, "report": 2}
    assert manifest.config["check"] == {"a": 1}


def test_whoever_may_only_read_can_search_and_is_told_when_writing(
    url: str, gallery: Gallery
) -> None:
    index = create_index(url, STREAMS)
    gallery.add(index, range(12))
    index.finish()
    schema = Address.of(url).schema
    run_sql(url, "CREATE ROLE reader LOGIN", f"GRANT USAGE ON SCHEMA {schema} TO reader",
            f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO reader")  # fmt: skip
    reader = open_index(url.replace("medfinder@", "reader@"))
    assert reader.search_text("effusion") == index.search_text("effusion")
    assert reader.search_vector("volume", query(1)) == index.search_vector("volume", query(1))
    with pytest.raises(ConfigError, match=r"This user may not do that .*indexing needs CREATE"):
        gallery.add(reader, [50])
    with pytest.raises(ConfigError, match="This user may not do that"):
        create_index(f"{url.replace('medfinder@', 'reader@')}2", STREAMS)


# -- a password is never shown -----------------------------------------------------------


def test_no_message_shows_a_password(url: str, capfd: pytest.CaptureFixture[str]) -> None:
    secret = "hunter2hunter2"
    for form in (
        url.replace("medfinder@", f"medfinder:{secret}@"),
        f"{url}&password={secret}",
        f"{url}&sslpassword={secret}",
    ):
        address = Address.of(form)
        assert secret not in f"{address} {address!r} {shown(form)}"
        index = create_index(form, STREAMS)
        index.finish()
        texts = [repr(index), index.location, str(index.place), repr(index.place)]
        for broken in (
            form.replace("host=/tmp", "host=/nowhere"),
            re.sub(r"/t[0-9a-f]+\?", "/none?", form),
            form.replace("schema=", "schema=none_"),
            form.replace("medfinder", "nobody:x"),
        ):
            with pytest.raises((ArtifactError, InputError)) as error:
                open_index(broken)
            texts += [str(error.value), repr(error.value)]
            assert error.value.__context__ is None or error.value.__suppress_context__
        assert secret not in "\n".join(texts)
    assert secret not in "".join(capfd.readouterr())


def test_the_command_line_shows_no_password(url: str) -> None:
    secret = "hunter2hunter2"
    index = create_index(url, STREAMS)
    index.finish()
    done = subprocess.run(
        [sys.executable, "-c", "from medfinder.cli.app import main; main()", "search",
         f"{url}&password={secret}", "--study", "none"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "There is no study 'none'" in done.stderr
    assert secret not in done.stdout + done.stderr


# -- HNSW ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(database: str, gallery: Gallery):
    """A finished index of 3,000 studies whose volume column has an HNSW index."""
    config = IndexConfig(exact_below=1000)
    streams = {"volume": STREAMS["volume"]}
    index = create_index(f"{database}&schema=large", streams, config)
    numbers = range(3000)
    index.add([gallery.study(i) for i in numbers], {"volume": gallery.vectors(numbers, "volume")})
    index.finish()
    return index


def recall(index, gallery: Gallery, numbers, where: str | None = None, n: int = 40) -> float:
    ids = index.ids()
    rows = np.array(index.vectors("volume", ids))
    mask = None if where is None else np.isin(ids, index.ids(where))
    queries = np.array([query(seed) + 1 for seed in range(n)])
    scores, best = top_k(queries, rows, 10, mask, index.centre("volume"))
    hits = 0
    for i in range(n):
        found = dict(index.search_vector("volume", queries[i], 10, where))
        truth = {ids[row]: score for row, score in zip(best[i], scores[i], strict=True)}
        assert len(found) == len(truth)
        hits += len(found.keys() & truth.keys())
        for name in found.keys() & truth.keys():
            assert found[name] == pytest.approx(truth[name], abs=1e-7)
    return hits / (n * 10)


def near_indexes(index) -> list[str]:
    """Return the names of its HNSW indexes."""
    address = Address.of(index.place.url)
    found = run_sql(
        index.place.url,
        "SELECT indexname::text FROM pg_indexes WHERE indexname LIKE 'near%' "
        f"AND schemaname = '{address.schema}'",
    )
    return [name for (name,) in found]


def test_a_large_column_is_searched_by_hnsw_with_the_recall_that_was_asked(large, gallery) -> None:
    said = json.loads(large.place.read("derived/volume.json"))
    assert said["index"]
    assert said["recall"] >= large.config.recall
    assert recall(large, gallery, range(3000)) >= 0.98


@pytest.mark.parametrize("where", ["sex = 'F'", "age < 50", "age = 33", "age = 900"])
def test_a_filter_costs_no_recall(large, gallery, where: str) -> None:
    ids = large.ids(where)
    if len(ids) < 10:
        assert len(large.search_vector("volume", query(1), 10, where)) == len(ids)
        return
    assert recall(large, gallery, range(3000), where) >= 0.98


def test_hnsw_is_what_answers(large) -> None:
    name = json.loads(large.place.read("derived/volume.json"))["index"]
    with psycopg.connect(Address.of(large.place.url).url, autocommit=True) as connection:
        # Counted per transaction; a backend reports when it is idle.
        large.search_vector("volume", query(3), 10)
        large.search_vector("volume", query(3), 10, "sex = 'F' OR sex IS NULL")
        large.close()
        for _ in range(50):
            connection.execute("SELECT pg_stat_clear_snapshot()")
            (n,) = connection.execute(
                "SELECT idx_scan FROM pg_stat_all_indexes WHERE indexrelname = %s", (name,)
            ).fetchone()
            if n >= 2:
                return
            threading.Event().wait(0.1)
    pytest.fail(f"the HNSW index was scanned {n} times")


def test_what_comes_and_goes_after_finish_is_seen_at_once(url: str, gallery: Gallery) -> None:
    streams = {"volume": STREAMS["volume"]}
    index = create_index(url, streams, IndexConfig(exact_below=100))

    def add(numbers) -> None:
        vectors = gallery.vectors(numbers, "volume")
        index.add([gallery.study(i) for i in numbers], {"volume": vectors})

    def record() -> dict:
        return json.loads(index.place.read("derived/volume.json"))

    add(range(200))
    index.finish()
    first = record()["index"]
    add([900])
    place = gallery.vectors([900], "volume").vectors[0]
    assert index.search_vector("volume", place, 1)[0][0] == "s0900"
    index.delete(["s0900"])
    assert index.search_vector("volume", place, 1)[0][0] != "s0900"
    add(range(300, 310))
    index.finish()
    assert record()["index"] == first  # few came: it is kept, and its centre moved
    assert index.search_vector("volume", gallery.vectors([305], "volume").vectors[0], 1)[0] == (
        "s0305", pytest.approx(1),
    )  # fmt: skip
    add(range(400, 500))
    index.finish()
    assert record()["index"] != first
    assert near_indexes(index) == [record()["index"]]
    index.delete(index.ids()[50:])
    index.finish()
    assert record()["index"] is None
    assert near_indexes(index) == []
    assert recall(index, gallery, range(50), n=10) == 1


# -- kills, losses, others --------------------------------------------------------------

_WRITER = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
from index.conftest import STREAMS, Gallery
from medfinder.index.open import create_index
gallery, index = Gallery(), create_index(sys.argv[1], STREAMS)
first, last, size = map(int, sys.argv[2:5])
for start in range(first, last, size):
    print("adding", flush=True)
    gallery.add(index, range(start, min(start + size, last)))
print("finishing", flush=True)
index.finish()
print("finished", flush=True)
"""


def writer(url: str, first: int, last: int, size: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _WRITER, url, str(first), str(last), str(size)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def content(index) -> tuple:
    return (
        index.manifest().config["content"],
        index.centre("volume").tobytes(),
        index.search_text("nodule effusion report 17", 70),
        index.search_vector("volume", np.ones(16, np.float32), 70),
    )


def test_a_writer_that_is_killed_leaves_whole_batches_and_can_be_followed(
    url: str, gallery: Gallery
) -> None:
    create_index(url, STREAMS)
    for pause_s in (0.0, 0.008):
        process = writer(url, 0, 120, 30)
        assert process.stdout is not None
        for _ in range(3):
            process.stdout.readline()
        threading.Event().wait(pause_s)
        process.kill()
        process.wait()
        process.stdout.close()
        index = create_index(url, STREAMS)
        n = index.count()
        assert n % 30 == 0
        assert run_sql(url, "SELECT count(*) FROM texts") == [(n,)]
        assert run_sql(url, "SELECT count(*) FROM vectors_volume") == [(n,)]
    with pytest.raises(Incomplete):
        open_index(url)
    process = writer(url, 0, 120, 30)
    out, _ = process.communicate(timeout=60)
    assert out.endswith("finished\n")
    whole = create_index(f"{url}_whole", STREAMS)
    gallery.add(whole, range(120))
    whole.finish()
    assert content(open_index(url)) == content(whole)


def test_two_writers_at_once_lose_nothing(url: str, gallery: Gallery) -> None:
    create_index(url, STREAMS)
    writers = [writer(url, 0, 60, 5), writer(url, 40, 100, 5)]  # they share twenty studies
    outs = [process.communicate(timeout=100)[0] for process in writers]
    assert all(out.endswith("finished\n") for out in outs)
    index = create_index(url, STREAMS)
    index.finish()
    alone = create_index(f"{url}_alone", STREAMS)
    gallery.add(alone, range(100))
    alone.finish()
    assert content(index) == content(alone)


def test_a_lost_connection_is_made_again(url: str, gallery: Gallery) -> None:
    index = create_index(url, STREAMS)
    gallery.add(index, range(6))
    index.finish()
    cut = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE application_name = 'medfinder'"
    )
    assert run_sql(url, cut)[0][0] >= 1
    assert index.count() == 6
    assert run_sql(url, cut)[0][0] >= 1
    gallery.add(index, [7])
    assert index.count() == 7


def test_a_server_that_is_gone_is_told(gallery: Gallery) -> None:
    with postgres.server("vector") as server:
        location = f"{postgres.new_database(server)}&schema=gone"
        index = create_index(location, STREAMS)
        gallery.add(index, range(6))
        index.finish()
        assert index.count() == 6
    for ask in (
        lambda: index.search_vector("volume", query(1)),
        lambda: gallery.add(index, [9]),
        lambda: index.finish(),
        lambda: open_index(location),
    ):
        with pytest.raises(ArtifactError, match="does not answer, tried twice"):
            ask()


def test_a_forked_process_makes_its_own_connections(url: str, gallery: Gallery) -> None:
    index = create_index(url, STREAMS)
    gallery.add(index, range(6))
    assert index.count() == 6
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.write(writing, str(index.count()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    assert os.read(reading, 10) == b"6"
    os.close(reading)
    assert index.count() == 6


def test_threads_may_share_an_index(url: str, gallery: Gallery) -> None:
    index = create_index(url, STREAMS)
    gallery.add(index, range(20))
    index.finish()
    errors: list[BaseException] = []

    def search() -> None:
        try:
            for i in range(8):
                assert index.search_vector("volume", query(i), 3, f"age > {i}")
                assert index.search_text("effusion", 2)
                assert index.studies(["s0003"])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=search) for _ in range(4)]
    for thread in threads:
        thread.start()
    for i in range(20, 40, 4):
        gallery.add(index, range(i, i + 4))
    for thread in threads:
        thread.join()
    assert not errors
    assert index.count() == 40


def test_finish_waits_for_another_and_readers_see_it_whole(url: str, gallery: Gallery) -> None:
    index = create_index(url, STREAMS)
    gallery.add(index, range(30))
    before = index.mark()
    index.finish()
    first = index.mark()
    assert before is None
    assert first is not None
    threads = [threading.Thread(target=index.finish) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert index.mark() not in (None, first)  # what serves it has it opened anew


# -- what else it keeps -------------------------------------------------------------------


def test_text_that_a_database_cannot_hold_comes_back_all_the_same(
    url: str, gallery: Gallery
) -> None:
    study = gallery.study(1, report=Report("A zero \0 here, a nodule there."), manufacturer="a\0b")
    index = create_index(url, STREAMS)
    index.add([study])
    index.finish()
    assert index.studies(["s0001"]) == [study]
    assert [i for i, _ in index.search_text("nodule")] == ["s0001"]
    assert index.facets("manufacturer") == {"a\ufffdb": 1}


def test_what_was_left_out_is_told_in_a_table(url: str) -> None:
    index = create_index(url, STREAMS)
    rows = [Rejection("b", "rule", "It ended."), Rejection("a", "rule", "It's gone.")]
    where = index.write_rejections(rows)
    assert where == f"the table {Address.of(url).schema}.rejections"
    assert index.read_rejections() == rows[::-1]
    assert run_sql(url, "SELECT item FROM rejections ORDER BY 1") == [("a",), ("b",)]
    index.write_rejections([])
    assert index.read_rejections() == []


def test_files_of_the_index_are_rows(url: str) -> None:
    place = create_index(url, STREAMS).place
    with place.write("regions/a.npy") as file:
        file.write(b"\0\1")
    assert place.at("regions").read("a.npy") == b"\0\1"
    assert {e.name: e.size for e in place.list()}["regions/a.npy"] == 2
    assert [e.name for e in place.at("regions").list()] == ["a.npy"]
    mark = place.mark("regions/a.npy")
    with place.write("regions/a.npy") as file:
        file.write(b"\0\1")
    assert place.mark("regions/a.npy") != mark
    place.delete("regions/a.npy")
    place.delete("regions/a.npy")
    assert place.mark("regions/a.npy") is None
    with pytest.raises(FileNotFoundError):
        place.read("regions/a.npy")
    with pytest.raises(InputError, match="lies in a store"):
        _ = create_index(url, STREAMS).folder
