"""`alpro promote`: evaluates candidate and champion again on the data on disk, and lets the gate decide.

Evaluations take minutes to hours, and nothing is locked meanwhile. If another promotion replaces the champion in that time,
the candidate is judged again, against the new one. Every judgement is a text in the folder `gate` of the candidate's run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpro import lineage
from alpro.config import Gate, Params
from alpro.errors import ConfigError, TrackingError, nearest
from alpro.registry import aliases, gate
from alpro.registry.claim import claimed
from alpro.registry.evaluate import PackedModel, evaluate_packed, unpack
from alpro.registry.gate import Verdict
from alpro.registry.provenance import provenance_checks
from alpro.registry.versions import CANDIDATE, CHAMPION, find, label
from alpro.terminal import logs
from alpro.tracking.store import TrackingStore, locked, opened, store_folder

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

log = logs.get(__name__)
EvaluateVersion = Callable[[Params, str, PackedModel, Path], None]


@dataclass(frozen=True, slots=True)
class Promotion:
    """Result of a promotion. `champion`: the version it was compared with. `verdict` is None for the current champion.

    `earlier`: the champions that it was compared with before, each replaced during the evaluation (None: there was none).
    """

    candidate: str
    champion: str | None
    verdict: Verdict | None
    moved: bool
    warning: str | None = None
    earlier: tuple[str | None, ...] = ()

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
        if self.earlier:
            decision += f"; judged again, because {self.champion} became the champion meanwhile"
        return decision + (f"; {self.candidate} is now the champion" if self.moved else "; no alias was moved")

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain JSON types (`alpro promote --json`)."""
        return {
            "candidate": self.candidate,
            "champion": self.champion,
            "earlier": list(self.earlier),
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

    If another promotion replaces the champion meanwhile, the candidate is judged again, against the new one.
    version: number of the version to promote instead of the one with the alias `candidate`. Raises ConfigError for an
    unknown task, TrackingError if there is no such version, and the errors of reading data and checkpoints.
    """
    if task not in params.datasets:
        raise ConfigError(f"task {task!r}: not in `datasets` of params.yaml{nearest(task, params.datasets)}")
    model = f"alpro-{task}"
    with opened(root) as store:
        if version:
            candidate: ModelVersion | None = find(store, f"models:/{model}/{version}")
        else:
            candidate = aliases.version_at(store.client, model, CANDIDATE)
        if candidate is None:
            raise TrackingError(f"{model} has no candidate; run `alpro register` after the pipeline")
        name, earlier = label(candidate), list[str | None]()
        with tempfile.TemporaryDirectory(dir=store_folder(root), prefix=".gate.") as temporary:
            judge = _Judge(store, root, params, task, candidate, Path(temporary), evaluate)
            while True:
                champion = aliases.version_at(store.client, model, CHAMPION)
                warning = aliases.alias_mismatch(store.client, model)
                if aliases.same_version(champion, candidate) and not warning:
                    return Promotion(name, name, None, False, earlier=tuple(earlier))
                incumbent = aliases.incumbent(store.client, candidate)
                against = label(incumbent) if incumbent else None
                verdict = judge.compare_with(incumbent)
                if candidate.run_id:
                    text, file = f"{name} against {against}\n{verdict}\n", f"{_now()}-{len(earlier) + 1}.txt"
                    store.client.log_text(candidate.run_id, text, f"gate/{file}")
                if not verdict.passed or dry_run:
                    return Promotion(name, against, verdict, False, warning, tuple(earlier))
                with locked(root), claimed(store.client, model):
                    if not version:
                        _require_candidate(store, model, candidate)
                    now = aliases.version_at(store.client, model, CHAMPION)
                    if aliases.same_version(now, champion) and aliases.same_version(
                        aliases.incumbent(store.client, candidate), incumbent
                    ):
                        record = _gate_record(root, params.gate, verdict, against)
                        aliases.set_champion(store.client, candidate, incumbent, record)
                        return Promotion(name, against, verdict, True, warning, tuple(earlier))
                log.warning("%s was replaced during the evaluation; %s is judged again", against or "no champion", name)
                earlier.append(against)


def rollback(root: Path, task: str) -> tuple[str, str]:
    """Move a task's `champion` back to the previous version; return the numbers before and after. Raises TrackingError."""
    model = f"alpro-{task}"
    with locked(root), opened(root) as store:
        exists = bool(store.client.search_model_versions(f"name = '{model}'", max_results=1))
        with claimed(store.client, model) if exists else nullcontext():
            return aliases.rollback(store.client, model)


class _Judge:
    """Compares one candidate with champions. It is evaluated once, and not at all if its provenance fails a check."""

    def __init__(
        self,
        store: TrackingStore,
        root: Path,
        params: Params,
        task: str,
        candidate: ModelVersion,
        folder: Path,
        evaluate: EvaluateVersion,
    ) -> None:
        """`folder` is for temporary files."""
        self._store, self._params, self._task, self._folder = store, params, task, folder
        self._evaluate = evaluate
        self._packed = unpack(store, candidate, folder / "candidate")
        self._checks = provenance_checks(root, params, task, candidate, self._packed.checkpoint)
        self._record = folder / "candidate-record"

    def compare_with(self, champion: ModelVersion | None) -> Verdict:
        """Return the verdict against a champion, or against chance if there is none."""
        if not all(check.ok for check in self._checks):
            return Verdict(tuple(self._checks))
        settings = self._params.gate
        if not self._record.exists():
            self._evaluate(self._params, self._task, self._packed, self._record)
        if champion is None:
            return Verdict((*self._checks, *gate.compare_with_chance(settings, self._record)))
        record = self._folder / f"record-{champion.version}"
        if not record.exists():
            packed = unpack(self._store, champion, self._folder / f"champion-{champion.version}")
            self._evaluate(self._params, self._task, packed, record)
        compared = gate.compare_with_champion(settings, self._record, record)
        if aliases.GATE not in champion.tags:  # this champion was never checked, so it may be worse than chance
            compared += gate.compare_with_chance(settings, self._record)
        return Verdict(tuple(dict.fromkeys((*self._checks, *compared))))


def _require_candidate(store: TrackingStore, model: str, before: ModelVersion) -> None:
    if not aliases.same_version(aliases.version_at(store.client, model, CANDIDATE), before):
        raise TrackingError(f"{model}@{CANDIDATE} was moved during the evaluation; run `alpro promote` again")


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
