"""The audit log: what it holds, and that no change of it stays unseen. On both databases."""

import asyncio
import json
import threading
from dataclasses import replace

import pytest
import sqlalchemy as sql
from sqlalchemy.exc import DBAPIError

from medfinder.errors import InputError
from medfinder.serve.audit import (
    MAX_OBJECTS,
    ORIGIN,
    Anchor,
    AuditLog,
    append,
    read_lines,
    verify,
)
from medfinder.serve.database import Database, audit


@pytest.fixture
def log(database):
    log = AuditLog(database)
    for i in range(6):
        record(log, "ana" if i % 2 else "luis", "search", [f"study-{i}"], f"request-{i}")
    return log


def record(log, *args, **kw):
    asyncio.run(log.record(*args, **kw))


def behind_the_triggers(database, *statements):
    """Change the table as somebody would who owns the database."""

    def change(connection):
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("ALTER TABLE audit DISABLE TRIGGER USER")
        else:
            names = connection.exec_driver_sql(
                "SELECT name FROM sqlite_master WHERE type='trigger'"
            )
            for (name,) in names.all():
                connection.exec_driver_sql(f"DROP TRIGGER {name}")
        for statement in statements:
            connection.execute(statement)

    database.write(change)


def test_entries_come_newest_first_in_parts_and_by_account_and_action(log):
    entries, n = log.entries(offset=1, limit=2)
    assert ([e.seq for e in entries], n) == ([5, 4], 6)
    entries, n = log.entries(account="ana")
    assert ({e.account for e in entries}, n) == ({"ana"}, 3)
    assert log.entries(action="export") == ([], 0)
    assert log.entries(account="ana", action="search")[1] == 3
    assert entries[0].objects == ("study-5",)
    assert entries[0].request_id == "request-5"


def test_each_entry_seals_the_one_before_it(log):
    entries = list(log.every())
    assert [e.previous for e in entries] == [ORIGIN, *(e.hash for e in entries[:-1])]
    assert all(e.hash == e.expected_hash for e in entries)
    found = log.verify()
    assert found.is_intact
    assert (found.n_entries, found.first_bad) == (6, None)
    assert found.last == Anchor(6, entries[-1].hash)


def test_an_empty_log_is_intact(database):
    found = AuditLog(database).verify()
    assert (found.is_intact, found.n_entries, found.last) == (True, 0, None)


@pytest.mark.parametrize(
    "statement",
    [
        audit.update().where(audit.c.seq == 3).values(account="eva"),
        audit.delete().where(audit.c.seq == 3),
        audit.delete(),
    ],
    ids=["change", "delete", "delete all"],
)
def test_the_database_refuses_to_change_what_was_written(log, database, statement):
    with pytest.raises(DBAPIError, match="append-only"):
        database.write(lambda c: c.execute(statement))
    assert log.verify().n_entries == 6


def test_no_entry_is_written_over(log, database):
    entry = next(log.every())
    values = {"seq": 3, "at": entry.at, "account": "x", "action": "x", "objects": "[]"}
    values |= {"request_id": "", "previous": "", "hash": ""}
    insert = audit.insert().values(values)
    if database.kind == "sqlite":
        insert = insert.prefix_with("OR REPLACE")
    with pytest.raises(DBAPIError):
        database.write(lambda c: c.execute(insert))
    assert log.verify().is_intact


@pytest.mark.parametrize(
    "column", ["at", "account", "action", "objects", "request_id", "previous", "hash"]
)
def test_a_change_of_any_field_is_found(log, database, column):
    behind_the_triggers(database, audit.update().where(audit.c.seq == 3).values({column: "x"}))
    found = log.verify()
    assert (found.is_intact, found.first_bad, found.n_entries) == (False, 3, 6)


def test_a_deleted_entry_is_found(log, database):
    behind_the_triggers(database, audit.delete().where(audit.c.seq == 3))
    assert log.verify().first_bad == 3


def test_a_deleted_entry_is_found_though_the_others_move_up(log, database):
    up = [audit.update().where(audit.c.seq == i).values(seq=i - 1) for i in (4, 5, 6)]
    behind_the_triggers(database, audit.delete().where(audit.c.seq == 3), *up)
    assert log.verify().first_bad == 3


def test_a_deleted_first_entry_is_found(log, database):
    behind_the_triggers(database, audit.delete().where(audit.c.seq == 1))
    assert log.verify().first_bad == 1


def test_an_inserted_entry_is_found(log, database):
    behind_the_triggers(database)
    third, fourth = list(log.every())[2:4]
    down = [audit.update().where(audit.c.seq == i).values(seq=i + 1) for i in (6, 5, 4)]
    made = replace(fourth, account="eva", previous=third.hash, hash="")
    values = {
        "seq": 4, "at": made.at, "account": "eva", "action": made.action,
        "objects": json.dumps(made.objects), "request_id": made.request_id,
        "previous": third.hash, "hash": made.expected_hash,
    }  # fmt: skip
    behind_the_triggers(database, *down, audit.insert().values(values))
    assert log.verify().first_bad == 5


def test_another_order_is_found(log, database):
    swap = [
        audit.update().where(audit.c.seq == old).values(seq=new)
        for old, new in ((3, 99), (4, 3), (99, 4))
    ]
    behind_the_triggers(database, *swap)
    assert log.verify().first_bad == 3


