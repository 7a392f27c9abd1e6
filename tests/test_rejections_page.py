"""Every rule that reading and curating can write is explained on the page of rejections."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from medfinder import errors

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference" / "rejections.md"
SOURCES = sorted(
    path for name in ("volume", "curate") for path in (ROOT / "src/medfinder" / name).rglob("*.py")
)
#: Where a call names its rule without ``rule=``: the function → the argument's place.
PLACES = {"Rejection": 1, "unreadable": 0}


def texts(node: ast.expr | None) -> Iterator[str]:
    """Yield the rules that an expression can be: a string, or a choice of strings."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from texts(node.body)
        yield from texts(node.orelse)


def written(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Call):
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        for keyword in node.keywords:
            if keyword.arg == "rule":
                yield from texts(keyword.value)
        kind = getattr(errors, name, None)
        if hasattr(kind, "rule") and "rule" not in {keyword.arg for keyword in node.keywords}:
            yield kind.rule
        if len(node.args) > PLACES.get(name, 99):
            yield from texts(node.args[PLACES[name]])
    elif isinstance(node, ast.Dict):  # {"rule": ..., "reason": ...}, from a worker process
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and key.value == "rule":
                yield from texts(value)
    elif isinstance(node, ast.FunctionDef) and node.name == "why_not":  # returns (rule, reason)
        for inner in ast.walk(node):
            if isinstance(inner, ast.Return) and isinstance(inner.value, ast.Tuple):
                yield from texts(inner.value.elts[0])
    elif isinstance(node, ast.ClassDef):  # an exception's own rule
        for inner in node.body:
            if isinstance(inner, ast.Assign) and ast.unparse(inner.targets[0]) == "rule":
                yield from texts(inner.value)


def rules(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {text for node in ast.walk(tree) for text in written(node)}


def test_the_rules_are_found_in_every_way_they_are_written() -> None:
    found = set().union(*map(rules, SOURCES))
    assert {
        "too-few-slices",  # rule=
        "unsupported-format",  # Rejection(item, rule, reason)
        "not-nifti",  # unreadable(rule, ...)
        "decoder-crash",  # {"rule": ...}
        "localizer",  # why_not
        "geometry",  # GeometryError without a rule of its own
    } <= found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_every_rule_is_on_the_page(path: Path) -> None:
    on_page = set(re.findall(r"`([a-z0-9-]+)`", PAGE.read_text(encoding="utf-8")))
    assert rules(path) <= on_page
