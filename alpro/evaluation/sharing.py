"""How an evaluation is shared among the processes of a world: whole units of work, split by cost, gathered exactly.

A unit (some videos with all their texts) is computed in one piece whatever the world is, so its numbers do not depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

from alpro import distributed
from alpro.errors import AlproError, DataError
from alpro.evaluation.resume import Phase
from alpro.objectives.precision import autocast

Result = TypeVar("Result")
Progress = Callable[[int, int], None]  # units done, units in all, on this process


def split(costs: Sequence[float], world: int) -> list[list[int]]:
    """Units for each rank, the dearest first to the rank with the least to do; each rank's units in ascending order."""
    load, mine = [0.0] * world, [[] for _ in range(world)]  # type: tuple[list[float], list[list[int]]]
    for unit in sorted(range(len(costs)), key=lambda u: (-costs[u], u)):
        rank = min(range(world), key=lambda r: (load[r], r))
        load[rank] += costs[unit]
        mine[rank].append(unit)
    return [sorted(units) for units in mine]


def shared(
    costs: Sequence[float],
    job: Callable[..., Result],
    feed: Callable[[Sequence[int]], Iterator[Any]] | None = None,
    progress: Progress | None = None,
    kept: Phase | None = None,
) -> list[Result]:
    """job(unit) of all units, in their order, on every rank; each unit is computed by one rank.

    With `feed` it is job(unit, x), where feed(units of this rank) yields one x a unit (frames, read ahead). `kept` holds the
    units that were finished before a kill, which are not computed again; a job's result must then be a tuple of arrays.
    Raises on all ranks what the package foresees on one (an unreadable video), so that no rank waits for ever.
    """
    results, todo = _finished(len(costs), kept)
    mine = [todo[n] for n in split([costs[unit] for unit in todo], distributed.size())[distributed.rank()]]
    fault: str | None = None
    try:
        food = feed(mine) if feed is not None else None
        for done, unit in enumerate(mine):
            results[unit] = job(unit) if food is None else job(unit, next(food))
            if kept is not None:
                kept.save(unit, results[unit])
            if progress is not None:
                progress(done + 1, len(mine))
    except AlproError as error:
        fault = str(error)
    everyone: list[tuple[str | None, dict[int, Any]]] = distributed.gather_objects((fault, results))
    faults = [message for message, _ in everyone if message is not None]
    if faults:
        raise DataError("; ".join(dict.fromkeys(faults)))
    gathered = {unit: result for _, part in everyone for unit, result in part.items()}
    return [gathered[unit] for unit in range(len(costs))]


def _finished(units: int, kept: Phase | None) -> tuple[dict[int, Any], list[int]]:
    """The finished units that this rank brings, and the units that nobody has; hosts need not share a disk."""
    if kept is None:
        return {}, list(range(units))
    loaded = {unit: arrays for unit in sorted(kept.known()) if unit < units and (arrays := kept.load(unit)) is not None}
    holder: dict[int, int] = {}
    for rank, known in enumerate(distributed.gather_objects(sorted(loaded))):
        for unit in known:
            holder.setdefault(unit, rank)
    brought = {unit: arrays for unit, arrays in loaded.items() if holder[unit] == distributed.rank()}
    return brought, [unit for unit in range(units) if unit not in holder]


@contextmanager
def evaluating(model: nn.Module, precision: str = "fp32") -> Iterator[torch.device]:
    """The model in evaluation mode, without gradients and under autocast for `bf16` or `fp16`; gives its device.

    Afterwards the model is in the mode in which it came.
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
