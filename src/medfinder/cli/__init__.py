"""The command line: one file a verb.

stdout is data, stderr is talk. An error that a user can act on is one line and exit code 2; a
traceback appears only with ``--debug``.
"""

from medfinder.cli.app import main

__all__ = ["main"]
