"""A service gives the evaluation's results, reads no file outside its folder, and needs nothing but its package."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from alpro.data.annotations.records import Question, Record
from alpro.errors import CheckpointError, DataError
from alpro.evaluation.qa import evaluate_qa
from alpro.evaluation.retrieval import evaluate_retrieval
from alpro.registry import package
from alpro.serving.service import TEXT_COLUMN, Service

from .conftest import ANSWERS, PREPROCESSING, TESTS, TEXTS


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two videos; another file is beside it."""
    folder = tmp_path_factory.mktemp("media") / "videos"
    folder.mkdir()
    shutil.copy(TESTS / "goldens" / "l_clip.mp4", folder / "one.mp4")
    shutil.copy(TESTS / "videos" / "torchcodec_h265_video.mp4", folder / "two.mp4")
    shutil.copy(TESTS / "goldens" / "l_clip.mp4", folder.parent / "secret.mp4")
    (folder / "link.mp4").symlink_to(folder.parent / "secret.mp4")
    return folder


def service(checkpoints: Path, task: str, videos: Path) -> Service:
    return Service.load(checkpoints / task, "uniform", PREPROCESSING.max_text_tokens, str(videos))


def test_answers_equal_those_of_the_evaluation(checkpoints, videos):
    loaded = service(checkpoints, "qa", videos)
    table = pandas.DataFrame(
        {"video": ["two.mp4", "one.mp4", "two.mp4"], "question": [TEXTS[1], TEXTS[3], TEXTS[3]]}, index=[7, 8, 9]
    )
    results = loaded.predict(table)
    two = Record(
        "two", videos / "two.mp4", questions=(Question(0, TEXTS[1], "red", "what"), Question(1, TEXTS[3], "red", "what"))
    )
    one = Record("one", videos / "one.mp4", questions=(Question(2, TEXTS[3], "red", "what"),))
    expected = evaluate_qa(loaded.model, [two, one], loaded.tokenizer, ANSWERS, PREPROCESSING).predictions
    assert list(results.index) == [7, 8, 9]
    assert list(results.answer) == [expected[0].predicted, expected[2].predicted, expected[1].predicted]
    assert results.probability[9] == pytest.approx(expected[1].top[0][1], abs=1e-6)
    assert results.top_answers[7] == [answer for answer, _ in expected[0].top]


def test_scores_equal_those_of_the_evaluation(checkpoints, videos):
    loaded = service(checkpoints, "retrieval", videos)
    pairs = [(video, text) for text in TEXTS for video in ("one.mp4", "two.mp4")]
    results = loaded.predict(pandas.DataFrame(pairs, columns=["video", "caption"]))
    records = [Record("one", videos / "one.mp4", captions=tuple(TEXTS)), Record("two", videos / "two.mp4")]
    expected = evaluate_retrieval(loaded.model, records, loaded.tokenizer, PREPROCESSING)
    np.testing.assert_allclose(results.score.to_numpy().reshape(4, 2), expected.scores, atol=1e-6)
    np.testing.assert_allclose(results.similarity.to_numpy().reshape(4, 2), expected.similarities, atol=1e-6)


@pytest.mark.parametrize(("task", "columns"), [("prompter", ["similarity"]), ("pretrain", ["score", "similarity"])])
def test_pretrained_models_score_captions(checkpoints, videos, task, columns):
    results = service(checkpoints, task, videos).predict(pandas.DataFrame({"video": ["one.mp4"], "caption": [TEXTS[0]]}))
    assert list(results.columns) == columns


