"""DVC's stages as a flow sees them: their order from DVC's own graph, and running one of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flows.commands import ask, dvc, stream

Outcome = Literal["ran", "restored", "unchanged", "failed"]
EVERYTHING = ("dvc.yaml",)
# DVC's lock is somebody's for a moment; a rank was lost, and its training goes on where it stopped
TRANSIENT = ("ended without a word", "Unable to acquire lock", "is busy, it is being blocked by", "Failed to acquire rwlock")
# what DVC repeats after every stage, and nobody follows in the middle of a run
ADVICE = ("To track the changes with git", "git add ", "To enable auto staging", "dvc config core.autostage", "Use `dvc push`")


class StageFailed(Exception):
    """A stage ended with an error; `transient` when running it again may well help."""

    def __init__(self, message: str, transient: bool = False):
        super().__init__(message)
        self.transient = transient


@dataclass(frozen=True, slots=True)
class Graph:
    """Stages by their addresses (`report`, `stages/dvc.yaml:pretrain`), in an order in which they can run."""

    order: tuple[str, ...]
    needs: dict[str, frozenset[str]]  # stage -> those it directly depends on

    def after(self, stage: str) -> set[str]:
        """The stage and all that depend on it."""
        found = {stage}
        for name in self.order:
            if self.needs[name] & found:
                found.add(name)
        return found

    def find(self, name: str) -> str:
        """The address of a stage given by address or by name alone. Raises ValueError with the known names."""
        for address in self.order:
            if name in (address, short(address)):
                return address
        raise ValueError(f"no stage {name!r} in this run; there are: {', '.join(map(short, self.order))}")


def short(address: str) -> str:
    """`finetune@msvd_qa` of `stages/dvc.yaml:finetune@msvd_qa`."""
    return address.rsplit(":", 1)[-1]


def graph(root: Path, targets: Sequence[str] = EVERYTHING) -> Graph:
    """The targets and all that they need. What only other stages need is no part of it."""
    names: dict[str, None] = {}
    needs: dict[str, set[str]] = {}
    for target in targets:
        for line in ask([dvc(), "dag", "--dot", target], root).splitlines():
            quoted = re.findall(r'"([^"]+)"', line)
            names |= dict.fromkeys(quoted)
            if len(quoted) == 2:
                needs.setdefault(quoted[1], set()).add(quoted[0])
    tracked = {name for name in names if name.endswith(".dvc")}  # data, not stages: there is nothing to run
    wanted = {name: frozenset(needs.get(name, ())) - tracked for name in names if name not in tracked}
    return Graph(tuple(_sorted(wanted)), wanted)


def _sorted(needs: dict[str, frozenset[str]]) -> list[str]:
    """Depth first, in DVC's order: a task's stages stand together and what fails early is seen early."""
    order: dict[str, None] = {}

    def add(name: str) -> None:
        if name not in order:
            for other in sorted(needs[name], key=list(needs).index):
                add(other)
            order[name] = None

    for name in needs:
        add(name)
    return list(order)


def reproduce(stage: str, root: Path, log: Callable[[str], object], force: bool = False) -> Outcome:
    """One `dvc repro --single-item`. Raises StageFailed, which names the stage and its own last error line."""
    command = [dvc(), "repro", "--single-item", *(["--force"] if force else []), stage]
    code, lines = stream(command, root, lambda line: None if line.strip().startswith(ADVICE) else log(line))
    if code:
        raise StageFailed(
            f"stage {short(stage)} failed: {_reason(lines, code)}", any(t in line for line in lines for t in TRANSIENT)
        )
    text = "\n".join(lines)
    if "is cached - skipping run" in text:
        return "restored"
    return "ran" if "Running stage " in text else "unchanged"


def _reason(lines: list[str], code: int) -> str:
    """The stage's own last words; DVC's, where it said none itself."""
    own = [line for line in lines if not line.startswith(("ERROR: failed to reproduce", "> ", "Running stage "))]
    return own[-1] if own else (lines[-1] if lines else f"exit code {code}")
