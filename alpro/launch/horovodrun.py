"""Starts the ranks of a world with Horovod's own parts, as `horovodrun` does, without its open doors.

`horovodrun` puts all environment variables into command lines that every user of the host can read, opens the rendezvous on
every network interface to whoever asks, and unpickles what elastic ranks send to it. Here the variables reach each rank
through a pipe (over ssh or srun for other hosts), the rendezvous listens on one address and refuses requests that do not
prove the run's secret, and nothing is unpickled.

Run as `python -m alpro.launch.horovodrun OPTIONS COMMAND...` by the supervisor, which sets ALPRO_LAUNCHER.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import shlex
import socketserver
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from horovod.runner.common.util import hosts as host_lists
from horovod.runner.common.util import safe_shell_exec
from horovod.runner.elastic.rendezvous import PUT_WORKER_ADDRESSES
from horovod.runner.elastic.settings import ElasticSettings
from horovod.runner.gloo_run import create_slot_env_vars, launch_gloo_elastic, register_shutdown_event
from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer, RendezvousServer

from alpro.config import Launch
from alpro.launch import environment, heartbeat, rendezvous, start
from alpro.launch.diagnosis import HOSTS_CHANGED
from alpro.launch.proof import prove, proves
from alpro.launch.remote import Discovery
from alpro.launch.ssh import is_remote, reach

SSH_TIMEOUT_S = 10
REQUEST_S = 30  # limit of each read of a request


class SecretRendezvous(RendezvousServer):
    """Horovod's rendezvous on one address, for requests that prove the run's secret."""

    def __init__(self, address: str, secret: str) -> None:
        super().__init__()
        self.address, self.secret, self.port = address, secret, 0

    def start(self, handler_cls: type[RendezvousHandler] = RendezvousHandler) -> int:
        """Start listening; return the port."""
        handler = type("ProvenHandler", (_ProvenHandler, handler_cls), {})
        self._httpd = _Server((self.address, 0), handler, 0)
        self._httpd.secret = self.secret
        self._listen_thread = threading.Thread(target=self._httpd.serve_forever, daemon=True)
        self._listen_thread.start()
        self.port = int(self._httpd.server_address[1])
        return self.port


class _Server(RendezvousHTTPServer):
    daemon_threads = True
    secret = ""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.used_nonces: set[str] = set()
        self.reported_hosts: set[str] = set()

    def server_bind(self) -> None:
        """Bind the address without looking up its name, which takes long where the name service does not answer."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report a request that fails in one line and once per host; the default prints a traceback for each."""
        self.report(client_address[0], f"a request from {client_address[0]} to the rendezvous failed: {sys.exc_info()[1]!r}")

    def report(self, host: str, line: str) -> None:
        """Report a faulty request, once per host, so that nobody can flood the log."""
        if host not in self.reported_hosts:
            self.reported_hosts.add(host)
            say(f"alpro launch: {line}")


