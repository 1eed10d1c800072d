"""Prefect's server for one run: offline, on this machine only, and gone with the run, however that ends.

Prefect would start one itself, but that one dies of a Ctrl-C before the run can report, and outlives a run that is killed.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.commands import TOOLS, end

STARTUP_S = 300  # 5 s where its database exists, 20 s where not, minutes on a machine that is busy


@contextmanager
def embedded_server(home: Path) -> Iterator[None]:
    """Flows called in this block report to a server of their own, or to PREFECT_API_URL where that is set.

    Raises RuntimeError with the way to the server's log when it does not start.
    """
    from prefect.settings import PREFECT_API_URL, temporary_settings

    if PREFECT_API_URL.value():
        yield
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = home / ".prefect" / "server.log"
    log.parent.mkdir(exist_ok=True)
    app = ["--factory", "prefect.server.api.server:create_app", "--log-level", "error", "--lifespan", "on"]
    held = [sys.executable, "-E", "-S", str(TOOLS / "under_lock.py"), "server"]
    with log.open("w") as file:
        child = subprocess.Popen(
            [*held, sys.executable, "-m", "uvicorn", "--host", "127.0.0.1", "--port", str(port), *app],
            cwd=home,
            env={**os.environ, "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT_SERVER_UI_ENABLED": "false"},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C is for the run
        )
    try:
        _wait(f"http://127.0.0.1:{port}/api", child, log)
        with temporary_settings(updates={PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}):
            yield
    finally:
        end(child)


def _wait(url: str, child: subprocess.Popen[bytes], log: Path) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy does not know this machine's ports
    deadline = time.monotonic() + STARTUP_S
    while time.monotonic() < deadline and child.poll() is None:
        try:
            with direct.open(f"{url}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"Prefect's server did not start; its log: {log}")
