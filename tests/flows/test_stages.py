"""Stages, experiments, run locks and stray files: everything in `flows` that needs no Prefect server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from alpro.lineage import dvc_hash
from flows import experiment
from flows.commands import output_of, stream, stream_json
from flows.form import ParamChanges
from flows.link_inputs import link_inputs
from flows.run_lock import Busy, not_beside_make, only_run, shared_run
from flows.stages import Graph, StageFailed, TrainedElsewhere, graph, needs_running, reproduce
from flows.stray_files import find_stray_files, move_aside

from .conftest import DVC, PARAMS, REPOSITORY, commit, run, wait_for


def test_stages_are_in_dvcs_order_without_unneeded_ones(scratch: Path) -> None:
    plan = graph(scratch)
    assert plan.order == (
        "pretrain", "finetune@a", "evaluate@a",
        "finetune@b", "evaluate@b", "report",
    )  # fmt: skip
    one = graph(scratch, ["evaluate@b"])
    assert one.order == ("pretrain", "finetune@b", "evaluate@b")
    assert plan.after(plan.find("finetune@b")) == {"finetune@b", "evaluate@b", "report"}
    with pytest.raises(ValueError, match=r"no stage 'finetun'.*pretrain"):
        plan.find("finetun")


def test_with_all_checkpoints_the_pipeline_only_evaluates(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_bytes((REPOSITORY / "dvc.yaml").read_bytes())
    raw = yaml.safe_load((REPOSITORY / "recipes/official.yaml").read_text())
    for task in raw["evaluate"]:
        raw["evaluate"][task]["checkpoint"] = f"given/{task}.pt"
    run("git", "init", "-q", cwd=tmp_path)
    run(DVC, "init", "-q", cwd=tmp_path)

    def stages(**changes: object) -> set[str]:
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw | changes))
        return {name.split("@")[0] for name in graph(tmp_path).order}

    assert stages(zeroshot={}) == {"validate", "evaluate", "report"}
    assert stages(init=raw["init"] | {"finetune": "given/pretrained.pt"}) == {"validate", "evaluate", "zeroshot", "report"}


def test_data_files_are_not_stages(scratch: Path) -> None:
    (scratch / "raw").write_text("data")
    run(DVC, "add", "-q", "raw", cwd=scratch)
    (scratch / "dvc.yaml").write_text("stages:\n  report:\n    cmd: cp raw out\n    deps: [raw]\n    outs: [out]\n")
    assert graph(scratch) == Graph(("report",), {"report": frozenset()})


def test_stage_is_run_skipped_or_restored_from_the_cache(scratch: Path) -> None:
    log: list[str] = []
    assert reproduce("pretrain", scratch, log.append) == "ran"
    assert "the loss is 0.1" in log and not [line for line in log if "git add" in line]
    assert reproduce("pretrain", scratch, log.append) == "unchanged"
    assert reproduce("pretrain", scratch, log.append, force=True) == "ran"
    (scratch / "dvc.lock").unlink()
    (scratch / "models" / "pretrain").unlink()
    assert reproduce("pretrain", scratch, log.append) == "restored"


def test_failing_stage_reports_its_last_line(scratch: Path) -> None:
    (scratch / "dvc.yaml").write_text("stages:\n  evil:\n    cmd: echo 'alpro - the disk is full' >&2; exit 2\n")
    with pytest.raises(StageFailed, match="stage evil failed: alpro - the disk is full") as failure:
        reproduce("evil", scratch, lambda line: None)
    assert not failure.value.transient


def test_lock_held_by_another_process_is_a_transient_failure(scratch: Path) -> None:
    lock = scratch / ".dvc" / "tmp" / "rwlock"
    held = {"pid": os.getpid(), "cmd": "repro"}
    lock.write_text(json.dumps({"write": {str(scratch / "models" / "pretrain"): held}}))
    with pytest.raises(StageFailed) as failure:
        reproduce("pretrain", scratch, lambda line: None)
    assert failure.value.transient


def test_interrupt_ends_the_command_and_its_children(scratch: Path) -> None:
    seen: list[int] = []

    def log(line: str) -> None:
        seen.append(int(line))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stream(["sh", "-c", "setsid sleep 6000 & echo $!; wait"], scratch, log)
    assert not alive(seen[0]), "it has ended when `stream` returns"


def alive(number: int) -> bool:
    """Return True if the process exists and is not a zombie."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_json_on_stdout_is_returned_and_only_stderr_is_logged(tmp_path: Path) -> None:
    log: list[str] = []
    code, lines, stdout = stream_json(["sh", "-c", "echo '{}'; echo progress >&2; exit 1"], tmp_path, log.append)
    assert (code, lines, stdout, log) == (1, ["progress"], "{}\n", ["progress"])


