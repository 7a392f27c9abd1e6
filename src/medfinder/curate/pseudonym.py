"""Identity → pseudonym: the only place where a raw patient or study number is seen."""

import hashlib
import re

MAX_ID = 120
"""Longest id in characters: with a suffix it is still a file name everywhere."""
_SAFE = re.compile(r"[^A-Za-z0-9._-]+")


def pseudonym(kind: str, identity: str, key: str = "") -> str:
    """Return a stable pseudonym such as ``P-3f9c0a1b22d4``.

    Args:
        kind: ``"P"`` for patients, ``"S"`` for studies.
        identity: The raw number.
        key: Secret of the site. The same key gives the same pseudonyms, so that an archive can
            be curated in parts; without a key anyone who can guess numbers can test them.

    Source:
        Keyed BLAKE2b, RFC 7693.
    """
    digest = hashlib.blake2b(
        f"{kind}\0{identity.strip()}".encode(), digest_size=6, key=key.encode()[:64]
    )
    return f"{kind}-{digest.hexdigest()}"


def safe_id(text: str) -> str:
    """Return `text` with every run of characters unfit for a file name or a URL made ``_``.

    Text that has none that fit, or more than `MAX_ID` of them, is told apart by its hash.
    """
    safe = _SAFE.sub("_", text).strip("._")
    if not safe:
        return f"id-{short_hash(text)}"
    return safe if len(safe) <= MAX_ID else f"{safe[: MAX_ID - 9]}-{short_hash(text)}"


def short_hash(text: str) -> str:
    """Return 8 hex digits of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
