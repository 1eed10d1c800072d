"""The kind of file system that a folder is on."""

from __future__ import annotations

import os
import re
from pathlib import Path

_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "ceph", "afs", "fuse.sshfs", "fuse.glusterfs"}


def network_filesystem(folder: str | Path, mounts: str | Path = "/proc/self/mounts") -> str | None:
    """Return the type of the network file system that a folder is on (`nfs4`, ...), or None for a local one.

    Without /proc (not Linux) every file system counts as local.
    """
    folder = os.path.realpath(folder)
    longest, kind = -1, ""
    try:
        lines = Path(mounts).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    for line in lines:
        _, point, filesystem, *_ = line.split(" ")
        point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), point)  # a space is written as \040
        inside = point == "/" or folder == point or folder.startswith(f"{point}/")
        if inside and len(point) >= longest:  # of mounts on the same point the last is visible
            longest, kind = len(point), filesystem
    return kind if kind in _NETWORK else None
