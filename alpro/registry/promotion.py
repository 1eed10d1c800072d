"""`alpro promote`: evaluates candidate and champion again on the data on disk, and lets the gate decide."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpro import lineage
from alpro.config import Gate, Params
from alpro.errors import ConfigError, TrackingError, nearest
from alpro.registry import aliases, gate
from alpro.registry.evaluate import PackedModel, evaluate_packed, unpack
from alpro.registry.gate import Verdict
from alpro.registry.provenance import provenance_checks
from alpro.registry.versions import CANDIDATE, CHAMPION, find, label
from alpro.tracking.store import TrackingStore, locked, opened, store_folder

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

EvaluateVersion = Callable[[Params, str, PackedModel, Path], None]


@dataclass(frozen=True, slots=True)
class Promotion:
    """Result of a promotion. `champion`: the version it was compared with. `verdict` is None for the current champion."""

    candidate: str
    champion: str | None
    verdict: Verdict | None
    moved: bool
    warning: str | None = None

    @property
    def passed(self) -> bool:
        """True if the candidate is, or may become, the champion."""
        return self.verdict is None or self.verdict.passed

    @property
    def summary(self) -> str:
        """The decision and its reason, in one line."""
        if self.verdict is None:
            return f"{self.candidate} is already the champion; no alias was moved"
        decision = "passed" if self.verdict.passed else f"refused: {self.verdict.reason}"
        return decision + (f"; {self.candidate} is now the champion" if self.moved else "; no alias was moved")

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain JSON types (`alpro promote --json`)."""
        return {
            "candidate": self.candidate,
            "champion": self.champion,
            "passed": self.passed,
            "moved": self.moved,
            "already_champion": self.verdict is None,
            "summary": self.summary,
            "warning": self.warning,
            "checks": [asdict(check) for check in self.verdict.checks] if self.verdict else [],
        }

    def __str__(self) -> str:
        title = f"{self.candidate} against {self.champion or 'chance: there is no champion yet'}"
        table = [str(self.verdict)] if self.verdict else []
        return "\n".join([title, *([self.warning] if self.warning else []), *table, self.summary])


def promote(
    root: Path,
    params: Params,
    task: str,
    *,
    version: str | None = None,
    dry_run: bool = False,
    evaluate: EvaluateVersion = evaluate_packed,
) -> Promotion:
    """Compare a task's candidate with its champion and, if the gate passes it, make it the champion.

    version: number of the version to promote instead of the one with the alias `candidate`. Raises ConfigError for an
    unknown task, TrackingError if there is no such version, and the errors of reading data and checkpoints.
    """
    if task not in params.datasets:
        raise ConfigError(f"task {task!r}: not in `datasets` of params.yaml{nearest(task, params.datasets)}")
    model = f"alpro-{task}"
    with opened(root) as store:
        champion = aliases.version_at(store.client, model, CHAMPION)
        if version:
            candidate: ModelVersion | None = find(store, f"models:/{model}/{version}")
        else:
            candidate = aliases.version_at(store.client, model, CANDIDATE)
        if candidate is None:
            raise TrackingError(f"{model} has no candidate; run `alpro register` after the pipeline")
        warning = aliases.alias_mismatch(store.client, model)
        name = label(candidate)
        if aliases.same_version(champion, candidate) and not warning:
            return Promotion(name, name, None, False)
        incumbent = aliases.incumbent(store.client, candidate)
        against = label(incumbent) if incumbent else None
        with tempfile.TemporaryDirectory(dir=store_folder(root), prefix=".gate.") as temporary:
            verdict = _judge(store, root, params, task, candidate, incumbent, Path(temporary), evaluate)
        if candidate.run_id:
            store.client.log_text(candidate.run_id, f"{name} against {against}\n{verdict}\n", f"gate/{_now()}.txt")
        if verdict.passed and not dry_run:
            with locked(root):
                if not version:
                    _require_unmoved(store, model, CANDIDATE, candidate)
                _require_unmoved(store, model, CHAMPION, champion)
                aliases.set_champion(store.client, candidate, incumbent, _gate_record(root, params.gate, verdict, against))
        return Promotion(name, against, verdict, verdict.passed and not dry_run, warning)


def rollback(root: Path, task: str) -> tuple[str, str]:
    """Move a task's `champion` back to the previous version; return the numbers before and after. Raises TrackingError."""
    with locked(root), opened(root) as store:
        return aliases.rollback(store.client, f"alpro-{task}")


def _judge(
    store: TrackingStore,
    root: Path,
    params: Params,
    task: str,
    candidate: ModelVersion,
    champion: ModelVersion | None,
    folder: Path,
    evaluate: EvaluateVersion,
) -> Verdict:
    """Check the provenance first; a candidate that fails it is not evaluated. `folder` is for temporary files."""
    packed = unpack(store, candidate, folder / "candidate")
    checks = provenance_checks(root, params, task, candidate, packed.checkpoint)
    if not all(check.ok for check in checks):
        return Verdict(tuple(checks))
    evaluate(params, task, packed, folder / "a")
    if champion is None:
        return Verdict((*checks, *gate.compare_with_chance(params.gate, folder / "a")))
    evaluate(params, task, unpack(store, champion, folder / "champion"), folder / "b")
    compared = gate.compare_with_champion(params.gate, folder / "a", folder / "b")
    if aliases.GATE not in champion.tags:  # this champion was never checked, so it may be worse than chance
        compared += gate.compare_with_chance(params.gate, folder / "a")
    return Verdict(tuple(dict.fromkeys((*checks, *compared))))


def _require_unmoved(store: TrackingStore, model: str, alias: str, before: ModelVersion | None) -> None:
    now = aliases.version_at(store.client, model, alias)
    if not aliases.same_version(now, before):
        raise TrackingError(f"{model}@{alias} was moved during the evaluation; run `alpro promote` again")


def _gate_record(root: Path, settings: Gate, verdict: Verdict, against: str | None) -> dict[str, Any]:
    state = lineage.git_state(root)
    return {
        "at": _now(),
        "against": against,
        "code": state.commit if state.clean else f"{state.commit}, changed",
        "gate": settings.model_dump(),
        "checks": [[check.name, check.candidate, check.champion] for check in verdict.checks],
    }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
