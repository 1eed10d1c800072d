"""Fills MLflow from the records on disk: one parent run per pipeline state, with one child run per stage.

A pipeline state is a recipe plus the records of its stages. A changed record, for example after changing a learning rate,
creates a new parent run. Every parent has a run for **each** stage, including those that DVC skipped as unchanged, so that
two pipeline states can be opened, compared or deleted independently in MLflow. Runs of skipped stages repeat the original's
values; the tag `alpro.origin` names the run in which the stage was executed. Registered models refer to that run.

A run is complete when it has the tag `alpro.record`, which is set last, so an interrupted sync continues where it stopped.
A live run (see `live_run`) whose parameters and points agree with the record is completed, not repeated.
"""

from __future__ import annotations

import getpass
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpro import lineage
from alpro.files.atomic import sha256
from alpro.files.outputs import MANIFEST
from alpro.tracking import runs
from alpro.tracking.pages import run_page
from alpro.tracking.records import StageRecord, flat_params
from alpro.tracking.runs import FILES_DIGEST, LIVE, PARENT_RUN, PIPELINE, RECORD, STAGE
from alpro.tracking.state import PipelineState, data_deps
from alpro.tracking.store import TrackingStore

if TYPE_CHECKING:
    from mlflow.entities import Run

TRAINED = ("prompter", "pretrain", "finetune")
# metrics of an evaluation that the parent run has too, with their names there
HEADLINE = {
    "text2video/r1": "r1",
    "text2video/r5": "r5",
    "text2video/r10": "r10",
    "text2video/medianR": "medianR",
    "overall_acc": "overall_acc",
}


@dataclass(frozen=True)
class SyncResult:
    """Result of a sync: created, completed and unchanged stages, new model versions (`registered`), and run ids by stage.

    `versions`: number of the version of each fine-tuned checkpoint on disk, by task.
    """

    store: str
    experiment: str
    parent: str
    created: list[str] = field(default_factory=list)
    completed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    registered: list[str] = field(default_factory=list)
    runs: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain JSON types (`alpro register --json`)."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"MLflow {self.store}: experiment {self.experiment}, parent run {self.parent}"]
        lists = {
            "new runs": self.created,
            "completed": self.completed,
            "unchanged": self.unchanged,
            "new versions": self.registered,
        }
        lines += [f"  run {stage}: {run}" for stage, run in self.runs.items()]
        return "\n".join([*lines, *(f"  {title}: {', '.join(names)}" for title, names in lists.items() if names)])


# --- parent run ---------------------------------------------------------------------------------------------


def find_parent(store: TrackingStore, state: PipelineState) -> Run | None:
    """Return the parent run of a pipeline state, or None."""
    candidates = runs.search(store.client, store.experiment, runs.has_tag(PIPELINE, state.key))
    return next((run for run in candidates if PARENT_RUN not in run.data.tags), None)


def find_or_create_parent(store: TrackingStore, state: PipelineState, tags: Mapping[str, str]) -> Run:
    """Return the parent run of a pipeline state; create it if it does not exist, and add missing parameters and tags."""
    parent = find_parent(store, state)
    if parent is None:
        recipe = state.params.recipe
        parent = store.client.create_run(
            store.experiment, run_name=f"{recipe}-{state.key[:8]}", tags={PIPELINE: state.key, "alpro.recipe": recipe}
        )
    params = flat_params(state.params.model_dump(mode="json"))
    runs.log_params(store.client, parent, params)
    new_tags = {key: value for key, value in tags.items() if key not in parent.data.tags}  # keep tags set by an earlier sync
    runs.set_tags(store.client, parent, {**_commit_tags(state, parent), **new_tags})
    return store.client.get_run(parent.info.run_id)


def _commit_tags(state: PipelineState, run: Run) -> dict[str, str]:
    """Return the tags for the state's commit; none if the run already names a commit that matches exactly."""
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


