"""Recipes: complete parameter files in recipes/, one of which becomes params.yaml."""

from __future__ import annotations

from pathlib import Path

from alpro.config import load
from alpro.config.schema import LINE, with_schema_line
from alpro.errors import ConfigError, nearest
from alpro.files.atomic import atomic_write

RECIPES = Path("recipes")


def names() -> list[str]:
    """Return the names of the recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def describe(name: str) -> str:
    """Return the comment at the top of a recipe as one line."""
    lines = []
    for line in path_of(name).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if line.startswith(LINE):
            continue
        lines.append(line.lstrip("# "))
    return " ".join(lines)


def use(name: str, params: Path = Path("params.yaml")) -> None:
    """Write params.yaml from a recipe. Raises ConfigError if the recipe is not valid."""
    path = path_of(name)
    load(path)
    atomic_write(params, with_schema_line(path.read_text(encoding="utf-8")))


def path_of(name: str) -> Path:
    """Return the file of a recipe. Raises ConfigError for an unknown name."""
    path = RECIPES / f"{name}.yaml"
    if not path.exists():
        raise ConfigError(f"recipe {name!r}: not in {RECIPES}/ ({', '.join(names()) or 'empty'}){nearest(name, names())}")
    return path
