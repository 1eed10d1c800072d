"""alpro/launch/diagnosis.py: NEW MODULE."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field

PREFIX = re.compile(r"^\[(\d+)\]<(stdout|stderr)>:(.*)$", re.S)


GLOO = re.compile(r"\[[\d-]+ [\d:.]+: [EF] \S*/gloo/")  # of a rank that is gone: often told before the cause


KILLED = "ended without a word; it was killed, or the memory ran out"


VANISHED = "can't be reached any more; its host, or the network to it, is gone"


ENDED = "left with"


EXIT = re.compile(r"^Process (\d+) exit with status code (-?\d+)\.")


@dataclass
class Rank:
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
class Symptom:
    """One piece of news that something failed."""

    rank: Rank | None
    seen: str
    told: str = ""

    def doubt(self) -> int:
        """How likely it is only the consequence of another rank's failure."""
        if self.told:
            return 4 if self.told.startswith("HorovodInternalError") else 0
        return {VANISHED: 1, KILLED: 1, f"{ENDED} an error": 2}.get(self.seen, 3 if self.rank else 5)


def is_error(line: str) -> bool:
    return line.startswith("alpro: ") or bool(re.match(r"^[\w.]*(Error|Exception|Interrupt)\b", line))