@pytest.mark.parametrize("name", ["../secret.mp4", "link.mp4", "/etc/passwd", "x/../../secret.mp4"])
def test_file_outside_the_folder_is_refused(checkpoints, videos, name):
    with pytest.raises(DataError, match="outside the folder of videos"):
        service(checkpoints, "retrieval", videos).predict(pandas.DataFrame({"video": [name], "caption": [TEXTS[0]]}))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"video": "none.mp4", "caption": "a"}, "'none.mp4': not found"),
        ({"video": "a\0b", "caption": "a"}, "row 0: video has a NUL character"),
        ({"video": "https://host/x.mp4", "caption": "a"}, "not found in the folder of videos"),
        ({"video": "one.mp4", "caption": "  "}, "row 0: caption is empty; give a text in every row"),
        ({"video": "one.mp4", "caption": None}, "row 0: caption is null"),
        ({"video": "one.mp4", "caption": float("nan")}, "row 0: caption is null"),
        ({"video": "one.mp4", "caption": pandas.NA}, "row 0: caption is null"),
        ({"video": "one.mp4", "caption": 5}, "row 0: caption is of type int"),
        ({"video": "one.mp4", "caption": True}, "row 0: caption is of type bool"),
        ({"video": "one.mp4", "caption": ["a", "b"]}, "row 0: caption is of type list"),
        ({"video": "one.mp4", "caption": {"text": "a"}}, "row 0: caption is of type dict"),
        ({"video": "one.mp4", "caption": b"a"}, "row 0: caption is of type bytes"),
        ({"video": "one.mp4", "caption": "a" * 10_001}, "row 0: caption is longer than 10,000 characters"),
        ({"video": "one.mp4", "caption": "half \ud83d"}, "row 0: caption has half of a character"),
        ({"video": None, "caption": "a"}, "row 0: video is null"),
        ({"video": ["one.mp4"], "caption": "a"}, "row 0: video is of type list"),
        ({"video": "", "caption": "a"}, "row 0: video is empty"),
        ({"video": "x" * 5000, "caption": "a"}, "not a valid path"),
        ({"video": "one.mp4"}, "no column caption; it needs video and caption"),
        ({"video": "bad.mp4", "caption": "a"}, "bad.mp4"),
    ],
)
def test_bad_row_is_reported_without_the_folders_path(checkpoints, videos, row, message):
    (videos / "bad.mp4").write_text("no video")
    with pytest.raises(DataError) as caught:
        service(checkpoints, "retrieval", videos).predict(pandas.DataFrame([row], dtype=object))
    assert message in str(caught.value)
    assert str(videos) not in str(caught.value)


def test_message_names_three_bad_rows_and_counts_the_others(checkpoints, videos):
    table = pandas.DataFrame({"video": ["one.mp4"] * 6, "caption": [None, "a", 1, "", None, float("nan")]}, dtype=object)
    with pytest.raises(DataError) as caught:
        service(checkpoints, "retrieval", videos).predict(table)
    expected = "row 0: caption is null, row 2: caption is of type int, row 3: caption is empty, and 2 more rows"
    assert str(caught.value) == f"{expected}; give a text in every row"


def test_column_that_occurs_twice_is_refused(checkpoints, videos):
    table = pandas.DataFrame([["one.mp4", "two.mp4", "a"]], columns=["video", "video", "caption"])
    with pytest.raises(DataError, match="more than one column video"):
        service(checkpoints, "retrieval", videos).predict(table)


