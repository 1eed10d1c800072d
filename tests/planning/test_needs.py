"""Memory and machines that each stage takes: the flows let runs wait for each other by these figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alpro.cli.main import app
from alpro.config import Params, load
from alpro.planning import needs
from alpro.planning.needs import Needs, stage_needs

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALPRO_MACHINE", "here")
    monkeypatch.setattr(needs, "is_remote", lambda host: host != "localhost")
    monkeypatch.setattr(needs.gpus, "count", lambda: 0)


def recipe(name: str, **launch: object) -> Params:
    params = load(ROOT / f"recipes/{name}.yaml")
    return params.model_copy(update={"launch": params.launch.model_validate(params.launch.model_dump() | launch)})


def of(found: Needs) -> dict[str, tuple[bool, tuple[str, ...], float]]:
    return {entry.stage: (entry.trains, entry.machines, entry.here_bytes / 1e9) for entry in found.stages}


def test_each_process_takes_memory_of_a_machine_without_gpus() -> None:
    two, four = (of(stage_needs(recipe("paper", processes=count))) for count in (2, 4))
    assert list(two)[:4] == ["prompter", "pretrain", "finetune@msrvtt_ret", "evaluate@msrvtt_ret"]
    assert two["pretrain"][:2] == (True, ("here",)) and two["evaluate@msvd_qa"][:2] == (False, ("here",))
    assert four["pretrain"][2] == pytest.approx(2 * two["pretrain"][2])
    assert two["evaluate@msvd_qa"][2] < two["finetune@msvd_qa"][2] < two["pretrain"][2]
    small = of(stage_needs(recipe("tiny", processes=2)))
    assert 2 < small["finetune@msvd_qa"][2] < 2.2, "mostly of the libraries"


def test_a_process_takes_memory_of_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs.gpus, "count", lambda: 8)
    monkeypatch.setattr(needs.gpus, "memory_bytes", lambda: 80e9)
    found = [stage_needs(recipe("paper", processes=count)) for count in (2, 8)]
    assert {(entry.memory, entry.memory_bytes) for entry in found} == {("memory of each GPU", 80e9)}
    assert found[0].stages == found[1].stages


def test_hosts_are_listed_and_only_this_one_takes_memory_here() -> None:
    found = of(stage_needs(recipe("tiny", processes=3, hosts="localhost:1,far:2")))
    assert found["pretrain"][1] == ("here", "far") and 1 < found["pretrain"][2] < 1.2
    away = of(stage_needs(recipe("tiny", processes=2, hosts="far:2")))
    assert away["evaluate@msvd_qa"] == (False, ("far",), 0.0)


def test_slurm_job_takes_nothing_of_this_machine() -> None:
    found = of(stage_needs(recipe("tiny", scheduler="slurm")))
    assert {(machines, size) for _, machines, size in found.values()} == {((), 0.0)}


def test_needs_are_printed_as_text_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "--stages", "--params", str(ROOT / "recipes/tiny.yaml")]
    app([*words, "--json"], standalone_mode=False)
    printed = json.loads(capsys.readouterr().out)
    assert printed["machine"] == "here" and {"stage", "trains", "machines", "here_bytes"} == set(printed["stages"][0])
    app(words, standalone_mode=False)
    text = capsys.readouterr().out
    assert "of main memory" in text and "evaluate@msvd_qa: evaluation on here, 2." in text
