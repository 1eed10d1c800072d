"""Filling MLflow from the records on disk, so that it shows the pipeline's state whatever happened to it before.

One parent run stands for one *state* of the pipeline: a recipe and the set of records that its stages left. Whoever
changes a learning rate and reproduces gets a second parent. Every parent has a run for **each** stage, also for those
that DVC skipped because nothing changed for them: in MLflow's table two states can then be opened, compared and deleted
each for itself. Such a repeated run is written from the same record, so it holds the same numbers, and its tag
`alpro.origin` names the run in which the stage really ran; registered models point there.

A run is complete when it has the tag `alpro.record`, which is set last. So an interrupted sync goes on where it was, and
a live run (see `live`) of the same stage whose parameters and points agree with the record is completed, not repeated.
"""

from __future__ import annotations

import getpass
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpro import lineage
from alpro.errors import TrackingError
from alpro.files.atomic import sha256
from alpro.files.json_files import read_json_object
from alpro.tracking import runs
from alpro.tracking.records import Record, flat_numbers, flat_params
from alpro.tracking.runs import FILES, LIVE, PARENT, PIPELINE, RECORD, STAGE
from alpro.tracking.store import TrackingStore

if TYPE_CHECKING:
    from mlflow.entities import Run

from alpro.tracking.state import State, data_deps

TRAINED = ("prompter", "pretrain", "finetune")


@dataclass(frozen=True)
class Synced:
    """What a sync did: names of stages and model versions; `runs` has every stage's run."""

    store: str
    experiment: str
    parent: str
    created: list[str] = field(default_factory=list)
    completed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    registered: list[str] = field(default_factory=list)
    runs: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"MLflow {self.store}: experiment {self.experiment}, parent run {self.parent}"]
        told = {
            "new runs": self.created,
            "completed": self.completed,
            "there already": self.unchanged,
            "new versions": self.registered,
        }
        lines += [f"  run {stage}: {run}" for stage, run in self.runs.items()]
        return "\n".join([*lines, *(f"  {what}: {', '.join(names)}" for what, names in told.items() if names)])


# --- the parent ---------------------------------------------------------------------------------------------


def find_parent(store: TrackingStore, state: State) -> Run | None:
    """The state's parent run."""
    found = runs.search(store.client, store.experiment, runs.tag(PIPELINE, state.key))
    return next((run for run in found if PARENT not in run.data.tags), None)


def _parent(store: TrackingStore, state: State, tags: Mapping[str, str]) -> Run:
    parent = find_parent(store, state)
    if parent is None:
        recipe = state.params.recipe
        parent = store.client.create_run(
            store.experiment, run_name=f"{recipe}-{state.key[:8]}", tags={PIPELINE: state.key, "alpro.recipe": recipe}
        )
    params = flat_params(state.params.model_dump(mode="json"))
    runs.log_params(store.client, parent, params)
    new = {key: value for key, value in tags.items() if key not in parent.data.tags}  # of the run that made it, not found it
    runs.set_tags(store.client, parent, {**_commit_tags(state, parent), **new})
    return store.client.get_run(parent.info.run_id)


def _commit_tags(state: State, run: Run) -> dict[str, str]:
    """Which commit holds the state. Once a commit held it exactly, later ones don't take its place."""
    if run.data.tags.get("alpro.git.clean") == "yes" or state.git.commit is None:
        return {}
    tags = {
        "mlflow.source.git.commit": state.git.commit,
        "mlflow.source.name": "dvc.yaml",
        "mlflow.source.type": "LOCAL",
        "mlflow.user": _user(),
        "alpro.git.clean": "yes" if state.git.clean else "no",
        "alpro.git.changed": ", ".join(state.git.changed)[:2000],
    }
    digest = lineage.locks_digest(state.root)
    return {**tags, "alpro.lock": digest} if digest else tags


