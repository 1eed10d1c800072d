"""A stage ends by itself when the pipeline that started it is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil

from tests.training.processes import ROOT

STAGE = """
import time
from alpro.system import parent
parent.watch_pipeline()
print('runs', flush=True)
time.sleep(60)
"""


def pipeline(tmp_path: Path, environment: dict[str, str]) -> tuple[subprocess.Popen[str], psutil.Process]:
    """Start a program named dvc that starts a shell and a stage like `dvc repro`; return it and the stage."""
    stage, dvc = tmp_path / "stage.py", tmp_path / "dvc"
    stage.write_text(STAGE)
    dvc.write_text(f"import subprocess\nsubprocess.run({f'{sys.executable} {stage}; true'!r}, shell=True)")
    process = subprocess.Popen(
        [sys.executable, str(dvc)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "runs\n"
    return process, psutil.Process(process.pid).children(recursive=True)[-1]


def test_stage_ends_when_dvc_is_killed(tmp_path: Path) -> None:
    process, stage = pipeline(tmp_path, {"DVC_STAGE": "prompter"})
    process.kill()
    process.wait()
    psutil.wait_procs([stage], timeout=5)
    assert not stage.is_running()


def test_outside_a_pipeline_a_process_outlives_its_parent(tmp_path: Path) -> None:
    process, stage = pipeline(tmp_path, {})
    process.kill()
    process.wait()
    psutil.wait_procs([stage], timeout=2)
    assert stage.is_running()
    stage.kill()
