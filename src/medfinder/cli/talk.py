"""How the command line talks: progress, summaries and errors on stderr, data on stdout."""

import contextlib
import json
import shlex
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

err = Console(stderr=True, highlight=False)
out = Console(highlight=False)


class _Rate(ProgressColumn):
    """Items a second, or seconds an item when they are slow."""

    def render(self, task: Task) -> Text:
        """Return the rate as text."""
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each", style="cyan")


@contextlib.contextmanager
def progress(what: str) -> Iterator[Callable[..., None]]:
    """Show a bar with rate and time left on stderr; yields ``advance(done, total, what=what)``."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
    )
    with bar:
        task = bar.add_task(what, total=None)
        shown = what

        def advance(done: int, total: int, what: str = what) -> None:
            nonlocal shown
            if what != shown:  # another part of the work has a rate of its own
                shown = what
                bar.reset(task, description=what)
            bar.update(task, completed=done, total=total)

        yield advance


def say(text: str) -> None:
    """Print one line of talk to stderr."""
    err.print(text, markup=False, soft_wrap=True)


def quoted(part: object) -> str:
    """Return a path or URL as a shell takes it for one word."""
    return shlex.quote(str(part))


def done(summary: str, then: str) -> None:
    """End a command: what was made, and the command that comes next."""
    say(summary)
    say(f"Next: {then}")


def emit(value: Any) -> None:
    """Print a value to stdout as JSON."""
    json.dump(value, sys.stdout, ensure_ascii=False, indent=2)
    sys.stdout.write("\n")


def fail(message: str, code: int) -> NoReturn:
    """Print an error to stderr and exit."""
    err.print(f"medfinder: {message}", markup=False, soft_wrap=True)
    raise SystemExit(code)
