"""Complete parameter sets under recipes/, and how one becomes params.yaml."""

from __future__ import annotations

from pathlib import Path

from alpro.config import load
from alpro.errors import ConfigError, nearest
from alpro.files.atomic import atomic_write

RECIPES = Path("recipes")


def names() -> list[str]:
    """The recipes that lie in recipes/."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def describe(name: str) -> str:
    """The comment on a recipe's first lines, as one line."""
    lines = []
    for line in path_of(name).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines)


def use(name: str, params: Path = Path("params.yaml")) -> None:
    """Write params.yaml from a recipe; from then on params.yaml is the only source. Raises ConfigError on a bad recipe."""
    path = path_of(name)
    load(path)
    atomic_write(params, path.read_bytes())


def path_of(name: str) -> Path:
    """The file of a recipe. Raises ConfigError for an unknown name."""
    path = RECIPES / f"{name}.yaml"
    if not path.exists():
        raise ConfigError(f"recipe {name!r}: not in {RECIPES}/ ({', '.join(names()) or 'empty'}){nearest(name, names())}")
    return path
