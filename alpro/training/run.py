"""Trains one stage, from params.yaml to the checkpoint and the record; `alpro train` calls it on every rank.

    run_training(params, "finetune", "msrvtt_ret", init="models/sample/pretrain",
                 output="models/sample/finetune/msrvtt_ret", record="reports/finetune/msrvtt_ret")

A training that was killed resumes when it is started again with the same inputs, and ends in the same bytes. The output
and the record are each written atomically at the end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from alpro import distributed
from alpro.checkpoints.files import save_checkpoint
from alpro.config import Params, Training
from alpro.errors import AlproError, ConfigError, TrainingError, nearest
from alpro.files import fingerprint
from alpro.files.json_files import write_json
from alpro.files.locks import Lock, take_lock
from alpro.files.outputs import check_output, new_dir
from alpro.files.state import state_folder
from alpro.launch import heartbeat
from alpro.models.compiled import compile_blocks
from alpro.terminal import logs
from alpro.training.checkpointer import Checkpointer
from alpro.training.engine import Engine
from alpro.training.log import Log, kept_names
from alpro.training.record import environment, write_record
from alpro.training.sample_log import SampleLog
from alpro.training.snapshots import DEPENDENCIES, SnapshotStore, explain_unused, prune
from alpro.training.task import Best
from alpro.training.tasks.base import ClipTask
from alpro.training.tasks.make import input_paths, make_task
from alpro.training.weights import load_weights, trained_weights

logger = logs.get(__name__)
STAGES = ("prompter", "pretrain", "finetune")
# preprocessing that inference must repeat, stored in the checkpoint's config.json
VIEWING = {"frames": "eval_frames", "max_text_tokens": "max_text_tokens"}


def run_training(
    params: Params,
    stage: str,
    task: str | None = None,
    *,
    init: str,
    output: str | Path,
    record: str | Path,
    teacher: str | None = None,
    max_steps: int | None = None,
    state: str | Path | None = None,
) -> Best:
    """Train a stage; every rank of the world calls it. Returns the best step with its validation.

    `init` (and `teacher`, for pre-training) is a checkpoint or a file of recipes/init. Raises ConfigError, DataError or
    CheckpointError before training, and TrainingError if the training stops itself or is already running.
    """
    distributed.init()
    try:
        settings = section(params, stage, task)
        if max_steps is not None:
            settings = settings.model_copy(update={"max_steps": max_steps})
        job = _Job(params, stage, task, settings, init, teacher, Path(output), Path(record), Path(state or state_folder()))
        if distributed.rank() == 0:
            _check_outputs(job)
        return _train(job)
    except AlproError as error:
        heartbeat.failed(str(error))  # before this rank exits and makes the others fail
        raise


def section(params: Params, stage: str, task: str | None) -> Training:
    """Return the parameters of a stage. Raises ConfigError for an unknown stage or task."""
    if stage not in STAGES:
        raise ConfigError(f"unknown stage {stage!r}; use one of {', '.join(STAGES)}")
    if stage != "finetune":
        return params.prompter if stage == "prompter" else params.pretrain
    if task not in params.finetune:
        raise ConfigError(f"finetune.{task}: not in params.yaml{nearest(task or '', params.finetune)}")
    return params.finetune[task]


@dataclass(frozen=True)
class _Job:
    """The arguments of a training."""

    params: Params
    stage: str
    task: str | None
    settings: Training
    init: str
    teacher: str | None
    output: Path
    record: Path
    state: Path

    @property
    def name(self) -> str:
        """`prompter`, `pretrain` or `finetune/<task>`."""
        return self.stage if self.task is None else f"{self.stage}/{self.task}"


def _check_outputs(job: _Job) -> None:
    """Raise OutputError if the checkpoint or the record would replace files of the user."""
    check_output(job.output, *(source for source in (job.init, job.teacher) if source is not None))
    if job.output.resolve() not in job.record.resolve().parents:
        check_output(job.record)


def _train(job: _Job) -> Best:
    device = _prepare_device(job)
    log = Log(job.name, shown=distributed.rank() == 0)
    with _Workspace(job, device, log.say) as workspace:
        task = make_task(job.params, job.stage, job.task, job.init, job.teacher, log.say)
        elastic = distributed.is_elastic()
        checkpointer = Checkpointer(commit_every=job.params.launch.commit_every if elastic else 0)
        engine = Engine(task, job.settings, seed=job.params.seed, device=device, checkpointer=checkpointer, log=log)
        if job.params.launch.compile:
            compile_blocks(task.model, device)
        if elastic:
            best = distributed.run_elastic(
                lambda check: _attempt(job, workspace, task, engine, check),
                lambda text: logger.info("%s: %s", job.name, text),
            )
        else:
            best = _attempt(job, workspace, task, engine)
        if workspace.store is not None:
            workspace.store.delete()
    return best


def _prepare_device(job: _Job) -> torch.device:
    torch.set_num_threads(job.params.launch.threads)
    device = distributed.device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
        if job.settings.precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            name = torch.cuda.get_device_name(device)
            raise ConfigError(f"precision bf16: {name} does not support it; set `precision` to fp16 or fp32")
    return device


def _attempt(
    job: _Job, workspace: _Workspace, task: ClipTask, engine: Engine, on_commit: Callable[[], None] | None = None
) -> Best:
    """Train to the end and write the output. An elastic training calls it again after each change of the world size."""
    workspace.enter()
    is_first = distributed.rank() == 0
    log, checkpointer, sample_log = engine.log, engine.checkpointer, job.params.launch.sample_log
    log.shown, checkpointer.store, checkpointer.on_commit = is_first, workspace.store, on_commit
    checkpointer.samples = SampleLog(sample_log) if is_first and sample_log else None
    if workspace.store is not None:
        log.say(f"{distributed.size()} processes, {engine.device.type}, resume state in {workspace.store.path}")
    with _live(job, workspace, log):
        best = engine.run()
    with distributed.agreed("the checkpoint or the record"):
        if is_first:
            _write_output(job, _final_params(workspace.params, engine), task, engine, best)
    if is_first:
        log.say(f"step {best.step} is the best by {job.settings.select_by}; checkpoint in {job.output}")
    distributed.barrier()
    return best


def _record_params(job: _Job, device: torch.device) -> dict[str, Any]:
    """Return params.json of the record: everything that the result depends on."""
    params = job.params
    inputs = {
        name: {"path": path, "digest": getattr(fingerprint, kind)(path)}
        for name, (kind, path) in input_paths(params, job.stage, job.task, job.init, job.teacher).items()
    }
    return {
        "recipe": params.recipe,
        "stage": job.stage,
        **({"task": job.task} if job.task else {}),
        "seed": params.seed,
        "processes": distributed.size(),
        "backend": distributed.backend_name(),
        "threads": params.launch.threads,
        "max_unreadable": params.loader.max_unreadable,
        "decoder": params.loader.decoder,
        **({"compile": True} if params.launch.compile else {}),
        "model": params.model.model_dump(),
        "resize": params.init.resize,
        "training": job.settings.model_dump(exclude={"save_every_s"}),
        "inputs": inputs,
        "environment": environment(device),
    }


def _final_params(params: dict[str, Any], engine: Engine) -> dict[str, Any]:
    """Return params.json with the number of processes at the end, and all world sizes if it has changed."""
    changes = {"process_changes": [list(change) for change in engine.worlds]} if len(engine.worlds) > 1 else {}
    return {**params, "processes": engine.world_size, **changes}


class _Workspace:
    """Rank 0's snapshot store and the lock on the output folder. If another process holds either, every rank raises."""

    def __init__(self, job: _Job, device: torch.device, say: Callable[[str], None] = logger.info) -> None:
        self.job, self.device, self.say = job, device, say
        self.store: SnapshotStore | None = None
        self.params: dict[str, Any] = {}  # params.json of the record
        self._lock: Lock | None = None

    def enter(self) -> None:
        """Open the store and lock the output on the rank that is now rank 0. Raises TrainingError on all ranks."""
        fault = ""
        if distributed.rank() == 0 and self.store is None:
            try:
                self._open()
            except (TrainingError, OSError) as error:
                fault = str(error)
        if fault := distributed.broadcast_object(fault):
            raise TrainingError(fault)

    def _open(self) -> None:
        self.params = _record_params(self.job, self.device)
        # left out: a training may resume with another number of processes, and with another backend
        dependencies = {name: value for name, value in self.params.items() if name not in ("processes", "backend")}
        dependencies["code"] = fingerprint.code_version()
        stage, output = self.job.state / self.job.name, self.job.output
        path = stage / fingerprint.fingerprint(**dependencies)
        digest = hashlib.sha256(str(output.resolve()).encode()).hexdigest()[:12]
        self._lock = take_lock(stage / f"output-{digest}.lock", f"a training of {output}", TrainingError)
        self.store = SnapshotStore(path, self.say)
        prune(stage, path)
        write_json(path / DEPENDENCIES, dependencies)
        if self.store.last() is None and (explanation := explain_unused(stage, dependencies)):
            self.say(explanation)

    def __enter__(self) -> _Workspace:
        return self

    def __exit__(self, *error: object) -> None:
        if self.store is not None:
            self.store.close()
        if self._lock is not None:
            self._lock.release()


