"""One of two processes with two of golden h's four pairs each. Argument: OUT.json.

With Horovod it is computed twice: with the gather of this package, and with Horovod's, whose backward averages over ranks.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from alpro import distributed
from alpro.data.batches.batch import Batch
from tests.goldens_recipe import GOLDENS, draw
from tests.parity import batch_of, fresh


def half(batch: Batch) -> Batch:
    rows = slice(2 * distributed.rank(), 2 * distributed.rank() + 2)
    return Batch("golden", batch.ids[rows], batch.pixels[rows], batch.input_ids[rows], batch.attention_mask[rows])


def gradients(batch: Batch) -> dict[str, Any]:
    """Return the loss of each rank, and norm and probe of every exchanged gradient."""
    model = fresh("prompter", num_frames=2, num_entities=5)
    output = model(batch)
    output.total.backward()
    distributed.GradientExchange(list(model.parameters())).finish()
    named = {name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None}
    return {
        "losses": distributed.gather_objects(output.total.item()),
        "norms": {name: g.norm().item() for name, g in named.items()},
        "probes": {name: (g * draw(f"probe:{name}", g.shape).double()).sum().item() for name, g in named.items()},
    }


if __name__ == "__main__":
    distributed.init()
    batch = half(batch_of(json.loads((GOLDENS / "h_horovod_itc.json").read_text())))
    results = {"hvd_sum": gradients(batch)}
    if distributed.backend_name() == "horovod":
        import horovod.torch as horovod

        def gather_as_horovod_does(x: torch.Tensor) -> distributed.Gathered:
            return distributed.Gathered(horovod.allgather(x, name="as_horovod_does"), distributed.rank() * len(x))

        distributed.gather = gather_as_horovod_does
        results["hvd_avg"] = gradients(batch)
    if distributed.rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(results))
    distributed.barrier()
    distributed.shutdown()
