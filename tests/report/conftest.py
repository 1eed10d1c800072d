"""Records of a retrieval and a QA evaluation, written by the evaluation itself, and the history of a training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alpro.config import Params
from alpro.evaluation.run import run_evaluation

from ..evaluation.conftest import params, project, qa_model, records, retrieval_model, tokenizer  # noqa: F401


@pytest.fixture(scope="session")
def reports(project: Path, params: Params) -> Path:  # noqa: F811
    root = project / "reports"
    for task in ("msrvtt_ret", "msvd_qa"):
        run_evaluation(params, task, checkpoint=params.evaluate[task].checkpoint, record=root / "evaluate" / task)
    scratch = Path(__file__).parents[2] / "recipes/init/scratch.yaml"
    record = root / "evaluate" / "msrvtt_ret_zeroshot"
    run_evaluation(params, "msrvtt_ret", checkpoint=scratch, record=record, zero_shot=True, modes=("full",))
    steps = [{"step": n, "epoch": 0, "split": "train", "loss": 9 / n, "vtc": 5 / n, "lr": 1e-4} for n in range(1, 31)]
    steps += [{"step": n, "epoch": 0, "split": "val", "loss": 10 / n, "r1": n} for n in (15, 30)]
    (root / "finetune/msrvtt_ret").mkdir(parents=True)
    (root / "finetune/msrvtt_ret/history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in steps))
    return root
