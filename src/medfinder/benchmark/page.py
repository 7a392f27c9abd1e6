"""Results → pages."""

from collections.abc import Sequence
from pathlib import Path

from medfinder.benchmark.results import Results, ScoreRow


def write_pages(out: Path, results: Sequence[Results], rows: Sequence[ScoreRow]) -> None:
    """Write the pages."""
