"""Finds the rank that caused a failure among the symptoms that reach the launcher."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

PREFIX = re.compile(r"^\[(\d+)\]<(stdout|stderr)>:(.*)$", re.S)  # of a rank's line in horovodrun's output
GLOO = re.compile(r"\[[\d-]+ [\d:. ]+: [EF] \S*/gloo/")  # Gloo's errors about a lost rank; often before the cause
NATIVE = re.compile(r"^\s*what\(\):\s*(?:\[enforce fail at [^\]]*\] )?(.+)")  # C++'s message for an uncaught exception
CRASHES = {
    128 + number: number.name for number in (signal.SIGILL, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGSEGV)
}
EXIT = re.compile(r"^Process (\d+) exit with status code (-?\d+)\.")
HOSTS_CHANGED = "alpro launch: the available hosts have changed"  # printed by alpro.launch.horovodrun for the supervisor
KILLED = "ended without an error message; it was killed, or memory ran out"
VANISHED = "cannot be reached; its host or the network to it is down"
ENDED = "ended with"
STEP_PHASES = ("reading", "computing", "exchange", "saving")  # heartbeats within a training step

Event = tuple[str, Any, Any]  # kind, source, content


@dataclass
class Rank:
    """State of one rank, as the launcher sees it."""

    number: int
    host: str = ""
    pid: int = 0
    joined: bool = False
    leaving: bool = False
    stoppable: bool = False
    failed: bool = False
    beats: int = 0
    position: str = "the start"
    last_message_s: float = field(default_factory=time.monotonic)
    stderr_tail: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        place = [*([self.host] if self.host else []), *([f"process {self.pid}"] if self.pid else [])]
        return f"rank {self.number} ({', '.join(place)})" if place else f"rank {self.number}"

    def update(self, message: dict[str, Any]) -> None:
        """Take over the state that a message of this rank reports."""
        self.last_message_s = time.monotonic()
        event = message["event"]
        if event == "hello":
            self.host, self.pid = message["host"], message["pid"]
        elif event == "joined":
            self.joined = True
        elif event == "beat":
            self.beats, self.position = message["count"], message["what"]
            if message["step"] is not None:
                self.position += f" of step {message['step']}"
        elif event == "stoppable":
            self.stoppable = message["can"]
        elif event == "leaving":
            self.leaving = True


@dataclass
class Symptom:
    """One sign that something failed: an observation from outside, or the failing rank's own message."""

    rank: Rank | None
    observation: str
    message: str = ""

    def side_effect_score(self) -> int:
        """Return 0 for a root cause; higher values are more likely side effects of another rank's failure."""
        if self.message:
            return 4 if self.message.startswith("LostRankError") else 0
        return {VANISHED: 1, KILLED: 1, f"{ENDED} an error": 2}.get(self.observation, 3 if self.rank else 5)


def collect_symptoms(
    first: Symptom, events: Iterable[Event], ranks: list[Rank], exited: list[Rank]
) -> tuple[list[Symptom], list[str]]:
    """Return all symptoms, and the lines of output that arrived with them. Appends ranks that leave to `exited`."""
    symptoms, lines = [first], []
    for kind, source, content in events:
        if kind == "line":
            lines.append(content)
            if ended := EXIT.match(content):
                symptoms.append(Symptom(ranks[int(ended[1])], f"{ENDED} exit code {ended[2]}"))
        elif kind == "gone" and not source.leaving:
            symptoms.append(Symptom(source, content))
        elif kind == "message" and content["event"] == "leaving":
            source.leaving = True
            exited.append(source)
        elif kind == "message" and content["event"] == "failed":
            symptoms.append(Symptom(source, "", content["line"]))
    if exited:
        symptoms.append(Symptom(exited[0], f"{ENDED} an error"))  # the first rank that leaves takes the others down
    return symptoms, lines


def find_cause(symptoms: list[Symptom], lines: list[str]) -> tuple[Rank | None, str, list[str]]:
    """Return the culprit (None if no rank is to blame), a description of the failure, and the culprit's lines in `lines`."""
    cause = min(symptoms, key=Symptom.side_effect_score)
    rank, message = cause.rank, cause.message
    if rank is None:
        return None, cause.observation, []
    own_lines = [m[3].rstrip() for text in lines if (m := PREFIX.match(text)) and int(m[1]) == rank.number]
    message = message or own_message([*rank.stderr_tail, *own_lines])
    if message:
        return rank, f"{rank} failed: {message}", own_lines
    crashes = [crash for s in symptoms if s.rank is rank and (crash := crash_of(s.observation))]
    return rank, f"{rank} {next(iter(crashes), cause.observation)}", own_lines


def own_message(lines: list[str]) -> str:
    """Return the message with which a rank ended: the last of Python's or `alpro`'s, else the last of C++'s; or nothing."""
    for text in reversed(lines):
        if is_error(text):
            return text.removeprefix("alpro: ")
    for text in reversed(lines):
        if native := NATIVE.match(text):
            return f"in native code (Horovod, Gloo or torch): {native[1].strip()}"
    return ""


def crash_of(observation: str) -> str:
    """Return a description if the observation is the exit code of a crash in native code; empty for any other."""
    code = observation.removeprefix(f"{ENDED} exit code ")
    if code == observation or int(code) not in CRASHES:
        return ""
    return f"crashed in native code ({CRASHES[int(code)]}) without a message; `alpro doctor` checks this machine"


def is_error(line: str) -> bool:
    """Return True if a line of a rank's stderr is the message of an exception, or of `alpro` itself."""
    return line.startswith("alpro: ") or bool(re.match(r"^[\w.]*(Error|Exception|Interrupt)\b", line))