def test_waiting_run_reports_the_holder_and_continues_afterwards(tmp_path: Path) -> None:
    held = only_run(tmp_path, "tidy-otter")
    held.__enter__()
    messages: list[str] = []

    def free(text: str) -> None:
        messages.append(text)
        held.__exit__(None, None, None)

    with only_run(tmp_path, "second", wait=free):
        pass
    assert len(messages) == 1 and messages[0].startswith("waiting: the run 'tidy-otter' (process ")


def test_second_run_is_refused_with_the_first_runs_name(tmp_path: Path) -> None:
    at_work = rf"'tidy-otter' \(process {os.getpid()} on .*\) is working on this project"
    for other in (only_run, shared_run):
        with only_run(tmp_path, "tidy-otter"), pytest.raises(Busy, match=at_work), other(tmp_path, "second"):
            pass
    with not_beside_make(tmp_path), pytest.raises(Busy, match="`make repro` is running"), not_beside_make(tmp_path):
        pass
    with only_run(tmp_path, "third"), not_beside_make(tmp_path):
        pass


def test_runs_of_a_shared_server_work_side_by_side_and_keep_others_out(tmp_path: Path) -> None:
    both = r"the runs ('one' .*, 'two'|'two' .*, 'one') .* are working on this project; wait for them"
    with shared_run(tmp_path, "one"), shared_run(tmp_path, "two"), pytest.raises(Busy, match=both), only_run(tmp_path, "third"):
        pass
    with only_run(tmp_path, "third"):
        pass
    left = "import os, sys; from pathlib import Path; from flows.run_lock import shared_run\n"
    left += "with shared_run(Path(sys.argv[1]), 'killed'): os.kill(os.getpid(), 9)"
    for take, locks in ((only_run, 0), (shared_run, 1)):
        subprocess.run([sys.executable, "-c", left, str(tmp_path)], cwd=REPOSITORY)
        assert [*tmp_path.rglob("runs/*.lock")], "it was killed"
        with take(tmp_path, "the next one"):
            assert len([*tmp_path.rglob("runs/*.lock")]) == locks


@pytest.mark.slow  # twenty DVC commands, two seconds each
def test_run_with_overrides_does_not_change_the_checkout(scratch: Path) -> None:
    run(DVC, "repro", "-q", cwd=scratch)  # of all stages: `dvc exp apply` needs their outputs
    commit(scratch)
    (scratch / "dvc.yaml").write_text((scratch / "dvc.yaml").read_text() + "# an edit that no commit holds\n")
    before = run("git", "status", "--porcelain", cwd=scratch)
    outcomes = []
    with experiment.worktree(scratch, "tidy-otter") as place:
        assert "an edit" in (place / "dvc.yaml").read_text()
        experiment.override(place, ["finetune.a.lr=0.125", "+finetune.b.steps=[1,2]"])
        assert yaml.safe_load((place / "params.yaml").read_text())["finetune"] == {
            "a": {"lr": 0.125},
            "b": {"lr": 0.25, "steps": [1, 2]},
        }
        assert experiment.restore(scratch, place) == []
        stages = graph(place).order
        outcomes = [reproduce(stage, place, lambda line: None) for stage in stages]
        experiment.save(place, "tidy-otter", stages, "a trial")
    assert outcomes == ["unchanged", "ran", "ran", "ran", "unchanged", "ran"]
    assert not place.exists() and run("git", "worktree", "list", cwd=scratch).count("\n") == 1
    with experiment.saved_worktree(scratch, "tidy-otter") as again:
        experiment.restore(scratch, again)
        assert "an edit" in (again / "dvc.yaml").read_text() and "0.125" in (again / "params.yaml").read_text()
        assert "0.125" in (again / "reports/evaluate/a/metrics.json").read_text()
    with pytest.raises(RuntimeError, match="no experiment shy-newt"), experiment.saved_worktree(scratch, "shy-newt"):
        pass
    assert run("git", "status", "--porcelain", cwd=scratch) == before
    assert "0.5" in (scratch / "reports/evaluate/a/metrics.json").read_text()
    shown = json.loads(run(DVC, "metrics", "diff", "--json", "HEAD", "tidy-otter", cwd=scratch))
    assert shown["reports/evaluate/a/metrics.json"]["r1"] == {"old": 0.5, "new": 0.125, "diff": -0.375}
    run("git", "checkout", "-q", ".", cwd=scratch)
    run(DVC, "exp", "apply", "-q", "tidy-otter", cwd=scratch)
    assert "0.125" in (scratch / "summary.txt").read_text()


