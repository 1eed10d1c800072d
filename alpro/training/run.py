"""One training stage from params.yaml to its checkpoint and record: what `alpro train` runs, on every rank.

    run_training(params, "finetune", "msrvtt_ret", init="models/sample/pretrain",
                 output="models/sample/finetune/msrvtt_ret", record="reports/finetune/msrvtt_ret")

Killed at any moment and started again with the same inputs it goes on, and ends in the same bytes. The output and the
record appear at the end, each as a whole.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from alpro import distributed, fingerprint, watch
from alpro.config import Params, Training, nearest
from alpro.errors import AlproError, ConfigError, TrainingError
from alpro.models.weights import save_checkpoint
from alpro.training.engine import Best, Engine
from alpro.training.log import Log
from alpro.training.record import environment, write_record
from alpro.training.state import Lock, Store, prune
from alpro.training.tasks import ClipTask, inputs, make_task

STAGES = ("prompter", "pretrain", "finetune")
VIEWING = {"frames": "eval_frames", "max_text_tokens": "max_text_tokens"}  # with which a checkpoint is to be asked


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
    state: str | Path = ".state",
) -> Best:
    """Train a stage; every rank of the world calls it. Returns the chosen step with its validation.

    `init` (and `teacher`, for pre-training) is a checkpoint or a file of recipes/init. Raises ConfigError, DataError,
    CheckpointError before training, TrainingError when the training stops itself or already runs.
    """
    distributed.init()
    try:
        return _train(params, stage, task, init, Path(output), Path(record), teacher, max_steps, Path(state))
    except AlproError as error:
        watch.failed(str(error))  # before this rank's end can make the others fail
        raise


def _train(
    params: Params,
    stage: str,
    task: str | None,
    init: str,
    output: Path,
    record: Path,
    teacher: str | None,
    max_steps: int | None,
    state: Path,
) -> Best:
    settings = section(params, stage, task)
    if max_steps is not None:
        settings = settings.model_copy(update={"max_steps": max_steps})
    torch.set_num_threads(params.launch.threads)
    device = torch.device("cuda", distributed.local_rank()) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    name = stage if task is None else f"{stage}/{task}"
    first = distributed.rank() == 0
    given: dict[str, Any] = {}
    if first:
        given = _given(params, stage, task, settings, init, teacher, device)
    with _place(state / name, given, output) as store:
        log = Log(name, shown=first)
        made = make_task(params, stage, task, init, teacher, log.say)
        if first and store is not None:
            log.say(f"{distributed.size()} processes, {device.type}, resume state in {store.path}")
        with _live(name, given, store, log):
            engine = Engine(made, settings, seed=params.seed, device=device, store=store, log=log)
            best = engine.run()
        if first:
            _write(made, given, best, engine, output, record)
            log.say(f"step {best.step} is the best by {settings.select_by}; checkpoint in {output}")
        distributed.barrier()
        if store is not None:
            store.delete()
    return best


def section(params: Params, stage: str, task: str | None) -> Training:
    """The parameters of a stage. Raises ConfigError for an unknown stage or task."""
    if stage not in STAGES:
        raise ConfigError(f"stage {stage!r} is none of {', '.join(STAGES)}")
    if stage != "finetune":
        return params.prompter if stage == "prompter" else params.pretrain
    if task not in params.finetune:
        raise ConfigError(f"finetune.{task}: not in params.yaml{nearest(task or '', params.finetune)}")
    return params.finetune[task]


def _given(
    params: Params, stage: str, task: str | None, settings: Training, init: str, teacher: str | None, device: torch.device
) -> dict[str, Any]:
    """All that the result depends on, as the record shows it."""
    digests = {
        what: {"path": path, "digest": getattr(fingerprint, kind)(path)}
        for what, (kind, path) in inputs(params, stage, task, init, teacher).items()
    }
    return {
        "recipe": params.recipe,
        "stage": stage,
        **({"task": task} if task else {}),
        "seed": params.seed,
        "processes": distributed.size(),
        "threads": params.launch.threads,
        "max_unreadable": params.loader.max_unreadable,
        "model": params.model.model_dump(),
        "resize": params.init.resize,
        "training": settings.model_dump(exclude={"save_every_s"}),
        "inputs": digests,
        "environment": environment(device),
    }


@contextmanager
def _place(stage: Path, given: Mapping[str, Any], output: Path) -> Iterator[Store | None]:
    """The first rank's store of snapshots, and the right to write the output; refused on all ranks if somebody has them."""
    store: Store | None = None
    lock: Lock | None = None
    fault = ""
    if distributed.rank() == 0:
        name = hashlib.sha256(str(output.resolve()).encode()).hexdigest()[:12]
        path = stage / fingerprint.fingerprint(**given, code=fingerprint.code_version())
        try:
            lock = Lock(stage / f"output-{name}.lock", f"a training of {output}")
            store = Store(path)
            prune(stage, path)
        except (TrainingError, OSError) as error:
            fault = str(error)
    if fault := distributed.broadcast_object(fault):
        if lock is not None:
            lock.release()
        raise TrainingError(fault)
    try:
        yield store
    finally:
        if store is not None:
            store.close()
        if lock is not None:
            lock.release()


def _live(name: str, given: Mapping[str, Any], store: Store | None, log: Log) -> Any:
    """The run in MLflow that shows the rows as they come, from the first rank."""
    if store is None:
        return nullcontext()
    from alpro.tracking.live import live

    @contextmanager
    def shown() -> Iterator[None]:
        with live(name, given, key=store.path.name) as run:
            log.live = run.log
            yield

    return shown()


def _write(task: ClipTask, given: Mapping[str, Any], best: Best, engine: Engine, output: Path, record: Path) -> None:
    """The checkpoint and the record; where the record belongs into the checkpoint's folder they appear together."""
    config = {
        "trained": {"stage": given["stage"], "task": given.get("task"), "seed": given["seed"], "step": best.step},
        "validation": best.metrics,
        "viewing": {name: given["training"][key] for name, key in VIEWING.items()},
        "inputs": given["inputs"],
    }
    extras: dict[str, str | Path] = dict(task.extras())
    with tempfile.TemporaryDirectory() as aside:
        inside = output.resolve() in record.resolve().parents
        place = Path(aside) / "record" if inside else record
        write_record(place, given, engine.log.history, best)
        if inside:
            extras[str(record.resolve().relative_to(output.resolve()))] = place
        save_checkpoint(output, task.model, config, extras)
