"""Steps of the check: what a step is given, what it returns, and how it says that it failed or was skipped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

Figures = dict[str, Any]  # what a step computed, by name: numbers or short texts
Status = Literal["passed", "skipped", "failed"]


class Skipped(Exception):
    """The step cannot run here; the message is the reason."""


class Failed(Exception):
    """The step found a fault; the message says which."""

    def __init__(self, fault: str, figures: Figures | None = None) -> None:
        super().__init__(fault)
        self.figures = figures or {}


@dataclass(frozen=True)
class Context:
    """The circumstances of a step. `earlier` has the figures of the steps before it, by their names."""

    small: bool
    work: Path  # a folder of this step alone
    root: Path  # the checkout, or the folder that has `alpro`
    earlier: Mapping[str, Figures] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """The device under test: the first GPU, or with `small` the CPU."""
        return torch.device("cpu") if self.small else torch.device("cuda", 0)


@dataclass(frozen=True)
class Step:
    """One step of the check.

    `limit_s` and `small_limit_s` are the seconds after which it is killed. `needs`: a step for "cuda" is skipped with `small`.
    """

    name: str
    run: Callable[[Context], Figures]
    limit_s: float
    small_limit_s: float = 300  # other work may share the cores
    needs: Literal["any", "cuda"] = "any"

    def limit(self, small: bool) -> float:
        """Return the seconds that the step may take."""
        return self.small_limit_s if small else self.limit_s


@dataclass(frozen=True)
class Result:
    """Result of one step. `detail` is the reason of a skipped step, or the fault of a failed one."""

    name: str
    status: Status
    detail: str
    figures: Figures
    seconds: float
    limit_s: float


def run_step(step: Step, context: Context) -> tuple[Status, str, Figures]:
    """Run a step in this process; return status, detail and figures.

    A missing package is a reason to skip the step; any other exception is a failure.
    """
    if step.needs == "cuda" and context.small:
        return "skipped", "needs CUDA", {}
    try:
        return "passed", "", step.run(context)
    except Skipped as reason:
        return "skipped", str(reason), {}
    except Failed as fault:
        return "failed", str(fault), fault.figures
    except ModuleNotFoundError as error:
        return "skipped", f"{error.name} is missing here; carry its wheel (--wheels)", {}
    except Exception as error:
        import traceback

        traceback.print_exc()
        lines = str(error).splitlines() or [""]
        from_worker = lines[0].startswith("Caught ")  # with the traceback of a loader's process in between
        return "failed", (lines[-1] if from_worker else f"{type(error).__name__}: {lines[0]}")[:300], {}
