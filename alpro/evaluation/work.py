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
) -> list[Result]:
    """job(unit) of all units, in their order, on every rank; each unit is computed by one rank.

    With `feed` it is job(unit, x), where feed(units of this rank) yields one x a unit (frames, read ahead).
    Raises on all ranks what the package foresees on one (an unreadable video), so that no rank waits for ever.
    """
    mine = split(costs, distributed.size())[distributed.rank()]
    results: dict[int, Result] = {}
    fault: str | None = None
    try:
        food = feed(mine) if feed is not None else None
        for done, unit in enumerate(mine):
            results[unit] = job(unit) if food is None else job(unit, next(food))
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


@contextmanager
def evaluating(model: nn.Module, precision: str = "fp32") -> Iterator[torch.device]:
    """The model in evaluation mode, without gradients and under autocast for `bf16` or `fp16`; gives its device.

    Afterwards the model is in the mode in which it came.
    """
    device = next(model.parameters()).device
    modes = [(module, module.training) for module in model.modules()]
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    model.eval()
    try:
        # no_grad, not inference_mode: Horovod cannot resize tensors that are made in the latter.
        with torch.no_grad(), torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            yield device
    finally:
        for module, training in modes:
            module.training = training
