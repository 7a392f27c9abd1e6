"""The house rules that can be read off the source: layers, cycles, imports and their cost."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "medfinder"

# Lowest first. A module may import from lower groups and from its own name; names in one group do
# not import each other, except in the groups marked True.
LAYERS: list[tuple[set[str], bool]] = [
    ({"errors", "records"}, True),
    ({"compiled", "config", "registry", "place", "artifact", "scale", "studies"}, True),
    ({"volume", "report", "ranking", "index"}, False),
    ({"phantom", "curate", "model"}, False),
    ({"embed"}, False),
    ({"train", "search"}, False),
    ({"benchmark", "plan", "serve"}, False),
    ({"cli"}, False),
]
RANK = {name: rank for rank, (names, _) in enumerate(LAYERS) for name in names}
TORCH = {"torch", "transformers", "safetensors"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def dotted(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> list[tuple[str, int]]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            found += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
    return found


def layer_of(name: str) -> str | None:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "medfinder" and parts[1] in RANK else None


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_a_layer_imports_only_lower_layers_and_itself(path: Path) -> None:
    own = layer_of(dotted(path))
    if own is None:  # medfinder/__init__.py names everything, lazily
        return
    for name, line in imports(path):
        other = layer_of(name)
        if other is None or other == own:
            continue
        may_meet = LAYERS[RANK[own]][1]
        allowed = RANK[other] < RANK[own] or (may_meet and RANK[other] == RANK[own])
        assert allowed, f"{path.name}:{line}: {own} may not import {other}"


def test_every_package_has_a_place_in_the_layers() -> None:
    for entry in PACKAGE.iterdir():
        name = entry.stem if entry.suffix == ".py" else entry.name
        if entry.suffix in {"", ".py"} and not name.startswith("_"):
            assert name in RANK, f"{name} is in no layer"


def test_torch_starts_at_model() -> None:
    for path in modules():
        own = layer_of(dotted(path))
        if own is None or (RANK[own] >= RANK["model"] and own != "phantom" and own != "curate"):
            continue
        for name, line in imports(path):
            assert name.split(".")[0] not in TORCH, f"{path.name}:{line}: torch below model"


def test_no_module_takes_part_in_an_import_cycle() -> None:
    names = {dotted(path): path for path in modules()}
    graph: dict[str, set[str]] = {}
    for name, path in names.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        top = [n for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom))]
        targets = set()
        for node in top:
            wanted = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [f"{node.module}.{alias.name}" for alias in node.names]
            )
            for target in wanted:
                while target and target not in names:
                    target = target.rpartition(".")[0]
                if target and target not in (name, "medfinder"):
                    targets.add(target)
        graph[name] = targets
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"cycle: {' -> '.join((*trail, name))}"
        if name in done:
            return
        for target in graph[name]:
            visit(target, (*trail, name))
        done.add(name)

    for name in graph:
        visit(name, ())


def test_names_that_say_nothing_are_not_used() -> None:
    empty = {"utils", "util", "common", "helpers", "misc", "base", "new", "v2"}
    assert not [path for path in modules() if path.stem in empty or path.parent.name in empty]


def test_importing_the_package_imports_no_heavy_library() -> None:  # the design: under 0.3 s
    code = (
        "import sys, medfinder;"
        "print(sorted({'torch', 'numpy', 'lancedb', 'pydicom', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_line_starts_without_heavy_libraries() -> None:
    code = (
        "import sys, medfinder.cli.app;"
        "print(sorted({'torch', 'lancedb', 'pydicom', 'transformers', 'numba'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
