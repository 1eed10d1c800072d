"""Answers the launcher's questions about one host before a run: environment, code, folders, clock and network.

Run as `python -I probe.py` on the host (alpro.launch.hosts). Each question and each answer is a line of JSON; lines without
the mark come from the host's shell. The answers contain no variables of the environment.
"""

from __future__ import annotations

import hashlib
import json
import platform
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1]
MARK = "alpro probe: "
CONNECT_S = 5.0


def facts(question: Mapping[str, Any]) -> dict[str, Any]:
    """Return what this host has: versions, commit, digests of code and files, and the paths that it does not see."""
    from alpro.lineage import git
    from alpro.system import hostname

    root = PACKAGE.parent
    return {
        "python": platform.python_version(),
        "packages": {one.metadata["Name"].lower(): one.version for one in metadata.distributions() if one.metadata["Name"]},
        "commit": (git(root, "rev-parse", "HEAD") or "").strip(),
        "code": digest(sorted(PACKAGE.rglob("*.py"))),
        "files": {path: digest([Path(path)]) for path in question["files"]},
        "missing": [path for path in question["inputs"] if not Path(path).exists()],
        "unshared": [path for path, text in question["shared"].items() if content(Path(path)) != text],
        "name": hostname.fault(other_hosts=question["several"]),
    }


def digest(paths: Sequence[Path]) -> str:
    """Return the SHA-256 of the contents of files, in this order."""
    total = hashlib.sha256()
    for path in paths:
        total.update(hashlib.sha256(path.read_bytes() if path.is_file() else b"").digest())
    return total.hexdigest()


def content(path: Path) -> str | None:
    """Return the text of a file, or None if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None


def listen(question: Mapping[str, Any]) -> tuple[socket.socket | None, dict[str, Any]]:
    """Listen on the interface of the run; return the socket, and its address or why there is none."""
    from alpro.launch import start

    own = start.interfaces()
    answer: dict[str, Any] = {"interfaces": start.shown(own), "networks": networks(own)}
    try:
        name = start.interface_for(question["interfaces"], question["launcher"])
        server = socket.create_server((str(own[name][0].ip), 0), backlog=128)
    except OSError as error:
        return None, {**answer, "fault": str(error)}
    return server, {**answer, "interface": name, "address": list(server.getsockname())}


def networks(own: Mapping[str, Sequence[Any]]) -> list[str]:
    """Return the networks of all interfaces but loopback."""
    return [str(entries[0].network) for entries in own.values() if not entries[0].is_loopback]


def unreachable(addresses: Mapping[str, tuple[str, int]]) -> dict[str, str]:
    """Try to connect to each address; return the reason by name for those that fail."""

    def try_one(address: tuple[str, int]) -> str:
        try:
            socket.create_connection((address[0], address[1]), timeout=CONNECT_S).close()
        except OSError as error:
            return error.strerror or str(error)
        return ""

    with ThreadPoolExecutor(max(1, min(32, len(addresses)))) as pool:
        reasons = dict(zip(addresses, pool.map(try_one, addresses.values()), strict=True))
    return {name: reason for name, reason in reasons.items() if reason}


def main() -> None:
    """Answer the questions on stdin until it ends."""
    sys.path.insert(0, str(PACKAGE.parent))
    server: socket.socket | None = None
    for line in sys.stdin:
        question = json.loads(line)
        if question["ask"] == "facts":
            answer: Any = facts(question)
        elif question["ask"] == "network":
            server, answer = listen(question)
        elif question["ask"] == "clock":
            answer = time.time()
        else:
            answer = unreachable({name: tuple(address) for name, address in question["addresses"].items()})
        print(MARK + json.dumps(answer), flush=True)
    if server is not None:
        server.close()


if __name__ == "__main__":
    main()
