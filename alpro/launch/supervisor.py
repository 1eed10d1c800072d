"""Supervises a world: output, heartbeats, failures, and the end of every process.

A starter (alpro.launch.horovodrun or alpro.launch.torchrun) runs the ranks and prints their output, each line with the
number of its rank.

Each rank keeps a connection to this process (alpro.launch.heartbeat) and sends its progress and its failure over it. A
rank that fails, is killed or stalls is named, and its own message comes first. Whichever of launcher, starter and
ranks dies, the others end within seconds.
"""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import IO, Any

from alpro.config import Launch
from alpro.errors import LaunchError
from alpro.launch import diagnosis, heartbeat, slurm_job
from alpro.launch.command import own_address
from alpro.launch.diagnosis import ENDED, EXIT, GLOO, HOSTS_CHANGED, PREFIX, STEP_PHASES, VANISHED, Event, Rank, Symptom
from alpro.launch.labels import hosts_of_ranks, labelled
from alpro.launch.listener import Listener
from alpro.launch.proof import new_secret
from alpro.launch.ssh import is_remote
from alpro.system import parent
from alpro.terminal import console, logs
from alpro.terminal.progress import Bar

log = logs.get(__name__)
GRACE_S = 120.0  # time for ranks to stop gracefully, then they are killed; enough for a full-size step and snapshot
LATE_OUTPUT_S = 1.0  # output may arrive this much later than the news of a failure, or than the end of the starter
STDERR_LINES = 200


class Stopped(LaunchError):
    """The run was stopped from outside; `saved` is True if its ranks have saved their state."""

    saved = False


class HostLost(LaunchError):
    """The host of a rank, or the network to it, is down."""


