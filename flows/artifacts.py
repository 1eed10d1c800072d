"""Prefect artifacts of a run: its stages, results, validation, plots, lineage and the gate's decision."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from alpro import lineage
from alpro.files.state import state_folder
from alpro.tracking.pages import run_page
from flows.stages import Outcome

MLFLOW_PAGE = "ALPRO_MLFLOW_PAGE"  # environment variable: address of MLflow for a browser; set by `make ui`


@dataclass(frozen=True, slots=True)
class StageResult:
    """Outcome and duration of a stage."""

    stage: str
    outcome: Outcome
    seconds: float


@dataclass(frozen=True, slots=True)
class MlflowRuns:
    """Runs in MLflow that belong to a flow run. `page`: MLflow's address for a browser, if known."""

    experiment: str = ""
    parent: str = ""
    runs: Mapping[str, str] = field(default_factory=dict)  # stage, for example evaluate/msvd_qa -> run id
    changes: Mapping[str, Sequence[str]] = field(default_factory=dict)  # title -> stages or model versions
    page: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)  # task -> number of its version in the registry

    @classmethod
    def from_json(cls, result: Mapping[str, Any]) -> MlflowRuns:
        """Return the runs that `alpro register --json` or `alpro track sync --json` printed."""
        changes = {
            "new runs": result["created"],
            "completed runs": result["completed"],
            "unchanged runs": result["unchanged"],
            "new model versions": result["registered"],
        }
        page, versions = os.environ.get(MLFLOW_PAGE), result["versions"]
        return cls(result["experiment"], result["parent"], result["runs"], changes, page, versions)

    def link(self, run: str | None = None, title: str = "MLflow's run") -> str:
        """Return Markdown with a link to a run; default: the parent run."""
        run = run or self.parent
        if not run:
            return "not in MLflow"
        return f"[{title}]({run_page(self.page, self.experiment, run)})" if self.page else f"{title} `{run}`"

    def image(self, stage: str, file: str) -> str | None:
        """Return the address of an image in a stage's run, or None if it is unknown."""
        run = self.runs.get(stage)
        return f"{self.page}/get-artifact?path={quote(file)}&run_uuid={run}" if run and self.page else None


def publish(
    results: Sequence[StageResult], root: Path, experiment: str | None, mlflow: MlflowRuns, data_docs: str | None = None
) -> None:
    """Create the run's artifacts from the files of its stages. `data_docs`: path of a failed validation's Data Docs."""
    from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_table_artifact

    rows = [{"stage": r.stage, "outcome": r.outcome, "seconds": f"{r.seconds:.1f}"} for r in results]
    create_table_artifact(rows, key="stages", description=f"Saved as experiment `{experiment}`" if experiment else None)
    names = {r.stage for r in results}
    if metrics := metric_rows(root, names):
        description = f"Metrics of the evaluated splits, in percent. {mlflow.link()}"
        create_table_artifact(metrics, key="results", description=description)
        for row in metrics:  # one key per evaluation, so that Prefect's page of the key is its history
            create_table_artifact([row], key=_key("results", row["task"]), description=mlflow.link())
    if text := validation_text(root, names, mlflow, data_docs):
        create_markdown_artifact(text, key="validation", description="Great Expectations")
    create_markdown_artifact(lineage_text(root, experiment, mlflow), key="lineage", description=mlflow.link())
    for stage, file in plots(root, names):
        if address := mlflow.image(stage, file):
            key = _key(stage.split("/")[-1], Path(file).stem)
            create_image_artifact(image_url=address, key=key, description=f"{stage}: {file}")


def plots(root: Path, stages: set[str]) -> list[tuple[str, str]]:
    """Return the plots of the evaluations among these stages as (record, file)."""
    files = []
    for stage in sorted(stages):
        if record := _evaluated(stage):
            folder = root / "reports" / "evaluate" / record
            files += [(f"evaluate/{record}", f.relative_to(folder).as_posix()) for f in sorted(folder.glob("plots/*.png"))]
    return files


def lineage_text(root: Path, experiment: str | None, mlflow: MlflowRuns) -> str:
    """Return commit and lock digest of the run, the command that restores its state, and what changed in MLflow."""
    state = lineage.git_state(root)
    lines = [f"- commit `{state.commit}` ({state.branch or 'no branch'})", f"- locks `{lineage.locks_digest(root)}`"]
    lines += [f"- changed, but not committed: {', '.join(state.changed)}"] if state.changed else []
    lines += [f"- to restore this state: `dvc exp apply {experiment}`"] if experiment else []
    lines += [f"- {mlflow.link()}", *(f"- {title}: {', '.join(names)}" for title, names in mlflow.changes.items() if names)]
    return "\n".join(lines)


