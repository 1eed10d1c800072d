"""Who may take part in a run, and who may see its secrets: strangers are refused and reported, and run no code in it."""

from __future__ import annotations

import http.client
import json
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from alpro.config import Launch
from alpro.errors import LaunchError
from alpro.launch import environment, heartbeat, rendezvous
from alpro.launch.proof import new_secret, prove, proves
from alpro.launch.start import interface_to, kept
from alpro.launch.supervisor import Supervisor
from tests.launch.strangers import Trap
from tests.training.processes import both_backends, needs_horovod, world

SECRETS = {
    "PREFECT_API_AUTH_STRING": "planted-prefect", "MLFLOW_TRACKING_PASSWORD": "planted-mlflow", "HF_TOKEN": "planted-hf",
    "AWS_SECRET_ACCESS_KEY": "planted 'aws' $(touch x) \"; é", "UNRELATED_TOKEN": "planted-unrelated",
}  # fmt: skip
WITHHELD = {"PREFECT_API_AUTH_STRING", "UNRELATED_TOKEN"}


def test_proof_holds_only_for_the_secret_the_purpose_and_the_parts() -> None:
    secret = new_secret()
    proof = prove(secret, "a", "bc", 1)
    assert proves(proof, secret, "a", "bc", 1) and proves(proof.hex(), secret, "a", b"bc", "1")
    for other in (
        proves(proof, new_secret(), "a", "bc", 1), proves(proof, secret, "b", "bc", 1), proves(proof, secret, "a", "b", "c", 1),
        proves(proof, secret, "a", "bc"), proves(None, secret, "a", "bc", 1), proves("é", secret, "a", "bc", 1),
        proves(proof[:-1], secret, "a", "bc", 1), proves(b"", secret, "a", "bc", 1),
    ):  # fmt: skip
        assert not other


def test_ranks_get_the_variables_they_need_and_no_others() -> None:
    variables = {"PATH": "/bin", "HOME": "/root", "HOROVOD_LOG_LEVEL": "info", "PREFECT_API_KEY": "x", "MY_KEY": "x", **SECRETS}
    sent = environment.sent_variables(variables)
    assert sent == {name: variables[name] for name in ("PATH", "HOROVOD_LOG_LEVEL", *sorted(SECRETS.keys() - WITHHELD))}
    assert environment.sent_variables({**variables, environment.EXTRA: "MY_*, UNRELATED_TOKEN"}).keys() == (
        sent.keys() | {"MY_KEY", "UNRELATED_TOKEN", environment.EXTRA}
    )
    assert kept(variables, environment.host_variables()) == {"HOME": "/root"}


def test_interface_of_this_machine_is_loopback() -> None:
    name = interface_to("127.0.0.1")
    assert any(entry.address == "127.0.0.1" for entry in psutil.net_if_addrs()[name])


@contextmanager
def supervisor() -> Iterator[Supervisor]:
    """Yield a supervisor of two ranks that never come."""
    made = Supervisor(Launch(processes=2), ["sleep", "60"], dict(os.environ))
    try:
        yield made
    finally:
        made._shut_down()


@pytest.mark.parametrize(
    "hello",
    [
        lambda secret, nonce: {
            "event": "hello",
            "token": secret,
            "rank": 0,
            "host": "h",
            "pid": 1,
            "nonce": "0",
            "proof": secret,
        },
        lambda secret, nonce: {
            "rank": 0,
            "host": "h",
            "pid": 1,
            "nonce": "0",
            "proof": prove(new_secret(), heartbeat.HELLO).hex(),
        },
        lambda secret, nonce: {"rank": 0, "host": "h", "pid": 1, "nonce": "0", "proof": prove(secret, "x", nonce).hex()},
        lambda secret, nonce: ["rank"],
        lambda secret, nonce: "x" * 10_000,
    ],
)
def test_process_without_the_secret_is_refused_and_reported_by_the_launcher(
    hello: Callable[[str, bytes], object], capsys: pytest.CaptureFixture[str]
) -> None:
    with supervisor() as launcher:
        assert launcher.listener.address[0] == "127.0.0.1"
        with socket.create_connection(launcher.listener.address, timeout=20) as stranger:
            lines = stranger.makefile("rb")
            nonce = lines.readline()
            stranger.sendall(json.dumps(hello(launcher.secret, nonce.strip())).encode() + b"\n")
            with suppress(ConnectionResetError):  # in place of the end, if the launcher did not read everything
                assert lines.readline() == b"", "the connection is closed"
        until_s = time.monotonic() + 10
        while "refused" not in (shown := capsys.readouterr().err) and time.monotonic() < until_s:
            launcher._handle_next(timeout=0.1)
        assert shown == "alpro launch: refused a process on 127.0.0.1: it does not prove this run's secret\n"
        assert not launcher.listener.connections and not any(rank.pid for rank in launcher.ranks)


