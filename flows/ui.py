"""`make ui`: runs Prefect's server, MLflow's server and a worker with the deployments on this machine, until Ctrl-C.

PREFECT_PORT and MLFLOW_PORT change the ports 4200 and 5000. PREFECT_SERVER_API_AUTH_STRING (USER:PASSWORD) sets Prefect's
password; MLFLOW_AUTH_CONFIG_PATH (settings of MLflow's basic-auth app) turns on MLflow's. UI_HOSTS names the hosts of a reverse
proxy. The logs are in .prefect/.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

from alpro.lineage import main_checkout
from alpro.tracking import store
from alpro.tracking.pages import runs_address
from flows.artifacts import MLFLOW_PAGE
from flows.commands import end, environment, under_lock
from flows.local_server import mlflow_hosts, page_origins
from flows.server import STARTUP_S, server_module, wait_for_answer

HOST = "127.0.0.1"
POLL_S = 0.5
RESTART_S = 10  # pause before a worker that ended is started again
WORKER = "worker"
WORKER_COMMAND = ("prefect", "worker", "start", "--pool", "alpro", "--name", "ui")
# run in a separate process, because a process that has imported MLflow ends slowly
CREATE_STORE = "from alpro.tracking import store\nwith store.opened():\n    pass"


class UiError(Exception):
    """The servers cannot start or one has ended; the message says why and what to do."""


class Servers:
    """The running servers and the worker, each under tools/under_lock.py, so that no process outlives this one."""

    def __init__(self, logs: Path, variables: dict[str, str]) -> None:
        self.logs, self.variables = logs, variables
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *module: str) -> None:
        """Start `python -m MODULE...`; its output is written to NAME.log."""
        with (self.logs / f"{name}.log").open("a") as file:
            self.running[name] = subprocess.Popen(
                [*under_lock(f"ui-{name}"), sys.executable, "-m", *module],
                env={**environment(), **self.variables},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is handled by this process, which ends them in order
            )

    def check(self) -> None:
        """Raise UiError if a server has ended."""
        for name, process in self.running.items():
            if process.poll() is not None and name != WORKER:
                raise UiError(f"{name} ended with code {process.returncode}; see its log {self.logs / f'{name}.log'}")

    def wait_for(self, url: str) -> None:
        """Wait until a server answers. Raises UiError."""
        if not wait_for_answer(url, self.check, POLL_S):
            raise UiError(f"{url} does not answer after {STARTUP_S} s; see the logs in {self.logs}")

    def stop(self) -> None:
        """End the worker first, so that it can report the end of its runs, then all servers together."""
        if WORKER in self.running:
            end(self.running[WORKER])
        with ThreadPoolExecutor() as pool:
            list(pool.map(end, self.running.values()))


def port_of(variable: str, default: int, target: str = "ui", number: int = 1) -> int:
    """Return the port in a variable. Raises UiError if it is not valid, or if one of `number` ports from it on is not free."""
    text = os.environ.get(variable) or str(default)
    if not text.isdigit() or not 0 < int(text) < 65537 - number:
        raise UiError(f"{variable}={text} is not a port number; use one from 1 to {65536 - number}")
    for port in range(int(text), int(text) + number):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as error:
                command = f"make {target} {variable}={port + 1}"
                raise UiError(f"port {port} cannot be used ({error.strerror}); choose another one: {command}") from None
    return int(text)


def serve() -> None:
    """Start the servers and the worker, print their addresses, and run until one ends or on Ctrl-C. Raises UiError."""
    checkout = Path.cwd()
    logs = main_checkout(checkout) / ".prefect"
    logs.mkdir(exist_ok=True)
    prefect, mlflow, uri = port_of("PREFECT_PORT", 4200), port_of("MLFLOW_PORT", 5000), store.store_uri()
    api, page = f"http://{HOST}:{prefect}/api", f"http://{HOST}:{mlflow}"
    remote = store.is_server(uri)
    variables = {
        "PREFECT_API_URL": api,
        "PREFECT_SERVER_API_HOST": HOST,
        "PREFECT_SERVER_API_PORT": str(prefect),
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(page_origins(prefect)),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # saves a dozen processes for a feature that is not used
        MLFLOW_PAGE: store.redacted(uri) if remote else page,
        **store.QUIET,
    }
    if password := os.environ.get("PREFECT_SERVER_API_AUTH_STRING"):
        variables["PREFECT_API_AUTH_STRING"] = password  # needed by the deployments and the worker
    servers = Servers(logs, variables)
    try:
        print(f"ui: starting; the logs are in {logs}", flush=True)
        servers.start("prefect", *server_module(prefect, "info"))
        if not remote:
            _run_once(servers, "store", "-c", CREATE_STORE)  # create it if it does not exist
            servers.start("mlflow", "mlflow", *mlflow_server(mlflow, uri))
        servers.wait_for(f"{api}/health")
        _run_once(servers, "deploy", "-m", "flows.deploy")
        servers.start(WORKER, *WORKER_COMMAND)
        if not remote:
            servers.wait_for(f"{page}/health")
        print(f"ui: Prefect  http://{HOST}:{prefect}/deployments")
        print(f"ui: MLflow   {runs_address(checkout, variables[MLFLOW_PAGE])}")
        print("ui: Ctrl-C stops both", flush=True)
        while True:
            servers.check()
            if servers.running[WORKER].poll() is not None:  # its runs have ended with it
                print(f"ui: the worker ended (see its log {logs / WORKER}.log); starting another one", flush=True)
                servers.start(WORKER, *WORKER_COMMAND)
                time.sleep(RESTART_S)
            time.sleep(POLL_S)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        servers.stop()
        store.remove_undecoded_folder(uri)


def mlflow_server(port: int, uri: str) -> list[str]:
    """Return the arguments of `mlflow` that serve a store, with its password check if MLFLOW_AUTH_CONFIG_PATH is set."""
    auth = ["--app-name", "basic-auth"] if os.environ.get("MLFLOW_AUTH_CONFIG_PATH") else []
    address = ["--host", HOST, "--port", str(port), *mlflow_hosts()]
    return ["server", *address, "--workers", "1", "--backend-store-uri", uri, *auth]


def _run_once(servers: Servers, name: str, *python: str) -> None:
    """Run Python to its end; its output is written to NAME.log. Raises UiError with its last line if it fails."""
    variables = {**environment(), **servers.variables}
    process = subprocess.run([sys.executable, *python], env=variables, capture_output=True, text=True)
    log = servers.logs / f"{name}.log"
    log.write_text(process.stdout + process.stderr)
    if process.returncode:
        last = (process.stderr.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        raise UiError(f"{name}: {last}; see its log {log}")


def _on_signal(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> int:
    """Run the servers; return the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell starts background jobs with SIGINT ignored
        signal.signal(number, _on_signal)
    try:
        serve()
    except UiError as error:
        print(f"ui: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ui: ended")
    return 0


if __name__ == "__main__":
    sys.exit(main())
