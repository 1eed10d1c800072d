"""Files of a checkpoint directory of our own, and the form of a weights file by its first bytes."""

from __future__ import annotations

from pathlib import Path

WEIGHTS, CONFIG = "model.safetensors", "config.json"
ZIP_START = b"PK\x03\x04"


def is_zip(path: Path) -> bool:
    """Return True if torch reads a file as a zip: by its first bytes, as data of another kind may have a zip at its end."""
    with path.open("rb") as file:
        return file.read(len(ZIP_START)) == ZIP_START
