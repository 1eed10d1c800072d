"""MkDocs hook: generates the pages on commands and on error messages from the code, so that they cannot be out of date."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
INTRODUCTION = """# Error messages

All messages of the commands, by package, generated from the code; … stands for a value. Each is printed as one line,
with exit code 2. The web page shows its messages, and the HTTP service answers with them.
"""


def on_files(files: Any, config: Any) -> Any:
    """Add the pages `cli.md` and `messages.md`. Raises CalledProcessError if the command line cannot be imported."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "cli.md", content=command_reference()))
    files.append(File.generated(config, "messages.md", content=message_reference()))
    return files


def command_reference() -> str:
    """Return the help of all commands as Markdown."""
    command = [sys.executable, "-m", "typer", "alpro.cli.main", "utils", "docs", "--name", "alpro", "--title", "Command line"]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout


def message_reference() -> str:
    """Return the messages of all errors that the command line prints, as Markdown."""
    page = [INTRODUCTION]
    for folder in sorted(path for path in (ROOT / "alpro").iterdir() if path.is_dir()):
        texts = sorted({text for file in sorted(folder.rglob("*.py")) for text in messages(file.read_text())})
        if texts:
            page += [f"## alpro.{folder.name}\n", *(f"- `{text}`" for text in texts), ""]
    return "\n".join(page)


def messages(source: str) -> Iterator[str]:
    """Yield the texts of the errors of the package that a module raises, with … for values."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Raise) or not isinstance(node.exc, ast.Call) or not node.exc.args:
            continue
        name, text = node.exc.func, node.exc.args[0]
        if isinstance(name, ast.Name) and name.id == "RequestError" and len(node.exc.args) > 2:
            text = node.exc.args[2]  # after the status and the code
        if isinstance(name, ast.Name) and name.id.endswith("Error") and name.id not in dir(__builtins__):
            parts = text.values if isinstance(text, ast.JoinedStr) else [text]
            if isinstance(text, ast.JoinedStr | ast.Constant):
                written = "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts)
                if len(written) > 12 and not name.id.startswith(("Value", "Type", "Key", "Index", "Runtime", "OS", "Timeout")):
                    yield " ".join(written.replace("`", "'").split())
