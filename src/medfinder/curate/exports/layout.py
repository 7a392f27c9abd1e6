"""What every layout of an export offers to `export`, and what they share: names and rows."""

import hashlib
import re
from pathlib import Path
from typing import Any, Protocol

from medfinder.records import Rejection, Study
from medfinder.studies import schema, to_row

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")
_HIDDEN = ("series_id", "volume_path")
"""Columns that stay behind: the archive's own number of the series, and where its file lies."""


class Layout(Protocol):
    """Studies → files below a folder, one study at a time, in the dataset's order.

    Attributes:
        suffix: Of a volume's file.
        earlier: Studies whose volume an earlier, stopped run could not give out, in files that
            are whole; they are not asked for again.
    """

    suffix: str
    earlier: list[Rejection]

    def is_done(self, study: Study) -> bool:
        """Tell whether a whole file of an earlier run holds the study; asked once, in order."""

    def place(self, study: Study) -> Path:
        """Return where its volume is to be written; one that is there is whole."""

    def add(self, study: Study, volume: Path | None, rejection: Rejection | None) -> None:
        """Take one study; `volume` is its file at `place`, or None."""

    def finish(self) -> None:
        """Complete every file; only then are they whole."""

    def abandon(self) -> None:
        """Close what is open, without completing it."""


def file_key(text: str) -> str:
    """Return an id as part of a file name: letters, digits, ``_`` and ``-``, at most 80.

    Points are out as well: WebDataset cuts a name at its first. An id that changes is told apart
    by its hash.
    """
    if _KEY.fullmatch(text):
        return text
    short = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    safe = re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")[:60]
    return f"{safe}-{short}" if safe else f"id-{short}"


def shared_schema() -> Any:
    """Return the ``pyarrow.Schema`` of what is given out.

    The columns of ``studies.parquet`` without the archive's series number and path; ``volume`` is
    the file relative to the export's folder, null without one; ``text`` is what a text encoder
    reads: the checked translation, else the report as it is.
    """
    import pyarrow as pa

    fields = [field for field in schema() if field.name not in _HIDDEN]
    at = [field.name for field in fields].index("report_text")
    fields.insert(at, pa.field("text", pa.string()))
    fields.insert(2, pa.field("volume", pa.string()))
    return pa.schema([field.with_nullable(True) for field in fields])


def shared_row(study: Study, volume: str | None) -> dict[str, Any]:
    """Return a study as a row of `shared_schema`."""
    row = {name: value for name, value in to_row(study).items() if name not in _HIDDEN}
    return {**row, "volume": volume, "text": study.text or None}
