"""The gate passes a candidate only if it is better on the same data and its origin is traceable."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from alpro import registry
from alpro.checks import doctor
from alpro.config import Gate, Params
from alpro.errors import DataError, TrackingError
from alpro.evaluation.qa import Prediction, QAResult
from alpro.evaluation.run import rounded, write_rows
from alpro.evaluation.summary import qa_rows, summarise_qa
from alpro.files.json_files import write_json
from alpro.registry import aliases, gate
from alpro.registry.alias_warning import alias_warning
from alpro.registry.claim import CLAIM
from alpro.registry.evaluate import PackedModel
from alpro.registry.lineage import trace
from alpro.tracking.state import read_state
from alpro.tracking.store import opened
from tests.tracking.tracked_project import contents, write_checkpoint, write_data, write_locks

TASK, MODEL = "msvd_qa", "alpro-msvd_qa"
QUESTIONS = 120
CORRECT = {  # the questions that each checkpoint answers correctly
    "first": range(60),
    "chance": range(36),
    "worse": range(40),
    "equal": range(60),
    "slightly": range(8, 72),
    "better": range(80),
    "clearly": range(96),
}


def record(folder: Path, correct: Any) -> Path:
    """Write the record of a QA evaluation: two questions per video, four equally frequent answers, two question types."""
    folder.mkdir(parents=True)
    asked = []
    for n in range(QUESTIONS):
        right = "abcd"[n % 4]
        answer = right if n in correct else "z"
        asked.append(Prediction(n, f"v{n // 2}", "what is it", right, "what" if n % 3 else "who", ((answer, 0.5),), True))
    looks: dict[Any, QAResult] = {"full": QAResult(asked)}
    write_json(folder / "metrics.json", rounded(summarise_qa(looks, 200)))
    write_rows(folder / "predictions.jsonl", qa_rows(looks))
    return folder


def evaluate(params: Params, task: str, packed: PackedModel, folder: Path) -> None:
    """Write the record that belongs to the checkpoint's name, which is the content of its weights."""
    weights = (packed.checkpoint / "model.safetensors").read_text()
    (name,) = {salt for salt in CORRECT if weights.startswith(f"finetune/{task}{salt}")}
    record(folder, CORRECT[name])


