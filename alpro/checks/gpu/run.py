"""The check itself: all steps in order, each in a process of its own, then one table and JSON."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import alpro
from alpro.checks.gpu.process import run_apart
from alpro.checks.gpu.steps import Context, Result, Step
from alpro.checks.gpu.table import result_table, verdict, write_results
from alpro.errors import ConfigError, nearest
from alpro.files.state import state_folder
from alpro.terminal import logs

log = logs.get(__name__)
ROOT = Path(alpro.__file__).resolve().parents[1]
OUTPUT = Path("benchmarks/gpu.json")
MINUTES = 10.0


@dataclass(frozen=True)
class Options:
    """Options of `alpro check gpu`."""

    small: bool = False
    output: Path | None = None  # default: benchmarks/gpu.json, or with `small` a file in the state folder
    wheels: Path | None = None
    only: Sequence[str] = ()
    minutes: float | None = None  # after which no step is started; default: MINUTES, or with `small` no limit


def check_gpu(options: Options) -> list[Result]:
    """Run the steps; print each result as it is known and a table at the end; write the JSON after each step.

    Raises ConfigError for an unknown step and for unusable wheels.
    """
    output = options.output or (state_folder() / "gpu-small.json" if options.small else OUTPUT)
    with tempfile.TemporaryDirectory(prefix="alpro-check-") as temporary:
        carried: list[str] = []
        if options.wheels is not None:
            from alpro.checks.gpu.wheels import put_on_path

            carried = put_on_path(options.wheels, Path(temporary) / "packages")
        from alpro.checks.gpu.all_steps import STEPS  # imports torch, which may be slow, and the carried packages

        setting = {
            "small": options.small, "date": datetime.now(UTC).date().isoformat(), "processor": platform.machine(),
            "carried": carried, "alpro": alpro.__version__,
        }  # fmt: skip
        results: list[Result] = []
        began_s = time.monotonic()
        for step in chosen(STEPS, options.only):
            results.append(_run(step, options, Path(temporary), results, began_s))
            result = results[-1]
            log.info(
                "%-8s %s, %.0f s%s", result.status, step.name, result.seconds, f": {result.detail}" if result.detail else ""
            )
            write_results(output, results, setting)
    _print(results, output)
    return results


def chosen(steps: Sequence[Step], names: Sequence[str]) -> list[Step]:
    """Return the steps with these names, or whose names begin with one of them; all if there are none. Raises ConfigError."""
    for name in names:
        if not any(step.name.startswith(name) for step in steps):
            every = [step.name for step in steps]
            raise ConfigError(f"--only {name}: no such step{nearest(name, every)}; the steps are {', '.join(every)}")
    return [step for step in steps if not names or step.name.startswith(tuple(names))]


def _run(step: Step, options: Options, temporary: Path, results: Sequence[Result], began_s: float) -> Result:
    limit_s = step.limit(options.small)
    minutes = options.minutes or (None if options.small else MINUTES)
    if minutes is not None:
        left_s = minutes * 60 - (time.monotonic() - began_s)
        if left_s < 1:
            return Result(step.name, "skipped", f"the {minutes:g} minutes are over", {}, 0.0, limit_s)
        limit_s = min(limit_s, left_s)
    if not options.small and results and results[0].name == "machine" and results[0].status == "failed":
        return Result(step.name, "skipped", "there is no usable GPU", {}, 0.0, limit_s)
    earlier = {result.name: result.figures for result in results if result.status != "skipped"}
    context = Context(options.small, temporary / step.name.replace(" ", "-"), ROOT, earlier)
    return run_apart(step, context, limit_s)


def _print(results: Sequence[Result], output: Path) -> None:
    import rich

    rich.print(result_table(results))
    rich.print(f"{verdict(results)}; figures in {os.path.relpath(output)}")
