"""What a run shows in Prefect: its stages, its results, and what validation found."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from alpro import lineage
from flows.stages import Outcome, short

FAILED = Path(".state/failed/validate")
MLFLOW_PAGE = "ALPRO_MLFLOW_PAGE"  # where a browser finds MLflow; `make ui` sets it


@dataclass(frozen=True, slots=True)
class Done:
    """A stage that ended."""

    stage: str
    outcome: Outcome
    seconds: float


@dataclass(frozen=True, slots=True)
class Tracked:
    """Where a run is in MLflow, read from what `alpro register` printed. `page`: MLflow's address for a browser, if known."""

    experiment: str
    parent: str
    runs: Mapping[str, str]  # by stage, as evaluate/msvd_qa
    lines: Sequence[str]
    page: str | None

    @classmethod
    def read(cls, lines: Sequence[str]) -> Tracked:
        """Parse the lines; what they don't name is empty."""
        text = "\n".join(lines)
        found = re.search(r"experiment (\S+), parent run (\w+)", text)
        runs = dict(re.findall(r"^ *run (\S+): (\w+)$", text, re.M))
        return cls(found[1] if found else "", found[2] if found else "", runs, lines, os.environ.get(MLFLOW_PAGE))

    def link(self, run: str | None = None, said: str = "MLflow's run") -> str:
        """Markdown that leads to a run; by default the parent."""
        run = run or self.parent
        if not run:
            return "not in MLflow"
        return f"[{said}]({self.page}/#/experiments/{self.experiment}/runs/{run})" if self.page else f"{said} `{run}`"

    def image(self, stage: str, file: str) -> str | None:
        """The address of a picture of a stage's run."""
        run = self.runs.get(stage)
        return f"{self.page}/get-artifact?path={quote(file)}&run_uuid={run}" if run and self.page else None


def publish(done: Sequence[Done], root: Path, experiment: str | None, tracked: Tracked, found: str | None = None) -> None:
    """Make the run's artifacts from what its stages wrote. `found`: where the Data Docs of a failed validation lie."""
    from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_table_artifact

    rows = [{"stage": short(one.stage), "outcome": one.outcome, "seconds": f"{one.seconds:.1f}"} for one in done]
    create_table_artifact(rows, key="stages", description=f"Saved as experiment `{experiment}`" if experiment else None)
    names = {short(one.stage) for one in done}
    if results := result_rows(root, names):
        said = f"Figures of the evaluated splits, in percent. {tracked.link()}"
        create_table_artifact(results, key="results", description=said)
    if text := validation_text(root, names, tracked, found):
        create_markdown_artifact(text, key="validation", description="Great Expectations")
    create_markdown_artifact(lineage_text(root, experiment, tracked), key="lineage", description=tracked.link())
    for stage, file in plots(root, names):
        if address := tracked.image(stage, file):
            key = "-".join((stage.split("/")[-1], Path(file).stem)).replace("_", "-").lower()
            create_image_artifact(image_url=address, key=key, description=f"{stage}: {file}")


def plots(root: Path, stages: set[str]) -> list[tuple[str, str]]:
    """The pictures of the evaluations that these stages made: (record, file)."""
    found = []
    for stage in sorted(stages):
        if record := _evaluated(stage):
            folder = root / "reports" / "evaluate" / record
            found += [(f"evaluate/{record}", f.relative_to(folder).as_posix()) for f in sorted(folder.glob("plots/*.png"))]
    return found


def lineage_text(root: Path, experiment: str | None, tracked: Tracked) -> str:
    """Which commit and locks stand for this run, how to bring them back, and what MLflow has of it."""
    state = lineage.git_state(root)
    lines = [f"- commit `{state.commit}` ({state.branch or 'no branch'})", f"- locks `{lineage.locks_digest(root)}`"]
    lines += [f"- changed, and in no commit: {', '.join(state.changed)}"] if state.changed else []
    lines += [f"- `dvc exp apply {experiment}` brings the state back"] if experiment else []
    return "\n".join([*lines, f"- {tracked.link()}", "", "```", *tracked.lines, "```"])


