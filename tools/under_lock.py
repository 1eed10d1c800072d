"""Run a command while holding a lock, and leave no process of it behind: `under_lock.py NAME COMMAND...`.

A second one with the same name ends at once with exit code 3 and says who holds the lock. When the command ends, or this
process is told to stop, or its parent dies, whatever the command started and left is ended too, within 5 s. When this
process is killed, so that it can do nothing any more, the system tells the command, and the next `under_lock.py` ends what
still runs. Needs Linux.
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
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def acquire(name: str) -> IO[str] | None:
    """Take the lock, or say who has it and return None. Left-overs of a killed holder are ended first."""
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
            ended = processes.stop([], also=lambda: processes.has_open(path))
            print(f"{name}: ended {len(ended)} processes that a killed run had left behind", file=sys.stderr)
        else:
            file_lock.write_holder(file)
            return file
    return None


def run(lock: IO[str], command: list[str]) -> int:
    """Run the command to its end and clean up after it. Returns its exit code, 128 + N for signal N."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)  # what a killed child leaves becomes ours, so that we can end it
    me = os.getpid()

    def in_child() -> None:
        _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != me:
            os._exit(1)

    def on_signal(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    os.set_inheritable(lock.fileno(), True)  # so that the lock lives as long as the last of the command's processes
    child = subprocess.Popen(command, close_fds=False, preexec_fn=in_child)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the command as well, which knows what to do
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    try:
        code = _wait(child)
    except SystemExit:
        _end_all()
        raise
    if left := _end_all():
        print(f"ended {len(left)} processes that were left over", file=sys.stderr)
    return 128 - code if code < 0 else code


def _wait(child: subprocess.Popen[bytes]) -> int:
    """The command's exit code. What it left to us and has ended is asked for as well: a server's zombies would pile up."""
    while True:
        pid, status = os.wait()
        if pid == child.pid:
            child.returncode = os.waitstatus_to_exitcode(status)
            return child.returncode


def _end_all() -> list[int]:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    return processes.stop([], also=lambda: processes.descendants(os.getpid()))


def main() -> int:
    name, *command = sys.argv[1:]
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)  # a killed `make` takes us, and so the whole run, along
    lock = acquire(name)
    return BUSY if lock is None else run(lock, command)


if __name__ == "__main__":
    sys.exit(main())
