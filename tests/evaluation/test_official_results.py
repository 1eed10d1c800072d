"""The official evaluations: an official output folder and our own checkpoint give the same results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alpro.checkpoints.files import export_official
from alpro.config import Params
from alpro.data.annotations.records import Record
from alpro.errors import CheckpointError, ConfigError, DataError
from alpro.evaluation.clips import Preprocessing
from alpro.evaluation.official import evaluate_checkpoint, find_checkpoint, official_figures
from alpro.evaluation.qa import evaluate_qa
from tests.evaluation.conftest import ANSWERS, OTHER_LABELS


@pytest.fixture(scope="module")
def official(project: Path, retrieval_model: Any, qa_model: Any) -> Path:
    """Output folders of released trainings."""
    for task, model in (("msrvtt_ret", retrieval_model), ("msvd_qa", qa_model)):
        for step in ("best", "40", "120"):
            export_official(model, project / "output" / task / "public" / "ckpt" / f"model_step_{step}.pt")
    return project / "output"


def named(params: Params, task: str) -> dict[str, Any]:
    dataset = params.datasets[task]
    file = Path(dataset.annotations) / "test.jsonl"
    return {"videos": dataset.videos, "annotations": file, "tokenizer": params.text.tokenizer}


def test_retrieval_prints_and_writes_official_results(official: Path, params: Params, capsys: pytest.CaptureFixture) -> None:
    folder = official / "msrvtt_ret/public"
    figures = evaluate_checkpoint(params, "msrvtt_ret", folder, step="last", **named(params, "msrvtt_ret"))
    assert set(figures) == {"text2video", "video2text"}
    assert set(figures["text2video"]) == {"r1", "r5", "r10", "medianR", "meanR"}
    assert str(figures) in capsys.readouterr().out
    place = folder / "results_test/step_120"
    assert json.loads((place / "metrics.json").read_text()) == figures
    arguments = json.loads((place / "args.json").read_text())
    assert arguments["step"] == "120" and arguments["num_frames"] == 4 and arguments["split"] == "test"
    scores = json.loads((place / "scores.json").read_text())
    assert len(scores["scores"]) == len(scores["texts"]) == 12 and len(scores["scores"][0]) == len(scores["videos"]) == 10
    assert len(json.loads((place / "results.json").read_text())) == 12 + 10


def test_official_file_and_own_directory_give_the_same_results(official: Path, params: Params, tmp_path: Path) -> None:
    for task in ("msrvtt_ret", "msvd_qa"):
        own = evaluate_checkpoint(params, task, params.evaluate[task].checkpoint, output=tmp_path / "own")
        extra = {"answers": Path(params.evaluate[task].checkpoint) / "answers.json"} if task == "msvd_qa" else {}
        file = official / task / "public/ckpt/model_step_40.pt"
        found = evaluate_checkpoint(params, task, file, output=tmp_path / "official", **named(params, task), **extra)
        assert found == own
    assert (tmp_path / "own/results_test/step_best/results.json").is_file()
    assert (tmp_path / "official/results_test/step_40/metrics.json").is_file()


def test_qa_counts_each_question_once_except_in_released_figures(
    qa_model: Any, records: list[Record], tokenizer: Any, preprocessing: Preprocessing, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = evaluate_qa(qa_model, records, tokenizer, ANSWERS, preprocessing)
    monkeypatch.setattr("alpro.distributed.size", lambda: 8)

    def counted(figures: dict[str, Any]) -> int:
        return sum(count for _, count in figures["ratios"].values())

    assert counted(official_figures(result)) == 20
    assert counted(official_figures(result, as_released=True)) == 24
    assert "where_acc" not in official_figures(result)
    assert official_figures(result, as_released=True)["where_acc"] == 0


def test_count_padding_selects_the_printed_figures(params: Params, tmp_path: Path) -> None:
    counted = {}
    for padding in (False, True):
        settings = params.evaluate["msvd_qa"].model_copy(update={"count_padding": padding})
        changed = params.model_copy(update={"evaluate": params.evaluate | {"msvd_qa": settings}})
        figures = evaluate_checkpoint(changed, "msvd_qa", settings.checkpoint, output=tmp_path)
        counted[padding] = "where_acc" in figures
        assert json.loads((tmp_path / "results_test/step_best/args.json").read_text())["count_padding"] is padding
    assert counted == {False: False, True: True}  # the released dictionary has every type of question


def test_option_for_the_answer_list_takes_precedence(official: Path, params: Params, project: Path, tmp_path: Path) -> None:
    other = tmp_path / "list.json"
    other.write_text(json.dumps(OTHER_LABELS))
    folder, data = official / "msvd_qa/public", named(params, "msvd_qa")
    named_list = evaluate_checkpoint(params, "msvd_qa", folder, step="40", answers=other, output=tmp_path / "a", **data)
    from_data = evaluate_checkpoint(params, "msvd_qa", folder, step="40", output=tmp_path / "b", **data)
    assert named_list == from_data  # the dataset's own list is the same
    with pytest.raises(DataError, match=r"nowhere\.json: not found"):
        evaluate_checkpoint(params, "msvd_qa", folder, answers="nowhere.json", **data)


def test_reranking_is_compared_with_the_full_matrix(params: Params, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    checkpoint = params.evaluate["msrvtt_ret"].checkpoint
    for n, option in enumerate(({}, {"rerank": 2}, {"rerank": 2, "against_full": True})):
        evaluate_checkpoint(params, "msrvtt_ret", checkpoint, output=tmp_path / str(n), state=tmp_path, **option)
    full, reranked, both = (json.loads((tmp_path / f"{n}/results_test/step_best/metrics.json").read_text()) for n in range(3))
    assert both == reranked
    change = json.loads((tmp_path / "2/results_test/step_best/rerank.json").read_text())
    for direction, figures in full.items():
        for name, value in figures.items():
            assert change["difference"][direction][name] == pytest.approx(reranked[direction][name] - value, abs=0.02)
    assert "re-ranking 2 against all pairs" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="give K"):
        evaluate_checkpoint(params, "msrvtt_ret", checkpoint, output=tmp_path / "x", state=tmp_path, against_full=True)


def test_reranking_leaves_other_scores_empty(params: Params, tmp_path: Path) -> None:
    evaluate_checkpoint(params, "msrvtt_ret", params.evaluate["msrvtt_ret"].checkpoint, rerank=2, output=tmp_path)
    scores = json.loads((tmp_path / "results_test/step_best/scores.json").read_text())["scores"]
    assert any(score is None for row in scores for score in row)


def test_steps_can_be_chosen_and_missing_ones_are_reported(official: Path) -> None:
    folder = official / "msrvtt_ret/public"
    assert find_checkpoint(folder).path.name == "model_step_best.pt"
    assert find_checkpoint(folder, "last").step == "120"
    assert find_checkpoint(folder, "40").results == folder
    with pytest.raises(CheckpointError, match=r"no model_step_7\.pt; --step can be 40, 120, best"):
        find_checkpoint(folder, "7")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        find_checkpoint(official)


def test_frames_and_tokens_come_from_the_folders_args_json(official: Path, params: Params) -> None:
    folder = official / "msrvtt_ret/public"
    (folder / "log").mkdir(exist_ok=True)
    (folder / "log/args.json").write_text(json.dumps({"num_frm": 2, "max_txt_len": 9, "fp16": 0}))
    try:
        evaluate_checkpoint(params, "msrvtt_ret", folder, step="40", **named(params, "msrvtt_ret"))
        arguments = json.loads((folder / "results_test/step_40/args.json").read_text())
        assert (arguments["num_frames"], arguments["max_text_tokens"]) == (2, 9)
        (folder / "log/args.json").write_text("{")
        with pytest.raises(CheckpointError, match=r"args\.json: line 1, column 2: not valid JSON"):
            find_checkpoint(folder)
    finally:
        (folder / "log/args.json").unlink()


def test_unknown_task_and_annotation_name_are_refused(params: Params, tmp_path: Path) -> None:
    checkpoint = params.evaluate["msvd_qa"].checkpoint
    with pytest.raises(ConfigError, match="did you mean 'msvd_qa'"):
        evaluate_checkpoint(params, "msvd-qa", checkpoint)
    with pytest.raises(ConfigError, match="must be named train, val or test"):
        evaluate_checkpoint(params, "msvd_qa", checkpoint, annotations=tmp_path / "mine.jsonl")


def test_converted_copies_are_evaluated_by_the_same_command(
    params: Params, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A lossless copy gives the scores of the originals; a copy with fewer pixels gives others."""
    from alpro.config import Convert
    from alpro.data.copies.convert import convert

    videos, found = params.datasets["msrvtt_ret"].videos, {}
    for name, options in (("originals", None), ("lossless", {"crf": 0}), ("small", {"short_side": 16})):
        folder = str(tmp_path / name) if options else videos
        if options:
            convert(Convert(source=videos, output=folder, **options), 1, tmp_path / "state")
        own = params.evaluate["msrvtt_ret"].checkpoint
        figures = evaluate_checkpoint(params, "msrvtt_ret", own, output=tmp_path / f"of_{name}", videos=folder)
        assert str(figures) in capsys.readouterr().out
        place = tmp_path / f"of_{name}/results_test/step_best"
        assert json.loads((place / "args.json").read_text())["videos"] == folder
        found[name] = json.loads((place / "scores.json").read_text())["scores"]
    assert found["lossless"] == found["originals"]
    assert found["small"] != found["originals"]