def test_worktrees_of_failed_and_killed_runs_are_removed(scratch: Path) -> None:
    with pytest.raises(StageFailed), experiment.worktree(scratch, "one") as place:
        (place / ".state" / "resume").write_text("half way")
        raise StageFailed("no")
    assert (scratch / ".state" / "resume").read_text() == "half way", "the next run can resume an interrupted training"
    left = scratch / experiment.FOLDER / "killed"
    run("git", "worktree", "add", "-q", "--detach", str(left), "HEAD", cwd=scratch)
    with experiment.worktree(scratch, "two") as place:
        assert not left.exists()
        with experiment.worktree(scratch, "three"):
            assert place.exists(), "its run is alive"
        run("git", "worktree", "add", "-q", "--detach", str(left), "HEAD", cwd=scratch)
    assert not [*left.parent.iterdir()], "also one that was killed meanwhile"


def test_runs_never_share_a_worktree_or_an_experiment(scratch: Path) -> None:
    with experiment.worktree(scratch, "try 2/ä", "id1") as one, experiment.worktree(scratch, "try 2/ä", "id2") as two:
        assert (one.name, two.name) == ("try-2", "try-2-2")
    run("git", "commit", "-q", "--allow-empty", "-m", experiment.describe("id1", ParamChanges(None, ())), cwd=scratch)
    run("git", "update-ref", "refs/exps/aa/bb/try-2", "HEAD", cwd=scratch)
    for flow, name in (("id1", "try-2"), ("id2", "try-2-2")):
        with experiment.worktree(scratch, "try 2", flow) as place:
            assert place.name == name, "a run that is started again replaces its own experiment only"


@pytest.mark.slow  # a dozen DVC commands
def test_two_runs_at_once_share_the_cache_and_save_their_experiments(scratch: Path) -> None:
    def work(name: str, change: str) -> None:
        with experiment.worktree(scratch, name, name) as place:
            experiment.override(place, [change])
            experiment.restore(scratch, place)
            order = graph(place, ["evaluate@a"]).order
            for stage in order:
                reproduce(stage, place, lambda line: None)
            experiment.save(place, name, order, experiment.describe(name, ParamChanges(None, (change,))))

    changes = {"one": "finetune.a.lr=1", "two": "finetune.a.lr=2", "three": "finetune.a.lr=2"}
    with ThreadPoolExecutor() as pool:
        list(pool.map(work, changes, changes.values()))
    for name, change in changes.items():
        shown = json.loads(run(DVC, "metrics", "diff", "--json", "--all", "HEAD", name, cwd=scratch))
        assert shown["reports/evaluate/a/metrics.json"]["r1"]["new"] == int(change[-1])
    assert run("git", "for-each-ref", "refs/stash", cwd=scratch) == ""
    assert run("git", "worktree", "list", cwd=scratch).count("\n") == 1


