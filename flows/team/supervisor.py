"""Starts the team servers as child processes, starts those again that end, and stops all of them in order."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flows.commands import end, environment, under_lock
from flows.team.layout import TeamError

POLL_S = 0.5
STARTUP_S = 300  # minutes on a busy machine
OLD_DATABASE = "out-of-date database schema"  # MLflow
RESTART_S = 10  # pause before a server that ended is started again


@dataclass(frozen=True)
class Service:
    """One server. `ready` returns True when it answers; `stop` ends it cleanly before its process is ended."""

    name: str
    command: Sequence[str]
    ready: Callable[[], bool]
    variables: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    stop: Callable[[], object] | None = None


class Supervisor:
    """The running servers, each under tools/under_lock.py, so that no process outlives this one.

    A file `hold/NAME` in the folder of the servers keeps a server stopped until the file is removed, for maintenance.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.services: dict[str, Service] = {}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.ended_at: dict[str, float] = {}
        self.log_starts: dict[str, int] = {}  # size of the log when the server was started
        for name in ("logs", "hold"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def log(self, name: str) -> Path:
        """Return the file of a server's output."""
        return self.folder / "logs" / f"{name}.log"

    def start(self, *services: Service) -> None:
        """Start servers together and wait until all answer. Raises TeamError if one ends or does not answer.

        They are started by this thread: the kernel ends a child of under_lock.py's kind with the thread that started it.
        """
        for service in services:
            self.services[service.name] = service
            self._launch(service)
        for service in services:
            self._wait(service)

    def _wait(self, service: Service) -> None:
        deadline = time.monotonic() + STARTUP_S
        while not service.ready():
            if self.running[service.name].poll() is not None:
                raise TeamError(f"{service.name}: {self._last_line(service.name)}; see its log {self.log(service.name)}")
            if time.monotonic() > deadline:
                raise TeamError(f"{service.name}: no answer after {STARTUP_S} s; see its log {self.log(service.name)}")
            time.sleep(POLL_S)

    def _launch(self, service: Service) -> None:
        with self.log(service.name).open("a") as file:
            self.log_starts[service.name] = file.tell()
            self.running[service.name] = subprocess.Popen(
                [*under_lock(f"team-{service.name}"), *service.command],
                cwd=service.folder,
                env={**environment(), **service.variables},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is handled by this process, which ends them in order
                umask=0o077,  # SeaweedFS makes sockets in /tmp
            )

    def _last_line(self, name: str) -> str:
        """Return the last line that the server has printed since it was started, or the remedy for an old database."""
        with self.log(name).open("rb") as file:
            file.seek(self.log_starts[name])
            lines = file.read().decode(errors="replace").strip().splitlines() or ["ended without a word"]
        if any(OLD_DATABASE in line for line in lines):
            return "its database was made by an earlier version; run `make team-upgrade`"
        return lines[-1][:300]

    def check(self) -> None:
        """Stop the servers that are held, and start those that have ended or are no longer held."""
        for name, service in self.services.items():
            held, process = (self.folder / "hold" / name).exists(), self.running[name]
            if held and process.poll() is None:
                print(f"team: {name} is held; remove {self.folder / 'hold' / name} to start it again", flush=True)
                self._end(service)
            elif not held and process.poll() is not None:
                ended = self.ended_at.setdefault(name, time.monotonic())
                if time.monotonic() - ended >= RESTART_S:
                    print(f"team: {name} ended with code {process.returncode}; starting it again", flush=True)
                    self.ended_at.pop(name)
                    self._launch(service)

    def _end(self, service: Service) -> None:
        if service.stop is not None and self.running[service.name].poll() is None:
            service.stop()
        end(self.running[service.name])

    def stop(self) -> None:
        """End all servers: the newest first, because later ones use earlier ones."""
        for service in reversed(self.services.values()):
            if service.name in self.running:
                self._end(service)
