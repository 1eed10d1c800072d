"""One training stage from params.yaml to its checkpoint and record: what `alpro train` runs, on every rank.

    run_training(params, "finetune", "msrvtt_ret", init="models/sample/pretrain",
                 output="models/sample/finetune/msrvtt_ret", record="reports/finetune/msrvtt_ret")

Killed at any moment and started again with the same inputs it goes on, and ends in the same bytes. The output and the
record appear at the end, each as a whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from alpro import distributed
from alpro.checkpoints.files import save_checkpoint
from alpro.config import Params, Training
from alpro.errors import AlproError, ConfigError, TrainingError, nearest
from alpro.files import fingerprint
from alpro.files.atomic import new_dir
from alpro.files.json_files import write_json
from alpro.files.locks import Lock, take_lock
from alpro.launch import heartbeat
from alpro.terminal import console
from alpro.training import resume
from alpro.training.engine import Engine
from alpro.training.log import Log
from alpro.training.record import environment, write_record
from alpro.training.samples import SampleLog
from alpro.training.snapshots import PARTS, Memory, Store, prune, unused
from alpro.training.task import Best
from alpro.training.tasks.base import ClipTask
from alpro.training.tasks.make import inputs, make_task

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
        heartbeat.failed(str(error))  # before this rank's end can make the others fail
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
    device = distributed.device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
        if settings.precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise ConfigError(
                f"precision bf16: {torch.cuda.get_device_name(device)} does not have it; set `precision` to fp16 or fp32"
            )
    name = stage if task is None else f"{stage}/{task}"
    log = Log(name, shown=distributed.rank() == 0)

    def given() -> dict[str, Any]:
        return _given(params, stage, task, settings, init, teacher, device)

    with _Place(state / name, given, output, log.say) as place:
        made = make_task(params, stage, task, init, teacher, log.say)
        engine = Engine(made, settings, seed=params.seed, device=device, log=log)

        def attempt() -> Best:
            place.enter()
            first = distributed.rank() == 0
            log.shown, engine.store = first, place.store
            engine.samples = SampleLog(params.launch.sample_log) if first and params.launch.sample_log else None
            if place.store is not None:
                log.say(f"{distributed.size()} processes, {device.type}, resume state in {place.store.path}")
            with _live(name, place, log):
                best = engine.run()
            with distributed.agreed("the checkpoint or the record"):
                if first:
                    _write(made, _final(place.given, engine), best, engine, output, record)
            if first:
                log.say(f"step {best.step} is the best by {settings.select_by}; checkpoint in {output}")
            distributed.barrier()
            return best

        def again(check: Callable[[], None]) -> Best:
            engine.on_commit = check
            return attempt()

        if distributed.is_elastic():
            engine.memory, engine.commit_every = Memory(), params.launch.commit_every
            best = distributed.run_elastic(again, lambda text: console.say(f"{name}: {text}"))
        else:
            best = attempt()
        if place.store is not None:
            place.store.delete()
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


class _Place:
    """The first rank's store of snapshots, and the right to write the output; refused on all ranks if somebody has them."""

    def __init__(
        self, stage: Path, given: Callable[[], dict[str, Any]], output: Path, say: Callable[[str], None] = console.say
    ) -> None:
        self.stage, self.output, self.say = stage, output, say
        self.store: Store | None = None
        self.given: dict[str, Any] = {}
        self._given = given
        self._lock: Lock | None = None

    def enter(self) -> None:
        """Take both, on whichever rank is the first. Raises TrainingError, on all ranks."""
        fault = ""
        if distributed.rank() == 0 and self.store is None:
            try:
                self._take()
            except (TrainingError, OSError) as error:
                fault = str(error)
        if fault := distributed.broadcast_object(fault):
            raise TrainingError(fault)

    def _take(self) -> None:
        self.given = self._given()
        name = hashlib.sha256(str(self.output.resolve()).encode()).hexdigest()[:12]
        # a training may go on with another number of processes
        parts = {what: value for what, value in self.given.items() if what != "processes"}
        parts["code"] = fingerprint.code_version()
        path = self.stage / fingerprint.fingerprint(**parts)
        self._lock = take_lock(self.stage / f"output-{name}.lock", f"a training of {self.output}", TrainingError)
        self.store = Store(path, self.say)
        prune(self.stage, path)
        write_json(path / PARTS, parts)
        if self.store.last() is None and (other := unused(self.stage, parts)):
            self.say(other)

    def __enter__(self) -> _Place:
        return self

    def __exit__(self, *error: object) -> None:
        if self.store is not None:
            self.store.close()
        if self._lock is not None:
            self._lock.release()


def _final(given: Mapping[str, Any], engine: Engine) -> dict[str, Any]:
    """What the record says was given: the number of processes at the end, and all of them where it changed."""
    changes = {"process_changes": [list(change) for change in engine.worlds]} if len(engine.worlds) > 1 else {}
    return {**given, "processes": engine.world, **changes}


def _live(name: str, place: _Place, log: Log) -> Any:
    """The run in MLflow that shows the rows as they come, from the first rank."""
    store = place.store
    if store is None:
        return nullcontext()
    from alpro.tracking.live_run import live

    @contextmanager
    def shown() -> Iterator[None]:
        with live(name, place.given, key=store.path.name) as run:
            log.live = run.log
            yield

    return shown()


def _write(task: ClipTask, given: Mapping[str, Any], best: Best, engine: Engine, output: Path, record: Path) -> None:
    """The checkpoint and the record; where the record belongs into the checkpoint's folder they appear together."""

    def config(step: int) -> dict[str, Any]:
        return {
            "trained": {"stage": given["stage"], "task": given.get("task"), "seed": given["seed"], "step": step},
            "viewing": {name: given["training"][key] for name, key in VIEWING.items()},
            "inputs": given["inputs"],
        }

    extras: dict[str, str | Path] = dict(task.extras())
    inside = output.resolve() in record.resolve().parents
    with new_dir(output) as made:
        save_checkpoint(made, task.model, config(best.step) | {"validation": best.metrics}, extras)
        _write_kept(task, engine, made, config, extras)
        place = made / record.resolve().relative_to(output.resolve()) if inside else record
        write_record(place, given, engine.log.history, best)


def _write_kept(
    task: ClipTask, engine: Engine, folder: Path, config: Callable[[int], dict[str, Any]], extras: Mapping[str, str | Path]
) -> None:
    """Checkpoints of what the training put aside (`keep`), by their names; the model keeps its weights."""
    names = engine.kept() if engine.store is not None else []
    chosen = {name: tensor.detach().clone() for name, tensor in resume.weights(engine).items()} if names else {}
    for name in names:
        assert engine.store is not None
        snapshot = engine.store.kept(name)
        resume.put(engine, snapshot.tensors("weights"))
        save_checkpoint(folder / name, task.model, config(snapshot.facts["step"]), extras)
    if names:
        resume.put(engine, chosen)
