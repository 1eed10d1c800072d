"""`make ui`: Prefect's server, MLflow's server and a worker with the deployments, on this machine only, until Ctrl-C.

PREFECT_PORT and MLFLOW_PORT choose other ports than 4200 and 5000. With PREFECT_SERVER_API_AUTH_STRING (USER:PASSWORD)
Prefect asks for a password, with MLFLOW_AUTH_CONFIG_PATH (settings of MLflow's basic-auth app) MLflow does. The logs lie in
.prefect/.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

from alpro.lineage import home
from alpro.tracking import store
from flows.artifacts import MLFLOW_PAGE
from flows.commands import TOOLS, end, environment

HOST = "127.0.0.1"
STARTUP_S = 300  # Prefect's server makes its database the first time; a busy machine takes its time
LOOK_S = 0.5
RESTART_S = 10  # between two starts of a worker that can't live
WORKER = "worker"
WORK = ("prefect", "worker", "start", "--pool", "alpro", "--name", "ui")
# a process of its own: MLflow, once imported, keeps its process from ending soon
STORE = "from alpro.tracking import store\nwith store.opened():\n    pass"


class Refused(Exception):
    """Something is in the way; the message says what, and what to do."""


class Servers:
    """What runs, each under tools/under_lock.py: none outlives this process, and none of theirs outlives them."""

    def __init__(self, logs: Path, variables: dict[str, str]) -> None:
        self.logs, self.variables = logs, variables
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *module: str) -> None:
        """Start `python -m MODULE...`; its output goes to NAME.log."""
        held = [sys.executable, "-E", "-S", str(TOOLS / "under_lock.py"), f"ui-{name}"]
        with (self.logs / f"{name}.log").open("a") as file:
            self.running[name] = subprocess.Popen(
                [*held, sys.executable, "-m", *module],
                env={**environment(), **self.variables},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C is for this process, which ends them in order
            )

    def check(self) -> None:
        """Raises Refused where a server has ended."""
        for name, process in self.running.items():
            if process.poll() is not None and name != WORKER:
                raise Refused(f"{name} ended with code {process.returncode}; its log: {self.logs / f'{name}.log'}")

    def answering(self, url: str) -> None:
        """Wait until a server answers."""
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy does not know this machine's ports
        deadline = time.monotonic() + STARTUP_S
        while time.monotonic() < deadline:
            self.check()
            try:
                with direct.open(url, timeout=5):
                    return
            except OSError:
                time.sleep(LOOK_S)
        raise Refused(f"{url} does not answer after {STARTUP_S} s; the logs lie in {self.logs}")

    def stop(self) -> None:
        """The worker first: it ends its runs, and still can tell the server. Then the servers, together."""
        if WORKER in self.running:
            end(self.running[WORKER])
        with ThreadPoolExecutor() as pool:
            list(pool.map(end, self.running.values()))


def port_of(variable: str, default: int) -> int:
    """The port that a variable names, and that is free. Raises Refused."""
    text = os.environ.get(variable) or str(default)
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise Refused(f"{variable}={text} is no port number")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, int(text)))
        except OSError as error:
            another = f"make ui {variable}={int(text) + 1}"
            raise Refused(f"port {text} can't be used ({error.strerror}); choose another: {another}") from None
    return int(text)


def serve() -> None:
    """Start all, say where, wait until one ends or somebody ends this. Raises Refused."""
    checkout = Path.cwd()
    logs = home(checkout) / ".prefect"
    logs.mkdir(exist_ok=True)
    prefect, mlflow, uri = port_of("PREFECT_PORT", 4200), port_of("MLFLOW_PORT", 5000), store.store_uri()
    api, page = f"http://{HOST}:{prefect}/api", f"http://{HOST}:{mlflow}"
    elsewhere = uri.startswith(("http://", "https://"))
    variables = {
        "PREFECT_API_URL": api,
        "PREFECT_SERVER_API_HOST": HOST,
        "PREFECT_SERVER_API_PORT": str(prefect),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # a dozen processes for jobs that nobody here starts
        MLFLOW_PAGE: store.redacted(uri) if elsewhere else page,
        **store.QUIET,
    }
    if password := os.environ.get("PREFECT_SERVER_API_AUTH_STRING"):
        variables["PREFECT_API_AUTH_STRING"] = password  # the deployments and the worker are asked for it too
    servers = Servers(logs, variables)
    try:
        print(f"ui: starting; logs in {logs}", flush=True)
        servers.start("prefect", "prefect", "server", "start", "--host", HOST)
        if not elsewhere:
            _once(servers, "store", "-c", STORE)  # made where there is none yet
            servers.start("mlflow", "mlflow", *mlflow_server(mlflow, uri))
        servers.answering(f"{api}/health")
        _once(servers, "deploy", "-m", "flows.deploy")
        servers.start(WORKER, *WORK)
        if not elsewhere:
            servers.answering(f"{page}/health")
        print(f"ui: Prefect http://{HOST}:{prefect}   MLflow {variables[MLFLOW_PAGE]}   Ctrl-C ends both", flush=True)
        while True:
            servers.check()
            if servers.running[WORKER].poll() is not None:  # its runs have ended with it; the pages shall show that
                print(f"ui: the worker ended; another one starts (its log: {logs / WORKER}.log)", flush=True)
                servers.start(WORKER, *WORK)
                time.sleep(RESTART_S)
            time.sleep(LOOK_S)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        servers.stop()


def mlflow_server(port: int, uri: str) -> list[str]:
    """The words after `mlflow` that serve a store's pages, behind MLflow's password where its settings are named."""
    asked = ["--app-name", "basic-auth"] if os.environ.get("MLFLOW_AUTH_CONFIG_PATH") else []
    return ["server", "--host", HOST, "--port", str(port), "--workers", "1", "--backend-store-uri", uri, *asked]


def _once(servers: Servers, name: str, *python: str) -> None:
    """Run Python to its end; its output goes to NAME.log. Raises Refused with its last line."""
    given = {**environment(), **servers.variables}
    done = subprocess.run([sys.executable, *python], env=given, capture_output=True, text=True)
    log = servers.logs / f"{name}.log"
    log.write_text(done.stdout + done.stderr)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise Refused(f"{name}: {last}; its log: {log}")


def _on_signal(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> int:
    """1 with one line where something is in the way."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell starts background jobs deaf to the first
        signal.signal(number, _on_signal)
    try:
        serve()
    except Refused as refused:
        print(f"ui: {refused}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ui: ended")
    return 0


if __name__ == "__main__":
    sys.exit(main())
