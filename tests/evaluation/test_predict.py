"""`alpro predict` gives the answers of `alpro evaluate` for files without answers, and writes its output whole or not."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from alpro.config import Params
from alpro.data.batches import clip_frames
from alpro.errors import ConfigError, DataError, OutputError
from alpro.evaluation.official import evaluate_checkpoint
from alpro.evaluation.predict import predict
from alpro.evaluation.resume import ResumeState
from tests.training.processes import both_backends, done, forked, world

TASKS = ("msvd_qa", "msrvtt_ret")


def known(project: Path, task: str) -> list[dict[str, Any]]:
    """Return the rows of the test split, with answers."""
    return [json.loads(line) for line in (project / task / "test.jsonl").read_text().splitlines()]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def without_answers(project: Path, task: str, path: Path) -> Path:
    return write_rows(path, [{k: v for k, v in row.items() if not k.startswith("answer")} for row in known(project, task)])


@pytest.fixture
def run(params: Params, project: Path, tmp_path: Path) -> Callable:
    """Return a function that predicts with a task's checkpoint."""

    def predict_task(task: str, annotations: Path, name: str = "out.jsonl", **options: Any) -> list[dict[str, Any]]:
        return predict(
            params, task, project / "models" / task, annotations=annotations, output=tmp_path / name,
            state=tmp_path / "state", **options,
        )  # fmt: skip

    return predict_task


@pytest.mark.parametrize("task", TASKS)
def test_predictions_equal_those_of_the_evaluation(params, project, tmp_path, run, task) -> None:
    evaluate_checkpoint(params, task, project / "models" / task, output=tmp_path / "known", state=tmp_path / "state")
    (results,) = (tmp_path / "known").rglob("results.json")
    expected = [row for row in json.loads(results.read_text()) if row.get("direction") != "video2text"]
    run(task, without_answers(project, task, tmp_path / "hidden.jsonl"))
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(rows) == len(expected) == len(known(project, task)) and [row["id"] for row in rows] == list(range(len(rows)))
    if task == "msvd_qa":
        for row, same, asked in zip(rows, expected, known(project, task), strict=True):
            assert (row["video"], row["question"]) == (asked["video_id"], asked["question"])
            assert row["top"] == same["top"] and [row["answer"], row["probability"]] == same["top"][0]
    else:
        by_text = {row["text"]: row["top"] for row in rows}
        assert {row["text"]: row["top"] for row in expected} == {text: top[:5] for text, top in by_text.items()}
        assert [row["text"] for row in rows] == [row["caption"] for row in known(project, task)]
        assert all(len(row["top"]) == 10 for row in rows)
    assert not list((tmp_path / "state" / "evaluate").glob("*-predict/*")), "the resume state is deleted"


def test_captions_that_name_no_video_are_ranked_against_all_videos_of_the_folder(project, records, tmp_path, run) -> None:
    texts = [{"caption": row["caption"]} for row in known(project, "msrvtt_ret")]
    rows = run("msrvtt_ret", write_rows(tmp_path / "texts.jsonl", texts), count=100)
    assert all({video for video, _ in row["top"]} == {record.id for record in records} for row in rows)
    assert [row["text"] for row in rows] == [text["caption"] for text in texts]
    named = {
        row["text"]: dict(row["top"]) for row in run("msrvtt_ret", project / "msrvtt_ret/test.jsonl", "b.jsonl", count=100)
    }
    for row in rows:
        scores = dict(row["top"])
        assert all(scores[video] == pytest.approx(score, abs=1e-5) for video, score in named[row["text"]].items())


def test_reranked_scores_are_those_that_were_computed(project, tmp_path, run) -> None:
    rows = run("msrvtt_ret", project / "msrvtt_ret/test.jsonl", rerank=3, count=6)
    for row in rows:
        scores = [score for _, score in row["top"]]
        assert len(scores) == 6 and None not in scores[:3] and scores[:3] == sorted(scores[:3], reverse=True)


@pytest.mark.parametrize("task", TASKS)
def test_table_has_the_same_content(project, tmp_path, run, task) -> None:
    rows = run(task, project / task / "test.jsonl", "out.csv")
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(rows)
    for cells, row in zip(table, rows, strict=True):
        assert int(cells["id"]) == row["id"] and cells["top_1"] == row["top"][0][0]
        assert [float(cells[f"score_{n}"]) for n in range(1, 6)] == [score for _, score in row["top"][:5]]


