"""What the service remembers, in SQLite and in a real PostgreSQL."""

import asyncio
import sqlite3
import stat
import threading

import pytest
import sqlalchemy as sql

from medfinder.errors import ArtifactError, ConfigError, InputError, Mismatch
from medfinder.serve import database as database_module
from medfinder.serve.database import (
    Database,
    accounts,
    beside,
    database_of,
    metadata,
    new_id,
    now,
    saved_searches,
    sessions,
    versions,
)
from medfinder.serve.faults import Refusal


def account(name, **more):
    given = {"account_id": new_id(), "name": name, "role": "viewer", "is_active": True}
    return given | {"created": now()} | more


def count(database, table):
    query = sql.select(sql.func.count()).select_from(table)
    return database.read(lambda c: c.execute(query).scalar_one())


def test_a_new_database_has_every_table_and_its_version(database):
    names = database.read(lambda c: set(sql.inspect(c).get_table_names()))
    assert names == set(metadata.tables)
    version = database.read(lambda c: c.execute(sql.select(versions.c.version)).scalars().all())
    assert version == list(range(1, len(database_module._MIGRATIONS) + 1))


def test_what_was_written_is_there_after_it_was_opened_again(where):
    first = Database.open(where)
    first.write(lambda c: c.execute(accounts.insert().values(account("ana"))))
    first.close()
    second = Database.open(where)
    assert second.read(lambda c: c.execute(sql.select(accounts.c.name)).scalars().all()) == ["ana"]
    second.close()


def test_a_transaction_that_fails_leaves_nothing(database):
    def half(connection):
        connection.execute(accounts.insert().values(account("ana")))
        raise ValueError("the other half")

    with pytest.raises(ValueError, match="other half"):
        database.write(half)
    assert count(database, accounts) == 0


def test_a_newer_database_is_refused(where):
    first = Database.open(where)
    first.write(lambda c: c.execute(versions.insert().values(version=99, at=now())))
    first.close()
    with pytest.raises(Mismatch, match="version 99"):
        Database.open(where)


def test_an_older_database_is_brought_to_this_version(where, monkeypatch):
    Database.open(where).close()

    def add_colour(connection):
        connection.exec_driver_sql("ALTER TABLE accounts ADD COLUMN colour VARCHAR(10)")

    steps = [*database_module._MIGRATIONS, add_colour]
    monkeypatch.setattr(database_module, "_MIGRATIONS", steps)
    newer = Database.open(where)
    columns = newer.read(lambda c: [x["name"] for x in sql.inspect(c).get_columns("accounts")])
    assert "colour" in columns
    newer.close()
    Database.open(where).close()  # and only once


def test_a_migration_that_fails_changes_nothing(where, monkeypatch):
    def half(connection):
        connection.exec_driver_sql("CREATE TABLE begun (x INTEGER)")
        connection.exec_driver_sql("ALTER TABLE no_such_table ADD COLUMN y INTEGER")

    steps = list(database_module._MIGRATIONS)
    monkeypatch.setattr(database_module, "_MIGRATIONS", [*steps, half])
    with pytest.raises(ConfigError):
        Database.open(where)
    monkeypatch.setattr(database_module, "_MIGRATIONS", steps)
    database = Database.open(where)
    names = database.read(lambda c: sql.inspect(c).get_table_names())
    assert "accounts" in names
    assert "begun" not in names
    database.close()


def test_many_workers_may_open_a_new_database_at_once(where):
    opened, failed = [], []

    def open_it():
        try:
            opened.append(Database.open(where))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for database in opened:
        database.close()
    assert not failed
    assert len(opened) == 6


def test_what_belongs_to_an_account_goes_with_it(database):
    ana = account("ana")
    database.write(lambda c: c.execute(accounts.insert().values(ana)))
    values = {"session_hash": "x", "account_id": ana["account_id"], "created": now(), "seen": now()}
    database.write(lambda c: c.execute(sessions.insert().values(values)))
    database.write(lambda c: c.execute(accounts.delete()))
    assert count(database, sessions) == 0


def test_sql_and_html_are_text_like_any_other(database):
    evil = "x'); DROP TABLE accounts; --<script>alert(1)</script>\U0001fac1\\"
    values = {"search_id": new_id(), "owner_id": "local", "name": evil, "query": evil}
    database.write(lambda c: c.execute(saved_searches.insert().values(values | {"created": now()})))
    query = sql.select(saved_searches.c.name).where(saved_searches.c.name == evil)
    assert database.read(lambda c: c.execute(query).scalar_one()) == evil
    assert count(database, accounts) == 0