class _ProvenHandler(RendezvousHandler):
    """Refuses requests without a proof, and answers with one."""

    rfile: Any
    timeout = REQUEST_S

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        length = self.headers.get("Content-Length") or "0"
        digest = self.headers.get(rendezvous.DIGEST_HEADER) or ""
        self.nonce = self.headers.get(rendezvous.NONCE_HEADER) or ""
        proof = self.headers.get(rendezvous.PROOF_HEADER)
        request = (self.nonce, self.command, self.path, length, digest)
        # the body is read after the proof, which contains its length and digest
        proven = proves(proof, self.server.secret, rendezvous.REQUEST, *request) and self._read_body(length, digest)
        if not proven or not self._is_new_nonce():
            self._refuse("it does not prove this run's secret")
            return False
        _, _, scope = self.path.partition("/")
        if self.command not in ("GET", "PUT", "DELETE") or scope.count("/") != 1 or scope.startswith(PUT_WORKER_ADDRESSES):
            self._refuse("ranks do not send such requests")
            return False
        return True

    def _read_body(self, length: str, digest: str) -> bool:
        """Read the body; return False if it is not the announced one."""
        if not (length.isascii() and length.isdigit()) or int(length) > rendezvous.MAX_BODY_BYTES:
            return False
        body = self.rfile.read(int(length))
        self.rfile = io.BytesIO(body)
        return rendezvous.digest(body) == digest

    def _is_new_nonce(self) -> bool:
        if self.command == "GET":
            return True
        with self.server.cache_lock:
            is_new = self.nonce not in self.server.used_nonces
            self.server.used_nonces.add(self.nonce)
        return is_new

    def _refuse(self, reason: str) -> None:
        host = self.client_address[0]
        self.server.report(host, f"refused a request from {host} to the rendezvous: {reason}")
        self.send_error(403)

    def do_GET(self) -> None:
        _, scope, key = self.path.split("/")
        value = self._get_value(scope, key)
        self._answer(404 if value is None else 200, value or b"")

    def send_status_code(self, status_code: int) -> None:
        self._answer(status_code, b"")

    def _answer(self, status: int, content: bytes) -> None:
        proof = prove(self.server.secret, rendezvous.ANSWER, self.nonce, status, content).hex()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header(rendezvous.PROOF_HEADER, proof)
        self.end_headers()
        self.wfile.write(content)


