"""Runs a command while holding a lock, and leaves none of its processes behind: `under_lock.py NAME COMMAND...`.

If the lock is held, exits at once with code 3 and names the holder. When the command ends, is interrupted or loses its
parent, all its remaining child processes are terminated within 5 s. If this process is killed, the kernel sends SIGTERM to
the command, and the next `under_lock.py` terminates what still runs. Needs Linux.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

import file_lock
import processes

BUSY = 3
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
FOLDER = Path(".make")


def _prctl(option: int, value: int) -> None:
    """Call prctl(2). alpro/system/parent.py has the same call, but cannot be imported before anything is installed."""
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def acquire(name: str) -> IO[str] | None:
    """Take the lock; if it is held, print by whom and return None. First stop processes that a killed holder has left."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}.lock"
    for attempt in range(2):
        try:
            file = file_lock.acquire(path)
        except file_lock.LockHeld as held:
            if attempt or not held.pid or processes.alive(held.pid):
                print(
                    f"{name}: already running in this checkout ({held}); "
                    f"wait for it, or stop it with: kill {held.pid or '...'}",
                    file=sys.stderr,
                )
                return None
            # the holder was killed; its child processes still run and have inherited the lock
            stopped = processes.stop([], also=lambda: processes.has_open(path))
            print(f"{name}: stopped {len(stopped)} processes that a killed run had left behind", file=sys.stderr)
        else:
            file_lock.write_holder(file)
            return file
    return None


def run(lock: IO[str], command: list[str]) -> int:
    """Run the command and clean up after it. Return its exit code, or 128 + N for signal N."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)  # orphans of the command become our children, so that we can stop them
    me = os.getpid()

    def in_child() -> None:
        _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != me:
            os._exit(1)

    def on_signal(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    os.set_inheritable(lock.fileno(), True)  # the lock is held until the last of the command's processes ends
    child = subprocess.Popen(command, close_fds=False, preexec_fn=in_child)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the command as well, which handles it
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    try:
        code = _wait(child)
    except SystemExit:
        _stop_all()
        raise
    if leftovers := _stop_all():
        print(f"stopped {len(leftovers)} processes that the command had left behind", file=sys.stderr)
    return 128 - code if code < 0 else code


def _wait(child: subprocess.Popen[bytes]) -> int:
    """Return the command's exit code. Also collects orphans that end, which would pile up as zombies."""
    while True:
        pid, status = os.wait()
        if pid == child.pid:
            child.returncode = os.waitstatus_to_exitcode(status)
            return child.returncode


def _stop_all() -> list[int]:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    return processes.stop([], also=lambda: processes.descendants(os.getpid()))


def main() -> int:
    name, *command = sys.argv[1:]
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)  # if `make` is killed, the whole run ends
    lock = acquire(name)
    return BUSY if lock is None else run(lock, command)


if __name__ == "__main__":
    sys.exit(main())
