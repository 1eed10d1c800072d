"""`alpro promote`: candidate and champion are evaluated anew on the data on disk, and the gate decides."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpro import lineage
from alpro.config import Gate, Params
from alpro.errors import ConfigError, TrackingError, nearest
from alpro.registry import aliases, gate
from alpro.registry import provenance as facts
from alpro.registry.evaluate import Packed, evaluate_packed, unpack
from alpro.registry.gate import Verdict
from alpro.registry.versions import CANDIDATE, CHAMPION, find, label
from alpro.tracking.store import TrackingStore, locked, opened, store_folder

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

Evaluate = Callable[[Params, str, Packed, Path], None]


@dataclass(frozen=True, slots=True)
class Promotion:
    """What became of a candidate. `verdict` is None where it is the champion already."""

    candidate: str
    champion: str | None
    verdict: Verdict | None
    moved: bool
    warning: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the candidate is, or may become, the champion."""
        return self.verdict is None or self.verdict.passed

    def __str__(self) -> str:
        head = f"{self.candidate} against {self.champion or 'chance: there is no champion yet'}"
        lines = [head, *([self.warning] if self.warning else [])]
        if self.verdict is None:
            return "\n".join([*lines, f"{self.candidate} is the champion already; nothing moves"])
        said = "passed" if self.verdict.passed else f"refused: {self.verdict.reason}"
        then = f"; {self.candidate} is the champion now" if self.moved else "; nothing moves"
        return "\n".join([*lines, str(self.verdict), said + then])


def promote(
    root: Path,
    params: Params,
    task: str,
    *,
    version: str | None = None,
    dry_run: bool = False,
    evaluate: Evaluate = evaluate_packed,
) -> Promotion:
    """Compare the task's candidate with its champion and, where the gate says so, make it the champion.

    version: the number of the version that is meant, in the place of the one that `candidate` names. Raises ConfigError for an
    unknown task, TrackingError without that candidate, and what reading data and checkpoints raises.
    """
    if task not in params.datasets:
        raise ConfigError(f"task {task!r}: `datasets` of params.yaml has none of this name{nearest(task, params.datasets)}")
    model = f"alpro-{task}"
    with opened(root) as store:
        champion = aliases.at(store.client, model, CHAMPION)
        candidate = find(store, f"models:/{model}/{version}") if version else aliases.at(store.client, model, CANDIDATE)
        if candidate is None:
            raise TrackingError(f"{model} has no candidate; `alpro register` registers what the pipeline made")
        warning = aliases.alias_mismatch(store.client, model)
        name = label(candidate)
        if aliases.same(champion, candidate) and not warning:
            return Promotion(name, name, None, False)
        rival = aliases.rival(store.client, candidate)
        against = label(rival) if rival else None
        with tempfile.TemporaryDirectory(dir=store_folder(root), prefix=".gate.") as aside:
            verdict = _judge(store, root, params, task, candidate, rival, Path(aside), evaluate)
        if candidate.run_id:
            store.client.log_text(candidate.run_id, f"{name} against {against}\n{verdict}\n", f"gate/{_now()}.txt")
        if verdict.passed and not dry_run:
            with locked(root):
                if not version:
                    _unmoved(store, model, CANDIDATE, candidate)
                _unmoved(store, model, CHAMPION, champion)
                aliases.crown(store.client, candidate, rival, _record(root, params.gate, verdict, against))
        return Promotion(name, against, verdict, verdict.passed and not dry_run, warning)


def rollback(root: Path, task: str) -> tuple[str, str]:
    """Move a task's `champion` back to the version before; returns the numbers, from and to. Raises TrackingError."""
    with locked(root), opened(root) as store:
        return aliases.rollback(store.client, f"alpro-{task}")


def _judge(
    store: TrackingStore,
    root: Path,
    params: Params,
    task: str,
    candidate: ModelVersion,
    champion: ModelVersion | None,
    aside: Path,
    evaluate: Evaluate,
) -> Verdict:
    """Facts first: a candidate that they refuse is not evaluated."""
    packed = unpack(store, candidate, aside / "candidate")
    checks = facts.of_candidate(root, params, task, candidate, packed.checkpoint)
    if not all(check.ok for check in checks):
        return Verdict(tuple(checks))
    evaluate(params, task, packed, aside / "a")
    if champion is None:
        return Verdict((*checks, *gate.compare_with_chance(params.gate, aside / "a")))
    evaluate(params, task, unpack(store, champion, aside / "champion"), aside / "b")
    compared = gate.compare_with_champion(params.gate, aside / "a", aside / "b")
    if aliases.GATE not in champion.tags:  # nobody knows that this one is better than chance
        compared += gate.compare_with_chance(params.gate, aside / "a")
    return Verdict(tuple(dict.fromkeys((*checks, *compared))))


def _unmoved(store: TrackingStore, model: str, alias: str, was: ModelVersion | None) -> None:
    now = aliases.at(store.client, model, alias)
    if not aliases.same(now, was):
        raise TrackingError(f"{model}@{alias} was moved while the gate evaluated; run `alpro promote` again")


def _record(root: Path, settings: Gate, verdict: Verdict, against: str | None) -> dict[str, Any]:
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