def _finish_parent(store: TrackingStore, state: State, parent: Run, children: Mapping[str, Run]) -> None:
    """The figures of all evaluations, the report and a table of the stages, at the parent."""
    client, run_id = store.client, parent.info.run_id
    reports = state.root / "reports"
    folders = {record.folder for record in state.records}
    loose = [f for f in sorted(reports.rglob("*")) if f.is_file() and not folders & set(f.parents) and f.name != ".gitignore"]
    final = {f"{r.task}/{key}": value for r in state.records if r.kind == "evaluate" for key, value in r.final.items()}
    summary = reports / "summary.json"
    if summary.exists():
        final |= flat_numbers(_summary(summary))
    new = {key: value for key, value in final.items() if parent.data.metrics.get(key) != runs.comparable((key, 0, value))[2]}
    runs.log_points(client, run_id, [((key, 0, value), runs.now_ms()) for key, value in new.items()])
    listing = [f"{sha256(file)}  {file.relative_to(reports).as_posix()}" for file in loose]
    digest = hashlib.sha256("\n".join(listing).encode()).hexdigest()
    if loose and parent.data.tags.get(FILES) != digest:
        _upload(store, run_id, reports, loose)
    runs.set_tags(client, parent, {"mlflow.note.content": _note(store, state, children), FILES: digest})
    if parent.info.status != "FINISHED":
        client.set_terminated(run_id, "FINISHED")


def _summary(path: Path) -> dict[str, Any]:
    return read_json_object(path, TrackingError, "`dvc repro report` writes it")


def _note(store: TrackingStore, state: State, children: Mapping[str, Run]) -> str:
    lines = [f"State `{state.key[:8]}` of recipe **{state.params.recipe}**.", ""]
    lines += ["| stage | run | ran first in |", "|---|---|---|"]
    for record in state.records:
        run = children[record.stage]
        origin = run.data.tags.get("alpro.origin")
        first = _link(store, origin) if origin else "here"
        lines.append(f"| {record.stage} | {_link(store, run.info.run_id)} | {first} |")
    return "\n".join(lines)


def _link(store: TrackingStore, run_id: str) -> str:
    return f"[{run_id[:8]}](#/experiments/{store.experiment}/runs/{run_id})"


# --- the stages ---------------------------------------------------------------------------------------------


def _children(store: TrackingStore, state: State, parent: Run, done: Synced) -> dict[str, Run]:
    """A complete run for every record, by stage."""
    under = list(runs.search(store.client, store.experiment, runs.tag(PARENT, parent.info.run_id)))
    complete = {run.data.tags[RECORD]: run for run in under if RECORD in run.data.tags}
    half = [run for run in under if RECORD not in run.data.tags]
    half += [run for run in runs.search(store.client, store.experiment, runs.tag(LIVE, "open")) if PARENT not in run.data.tags]
    children = {}
    for record in state.records:
        run = complete.get(record.digest)
        if run is not None:
            done.unchanged.append(record.stage)
        else:
            run = _adopt(store, record, half)
            (done.completed if run else done.created).append(record.stage)
            run = _complete(store, state, parent, record, run or _new(store, state, parent, record))
        children[record.stage] = _refresh(store, state, record, run)
    return children


def _adopt(store: TrackingStore, record: Record, half: Iterable[Run]) -> Run | None:
    """The unfinished run, of those that agree with the record, that has most of it; those that contradict it are marked."""
    points = {runs.comparable(point) for point in record.points}
    points |= {runs.comparable((key, 0, value)) for key, value in record.final.items()}
    curves = {key for key, _, _ in points}
    best: tuple[int, Run] | None = None
    for run in half:
        if run.data.tags.get(STAGE) != record.stage or runs.being_written(run):
            continue
        if any(record.params.get(key) != value for key, value in run.data.params.items()):
            continue  # another training: its record may come back from DVC's cache one day
        # a live run shows more curves than a record: those that depend on the machine (clips a second)
        logged = {point for point in runs.logged_points(store.client, run) if point[0] in curves}
        if logged <= points:
            best = max(best or (-1, run), (len(logged), run), key=lambda found: found[0])
        elif run.data.tags.get(LIVE) == "open":
            runs.set_tags(store.client, run, {LIVE: "superseded"})
    return best[1] if best else None


