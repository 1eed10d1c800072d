"""Packages that a machine without registries lacks, carried as wheels and put on the path."""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path

from alpro.errors import ConfigError

LIMIT_MB = 64  # of all wheels together


def put_on_path(folder: Path, target: Path) -> list[str]:
    """Unpack the wheels of a folder that fit this Python into `target`, and put that on the path, of children too.

    Returns the names of their files. Raises ConfigError if the folder has no wheels, none that fits, or over 64 MB.
    """
    from packaging.tags import sys_tags
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        raise ConfigError(f"--wheels {folder}: has no .whl files; `pip download --no-deps av decord psutil` gets them")
    size = sum(wheel.stat().st_size for wheel in wheels) / 1e6
    if size > LIMIT_MB:
        raise ConfigError(f"--wheels {folder}: has {size:.0f} MB, but at most {LIMIT_MB} MB are carried; remove some")
    supported = set(sys_tags())
    fitting = []
    for wheel in wheels:
        try:
            tags = parse_wheel_filename(wheel.name)[3]
        except InvalidWheelFilename as error:
            raise ConfigError(f"--wheels {folder}: {error}; a wheel must keep the name under which it was published") from None
        if tags & supported:
            fitting.append(wheel)
    if not fitting:
        raise ConfigError(f"--wheels {folder}: no wheel fits this Python ({sys.version.split()[0]} on this machine)")
    for wheel in fitting:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target)  # libraries inside cannot be loaded from an archive
    sys.path.insert(0, str(target))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(target), os.environ.get("PYTHONPATH")]))
    return [wheel.name for wheel in fitting]
