"""Other hosts: ssh checks their keys, and an elastic world takes only those that can reach it."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("horovod", reason="`make setup` builds it")

from alpro.launch import remote
from alpro.launch.remote import Discovery
from alpro.launch.ssh import Ssh

ALIVE = ["-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3"]


def test_ssh_checks_the_key_of_the_host_and_gets_the_command_as_one_word() -> None:
    command = "cd '/a b' > /dev/null 2>&1 ; exec run $x"
    words = shlex.split(Ssh().line("node1", command, 10))
    assert words == ["ssh", "-o", "BatchMode=yes", *ALIVE, "-o", "ConnectTimeout=10", "--", "node1", command]
    assert "StrictHostKeyChecking" not in Ssh().line("node1", command)


def test_ssh_gets_port_and_key() -> None:
    words = shlex.split(Ssh(2222, "keys/a b").line("node1", "true"))
    key = ["-o", "IdentitiesOnly=yes", "-i", os.path.abspath("keys/a b")]
    assert words == ["ssh", "-o", "BatchMode=yes", *ALIVE, "-p", "2222", *key, "--", "node1", "true"]


@pytest.mark.parametrize(
    ("address", "taken"), [("127.0.0.1", {"localhost": 2}), ("192.0.2.7", {"localhost": 2, "192.0.2.1": 4})]
)
def test_a_world_on_this_machine_alone_refuses_other_hosts(tmp_path: Path, address: str, taken: dict[str, int]) -> None:
    program = tmp_path / "hosts"
    program.write_text("#!/bin/sh\nprintf 'localhost:2\\n192.0.2.1:4\\n-oProxyCommand=x:1\\n'\n")
    program.chmod(0o755)
    said: list[str] = []
    discovery = Discovery(str(program), address, said.append)
    for _ in range(2):
        assert discovery.find_available_hosts_and_slots() == taken
    ignored = [line for line in said if "host 192.0.2.1 is ignored: this run started on this machine alone" in line]
    assert len(ignored) == (address == "127.0.0.1")
    assert len(said) - len(ignored) == 1 and "'-oProxyCommand=x:1' is ignored" in said[-1]


def test_a_host_that_joins_is_checked_first_and_a_faulty_one_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, hosts = tmp_path / "hosts", tmp_path / "list"
    program.write_text(f"#!/bin/sh\ncat {hosts}\n")
    program.chmod(0o755)
    hosts.write_text("198.51.100.1:1\n")
    said: list[str] = []
    faults = {"198.51.100.2": "", "198.51.100.3": "its commit is 1, here 2"}
    examined: list[str] = []

    def examine(host: str) -> str:
        examined.append(host)
        return faults[host]

    monkeypatch.setattr(remote, "AGAIN_S", 0.3)
    discovery = Discovery(str(program), "198.51.100.7", said.append, examine)
    assert discovery.find_available_hosts_and_slots() == {"198.51.100.1": 1}, "the first hosts were checked before the start"
    hosts.write_text("198.51.100.1:1\n198.51.100.2:1\n198.51.100.3:2\n")
    discovery.find_available_hosts_and_slots()
    wait_for(lambda: len(said) == 2)
    assert discovery.find_available_hosts_and_slots() == {"198.51.100.1": 1, "198.51.100.2": 1}
    assert any("host 198.51.100.3 cannot join: its commit is 1, here 2; it is checked again" in line for line in said)
    faults["198.51.100.3"] = ""
    wait_for(lambda: discovery.find_available_hosts_and_slots().get("198.51.100.3") == 2)
    assert examined.count("198.51.100.2") == 1 and len(said) == 3


def wait_for(what: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 10
    while not what():
        assert time.monotonic() < until_s
        time.sleep(0.01)