def commit(root: Path) -> None:
    for words in (["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]):
        subprocess.run(["git", *words], cwd=root, check=True, capture_output=True)


def candidate(root: Path, params: Params, name: str, *, clean: bool = True) -> None:
    """Make and register a checkpoint with this name, like the pipeline and `alpro register`."""
    write_checkpoint(root, params, f"finetune/{TASK}", salt=name)
    write_locks(root, params)
    if clean:
        commit(root)
    with opened(root) as store:
        registry.register_checkpoints(store, read_state(root, params), {})


def with_run(root: Path, params: Params, name: str) -> str:
    """Like `candidate`, with a run in MLflow; returns the run's id."""
    write_checkpoint(root, params, f"finetune/{TASK}", salt=name)
    write_locks(root, params)
    commit(root)
    with opened(root) as store:
        run = store.client.create_run(store.experiment, run_name=name)
        registry.register_checkpoints(store, read_state(root, params), {f"finetune/{TASK}": run})
    return str(run.info.run_id)


def judgements(root: Path, run: str) -> list[str]:
    """Return the first lines of the judgements in a run, in their order."""
    client = contents(root).client
    folder = Path(client.get_run(run).info.artifact_uri.removeprefix("file://")) / "gate"
    return [file.read_text().splitlines()[0] for file in sorted(folder.iterdir())]


def promote(root: Path, params: Params, **how: Any) -> Any:
    return registry.promote(root, params, TASK, **{"evaluate": evaluate, **how})


def aliased(root: Path) -> dict[str, int]:
    """Return the version number of every alias."""
    return {alias: int(number) for alias, number in contents(root).client.get_registered_model(MODEL).aliases.items()}


@pytest.fixture(scope="module")
def without_champion(ended: Path, params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose first candidate is registered, with a clean commit."""
    root = Path(shutil.copytree(ended, tmp_path_factory.mktemp("gate") / "project"))
    subprocess.run(["git", "init", "-q", "-b", "main"], cwd=root, check=True)
    (root / ".gitignore").write_text("/.mlflow/\n/models/\n/reports/\n/data/\n")
    (root / ".dvc").mkdir()
    (root / ".dvc" / "config").touch()
    candidate(root, params, "first")
    return root


@pytest.fixture(scope="module")
def with_champion(without_champion: Path, params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same repository after this candidate was promoted."""
    root = Path(shutil.copytree(without_champion, tmp_path_factory.mktemp("champion") / "project"))
    promote(root, params)
    return root


@pytest.fixture
def fresh(without_champion: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(without_champion, tmp_path / "project"))


@pytest.fixture
def project(with_champion: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(with_champion, tmp_path / "project"))


def test_first_model_above_chance_becomes_the_champion(fresh, params):
    done = promote(fresh, params)
    assert done.passed and done.moved and "whole interval above 25.00" in str(done)
    assert aliased(fresh) == {"candidate": 1, "champion": 1}
    assert promote(fresh, params).verdict is None, "the champion is not compared with itself"


def test_requested_version_is_promoted_despite_a_newer_candidate(fresh, params):
    candidate(fresh, params, "worse")
    with pytest.raises(TrackingError, match="models:/alpro-msvd_qa/7: no such version"):
        promote(fresh, params, version="7")
    assert promote(fresh, params, version="1").moved
    assert aliased(fresh) == {"candidate": 2, "champion": 1}


def test_first_model_with_an_interval_at_chance_is_refused(fresh, params):
    candidate(fresh, params, "chance")
    done = promote(fresh, params)
    assert "overall_acc above majority" in done.verdict.reason
    assert aliased(fresh) == {"candidate": 2}


@pytest.mark.parametrize(
    ("name", "why"),
    [("worse", "gain of overall_acc"), ("equal", "gain of overall_acc"), ("slightly", "gain beyond chance")],
)
def test_model_that_is_not_clearly_better_is_refused(project, params, name, why):
    write_data(project, params, "msrvtt_ret", salt="other")  # changed data of another task is irrelevant
    candidate(project, params, name)
    done = promote(project, params)
    assert not done.passed and why in done.verdict.reason
    assert aliased(project) == {"candidate": 2, "champion": 1}
    assert ("gain of overall_acc" in done.verdict.reason) == (name != "slightly")


def test_clearly_better_model_is_promoted_and_can_be_rolled_back(project, params):
    candidate(project, params, "clearly")
    assert promote(project, params, dry_run=True).passed and aliased(project)["champion"] == 1
    done = promote(project, params)
    assert done.moved and "80.00 (+30.00)" in str(done)
    assert aliased(project) == {"candidate": 2, "champion": 2, "previous": 1}
    client = contents(project).client
    record = json.loads(client.get_model_version(MODEL, "2").tags[aliases.GATE])
    assert [name.split()[-1] for name, *_ in record["checks"] if name.startswith("gain of")] == ["overall_acc"]
    assert record["gate"] == params.gate.model_dump(), "the settings of the gate that it passed"
    assert registry.rollback(project, TASK) == ("2", "1")
    assert aliased(project) == {"candidate": 2, "champion": 1, "previous": 1}
    with opened(project) as store:
        assert aliases.alias_mismatch(store.client, MODEL) is None
    with pytest.raises(TrackingError, match="no champion before version 1"):
        registry.rollback(project, TASK)


@pytest.mark.parametrize(("name", "rival", "passes"), [("better", "clearly", False), ("clearly", "better", True)])
def test_candidate_is_judged_again_if_the_champion_is_replaced_meanwhile(project, params, name, rival, passes):
    runs = {salt: with_run(project, params, salt) for salt in (name, rival)}  # versions 2 and 3
    evaluated: list[str] = []

    def interrupted(params: Params, task: str, packed: PackedModel, folder: Path) -> None:
        if not evaluated:
            assert promote(project, params, version="3").moved
        evaluated.append(packed.checkpoint.name)
        evaluate(params, task, packed, folder)

    done = promote(project, params, version="2", evaluate=interrupted)
    assert done.moved == passes and done.earlier == (f"{MODEL}/1",) and done.champion == f"{MODEL}/3"
    assert f"judged again, because {MODEL}/3 became the champion meanwhile" in str(done)
    assert len(evaluated) == 3, "the candidate once, and two champions"
    assert aliased(project)["champion"] == (2 if passes else 3) and aliased(project)["previous"] == (3 if passes else 1)
    assert judgements(project, runs[name]) == [f"{MODEL}/2 against {MODEL}/1", f"{MODEL}/2 against {MODEL}/3"]
    assert judgements(project, runs[rival]) == [f"{MODEL}/3 against {MODEL}/1"]
    with opened(project) as store:
        assert aliases.alias_mismatch(store.client, MODEL) is None


AT_ONCE = """
import sys, time
from pathlib import Path
from alpro.config import load
from tests.registry.test_promote import evaluate, promote
ready, version = Path(sys.argv[1]), sys.argv[2]
def together(*what):
    (ready / version).touch()
    while len(list(ready.iterdir())) < 2:
        time.sleep(0.01)
    evaluate(*what)
print(promote(Path.cwd(), load("params.yaml"), version=version, evaluate=together).summary)
"""


@pytest.mark.slow  # two more processes import MLflow
def test_two_promotions_at_once_leave_one_champion_and_two_judgements(project, params, tmp_path):
    """From two clones that share a store, so that no lock of one machine helps."""
    runs = [with_run(project, params, salt) for salt in ("better", "clearly")]
    clone = Path(shutil.copytree(project, tmp_path / "clone"))
    (ready := tmp_path / "ready").mkdir()
    uri = f"sqlite:///{project / '.mlflow' / 'mlflow.db'}"
    variables = {**os.environ, "MLFLOW_TRACKING_URI": uri, "PYTHONPATH": str(Path(__file__).parents[2])}
    processes = [
        subprocess.Popen([sys.executable, "-c", AT_ONCE, ready, version], cwd=root, env=variables, stdout=-1, text=True)
        for root, version in ((project, "2"), (clone, "3"))
    ]
    better, clearly = (process.communicate()[0] for process in processes)
    assert [process.returncode for process in processes] == [0, 0]
    assert "is now the champion" in clearly and ("judged again" in better) != ("judged again" in clearly)
    assert aliased(project)["champion"] == 3
    assert aliased(project)["previous"] == (2 if "is now the champion" in better else 1)
    judged = [judgements(project, run) for run in runs]
    assert all(list_[0].endswith(f"against {MODEL}/1") for list_ in judged) and sorted(map(len, judged)) == [1, 2]
    assert not [name for name in contents(project).client.get_registered_model(MODEL).tags if name.startswith(CLAIM)]


def test_uncommitted_state_is_refused_until_it_is_committed(project, params):
    (project / "params.yaml").write_text((project / "params.yaml").read_text() + "# an edit\n")
    candidate(project, params, "clearly", clean=False)
    done = promote(project, params)
    assert "clean (changed since" in done.verdict.reason and "params.yaml" in done.verdict.reason
    assert aliased(project)["champion"] == 1
    candidate(project, params, "clearly")
    assert promote(project, params).moved


def test_model_evaluated_on_other_data_is_refused(project, params):
    candidate(project, params, "clearly")
    write_data(project, params, TASK, salt="newer")
    done = promote(project, params)
    assert done.verdict.reason.startswith("data (annotations ") and aliased(project)["champion"] == 1


def test_model_whose_data_failed_validation_is_refused(project, params):
    (project / "models" / params.recipe / "validated" / f"{TASK}.json").unlink()
    candidate(project, params, "clearly")
    done = promote(project, params)
    assert f"validation ({TASK} did not pass" in done.verdict.reason or "validation (not in dvc.lock" in done.verdict.reason
    assert aliased(project)["champion"] == 1


def test_files_that_differ_from_the_lock_are_refused(project, params):
    candidate(project, params, "clearly")
    client = contents(project).client
    place = Path(client.get_model_version_download_uri(MODEL, "2").removeprefix("file://"))
    next(place.rglob("model.safetensors")).write_text(f"finetune/{TASK}clearly, edited")
    assert "lock (" in promote(project, params).verdict.reason
    assert aliased(project)["champion"] == 1


def test_manually_moved_alias_is_reported_and_restored_by_rollback(project, params):
    candidate(project, params, "worse")
    contents(project).client.set_registered_model_alias(MODEL, "champion", "2")
    with opened(project) as store:
        warning = aliases.alias_mismatch(store.client, MODEL)
    assert "version 2, which has no record of the gate (the last version that passed is 1)" in warning
    done = promote(project, params)
    assert done.warning == warning and not done.passed and done.champion == f"{MODEL}/1"
    assert registry.rollback(project, TASK) == ("2", "1")


@pytest.mark.parametrize("hand", ["deleted", "moved to a worse one"])
def test_changing_the_champion_alias_does_not_bypass_the_comparison(project, params, hand):
    candidate(project, params, "clearly")
    assert promote(project, params).moved
    candidate(project, params, "worse")  # version 3
    client = contents(project).client
    if hand == "deleted":
        client.delete_registered_model_alias(MODEL, "champion")
        wrong = f"{MODEL}@champion is missing (the last version that passed is 2): deleted by hand"
    else:
        client.set_registered_model_alias(MODEL, "champion", "3")
        wrong = (
            f"{MODEL}@champion is version 3, which has no record of the gate (the last version that passed is 2): moved by hand"
        )
    assert wrong in doctor.CHECKS["champions"](project).detail
    candidate(project, params, "slightly")  # better than chance and than version 3, worse than the champion
    done = promote(project, params)
    assert not done.passed and done.champion == f"{MODEL}/2" and done.warning.startswith(wrong)
    assert registry.rollback(project, TASK)[1] == "2" and aliased(project)["champion"] == 2


def test_candidate_must_also_beat_chance_if_the_champion_is_unchecked(fresh, params):
    candidate(fresh, params, "worse")
    candidate(fresh, params, "chance")
    client = contents(fresh).client
    client.set_registered_model_alias(MODEL, "champion", "3")
    candidate(fresh, params, "slightly")
    checks = [check.name for check in promote(fresh, params, dry_run=True).verdict.checks]
    assert "gain of overall_acc" in checks and "overall_acc above majority" in checks


def test_lineage_lists_all_versions_and_the_commands_that_restore_the_state(with_champion, params):
    lineage = trace(with_champion, f"models:/{MODEL}@champion")
    text = str(lineage)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=with_champion, capture_output=True, text=True).stdout.strip()
    for name in (f"{MODEL}/1 (candidate, champion)", "alpro-pretrain/1", "alpro-prompter/1"):
        assert f"\n{name}\n" in text
    for fact in (f"commit      {head} (main) x", "validation  passed", "from        alpro-pretrain/1", "against chance"):
        assert fact in text
    place = f"../alpro-{head[:10]}"
    cache = f"dvc cache dir --local {with_champion}/.dvc/cache"
    commands = (f"git worktree add {place} {head}", f"cd {place}", cache, "dvc checkout")
    assert lineage.restore == commands
    assert "\n".join(f"  {command}" for command in commands) in text, "commands to be pasted in this order"
    assert "WARNING" not in text and lineage.problem is None
    with pytest.raises(TrackingError, match="no such version"):
        trace(with_champion, f"models:/{MODEL}@previous")
    with pytest.raises(TrackingError, match="write models:/"):
        trace(with_champion, MODEL)


def test_doctor_reports_a_champion_without_a_gate_record(project, params):
    assert doctor.CHECKS["champions"](project).status == "ok"
    candidate(project, params, "worse")
    contents(project).client.set_registered_model_alias(MODEL, "champion", "2")
    assert "moved by hand" in doctor.CHECKS["champions"](project).detail
    assert "WARNING: " in str(trace(project, f"models:/{MODEL}@champion"))


def test_serving_a_champion_without_a_gate_record_warns(project, params, monkeypatch):
    client = contents(project).client
    place = Path(client.get_model_version_download_uri(MODEL, "1").removeprefix("file://"))
    assert alias_warning(place, MODEL) is None, "without a registry there is nothing to ask"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project / '.mlflow' / 'mlflow.db'}")
    assert alias_warning(place, MODEL) is None
    client.delete_model_version_tag(MODEL, "1", aliases.GATE)
    assert "moved by hand" in alias_warning(place, MODEL)


def test_without_a_candidate_nothing_is_promoted(project, params):
    contents(project).client.delete_registered_model_alias(MODEL, "candidate")
    with pytest.raises(TrackingError, match="no candidate"):
        promote(project, params)


def test_register_refuses_checkpoints_that_differ_from_the_lock(project, params):
    write_checkpoint(project, params, f"finetune/{TASK}", salt="by hand")
    with pytest.raises(TrackingError, match=f"finetune/{TASK}: differs from dvc.lock"):
        registry.register(project, params)


# --- checks of the gate ---------------------------------------------------------------------------------------


def queries(folder: Path, ranks: list[int], back: list[int] | None = None) -> Path:
    """Write a retrieval record from the rank of every caption and of every video."""
    folder.mkdir()
    rows = [
        {"direction": direction, "id": f"v{n}", "video": f"v{n}", "text": "a", "rank": rank}
        for direction, listed in (("text2video", ranks), ("video2text", back or ranks))
        for n, rank in enumerate(listed)
    ]
    write_rows(folder / "predictions.jsonl", rows)
    write_json(folder / "metrics.json", {"text2video": {"medianR": sorted(ranks)[len(ranks) // 2]}})
    return folder


@pytest.mark.parametrize(
    ("ranks", "back", "why"),
    [
        ([1] * 60 + [4] * 40, None, None),
        ([1] * 60 + [6] * 40, None, "text2video.r5"),
        ([1] * 60 + [11] * 40, None, "text2video.r10"),
        ([1] * 60 + [4] * 40, [2] * 100, "video2text.r1"),
        ([1] * 44 + [5] * 56, None, "text2video.medianR"),
    ],
)
def test_each_retrieval_check_can_refuse(tmp_path, ranks, back, why):
    champion = queries(tmp_path / "b", [1] * 30 + [2] * 70)
    checks = gate.compare_with_champion(Gate(resamples=500), queries(tmp_path / "a", ranks, back), champion)
    failed = [check.name for check in checks if not check.ok]
    assert why in failed if why else not failed, failed


def test_threshold_and_minimum_gain_are_checked(tmp_path):
    a, b = record(tmp_path / "a", range(96)), record(tmp_path / "b", range(60))
    settings = Gate(resamples=500, threshold=90, gain=40)
    failed = [check.name for check in gate.compare_with_champion(settings, a, b) if not check.ok]
    assert failed == ["overall_acc", "gain of overall_acc"]
    assert not gate.compare_with_chance(settings, a)[0].ok


def test_worse_question_type_is_reported_unless_it_has_few_questions(tmp_path):
    whos = {n for n in range(QUESTIONS) if n % 3 == 0}
    a, b = record(tmp_path / "a", set(range(QUESTIONS)) - whos), record(tmp_path / "b", range(40))
    settings = Gate(resamples=500)
    assert [check.name for check in gate.compare_with_champion(settings, a, b) if not check.ok] == ["who_acc"]
    few = settings.model_copy(update={"type_queries": 41})
    checks = {check.name: check for check in gate.compare_with_champion(few, a, b)}
    assert checks["who_acc"].ok and checks["who_acc"].needed == "not checked: 40 questions"


def test_runs_on_different_queries_are_not_compared(tmp_path):
    with pytest.raises(DataError, match="compare runs on the same data"):
        gate.compare_with_champion(Gate(), queries(tmp_path / "a", [1, 2]), queries(tmp_path / "b", [1, 2, 3]))
