"""docs/environment.md names every environment variable that the code reads or sets, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/environment.md").read_text(encoding="utf-8")
NAME = re.compile(r"`([A-Z]\w*)`")
FUNCTIONS = ("os.getenv", "_environment", "port_of")
METHODS = ("get", "setdefault", "pop")


def is_environment(node: ast.expr) -> bool:
    return ast.unparse(node) in ("os.environ", "environ")


def keys_of(tree: ast.AST) -> Iterator[ast.expr]:
    """Yield the expressions by which a module reads, sets or looks for a variable."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and is_environment(node.value):
            yield node.slice
        elif isinstance(node, ast.Call) and node.args:
            function = node.func
            method = isinstance(function, ast.Attribute) and function.attr in METHODS and is_environment(function.value)
            if method or ast.unparse(function) in FUNCTIONS:
                yield node.args[0]
        elif isinstance(node, ast.Compare) and any(is_environment(other) for other in node.comparators):
            yield node.left


def constants(tree: ast.Module) -> dict[str, str]:
    """Return the module's constants whose values are texts."""
    found = {}
    for node in tree.body:
        for target, value in _assignments(node):
            if isinstance(target, ast.Name) and isinstance(value, ast.Constant) and isinstance(value.value, str):
                found[target.id] = value.value
    return found


def _assignments(node: ast.stmt) -> Iterator[tuple[ast.expr, ast.expr]]:
    if isinstance(node, ast.Assign):
        for target in node.targets:
            pairs = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
            yield from zip(target.elts, node.value.elts, strict=True) if pairs else [(target, node.value)]


def names_in_code() -> set[str]:
    names: set[str] = set()
    for path in [path for room in ("alpro", "flows", "tools") for path in (ROOT / room).rglob("*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        known = constants(tree)
        for key in keys_of(tree):
            if isinstance(key, ast.Constant):
                names.add(str(key.value))
            elif isinstance(key, ast.Name) and key.id in known:
                names.add(known[key.id])
    for path in (ROOT / "tools").glob("*.sh"):
        names |= set(re.findall(r"\$\{([A-Z][A-Z_]+)\b", path.read_text(encoding="utf-8")))
    exported = re.findall(r"^export ([A-Z_ ]+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    return names.union(*(line.split() for line in exported))


def test_page_names_every_variable_of_the_code() -> None:
    found = names_in_code()
    assert {"ALPRO_STATE", "ALPRO_LOG", "ALPRO_NOTIFY_URL", "MLFLOW_TRACKING_URI", "PREFECT_PORT", "DVC_STAGE"} <= found
    assert sorted(found - set(NAME.findall(PAGE))) == []


def test_every_variable_of_the_page_is_in_the_code() -> None:
    code = "\n".join(
        path.read_text(encoding="utf-8")
        for room in ("alpro", "flows", "tools")
        for path in (ROOT / room).rglob("*")
        if path.suffix in (".py", ".sh")
    ) + (ROOT / "Makefile").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `([A-Z0-9_]+)` \|", PAGE, re.MULTILINE))
    assert sorted(name for name in documented if not re.search(rf"\b{name}\b", code)) == []
