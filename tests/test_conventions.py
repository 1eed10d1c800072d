"""The conventions that every source file keeps: size limits, and docstrings in plain English."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILE_LINES, FUNCTION_LINES, CLASS_LINES = 350, 60, 250
REASON = re.compile(r"#\s*long:\s*\S+")  # a comment in the file's, function's or class's first lines: why it is longer
RIDDLE = re.compile(r"\s*(What|Whether|Where)\b")


def sources(*folders: str) -> list[Path]:
    """The Python files of these folders."""
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def named(path: Path, node: ast.AST | None = None) -> str:
    """How a place in the code is named in a failure."""
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)} {getattr(node, 'name', '')}".strip()


def too_long(path: Path) -> list[str]:
    """The parts of a file that are longer than their limit, and give no reason."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    found = []
    if len(lines) > FILE_LINES and not any(REASON.search(line) for line in lines[:20]):
        found.append(f"{named(path)}: {len(lines)} lines, {FILE_LINES} are allowed")
    for node in ast.walk(ast.parse(text)):
        limit = CLASS_LINES if isinstance(node, ast.ClassDef) else FUNCTION_LINES
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        length = (node.end_lineno or 0) - node.lineno + 1
        if length > limit and not any(REASON.search(line) for line in lines[node.lineno - 2 : node.body[0].lineno]):
            found.append(f"{named(path, node)}: {length} lines, {limit} are allowed")
    return found


def riddles(path: Path) -> list[str]:
    """Docstrings that begin with a word that makes a clause of them: "What", "Whether", "Where"."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            text = ast.get_docstring(node)
            if text and RIDDLE.match(text):
                found.append(f"{named(path, node)}: {text.splitlines()[0]}")
    return found


def test_files_functions_and_classes_are_short() -> None:
    assert [line for path in sources("alpro", "flows") for line in too_long(path)] == []


def test_docstrings_begin_with_a_verb_or_a_noun() -> None:
    assert [line for path in sources("alpro", "flows", "tools", "benchmarks", "tests") for line in riddles(path)] == []
