"""Folder of resume states, caches and files kept aside: `.state` in the project, or the folder in ALPRO_STATE."""

from __future__ import annotations

import os
from pathlib import Path

from alpro.errors import ConfigError

DEFAULT = Path(".state")


def state_folder(root: Path | None = None) -> Path:
    """Return the state folder of the project in `root` (default: the working directory).

    Raises ConfigError if ALPRO_STATE is not an absolute path: stages of a flow run in another working directory.
    """
    value = os.environ.get("ALPRO_STATE")
    if not value:
        return DEFAULT if root is None else root / DEFAULT
    folder = Path(value).expanduser()
    if not folder.is_absolute():
        raise ConfigError(f"ALPRO_STATE={value}: must be an absolute path, a folder for this project alone")
    return folder


def write_hint(path: object) -> str:
    """Return what to do if a file in the state folder cannot be written; empty for any other file."""
    try:
        inside = Path(str(path)).absolute().is_relative_to(state_folder().absolute())
    except ConfigError:
        return ""
    return "; set ALPRO_STATE to a folder that can be written" if inside else ""
