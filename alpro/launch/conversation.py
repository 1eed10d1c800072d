"""A conversation with a host's probe (alpro.launch.probe), over ssh or on this machine."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
import time
from types import TracebackType
from typing import Any

from alpro.launch import probe
from alpro.launch.ssh import Ssh, is_remote

SSH_S = 10
ANSWER_S = 60.0  # a folder of a network file system that is down blocks for ever
NO_FOLDER, NO_PYTHON, NO_CODE, SSH_FAILED = 91, 92, 93, 255  # exit codes of the command
SAME = "all hosts need the project and its environment at the same path, best on a shared file system"


class NoAnswer(Exception):
    """A host does not answer; the message says why, and what to do."""


class Conversation:
    """Starts the probe on a host; a host of None is this machine."""

    def __init__(self, host: str | None, shell: Ssh | None = None) -> None:
        folder, python, program = map(shlex.quote, (os.getcwd(), sys.executable, probe.__file__))
        script = (
            f"cd {folder} 2>/dev/null || exit {NO_FOLDER}; test -x {python} || exit {NO_PYTHON}; "
            f"test -f {program} || exit {NO_CODE}; exec {python} -I {program}"
        )
        command = ["sh", "-c", script]
        if host is not None and shell is not None and is_remote(host):
            command = shell.command(host, f"exec {shlex.join(command)}", SSH_S)
        self.late = False
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, start_new_session=True)

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.kill()  # ssh or srun; the probe then ends as its stdin does
        self.process.communicate()

    def ask(self, **question: Any) -> Any:
        """Return the answer to a question. Raises NoAnswer if there is none."""
        timer = threading.Timer(ANSWER_S, self._give_up)
        timer.start()
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
            for line in self.process.stdout:
                if line.startswith(probe.MARK):
                    return json.loads(line.removeprefix(probe.MARK))
        except OSError:
            pass
        finally:
            timer.cancel()
        raise NoAnswer(self._reason())

    def clock(self) -> tuple[float, float]:
        """Return by how much the host's clock is ahead of this machine's, and the uncertainty, in seconds."""
        before_s = time.time()
        there_s = self.ask(ask="clock")
        after_s = time.time()
        return there_s - (before_s + after_s) / 2, (after_s - before_s) / 2

    def _give_up(self) -> None:
        self.late = True
        self.process.kill()

    def _reason(self) -> str:
        """Return why the host does not answer, and what to do."""
        if self.late:
            return f"does not answer within {ANSWER_S:.0f} s; look for a file system that hangs there"
        assert self.process.stderr is not None
        lines = [line.strip() for line in self.process.stderr.read().splitlines() if line.strip()]
        said, code = lines[-1] if lines else "", self.process.wait()
        if code == SSH_FAILED:
            return ssh_fault(said)
        missing = {NO_FOLDER: os.getcwd(), NO_PYTHON: sys.executable, NO_CODE: probe.__file__}
        if code in missing:
            return f"{missing[code]} is missing there; {SAME}"
        return f"its check failed with exit code {code} ({said or 'without a message'})"


def ssh_fault(said: str) -> str:
    """Return what ssh's last line means, and what to do."""
    if "Permission denied" in said:
        return (
            f"refuses the key ({said}); add this user's public key to ~/.ssh/authorized_keys there, or name another private "
            "key in launch.ssh_identity"
        )
    if "Host key verification failed" in said or "REMOTE HOST IDENTIFICATION" in said:
        return f"ssh does not know or does not accept its host key ({said}); connect once by hand with `ssh`"
    return f"cannot be reached over ssh ({said or 'no message'}); is it up, does it run sshd, is launch.ssh_port right?"