def test_folder_is_set_by_the_environment_or_is_the_working_directory(checkpoints, videos, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ALPRO_MEDIA_ROOT", raising=False)
    assert Service.load(checkpoints / "qa", "uniform", 20).media_root == tmp_path
    monkeypatch.setenv("ALPRO_MEDIA_ROOT", str(videos))
    assert Service.load(checkpoints / "qa", "uniform", 20).media_root == videos


@pytest.fixture(scope="module")
def packed(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The QA checkpoint as an MLflow model."""
    pytest.importorskip("mlflow")
    into = tmp_path_factory.mktemp("packed") / "qa"
    package.save(checkpoints / "qa", into, frames="uniform", max_text_tokens=20)
    return into


def test_packed_model_has_no_pickle_and_lists_its_requirements(packed):
    assert not [*packed.rglob("*.pkl"), *packed.rglob("__pycache__")]
    needs = (packed / "requirements.txt").read_text()
    assert "torch==" in needs
    assert "+" not in needs
    assert not any(name in needs for name in ("horovod", "dvc", "prefect", "great_expectations"))


def test_checkpoint_with_an_unknown_task_is_not_packed(tmp_path):
    (tmp_path / "config.json").write_text('{"task": "poetry"}')
    with pytest.raises(CheckpointError, match="'poetry' is unknown; expected one of prompter, pretrain, retrieval, qa"):
        package.save(tmp_path, tmp_path / "out", frames="uniform", max_text_tokens=20)


def test_packed_model_follows_its_signature(packed, videos):
    import mlflow

    model = mlflow.pyfunc.load_model(str(packed), model_config={"media_root": str(videos)})
    results = model.predict(pandas.DataFrame({"video": ["one.mp4"], "question": [TEXTS[1]]}))
    assert list(results.columns) == model.metadata.signature.outputs.input_names()
    assert model.metadata.signature.inputs.input_names() == ["video", "question"]
    with pytest.raises(mlflow.MlflowException, match="outside the folder") as caught:
        model.predict(pandas.DataFrame({"video": ["../secret.mp4"], "question": [TEXTS[1]]}))
    assert caught.value.error_code == "INVALID_PARAMETER_VALUE"


@pytest.mark.parametrize("question", [None, float("nan"), "", "  ", 5, ["what ?"], {"text": "what ?"}, "x" * 10_001])
@pytest.mark.parametrize("others", [0, 1])
def test_packed_model_reports_a_question_that_is_no_text_as_a_bad_request(packed, videos, question, others):
    """Beside another row too, since a column of several types passes MLflow's own check of the signature."""
    import mlflow

    model = mlflow.pyfunc.load_model(str(packed), model_config={"media_root": str(videos)})
    table = pandas.DataFrame({"video": "one.mp4", "question": [TEXTS[1]] * others + [question]}, dtype=object)
    with pytest.raises(mlflow.MlflowException) as caught:
        model.predict(table)
    assert caught.value.get_http_status_code() == 400


def test_server_without_a_configured_folder_reads_no_video(packed, videos, monkeypatch):
    import mlflow
    from mlflow.pyfunc.utils.environment import _simulate_serving_environment

    monkeypatch.chdir(videos)
    monkeypatch.delenv("ALPRO_MEDIA_ROOT", raising=False)
    model = mlflow.pyfunc.load_model(str(packed))
    table = pandas.DataFrame({"video": ["one.mp4"], "question": [TEXTS[1]]})
    assert len(model.predict(table)) == 1, "who loads it in Python has the working directory"
    with _simulate_serving_environment():
        for name in ("one.mp4", str(videos / "one.mp4")):
            with pytest.raises(mlflow.MlflowException, match="start it with ALPRO_MEDIA_ROOT set") as caught:
                model.predict(table.assign(video=name))
            assert caught.value.error_code == "INVALID_PARAMETER_VALUE"
        monkeypatch.setenv("ALPRO_MEDIA_ROOT", str(videos))
        assert len(mlflow.pyfunc.load_model(str(packed)).predict(table)) == 1


def outside(requirements: Iterable[str]) -> set[str]:
    """Return the modules of this environment that an environment with only these requirements would not have."""
    seen: set[tuple[str, frozenset[str]]] = set()
    queue = [Requirement(line) for line in requirements]
    while queue:
        one = queue.pop()
        key = (canonicalize_name(one.name), frozenset(one.extras))
        if key in seen:
            continue
        try:
            needs = [Requirement(need) for need in metadata.requires(key[0]) or []]
        except metadata.PackageNotFoundError:  # for another system
            continue
        seen.add(key)
        queue += [n for n in needs if not n.marker or any(n.marker.evaluate({"extra": e}) for e in ("", *one.extras))]
    inside = {name for name, _ in seen}
    results = metadata.packages_distributions()
    return {module for module, names in results.items() if not {canonicalize_name(name) for name in names} & inside}


@pytest.mark.slow
@pytest.mark.parametrize(("task", "column"), [("qa", "question"), ("retrieval", "caption")])
def test_packed_model_needs_only_its_listed_requirements(checkpoints, videos, tmp_path, task, column):
    """Load the model in a process without this checkout and without modules of other packages."""
    package.save(checkpoints / task, tmp_path / task, frames="uniform", max_text_tokens=20)
    missing = outside((tmp_path / task / "requirements.txt").read_text().split())
    assert {"horovod", "dvc", "prefect", "great_expectations"} <= missing
    code = """
import sys
from importlib.machinery import PathFinder
folder, videos, column, missing = sys.argv[1:]
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *where: None if name.partition(".")[0] in missing.split() else find(name, *where)
import pandas, mlflow
model = mlflow.pyfunc.load_model(folder, model_config={"media_root": videos})
results = model.predict(pandas.DataFrame({"video": ["one.mp4"], column: ["what moves to the left ?"]}))
assert list(results.columns) == model.metadata.signature.outputs.input_names()
import alpro
assert alpro.__file__.startswith(folder), alpro.__file__
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", code, str(tmp_path / task), str(videos), column, " ".join(missing - {"alpro"})]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(params=["qa", "retrieval"])
def champion(request: pytest.FixtureRequest, checkpoints: Path, tmp_path: Path) -> tuple[str, str, str]:
    """A registry whose champion is a packed checkpoint: the registry, the model's name, the column of its texts."""
    import mlflow

    from alpro.tracking import store

    task = request.param
    package.save(checkpoints / task, tmp_path / "packed", frames="uniform", max_text_tokens=20, registered=f"alpro-{task}")
    store.create_sqlite(tmp_path / "mlflow.db")
    client = mlflow.MlflowClient(uri := f"sqlite:///{tmp_path / 'mlflow.db'}")
    client.create_registered_model(f"alpro-{task}")
    version = client.create_model_version(f"alpro-{task}", str(tmp_path / "packed"), await_creation_for=60)
    client.set_registered_model_alias(version.name, "champion", version.version)
    return uri, version.name, TEXT_COLUMN[task]


@pytest.fixture
def served(champion: tuple[str, str, str], videos: Path, tmp_path: Path) -> Iterator[str]:
    """Serve the champion with `mlflow models serve`; yield its address."""
    uri, name, _ = champion
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "models",
        "serve",
        "--model-uri",
        f"models:/{name}@champion",
        "--env-manager",
        "local",
    ]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # mlflow starts uvicorn by name
    environment = {**os.environ, "ALPRO_MEDIA_ROOT": str(videos), "MLFLOW_DISABLE_TELEMETRY": "true", "PATH": path}
    environment |= {"MLFLOW_TRACKING_URI": uri}
    server = subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True)
    address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 300
    try:
        while True:
            try:
                urllib.request.urlopen(f"{address}/ping", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < deadline, "the server did not start"
                select.select([], [], [], 0.2)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.mark.slow
def test_served_champion_answers_and_refuses_files_outside_its_folder(champion, served):
    *_, column = champion
    status, body = _post(served, column, [["one.mp4", TEXTS[1]]])
    assert status == 200
    answers = {"answer", "probability", "top_answers", "top_probabilities"}
    assert set(body["predictions"][0]) == (answers if column == "question" else {"score", "similarity"})
    for name in ("../secret.mp4", "/etc/passwd", "none.mp4"):
        status, body = _post(served, column, [[name, TEXTS[1]]])
        assert status == 400
        assert "folder of videos" in body["message"]
    for text in (None, "", float("nan"), 5, ["what ?"], "x" * 10_001):
        for rows in ([["one.mp4", text]], [["one.mp4", TEXTS[1]], ["one.mp4", text]]):
            status, body = _post(served, column, rows)
            assert status == 400, (text, body)
    status, body = _post(served, column, [["one.mp4", None]])
    sentence = f"row 0: {column} is null; give a text in every row"
    assert body == {"error_code": "INVALID_PARAMETER_VALUE", "message": sentence}
    assert _post(served, "unknown", [["one.mp4", TEXTS[1]]])[0] == 400


@pytest.mark.slow
def test_champion_is_loaded_by_its_alias(champion, videos, monkeypatch):
    import mlflow

    uri, name, column = champion
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    model = mlflow.pyfunc.load_model(f"models:/{name}@champion", model_config={"media_root": str(videos)})
    results = model.predict(pandas.DataFrame({"video": ["one.mp4", "two.mp4"], column: TEXTS[:2]}))
    assert len(results) == 2 and list(results.columns) == model.metadata.signature.outputs.input_names()


def _post(address: str, column: str, rows: list[list[str]]) -> tuple[int, dict]:
    content = json.dumps({"dataframe_split": {"columns": ["video", column], "data": rows}}).encode()
    request = urllib.request.Request(f"{address}/invocations", content, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)
