"""Checks the hosts of a run before it starts (`alpro launch --check`): one line for each, with what is wrong and what to do.

Each host answers a few questions (alpro.launch.probe) over the ssh connection that a run would use. This machine answers
the same ones; the others must agree with its answers.
"""

from __future__ import annotations

import os
import secrets
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alpro.config import Launch, Params
from alpro.errors import LaunchError
from alpro.files.state import state_folder
from alpro.launch.command import own_address
from alpro.launch.conversation import Conversation, NoAnswer
from alpro.launch.ssh import is_remote, reach

CLOCK_S = 1.0  # allowed difference
HERE = "this machine"
OUTPUTS = ("models", "reports")  # folders in which the stages write
FIRST = ("torch", "horovod")  # packages that are named first
NAMED = 3  # packages and paths that a fault names
SHARED = "the hosts need a shared file system, mounted at the same path"


@dataclass
class Host:
    """One host: its answers, and what is wrong with it."""

    name: str
    facts: dict[str, Any] = field(default_factory=dict)
    network: dict[str, Any] = field(default_factory=dict)
    clock_s: float = 0.0
    faults: list[str] = field(default_factory=list)
    unreachable: bool = False  # it cannot reach another host, or the launcher

    def __str__(self) -> str:
        if self.faults:
            return f"{self.name}: {'; '.join(self.faults)}"
        versions = [f"{name} {self.facts['packages'].get(name, 'not installed')}" for name in FIRST]
        parts = [f"Python {self.facts['python']}", *versions, f"commit {self.facts['commit'][:7] or 'unknown'}"]
        place = f"{self.network['interface']} {self.network['address'][0]}, clock {self.clock_s:+.2f} s"
        return f"{self.name}: ok, {', '.join(parts)}, {place}"


def require(settings: Launch, params: Params, file: str | os.PathLike[str]) -> list[Host]:
    """Return the hosts of a run if nothing is wrong with them. Raises LaunchError that lists all faults."""
    hosts = check(settings, params, file)
    if faulty := [host for host in hosts if host.faults]:
        listed = " | ".join(map(str, faulty))
        raise LaunchError(f"{len(faulty)} of {len(hosts)} hosts cannot take part: {listed}{advice(hosts)}")
    return hosts


def advice(hosts: Sequence[Host]) -> str:
    """Return each host's interfaces and the parameter that selects one, if hosts do not reach each other; or nothing."""
    if not any(host.unreachable for host in hosts):
        return ""
    listed = "; ".join(f"{host.name} has {host.network['interfaces']}" for host in hosts if host.network)
    common = set.intersection(*(set(host.network["networks"]) for host in hosts if host.network))
    example = f", such as [{', '.join(sorted(common))}]" if common else ""
    return f" | {listed}; name the interfaces or networks between all hosts in launch.network_interfaces{example}"


def check(settings: Launch, params: Params, file: str | os.PathLike[str]) -> list[Host]:
    """Ask all hosts of a run at the same time; return them with what is wrong. `params` was read from `file`.

    Raises LaunchError if this machine itself cannot be asked.
    """
    hosts = [Host(name) for name in [name for name, _ in settings.slots] or ["localhost"]]
    several = any(is_remote(host.name) for host in hosts)
    question = {"ask": "facts", "files": [str(Path(file).absolute())], "inputs": inputs(params), "several": several}
    with ExitStack() as stack:
        question["shared"] = stack.enter_context(marked_folders()) if several else {}
        try:
            with Conversation(None) as here:
                reference = here.ask(**question)
        except NoAnswer as error:
            raise LaunchError(f"this machine cannot be checked: {error}") from None
        known = [host for host in hosts if _is_known(host)]
        server = stack.enter_context(socket.create_server((own_address(",".join(f"{h.name}:1" for h in known)), 0)))
        network = {"interfaces": settings.network_interfaces or [], "launcher": server.getsockname()[0]}
        shell = reach(settings.remote_shell, settings.ssh_port, settings.ssh_identity)
        pairs = [(host, stack.enter_context(Conversation(host.name, shell))) for host in known]

        def examine(host: Host, conversation: Conversation) -> None:
            host.facts = conversation.ask(**question)
            host.network = conversation.ask(ask="network", **network)
            host.clock_s, certain_s = conversation.clock()
            host.faults += faults(host.facts, reference)
            if fault := host.network.get("fault"):
                host.faults.append(fault)
            if abs(host.clock_s) - certain_s > CLOCK_S:
                ahead = "ahead of" if host.clock_s > 0 else "behind"
                host.faults.append(f"its clock is {abs(host.clock_s):.0f} s {ahead} {HERE}'s; set both by NTP (chrony)")

        def connect(host: Host, conversation: Conversation) -> None:
            failed = conversation.ask(ask="connect", addresses={**addresses, "the launcher": list(server.getsockname())})
            for name, reason in failed.items():
                host.unreachable = True
                host.faults.append(f"cannot reach {name} from {host.network['interface']} ({reason})")

        _in_parallel(examine, pairs)
        connected = [(host, conversation) for host, conversation in pairs if host.network.get("address")]
        addresses = {host.name: host.network["address"] for host, _ in connected}
        _in_parallel(connect, connected)
    return hosts


