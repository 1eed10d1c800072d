"""The conventions of every source file: size limits, and docstrings in plain English."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from alpro.data.batches.shared_memory import REMEDY

ROOT = Path(__file__).parents[1]
FILE_LINES, FUNCTION_LINES, CLASS_LINES = 350, 60, 250
REASON = re.compile(r"#\s*long:\s*\S+")  # a comment in the file's, function's or class's first lines gives the reason
RIDDLE = re.compile(r"\s*(What|Whether|Where)\b")


def sources(*folders: str) -> list[Path]:
    """Return the Python files of these folders."""
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def named(path: Path, node: ast.AST | None = None) -> str:
    """Return the file, line and name of a node, for a failure message."""
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)} {getattr(node, 'name', '')}".strip()


def too_long(path: Path) -> list[str]:
    """Return the parts of a file that exceed their limit without giving a reason."""
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
    """Find docstrings that start with What, Whether or Where."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            text = ast.get_docstring(node)
            if text and RIDDLE.match(text):
                found.append(f"{named(path, node)}: {text.splitlines()[0]}")
    return found


def test_files_functions_and_classes_stay_within_their_limits() -> None:
    assert [line for path in sources("alpro", "flows") for line in too_long(path)] == []


def test_docstrings_begin_with_a_verb_or_a_noun() -> None:
    assert [line for path in sources("alpro", "flows", "tools", "benchmarks", "tests") for line in riddles(path)] == []


def test_every_documented_container_command_asks_for_the_same_shared_memory() -> None:
    """Docker gives 64 MB, which is too little for loader workers."""
    files = [ROOT / "Dockerfile", *ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    commands = [line for file in files for line in file.read_text().splitlines() if re.search(r"\b(docker|podman) run\b", line)]
    assert commands and [line for line in commands if "--shm-size" not in line] == []
    sizes = {file.name: set(re.findall(r"--shm-size[ =](\w+)", file.read_text())) for file in files}
    advised = set(re.findall(r"--shm-size=(\w+)", REMEDY))
    assert advised and {name: found for name, found in sizes.items() if found - advised} == {}
