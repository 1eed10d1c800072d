"""A fine-tuning from an official checkpoint; its own checkpoint stores the preprocessing for inference."""

from __future__ import annotations

import contextlib
import errno
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from alpro.checkpoints.files import export_official, save_checkpoint
from alpro.cli.main import app
from alpro.config import Model, Params, parse
from alpro.data.batches import clip_frames
from alpro.data.text.tokenizer import train_vocabulary
from alpro.errors import ConfigError, DataError, TrainingError
from alpro.files.atomic import sha256
from alpro.models import build_model
from alpro.models.compiled import compile_blocks
from alpro.serving import load, match
from alpro.training import run
from alpro.training.engine import Engine
from alpro.training.run import run_training
from tests.evaluation.conftest import write_video

ROOT = Path(__file__).parents[2]
CAPTIONS = [f"a {colour} {shape} moves" for colour in ("red", "blue") for shape in ("circle", "square", "star")]
SIZES = Model(
    image_size=32, patch_size=8, width=128, heads=2, intermediate=64, vision_layers=1, text_layers=1, fusion_layers=1,
    embed_dim=16, vocab_size=80, max_positions=32,
)  # fmt: skip


@pytest.fixture
def params(tmp_path: Path) -> Params:
    """Recipe `tiny` on one retrieval set of six videos, starting from an official pre-training file."""
    folder = tmp_path / "set"
    (folder / "videos").mkdir(parents=True)
    for n in range(len(CAPTIONS)):
        write_video(folder / f"videos/video{n}.mp4", n)
    rows = [json.dumps({"clip_name": f"video{n}.mp4", "caption": caption}) for n, caption in enumerate(CAPTIONS)]
    for split in ("train", "val", "test"):
        (folder / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    train_vocabulary(CAPTIONS, tmp_path / "text", SIZES.vocab_size)
    export_official(build_model("pretrain", num_frames=2, num_entities=3, config=SIZES), tmp_path / "alpro_pretrained_ckpt.pt")
    raw = yaml.safe_load((ROOT / "recipes/tiny.yaml").read_text())
    for section in ("datasets", "finetune", "evaluate", "zeroshot"):
        raw[section] = {"msrvtt_ret": raw[section]["msrvtt_ret"]}
    raw["datasets"]["msrvtt_ret"] |= {"annotations": str(folder), "videos": str(folder / "videos")}
    changes = {"max_steps": 2, "num_frames": 2, "max_text_tokens": 9, "batch_size": 3, "eval_frames": "headtail"}
    raw["finetune"]["msrvtt_ret"] |= changes | {"accumulation": 1, "validations": 1}
    raw |= {"sample": None, "model": SIZES.model_dump(), "text": {"tokenizer": str(tmp_path / "text")}}
    return parse(raw)


def test_checkpoint_stores_preprocessing(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("ALPRO_LIVE", "off")
    init, output = tmp_path / "alpro_pretrained_ckpt.pt", tmp_path / "out"
    folders = {"output": output, "record": tmp_path / "record", "state": tmp_path / "state"}
    best = run_training(params, "finetune", "msrvtt_ret", init=str(init), **folders)
    assert best.step == 2
    printed = capfd.readouterr()
    assert (
        "pretrain weights into the retrieval model" in printed.out + printed.err and "mpm_head (4)" in printed.out + printed.err
    )
    config = json.loads((output / "config.json").read_text())
    assert config["trained"]["step"] == 2 and config["viewing"] == {"frames": "headtail", "max_text_tokens": 9}
    record_params = json.loads((tmp_path / "record/params.json").read_text())
    assert record_params["resize"] == params.init.resize and record_params["inputs"]["init"]["path"] == str(init)
    model = load(output)
    assert (model.frames, model.max_text_tokens) == ("headtail", 9)
    scores = [m.probability for m in match(model, tmp_path / "set/videos/video0.mp4", CAPTIONS)]
    assert all(0 < score < 1 for score in scores)


def test_command_fine_tunes_with_only_task_start_and_output(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALPRO_LIVE", "off")
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(params.model_dump(mode="json")))
    command = "train finetune --task msrvtt_ret --init alpro_pretrained_ckpt.pt --output out"
    for _ in range(2):  # the second training replaces the first
        app(command.split(), standalone_mode=False)
        assert load("out").max_text_tokens == 9
        assert json.loads(Path("out/record/params.json").read_text())["task"] == "msrvtt_ret"
        assert sorted(Path().glob("out*")) == [Path("out")]


def test_bf16_is_refused_at_the_start_if_the_gpu_lacks_it(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, answer in (
        ("is_available", True),
        ("device_count", 1),
        ("is_bf16_supported", False),
        ("get_device_name", "Tesla V100"),
    ):
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer, **__: answer)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    raw = params.model_dump()
    raw["finetune"]["msrvtt_ret"] |= {"precision": "bf16"}
    folders = {"output": tmp_path / "out", "record": tmp_path / "record", "state": tmp_path / "state"}
    with pytest.raises(ConfigError, match=r"^precision bf16: Tesla V100 does not support it; set `precision` to fp16 or fp32$"):
        run_training(parse(raw), "finetune", "msrvtt_ret", init="nowhere", **folders)


def test_compiled_training_says_so_in_its_record_and_resumes_to_the_same_bytes(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALPRO_LIVE", "off")
    monkeypatch.setattr(run, "compile_blocks", partial(compile_blocks, backend="aot_eager"))  # needs no compiler
    raw = params.model_dump()
    raw["model"]["vision_layers"] = 2
    raw["launch"]["compile"] = True
    raw["finetune"]["msrvtt_ret"]["save_every_s"] = 1e-6
    scratch = str(ROOT / "recipes/init/scratch.yaml")

    def train(name: str, **options: Any) -> bytes:
        folders = {folder: tmp_path / name / folder for folder in ("output", "record", "state")}
        run_training(parse(raw), "finetune", "msrvtt_ret", init=scratch, **folders, **options)
        assert json.loads((tmp_path / name / "record/params.json").read_text())["compile"] is True
        return (tmp_path / name / "output/model.safetensors").read_bytes()

    whole = train("whole")
    step = Engine._step

    def stopped(self: Engine, batches: Any) -> Any:
        if self.step == 1:
            raise KeyboardInterrupt
        return step(self, batches)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Engine, "_step", stopped)
        train("resumed")
    assert train("resumed") == whole
    raw["launch"]["compile"] = False
    run_training(
        parse(raw), "finetune", "msrvtt_ret", init=scratch, output=tmp_path / "o", record=tmp_path / "r", state=tmp_path
    )
    assert "compile" not in json.loads((tmp_path / "r/params.json").read_text())
    assert (tmp_path / "o/model.safetensors").read_bytes() != whole  # other random numbers drop its paths


def test_kept_checkpoints_are_written_beside_the_output_and_can_be_loaded(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALPRO_LIVE", "off")
    home = tmp_path / "models"
    written = []

    def spy(directory: Path, *args: Any) -> None:
        written.append(Path(directory))
        save_checkpoint(directory, *args)

    monkeypatch.setattr(run, "save_checkpoint", spy)
    raw = params.model_dump()
    raw["finetune"]["msrvtt_ret"] |= {"keep": ["best", "last", "every"], "validations": 2}
    folders = {"output": home / "out", "record": home / "out/record", "state": tmp_path / "state"}
    init = str(tmp_path / "alpro_pretrained_ckpt.pt")
    best = run_training(parse(raw), "finetune", "msrvtt_ret", init=init, **folders)
    assert all(home in path.parents for path in written)  # the system's temporary folder may be too small for them
    assert list(home.iterdir()) == [home / "out"]
    steps = {"last": 2, "step-000000001": 1, "step-000000002": 2, ".": best.step}
    assert {path.parent.name for path in home.glob("out/*/model.safetensors")} == {*steps} - {"."}
    assert (home / "out/record/metrics.json").exists() and (home / "out/last/tokenizer/vocab.txt").exists()
    for name, step in steps.items():
        assert json.loads((home / "out" / name / "config.json").read_text())["trained"]["step"] == step
        assert load(home / "out" / name).max_text_tokens == 9
    digests = {name: sha256(home / "out" / name / "model.safetensors") for name in steps}
    assert digests["last"] == digests["step-000000002"] != digests["step-000000001"]
    assert digests["."] == digests[f"step-{best.step:09d}"]


def test_state_resumes_after_parameters_are_restored(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("ALPRO_LIVE", "off")
    folders = {"output": tmp_path / "out", "record": tmp_path / "record", "state": tmp_path / "state"}

    def train(**changes: Any) -> str:
        raw = params.model_dump()
        raw["finetune"]["msrvtt_ret"] |= {"save_every_s": 1e-6} | changes
        capfd.readouterr()
        with contextlib.suppress(TrainingError):
            run_training(parse(raw), "finetune", "msrvtt_ret", init=str(tmp_path / "alpro_pretrained_ckpt.pt"), **folders)
        return capfd.readouterr().out

    def broken(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(run, "save_checkpoint", broken)  # ends after two saved steps
        assert "resume:" not in train()
        (store,) = (path.parent for path in tmp_path.glob("state/finetune/msrvtt_ret/*/params.json"))
        (message,) = (line for line in train(learning_rate=0.5, max_text_tokens=8).splitlines() if "resume:" in line)
    changed = "training.learning_rate, training.max_text_tokens"
    assert f"starting from scratch: {changed} changed since {store} was saved; restore the old values" in message
    assert f"(see {store}/params.json) to resume it" in message
    assert "resume: continuing after step 2 of 2" in train() and (tmp_path / "out/model.safetensors").exists()


def test_the_frame_cache_changes_no_byte_and_spares_the_second_training_all_decoding(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALPRO_LIVE", "off")
    scratch = str(ROOT / "recipes/init/scratch.yaml")

    def train(name: str, cache: Path | None) -> list[bytes]:
        folders = {folder: tmp_path / name / folder for folder in ("output", "record", "state")}
        raw = params.model_dump()
        raw["finetune"]["msrvtt_ret"] |= {"train_frames": "random", "frame_candidates": 5, "eval_frames": "uniform"}
        raw["loader"]["cache"] = str(cache) if cache else None
        run_training(parse(raw), "finetune", "msrvtt_ret", init=scratch, **folders)
        return [(tmp_path / name / file).read_bytes() for file in ("output/model.safetensors", "record/params.json")]

    decoded = train("decoded", None)
    assert json.loads(decoded[1])["training"]["frame_candidates"] == 5
    assert train("filled", tmp_path / "cache") == decoded
    monkeypatch.setattr(clip_frames, "read_frames", lambda path, *_: pytest.fail(f"{path} is decoded again"))
    assert train("cached", tmp_path / "cache") == decoded


def test_unreadable_training_video_is_skipped_and_validation_video_refused(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ALPRO_LIVE", "off")
    folder = tmp_path / "set"
    (folder / "videos/broken.mp4").write_text("<html>404</html>")
    row = json.dumps({"clip_name": "broken.mp4", "caption": CAPTIONS[0]}) + "\n"
    with (folder / "train.jsonl").open("a") as file:
        file.write(row)
    folders = {"output": tmp_path / "out", "record": tmp_path / "record", "state": tmp_path / "state"}
    raw = params.model_dump()
    raw["finetune"]["msrvtt_ret"] |= {"epochs": 2, "max_steps": None, "batch_size": 2}  # its batch keeps one pair for VTM
    raw["loader"]["max_unreadable"] = 0.01  # of one thousand samples
    scratch = str(ROOT / "recipes/init/scratch.yaml")
    assert run_training(parse(raw), "finetune", "msrvtt_ret", init=scratch, **folders).step > 0
    (message,) = {message.split(": ", 1)[1] for message in caplog.messages if "left out" in message}
    assert message.startswith(f"left out msrvtt_ret/broken#0: {folder}/videos/broken.mp4: can't be read")
    (folder / "val.jsonl").write_text(row + json.dumps({"clip_name": "gone.mp4", "caption": CAPTIONS[1]}) + "\n")
    with pytest.raises(DataError, match=r"(?s)2 videos can't be read.*gone\.mp4: not found.*broken\.mp4: can't be read"):
        run_training(parse(raw), "finetune", "msrvtt_ret", init=scratch, **folders)
