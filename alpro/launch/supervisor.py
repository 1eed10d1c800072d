"""Supervises a `horovodrun`: output, heartbeats, failures, and the end of every process.

Each rank keeps a connection to this process (alpro.launch.heartbeat) and sends its progress and its failure over it. A
rank that fails, is killed or stalls is named, and its own message comes first. Whichever of launcher, `horovodrun` and
ranks dies, the others end within seconds.
"""

from __future__ import annotations

import contextlib
import json
import queue
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import IO, Any

from alpro.config import Launch
from alpro.errors import LaunchError
from alpro.launch import heartbeat
from alpro.launch.bar import Bar
from alpro.launch.command import own_address
from alpro.launch.diagnosis import ENDED, EXIT, GLOO, KILLED, PREFIX, VANISHED, Rank, Symptom, is_error
from alpro.system import parent
from alpro.terminal import console

GRACE_S = 120.0  # ranks that were asked to stop, and can, are killed after this: a full-size step and snapshot fit in


WORDS_S = 1.0  # what a failing rank printed may arrive after the news of its failure


LAST_LINES = 200


class Supervisor:
    """One `horovodrun`, its output, and the connections of its ranks; all events pass through one queue."""

    def __init__(self, settings: Launch, command: list[str], environment: dict[str, str]) -> None:
        self.settings = settings
        self.ranks = [Rank(number) for number in range(settings.world)]
        self.events: queue.Queue[tuple[str, Any, Any]] = queue.Queue()
        self.token = secrets.token_hex(16)
        self.connections: list[socket.socket] = []
        self.leavers: list[Rank] = []  # in the order in which they left
        self.words: list[str] = []  # what horovodrun itself printed
        self.stopping = ""
        self.bar = Bar()
        self.impatient = False  # asked a second time
        host = own_address(settings.hosts)
        self.listener = socket.create_server((host, 0))
        environment["PYTHONUNBUFFERED"] = "1"
        environment[heartbeat.ADDRESS] = f"{host}:{self.listener.getsockname()[1]}:{self.token}"
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches it through this process, once
            # not SIGTERM, after which a horovodrun was seen to stay, all its ranks gone and nobody reading its pipes
            preexec_fn=lambda: parent.set_parent_death_signal(signal.SIGKILL),
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
            heartbeat.notice_loss(connection)
            threading.Thread(target=self._read_rank, args=(connection,), daemon=True).start()

    def _read_rank(self, connection: socket.socket) -> None:
        rank: Rank | None = None
        end = KILLED
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
                    connection.sendall(heartbeat.HEARD)
        except TimeoutError:
            end = VANISHED
        except (OSError, ValueError):
            pass
        if rank is not None:
            self.events.put(("gone", rank, end))

    def _enter(self, number: int) -> Rank:
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

    def _lost(self, rank: Rank, seen: str, told: str = "") -> None:
        """A process ended, or told why it is about to."""
        raise self._failure(rank, seen, told)

    def _numbered(self, number: int) -> Rank:
        """The process whose output carries this number."""
        return self.ranks[number]

    def _show(self, stream: str, line: str) -> None:
        """Print a line of output: rank 0's as it is, the others' named, `horovodrun`'s own and Gloo's only after a failure."""
        prefixed = PREFIX.match(line)
        if prefixed is not None and GLOO.match(prefixed[3]):
            self.words.append(line)
            return
        if prefixed is None:
            self.words.append(line)
            ended = EXIT.match(line)
            if ended and ended[2] != "0" and not self.stopping:
                self._lost(self._numbered(int(ended[1])), f"{ENDED} exit code {ended[2]}")
            return
        rank, stream, text = self._numbered(int(prefixed[1])), prefixed[2], prefixed[3]
        shown = text if rank.number == 0 else f"rank {rank.number}: {text}"
        console.say(shown, sys.stderr if stream == "stderr" else sys.stdout, end="")
        if stream == "stderr":
            rank.words = [*rank.words[-LAST_LINES:], text.rstrip()]

    def _hear(self, rank: Rank, message: dict[str, Any]) -> None:
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

    def _check_stall(self, active: list[Rank], now_s: float) -> None:
        if active and now_s - max(rank.heard_s for rank in active) > self.settings.stall_timeout_s:
            # All wait for the one that did least: the order of beats is the same on every rank.
            slowest = min(active, key=lambda rank: (rank.beats, rank.heard_s))
            raise LaunchError(
                f"{slowest} stalled at {slowest.where}: no rank made progress for launch.stall_timeout_s="
                f"{self.settings.stall_timeout_s:g} s"
            )

    def _failure(self, rank: Rank | None, seen: str, told: str = "") -> LaunchError:
        """What to raise when a rank failed: the culprit is named with its own words, or else with what was seen from outside.

        The news come in any order and the others fail because of the first, so all that arrives within a moment is weighed,
        and only the culprit's output is still shown.
        """
        signs = [Symptom(rank, seen, told)]
        late: list[str] = []
        for kind, source, content in self._coming(WORDS_S):
            if kind == "line":
                late.append(content)
                if ended := EXIT.match(content):
                    signs.append(Symptom(self.ranks[int(ended[1])], f"{ENDED} exit code {ended[2]}"))
            elif kind == "gone" and not source.leaving:
                signs.append(Symptom(source, content))
            elif kind == "message" and content["event"] == "leaving":
                source.leaving = True
                self.leavers.append(source)
            elif kind == "message" and content["event"] == "failed":
                signs.append(Symptom(source, "", content["line"]))
        if self.leavers:
            signs.append(Symptom(self.leavers[0], f"{ENDED} an error"))  # who leaves first takes the others down with it
        sign = min(signs, key=Symptom.doubt)
        rank, told = sign.rank, sign.told
        own = [m[3].rstrip() for text in late if rank and (m := PREFIX.match(text)) and int(m[1]) == rank.number]
        if not told and rank is not None:
            told = next((text.removeprefix("alpro: ") for text in reversed([*rank.words, *own]) if is_error(text)), "")
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
