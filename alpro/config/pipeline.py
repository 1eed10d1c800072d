"""alpro/config/pipeline.py: NEW MODULE."""

from __future__ import annotations

from alpro.config import Params


def made_by_pipeline(params: Params) -> set[str]:
    """The outputs of the stages that something needs, so that replaced stages drop out as they do in DVC's graph."""
    models = f"models/{params.recipe}"
    made = {f"{models}/finetune/{task}" for task, e in params.evaluate.items() if e.checkpoint == f"{models}/finetune/{task}"}
    if (made or params.zeroshot) and params.init.finetune == f"{models}/pretrain":
        made.add(f"{models}/pretrain")
        if params.init.teacher == f"{models}/prompter":
            made.add(f"{models}/prompter")
    return made
