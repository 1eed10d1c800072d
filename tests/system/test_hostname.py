"""The host's own name: it must resolve, and for several hosts not to a loopback address."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from alpro.system import hostname

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("error", [socket.gaierror(-2, "Name or service not known"), UnicodeError("label too long")])
def test_name_that_does_not_resolve_is_reported_with_the_line_to_add(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(socket, "gethostname", lambda: "lost")
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    fault = hostname.fault()
    assert "own name, 'lost', does not resolve" in fault and "`127.0.0.1 lost` to /etc/hosts" in fault and "\n" not in fault


@pytest.mark.parametrize(
    ("address", "right"), [("127.0.1.1", False), ("::1", False), ("10.0.0.7", True), ("fe80::1%eth0", True)]
)
def test_name_of_one_of_several_hosts_must_not_be_loopback(monkeypatch: pytest.MonkeyPatch, address: str, right: bool) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **o: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0))])
    assert hostname.fault() == ""
    assert (hostname.fault(other_hosts=True) == "") == right


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run(["unshare", "-u", "-m", "true"]).returncode != 0, reason="no unshare"
)
def test_world_on_a_host_without_a_name_ends_with_the_cause(tmp_path: Path) -> None:
    """Before, every rank crashed in hvd.init(), and the launcher said that memory ran out."""
    pytest.importorskip("horovod")
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n")
    (tmp_path / "resolv.conf").write_text("")
    (tmp_path / "nsswitch.conf").write_text("hosts: files\n")
    mounts = "".join(f"mount --bind {tmp_path / name} /etc/{name}; " for name in ("hosts", "resolv.conf", "nsswitch.conf"))
    code = (
        "import sys\nfrom alpro.config import Launch\nfrom alpro.launch.run import run_world\n"
        "run_world(Launch(processes=2), [sys.executable, '-m', 'tests.launch.workers', 'well'])"
    )
    shell = f'set -e; {mounts}hostname nosuchname; exec {sys.executable} -c "{code}"'
    run = subprocess.run(["unshare", "-u", "-m", "sh", "-c", shell], cwd=ROOT, capture_output=True, text=True, timeout=300)
    last = run.stderr.splitlines()[-1]
    assert run.returncode == 1 and "this host's own name, 'nosuchname', does not resolve" in last, run.stderr