def test_stage_that_is_up_to_date_or_cached_needs_no_running(scratch: Path) -> None:
    assert needs_running("pretrain", scratch)
    reproduce("pretrain", scratch, lambda line: None)
    assert not needs_running("pretrain", scratch)
    params = scratch / "params.yaml"
    params.write_text(PARAMS.replace("lr: 0.1", "lr: 0.3"))
    assert needs_running("pretrain", scratch)
    reproduce("pretrain", scratch, lambda line: None)
    params.write_text(PARAMS)
    assert not needs_running("pretrain", scratch), "the run cache has it"
    assert needs_running("no_such_stage", scratch), "`dvc repro` will tell"


def test_training_of_another_run_is_recognised_with_its_lock(scratch: Path) -> None:
    line = "alpro: rank 0 (here, process 7): .state/pretrain/12ab/lock: a training is already running (process 5 on here)"
    (scratch / "dvc.yaml").write_text(f"stages:\n  same:\n    cmd: \"echo '{line}' >&2; exit 2\"\n")
    with pytest.raises(TrainedElsewhere, match="already running") as elsewhere:
        reproduce("same", scratch, lambda line: None)
    assert elsewhere.value.lock == scratch / ".state/pretrain/12ab/lock" and not elsewhere.value.transient


def test_invalid_override_is_reported(scratch: Path) -> None:
    with pytest.raises(ValueError, match=r"overrides \['finetun.a.lr=1'\]"):
        experiment.override(scratch, ["finetun.a.lr=1"])


def test_run_cannot_change_its_gate(scratch: Path) -> None:
    params = scratch / "params.yaml"
    params.write_text(PARAMS + "gate: {p_value: 0.05}\n")
    for loose in ("gate.p_value=1", "++gate={p_value: 1}", "~gate"):
        with pytest.raises(ValueError, match="a run cannot change `gate`"):
            experiment.apply(scratch, ParamChanges(None, ("lr=0.5", loose)))
        params.write_text(PARAMS + "gate: {p_value: 0.05}\n")
    recipe = "open('params.yaml', 'w').write('recipe: paper\\nlr: 1.0\\ngate: {p_value: 1.0}\\n')\n"
    (scratch / "alpro" / "__main__.py").write_text(recipe)
    experiment.apply(scratch, ParamChanges("paper", ("lr=0.5",)))
    assert yaml.safe_load(params.read_text()) == {"recipe": "paper", "lr": 0.5, "gate": {"p_value": 0.05}}


INPUTS = """\
recipe: tiny
init: {finetune: given/start, prompter: recipes/init/own.yaml}
data: {annotations: data/mine/txt, videos: data/mine/videos, elsewhere: ../outside, made: models}
"""
FROM_INPUTS = """\
stages:
  train:
    cmd: mkdir -p models; cat given/start/weights data/mine/txt/train data/mine/videos/one > models/trained
    deps: ["${init.finetune}", data/mine/txt, data/mine/videos]
    outs: [models/trained]
"""


def with_inputs(scratch: Path) -> None:
    """Make a project with untracked inputs, except for the videos, whose .dvc file is not committed yet."""
    files = {
        "given/start/weights": "w", "recipes/init/own.yaml": "text: some-bert\n", "ext/some-bert/vocab.txt": "a",
        "data/mine/txt/train": "t", "models/trained": "an older one", "params.yaml": INPUTS, "dvc.yaml": FROM_INPUTS,
        ".gitignore": "/given/\n/data/mine/txt/\n/models/\n/ext/\n/.state/\n",
    }  # fmt: skip
    for name, text in files.items():
        (scratch / name).parent.mkdir(parents=True, exist_ok=True)
        (scratch / name).write_text(text)
    commit(scratch)


def test_untracked_inputs_are_linked_but_no_outputs(scratch: Path) -> None:
    with_inputs(scratch)
    (scratch / "data/mine/videos").mkdir()
    run("git", "worktree", "add", "-q", "--detach", str(place := scratch.parent / "place"), cwd=scratch)
    assert set(link_inputs(scratch, place)) == {"given/start", "ext/some-bert", "data/mine/txt", "data/mine/videos"}
    assert (place / "given/start/weights").read_text() == "w" and not (place / "models").exists()
    assert link_inputs(scratch, place) == []


