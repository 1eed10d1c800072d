"""`alpro launch -- VERB...`: run a verb on the processes and hosts of `launch` in params.yaml, and watch over them.

A world of one runs in this process, without Horovod. A larger one runs under `horovodrun`; each rank keeps a connection to
this process (alpro.watch), over which it tells its progress and its failure. So a rank that fails, is killed or stalls is
named, with its own words first; and whichever of launcher, `horovodrun` and ranks dies, the others end within seconds.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from alpro import console, watch
from alpro.config import Launch
from alpro.errors import LaunchError
from alpro.launch_bar import Bar

GRACE_S = 120.0  # ranks that were asked to stop, and can, are killed after this: a full-size step and snapshot fit in
WORDS_S = 1.0  # what a failing rank printed may arrive after the news of its failure
LAST_LINES = 200

_PREFIX = re.compile(r"^\[(\d+)\]<(stdout|stderr)>:(.*)$", re.S)
_GLOO = re.compile(r"\[[\d-]+ [\d:.]+: [EF] \S*/gloo/")  # of a rank that is gone: often told before the cause
_KILLED = "ended without a word; it was killed, or the memory ran out"
_VANISHED = "can't be reached any more; its host, or the network to it, is gone"
_ENDED = "left with"
_EXIT = re.compile(r"^Process (\d+) exit with status code (-?\d+)\.")


def launch(settings: Launch, verb: list[str]) -> int:
    """Run `alpro VERB...` on `settings.world` processes; returns the exit code.

    Raises LaunchError, whose line names the rank and the cause, when a rank fails, is lost, stalls or does not start.
    """
    watch.watch_pipeline()
    if settings.world == 1 and settings.min_processes is None:
        return _in_this_process(settings, verb)
    return run_world(settings, [sys.executable, "-m", "alpro", *verb])


def run_world(settings: Launch, command: list[str]) -> int:
    """Run any command under a watched `horovodrun`; returns 0, or raises LaunchError as `launch` does."""
    if settings.min_processes is not None:
        from alpro import launch_elastic

        return launch_elastic.run_world(settings, command)
    whole = horovodrun_command(settings, command)
    console.say("alpro launch: " + shlex.join(whole))
    return _Run(settings, whole, worker_environment(settings)).wait()


def _in_this_process(settings: Launch, verb: list[str]) -> int:
    os.environ.update(_thread_variables(settings.threads))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(settings.threads)
    from alpro.cli import app

    app(verb, standalone_mode=False)
    return 0


def horovodrun(settings: Launch) -> list[str]:
    """The beginning of a command. Raises LaunchError where `horovodrun` is missing."""
    beside = Path(sys.executable).with_name("horovodrun")
    found = str(beside) if beside.exists() else shutil.which("horovodrun")
    if found is None:
        raise LaunchError(
            f"a world of {settings.world} processes needs Horovod, which is not installed beside {sys.executable}; "
            "`make setup` builds it, or set launch.processes=1"
        )
    patience = str(math.ceil(settings.start_timeout_s))
    # Gloo's own 30 s are fewer than importing torch takes on a busy machine, and whoever waits longer for another aborts
    return [sys.executable, found, "--gloo", "-np", str(settings.world), "--start-timeout", patience,
            "--gloo-timeout-seconds", patience]  # fmt: skip


def horovodrun_command(settings: Launch, command: list[str]) -> list[str]:
    """The command of a world larger than one. Raises LaunchError where `horovodrun` is missing."""
    return [*horovodrun(settings), *(["-H", settings.hosts] if settings.hosts else []), *command]


def worker_environment(settings: Launch) -> dict[str, str]:
    """What every process finds in its environment; `horovodrun` carries it to other hosts."""
    return {**os.environ, **_thread_variables(settings.threads), "HOROVOD_FUSION_THRESHOLD": "0"}


def _thread_variables(threads: int) -> dict[str, str]:
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))


def own_address(hosts: str | None) -> str:
    """The address under which the processes on `hosts` reach this one: loopback where all of them are this machine.

    Raises LaunchError for a host whose name nobody knows.
    """
    for host in (part.rsplit(":", 1)[0] for part in (hosts or "").split(",") if part):
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # nothing is sent: it only chooses a way
                probe.connect((socket.gethostbyname(host), 9))
                address, other = probe.getsockname()[0], probe.getpeername()[0]
        except OSError as error:
            raise LaunchError(f"launch.hosts: {host!r} can't be found ({error}); write `name:slots,...`") from None
        if address != other and not other.startswith("127."):
            return address
    return "127.0.0.1"


@dataclass
class _Rank:
    """What is known of one process."""

    number: int
    host: str = "?"
    pid: int = 0
    joined: bool = False
    leaving: bool = False
    stoppable: bool = False
    failed: bool = False
    beats: int = 0
    where: str = "the start"
    heard_s: float = field(default_factory=time.monotonic)
    words: list[str] = field(default_factory=list)  # last lines of its stderr

    def __str__(self) -> str:
        return f"rank {self.number} ({self.host}, process {self.pid})" if self.pid else f"rank {self.number}"


@dataclass
class _Sign:
    """One piece of news that something failed."""

    rank: _Rank | None
    seen: str
    told: str = ""

    def doubt(self) -> int:
        """How likely it is only the consequence of another rank's failure."""
        if self.told:
            return 4 if self.told.startswith("HorovodInternalError") else 0
        return {_VANISHED: 1, _KILLED: 1, f"{_ENDED} an error": 2}.get(self.seen, 3 if self.rank else 5)