def gate_key(task: str) -> str:
    """Return the key of a task's gate artifact."""
    return _key("gate", task)


def _key(*words: str) -> str:
    """Return an artifact key of these words; Prefect allows no underscores and no capitals."""
    return "-".join(words).replace("_", "-").lower()


@dataclass(frozen=True, slots=True)
class GateDecision:
    """The gate's decision about a candidate. `already_champion`: nothing is left to do."""

    passed: bool
    version: str  # number of the candidate
    already_champion: bool

    @classmethod
    def from_json(cls, result: Mapping[str, Any]) -> GateDecision:
        """Return the decision that `alpro promote --json` printed."""
        return cls(result["passed"], result["candidate"].rsplit("/", 1)[-1], result["already_champion"])


def publish_gate(task: str, result: Mapping[str, Any]) -> None:
    """Create an artifact with the gate's checks and its decision."""
    from prefect.artifacts import create_markdown_artifact

    create_markdown_artifact(gate_text(result), key=gate_key(task), description=result["summary"])


def gate_text(result: Mapping[str, Any]) -> str:
    """Return the output of `alpro promote --json` as Markdown."""
    lines = [f"**{result['candidate']}** against {result['champion'] or 'chance: there is no champion yet'}", ""]
    lines += [result["warning"], ""] if result["warning"] else []
    if result["checks"]:
        lines += ["| | check | candidate | champion | needed |", "|---|---|---|---|---|"]
        for check in result["checks"]:
            mark = "ok" if check["ok"] else "**NO**"
            lines.append(f"| {mark} | {check['name']} | {check['candidate']} | {check['champion']} | {check['needed']} |")
        lines.append("")
    return "\n".join([*lines, result["summary"]])


def metric_rows(root: Path, stages: set[str]) -> list[dict[str, Any]]:
    """Return one row per evaluation among these stages, with every number of its metrics.json by its official name."""
    rows = []
    for stage in sorted(stages):
        folder = _evaluated(stage)
        metrics = _read(root / "reports" / "evaluate" / folder / "metrics.json") if folder else None
        if metrics:
            flat = {**metrics, **metrics.get("text2video", {})}
            rows.append({"task": folder, **{name: _format(value) for name, value in flat.items() if _is_number(value)}})
    columns = {name: None for row in rows for name in row}
    return [{name: row.get(name, "") for name in columns} for row in rows]


def validation_text(root: Path, stages: set[str], mlflow: MlflowRuns, data_docs: str | None = None) -> str | None:
    """Return a table of the validation results with links to the Data Docs, or None if no stage validated data."""
    lines = []
    for stage in sorted(stages):
        kind, _, name = stage.partition("@")
        folder = root / "reports" / "validate" / name
        metrics = _read(folder / "metrics.json") if kind.startswith("validate") else None
        if metrics:
            failed = ", ".join(f"{check} {count}" for check, count in metrics["checks"].items()) or "none"
            run = mlflow.runs.get(f"validate/{name}")
            docs = mlflow.link(run, "index.html of the run") if run else "`index.html` of its record"
            docs = f"`{data_docs}`" if data_docs and Path(data_docs).parent.name == name else docs
            lines.append(f"| {name} | {metrics['errors']} | {metrics['warnings']} | {failed} | {docs} |")
    head = ["| dataset | errors | warnings | failed checks | Data Docs |", "|---|---|---|---|---|"]
    return "\n".join([*head, *lines]) if lines else None


def keep_data_docs(stage: str, root: Path, checkout: Path) -> str | None:
    """Return the path of a failed validation's Data Docs, relative to the checkout if it is there; None if there are none.

    A run's worktree is removed, so the record is copied to .state/failed; it replaces the dataset's previous one.
    """
    kind, _, name = stage.partition("@")
    record = root / "reports" / "validate" / name
    if not kind.startswith("validate") or not (record / "index.html").is_file():
        return None
    if root != checkout:
        copy = state_folder(checkout) / "failed/validate" / name
        shutil.rmtree(copy, ignore_errors=True)
        record = Path(shutil.copytree(record, copy))
    page = record / "index.html"
    return (page.relative_to(checkout) if page.is_relative_to(checkout) else page).as_posix()


def _evaluated(stage: str) -> str | None:
    """Return the folder of reports/evaluate that a stage writes, or None."""
    kind, _, task = stage.partition("@")
    return {"evaluate": task, "zeroshot": f"{task}_zeroshot"}.get(kind)


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _format(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.2f}"
