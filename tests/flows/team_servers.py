"""Team servers for tests: real PostgreSQL, S3, MLflow and Prefect on free ports, in a clone of this repository."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from flows.team import postgres, s3
from flows.team.layout import ADMIN, Ports, Team, TeamError, client_variables

from .conftest import REPOSITORY, living_in, wait_for

PASSED_ON = ("PREFECT_", "MLFLOW_", "AWS_")  # variables of other servers


def missing() -> str | None:
    """Return why the servers cannot start here, or None."""
    try:
        postgres.binaries()
        s3.program()
    except TeamError as error:
        return str(error)
    absent = [name for name in ("psycopg", "boto3", "dvc_s3", "flask_wtf") if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


@contextmanager
def empty_folder() -> Iterator[Path]:
    """A folder that PostgreSQL's user can enter, if this is root."""
    home = Path(tempfile.mkdtemp(prefix="alpro-team-"))
    home.chmod(0o711)
    try:
        yield home
    finally:
        shutil.rmtree(home)


@dataclass
class Servers:
    """The servers of one folder, started in a clone of this repository."""

    checkout: Path
    team: Team
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def environment(self, **variables: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(PASSED_ON)}
        own = {"ALPRO_TEAM": str(self.team.folder), "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *paths()])}
        own |= {f"GIT_{who}_{what}": "t@t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        ports = {f"{name.upper()}_PORT": str(port) for name, port in vars(self.team.ports).items()}
        return {**kept, **own, **ports, **variables}

    def run(self, *words: str, cwd: Path | None = None, fails: bool = False, **variables: str) -> str:
        """Run a program of this environment as a client of the servers; return stdout, or stderr if it should fail."""
        environment = self.environment(**{**client_variables(self.team), **variables})
        done = subprocess.run(words, cwd=cwd or self.checkout, env=environment, capture_output=True, text=True)
        assert (done.returncode != 0) is fails, done.stdout + done.stderr
        return done.stderr if fails else done.stdout

    def command(self, *words: str, cwd: Path | None = None, fails: bool = False) -> str:
        """Run `python -m flows.team` and return its output, of stderr if it should fail."""
        line = [sys.executable, "-m", "flows.team", *words]
        done = subprocess.run(line, cwd=cwd or self.checkout, env=self.environment(), capture_output=True, text=True)
        assert (done.returncode != 0) is fails, done.stdout + done.stderr
        return done.stderr if fails else done.stdout

    def start(self) -> None:
        """Start them by a shell that ignores SIGINT, as it does for jobs in the background of a script."""
        line = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, "-m", "flows.team"]
        with self.log.open("w") as file:
            self.process = subprocess.Popen(line, cwd=self.checkout, env=self.environment(), stdout=file, stderr=file)
        wait_for(lambda: self.process.poll() is not None or "Ctrl-C" in self.log.read_text(), "servers")
        assert self.process.poll() is None, self.log.read_text()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End them, and check that no process is left."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            code = self.process.wait(120)
            assert code == (-number if number == signal.SIGKILL else 0), self.log.read_text()
            wait_for(lambda: not [*living_in(self.checkout), *living_in(self.team.folder)], "end of the processes")

    def prefect(self, method: str, path: str, body: Any = None) -> Any:
        """Ask Prefect's API, as its pages do."""
        word = b64encode(f"{ADMIN}:{self.team.secret('prefect')}".encode()).decode()
        headers = {"Authorization": f"Basic {word}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(f"{self.team.address('prefect')}/api{path}", data, headers, method=method)
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return json.load(answer)


def paths() -> list[str]:
    """Return the folders of PYTHONPATH, with which packages may have been added to this environment."""
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def free_ports() -> Ports:
    """Return ports that are free now; S3 needs eight in a row."""
    for first in range(20000, 30000, 16):
        if all(map(is_free, range(first, first + 11))):
            return Ports(first, first + 1, first + 9, first + 10)
    raise AssertionError("no free ports")


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return probe.connect_ex(("127.0.0.1", port)) != 0


def refusal(port: int, path: str = "/", scheme: str = "http") -> int:
    """Return the HTTP status of a request without a password; 0 if the port speaks no HTTP to strangers."""
    stranger = ssl.create_default_context()
    stranger.check_hostname, stranger.verify_mode = False, ssl.CERT_NONE
    try:
        with urllib.request.urlopen(f"{scheme}://127.0.0.1:{port}{path}", timeout=10, context=stranger) as answer:
            return answer.status
    except urllib.error.HTTPError as answer:
        return answer.code
    except (OSError, ValueError):
        return 0


def process_of(team: Team, program: str) -> psutil.Process:
    """Return the first process of a program that works in the team's folder, such as `weed`."""
    for pid in sorted(living_in(team.folder)):
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            if process.name() == program:
                return process
    raise AssertionError(f"no process {program} in {team.folder}")