def finish_parent(store: TrackingStore, state: PipelineState, parent: Run, children: Mapping[str, Run]) -> None:
    """Add the headline metrics, the data, the report and a table of the stages to the parent run, and end it."""
    client, run_id = store.client, parent.info.run_id
    reports = state.root / "reports"
    folders = {record.folder for record in state.records}
    files = [
        f
        for f in sorted(reports.rglob("*"))
        if f.is_file() and not folders & set(f.parents) and f.name not in (".gitignore", MANIFEST)
    ]
    final = headline_metrics(state.records)
    new = {key: value for key, value in final.items() if parent.data.metrics.get(key) != runs.comparable((key, 0, value))[2]}
    runs.log_points(client, run_id, [((key, 0, value), runs.now_ms()) for key, value in new.items()])
    _log_all_inputs(store, state, parent)
    listing = [f"{sha256(file)}  {file.relative_to(reports).as_posix()}" for file in files]
    digest = hashlib.sha256("\n".join(listing).encode()).hexdigest()
    if files and parent.data.tags.get(FILES_DIGEST) != digest:
        _upload(store, run_id, reports, files)
    runs.set_tags(client, parent, {"mlflow.note.content": _stage_table(store, state, children), FILES_DIGEST: digest})
    if parent.info.status != "FINISHED":
        client.set_terminated(run_id, "FINISHED")


def headline_metrics(records: Sequence[StageRecord]) -> dict[str, float]:
    """Return the metrics by which pipeline states are compared, `msrvtt_ret/r1`; all others are in the stages' runs."""
    evaluations = [record for record in records if record.kind == "evaluate"]
    return {
        f"{record.task}/{name}": record.final[key]
        for record in evaluations
        for key, name in HEADLINE.items()
        if key in record.final
    }


def _stage_table(store: TrackingStore, state: PipelineState, children: Mapping[str, Run]) -> str:
    lines = [f"State `{state.key[:8]}` of recipe **{state.params.recipe}**.", ""]
    lines += ["| stage | run | ran first in |", "|---|---|---|"]
    for record in state.records:
        run = children[record.stage]
        origin = run.data.tags.get("alpro.origin")
        first = _link(store, origin) if origin else "here"
        lines.append(f"| {record.stage} | {_link(store, run.info.run_id)} | {first} |")
    return "\n".join(lines)


def _link(store: TrackingStore, run_id: str) -> str:
    return f"[{run_id[:8]}]({run_page('', store.experiment, run_id)})"


# --- stage runs ---------------------------------------------------------------------------------------------


def make_stage_runs(store: TrackingStore, state: PipelineState, parent: Run, result: SyncResult) -> dict[str, Run]:
    """Create or complete the run of every record; return the runs by stage and note them in `result`."""
    children = list(runs.search(store.client, store.experiment, runs.has_tag(PARENT_RUN, parent.info.run_id)))
    complete = {run.data.tags[RECORD]: run for run in children if RECORD in run.data.tags}
    partial = [run for run in children if RECORD not in run.data.tags]
    live = runs.search(store.client, store.experiment, runs.has_tag(LIVE, "open"))
    partial += [run for run in live if PARENT_RUN not in run.data.tags]
    stage_runs = {}
    for record in state.records:
        run = complete.get(record.digest)
        if run is not None:
            result.unchanged.append(record.stage)
        else:
            run = _find_partial(store, record, partial)
            (result.completed if run else result.created).append(record.stage)
            run = _complete(store, state, parent, record, run or _create(store, parent, record))
        stage_runs[record.stage] = _refresh(store, state, record, run)
    result.runs.update({stage: run.info.run_id for stage, run in stage_runs.items()})
    return stage_runs


def _find_partial(store: TrackingStore, record: StageRecord, partial: Iterable[Run]) -> Run | None:
    """Return the incomplete run that has the most points of the record, or None.

    Mark contradicting live runs as superseded.
    """
    points = {runs.comparable(point) for point in record.points}
    points |= {runs.comparable((key, 0, value)) for key, value in record.final.items()}
    curves = {key for key, _, _ in points}
    best: tuple[int, Run] | None = None
    for run in partial:
        if run.data.tags.get(STAGE) != record.stage or runs.being_written(run):
            continue
        if any(record.params.get(key) != value for key, value in run.data.params.items()):
            continue  # another training, whose record may come back from DVC's cache
        # ignore curves that only live runs have, such as clips per second
        logged = {point for point in runs.logged_points(store.client, run) if point[0] in curves}
        if logged <= points:
            best = max(best or (-1, run), (len(logged), run), key=lambda pair: pair[0])
        elif run.data.tags.get(LIVE) == "open":
            runs.set_tags(store.client, run, {LIVE: "superseded"})
    return best[1] if best else None


