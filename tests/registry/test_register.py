"""Every checkpoint of the pipeline becomes one version of a registered model, with its origin as tags."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from alpro import lineage
from alpro.config import parse
from alpro.files.atomic import sha256
from alpro.registry import origin_tags, status, sync
from alpro.served.registry_view import registered
from tests.tracking.tracked_project import STEPS, contents, stages_of, write_checkpoint, write_locks, write_record

TASKS = ("msrvtt_ret", "msvd_qa")
REPOSITORY = Path(__file__).parents[2]


def test_every_checkpoint_becomes_a_version_of_its_model(mirror, params):
    store = contents(mirror)
    names = {model.name for model in store.client.search_registered_models()}
    assert names == {"alpro-prompter", "alpro-pretrain", *(f"alpro-{task}" for task in TASKS)}
    for task in TASKS:
        version = store.client.get_model_version_by_alias(f"alpro-{task}", "candidate")
        weights = mirror / "models" / params.recipe / "finetune" / task / "model.safetensors"
        assert int(version.version) == 1
        assert version.tags["alpro.sha256"] == sha256(weights)
        assert version.run_id == store.runs[f"finetune/{task}"][0].info.run_id
        assert version.tags["alpro.dvc.hash"] == lineage.dvc_hash(weights.parent)
    assert not store.client.get_model_version("alpro-pretrain", "1").aliases


def test_versions_name_their_parents(mirror):
    client = contents(mirror).client
    parents = {
        name: client.get_model_version(f"alpro-{name}", "1").tags.get("alpro.parent")
        for name in ("prompter", "pretrain", *TASKS)
    }
    assert parents == {"prompter": None, "pretrain": "alpro-prompter/1", **dict.fromkeys(TASKS, "alpro-pretrain/1")}
    start = client.get_model_version("alpro-prompter", "1").tags["alpro.start"]
    assert start.split()[0].startswith("recipes/init/")


def test_store_has_the_files_of_the_checkpoint(mirror, params):
    store = contents(mirror)
    place = Path(store.client.get_model_version_download_uri("alpro-msvd_qa", "1").removeprefix("file://"))
    (weights,) = place.rglob("model.safetensors")
    assert (
        weights.read_bytes() == (mirror / "models" / params.recipe / "finetune" / "msvd_qa" / "model.safetensors").read_bytes()
    )
    assert (place / "MLmodel").is_file()
    assert not [*place.rglob("*.pkl"), *place.rglob("__pycache__")]


def test_new_checkpoint_becomes_the_next_version_and_the_candidate(synced, params):
    write_checkpoint(synced, params, "finetune/msvd_qa", salt="better")
    assert status(synced, params).models[f"models/{params.recipe}/finetune/msvd_qa"] == "not registered"
    write_locks(synced, params)
    assert sync(synced, params).registered == ["alpro-msvd_qa/2"]
    client = contents(synced).client
    assert int(client.get_model_version_by_alias("alpro-msvd_qa", "candidate").version) == 2
    assert int(client.get_model_version_by_alias("alpro-msrvtt_ret", "candidate").version) == 1


def test_run_moves_and_tags_only_the_candidates_of_its_tasks(synced, params):
    client = contents(synced).client
    for task in TASKS:  # newer checkpoints of both tasks, registered by their own runs
        write_checkpoint(synced, params, f"finetune/{task}", salt="better")
    write_locks(synced, params)
    sync(synced, params)
    for task in TASKS:  # a run of one task; the other's checkpoint is the one in its dvc.lock
        write_checkpoint(synced, params, f"finetune/{task}")
    write_locks(synced, params)
    flow_tags = origin_tags("tidy-otter 1", "tidy-otter")
    sync(synced, params, tags=flow_tags, candidates=["msvd_qa"])
    candidates = {task: int(client.get_model_version_by_alias(f"alpro-{task}", "candidate").version) for task in TASKS}
    assert candidates == {"msvd_qa": 1, "msrvtt_ret": 2}
    assert flow_tags.items() <= client.get_model_version("alpro-msvd_qa", "1").tags.items()
    assert not flow_tags.keys() & client.get_model_version("alpro-msrvtt_ret", "1").tags.keys()
    sync(synced, params, tags=origin_tags("shy-newt 2", "shy-newt"), candidates=[])
    for tags in (client.get_model_version("alpro-msvd_qa", "1").tags, contents(synced).runs[None][-1].data.tags):
        assert flow_tags.items() <= tags.items(), "the run that trained it, not a later one that found it"


def test_restored_checkpoint_does_not_become_a_new_version(synced, params):
    write_checkpoint(synced, params, "finetune/msvd_qa", salt="better")
    sync(synced, params)
    write_checkpoint(synced, params, "finetune/msvd_qa")
    assert sync(synced, params).registered == []
    assert int(contents(synced).client.get_model_version_by_alias("alpro-msvd_qa", "candidate").version) == 1


def test_checkpoint_has_no_parent_until_it_is_in_the_lock(synced, params):
    write_checkpoint(synced, params, "finetune/msvd_qa", salt="by hand")
    sync(synced, params)
    tags = contents(synced).client.get_model_version("alpro-msvd_qa", "2").tags
    assert not {"alpro.dvc.hash", "alpro.parent"} & set(tags)
    write_locks(synced, params)
    sync(synced, params)
    assert contents(synced).client.get_model_version("alpro-msvd_qa", "2").tags["alpro.parent"] == "alpro-pretrain/1"


def test_metrics_of_the_evaluation_reach_the_card_and_the_web_page(synced, params):
    weights = synced / "models" / params.recipe / "finetune" / "msrvtt_ret" / "model.safetensors"
    record = synced / "reports" / "evaluate" / "msrvtt_ret"
    evaluated = json.loads((record / "params.json").read_text()) | {"checkpoint_sha256": sha256(weights)}
    (record / "params.json").write_text(json.dumps(evaluated))
    sync(synced, params)
    version = contents(synced).client.get_model_version("alpro-msrvtt_ret", "1")
    assert "| text2video.r1 | &nbsp;&nbsp;30.0 | &nbsp;&nbsp;25.0 to 35.0 |" in version.description
    shown = {view.task: view.versions[0].metrics for view in registered(synced, params)}
    assert shown == {"msrvtt_ret": {"text2video.r1": [30.0, 25.0, 35.0], "text2video.r5": [60.0]}, "msvd_qa": {}}


def test_other_aliases_are_kept(synced, params):
    client = contents(synced).client
    client.set_registered_model_alias("alpro-msvd_qa", "champion", "1")
    write_checkpoint(synced, params, "finetune/msvd_qa", salt="better")
    sync(synced, params)
    assert int(client.get_model_version_by_alias("alpro-msvd_qa", "champion").version) == 1


def test_start_from_an_official_checkpoint_is_recorded_by_file(project, params):
    official = project / "data" / "official.pt"
    official.parent.mkdir(exist_ok=True)
    official.write_bytes(b"official")
    raw = params.model_dump(mode="json")
    raw["init"]["finetune"] = "data/official.pt"
    official_params = parse(raw)
    for stage in ("prompter", "pretrain"):
        shutil.rmtree(project / "models" / params.recipe / stage)
    write_locks(
        project, official_params, [stage for stage in stages_of(official_params) if stage not in ("prompter", "pretrain")]
    )
    sync(project, official_params)
    client = contents(project).client
    assert {model.name for model in client.search_registered_models()} == {f"alpro-{task}" for task in TASKS}
    assert (
        client.get_model_version("alpro-msvd_qa", "1").tags["alpro.start"] == f"data/official.pt {lineage.dvc_hash(official)}"
    )


AT_ONCE = """
import sys, time
from pathlib import Path
from alpro.config import load
from alpro.registry import sync
from alpro.tracking.store import quiet_mlflow
quiet_mlflow()
ready, name = Path(sys.argv[1]), sys.argv[2]
(ready / name).touch()
while len(list(ready.iterdir())) < 3:
    time.sleep(0.01)
