"""`alpro promote`: candidate and champion are evaluated anew on the data on disk, and the gate decides."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from alpro import lineage
from alpro.config import Gate, Params, nearest
from alpro.errors import ConfigError, TrackingError
from alpro.lineage.chain import find
from alpro.registry import aliases, facts, gate
from alpro.registry.gate import Verdict
from alpro.registry.versions import CANDIDATE, CHAMPION
from alpro.tracking.store import Store, alone, folder, opened

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

Evaluate = Callable[[Params, str, "Packed", Path], None]


@dataclass(frozen=True, slots=True)
class Packed:
    """A version's files, and how its evaluation looks at clips and texts."""

    checkpoint: Path
    frames: str
    max_text_tokens: int


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


def evaluate_packed(params: Params, task: str, packed: Packed, record: Path) -> None:
    """Evaluate a version's files as `evaluate@TASK` does, on as many processes, without the ablations.

    Data, split and ranking are params.yaml's; frames and text length are the model's own. Raises TrackingError.
    """
    from alpro import launch

    frames = json.loads((packed.checkpoint / "config.json").read_text(encoding="utf-8"))["num_frames"]
    own = {"num_frames": frames, "eval_frames": packed.frames, "max_text_tokens": packed.max_text_tokens}
    training = params.finetune[task].model_copy(update=own)
    given = params.model_copy(update={"finetune": {**params.finetune, task: training}})
    with tempfile.TemporaryDirectory(dir=record.parent) as aside:
        file = Path(aside) / "params.yaml"
        file.write_text(yaml.safe_dump(given.model_dump(mode="json")), encoding="utf-8")
        words = ["--task", task, "--checkpoint", str(packed.checkpoint), "--record", str(record), "--params", str(file)]
        if launch.main(params.launch, ["evaluate", *words, "--no-ablations"]):
            raise TrackingError(f"the evaluation of {packed.checkpoint} failed: see above")


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
        warning = aliases.by_hand(store.client, model)
        name = _name(candidate)
        if aliases.same(champion, candidate) and not warning:
            return Promotion(name, name, None, False)
        rival = aliases.rival(store.client, candidate)
        against = _name(rival) if rival else None
        with tempfile.TemporaryDirectory(dir=folder(root), prefix=".gate.") as aside:
            verdict = _judge(store, root, params, task, candidate, rival, Path(aside), evaluate)
        if candidate.run_id:
            store.client.log_text(candidate.run_id, f"{name} against {against}\n{verdict}\n", f"gate/{_now()}.txt")
        if verdict.passed and not dry_run:
            with alone(root):
                if not version:
                    _unmoved(store, model, CANDIDATE, candidate)
                _unmoved(store, model, CHAMPION, champion)
                aliases.crown(store.client, candidate, rival, _record(root, params.gate, verdict, against))
        return Promotion(name, against, verdict, verdict.passed and not dry_run, warning)


def rollback(root: Path, task: str) -> tuple[str, str]:
    """Move a task's `champion` back to the version before; returns the numbers, from and to. Raises TrackingError."""
    with alone(root), opened(root) as store:
        return aliases.rollback(store.client, f"alpro-{task}")


def _judge(
    store: Store,
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


def unpack(store: Store, version: ModelVersion, into: Path) -> Packed:
    """Bring a version's files out of the store. Raises TrackingError where they are no packed checkpoint."""
    import mlflow

    into.mkdir(parents=True)
    uri = store.client.get_model_version_download_uri(version.name, version.version)
    place = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(into), tracking_uri=store.uri))
    try:
        flavour = yaml.safe_load((place / "MLmodel").read_text(encoding="utf-8"))["flavors"]["python_function"]
        checkpoint, config = place / flavour["artifacts"]["checkpoint"]["path"], flavour["config"]
        return Packed(checkpoint, config["frames"], config["max_text_tokens"])
    except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
        raise TrackingError(f"{_name(version)}: is no packed checkpoint ({error!r})") from None


def _unmoved(store: Store, model: str, alias: str, was: ModelVersion | None) -> None:
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


def _name(version: ModelVersion) -> str:
    return f"{version.name}/{version.version}"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
