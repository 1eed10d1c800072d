"""Our metrics agree with manual counts, the official ones with the released code's numbers."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from alpro.data.annotations.records import QUESTION_TYPES
from alpro.errors import DataError
from alpro.evaluation import metrics
from tests.evaluation import oracles

GOLDENS = Path(__file__).parents[1] / "goldens"
RETRIEVAL = json.loads((GOLDENS / "k_retrieval_metrics.json").read_text())["cases"]
QA = json.loads((GOLDENS / "k_qa_metrics.json").read_text())
NAMES = ("r1", "r5", "r10", "medianR", "meanR")


@pytest.fixture(scope="module")
def scores() -> dict[str, np.ndarray]:
    with np.load(GOLDENS / "k_retrieval_scores.npz") as file:
        return {name: file[name] for name in file}


def owners(case: str, texts: int) -> list[int]:
    return [t // 2 for t in range(texts)] if case == "two_captions" else list(range(texts))


def same(figures: dict[str, float], expected: dict[str, float]) -> bool:
    return figures == pytest.approx({name: expected[name] for name in NAMES}, abs=1e-9)


@pytest.mark.parametrize("case", ["random", "diag_boost", "ties", "two_captions"])
def test_k_retrieval_metrics_official(case: str, scores: dict[str, np.ndarray]) -> None:
    found = oracles.official_retrieval_metrics(scores[case], owners(case, len(scores[case])))
    assert same(found["text2video"], RETRIEVAL[case]["metrics"]["text2video"])
    assert same(found["video2text"], RETRIEVAL[case]["metrics"]["video2text"])


def test_k_retrieval_metrics_padding_duplicates_are_dropped_first_kept(scores: dict[str, np.ndarray]) -> None:
    matrix = scores["diag_boost"]
    rows = [(t, v, float(matrix[t, v])) for v in metrics.padded(50, 1) for t in range(50)]
    rows += [(t, v, 1.0) for v in metrics.padded(50, 8)[50:] for t in range(50)]
    again = oracles.matrix_from_rows(rows, 50, 50)
    reference = RETRIEVAL["diag_boost_with_padding_duplicates"]["metrics"]
    found = oracles.official_retrieval_metrics(again, list(range(50)))
    assert same(found["text2video"], reference["text2video"])
    assert same(found["video2text"], reference["video2text"])


@pytest.mark.parametrize("case", ["random", "diag_boost", "ties"])
def test_k_retrieval_metrics_ties_and_unrounded(case: str, scores: dict[str, np.ndarray]) -> None:
    truth = [[t] for t in range(50)]
    exact = metrics.rank_queries(scores[case], truth)
    assert same(metrics.recall_metrics(exact.stable), RETRIEVAL[case]["t2v_without_rounding"])
    rounded = metrics.rank_queries(np.round(scores[case].astype(np.float64), 4), truth)
    ties = metrics.tie_metrics(rounded)
    assert same(ties["optimistic"], RETRIEVAL[case]["t2v_if_ties_optimistic"])
    assert same(ties["pessimistic"], RETRIEVAL[case]["t2v_if_ties_pessimistic"])
    assert ties["tied_queries"]["share"] * 50 == pytest.approx(RETRIEVAL[case]["rows_whose_gt_score_is_tied"])


def test_mean_over_ties_equals_all_orders() -> None:
    """Compare with the mean over all orders of a small gallery with equal scores."""
    row, right = np.array([3, 2, 2, 2, 2, 1]), [2, 4]
    ranks = metrics.rank_queries(row[None], [right])
    found = metrics.tie_metrics(ranks)["mean"]
    places = []
    for order in itertools.permutations(range(6)):
        ordered = sorted(order, key=lambda item: -row[item])  # keeps the permutation among equals
        places.append(1 + min(ordered.index(item) for item in right))
    assert found["r1"] == pytest.approx(100 * np.mean([p <= 1 for p in places]))
    assert found["r5"] == pytest.approx(100 * np.mean([p <= 5 for p in places]))
    assert found["meanR"] == pytest.approx(np.mean(places))


def test_tie_probabilities_are_exact_at_every_depth() -> None:
    row, right = np.array([3, 2, 2, 2, 2, 1]), [2, 4]
    ranks = metrics.rank_queries(row[None], [right])
    orders = [sorted(order, key=lambda item: -row[item]) for order in itertools.permutations(range(6))]
    for k in range(1, 7):
        reference = np.mean([any(item in order[:k] for item in right) for order in orders])
        assert metrics._chance_of_recall(ranks, k)[0] == pytest.approx(reference)


def test_stable_rule_keeps_gallery_order_and_uses_the_best_match() -> None:
    scores = np.array([[0.5, 0.9, 0.5, 0.5], [0.1, 0.2, 0.3, 0.4]])
    ranks = metrics.rank_queries(scores, [[3, 2], [0, 3]])
    assert ranks.stable.tolist() == [3, 1]
    assert ranks.optimistic.tolist() == [2, 1]
    assert ranks.pessimistic.tolist() == [3, 1]
    assert ranks.right.tolist() == [2, 1]


def test_ranks_equal_a_sorted_list() -> None:
    generator = np.random.default_rng(0)
    scores = generator.integers(0, 9, (40, 30)) / 8
    truth = [sorted(generator.choice(30, generator.integers(1, 4), replace=False).tolist()) for _ in range(40)]
    ranks = metrics.rank_queries(scores, truth)
    for q in range(40):
        order = sorted(range(30), key=lambda item: -scores[q, item])
        assert ranks.stable[q] == 1 + min(order.index(item) for item in truth[q])


def test_equal_scores_give_chance_level() -> None:
    ranks = metrics.rank_queries(np.zeros((50, 50)), [[q] for q in range(50)])
    assert metrics.recall_metrics(ranks.stable)["r1"] == 2.0
    chance = metrics.chance_recall([1] * 50, 50)
    assert chance == pytest.approx({"r1": 2.0, "r5": 10.0, "r10": 20.0, "meanR": 25.5})
    assert metrics.tie_metrics(ranks)["mean"]["r1"] == pytest.approx(2.0)


def test_several_captions_count_in_both_directions() -> None:
    captions, videos = metrics.retrieval_truth([0, 0, 1, 2], 4)
    assert captions == [[0], [0], [1], [2]]
    assert videos == [[0, 1], [2], [3], []]


@pytest.mark.parametrize("broken", [np.array([[np.nan, 1.0]]), np.array([[np.inf, 1.0]])])
def test_scores_that_are_not_finite_are_refused(broken: np.ndarray) -> None:
    with pytest.raises(DataError, match="not finite"):
        metrics.rank_queries(broken, [[0]])


def test_missing_pairs_are_refused() -> None:
    with pytest.raises(DataError, match="text 0 and video 1"):
        oracles.matrix_from_rows([(0, 0, 0.5)], 1, 2)


def qa_golden() -> tuple[list[bool], list[str]]:
    names = {int(label): answer for label, answer in QA["label2ans"].items()}
    predicted = {row["question_id"]: names[row["answer"]] for row in QA["results"]}
    truth = QA["ground_truth"]
    return [predicted[q["question_id"]] == q["answer"] for q in truth], [q["answer_type"] for q in truth]


def test_k_qa_metrics() -> None:
    correct, types = qa_golden()
    official, exact, reference = metrics.official_qa_metrics(correct, types), metrics.qa_metrics(correct, types), QA["metrics"]
    for name in ("overall", *QUESTION_TYPES):
        assert official[f"{name}_acc"] == round(100 * reference[f"{name}_acc"], 2)
        if name != "when":
            assert exact[f"{name}_acc"] == pytest.approx(100 * reference[f"{name}_acc"], abs=1e-9)
    assert "when_acc" not in exact  # no question, no accuracy
    for name, (share, count) in reference["ratios"].items():
        assert official["ratios"][name] == [round(100 * share, 2), count]
        assert exact["ratios"][name] == pytest.approx([100 * share, count])


@pytest.mark.parametrize(("questions", "printed"), [(72_821, 72_824), (13_157, 13_160)])
def test_padding_reproduces_the_printed_totals(questions: int, printed: int) -> None:
    found = metrics.official_qa_metrics([True] * questions, ["what"] * questions, world_size=8)
    assert found["ratios"]["what_ratio"] == [100.0, printed]


def test_padding_of_fewer_items_than_processes() -> None:
    assert metrics.padded(3, 8) == [0, 1, 2, 0, 1, 2, 0, 1]


def test_majority_baseline_and_calibration_are_computed() -> None:
    assert metrics.majority(["b", "a", "b", "a", "c"]) == ("a", 40.0)
    assert metrics.accuracy_by_answer([True, False, True], ["x", "x", "y"]) == [("x", 2, 50.0), ("y", 1, 100.0)]
    sure = metrics.calibration([0.9, 0.9, 0.1, 0.1], [True, False, False, False], bins=10)
    assert sure.ece == pytest.approx((40 * 2 + 10 * 2) / 4)
    assert [row["count"] for row in sure.bins] == [2, 2]
    assert metrics.calibration([0.0, 1.0], [False, True]).ece == 0