@pytest.mark.slow  # ten DVC commands
def test_run_accepts_untracked_checkpoints_and_uncommitted_data(scratch: Path) -> None:
    with_inputs(scratch)
    (scratch / "data/mine/videos").mkdir()
    (scratch / "data/mine/videos/one").write_text("v")
    run(DVC, "add", "-q", "data/mine/videos", cwd=scratch)
    with experiment.worktree(scratch, "tidy-otter") as place:
        assert "given/start" in experiment.restore(scratch, place)
        assert not (place / "data/mine/videos").is_symlink(), "DVC's cache has them"
        assert reproduce("train", place, lambda line: None) == "ran"
        assert (place / "models/trained").read_text() == "wtv"
        experiment.save(place, "tidy-otter", ["train"], "a trial")
    assert (scratch / "given/start/weights").exists() and (scratch / "data/mine/txt/train").exists()
    assert (scratch / "models/trained").read_text() == "an older one"
    (saved,) = run("git", "for-each-ref", "--format=%(objectname)", "refs/exps/*/*/tidy-otter", cwd=scratch).split()
    assert "data/mine/videos.dvc" in run("git", "ls-tree", "-r", "--name-only", saved, cwd=scratch).split()
    assert dvc_hash(scratch / "given/start") in run("git", "show", f"{saved}:dvc.lock", cwd=scratch)


def test_stray_files_in_outputs_are_moved_aside(scratch: Path) -> None:
    (scratch / "dvc.yaml").write_text("stages:\n  a:\n    cmd: mkdir out; echo 1 > out/x\n    outs: [out]\n")
    (scratch / "out").mkdir()
    (scratch / "out" / "mine").write_text("precious")
    assert find_stray_files(scratch) == ["out/mine"], "also if no stage ever ran and no lock file has its output"
    run(DVC, "repro", "-q", cwd=scratch)
    (scratch / "data").mkdir()
    (scratch / "data" / "video").write_text("real")
    run(DVC, "add", "-q", "data", cwd=scratch)
    assert find_stray_files(scratch) == []
    (scratch / "data" / "another").write_text("data of their owner")
    (scratch / "out" / "x").write_text("edited")
    (scratch / "out" / "deep").mkdir()
    (scratch / "out" / "deep" / "mine").write_text("precious")
    assert find_stray_files(scratch) == ["out/deep/mine", "out/x"]
    place = move_aside(scratch, find_stray_files(scratch))
    assert (place / "out/deep/mine").read_text() == "precious" and (place / "out/x").read_text() == "edited"
    assert find_stray_files(scratch) == []


def test_unresponsive_command_is_ended(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"`sleep 600` was ended: no answer after 0.1 s"):
        output_of(["sleep", "600"], tmp_path, 0.1)


def test_run_gets_sigterm_if_its_worker_is_killed(tmp_path: Path) -> None:
    """The middle process is killed; the last one, which it started, must get SIGTERM within seconds."""
    inner = "import os, signal, time; from flows.worker import end_with_worker\n"
    inner += f"signal.signal(signal.SIGTERM, lambda *_: (open({str(tmp_path / 'terminated')!r}, 'w').close(), os._exit(0)))\n"
    inner += f"end_with_worker(); open({str(tmp_path / 'ready')!r}, 'w').close(); time.sleep(600)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    variables = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PREFECT__FLOW_RUN_ID": "x"}
    worker = subprocess.Popen([sys.executable, "-c", outer, "prefect", "worker"], env=variables)
    wait_for(lambda: (tmp_path / "ready").exists(), "start")
    worker.kill()
    worker.wait()
    wait_for(lambda: (tmp_path / "terminated").exists(), "signal")


def test_run_whose_worker_was_killed_before_it_began_gets_sigterm(tmp_path: Path) -> None:
    """While Prefect made its clone, for example: its parent is then another process than a worker."""
    code = "import time; from flows.worker import end_with_worker; end_with_worker(); time.sleep(600)"
    variables = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PREFECT__FLOW_RUN_ID": "x"}
    outer = f"import subprocess, sys; print(subprocess.run([sys.executable, '-c', {code!r}]).returncode)"
    done = subprocess.run([sys.executable, "-c", outer], env=variables, capture_output=True, text=True)
    assert int(done.stdout) == -signal.SIGTERM, done.stderr