@pytest.mark.parametrize("task", TASKS)
def test_killed_run_leaves_no_output_and_resumes(project, tmp_path, run, monkeypatch, task) -> None:
    file = without_answers(project, task, tmp_path / "hidden.jsonl")
    expected = run(task, file, "whole.jsonl")
    read, seen = clip_frames.read_frames, []
    monkeypatch.setattr(clip_frames, "read_frames", lambda *a, **k: (seen.append(1), read(*a, **k))[1])

    def killed() -> None:
        count = clip_frames.read_frames
        monkeypatch.setattr(
            clip_frames, "read_frames",
            lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL) if len(seen) > 5 else count(*a, **k),
        )  # fmt: skip
        run(task, file)

    with forked(killed) as child:
        _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hidden.jsonl", "state", "whole.jsonl"]
    assert run(task, file) == expected and len(seen) < 9, "finished videos are not read again"
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.parametrize("task", TASKS)
def test_ranks_of_a_world_get_the_predictions_of_one_process(project, tmp_path, run, worlds, task) -> None:
    alone = run(task, project / task / "test.jsonl")
    for predictions in worlds(3, lambda: run(task, project / task / "test.jsonl", "three.jsonl")):
        assert predictions == alone
    assert (tmp_path / "three.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()


def test_output_that_exists_is_kept_unless_replace_is_given(project, tmp_path, run) -> None:
    file = project / "msvd_qa/test.jsonl"
    (tmp_path / "out.jsonl").write_text("mine")
    with pytest.raises(OutputError, match=r"out\.jsonl: exists; give another name, or --replace"):
        run("msvd_qa", file)
    assert (tmp_path / "out.jsonl").read_text() == "mine"
    run("msvd_qa", file, replace=True)
    assert (tmp_path / "out.jsonl").read_text() != "mine"
    before = file.read_bytes()
    with pytest.raises(OutputError, match="is the file that is read"):
        run("msvd_qa", file, file, replace=True)
    with pytest.raises(OutputError, match=r"must be a \.jsonl or \.csv file"):
        run("msvd_qa", file, "out.txt")
    with pytest.raises(OutputError, match="is a folder"):
        (tmp_path / "folder.csv").mkdir()
        run("msvd_qa", file, "folder.csv")
    assert file.read_bytes() == before


def test_resume_state_is_in_the_folder_of_the_environment(params, project, tmp_path, monkeypatch) -> None:
    folder, seen = tmp_path / "elsewhere", []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALPRO_STATE", str(folder))
    done = ResumeState.done
    monkeypatch.setattr(ResumeState, "done", lambda self: (seen.extend(folder.rglob("*")), done(self))[1])
    predict(
        params, "msvd_qa", project / "models/msvd_qa", annotations=project / "msvd_qa/test.jsonl", output=tmp_path / "a.jsonl"
    )
    assert folder / "evaluate" / "msvd_qa-predict" in seen and not (tmp_path / ".state").exists()


@pytest.mark.parametrize(
    ("task", "option"), [("msvd_qa", {"rerank": 3}), ("msvd_qa", {"count": 3}), ("msrvtt_ret", {"answers": "answers.json"})]
)
def test_option_that_a_task_does_not_use_is_refused(params, project, tmp_path, run, task, option) -> None:
    with pytest.raises(ConfigError, match=f"^--{next(iter(option))}: for .* only, but {task} is "):
        run(task, project / task / "test.jsonl", **option)
    assert not (tmp_path / "out.jsonl").exists()
    if "count" not in option:
        with pytest.raises(ConfigError, match="run the command again without it"):
            evaluate_checkpoint(params, task, project / "models" / task, output=tmp_path / "evaluated", **option)
        assert not (tmp_path / "evaluated").exists()


@pytest.mark.parametrize("answer", [{}, {"answer": None}, {"answer": ""}])
def test_evaluation_of_a_file_without_answers_points_to_predict(params, project, tmp_path, answer) -> None:
    (tmp_path / "hidden").mkdir()
    rows = [{"video_id": row["video_id"], "question": row["question"], **answer} for row in known(project, "msvd_qa")]
    file = write_rows(tmp_path / "hidden" / "test.jsonl", rows)
    with pytest.raises(DataError) as caught:
        evaluate_checkpoint(params, "msvd_qa", project / "models/msvd_qa", annotations=file, output=tmp_path / "out")
    assert "if the answers are hidden, use `alpro predict`" in str(caught.value)
    assert answer or "\n" not in str(caught.value)  # rows without the key are reported once
    assert not (tmp_path / "out").exists()


def test_faulty_rows_are_listed(run, tmp_path) -> None:
    file = write_rows(tmp_path / "hidden.jsonl", [{"video_id": "video1"}, {"question": "what is it"}])
    with pytest.raises(DataError, match=r"(?s)line 1: .*'question'.*line 2: .*'clip_name'"):
        run("msvd_qa", file)
    with pytest.raises(DataError, match="has no rows"):
        run("msvd_qa", write_rows(tmp_path / "empty.jsonl", []))
    assert not (tmp_path / "out.jsonl").exists()


@both_backends
@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_launched_processes_write_the_same_bytes_as_one(params, project, tmp_path, run, task, backend) -> None:
    file = without_answers(project, task, tmp_path / "hidden.jsonl")
    run(task, file)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params.model_dump(mode="json")))
    command = ["predict", "--task", task, "--checkpoint", str(project / "models" / task), "--annotations", str(file)]
    command += ["--output", str(tmp_path / "two.jsonl"), "--params", str(tmp_path / "params.yaml")]
    done(world(2, ["-m", "alpro", *command], backend=backend))
    assert (tmp_path / "two.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()
