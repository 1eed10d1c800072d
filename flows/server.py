"""A Prefect server for one run: local, without telemetry, and always ended with the run.

Prefect could start one itself, but that server ends at Ctrl-C before the run can report, and survives a killed run.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.commands import end, under_lock
from flows.local_server import FACTORY

_own_server = False
STARTUP_S = 300  # 5 s with an existing database, 20 s without, minutes on a busy machine


def wait_for_answer(url: str, check: Callable[[], object], interval_s: float) -> bool:
    """Wait until a local server answers; False after STARTUP_S. `check` is called repeatedly and may raise to stop."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy cannot reach local ports
    deadline = time.monotonic() + STARTUP_S
    while time.monotonic() < deadline:
        check()
        try:
            with direct.open(url, timeout=5):
                return True
        except OSError:
            time.sleep(interval_s)
    return False


def server_module(port: int, log_level: str) -> list[str]:
    """Return the arguments of `python -m` that start Prefect's server for this machine only (flows/local_server.py)."""
    address = ["--host", "127.0.0.1", "--port", str(port)]
    folder = str(Path(__file__).resolve().parents[1])
    return ["uvicorn", "--app-dir", folder, *address, "--log-level", log_level, "--lifespan", "on", "--factory", FACTORY]


def has_own_server() -> bool:
    """Return True within `embedded_server` if it started a server, which no other run can see."""
    return _own_server


@contextmanager
def embedded_server(home: Path) -> Iterator[None]:
    """Start a Prefect server for the flows called in this block, unless PREFECT_API_URL names one.

    Raises RuntimeError with the path of the server's log if it does not start.
    """
    global _own_server
    from prefect.settings import PREFECT_API_URL, temporary_settings

    if PREFECT_API_URL.value():
        yield
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = home / ".prefect" / "server.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("w") as file:
        child = subprocess.Popen(
            [*under_lock("server"), sys.executable, "-m", *server_module(port, "error")],
            cwd=home,
            env={**os.environ, "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT_SERVER_UI_ENABLED": "false"},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is handled by the run
        )

    def check() -> None:
        if child.poll() is not None:
            raise RuntimeError(f"Prefect's server ended with code {child.returncode}; see its log {log}")

    try:
        if not wait_for_answer(f"http://127.0.0.1:{port}/api/health", check, 0.1):
            raise RuntimeError(f"Prefect's server did not start within {STARTUP_S} s; see its log {log}")
        _own_server = True
        with temporary_settings(updates={PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}):
            yield
    finally:
        _own_server = False
        end(child)