class _Run:
    """One `horovodrun`, its output, and the connections of its ranks; all events pass through one queue."""

    def __init__(self, settings: Launch, command: list[str], environment: dict[str, str]) -> None:
        self.settings = settings
        self.ranks = [_Rank(number) for number in range(settings.world)]
        self.events: queue.Queue[tuple[str, Any, Any]] = queue.Queue()
        self.token = secrets.token_hex(16)
        self.connections: list[socket.socket] = []
        self.leavers: list[_Rank] = []  # in the order in which they left
        self.words: list[str] = []  # what horovodrun itself printed
        self.stopping = ""
        self.bar = Bar()
        self.impatient = False  # asked a second time
        host = own_address(settings.hosts)
        self.listener = socket.create_server((host, 0))
        environment["PYTHONUNBUFFERED"] = "1"
        environment[watch.ADDRESS] = f"{host}:{self.listener.getsockname()[1]}:{self.token}"
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches it through this process, once
            # not SIGTERM, after which a horovodrun was seen to stay, all its ranks gone and nobody reading its pipes
            preexec_fn=lambda: watch.set_parent_death_signal(signal.SIGKILL),
        )
        for stream, name in ((self.process.stdout, "stdout"), (self.process.stderr, "stderr")):
            threading.Thread(target=self._read_output, args=(stream, name), daemon=True).start()
        threading.Thread(target=self._accept, daemon=True).start()
        threading.Thread(target=lambda: self.events.put(("exit", self.process.wait(), None)), daemon=True).start()

    # threads: each only puts events

    def _read_output(self, stream: IO[bytes], name: str) -> None:
        for line in stream:
            self.events.put(("line", name, line.decode(errors="replace")))
        self.events.put(("closed", name, None))

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            watch.notice_loss(connection)
            threading.Thread(target=self._read_rank, args=(connection,), daemon=True).start()

    def _read_rank(self, connection: socket.socket) -> None:
        rank: _Rank | None = None
        end = _KILLED
        try:
            for line in connection.makefile("rb"):
                message = json.loads(line)
                if rank is None:
                    if message.get("token") != self.token:
                        return
                    rank = self._enter(int(message["rank"]))
                    self.connections.append(connection)
                self.events.put(("message", rank, message))
                if message["event"] == "failed":
                    connection.sendall(watch.HEARD)
        except TimeoutError:
            end = _VANISHED
        except (OSError, ValueError):
            pass
        if rank is not None:
            self.events.put(("gone", rank, end))

    def _enter(self, number: int) -> _Rank:
        """The process of a new connection."""
        return self.ranks[number]

    # the main thread

    def wait(self) -> int:
        """Handle events until the world has ended."""
        with self.bar.shown():
            return self._wait()

    def _wait(self) -> int:
        handlers = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        began_s = time.monotonic()
        try:
            code = None
            while code is None:
                code = self._next(timeout=0.5)
                if self.stopping and code is None:
                    raise LaunchError(self.stopping)
                self._check_times(began_s)
            if code != 0:
                raise self._failure(None, f"horovodrun ended with exit code {code}")
            for kind, source, content in self._coming(WORDS_S):
                if kind == "line":
                    self._show(source, content)
            return 0
        finally:
            self._end()
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: Any) -> None:
        name = signal.Signals(number).name
        self.impatient = bool(self.stopping)
        self.stopping = f"stopped by {name}; run the same command again to go on from the last saved state"

    def _next(self, timeout: float) -> int | None:
        """Handle one event; the exit code when it was the end of `horovodrun`."""
        try:
            kind, source, content = self.events.get(timeout=timeout)
        except queue.Empty:
            return None
        if kind == "line":
            self._show(source, content)
        elif kind == "message":
            self._hear(source, content)
        elif kind == "gone" and not source.leaving:
            self._lost(source, content)
        elif kind == "exit":
            return int(source)
        return None

    def _lost(self, rank: _Rank, seen: str, told: str = "") -> None:
        """A process ended, or told why it is about to."""
        raise self._failure(rank, seen, told)

    def _numbered(self, number: int) -> _Rank:
        """The process whose output carries this number."""
        return self.ranks[number]

    def _show(self, stream: str, line: str) -> None:
        """Print a line of output: rank 0's as it is, the others' named, `horovodrun`'s own and Gloo's only after a failure."""
        prefixed = _PREFIX.match(line)
        if prefixed is not None and _GLOO.match(prefixed[3]):
            self.words.append(line)
            return
        if prefixed is None:
            self.words.append(line)
            ended = _EXIT.match(line)
            if ended and ended[2] != "0" and not self.stopping:
                self._lost(self._numbered(int(ended[1])), f"{_ENDED} exit code {ended[2]}")
            return
        rank, stream, text = self._numbered(int(prefixed[1])), prefixed[2], prefixed[3]
        shown = text if rank.number == 0 else f"rank {rank.number}: {text}"
        console.say(shown, sys.stderr if stream == "stderr" else sys.stdout, end="")
        if stream == "stderr":
            rank.words = [*rank.words[-LAST_LINES:], text.rstrip()]

    def _hear(self, rank: _Rank, message: dict[str, Any]) -> None:
        rank.heard_s = time.monotonic()
        event = message["event"]
        if event == "hello":
            rank.host, rank.pid = message["host"], message["pid"]
        elif event == "joined":
            rank.joined = True
        elif event == "beat":
            rank.beats, rank.where = message["count"], message["what"]
            if message["step"] is not None:
                rank.where += f" of step {message['step']}"
            if rank is next((other for other in self.ranks if not other.failed and not other.leaving), None):
                self.bar.move(message["what"], message["step"], message["total"])
        elif event == "stoppable":
            rank.stoppable = message["can"]
        elif event == "leaving":
            rank.leaving = True
            self.leavers.append(rank)
        elif event == "failed" and not self.stopping:
            self._lost(rank, "", message["line"])

    def _check_times(self, began_s: float) -> None:
        now_s = time.monotonic()
        absent = [rank.number for rank in self.ranks if not rank.joined]
        if absent:
            if now_s - began_s > self.settings.start_timeout_s:
                raise LaunchError(
                    f"rank {', '.join(map(str, absent))} did not join the others within launch.start_timeout_s="
                    f"{self.settings.start_timeout_s:g} s{self._own_words()}"
                )
            return
        self._check_stall([rank for rank in self.ranks if not rank.leaving], now_s)

    def _check_stall(self, active: list[_Rank], now_s: float) -> None:
        if active and now_s - max(rank.heard_s for rank in active) > self.settings.stall_timeout_s:
            # All wait for the one that did least: the order of beats is the same on every rank.
            slowest = min(active, key=lambda rank: (rank.beats, rank.heard_s))
            raise LaunchError(
                f"{slowest} stalled at {slowest.where}: no rank made progress for launch.stall_timeout_s="
                f"{self.settings.stall_timeout_s:g} s"
            )

    def _failure(self, rank: _Rank | None, seen: str, told: str = "") -> LaunchError:
        """What to raise when a rank failed: the culprit is named with its own words, or else with what was seen from outside.

        The news come in any order and the others fail because of the first, so all that arrives within a moment is weighed,
        and only the culprit's output is still shown.
        """
        signs = [_Sign(rank, seen, told)]
        late: list[str] = []
        for kind, source, content in self._coming(WORDS_S):
            if kind == "line":
                late.append(content)
                if ended := _EXIT.match(content):
                    signs.append(_Sign(self.ranks[int(ended[1])], f"{_ENDED} exit code {ended[2]}"))
            elif kind == "gone" and not source.leaving:
                signs.append(_Sign(source, content))
            elif kind == "message" and content["event"] == "leaving":
                source.leaving = True
                self.leavers.append(source)
            elif kind == "message" and content["event"] == "failed":
                signs.append(_Sign(source, "", content["line"]))
        if self.leavers:
            signs.append(_Sign(self.leavers[0], f"{_ENDED} an error"))  # who leaves first takes the others down with it
        sign = min(signs, key=_Sign.doubt)
        rank, told = sign.rank, sign.told
        own = [m[3].rstrip() for text in late if rank and (m := _PREFIX.match(text)) and int(m[1]) == rank.number]
        if not told and rank is not None:
            told = next((text.removeprefix("alpro: ") for text in reversed([*rank.words, *own]) if _is_error(text)), "")
        line = f"{rank} failed: {told}" if told else f"{rank} {sign.seen}" if rank else sign.seen + self._own_words()
        console.say(f"alpro launch: {line}", sys.stderr)
        for text in own:
            console.say(f"rank {rank.number}: {text}" if rank else text, sys.stderr)
        return LaunchError(line)

    def _own_words(self) -> str:
        words = " | ".join(line.strip() for line in self.words[-3:] if line.strip())
        return f" (horovodrun: {words})" if words else ""

    def _coming(self, seconds: float) -> Iterator[tuple[str, Any, Any]]:
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0:
            try:
                yield self.events.get(timeout=left_s)
            except queue.Empty:
                return

    def _end(self) -> None:
        """Leave nothing behind: ranks that run well may stop by themselves; then `horovodrun` ends them, or a kill does."""
        if self.process.poll() is None and self.stopping:
            self._ask_to_stop()
        if self.process.poll() is None:
            self._disconnect()
            self.process.terminate()
            try:
                self.process.wait(2.0)
            except subprocess.TimeoutExpired:
                self.process.kill()  # the processes between it and the ranks end when its pipes close
                self.process.wait()
        self._disconnect()

    def _ask_to_stop(self) -> None:
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.sendall(b"stop\n")
        until_s = time.monotonic() + GRACE_S
        while self.process.poll() is None and time.monotonic() < until_s and any(r.stoppable for r in self.ranks):
            if self.impatient:
                return
            try:
                self._next(timeout=0.1)
            except LaunchError:
                return

    def _disconnect(self) -> None:
        self.listener.close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


def _is_error(line: str) -> bool:
    return line.startswith("alpro: ") or bool(re.match(r"^[\w.]*(Error|Exception|Interrupt)\b", line))


def main(settings: Launch, verb: list[str]) -> int:
    """What the command line calls: like `launch`, with the line of a failure on stderr, and exit code 1 for it."""
    try:
        return launch(settings, verb)
    except LaunchError as error:
        print(f"alpro: {error}", file=sys.stderr, flush=True)
        return 1
