"""The structure of the package: no import cycles, no upward imports, no stray modules. The graph is built from the source."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Lowest layer first. A package imports only from lines above its own; packages on one line don't import each other.
LAYERS = (
    ("alpro.errors",),
    ("alpro.objectives", "alpro.terminal", "alpro.system"),
    ("alpro.files",),
    ("alpro.config", "alpro.lineage"),
    ("alpro.launch", "alpro.data.media", "alpro.tracking"),
    ("alpro.data.copies", "alpro.data.sources", "alpro.data.sample"),
    ("alpro.data.annotations",),
    ("alpro.data.text",),
    ("alpro.data.words", "alpro.data.validation", "alpro.data.batches"),
    ("alpro.distributed",),
    ("alpro.models",),
    ("alpro.checkpoints",),
    ("alpro.evaluation",),
    ("alpro.training", "alpro.serving", "alpro.report"),
    ("alpro.search", "alpro.planning", "alpro.registry"),
    ("alpro.hub", "alpro.own_data"),
    ("alpro.served",),
    ("alpro.api", "alpro.app"),
    ("alpro.checks",),
    ("alpro.cli",),
    ("flows",),
)
LOOSE = {"__init__.py", "__main__.py", "errors.py"}


def modules() -> dict[str, Path]:
    """Return the file of every module of `alpro` and `flows`, by name."""
    found = {}
    for path in sorted([*(ROOT / "alpro").rglob("*.py"), *(ROOT / "flows").rglob("*.py")]):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """Return all modules that a module imports, except for type checking only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    unused = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if node in unused:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {full if (full := f"{node.module}.{alias.name}") in known else node.module for alias in node.names}
    return {module for module in found & set(known) if module != name}


def graph() -> dict[str, set[str]]:
    """Return the imports of every module."""
    known = modules()
    return {name: imports(name, path, known) for name, path in known.items()}


def cycles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import each other (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(edges.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(edges):
        if node not in index:
            visit(node)
    return found


def layer(module: str) -> int:
    """Return the number of a module's line in LAYERS, by its longest matching package."""
    fits = [
        (len(package), number)
        for number, packages in enumerate(LAYERS)
        for package in packages
        if module == package or module.startswith(f"{package}.")
    ]
    assert fits, f"{module} belongs to no line of LAYERS: add its package"
    return max(fits)[1]


def package(module: str) -> str:
    """Return the package of LAYERS that a module belongs to."""
    return max((p for line in LAYERS for p in line if module == p or module.startswith(f"{p}.")), key=len)


LIBRARY = [name for name in modules() if name not in ("alpro", "alpro.__main__", "alpro.data")]


def upward(edges: dict[str, set[str]]) -> list[str]:
    """Return the imports that point upward or to another package on the same line."""
    return [
        f"{name} imports {other}"
        for name in edges
        if name in LIBRARY
        for other in sorted(edges[name])
        if other in LIBRARY and package(name) != package(other) and layer(other) >= layer(name)
    ]


def test_there_are_no_import_cycles() -> None:
    assert cycles(graph()) == []


def test_there_are_no_upward_imports() -> None:
    assert upward(graph()) == []


def test_every_module_is_in_a_package() -> None:
    assert {path.name for path in (ROOT / "alpro").glob("*.py")} <= LOOSE


def test_every_module_belongs_to_a_layer() -> None:
    for name in LIBRARY:
        layer(name)


def test_planted_faults_are_detected() -> None:
    planted = graph()
    planted["alpro.errors"] = {"alpro.cli.main"}
    assert upward(planted) == ["alpro.errors imports alpro.cli.main"]
    assert any("alpro.errors" in group for group in cycles(planted))