def test_it_is_asked_without_keeping_the_event_loop_waiting(database):
    async def ask():
        await database.writing(lambda c: c.execute(accounts.insert().values(account("ana"))))
        query = sql.select(accounts.c.name)
        return await database.reading(lambda c: c.execute(query).scalars().all())

    assert asyncio.run(ask()) == ["ana"]


def test_writers_wait_for_each_other(where):
    one, other = Database.open(where), Database.open(where)

    def write(database, prefix):
        for i in range(20):
            database.write(
                lambda c, i=i: c.execute(accounts.insert().values(account(f"{prefix}{i}")))
            )

    threads = [threading.Thread(target=write, args=a) for a in ((one, "a"), (other, "b"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert count(one, accounts) == 40
    one.close()
    other.close()


def test_a_file_is_for_its_owner_alone(tmp_path):
    path = tmp_path / "idx.service.sqlite"
    database = Database.open(path)
    database.write(lambda c: c.execute(accounts.insert().values(account("ana"))))
    files = list(tmp_path.iterdir())
    assert path in files
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    database.close()


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(ConfigError, match="cannot be written") as error:
        Database.open(tmp_path / "no-such-folder" / "x.sqlite")
    assert error.value.rule == "database"


def test_a_file_that_is_no_database_is_told(tmp_path):
    path = tmp_path / "x.service.sqlite"
    path.write_text("This is a shopping list. " * 100)
    with pytest.raises(ConfigError, match="cannot be opened"):
        Database.open(path)
    assert path.read_text().startswith("This is a shopping list.")


@pytest.mark.parametrize(
    "url", ["mysql://x@y/z", "postgresql://[", "sqlite:///x", "postgresql://host:port/x"]
)
def test_a_url_of_something_else_is_told(url):
    with pytest.raises(ConfigError, match=r"cannot be (used|opened)"):
        Database.open(url)


def test_a_server_that_does_not_answer_is_told_without_its_password():
    with pytest.raises(ConfigError) as error:
        Database.open("postgresql://ana:s3cret-word@127.0.0.1:1/x?connect_timeout=2")
    assert "s3cret" not in str(error.value)


def test_a_file_that_was_damaged_is_told_wherever_it_is_read(tmp_path):
    path = tmp_path / "s.sqlite"
    database = Database.open(path)
    for start in range(0, 400, 100):
        rows = [account(f"reader-{i}") for i in range(start, start + 100)]
        database.write(lambda c, rows=rows: c.execute(sql.insert(accounts), rows))
    database.close()
    plain = sqlite3.connect(path)
    plain.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    (size,) = plain.execute("PRAGMA page_size").fetchone()
    plain.close()
    held = bytearray(path.read_bytes())
    for page in range(0, len(held), size):
        if held[page : page + size].count(b"reader-") > 5:
            held[page : page + 8] = b"\xff" * 8
    path.write_bytes(bytes(held))
    database = Database.open(path)
    every = sql.select(accounts)
    with pytest.raises(ArtifactError, match="database is damaged"):
        database.read(lambda c: c.execute(every).all())
    with pytest.raises(Refusal, match="does not answer"):
        asyncio.run(database.reading(lambda c: c.execute(every).all()))
    database.close()


def test_a_column_that_is_gone_is_told_as_damage(tmp_path):
    database = Database.open(tmp_path / "s.sqlite")
    database.write(lambda c: c.execute(sql.text("ALTER TABLE audit RENAME previous TO pravious")))
    with pytest.raises(ArtifactError, match="database is damaged"):
        database.read(lambda c: c.execute(sql.select(metadata.tables["audit"])).all())
    database.close()


def test_a_state_is_an_index_a_file_or_a_url(tmp_path):
    (tmp_path / "idx").mkdir()
    assert database_of(tmp_path / "idx") == tmp_path / "idx.service.sqlite"
    assert database_of(beside(tmp_path / "idx")) == tmp_path / "idx.service.sqlite"
    assert database_of("postgresql://x/y") == "postgresql://x/y"
    with pytest.raises(InputError, match="no such index folder"):
        database_of(tmp_path / "nothing")


def test_a_database_that_does_not_answer_is_told_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr(database_module, "_BUSY_S", 0.05)
    database = Database.open(tmp_path / "x.sqlite")
    with sqlite3.connect(tmp_path / "x.sqlite", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Refusal) as error:
            asyncio.run(database.writing(lambda c: None))
        other.execute("ROLLBACK")
    other.close()
    assert (error.value.status_code, error.value.type) == (503, "NoDatabase")
    asyncio.run(database.writing(lambda c: None))
    database.close()
