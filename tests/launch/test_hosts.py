"""Hosts of a run are checked before it starts; what the check reports, and what each rank's lines are labelled with."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from alpro.config import Launch
from alpro.errors import LaunchError
from alpro.launch import conversation, hosts, probe, start
from alpro.launch.command import horovodrun
from alpro.launch.diagnosis import Rank
from alpro.launch.labels import hosts_of_ranks, labelled

SAME = {
    "python": "3.11.2", "packages": {"torch": "2.11.0", "horovod": "0.28.1", "numpy": "2.4.1"}, "commit": "a" * 40, "code": "1",
    "files": {"/p/params.yaml": "2"}, "missing": [], "unshared": [], "name": "",
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, None),
        ({"commit": "b" * 40}, "its commit is bbbbbbb, here aaaaaaa; check out the same one"),
        ({"commit": ""}, "its commit is unknown, here aaaaaaa"),
        ({"code": "3"}, "its code differs from this machine's although the commit is the same"),
        ({"files": {"/p/params.yaml": "4"}}, "params.yaml differs from this machine's; copy it"),
        ({"python": "3.12.1"}, "Python is 3.12.1, here 3.11.2"),
        ({"missing": ["a", "b", "c", "d"]}, "does not see a, b, c and 1 more; the hosts need a shared file system"),
        ({"unshared": ["/p/models/.alpro-launch-x"]}, "does not see what this machine writes in /p/models"),
        ({"name": "this host's own name does not resolve"}, "own name does not resolve"),
        (
            {"packages": {"torch": "2.11.0", "horovod": "0.27.0", "numpy": "2.4.2"}},
            "horovod is 0.27.0, here 0.28.1, numpy is 2.4.2, here 2.4.1; run `make setup` there",
        ),
        ({"packages": {"torch": "2.11.0", "numpy": "2.4.1"}}, "horovod is missing, here 0.28.1"),
    ],
)  # fmt: skip
def test_what_differs_from_this_machine_is_a_fault_with_a_remedy(change: dict[str, object], fault: str | None) -> None:
    found = hosts.faults({**SAME, **change}, SAME)
    assert found == [] if fault is None else len(found) == 1 and fault in found[0]


def test_this_machine_passes_its_own_check_and_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from alpro.config import load

    params = load(Path(__file__).parents[2] / "recipes/tiny.yaml")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("recipe: tiny\n")
    (one,) = hosts.require(Launch(processes=2), params, "params.yaml")
    assert str(one).startswith("localhost: ok, Python 3.") and "torch 2." in str(one) and re.search(r"clock [+-]0\.0", str(one))
    assert os.listdir(tmp_path) == ["params.yaml"]


def test_folders_are_marked_only_for_the_time_of_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ALPRO_STATE", raising=False)
    (tmp_path / "models").mkdir()
    with hosts.marked_folders() as marks:
        assert {Path(path).parent.name for path in marks} == {"models", ".state"}
        assert all(Path(path).read_text() == text for path, text in marks.items())
    assert not any(Path(path).exists() for path in marks)


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        ("root@ha: Permission denied (publickey).", "refuses the key .* launch.ssh_identity"),
        ("Host key verification failed.", "does not know or does not accept its host key .* connect once by hand"),
        ("ssh: connect to host ha port 22: Connection refused", "cannot be reached over ssh .*Connection refused.*ssh_port"),
    ],
)
def test_errors_of_ssh_are_explained(said: str, meaning: str) -> None:
    assert re.search(meaning, conversation.ssh_fault(said))


def test_a_probe_that_fails_or_hangs_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "probe.py"
    monkeypatch.setattr(probe, "__file__", str(program))
    monkeypatch.setattr(conversation, "ANSWER_S", 1.0)
    for text, reason in (
        ("import time; time.sleep(60)", "does not answer within 1 s"),
        ("raise ValueError('a fault')", "its check failed with exit code 1 .ValueError: a fault"),
        (None, r"probe.py is missing there; all hosts need the project"),
    ):
        program.unlink() if text is None else program.write_text(text)
        with conversation.Conversation(None) as talk, pytest.raises(conversation.NoAnswer, match=reason):
            talk.ask(ask="clock")


def test_hosts_that_do_not_reach_each_other_are_shown_with_their_interfaces() -> None:
    found = [hosts.Host(name) for name in ("ha", "hb")]
    for number, host in enumerate(found, 2):
        host.network = {
            "interfaces": f"eth0 10.1.0.{number}/24, ib{number} 10.2.0.{number}/24",
            "networks": ["10.1.0.0/24", "10.2.0.0/24"],
        }
    assert hosts.advice(found) == ""
    found[0].unreachable = True
    line = hosts.advice(found)
    assert "ha has eth0 10.1.0.2/24, ib2 10.2.0.2/24; hb has eth0 10.1.0.3/24, ib3 10.2.0.3/24" in line
    assert line.endswith("in launch.network_interfaces, such as [10.1.0.0/24, 10.2.0.0/24]")


def test_an_interface_is_chosen_by_name_by_network_or_by_the_way_to_the_launcher() -> None:
    loopback = start.interface_to("127.0.0.1")
    assert start.interface_for([], "127.0.0.1") == loopback
    assert start.interface_for(["nosuch0", loopback], "198.51.100.1") == loopback
    assert start.interface_for(["198.51.100.0/24", "127.0.0.0/8"], "198.51.100.1") == loopback
    with pytest.raises(OSError, match=r"launch.network_interfaces: .* has none of nosuch0, 198.51.100.0/24; it has "):
        start.interface_for(["nosuch0", "198.51.100.0/24"], "127.0.0.1")


def test_the_starting_program_gets_interfaces_port_and_key() -> None:
    pytest.importorskip("horovod", reason="`make setup` builds it")
    settings = Launch(processes=2, network_interfaces=["eth1", "10.1.2.3/16"], ssh_port=2222, ssh_identity="keys/id")
    text = " ".join(horovodrun(settings))
    assert "--network-interfaces eth1,10.1.0.0/16 --ssh-port 2222 --ssh-identity-file keys/id" in text


def test_lines_carry_rank_and_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALPRO_LOG", raising=False)
    assert labelled("a\n", Rank(0), "") == "a\n" and labelled("a\n", Rank(1), "") == "rank 1: a\n"
    assert labelled("a\n", Rank(0), "ha") == "rank 0 (ha): a\n" and labelled("{}\n", Rank(1), "hb") == "rank 1 (hb): {}\n"
    monkeypatch.setenv("ALPRO_LOG", "json")
    assert json.loads(labelled('{"message": "a"}\n', Rank(1), "hb")) == {"rank": 1, "host": "hb", "message": "a"}
    assert labelled("no JSON\n", Rank(1), "hb") == "rank 1 (hb): no JSON\n"
    assert hosts_of_ranks(Launch(processes=3, hosts="ha:1,hb:2").slots) == ["ha", "hb", "hb"]


def test_a_run_on_hosts_with_faults_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    faulty = hosts.Host("hb", faults=["its commit is 1, here 2; check out the same one"])
    monkeypatch.setattr(hosts, "check", lambda *_: [hosts.Host("ha"), faulty])
    with pytest.raises(LaunchError, match="1 of 2 hosts cannot take part: hb: its commit is 1, here 2"):
        hosts.require(Launch(), None, "params.yaml")  # type: ignore[arg-type]


def test_rank_finds_a_carried_psutil_on_the_pythonpath_that_the_launcher_sends() -> None:
    """`-S` hides the installed one, as if it were missing."""
    message = {
        "host_variables": [], "interfaces": [], "launcher": "127.0.0.1",
        "variables": {"PYTHONPATH": str(Path(psutil.__file__).parents[1])},
    }  # fmt: skip
    command = [sys.executable, "-I", "-S", start.__file__, sys.executable, "-c", "print('started')"]
    rank = subprocess.run(command, input=json.dumps(message), capture_output=True, text=True)
    assert (rank.returncode, rank.stdout) == (0, "started\n"), rank.stderr