def test_a_cut_end_is_found_by_an_anchor_alone(log, database):
    anchor = log.verify().last
    behind_the_triggers(database, audit.delete().where(audit.c.seq > 4))
    assert log.verify().is_intact
    found = log.verify([anchor])
    assert (found.is_intact, found.first_bad, found.n_entries) == (False, 5, 4)


def test_a_log_rewritten_as_a_whole_is_found_by_an_anchor(log, database):
    anchor = log.verify().last
    behind_the_triggers(database, audit.delete())
    for i in range(6):
        record(log, "eva", "search", [f"study-{i}"])
    assert log.verify().is_intact
    assert log.verify([anchor]).first_bad == 6


def test_later_entries_do_not_disturb_an_anchor(log):
    anchor = log.verify().last
    record(log, "ana", "export")
    assert log.verify([anchor]).is_intact


def test_an_export_is_verified_by_itself_and_serves_as_anchors(log, database):
    lines = [entry.line() for entry in log.every()]
    assert verify(read_lines(lines)).is_intact
    assert verify(read_lines(lines[:2] + lines[3:])).first_bad == 3
    behind_the_triggers(database, audit.delete().where(audit.c.seq > 4))
    kept = [Anchor(e.seq, e.hash) for e in read_lines(lines)]
    assert log.verify(kept).first_bad == 5


@pytest.mark.parametrize(
    "line", ["x", "[]", "{}", '{"seq": 1}', '{"seq": "1", "objects": []}', "3"]
)
def test_a_line_that_is_no_entry_is_told(line):
    with pytest.raises(InputError, match="Line 1 of the export") as error:
        list(read_lines([line]))
    assert error.value.rule == "bad-export"


@pytest.mark.parametrize(
    "text", ["", "3", "3:", "x:" + "0" * 64, "3:" + "g" * 64, "-1:" + "0" * 64]
)
def test_what_is_no_anchor_is_told(text):
    with pytest.raises(InputError, match="anchor cannot be read"):
        Anchor.parse(text)
    assert Anchor.parse("3:" + "0" * 64) == Anchor(3, "0" * 64)


def test_looking_at_one_study_again_is_one_entry(log, database):
    for _ in range(3):
        record(log, "ana", "get_slice", ["study-1"], is_look=True)
    record(AuditLog(database), "ana", "get_slice", ["study-1"], is_look=True)  # another worker
    record(log, "luis", "get_slice", ["study-1"], is_look=True)
    record(log, "ana", "get_slice", ["study-2"], is_look=True)
    assert log.entries(action="get_slice")[1] == 3


def test_a_look_after_a_while_is_another_entry(log, monkeypatch):
    monkeypatch.setattr("medfinder.serve.audit.AGAIN_S", 0.0)
    for _ in range(2):
        record(log, "ana", "get_slice", ["study-1"], is_look=True)
    assert log.entries(action="get_slice")[1] == 2


def test_many_objects_are_bounded_and_counted(log):
    record(log, "ana", "search", [f"s{i}" for i in range(MAX_OBJECTS + 5)])
    (entry,) = log.entries(limit=1)[0]
    assert len(entry.objects) == MAX_OBJECTS + 1
    assert entry.objects[-1] == "and 5 more"
    assert log.verify().is_intact


def test_any_text_keeps_its_hash(log):
    record(log, "añá\U0001fac1", "x'); DROP TABLE audit; --", ['"\\\n<b>', "\x7f\u2028"], "r")
    assert log.verify().is_intact
    assert log.entries(limit=1)[0][0].objects == ('"\\\n<b>', "\x7f\u2028")


def test_many_workers_write_one_chain(where):
    databases = [Database.open(where) for _ in range(4)]  # each as a process of its own has one
    failed = []

    def write(database, name):
        try:
            for i in range(15):
                database.write(lambda c, i=i: append(c, name, "search", [f"{name}-{i}"]))
        except BaseException as error:
            failed.append(error)

    threads = [
        threading.Thread(target=write, args=(d, f"worker-{i}")) for i, d in enumerate(databases)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    log = AuditLog(databases[0])
    entries = list(log.every())
    assert not failed
    assert log.verify().is_intact
    assert len(entries) == 60
    for i in range(4):  # nobody's own entries change places
        own = [e.objects[0] for e in entries if e.account == f"worker-{i}"]
        assert own == [f"worker-{i}-{n}" for n in range(15)]
    for database in databases:
        database.close()


def test_what_is_undone_leaves_no_entry(log, database):
    def half(connection):
        append(connection, "ana", "remove")
        raise ValueError("not removed")

    with pytest.raises(ValueError, match="not removed"):
        database.write(half)
    assert log.entries(action="remove")[1] == 0
    record(log, "ana", "search")
    assert log.verify().is_intact


def test_the_log_is_read_in_small_parts(database, monkeypatch):
    monkeypatch.setattr("medfinder.serve.audit._PAGE", 2)
    log = AuditLog(database)
    for i in range(5):
        record(log, "ana", "search", [str(i)])
    assert [e.seq for e in log.every()] == [1, 2, 3, 4, 5]
    assert [e.seq for e in log.every(after=3)] == [4, 5]
    assert database.read(lambda c: c.execute(sql.select(sql.func.count(audit.c.seq))).scalar()) == 5
