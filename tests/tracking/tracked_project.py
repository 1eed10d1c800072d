"""Writes records, checkpoints and lock files of a whole pipeline, and reads a store."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import yaml

from alpro import lineage
from alpro.config import Params
from alpro.tracking import store

STEPS = 40
METRICS = {"text2video": {"r1": 30.0, "r5": 60.0}, "ci95": {"text2video": {"r1": [25.0, 35.0]}}, "n": 20}  # of an evaluation


def contents(root: Path) -> SimpleNamespace:
    """Return all runs of a project's store by stage (parents under None), their number and the client."""
    client = store.quiet_mlflow().MlflowClient(store.store_uri(root))
    experiment = client.get_experiment_by_name("alpro")
    runs: dict[str | None, list] = {}
    for run in client.search_runs([experiment.experiment_id], max_results=1000) if experiment else []:
        runs.setdefault(run.data.tags.get("alpro.stage"), []).append(run)
    return SimpleNamespace(client=client, runs=runs, number=sum(map(len, runs.values())), experiment=experiment)


def with_store(root: Path, empty_store: Path) -> None:
    """Copy an empty store to the project's .mlflow/."""
    (root / ".mlflow").mkdir(parents=True, exist_ok=True)
    shutil.copy(empty_store, root / ".mlflow" / "mlflow.db")


def stages_of(params: Params) -> dict[str, int]:
    """Return every stage with a record, and the number of steps of its history."""
    trained = ["prompter", "pretrain", *(f"finetune/{task}" for task in params.datasets)]
    tested = [*(f"evaluate/{task}" for task in params.evaluate), *(f"evaluate/{task}_zeroshot" for task in params.zeroshot)]
    return dict.fromkeys(trained, STEPS) | dict.fromkeys(tested, 0)


def write_all(root: Path, params: Params) -> None:
    """Write records, checkpoints, report and lock files of a whole pipeline."""
    for stage, steps in stages_of(params).items():
        write_record(root, stage, steps)
        if steps:
            write_checkpoint(root, params, stage)
    for task in params.datasets:
        write_data(root, params, task)
    reports = root / "reports"
    (reports / "summary.json").write_text(json.dumps({"msrvtt_ret": {"r1": 31.5, "n": 20, "ci95": {"r1": [20.0, 40.0]}}}))
    (reports / "index.html").write_text("<html></html>")
    write_locks(root, params)


def history(stage: str, steps: int, salt: str = "") -> list[dict]:
    """Return history rows as the engine writes them; the values are derived from the names."""
    rows = []
    for step in range(10, 10 * steps + 1, 10):
        drawn = hashlib.sha256(f"{stage}{salt}{step}".encode()).digest()
        rows.append({"step": step, "epoch": step // 100, "split": "train", "loss": drawn[0] / 7, "lr": drawn[1] / 1e6})
        if step % 100 == 0:
            rows.append({"step": step, "epoch": step // 100, "split": "val", "r1": drawn[2] / 3})
    return rows


def params_of(stage: str, salt: str = "") -> dict:
    """Return the content of the stage's params.json."""
    return {"stage": stage, "salt": salt, "model": {"width": 64}, "betas": [0.9, 0.98]}


def write_record(root: Path, stage: str, steps: int, salt: str = "") -> Path:
    """Write a record: parameters, history, final metrics, a plot."""
    folder = root / "reports" / stage
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    (folder / "params.json").write_text(json.dumps(params_of(stage, salt)))
    if steps:
        rows = history(stage, steps, salt)
        (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "metrics.json").write_text(json.dumps({"best_step": 100, "val": {"r1": rows[-1].get("r1", 0.5)}}))
    else:
        (folder / "metrics.json").write_text(json.dumps(METRICS))
    (folder / "plots" / "curve.png").write_bytes(b"\x89PNG" + stage.encode())
    return folder


def write_checkpoint(root: Path, params: Params, stage: str, salt: str = "") -> Path:
    """Write the files of a checkpoint with arbitrary bytes as weights."""
    folder = root / "models" / params.recipe / stage
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(f"{stage}{salt}".encode() * 100)
    task = stage.split("/")[-1]
    kind = params.datasets[task].task if task in params.datasets else stage
    (folder / "config.json").write_text(json.dumps({"task": kind}))
    return folder


def write_data(root: Path, params: Params, task: str, salt: str = "") -> None:
    """Write annotations and a video of a dataset, and the report of its validation."""
    dataset = params.datasets[task]
    files = {f"{dataset.annotations}/test.jsonl": "{}", f"{dataset.videos}/one.mp4": task}
    for path, content in {**files, f"models/{params.recipe}/validated/{task}.json": task}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content + salt)


def write_locks(root: Path, params: Params, only: list[str] | None = None) -> None:
    """Write dvc.yaml and dvc.lock for all stages or `only` some."""
    prefix = f"models/{params.recipe}"
    data = {"path": "data/any/txt", "hash": "md5", "md5": "0" * 32 + ".dir", "size": 10, "nfiles": 3}

    def entry(path: str) -> dict:
        return {"path": path, "hash": "md5", "md5": lineage.dvc_hash(root / path)}

    corpus = {"path": f"{prefix}/validated/corpora/webvid2m.json", "md5": "1" * 32}
    stages = {"validate_corpus@webvid2m": {"cmd": "v", "deps": [data], "outs": [corpus]}}
    for stage, steps in stages_of(params).items():
        if only is not None and stage not in only:
            continue
        kind, _, task = stage.partition("/")
        outs = [
            entry(f"reports/{stage}/{name}") for name in ("params.json", "metrics.json", *(["history.jsonl"] if steps else []))
        ]
        if steps:
            start = {"prompter": [params.init.prompter], "pretrain": [params.init.pretrain, params.init.teacher]}
            deps = [entry(path) for path in start.get(kind, [params.init.finetune])]
            deps += [data] if task else [{"path": f"{prefix}/validated/corpora", "md5": "2" * 32 + ".dir"}]
            name = f"{kind}@{task}" if task else kind
            stages[name] = {"cmd": f"train {stage}", "deps": deps, "outs": [entry(f"{prefix}/{stage}"), *outs]}
        else:
            zero = task.endswith("_zeroshot")
            name = f"zeroshot@{task.removesuffix('_zeroshot')}" if zero else f"evaluate@{task}"
            deps = [entry(params.init.finetune if zero else f"{prefix}/finetune/{task}"), data]
            stages[name] = {"cmd": f"evaluate {stage}", "deps": deps, "outs": outs}
    for task, dataset in params.datasets.items():
        passed, settings = f"{prefix}/validated/{task}.json", dataset.model_dump(mode="json")
        if (root / passed).exists():
            deps = [entry(dataset.annotations), entry(dataset.videos)]
            named = {"params.yaml": {f"datasets.{task}": settings}}
            stages[f"validate@{task}"] = {"cmd": "v", "deps": deps, "params": named, "outs": [entry(passed)]}
    groups = {name.split("@")[0]: {"foreach": [], "do": {}} for name in stages}
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": groups}))
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
