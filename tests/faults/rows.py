"""A line of the table of faults."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass
class Row:
    """A line of the table of faults.

    Attributes:
        fault: What was done.
        to: To what.
        tried: How often.
        survived: The outcome was right, or refused with a clear error where that is right.
        lost: Something acknowledged or finished was gone, or a run did not go on.
        double: Something was there twice.
        wrong: Anything else that should not be: another artifact, a crash, a hang.
        unnoticed: A file was damaged, and what has no checksum was taken as it is.
        notes: Of failures, the first few.
    """

    fault: str
    to: str
    tried: int = 0
    survived: int = 0
    lost: int = 0
    double: int = 0
    wrong: int = 0
    unnoticed: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, outcome: str, note: str = "", n: int = 1) -> None:
        """Count an outcome: "survived", or "survived: by a refusal" to tell kinds apart."""
        kind, _, detail = outcome.partition(": ")
        self.tried += n
        setattr(self, kind, getattr(self, kind) + n)
        if detail:
            self.outcomes[detail] = self.outcomes.get(detail, 0) + n
        if kind != "survived" and len(self.notes) < 20:
            self.notes.append(f"{outcome} {note}"[:1500])

    def fill(
        self, n: int, one: Callable[[], tuple[str, str] | None], keep: Callable[["Row"], None]
    ) -> "Row":
        """Count outcomes of `one` until there are `n` in all, keeping each; None is not counted."""
        begun = time.monotonic() - self.seconds
        while self.tried < n:
            if (said := one()) is not None:
                self.add(*said)
                self.seconds = round(time.monotonic() - begun, 1)
                keep(self)
        return self

    @property
    def failed(self) -> int:
        """How often it went wrong."""
        return self.lost + self.double + self.wrong

    def write(self, folder: Path) -> None:
        """Keep what has been found so far."""
        folder.mkdir(parents=True, exist_ok=True)
        path = self._path(folder)
        path.with_suffix(".new").write_text(json.dumps(asdict(self), indent=2))
        path.with_suffix(".new").replace(path)

    def kept(self, folder: Path) -> "Row":
        """Return this row as far as it was kept, to go on with it; itself where it was not."""
        path = self._path(folder)
        return Row(**json.loads(path.read_text())) if path.is_file() else self

    def _path(self, folder: Path) -> Path:
        name = f"{self.fault} {self.to}".replace(" ", "-").replace("/", "-")
        return folder / f"{name}.json"
