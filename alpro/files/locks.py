"""alpro/files/locks.py: NEW MODULE."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path

from alpro.errors import TrainingError


class Lock:
    """A file that one process at a time holds: a record lock, which dies with its process and no child inherits."""

    def __init__(self, path: Path, doing: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        while True:
            self.handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.lockf(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.exists(path) and os.path.samestat(os.fstat(self.handle), os.stat(path)):
                    break  # else its last holder removed it between our two calls
                os.close(self.handle)
            except OSError:
                holder = os.pread(self.handle, 200, 0).decode(errors="replace").strip() or "another process"
                os.close(self.handle)
                raise TrainingError(f"{path}: {doing} already runs ({holder}); wait for it, or end it first") from None
        os.ftruncate(self.handle, 0)
        os.pwrite(self.handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def release(self) -> None:
        """Let others in; the file goes too. A second call does nothing."""
        if self.handle >= 0:
            self.path.unlink(missing_ok=True)
            os.close(self.handle)
            self.handle = -1
