"""Mean and spread of DVC experiments over their seeds."""

from __future__ import annotations

import io
import re
from statistics import stdev

import pytest
from rich.console import Console

from alpro.errors import DataError
from alpro.lineage.experiments import Experiment
from alpro.report.spread import group_by_seed, select, spread_table


def trial(name: str, seed: int, rate: float, r1: float) -> Experiment:
    return Experiment(name, {"seed": seed, "pretrain": {"learning_rate": rate, "epochs": 2}}, {"msrvtt_ret": r1})


TRIALS = [
    trial("slow-again", 42, 0.1, 20.0),  # newer than slow-1
    trial("fast-2", 43, 0.2, 40.0),
    trial("fast-1", 42, 0.2, 30.0),
    trial("slow-2", 43, 0.1, 12.0),
    trial("slow-1", 42, 0.1, 10.0),
]


def test_experiments_are_grouped_by_what_differs_but_the_seed() -> None:
    slow, fast = group_by_seed(TRIALS)
    assert (slow.settings, fast.settings) == ({"pretrain.learning_rate": 0.1}, {"pretrain.learning_rate": 0.2})
    assert fast.as_dict() == {
        "settings": {"pretrain.learning_rate": 0.2},
        "seeds": [42, 43],
        "metrics": {"msrvtt_ret": {"mean": 35.0, "stdev": stdev([30, 40]), "n": 2, "values": {42: 30.0, 43: 40.0}}},
    }
    assert slow.values == {"msrvtt_ret": {42: 20.0, 43: 12.0}}, "of two equal experiments the newest counts"


def test_a_single_seed_has_no_spread() -> None:
    (group,) = group_by_seed(TRIALS[:1])
    assert group.settings == {} and group.as_dict()["metrics"]["msrvtt_ret"]["stdev"] is None


def test_table_has_mean_and_deviation_of_each_group() -> None:
    console = Console(width=80, file=io.StringIO())
    console.print(spread_table(group_by_seed(TRIALS)))
    rows = [" ".join(line.split()) for line in console.file.getvalue().splitlines()]
    assert " ".join(rows).startswith("Mean ± standard deviation over the seeds, by pretrain.learning_rate ")
    assert rows[-3:-1] == ["learning_rate=0.1 learning_rate=0.2", "seeds 42, 43 42, 43"]
    assert rows[-1] == f"msrvtt_ret 16.00 ± {stdev([20, 12]):.2f} 35.00 ± {stdev([30, 40]):.2f}"


def test_experiments_are_selected_by_name_or_by_the_name_of_their_sweep() -> None:
    assert [e.name for e in select(TRIALS, ["fast", "slow-1"])] == ["fast-2", "fast-1", "slow-1"]
    assert select(TRIALS, []) == TRIALS
    with pytest.raises(DataError, match="no experiment 'fats'"):
        select(TRIALS, ["fats"])
    with pytest.raises(DataError, match=re.escape("dvc exp run --queue")):
        select([], [])