class World:
    """The processes of one run: how each is started, and with which variables."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.ssh = reach(options.remote_shell, options.ssh_port, options.ssh_identity_file)
        self.address, _, secret = os.environ[heartbeat.ADDRESS].rsplit(":", 2)
        self.server = SecretRendezvous(self.address, secret)
        self.ended = threading.Event()  # one process has failed, so all must end; not in elastic worlds
        self.numbers = itertools.count()  # of the pipes

    def run(self) -> None:
        """Run all processes to their end. Exits with a message if one fails."""
        slots = host_lists.get_host_assignments(host_lists.parse_hosts(self.hosts()), self.options.np, self.options.np)
        self._check_reach(sorted({slot.hostname for slot in slots}))
        self.server.start()
        self.server.init(slots)
        events = [register_shutdown_event(), self.ended]
        with ThreadPoolExecutor(len(slots)) as pool:
            results = list(pool.map(lambda slot: self.execute(slot, events), slots))
        failed = [(at_s, slot.rank, code) for slot, (code, at_s) in zip(slots, results, strict=True) if code]
        if failed:
            _, rank, code = min(failed)
            sys.exit(f"rank {rank} was the first to end with an error, exit code {code}")

    def run_elastic(self) -> None:
        """Run the processes that the discovery program allows. Exits with a message if too few remain."""
        settings = ElasticSettings(
            discovery=Discovery(self.options.host_discovery_script, self.address, say, self._examine),
            num_proc=self.options.np, min_num_proc=self.options.min_np, max_num_proc=self.options.max_np,
            elastic_timeout=self.options.elastic_timeout, reset_limit=None,
        )  # fmt: skip

        def prepare(driver: Any) -> set[str]:
            driver.get_worker_client = lambda slot: _HostsNews()  # instead of a pickle to a port of the rank
            return {start.interface_to(self.address)}

        try:
            launch_gloo_elastic(
                [], lambda _, slot, events: self.execute(slot, events), settings, {}, prepare, self.server, None
            )
        except RuntimeError as error:
            sys.exit(" ".join(str(error).split()))

    def _examine(self, host: str) -> str:
        """Return what is wrong with a host that an elastic run may add."""
        if self.options.params is None:
            return ""
        from alpro.config import load
        from alpro.errors import AlproError
        from alpro.launch import hosts

        try:
            params = load(self.options.params)
            reach = {"hosts": f"{host}:1", "processes": 1, "min_processes": None, "max_processes": None, "discovery": None}
            settings = Launch(**{**params.launch.model_dump(), **reach})
            return "; ".join(fault for one in hosts.check(settings, params, self.options.params) for fault in one.faults)
        except (AlproError, OSError) as error:
            return str(error)

    def hosts(self) -> str:
        """Return the hosts, `name:slots,...`."""
        return self.options.hosts or f"localhost:{self.options.np}"

    def _check_reach(self, hosts: list[str]) -> None:
        """Exit with a message if a host cannot be reached without a password."""
        for host in filter(is_remote, hosts):
            output = io.StringIO()
            command = self.ssh.line(host, "true", SSH_TIMEOUT_S)
            if safe_shell_exec.execute(f"{command} < /dev/null", stdout=output, stderr=output):
                sys.exit(f"{self.options.remote_shell} to {host} failed: {' '.join(output.getvalue().split())}")

    def execute(self, slot: Any, events: list[threading.Event]) -> tuple[int, float]:
        """Run one process to its end; return its exit code and the time of its end."""
        command = shlex.join([sys.executable, "-I", start.__file__, *self.options.command])
        if is_remote(slot.hostname):
            command = self.ssh.line(slot.hostname, f"cd {shlex.quote(os.getcwd())} > /dev/null 2>&1 ; exec {command}")
        pipe = self.folder / str(next(self.numbers))
        os.mkfifo(pipe, 0o600)
        threading.Thread(target=self._send_variables, args=(pipe, slot), daemon=True).start()
        code = safe_shell_exec.execute(f"{command} < {shlex.quote(str(pipe))}", index=slot.rank, events=events)
        if code != 0:
            say(f"Process {slot.rank} exit with status code {code}.")
            if not self.options.host_discovery_script:
                self.ended.set()
        return code, time.time()

    def _send_variables(self, pipe: Path, slot: Any) -> None:
        """Write the variables of a rank into its pipe; nothing is kept on disk."""
        variables = environment.sent_variables(os.environ) | create_slot_env_vars(slot)
        variables |= {
            rendezvous.ADDRESS: self.address,
            rendezvous.PORT: str(self.server.port),
            "HOROVOD_CONTROLLER": "gloo",
            "HOROVOD_CPU_OPERATIONS": "gloo",
            "HOROVOD_GLOO_TIMEOUT_SECONDS": str(self.options.gloo_timeout_seconds),
        }
        if self.options.host_discovery_script:
            variables["HOROVOD_ELASTIC"] = "1"
        message = {
            "launcher": self.address,
            "interfaces": self.options.network_interfaces.split(",") if self.options.network_interfaces else [],
            "variables": variables,
            "host_variables": environment.host_variables(),
        }
        with pipe.open("w") as file:
            json.dump(message, file)
        pipe.unlink()


class _HostsNews:
    """Message to the supervisor, through this program's output, that hosts have changed; the supervisor tells the ranks."""

    def notify_hosts_updated(self, timestamp: int, result: Any) -> None:
        say(HOSTS_CHANGED)


def say(line: str) -> None:
    """Print a line for the supervisor."""
    print(line, flush=True)


def parse_options() -> argparse.Namespace:
    """Return the options; they are named as `horovodrun` names them."""
    parser = argparse.ArgumentParser(prog="alpro.launch.horovodrun", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-np", type=int, required=True)
    parser.add_argument("-H", "--hosts")
    parser.add_argument("--network-interfaces")
    parser.add_argument("--remote-shell", default="ssh")
    parser.add_argument("--ssh-port", type=int)
    parser.add_argument("--ssh-identity-file")
    parser.add_argument("--gloo-timeout-seconds", type=int, required=True)
    parser.add_argument("--min-np", type=int)
    parser.add_argument("--max-np", type=int)
    parser.add_argument("--host-discovery-script")
    parser.add_argument("--elastic-timeout", type=int)
    parser.add_argument("--params", help="parameter file of the run; hosts that join an elastic run are checked with it")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    return parser.parse_args()


def main() -> None:
    """Run a world."""
    options = parse_options()
    with tempfile.TemporaryDirectory(prefix="alpro-launch-") as folder:
        world = World(options, Path(folder))
        if options.host_discovery_script:
            world.run_elastic()
        else:
            world.run()


if __name__ == "__main__":
    main()