def test_rank_talks_only_to_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    with supervisor() as launcher:
        host, port = launcher.listener.address
        link = heartbeat._Link(f"{host}:{port}:{launcher.secret}", 1)
        while not launcher.ranks[1].pid:
            launcher._handle_next(timeout=1)
        assert launcher.ranks[1].pid == os.getpid()
        monkeypatch.setattr(heartbeat, "exit_orphaned", lambda: None)
        launcher._handle_news("alpro launch: the available hosts have changed")
        assert heartbeat._hosts_changed.wait(10) and heartbeat.hosts_changed()
        heartbeat.forget_host_changes()
        assert not heartbeat.hosts_changed()
        link.socket.shutdown(socket.SHUT_RDWR)
    with socket.create_server(("127.0.0.1", 0)) as impostor:

        def answer() -> None:
            connection, _ = impostor.accept()
            connection.sendall(b"00\n")
            connection.makefile("rb").readline()
            connection.sendall(prove(new_secret(), heartbeat.WELCOME).hex().encode() + b"\n")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(LaunchError, match="does not prove this run's secret"):
            heartbeat._Link(f"127.0.0.1:{impostor.getsockname()[1]}:{new_secret()}", 0)


def test_stranger_that_sends_a_byte_now_and_then_is_refused_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "HANDSHAKE_S", 0.5)
    here, there = socket.socketpair()

    def drip() -> None:
        with suppress(OSError):
            while True:
                there.sendall(b"x")
                time.sleep(0.1)

    with here, there:
        threading.Thread(target=drip, daemon=True).start()
        began_s = time.monotonic()
        assert heartbeat.greet(here, here.makefile("rb"), new_secret()) is None
        assert time.monotonic() - began_s < 5


