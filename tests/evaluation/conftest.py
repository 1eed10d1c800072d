"""Small real videos, a small vocabulary and small models of both downstream tasks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from alpro.config import Model, Params, parse
from alpro.data.annotations.records import Question, Record
from alpro.data.text.tokenizer import SPECIAL, load_tokenizer
from alpro.evaluation.clips import Preprocessing
from alpro.files.json_files import write_json
from alpro.models import QuestionAnswering, Retrieval, build_model

WORDS = ["a", "red", "blue", "green", "circle", "square", "star", "moves", "left", "right", "and", "then", "stops"]
WORDS += ["what", "who", "how", "where", "is", "the", "it"]
SIZES = Model(
    image_size=32, patch_size=8, width=128, heads=2, intermediate=64, vision_layers=2, text_layers=2, fusion_layers=2,
    embed_dim=16, vocab_size=len(WORDS) + 5, max_positions=32,
)  # fmt: skip
ANSWERS = {"circle": 0, "square": 1, "star": 2, "red": 3, "blue": 4, "left": 5}
OTHER_LABELS = {answer: 5 - label for answer, label in ANSWERS.items()}  # of the dataset; the checkpoint has ANSWERS


def write_video(path: Path, seed: int, frames: int = 8, side: int = 32) -> None:
    """Write a short MPEG-4 video of a block that moves over a coloured background."""
    import av

    generator = np.random.default_rng(seed)
    background, block = generator.integers(0, 256, (2, 3))
    position, step = generator.integers(0, side - 8, 2), generator.integers(-2, 3, 2)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = side, side, "yuv420p", 1
        for n in range(frames):
            image = np.full((side, side, 3), background, np.uint8)
            y, x = np.clip(position + n * step, 0, side - 8)
            image[y : y + 8, x : x + 8] = block
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("text")
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS]) + "\n")
    return load_tokenizer(folder, vocab_size=SIZES.vocab_size)


@pytest.fixture(scope="session")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """Eleven videos, one without captions, one with three; each has 0 to 4 questions, with ids in mixed order."""
    root = tmp_path_factory.mktemp("videos")
    generator = np.random.default_rng(0)

    def sentence(longest: int) -> str:
        return " ".join(generator.choice(WORDS, generator.integers(2, longest)))

    def choose(names: list[str]) -> str:
        return str(generator.choice(names))

    ids = iter(generator.permutation(100).tolist())
    found = []
    for n in range(11):
        path = root / f"video{n}.mp4"
        write_video(path, n)
        captions = tuple(sentence(14) for _ in range({3: 3, 5: 0}.get(n, 1)))
        questions = tuple(
            Question(next(ids), sentence(9), answer=choose([*ANSWERS, "unheard"]), type=choose(["what", "who"]))
            for _ in range(n % 5)
        )
        found.append(Record(f"video{n}", path, captions=captions, questions=questions))
    return found


@pytest.fixture(scope="session")
def retrieval_model() -> Retrieval:
    return spread(build_model("retrieval", num_frames=4, config=SIZES))


@pytest.fixture(scope="session")
def qa_model() -> QuestionAnswering:
    return spread(build_model("qa", num_frames=4, config=SIZES, num_answers=len(ANSWERS)))


def spread(model: torch.nn.Module) -> torch.nn.Module:
    """Add noise to the weights, so that the scores of different pairs differ clearly."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return model


@pytest.fixture(scope="session")
def preprocessing() -> Preprocessing:
    return Preprocessing(num_frames=4, image_size=32, max_text_tokens=12)


@pytest.fixture(scope="session")
def project(
    tmp_path_factory: pytest.TempPathFactory,
    records: list[Record],
    retrieval_model: Retrieval,
    qa_model: QuestionAnswering,
    tokenizer: Any,
) -> Path:
    """A folder with annotations in the official layout, and a checkpoint of each task."""
    from alpro.checkpoints.files import save_checkpoint

    root = tmp_path_factory.mktemp("project")
    captions = [{"clip_name": f"{r.id}.mp4", "caption": c} for r in records for c in r.captions or ("",)]
    asked = sorted(((q, r.id) for r in records for q in r.questions), key=lambda pair: pair[0].id)
    questions = [{"video_id": video, "question": q.text, "answer": q.answer, "answer_type": q.type} for q, video in asked]
    for task, rows in (("msrvtt_ret", [row for row in captions if row["caption"]]), ("msvd_qa", questions)):
        (root / task).mkdir()
        (root / task / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_json(root / "answers.json", ANSWERS)
    (root / "msvd_qa" / "train_ans2label.json").write_text(json.dumps(OTHER_LABELS))
    tokenizer.save_pretrained(root / "text")
    save_checkpoint(root / "models" / "msrvtt_ret", retrieval_model, {}, {"tokenizer": root / "text"})
    extras = {"tokenizer": root / "text", "answers.json": root / "answers.json"}
    save_checkpoint(root / "models" / "msvd_qa", qa_model, {}, extras)
    return root


@pytest.fixture(scope="session")
def params(project: Path, records: list[Record]) -> Params:
    """Recipe `tiny` with the tasks and model sizes of `project`."""
    raw = yaml.safe_load((Path(__file__).parents[2] / "recipes/tiny.yaml").read_text())
    tasks = ("msrvtt_ret", "msvd_qa")
    for section in ("datasets", "finetune", "evaluate", "zeroshot"):
        raw[section] = {task: raw[section][task] for task in tasks if task in raw[section]}
    for task in tasks:
        raw["datasets"][task] |= {"annotations": str(project / task), "videos": str(records[0].path.parent)}
        raw["evaluate"][task] |= {"checkpoint": str(project / "models" / task), "bootstrap": 200}
        raw["finetune"][task] |= {"max_text_tokens": 12}
    raw |= {"sample": None, "model": SIZES.model_dump(), "text": {"tokenizer": str(project / "text")}}
    return parse(raw)


@pytest.fixture
def worlds(monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Return a function that runs a job as every rank of a world, in threads that exchange objects like processes."""
    return lambda size, function: _run_world(monkeypatch, size, function)


def _run_world(monkeypatch: pytest.MonkeyPatch, size: int, function: Callable[[], object]) -> list[object]:
    import threading
    from concurrent.futures import ThreadPoolExecutor

    from alpro import distributed

    here = threading.local()
    meet, table = threading.Barrier(size, timeout=60), [None] * size

    def gather(value: object) -> list[object]:
        assert not torch.is_inference_mode_enabled()  # Horovod cannot resize tensors created in inference mode
        table[here.rank] = value
        meet.wait()
        everyone = list(table)
        meet.wait()
        return everyone

    monkeypatch.setattr(distributed, "rank", lambda: here.rank)
    monkeypatch.setattr(distributed, "size", lambda: size)
    monkeypatch.setattr(distributed, "gather_objects", gather)

    def run(rank: int) -> object:
        here.rank = rank
        return function()

    try:
        with ThreadPoolExecutor(size) as pool:
            return [future.result() for future in [pool.submit(run, rank) for rank in range(size)]]
    finally:
        monkeypatch.undo()
