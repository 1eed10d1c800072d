"""What of an engine goes into a snapshot, and how it comes back: to the bit, or as well as can be on other processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from alpro import distributed
from alpro.training import randomness
from alpro.training.snapshots import Held

if TYPE_CHECKING:
    from alpro.training.engine import Engine
    from alpro.training.task import Loader


def facts(engine: Engine, loader: Loader) -> dict[str, Any]:
    """All but the tensors, of all ranks, on every rank."""
    own = {
        "random": randomness.capture(),
        "window": engine.window.tolist(),
        "loader": loader.state_dict(),
        "samples": engine.pending,
    }
    ranks = distributed.gather_objects(own)
    samples = [
        {"step": pieces[0][0], "processes": engine.world, "ids": [name for _, ids in pieces for name in ids]}
        for pieces in zip(*(rank.pop("samples") for rank in ranks), strict=True)
    ]
    best, states = engine.best, engine.optimizer.state
    return {
        "total": engine.total,
        "worlds": engine.worlds,
        "updates": {name: states[p]["step"] for name, p in engine.named.items() if states[p]},
        "scaler": engine.scaler.state_dict(),
        "window_steps": engine.window_steps,
        "history": [list(row.items()) for row in engine.log.history],  # in the order of the columns, which JSON objects lose
        "validated": engine.validated,
        "best": {} if best is None else {"step": best.step, "value": best.value, "metrics": best.metrics},
        "ranks": ranks,
        "samples": samples if engine.samples is not None or engine.memory is not None else [],
    }


def weights(engine: Engine) -> dict[str, Tensor]:
    """All that training changes: trainable parameters, and buffers."""
    kept = engine.model.state_dict(keep_vars=True)
    buffers = {name: b for name, b in engine.model.named_buffers() if name in kept}
    return {**engine.named, **buffers}


def moments(engine: Engine) -> dict[str, Tensor]:
    """The optimizer's state."""
    return {
        f"{kind}.{name}": engine.optimizer.state[p][kind]
        for name, p in engine.named.items()
        for kind in ("exp_avg", "exp_avg_sq")
        if engine.optimizer.state[p]
    }


def put(engine: Engine, found: Mapping[str, Tensor]) -> None:
    """Give the model what `weights` gave."""
    with torch.no_grad():
        for name, tensor in weights(engine).items():
            tensor.copy_(found[name])


def resume(engine: Engine) -> list[dict[str, Any]]:
    """Go on from the newest state that any process holds, else from the first rank's disk; returns this rank's loader states.

    None at all where the training starts anew, from the first rank's weights.
    """
    held = engine.memory.snapshot if engine.memory is not None else None
    steps = distributed.gather_objects(-1 if held is None else held.facts["step"])
    root = steps.index(max(steps))
    found: Held | None = held
    if max(steps) < 0:
        root, found = 0, engine.store.newest() if engine.store is not None else None
    mine = distributed.rank() == root
    known: dict[str, Any] | None = distributed.broadcast_object(found.facts if found and mine else None, root)
    if known is None:
        distributed.broadcast_state(engine.model)
        return []
    _load_tensors(engine, found if mine else None, known["updates"], root)
    engine.step, engine.window_steps = known["step"], known["window_steps"]
    engine.validated, engine.pending = known["validated"], []
    if known["scaler"]:
        engine.scaler.load_state_dict(known["scaler"])
    engine.best = _best(engine, known["best"])
    engine.log.resume([dict(row) for row in known["history"]])
    if engine.samples is not None:
        engine.samples.resume(engine.step, known["samples"])
    engine.log.say(f"resume: going on after step {engine.step} of {known['total']}")
    return _take_place(engine, known)


def _best(engine: Engine, best: dict[str, Any]) -> Any:
    from alpro.training.task import Best

    if not best:
        return None
    kept = engine.best.weights if engine.best is not None and engine.best.step == best["step"] else None
    return Best(**best, weights=kept)


def _take_place(engine: Engine, known: dict[str, Any]) -> list[dict[str, Any]]:
    """This rank's own part: to the bit among as many ranks as there were, else drawn anew."""
    ranks, worlds = known["ranks"], [tuple(world) for world in known["worlds"]]
    if len(ranks) == engine.world:
        engine.follow(worlds)
        engine.window = torch.tensor(ranks[engine.rank]["window"], dtype=torch.float64, device=engine.device)
        randomness.restore(ranks[engine.rank]["random"])
        return [ranks[engine.rank]["loader"]]
    engine.follow([*worlds, (engine.step, engine.world)] if engine.step else [(0, engine.world)])
    # each rank's sums are its share of a mean over ranks
    engine.window = torch.tensor([rank["window"] for rank in ranks], dtype=torch.float64, device=engine.device).mean(0)
    randomness.seed_everything(engine.seed, "training", engine.rank, engine.step, engine.world)
    engine.log.say(
        f"resume: {engine.world} processes instead of {len(ranks)}, so no longer the numbers of an undisturbed run: from here "
        f"on a batch has {engine.world}/{len(ranks)} as many clips at the same learning rate, the rest of the epoch is cut "
        f"anew into steps (the last is now {engine.total}), and the random states of dropout are new"
    )
    return [rank["loader"] for rank in ranks[engine.rank :: engine.world]]


def _load_tensors(engine: Engine, snapshot: Held | None, updates: Mapping[str, int], root: int) -> None:
    if snapshot is not None:
        put(engine, snapshot.tensors("weights"))
    distributed.broadcast_state(engine.model, root)
    held = snapshot.tensors("moments") if snapshot is not None else {}
    places: list[Tensor] = []
    engine.optimizer.state.clear()
    for name, p in engine.named.items():
        if name in updates:
            state = {kind: torch.zeros_like(p) for kind in ("exp_avg", "exp_avg_sq")}
            for kind, tensor in state.items():
                if snapshot is not None:
                    tensor.copy_(held[f"{kind}.{name}"])
            engine.optimizer.state[p].update(step=updates[name], **state)
            places += state.values()
    distributed.broadcast_tensors(places, root)
