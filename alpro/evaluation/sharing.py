"""Sharing an evaluation among processes: whole units of work, balanced by cost, with identical results for every world size.

A unit (some videos with all their texts) is always computed in one piece, so its numbers do not depend on the world size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

from alpro import distributed
from alpro.errors import AlproError, DataError
from alpro.evaluation.resume import FinishedUnits
from alpro.objectives.precision import autocast

Result = TypeVar("Result")
Progress = Callable[[int, int], None]  # units done, units in all, on this process


def split(costs: Sequence[float], world_size: int) -> list[list[int]]:
    """Assign units to ranks greedily: the most expensive unit goes to the least loaded rank. Each rank's units are sorted."""
    load, assigned = [0.0] * world_size, [[] for _ in range(world_size)]  # type: tuple[list[float], list[list[int]]]
    for unit in sorted(range(len(costs)), key=lambda u: (-costs[u], u)):
        rank = min(range(world_size), key=lambda r: (load[r], r))
        load[rank] += costs[unit]
        assigned[rank].append(unit)
    return [sorted(units) for units in assigned]


def compute_distributed(
    costs: Sequence[float],
    compute: Callable[..., Result],
    read_inputs: Callable[[Sequence[int]], Iterator[Any]] | None = None,
    progress: Progress | None = None,
    finished: FinishedUnits | None = None,
) -> list[Result]:
    """Return compute(unit) of every unit, in order, on every rank; each unit is computed by one rank.

    With `read_inputs`, it is compute(unit, x): read_inputs(units of this rank) yields one x per unit (frames, read ahead).
    Units in `finished` are loaded instead of computed, and new ones are saved there; results must then be tuples of arrays.
    If one rank raises an error of the package (an unreadable video), all ranks raise DataError, so that none waits forever.
    """
    results, todo = _load_finished(len(costs), finished)
    mine = [todo[n] for n in split([costs[unit] for unit in todo], distributed.size())[distributed.rank()]]
    error_message: str | None = None
    try:
        inputs = read_inputs(mine) if read_inputs is not None else None
        for done, unit in enumerate(mine):
            results[unit] = compute(unit) if inputs is None else compute(unit, next(inputs))
            if finished is not None:
                finished.save(unit, results[unit])
            if progress is not None:
                progress(done + 1, len(mine))
    except AlproError as error:
        error_message = str(error)
    everyone: list[tuple[str | None, dict[int, Any]]] = distributed.gather_objects((error_message, results))
    messages = [message for message, _ in everyone if message is not None]
    if messages:
        raise DataError("; ".join(dict.fromkeys(messages)))
    gathered = {unit: result for _, of_rank in everyone for unit, result in of_rank.items()}
    return [gathered[unit] for unit in range(len(costs))]


def _load_finished(units: int, finished: FinishedUnits | None) -> tuple[dict[int, Any], list[int]]:
    """Return the finished units that this rank contributes, and the units that no rank has. Hosts need not share a disk."""
    if finished is None:
        return {}, list(range(units))
    loaded = {
        unit: arrays for unit in sorted(finished.numbers()) if unit < units and (arrays := finished.load(unit)) is not None
    }
    holder: dict[int, int] = {}
    for rank, numbers in enumerate(distributed.gather_objects(sorted(loaded))):
        for unit in numbers:
            holder.setdefault(unit, rank)
    contributed = {unit: arrays for unit, arrays in loaded.items() if holder[unit] == distributed.rank()}
    return contributed, [unit for unit in range(units) if unit not in holder]


@contextmanager
def evaluating(model: nn.Module, precision: str = "fp32") -> Iterator[torch.device]:
    """Put the model in evaluation mode, without gradients and, for `bf16` or `fp16`, under autocast; yield its device.

    Every module's mode is restored at the end.
    """
    device = next(model.parameters()).device
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        # no_grad, not inference_mode: Horovod cannot resize tensors that are made in the latter.
        with torch.no_grad(), autocast(device, precision):
            yield device
    finally:
        for module, training in modes:
            module.training = training