def _new(store: TrackingStore, state: State, parent: Run, record: Record) -> Run:
    same = runs.search(store.client, store.experiment, runs.tag(RECORD, record.digest))
    origin = next((run.info.run_id for run in same if "alpro.origin" not in run.data.tags), None)
    tags = {STAGE: record.stage, PARENT: parent.info.run_id, **({"alpro.origin": origin} if origin else {})}
    return store.client.create_run(store.experiment, run_name=record.stage, tags=tags)


def _complete(store: TrackingStore, state: State, parent: Run, record: Record, run: Run) -> Run:
    """Add what the run lacks of the record; the tag that says so comes last."""
    client, run_id = store.client, run.info.run_id
    there = runs.logged_points(client, run)
    now = runs.now_ms()
    points = [*record.points, *((key, 0, value) for key, value in record.final.items())]
    runs.log_points(client, run_id, [(point, now) for point in points if runs.comparable(point) not in there])
    runs.log_params(client, run, record.params)
    tags = {PARENT: parent.info.run_id, PIPELINE: state.key, "alpro.recipe": state.params.recipe, "alpro.task": record.task}
    runs.set_tags(client, run, {**tags, LIVE: "done"} if LIVE in run.data.tags else tags)
    if run.info.status != "FINISHED":
        client.set_terminated(run_id, "FINISHED", max([*there.values(), run.info.start_time]) if there else None)
    runs.set_tags(client, run, {RECORD: record.digest})
    return client.get_run(run_id)


def _refresh(store: TrackingStore, state: State, record: Record, run: Run) -> Run:
    """What may change though the record did not: its pictures, what dvc.lock says, the commit that holds it."""
    client, run_id = store.client, run.info.run_id
    tags = _commit_tags(state, run)
    if run.data.tags.get(FILES) != record.files_digest:
        _upload(store, run_id, record.folder, record.files)
        tags[FILES] = record.files_digest
    locked = state.locked(record)
    if locked is not None:
        _inputs(store, state, record, run, locked)
        entry = json.dumps(locked.as_json(), sort_keys=True)
        agrees = lineage.agrees(state.root, f"reports/{record.stage}", locked)
        tags |= {"alpro.dvc.stage": locked.name, "alpro.dvc.lock": "agrees" if agrees else "differs"}
        digest = hashlib.sha256(entry.encode()).hexdigest()
        if run.data.tags.get("alpro.dvc.entry") != digest:
            client.log_text(run_id, entry, "dvc.lock.json")
            tags["alpro.dvc.entry"] = digest
    if all(run.data.tags.get(key) == value for key, value in tags.items()):
        return run
    runs.set_tags(client, run, tags)
    return client.get_run(run_id)


def _inputs(store: TrackingStore, state: State, record: Record, run: Run, locked: lineage.LockedStage) -> None:
    """The data sets that the stage read, each with DVC's hash as its digest."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    logged = {(given.dataset.name, given.dataset.digest) for given in run.inputs.dataset_inputs} if run.inputs else set()
    context = InputTag("mlflow.data.context", "training" if record.kind in TRAINED else "evaluation")
    given = [
        DatasetInput(Dataset(path, dep.hash, "local", json.dumps({"uri": path}), profile=json.dumps(vars(dep))), [context])
        for path, dep in sorted(data_deps(state, locked).items())
        if (path, dep.hash) not in logged
    ]
    if given:
        store.client.log_inputs(run.info.run_id, given)


def _upload(store: TrackingStore, run_id: str, base: Path, files: Sequence[Path]) -> None:
    for file in files:
        inner = file.parent.relative_to(base).as_posix()
        store.client.log_artifact(run_id, str(file), None if inner == "." else inner)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"