class Supervisor:
    """One starter, its output, and the connections of its ranks; all events pass through one queue."""

    def __init__(self, settings: Launch, command: list[str], environment: dict[str, str]) -> None:
        self.settings = settings
        self.on_other_hosts = any(is_remote(name) for name, _ in settings.slots)
        names = hosts_of_ranks(settings.slots) if self.on_other_hosts else [""] * settings.world_size
        self.ranks = [Rank(number, names[number]) for number in range(settings.world_size)]
        self.events: queue.Queue[Event] = queue.Queue()
        self.secret = new_secret()
        self.exited: list[Rank] = []  # in exit order
        self.starter_lines: list[str] = []
        self.open_streams = {"stdout", "stderr"}  # of the starter, whose end is not read yet
        self.stopping = ""  # why the run was asked to stop
        self.impatient = False  # asked a second time
        self.stopped: Stopped | None = None
        self.bar = Bar(sys.stdout, transient=True)
        host = own_address(settings.hosts)
        self.listener = Listener(host, self.secret, self.events, self._register)
        environment["PYTHONUNBUFFERED"] = "1"
        environment[heartbeat.ADDRESS] = f"{host}:{self.listener.address[1]}:{self.secret}"
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # a terminal's Ctrl-C then reaches it only through this process
            # SIGKILL: after SIGTERM, Horovod's starter without ranks and without a reader of its pipes was seen to stay
            preexec_fn=lambda: parent.set_parent_death_signal(signal.SIGKILL),
        )
        for stream, name in ((self.process.stdout, "stdout"), (self.process.stderr, "stderr")):
            threading.Thread(target=self._read_output, args=(stream, name), daemon=True).start()
        threading.Thread(target=lambda: self.events.put(("exit", self.process.wait(), None)), daemon=True).start()

    # --- threads: each only puts events -----------------------------------------------------------------------

    def _read_output(self, stream: IO[bytes], name: str) -> None:
        for line in stream:
            self.events.put(("line", name, line.decode(errors="replace")))
        self.events.put(("closed", name, None))

    def _register(self, number: int) -> Rank:
        """Return the rank that has opened a connection."""
        return self.ranks[number]

    # --- the main thread --------------------------------------------------------------------------------------

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
                code = self._handle_next(timeout=0.5)
                if slurm_job.warned.is_set() and not self.stopping and any(rank.stoppable for rank in self.ranks):
                    self.stopping = "stopped by Slurm's warning; run the same command again to resume from the last saved state"
                if self.stopping and code is None:
                    self.stopped = Stopped(self.stopping)
                    raise self.stopped
                self._check_times(began_s)
            if code != 0:
                raise self._diagnose(None, f"the starter ended with exit code {code}")
            late = self._events_during(LATE_OUTPUT_S)  # a process that outlives the ranks may keep a stream open for longer
            while self.open_streams and (event := next(late, None)) is not None:
                kind, source, content = event
                if kind == "line":
                    self._print_line(source, content)
                elif kind == "closed":
                    self.open_streams.discard(source)
            return 0
        finally:
            self._shut_down()
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: Any) -> None:
        name = signal.Signals(number).name
        self.impatient = bool(self.stopping)
        self.stopping = f"stopped by {name}; run the same command again to resume from the last saved state"

    def _handle_next(self, timeout: float) -> int | None:
        """Handle one event; return the exit code if it was the end of the starter."""
        try:
            kind, source, content = self.events.get(timeout=timeout)
        except queue.Empty:
            return None
        if kind == "line":
            self._print_line(source, content)
        elif kind == "message":
            self._handle_message(source, content)
        elif kind == "gone" and not source.leaving:
            self._on_failure(source, content)
        elif kind == "closed":
            self.open_streams.discard(source)
        elif kind == "exit":
            return int(source)
        return None

    def _on_failure(self, rank: Rank, observation: str, message: str = "") -> None:
        """React to a rank that has ended, or has sent the message of its failure."""
        raise self._diagnose(rank, observation, message)

    def _rank_of_output(self, number: int) -> Rank:
        """Return the rank whose lines the starter prefixes with this number."""
        return self.ranks[number]

    def _print_line(self, stream: str, line: str) -> None:
        """Print a line of a rank with its label. Lines of the starter and Gloo are kept for a failure."""
        prefixed = PREFIX.match(line)
        if prefixed is not None and GLOO.match(prefixed[3]):
            self.starter_lines.append(line)
            return
        if prefixed is None and line.startswith("alpro launch: "):
            self._handle_news(line.rstrip())
            return
        if prefixed is None:
            self.starter_lines.append(line)
            ended = EXIT.match(line)
            if ended and ended[2] != "0" and not self.stopping:
                self._on_failure(self._rank_of_output(int(ended[1])), f"{ENDED} exit code {ended[2]}")
            return
        rank, stream, text = self._rank_of_output(int(prefixed[1])), prefixed[2], prefixed[3]
        output = labelled(text, rank, rank.host if self.on_other_hosts else "")
        console.say(output, sys.stderr if stream == "stderr" else sys.stdout, end="")
        if stream == "stderr":
            rank.stderr_tail = [*rank.stderr_tail[-STDERR_LINES:], text.rstrip()]

    def _handle_news(self, line: str) -> None:
        """Tell the ranks that hosts have changed; print anything else that the starting program reports."""
        if line == HOSTS_CHANGED:
            self.listener.send(heartbeat.HOSTS)
        else:
            console.say(line, sys.stderr)

    def _handle_message(self, rank: Rank, message: dict[str, Any]) -> None:
        rank.update(message)
        event = message["event"]
        if event == "beat" and rank is next((r for r in self.ranks if not r.failed and not r.leaving), None):
            self._move_bar(message)
        elif event == "leaving":
            self.exited.append(rank)
        elif event == "failed" and not self.stopping:
            self._on_failure(rank, "", message["line"])

    def _move_bar(self, beat: dict[str, Any]) -> None:
        """Show steps of a training, or units of an evaluation."""
        if beat["step"] is not None and beat["total"] is not None:
            self.bar.update("training" if beat["what"] in STEP_PHASES else beat["what"], beat["step"], beat["total"])

    def _check_times(self, began_s: float) -> None:
        now_s = time.monotonic()
        absent = [str(rank) for rank in self.ranks if not rank.joined]
        if absent:
            if now_s - began_s > self.settings.start_timeout_s:
                raise LaunchError(
                    f"{', '.join(absent)} did not join the others within launch.start_timeout_s="
                    f"{self.settings.start_timeout_s:g} s{self._starter_tail()}"
                )
            return
        self._check_stall([rank for rank in self.ranks if not rank.leaving], now_s)

    def _check_stall(self, active: list[Rank], now_s: float) -> None:
        if active and now_s - max(rank.last_message_s for rank in active) > self.settings.stall_timeout_s:
            # All ranks send the same heartbeats in the same order, so the others wait for the one that sent the fewest.
            slowest = min(active, key=lambda rank: (rank.beats, rank.last_message_s))
            raise LaunchError(
                f"{slowest} stalled at {slowest.position}: no rank made progress for launch.stall_timeout_s="
                f"{self.settings.stall_timeout_s:g} s"
            )

    def _diagnose(self, rank: Rank | None, observation: str, message: str = "") -> LaunchError:
        """Return the error to raise after a failure. It names the most likely culprit, with its own message if there is one.

        One failing rank takes the others down, and their messages arrive in any order. Collect everything for one second,
        pick the most likely root cause and print only that rank's output.
        """
        events = self._events_during(LATE_OUTPUT_S)
        symptoms, lines = diagnosis.collect_symptoms(Symptom(rank, observation, message), events, self.ranks, self.exited)
        culprit, line, culprit_lines = diagnosis.find_cause(symptoms, lines)
        if culprit is None:
            line += self._starter_tail()
        log.error("alpro launch: %s", line)
        for text in culprit_lines:
            console.say(f"rank {culprit.number}: {text}" if culprit else text, sys.stderr)
        if line == f"{culprit} {VANISHED}":
            return HostLost(f"{line}; `alpro launch --check` shows whether it is back; the same command resumes a training")
        return LaunchError(line)

    def _starter_tail(self) -> str:
        tail = " | ".join(line.strip() for line in self.starter_lines[-3:] if line.strip())
        return f" (the starter printed: {tail})" if tail else ""

    def _events_during(self, seconds: float) -> Iterator[Event]:
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0:
            try:
                yield self.events.get(timeout=left_s)
            except queue.Empty:
                return

    # --- the end ----------------------------------------------------------------------------------------------

    def _shut_down(self) -> None:
        """Leave no process behind: ranks may stop gracefully if asked to, then the starter ends them, or SIGKILL."""
        if self.process.poll() is None and self.stopping:
            self._ask_to_stop()
        if self.process.poll() is None:
            self.listener.close()
            self.process.terminate()
            try:
                self.process.wait(2.0)
            except subprocess.TimeoutExpired:
                self.process.kill()  # the processes between it and the ranks end when its pipes close
                self.process.wait()
        self.listener.close()

    def _ask_to_stop(self) -> None:
        was_stoppable = any(rank.stoppable for rank in self.ranks)
        self.listener.send(heartbeat.STOP)
        until_s = time.monotonic() + GRACE_S
        while self.process.poll() is None and time.monotonic() < until_s and any(r.stoppable for r in self.ranks):
            if self.impatient:
                return
            try:
                self._handle_next(timeout=0.1)
            except LaunchError:
                return
        for kind, source, content in self._events_during(0.1):
            if kind == "message":
                source.update(content)
        if self.stopped is not None:
            self.stopped.saved = was_stoppable and not any(rank.stoppable for rank in self.ranks)
