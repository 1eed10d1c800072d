"""Which checkpoints the pipeline itself makes, for given parameters."""

from __future__ import annotations

from alpro.config import Params


def pipeline_outputs(params: Params) -> set[str]:
    """Return the checkpoint folders that needed stages make. Stages replaced by other checkpoints drop out, as in DVC."""
    models = f"models/{params.recipe}"
    made = {f"{models}/finetune/{task}" for task, e in params.evaluate.items() if e.checkpoint == f"{models}/finetune/{task}"}
    if (made or params.zeroshot) and params.init.finetune == f"{models}/pretrain":
        made.add(f"{models}/pretrain")
        if params.init.teacher == f"{models}/prompter":
            made.add(f"{models}/prompter")
    return made
