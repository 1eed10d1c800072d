"""The tensors that a training changes: weights and optimizer moments, by parameter name."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from alpro import distributed
from alpro.training.snapshots import Snapshot


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return all tensors of a model that training changes: trainable parameters and persistent buffers."""
    saved_names = model.state_dict(keep_vars=True).keys()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in saved_names}
    return {**_trainable(model), **buffers}


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy weights into a model; the names are those of `trained_weights`."""
    with torch.no_grad():
        for name, tensor in trained_weights(model).items():
            tensor.copy_(weights[name])


def optimizer_moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return AdamW's moments as `exp_avg.<parameter>` and `exp_avg_sq.<parameter>`."""
    return {
        f"{kind}.{name}": optimizer.state[p][kind]
        for name, p in _trainable(model).items()
        for kind in ("exp_avg", "exp_avg_sq")
        if optimizer.state[p]
    }


def update_counts(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, int]:
    """Return how often each parameter was updated; parameters that never were are missing."""
    return {name: optimizer.state[p]["step"] for name, p in _trainable(model).items() if optimizer.state[p]}


def load_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, snapshot: Snapshot | None, updates: Mapping[str, int], root: int
) -> None:
    """Load weights and moments on rank `root`, which alone has a snapshot, and broadcast them to all ranks."""
    if snapshot is not None:
        load_weights(model, snapshot.tensors("weights"))
    distributed.broadcast_state(model, root)
    saved = snapshot.tensors("moments") if snapshot is not None else {}
    moments: list[Tensor] = []
    optimizer.state.clear()
    for name, p in _trainable(model).items():
        if name in updates:
            state = {kind: torch.zeros_like(p) for kind in ("exp_avg", "exp_avg_sq")}
            for kind, tensor in state.items():
                if snapshot is not None:
                    tensor.copy_(saved[f"{kind}.{name}"])
            optimizer.state[p].update(step=updates[name], **state)
            moments += state.values()
    distributed.broadcast_tensors(moments, root)


def _trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
