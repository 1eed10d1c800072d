"""Each training of recipe `tiny`, killed repeatedly at chosen and random points, gives the bytes of an uninterrupted one.

World sizes 1 and 2; about 40 kills in total. `pytest -s -m slow tests/training/test_kills.py` prints points and seeds.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import yaml

from alpro.files.atomic import sha256
from tests.training.killed import POINTS, main
from tests.training.processes import ROOT, both_backends, done, forked, made_project, world

pytestmark = pytest.mark.slow
SCRATCH = "recipes/init/scratch.yaml"
TRAININGS = {
    "prompter": ["prompter", "--init", SCRATCH],
    "pretrain": ["pretrain", "--init", SCRATCH, "--teacher", SCRATCH],
    "retrieval": ["finetune", "--task", "msrvtt_ret", "--init", SCRATCH],
    "qa": ["finetune", "--task", "msvd_qa", "--init", SCRATCH],
}
SEED = 20211209


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data of recipe tiny; its trainings save after every step."""
    import alpro.training.run  # once for all forked children

    assert alpro.training.run.STAGES
    folder = tmp_path_factory.mktemp("project")
    params = yaml.safe_load((ROOT / "recipes/tiny.yaml").read_text())
    params["launch"] |= {"processes": 1}
    for section in (params["prompter"], params["pretrain"], *params["finetune"].values()):
        section["save_every_s"] = 1e-6
    made_project(folder, params)
    return folder


def command(training: str, folder: str) -> list[str]:
    return ["train", *TRAININGS[training], "--output", f"{folder}/model", "--record", f"{folder}/record"]


def digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def finishes(project: Path, point: str, count: int, words: list[str], after_s: float | None = None) -> bool:
    """Run one process, killed at a point or after `after_s` seconds. Return True if it finished."""

    def work() -> None:
        os.chdir(project)
        os.environ["ALPRO_LIVE"] = "off"
        main(point, str(count), *words)

    with forked(work) as child:
        if after_s is not None:
            time.sleep(after_s)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), f"ended by itself with status {status}"
    return status == 0


@pytest.mark.parametrize("training", TRAININGS)
def test_one_process_killed_at_every_point_gives_the_bytes_of_an_uninterrupted_run(project: Path, training: str) -> None:
    whole, killed = (f"out/{training}-1-{name}" for name in ("whole", "killed"))
    began_s = time.monotonic()
    assert finishes(project, "none", 1, command(training, whole))
    took_s = time.monotonic() - began_s
    shutil.rmtree(project / ".state", ignore_errors=True)
    draw = random.Random(f"{SEED}/{training}")
    kills = 0
    for point in POINTS[1:]:
        count = draw.randint(1, 2)
        dead = not finishes(project, point, count, command(training, killed))
        kills += dead
        print(f"{training}: killed at {point} {count}: {dead}", flush=True)
        assert dead or (project / killed).exists()
    if not (project / killed).exists():
        after_s = took_s * draw.uniform(0.2, 0.8)
        kills += not finishes(project, "none", 1, command(training, killed), after_s=after_s)
        finishes(project, "none", 1, command(training, killed))
    print(f"{training}: {kills} kills (seed {SEED}/{training}), {len(digests(project / whole))} files compared")
    assert kills >= 5
    assert digests(project / killed) == digests(project / whole)


@both_backends
@pytest.mark.parametrize("training", TRAININGS)
def test_two_killed_processes_give_the_bytes_of_an_uninterrupted_run(
    project: Path, training: str, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    whole, killed = (f"out/{training}-2-{backend}-{name}" for name in ("whole", "killed"))
    monkeypatch.chdir(project)
    seed = f"{SEED}/{training}/2"

    def finishes_as_two(point: str, folder: str) -> bool:
        process = world(2, ["-m", "tests.training.killed", point, "1", *command(training, folder)], here=True, backend=backend)
        output, _ = process.communicate(timeout=1800)
        assert process.returncode == 0 or (point != "none" and "ended without an error message" in output), output
        return process.returncode == 0

    assert finishes_as_two("none", whole)
    kills = []
    for point in random.Random(seed).sample(POINTS[1:], len(POINTS) - 1):
        if finishes_as_two(point, killed):
            break
        kills.append(point)
    else:
        assert finishes_as_two("none", killed)
    print(f"{training}: two processes with {backend}, killed at {', '.join(kills)} (seed {seed})")
    assert len(kills) >= 4
    assert digests(project / killed) == digests(project / whole)


@both_backends
def test_two_runs_with_four_processes_give_the_same_bytes(project: Path, monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    monkeypatch.chdir(project)
    folders = (f"out/four-{backend}-a", f"out/four-{backend}-b")
    for folder in folders:
        done(world(4, ["-m", "alpro", *command("pretrain", folder), "-S", "pretrain.epochs=4"], here=True, backend=backend))
    first, second = (digests(project / folder) for folder in folders)
    history = (project / folders[0] / "record/history.jsonl").read_text().splitlines()
    print(f"four processes, {len(history)} rows of history, {len(first)} files compared")
    assert first == second and "model/model.safetensors" in first