def ask(port: int, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> int:
    """Send a request to a rendezvous; return the status of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path, body, headers or {})
    return connection.getresponse().status


@needs_horovod
def test_stranger_gets_nothing_from_the_rendezvous_and_runs_no_code(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from horovod.runner.common.util import codec
    from horovod.runner.elastic.rendezvous import create_rendezvous_handler

    from alpro.launch.horovodrun import SecretRendezvous

    secret = new_secret()
    server = SecretRendezvous("127.0.0.1", secret)
    port = server.start(create_rendezvous_handler(None))  # the handler of elastic worlds, which unpickles
    try:
        assert server._httpd.server_address[0] == "127.0.0.1"
        trap = codec.dumps_base64(Trap(tmp_path / "ran"), to_ascii=False)
        strange = [("PUT", "/worker_addresses/h:0", trap), ("PUT", "/global/0", b"address"), ("GET", "/global/0", b""),
                   ("GET", "/rank_and_size/h:0", b""), ("DELETE", "/global/0", b""), ("HEAD", "/pyproject.toml", b""),
                   ("GET", "/pyproject.toml", b""), ("POST", "/a/b", b"")]  # fmt: skip
        for method, path, body in strange:
            assert ask(port, method, path, body) in (403, 501), (method, path)
        nonce = "00" * 16

        def signed(method: str, path: str, body: bytes = b"") -> dict[str, str]:
            return rendezvous.request_headers(secret, method, path, body, nonce)

        assert ask(port, "PUT", "/global/0", b"mine", signed("PUT", "/global/0", b"mine")) == 200
        assert ask(port, "PUT", "/global/0", b"mine", signed("PUT", "/global/0", b"mine")) == 403, "sent a second time"
        assert ask(port, "GET", "/global/0", b"", signed("GET", "/global/1")) == 403, "the proof of another request"
        assert ask(port, "PUT", "/global/3", b"mine", signed("PUT", "/global/3", b"ours")) == 403, "the proof of another body"
        assert ask(port, "PUT", "/worker_addresses/h:0", trap, signed("PUT", "/worker_addresses/h:0", trap)) == 403
        assert not (tmp_path / "ran").exists()
        pickle.loads(pickle.dumps(Trap(tmp_path / "ran")))  # the trap itself works
        assert (tmp_path / "ran").exists()
        assert capfd.readouterr().out.count("alpro launch: refused a request from 127.0.0.1 to the rendezvous") == 1
        relay = rendezvous.Relay(("127.0.0.1", port), secret)  # a rank's own way in
        assert ask(relay.server_address[1], "PUT", "/global/1", b"own") == 200
        assert ask(relay.server_address[1], "GET", "/global/1") == 200
        assert ask(relay.server_address[1], "GET", "/global/2") == 404
        wrong = rendezvous.Relay(("127.0.0.1", port), new_secret())
        assert ask(wrong.server_address[1], "GET", "/global/1") == 502
    finally:
        server.stop()


@needs_horovod
def test_malformed_requests_to_the_rendezvous_are_refused_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    from alpro.launch.horovodrun import SecretRendezvous

    server = SecretRendezvous("127.0.0.1", new_secret())
    port = server.start()
    try:
        for length in ("\u00b2", "-1", "1e3", str(rendezvous.MAX_BODY_BYTES)):  # no body follows, so none may be waited for
            with socket.create_connection(("127.0.0.1", port), timeout=10) as stranger:
                stranger.sendall(f"PUT /global/0 HTTP/1.0\r\nContent-Length: {length}\r\n\r\n".encode("latin-1"))
                assert b" 403 " in stranger.makefile("rb").readline(), length
        for _ in range(3):
            try:
                raise ConnectionResetError("reset")
            except ConnectionResetError:
                server._httpd.handle_error(None, ("127.0.0.9", 1))
    finally:
        server.stop()
    output, errors = capfd.readouterr()
    assert "Traceback" not in errors and len(output.splitlines()) == 2, output
    assert "alpro launch: refused a request from 127.0.0.1 to the rendezvous: it does not prove" in output
    assert "alpro launch: a request from 127.0.0.9 to the rendezvous failed: ConnectionResetError('reset')\n" in output


def test_relay_answers_its_own_process_only() -> None:
    relay = rendezvous.Relay(("127.0.0.1", 9), new_secret())
    code = f"import urllib.request as u; u.urlopen('http://127.0.0.1:{relay.server_address[1]}/global/0', timeout=20)"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "HTTP Error 403" in other.stderr


@both_backends
@pytest.mark.slow
@pytest.mark.parametrize(
    ("behaviour", "message"), [("other secret", "rank 1 does not prove this run's secret"), ("pickle", "the wrong length")]
)
def test_world_with_a_stranger_in_it_ends_before_objects_are_exchanged(
    tmp_path: Path, behaviour: str, message: str, backend: str
) -> None:
    process = world(2, ["-m", "tests.launch.strangers", behaviour, str(tmp_path / "ran")], backend=backend)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 1 and message in output and "went on" not in output
    assert not (tmp_path / "ran").exists()


def command_lines() -> str:
    """Return the command lines of all processes of this machine, as every user can read them."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:  # the process has ended
            continue
    return "\n".join(lines)


@both_backends
@pytest.mark.slow
def test_no_secret_is_in_a_command_line_or_log_and_ranks_have_the_ones_they_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    process = world(2, ["-m", "tests.launch.secrets_worker", str(tmp_path)], backend=backend)
    seen = ""
    try:
        until_s = time.monotonic() + 300
        while len(list(tmp_path.glob("*.json"))) < 2 and process.poll() is None and time.monotonic() < until_s:
            seen += command_lines()
            time.sleep(0.02)
        seen += command_lines()
        (tmp_path / "end").touch()
        output, _ = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert "tests.launch.secrets_worker" in seen and f"alpro.launch.{backend}run" in seen
    for rank in (0, 1):
        variables = json.loads((tmp_path / f"{rank}.json").read_text())
        assert variables["HOROVOD_RANK" if backend == "horovod" else "RANK"] == str(rank) and "OMP_NUM_THREADS" in variables
        assert {name: variables.get(name) for name in SECRETS.keys() - WITHHELD} == {
            name: SECRETS[name] for name in SECRETS.keys() - WITHHELD
        }
        assert not WITHHELD & variables.keys()
        secret = variables[heartbeat.ADDRESS].rsplit(":", 1)[1]
        for text in (seen, output):
            assert "planted" not in text and secret not in text
