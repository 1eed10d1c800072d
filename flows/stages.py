"""DVC's stages for a flow: their order in DVC's graph, and running one of them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from alpro.files.locks import lock_in
from alpro.launch.diagnosis import KILLED
from flows import would_run
from flows.commands import dvc, output_of, stream

Outcome = Literal["ran", "restored", "unchanged", "failed"]
EVERYTHING = ("report",)
# a stage is repeated after these messages: DVC's lock is held for a moment, or a rank was killed and training can resume
TRANSIENT = (KILLED, "Unable to acquire lock", "is busy, it is being blocked by", "Failed to acquire rwlock")
# hints that DVC repeats after every stage; they are not logged
ADVICE = ("To track the changes with git", "git add ", "To enable auto staging", "dvc config core.autostage", "Use `dvc push`")


class StageFailed(Exception):
    """A stage ended with an error. `transient`: True if running it again is likely to help."""

    def __init__(self, message: str, transient: bool = False):
        super().__init__(message)
        self.transient = transient


class TrainedElsewhere(StageFailed):
    """Another run trains the same. `lock`: the file that it holds until its end; DVC's run cache then has the result."""

    def __init__(self, message: str, lock: Path):
        super().__init__(message)
        self.lock = lock


@dataclass(frozen=True, slots=True)
class Graph:
    """Stages by their names in DVC (`pretrain`, `finetune@msvd_qa`), in an order in which they can run."""

    order: tuple[str, ...]
    needs: dict[str, frozenset[str]]  # stage -> its direct dependencies

    def after(self, stage: str) -> set[str]:
        """Return the stage and all stages that depend on it."""
        stages = {stage}
        for name in self.order:
            if self.needs[name] & stages:
                stages.add(name)
        return stages

    def find(self, name: str) -> str:
        """Return the name of a stage of this run. Raises ValueError with the known names."""
        if name not in self.order:
            raise ValueError(f"no stage {name!r} in this run; stages: {', '.join(self.order)}")
        return name

    def only(self, prefix: str) -> Graph:
        """Return the part of the graph with the stages whose names start with `prefix`, and the stages that they need."""
        stages = {stage for stage in self.order if stage.startswith(prefix)}
        for stage in reversed(self.order):
            if stage in stages:
                stages |= self.needs[stage]
        return Graph(tuple(stage for stage in self.order if stage in stages), self.needs)


def graph(root: Path, targets: Sequence[str] = EVERYTHING) -> Graph:
    """Return the targets with all stages that they need, from `dvc dag`."""
    names: dict[str, None] = {}
    needs: dict[str, set[str]] = {}
    for target in targets:
        for line in output_of([dvc(), "dag", "--dot", target], root).splitlines():
            quoted = re.findall(r'"([^"]+)"', line)
            names |= dict.fromkeys(quoted)
            if len(quoted) == 2:
                needs.setdefault(quoted[1], set()).add(quoted[0])
    data = {name for name in names if name.endswith(".dvc")}  # tracked data, not stages
    stages = {name: frozenset(needs.get(name, ())) - data for name in names if name not in data}
    return Graph(tuple(_sorted(stages)), stages)


def _sorted(needs: dict[str, frozenset[str]]) -> list[str]:
    """Sort depth first, from the last stages: a task's stages run one after the other, so failures appear early."""
    order: dict[str, None] = {}

    def add(name: str) -> None:
        if name not in order:
            for other in sorted(needs[name], key=list(needs).index):
                add(other)
            order[name] = None

    needed = frozenset[str]().union(*needs.values())
    for name in (name for name in needs if name not in needed):
        add(name)
    return list(order)


def reproduce(stage: str, root: Path, log: Callable[[str], object], force: bool = False) -> Outcome:
    """Run `dvc repro --single-item`. Raises StageFailed with the stage's name and its last error line.

    Raises TrainedElsewhere if the training of another run holds the resume state.
    """
    command = [dvc(), "repro", "--single-item", *(["--force"] if force else []), stage]
    code, lines = stream(command, root, lambda line: None if line.strip().startswith(ADVICE) else log(line))
    if code:
        if lock := next(filter(None, map(lock_in, reversed(lines))), None):
            raise TrainedElsewhere(f"stage {stage}: {_reason(lines, code)}", root / lock)
        transient = any(text in line for line in lines for text in TRANSIENT)
        raise StageFailed(f"stage {stage} failed: {_reason(lines, code)}", transient)
    text = "\n".join(lines)
    if "is cached - skipping run" in text:
        return "restored"
    return "ran" if "Running stage " in text else "unchanged"


def needs_running(stage: str, root: Path) -> bool:
    """Return False if DVC would skip a stage, or restore its outputs from the run cache."""
    try:
        printed = output_of([sys.executable, "-P", str(would_run.__file__), stage], root).splitlines()
        return printed[-1:] != ["skip"]  # DVC may print lines before it
    except RuntimeError:  # `dvc repro` will tell
        return True


def _reason(lines: list[str], code: int) -> str:
    """Return the last line that the stage itself printed; if there is none, DVC's last line or the exit code."""
    stage_lines = [line for line in lines if not line.startswith(("ERROR: failed to reproduce", "> ", "Running stage "))]
    return stage_lines[-1] if stage_lines else (lines[-1] if lines else f"exit code {code}")