sync(Path.cwd(), load("params.yaml"), tags={"alpro.flow": name})
"""


@pytest.mark.slow  # three more processes import MLflow
def test_runs_that_register_at_once_keep_their_parents_and_versions_apart(ended, params, tmp_path):
    """Two results of one project, and a third of another clone on another machine, which shares the store but no lock."""
    first = Path(shutil.copytree(ended, tmp_path / "first"))
    store = first / ".mlflow"
    roots = [first, *(Path(shutil.copytree(ended, tmp_path / name)) for name in ("second", "third"))]
    shutil.rmtree(roots[1] / ".mlflow")
    (roots[1] / ".mlflow").symlink_to(store)  # like a worktree of the first
    for number, root in enumerate(roots):
        write_record(root, "finetune/msvd_qa", STEPS, salt=str(number))
        write_checkpoint(root, params, "finetune/msvd_qa", salt=str(number))
        write_locks(root, params)
    (ready := tmp_path / "ready").mkdir()
    variables = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{store / 'mlflow.db'}", "PYTHONPATH": str(REPOSITORY)}
    processes = [subprocess.Popen([sys.executable, "-c", AT_ONCE, ready, root.name], cwd=root, env=variables) for root in roots]
    assert [process.wait() for process in processes] == [0, 0, 0]
    filled = contents(first)
    parents = {run.data.tags["alpro.flow"]: run for run in filled.runs[None]}
    assert set(parents) == {"first", "second", "third"} and len(filled.runs[None]) == 3
    for run in parents.values():
        assert run.info.status == "FINISHED"
    versions = filled.client.search_model_versions("name = 'alpro-msvd_qa'")
    assert {version.tags["alpro.flow"] for version in versions} == set(parents) and len(versions) == 3