@contextmanager
def _live(job: _Job, workspace: _Workspace, log: Log) -> Iterator[None]:
    """Show the rows of the history in MLflow as they are written; only rank 0 does."""
    if workspace.store is None:
        yield
        return
    from alpro.tracking.live_run import live

    with live(job.name, workspace.params, key=workspace.store.path.name, settings=job.params.tracking) as run:
        log.live = run.log
        yield


def _write_output(job: _Job, params: dict[str, Any], task: ClipTask, engine: Engine, best: Best) -> None:
    """Write the checkpoint and the record. If the record is inside the checkpoint folder, both appear atomically."""

    def config(step: int) -> dict[str, Any]:
        return {
            "trained": {"stage": params["stage"], "task": params.get("task"), "seed": params["seed"], "step": step},
            "viewing": {name: params["training"][key] for name, key in VIEWING.items()},
            "inputs": params["inputs"],
        }

    extras: dict[str, str | Path] = dict(task.extras())
    output, record = job.output.resolve(), job.record.resolve()
    with new_dir(job.output) as temporary:
        save_checkpoint(temporary, task.model, config(best.step) | {"validation": best.metrics}, extras)
        _write_kept(task, engine, temporary, config, extras)
        folder = temporary / record.relative_to(output) if output in record.parents else job.record
        write_record(folder, params, engine.log.history, best)


def _write_kept(
    task: ClipTask, engine: Engine, folder: Path, config: Callable[[int], dict[str, Any]], extras: dict[str, str | Path]
) -> None:
    """Write a checkpoint for each of the kept weights (`keep`), under its name. The model's weights stay as they are."""
    store = engine.checkpointer.store
    names = kept_names(engine.log.history, engine.settings.keep) if store is not None else []
    if store is None or not names:
        return
    best = {name: tensor.detach().clone() for name, tensor in trained_weights(task.model).items()}
    for name in names:
        snapshot = store.kept(name)
        load_weights(task.model, snapshot.tensors("weights"))
        save_checkpoint(folder / name, task.model, config(snapshot.state["step"]), extras)
    load_weights(task.model, best)
