"""The screen of `make repro`: one line per stage while it runs, and a table of seconds at the end."""

from __future__ import annotations

import re
import shutil
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

from flows.commands import LAST_LINES
from flows.stages import Outcome

# what `dvc repro` prints when it turns to the next stage
STAGE_LINES: tuple[tuple[re.Pattern[str], Outcome], ...] = (
    (re.compile(r"Running stage '([^']+)'"), "ran"),
    (re.compile(r"Stage '([^']+)' is cached"), "restored"),
    (re.compile(r"Stage '([^']+)' didn't change"), "unchanged"),
)
REMINDER_S = 60.0  # off a terminal, a line about a long stage is printed this often
NAME_WIDTH = 34
CLEAR = "\r\x1b[K"


@dataclass(slots=True)
class StageTime:
    """A stage of this run."""

    stage: str
    outcome: Outcome
    seconds: float


class StageLines:
    """Follows the output of `dvc repro`, and prints a line for each stage: number, name, seconds, expected seconds.

    On a terminal the last line shows the running stage. Off a terminal a long stage is mentioned once a minute.
    """

    def __init__(
        self,
        screen: TextIO,
        stages: Sequence[str],
        expected: Mapping[str, float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`stages` are the addresses in the order of the run; `expected` has the seconds of stages that ran before."""
        self.done: list[StageTime] = []
        self.output: deque[str] = deque(maxlen=LAST_LINES)  # of the current stage
        self._screen, self._stages, self._expected, self._clock = screen, list(stages), expected, clock
        self._live = screen.isatty()
        self._current: tuple[str, Outcome] | None = None
        self._start = self._mentioned = clock()
        self._print(f"{'':>{self._number_width}} {'stage':<{NAME_WIDTH}} {'seconds':>9} {'expected':>9}")

    @property
    def current(self) -> str | None:
        """Name of the stage that is running or being restored."""
        return self._current[0] if self._current else None

    def line(self, text: str) -> None:
        """Take one line of DVC's output."""
        for pattern, outcome in STAGE_LINES:
            if match := pattern.match(text):
                self.finish()
                self._current = match[1], outcome
                self.output.clear()
                self._start = self._mentioned = self._clock()
                if outcome == "unchanged":
                    self.finish()
                return
        self.output.append(text)

    def tick(self) -> None:
        """Update the line of the running stage."""
        if not self._current:
            return
        now = self._clock()
        if self._live:
            self._write(f"{CLEAR}{self._row(*self._current, now - self._start)[: _columns() - 1]}")
        elif now - self._mentioned >= REMINDER_S:
            self._mentioned = now
            self._print(f"{self._row(*self._current, now - self._start)}  running")

    def finish(self, failed: str = "") -> None:
        """End the current stage and print its line; `failed` says how it failed."""
        if not self._current:
            return
        stage, outcome = self._current
        time_s = StageTime(stage, "failed" if failed else outcome, self._clock() - self._start)
        self._current = None
        self.done.append(time_s)
        note = failed or (outcome if outcome != "ran" else "")
        self._print(f"{self._row(stage, outcome, time_s.seconds)}  {note}".rstrip())

    def table(self, total_s: float) -> None:
        """Print the seconds of each stage that ran or was restored, and of all the rest."""
        stages = [entry for entry in self.done if entry.outcome != "unchanged"]
        if not stages:
            self._print(f"all {len(self.done)} stages are up to date ({total_s:.1f} s)")
            return
        self._print(f"\n{'seconds per stage':<{NAME_WIDTH}} {'seconds':>9} {'share':>9}")
        rest = total_s - sum(entry.seconds for entry in stages)
        rows = [(entry.stage, entry.seconds) for entry in stages]
        for name, seconds in [*rows, ("checks, MLflow and the rest", rest), ("total", total_s)]:
            self._print(f"{name:<{NAME_WIDTH}} {seconds:>9.1f} {100 * seconds / total_s:>7.0f} %")

    @property
    def _number_width(self) -> int:
        return 2 * len(str(len(self._stages))) + 1

    def _row(self, stage: str, outcome: Outcome, seconds: float) -> str:
        number = self._stages.index(stage) + 1 if stage in self._stages else 0
        label = f"{number}/{len(self._stages)}"
        expected = f"{self._expected[stage]:.1f}" if outcome == "ran" and stage in self._expected else "-"
        taken = f"{seconds:.1f}" if outcome != "unchanged" else "-"
        return f"{label:>{self._number_width}} {stage:<{NAME_WIDTH}} {taken:>9} {expected:>9}"

    def _print(self, text: str) -> None:
        self._write(f"{CLEAR if self._live else ''}{text}\n")

    def _write(self, text: str) -> None:
        self._screen.write(text)
        self._screen.flush()


def _columns() -> int:
    return shutil.get_terminal_size().columns