def gate_key(task: str) -> str:
    """The key of a task's artifact; Prefect takes no underscores."""
    return f"gate-{task.replace('_', '-').lower()}"


@dataclass(frozen=True, slots=True)
class Judged:
    """What the gate said of a candidate. `champion`: it was that already, so nothing is left to do."""

    passed: bool
    version: str | None
    champion: bool

    @classmethod
    def read(cls, task: str, passed: bool, lines: Sequence[str]) -> Judged:
        """Parse what `alpro promote` printed."""
        model = f"alpro-{re.escape(task)}"
        found = re.search(rf"^{model}/(\d+) against (?:{model}/(\d+))?", "\n".join(lines), re.M)
        return cls(passed, found[1], found[1] == found[2]) if found else cls(passed, None, False)


def publish_gate(task: str, lines: Sequence[str]) -> None:
    """What the gate said, as it was printed; the evaluations' own lines before it are in the log."""
    from prefect.artifacts import create_markdown_artifact

    at = next((n for n, line in enumerate(lines) if line.startswith(f"alpro-{task}/")), 0)
    text = "\n".join(["```", *lines[at:], "```"])
    create_markdown_artifact(text, key=gate_key(task), description=lines[-1] if lines else None)


def result_rows(root: Path, stages: set[str]) -> list[dict[str, Any]]:
    """One row an evaluation that these stages made: every figure of its metrics.json that is a number, by its official name."""
    rows = []
    for stage in sorted(stages):
        folder = _evaluated(stage)
        metrics = _read(root / "reports" / "evaluate" / folder / "metrics.json") if folder else None
        if metrics:
            figures = {**metrics, **metrics.get("text2video", {})}
            rows.append({"task": folder, **{name: _shown(value) for name, value in figures.items() if _is_number(value)}})
    columns = {name: None for row in rows for name in row}
    return [{name: row.get(name, "") for name in columns} for row in rows]


def validation_text(root: Path, stages: set[str], tracked: Tracked, found: str | None = None) -> str | None:
    """A table of what validation found in each set, with the way to its Data Docs; None where nothing was validated."""
    lines = []
    for stage in sorted(stages):
        kind, _, name = stage.partition("@")
        folder = root / "reports" / "validate" / name
        figures = _read(folder / "metrics.json") if kind.startswith("validate") else None
        if figures:
            failed = ", ".join(f"{check} {count}" for check, count in figures["checks"].items()) or "nothing"
            run = tracked.runs.get(f"validate/{name}")
            docs = tracked.link(run, "index.html of the run") if run else "`index.html` of its record"
            docs = f"`{found}`" if found and Path(found).parent.name == name else docs
            lines.append(f"| {name} | {figures['errors']} | {figures['warnings']} | {failed} | {docs} |")
    head = ["| set | errors | warnings | found | Data Docs |", "|---|---|---|---|---|"]
    return "\n".join([*head, *lines]) if lines else None


def kept_findings(stage: str, root: Path, checkout: Path) -> str | None:
    """Where the Data Docs of a validation that failed can be read, in the checkout; None where it has left none.

    A run's worktree goes with it, so what it found is copied to .state/failed, over what the set's last failure left there.
    """
    kind, _, name = short(stage).partition("@")
    record = root / "reports" / "validate" / name
    if not kind.startswith("validate") or not (record / "index.html").is_file():
        return None
    if root != checkout:
        kept = checkout / FAILED / name
        shutil.rmtree(kept, ignore_errors=True)
        record = Path(shutil.copytree(record, kept))
    return (record / "index.html").relative_to(checkout).as_posix()


def _evaluated(stage: str) -> str | None:
    """The folder of reports/evaluate that a stage fills."""
    kind, _, task = stage.partition("@")
    return {"evaluate": task, "zeroshot": f"{task}_zeroshot"}.get(kind)


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _shown(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.2f}"
