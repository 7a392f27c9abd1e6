"""Passwords → argon2id hashes, in the same time whether or not there is such an account."""

import unicodedata

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from medfinder.errors import InputError
from medfinder.serve.access.config import AccessConfig

MAX_CHARACTERS = 256


class Passwords:
    """Hashes and checks passwords; each takes `AccessConfig.argon2_memory_kib` and some 0.1 s."""

    def __init__(self, config: AccessConfig) -> None:
        self._hasher = PasswordHasher(
            time_cost=config.argon2_time,
            memory_cost=config.argon2_memory_kib,
            parallelism=config.argon2_lanes,
        )
        self._min = config.min_password
        self._nobodys = self._hasher.hash("of nobody")

    def hash(self, password: str, name: str = "") -> str:
        """Return what is stored of a password.

        Args:
            name: Of the account, which its password must not be.

        Raises:
            InputError: It is too short, too long, or too easily guessed (rule ``weak-password``).
        """
        text = _plain(password)
        if not self._min <= len(text) <= MAX_CHARACTERS:
            raise _weak(f"it has {len(text)} characters", f"{self._min} to {MAX_CHARACTERS}")
        if len(set(text)) < 5 or text.casefold() in {name.casefold(), name.casefold() * 2}:
            raise _weak("it is easily guessed", "something other than the name or one key")
        return self._hasher.hash(text)

    def hash_again(self, password: str) -> str:
        """Return the hash of a password that was checked before, whatever is asked of new ones."""
        return self._hasher.hash(_plain(password))

    def check(self, stored: str | None, password: str) -> bool:
        """Tell whether `password` is the one; without a stored hash, take as long and say no."""
        try:
            is_right = self._hasher.verify(stored or self._nobodys, _plain(password))
        except (VerificationError, InvalidHashError):
            return False
        return is_right and stored is not None

    def is_outdated(self, stored: str) -> bool:
        """Tell whether a hash was made with other parameters than are asked for now."""
        return self._hasher.check_needs_rehash(stored)


def _plain(password: str) -> str:
    # The same keys give other code points on other systems. Halves of characters have no bytes.
    return unicodedata.normalize("NFKC", password).encode("utf-8", "replace").decode()


def _weak(problem: str, expected: str) -> InputError:
    return InputError(
        f"The password cannot be used: {problem}; expected {expected}. Choose a sentence that "
        "nobody else would.",
        rule="weak-password",
    )
