"""Flows with a real embedded server: stage order, logs, failures, cancellation, the run lock and the gate."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
from pathlib import Path
from uuid import UUID

import pytest

from flows.form import Machines, Start, to_changes
from flows.pipeline import FLOWS
from flows.run_lock import only_run
from flows.server import embedded_server

from .conftest import NOTHING_NEW, PATIENCE_S, commit, flow_command, flow_environment, living_in, wait_for

pytestmark = pytest.mark.slow  # the server alone needs 10 s


def rows(home: Path, query: str) -> list[tuple[str, ...]]:
    with sqlite3.connect(home / "prefect.db") as database:
        return database.execute(query).fetchall()


def run_flow(root: Path, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(flow_command(*words), cwd=root, env=flow_environment(home), capture_output=True, text=True)


def latest(home: Path) -> tuple[str, str, str]:
    """Return (id, name, state) of the last flow run."""
    ((run_id, name, state),) = rows(home, "select id, name, state_type from flow_run order by created desc limit 1")
    return run_id, name, state


def test_stages_run_in_order_with_logs_and_artifacts(scratch: Path, server_home: Path) -> None:
    done = run_flow(scratch, server_home, "--in-checkout")
    assert done.returncode == 0, done.stdout + done.stderr
    run_id, name, state = latest(server_home)
    assert state == "COMPLETED"
    tasks = rows(server_home, f"select name from task_run where flow_run_id = '{run_id}' order by start_time")
    assert [task for (task,) in tasks] == [
        "preflight", "stage-pretrain", "stage-finetune@a", "stage-evaluate@a", "stage-finetune@b", "stage-evaluate@b",
        "stage-report", "register",
    ]  # fmt: skip
    log = rows(
        server_home,
        "select message from log join task_run on log.task_run_id = task_run.id where task_run.name = 'stage-pretrain'",
    )
    assert ("the loss is 0.1",) in log
    verbs = (scratch / ".make" / "verbs").read_text().split("\n")
    assert verbs[:2] == ["preflight", f"register --candidates a,b --flow {name} {UUID(run_id)} --json"]
    keys = {key for (key,) in rows(server_home, f"select key from artifact where flow_run_id = '{run_id}'")}
    assert {"stages", "results", "progress", "lineage"} <= keys
    assert not (scratch / "unneeded.txt").exists() and "0.5" in (scratch / "summary.txt").read_text()

    # again, as an experiment: unchanged stages don't run, and the checkout is unchanged
    commit(scratch)
    experiment = run_flow(scratch, server_home, "--task", "a", "-S", "finetune.a.lr=0.125")
    assert experiment.returncode == 0, experiment.stdout + experiment.stderr
    run_id, name, state = latest(server_home)
    status = subprocess.run(["git", "status", "--porcelain"], cwd=scratch, capture_output=True, text=True).stdout
    words = ["git", "for-each-ref", "--format=%(refname) %(subject)", "refs/exps"]
    listed = subprocess.run(words, cwd=scratch, capture_output=True, text=True).stdout
    assert state == "COMPLETED" and status == "" and f"/{name} flow {UUID(run_id)}: finetune.a.lr=0.125\n" in listed
    assert (scratch / "pretrained").read_text() == "x\n"


def test_failed_flow_names_the_failing_stage(scratch: Path, server_home: Path) -> None:
    (scratch / "dvc.yaml").write_text("stages:\n  evil:\n    cmd: echo 'alpro - no space left' >&2; exit 2\n")
    done = run_flow(scratch, server_home)
    assert done.returncode == 1 and "flows: stage evil failed: alpro - no space left" in done.stderr
    run_id, _, state = latest(server_home)
    assert state == "FAILED"
    message = rows(
        server_home, f"select message from flow_run_state where flow_run_id = '{run_id}' order by timestamp desc limit 1"
    )
    assert "stage evil failed: alpro - no space left" in message[0][0]


def test_failed_validation_keeps_its_findings_and_artifacts(scratch: Path, server_home: Path) -> None:
    report = "mkdir -p reports/validate/a; echo found > reports/validate/a/index.html"
    figures = '{"errors": 2, "warnings": 0, "checks": {"readable": 2}}'
    stages = {"cmd": f"{report}; echo '{figures}' > reports/validate/a/metrics.json; echo 'a: 2 errors'; exit 2"}
    content = {"stages": {"validate": {"foreach": ["a"], "do": stages}}}
    (scratch / "dvc.yaml").write_text(json.dumps(content))
    done = run_flow(scratch, server_home, "validate")
    kept = ".state/failed/validate/a/index.html"
    assert done.returncode == 1 and f"stage validate@a failed: a: 2 errors; see {kept}" in done.stderr
    assert (scratch / kept).read_text() == "found\n" and not [*scratch.glob(".dvc/tmp/flows/*")]
    run_id, _, state = latest(server_home)
    artifacts = dict(rows(server_home, f"select key, data from artifact where flow_run_id = '{run_id}'"))
    assert state == "FAILED" and "failed" in artifacts["stages"] and kept in artifacts["validation"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_terminated_run_leaves_no_process(scratch: Path, server_home: Path, number: signal.Signals) -> None:
    body = "stages:\n  long:\n    cmd: (setsid sleep 1000 &) ; echo > started; sleep 1000\n"
    (scratch / "dvc.yaml").write_text(body)
    flow = subprocess.Popen(flow_command(), cwd=scratch, env=flow_environment(server_home), start_new_session=True)
    try:
        wait_for(lambda: [*scratch.glob(".dvc/tmp/flows/*/started")], "stage")
        refused = subprocess.run(flow_command(), cwd=scratch, env=flow_environment(server_home), capture_output=True, text=True)
        assert refused.returncode == 3 and f"process {flow.pid}" in refused.stderr
        flow.send_signal(number)
        assert flow.wait(PATIENCE_S) != 0
        wait_for(lambda: not living_in(scratch), "end of its processes")
    finally:
        if flow.poll() is None:
            os.killpg(flow.pid, signal.SIGKILL)
    with only_run(scratch, "the next"):
        pass
    if number != signal.SIGKILL:
        assert not [*scratch.glob(".dvc/tmp/flows/*")], "its worktree is gone"


def test_form_fields_become_overrides_and_typed_ones_take_precedence() -> None:
    changes = to_changes("tiny", ["init.finetune=b.pt"], Start(finetune="a.pt"), Machines(processes=3))
    assert changes.recipe == "tiny"
    assert changes.overrides == (
        "init.finetune='a.pt'",
        "launch.processes=3",
        "init.finetune=b.pt",
    )
    with pytest.raises(ValueError, match="hosts"):
        Machines(processes=3, hosts="one:1,two:2")  # type: ignore[call-arg]
    assert not to_changes(None, []) and not to_changes(None, [], Start(), Machines())


def test_stage_over_the_time_limit_is_ended(scratch: Path, server_home: Path) -> None:
    (scratch / "dvc.yaml").write_text("stages:\n  long:\n    cmd: (setsid sleep 1000 &) ; sleep 1000\n")
    done = run_flow(scratch, server_home, "--hours", "0.005")
    assert done.returncode == 1 and latest(server_home)[2] in ("FAILED", "CRASHED")
    assert "exceeded timeout" in done.stdout + done.stderr
    wait_for(lambda: not living_in(scratch), "end of its processes")


def test_gate_decision_sets_the_state_of_the_run(scratch: Path, server_home: Path) -> None:
    result = {
        "candidate": "alpro-msvd_qa/2", "champion": "alpro-msvd_qa/1", "passed": False, "moved": False,
        "already_champion": False, "summary": "refused: no gain", "warning": None,
        "checks": [{"name": "gain", "ok": False, "candidate": "1", "champion": "2", "needed": "more than 0"}],
    }  # fmt: skip
    code = f"import sys; print('chatter', file=sys.stderr); print({json.dumps(result)!r}); sys.exit(sys.argv[1] == 'promote')"
    (scratch / "alpro" / "__main__.py").write_text(code)
    assert run_flow(scratch, server_home, "promote", "--task", "msvd_qa").returncode == 0
    run_id, _, state = latest(server_home)
    assert state == "COMPLETED"
    assert rows(server_home, f"select state_name from flow_run where id = '{run_id}'") == [("Refused",)]
    assert rows(server_home, "select description from artifact where key = 'gate-msvd-qa'") == [("refused: no gain",)]
    ((text,),) = rows(server_home, "select data from artifact where key = 'gate-msvd-qa'")
    assert "| **NO** | gain | 1 | 2 | more than 0 |" in text


def test_paused_run_releases_the_lock_and_promotes_when_resumed(
    scratch: Path, server_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.flow_runs import resume_flow_run
    from prefect.settings import PREFECT_API_URL

    verbs = scratch.parent / "verbs"
    written = f"open({str(verbs)!r}, 'a').write(' '.join(sys.argv[1:]) + chr(10))"
    gate = {"candidate": "alpro-a/7", "champion": "alpro-a/3", "passed": True, "moved": False, "already_champion": False}
    gate |= {"summary": "passed", "warning": None, "checks": []}
    answers = {"promote": json.dumps(gate), "register": NOTHING_NEW, "preflight": "", "plan": "{}"}
    code = "\n".join(["import sys", written, f"print({answers!r}[sys.argv[1]])"])
    (scratch / "alpro" / "__main__.py").write_text(code)
    commit(scratch)
    monkeypatch.setenv("PREFECT_HOME", str(server_home))
    with embedded_server(scratch):
        api = PREFECT_API_URL.value()
        assert api
        command = flow_command("--task", "a", "--promote", "ask")
        flow = subprocess.Popen(command, cwd=scratch, env=flow_environment(server_home) | {"PREFECT_API_URL": api})
        try:
            paused = "select id from flow_run where state_type = 'PAUSED'"
            wait_for(lambda: rows(server_home, paused) or flow.poll() is not None, "pause")
            with only_run(scratch, "another"):
                assert not [*scratch.glob(".dvc/tmp/flows/*")]
            resume_flow_run(UUID(rows(server_home, paused)[0][0]))  # retries if the server's database is busy
            assert flow.wait(PATIENCE_S) == 0
        finally:
            flow.kill()
    promoted = [line for line in verbs.read_text().splitlines() if line.startswith("promote")]
    assert promoted == ["promote --task a --dry-run --json", "promote --task a --version 7 --json"]
    assert not rows(server_home, paused)
    wait_for(lambda: not living_in(scratch), "end of its processes")


def test_every_form_field_has_a_description() -> None:
    for chosen in FLOWS.values():
        fields = chosen.parameters.properties
        assert all(field.get("description") or name in ("start", "machines") for name, field in fields.items()), chosen.name
        assert "Args:" not in (chosen.description or "").split("\n")[0]
