"""Run a launcher and one rank in separate network namespaces, cut their link, and print the launcher's output.

Run as root: `unshare --net python -m tests.launch.far_host`. This process's namespace is the launcher's; a child's is the
other host's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from alpro.config import Launch
from alpro.errors import LaunchError
from alpro.launch import heartbeat
from alpro.launch.supervisor import Supervisor

HERE, THERE = "10.9.8.1", "10.9.8.2"
RANK = """
import time
from alpro.launch import heartbeat
heartbeat.start()
heartbeat.joined()
heartbeat.beat('computing', 1)
time.sleep(600)
"""


def there(pid: int, *command: str) -> list[str]:
    """Return a command that runs on the other host."""
    return ["nsenter", "--net", "--target", str(pid), *command]


def main() -> None:
    far = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo ready; exec sleep 600"], stdout=subprocess.PIPE)
    assert far.stdout is not None and far.stdout.readline() == b"ready\n"
    for command in (
        ["ip", "link", "add", "near", "type", "veth", "peer", "name", "far", "netns", str(far.pid)],
        ["ip", "address", "add", f"{HERE}/24", "dev", "near"],
        ["ip", "link", "set", "near", "up"],
        there(far.pid, "ip", "address", "add", f"{THERE}/24", "dev", "far"),
        there(far.pid, "ip", "link", "set", "far", "up"),
    ):
        subprocess.run(command, check=True)
    environment = dict(os.environ)
    run = Supervisor(Launch(processes=1, hosts=f"{THERE}:1"), ["sleep", "600"], environment)
    assert environment[heartbeat.ADDRESS].startswith(HERE)
    rank = subprocess.Popen(there(far.pid, sys.executable, "-c", RANK), env={**environment, "HOROVOD_RANK": "0"})
    try:
        while not run.ranks[0].beats:
            run._handle_next(timeout=1)
        subprocess.run(["ip", "link", "set", "near", "down"], check=True)
        pulled_s = time.monotonic()
        try:
            run.wait()
        except LaunchError as error:
            print(f"{error}\nafter {time.monotonic() - pulled_s:.1f} s")
        rank.wait()
        print(f"the rank ended with {rank.returncode} after {time.monotonic() - pulled_s:.1f} s")
    finally:
        run._shut_down()
        rank.kill()
        far.kill()


if __name__ == "__main__":
    main()