def faults(own: Mapping[str, Any], reference: Mapping[str, Any]) -> list[str]:
    """Return how the answers of a host differ from those of this machine, each with a remedy."""
    found = []
    unseen = [listed(own["missing"])] if own["missing"] else []
    if own["unshared"]:
        unseen.append(f"what {HERE} writes in {listed([str(Path(path).parent) for path in own['unshared']])}")
    if unseen:
        found.append(f"does not see {', nor '.join(unseen)}; {SHARED}")
    if own["commit"] != reference["commit"]:
        there, here = own["commit"][:7] or "unknown", reference["commit"][:7] or "unknown"
        found.append(f"its commit is {there}, here {here}; check out the same one")
    elif own["code"] != reference["code"]:
        found.append("its code differs from this machine's although the commit is the same; copy or revert the changes")
    if own["files"] != reference["files"]:
        found.append(f"{listed([Path(path).name for path in own['files']])} differs from this machine's; copy it")
    if own["python"] != reference["python"]:
        found.append(f"Python is {own['python']}, here {reference['python']}; run `make setup` with the same one")
    if differing := differences(own["packages"], reference["packages"]):
        found.append(f"{listed(differing)}; run `make setup` there")
    if own["name"]:
        found.append(own["name"])
    return found


def differences(own: Mapping[str, str], reference: Mapping[str, str]) -> list[str]:
    """Return the packages whose versions differ, `name 1.0, here 2.0`; torch and Horovod first."""
    names = sorted({*own, *reference}, key=lambda name: (name not in FIRST, name))
    both = {name: (own.get(name, "missing"), reference.get(name, "missing")) for name in names}
    return [f"{name} is {there}, here {here}" for name, (there, here) in both.items() if there != here]


def listed(items: Sequence[str]) -> str:
    """Return the first items on one line, and the number of the others."""
    others = f" and {len(items) - NAMED} more" if len(items) > NAMED else ""
    return ", ".join(items[:NAMED]) + others


def inputs(params: Params) -> list[str]:
    """Return the annotations, videos and corpora of the parameters that are on this machine."""
    named: list[str | None] = [path for one in params.datasets.values() for path in (one.annotations, one.videos)]
    named += [path for corpus in params.corpora.values() for path in (corpus.train, corpus.val, corpus.root)]
    return sorted({path for path in named if path and Path(path).exists()})


@contextmanager
def marked_folders() -> Iterator[dict[str, str]]:
    """Write a file of random text into each folder that ranks write to; yield the texts by path."""
    state = state_folder()
    state.mkdir(parents=True, exist_ok=True)
    folders = {folder.resolve() for folder in (state, *map(Path, OUTPUTS)) if folder.is_dir()}
    marks: dict[str, str] = {}
    try:
        for folder in folders:
            number, path = tempfile.mkstemp(prefix=".alpro-launch-", dir=folder)
            marks[path] = secrets.token_hex(8)
            with open(number, "w", encoding="utf-8") as file:
                file.write(marks[path])
            os.chmod(path, 0o644)
        yield marks
    finally:
        for path in marks:
            with suppress(OSError):
                os.unlink(path)


def _is_known(host: Host) -> bool:
    """Return True if the name of a host resolves; otherwise note the fault."""
    try:
        own_address(f"{host.name}:1")
    except LaunchError:
        host.faults.append("its name does not resolve here; add it to DNS or /etc/hosts, or correct launch.hosts")
    return not host.faults


def _in_parallel(job: Callable[[Host, Conversation], None], pairs: Sequence[tuple[Host, Conversation]]) -> None:
    """Do a job for all hosts at the same time; a host that does not answer gets the reason as a fault."""

    def guarded(pair: tuple[Host, Conversation]) -> None:
        try:
            job(*pair)
        except NoAnswer as error:
            pair[0].faults.append(str(error))

    with ThreadPoolExecutor(max(1, len(pairs))) as pool:
        list(pool.map(guarded, pairs))