def _create(store: TrackingStore, parent: Run, record: StageRecord) -> Run:
    same = runs.search(store.client, store.experiment, runs.has_tag(RECORD, record.digest))
    origin = next((run.info.run_id for run in same if "alpro.origin" not in run.data.tags), None)
    tags = {STAGE: record.stage, PARENT_RUN: parent.info.run_id, **({"alpro.origin": origin} if origin else {})}
    return store.client.create_run(store.experiment, run_name=record.stage, tags=tags)


def _complete(store: TrackingStore, state: PipelineState, parent: Run, record: StageRecord, run: Run) -> Run:
    """Add the missing points and parameters of the record, then the tag RECORD, which marks the run as complete."""
    client, run_id = store.client, run.info.run_id
    logged = runs.logged_points(client, run)
    now = runs.now_ms()
    points = [*record.points, *((key, 0, value) for key, value in record.final.items())]
    runs.log_points(client, run_id, [(point, now) for point in points if runs.comparable(point) not in logged])
    runs.log_params(client, run, record.params)
    tags = {PARENT_RUN: parent.info.run_id, PIPELINE: state.key, "alpro.recipe": state.params.recipe, "alpro.task": record.task}
    runs.set_tags(client, run, {**tags, LIVE: "done"} if LIVE in run.data.tags else tags)
    if run.info.status != "FINISHED":
        client.set_terminated(run_id, "FINISHED", max([*logged.values(), run.info.start_time]) if logged else None)
    runs.set_tags(client, run, {RECORD: record.digest})
    return client.get_run(run_id)


def _refresh(store: TrackingStore, state: PipelineState, record: StageRecord, run: Run) -> Run:
    """Update what can change without the record: plots, the dvc.lock entry, the commit tags."""
    client, run_id = store.client, run.info.run_id
    tags = _commit_tags(state, run)
    if run.data.tags.get(FILES_DIGEST) != record.files_digest:
        _upload(store, run_id, record.folder, record.files)
        tags[FILES_DIGEST] = record.files_digest
    stage = state.locked_stage(record)
    if stage is not None:
        _log_inputs(store, state, record, run, stage)
        entry = json.dumps(stage.as_dict(), sort_keys=True)
        agrees = lineage.matches_lock(state.root, f"reports/{record.stage}", stage)
        tags |= {"alpro.dvc.stage": stage.name, "alpro.dvc.lock": "agrees" if agrees else "differs"}
        digest = hashlib.sha256(entry.encode()).hexdigest()
        if run.data.tags.get("alpro.dvc.entry") != digest:
            client.log_text(run_id, entry, "dvc.lock.json")
            tags["alpro.dvc.entry"] = digest
    if all(run.data.tags.get(key) == value for key, value in tags.items()):
        return run
    runs.set_tags(client, run, tags)
    return client.get_run(run_id)


def _log_inputs(store: TrackingStore, state: PipelineState, record: StageRecord, run: Run, stage: lineage.LockedStage) -> None:
    """Log the datasets that the stage read, with DVC's hashes as their digests."""
    runs.log_inputs(store.client, run, data_deps(state, stage), _context(record))


def _context(record: StageRecord) -> str:
    return "training" if record.kind in TRAINED else "evaluation"


def _log_all_inputs(store: TrackingStore, state: PipelineState, parent: Run) -> None:
    """Log the datasets of all stages; those that a training read have the context `training`."""
    data: dict[str, dict[str, lineage.LockedPath]] = {"training": {}, "evaluation": {}}
    for record in state.records:
        if stage := state.locked_stage(record):
            data[_context(record)] |= data_deps(state, stage)
    runs.log_inputs(store.client, parent, data["training"], "training")
    rest = {path: dep for path, dep in data["evaluation"].items() if path not in data["training"]}
    runs.log_inputs(store.client, parent, rest, "evaluation")


def _upload(store: TrackingStore, run_id: str, base: Path, files: Sequence[Path]) -> None:
    for file in files:
        inner = file.parent.relative_to(base).as_posix()
        store.client.log_artifact(run_id, str(file), None if inner == "." else inner)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in some containers
        return "unknown"
