"""How often: requests of one account or address, and failed sign-ins."""

import hashlib
import threading
import time
from collections import OrderedDict

import sqlalchemy as sql
from sqlalchemy.engine import Connection

from medfinder.serve.access.config import AccessConfig
from medfinder.serve.database import attempts, new_id, now
from medfinder.serve.faults import Refusal

_HELD = 10_000
_FROM_ADDRESS, _OF_ACCOUNT = 5, 10  # times `AccessConfig.attempts`


class Bucket:
    """A token bucket for each key, in this process: as many at once, then so many a minute."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._lock = threading.Lock()
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> None:
        """Count one request.

        Raises:
            Refusal: 429 when there were too many.
        """
        if self._per_minute == 0:
            return
        rate = self._per_minute / 60
        at = time.monotonic()
        with self._lock:
            level, before = self._levels.get(key, (float(self._per_minute), at))
            level = min(self._per_minute, level + (at - before) * rate)
            is_over = level < 1
            self._levels[key] = (level if is_over else level - 1, at)
            self._levels.move_to_end(key)
            while len(self._levels) > _HELD:
                self._levels.popitem(last=False)
        if is_over:
            raise too_many("requests", (1 - level) / rate)


def begin_attempt(connection: Connection, config: AccessConfig, name: str, address: str) -> str:
    """Count an attempt to sign in before it is judged, so that many at once all count.

    Returns:
        Its id, for `forgive`.

    Raises:
        Refusal: 429 when too many failed.
    """
    since = now(-config.attempts_s)
    connection.execute(attempts.delete().where(attempts.c.at <= since))
    account, origin = _key(name.strip().lower()), _key(address)
    of_account, from_address = attempts.c.account_key == account, attempts.c.address_key == origin
    if connection.dialect.name == "postgresql":
        connection.execute(sql.text("LOCK TABLE attempts IN SHARE ROW EXCLUSIVE MODE"))
    for bound, wanted in (
        (config.attempts, (of_account, from_address)),
        (config.attempts * _FROM_ADDRESS, (from_address,)),
        (config.attempts * _OF_ACCOUNT, (of_account,)),
    ):
        query = sql.select(sql.func.count()).select_from(attempts).where(*wanted)
        if connection.execute(query).scalar_one() >= bound:
            raise too_many("failed sign-ins", config.attempts_s)
    attempt_id = new_id()
    values = {"attempt_id": attempt_id, "account_key": account, "address_key": origin}
    connection.execute(attempts.insert().values(values | {"at": now()}))
    return attempt_id


def forgive(connection: Connection, name: str, address: str) -> None:
    """Forget the failed sign-ins of an account from an address, after one that succeeded."""
    connection.execute(
        attempts.delete().where(
            attempts.c.account_key == _key(name.strip().lower()),
            attempts.c.address_key == _key(address),
        )
    )


def too_many(what: str, wait_s: float) -> Refusal:
    """Return the answer to who has to wait."""
    return Refusal(
        429,
        "TooMany",
        f"There were too many {what}: expected fewer in this time.",
        "Wait as long as the header Retry-After says, in seconds.",
        headers={"retry-after": str(max(1, round(wait_s + 0.5))), "connection": "close"},
    )


def _key(text: str) -> str:
    """Return what is stored of a name: what was typed may have been a password."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
