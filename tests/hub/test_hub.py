"""A model in the Hub's layout is the same model: from a folder, and through a server that speaks the Hub's protocol."""

from __future__ import annotations

import inspect
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub import ModelCard, ModelHubMixin, constants
from safetensors.torch import load_file
from typer.testing import CliRunner

import alpro
from alpro.checkpoints.files import export_official
from alpro.checkpoints.load import load_model
from alpro.cli.main import app
from alpro.errors import CheckpointError
from alpro.files.atomic import sha256
from alpro.hub.card import find_results, licence_of, model_card
from alpro.hub.model import HubModel, export_folder
from alpro.serving import ask, load, match
from tests.serving.conftest import TEXTS, VIDEO

from .server import TOKEN, Hub

ROOT = Path(__file__).parents[2]


def tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy of a model's tensors."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Return True if names and bits are the same."""
    return one.keys() == other.keys() and all(tensor.equal(other[name]) for name, tensor in one.items())


@pytest.fixture
def folder(checkpoints, tmp_path: Path) -> Path:
    """The question answering checkpoint in the Hub's layout."""
    export_folder(checkpoints / "qa", tmp_path / "qa")
    return tmp_path / "qa"


# --- a folder ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["qa", "retrieval", "pretrain", "prompter"])
def test_exported_folder_has_the_same_bits_and_gives_the_same_results(task: str, checkpoints, tmp_path: Path) -> None:
    export_folder(checkpoints / task, tmp_path / "hub")
    own, loaded = load(checkpoints / task), alpro.from_pretrained(tmp_path / "hub")
    assert equal(tensors(own.model), tensors(loaded.model))
    if task == "qa":
        assert loaded.ask(VIDEO, TEXTS[1]) == ask(own, VIDEO, TEXTS[1])
    else:
        assert loaded.match(VIDEO, TEXTS) == match(own, VIDEO, TEXTS)
    assert (loaded.task, loaded.service.frames, loaded.service.max_text_tokens) == (task, own.frames, own.max_text_tokens)


def test_folder_holds_no_pickle_and_transformers_loads_its_tokenizer(folder: Path, checkpoints) -> None:
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "answers.json", "README.md",
        ".alpro-output.json",
    }  # fmt: skip
    with pytest.raises(pickle.UnpicklingError):
        pickle.loads((folder / "model.safetensors").read_bytes())
    assert load_file(folder / "model.safetensors").keys() <= load(checkpoints / "qa").model.state_dict().keys()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    own = load(checkpoints / "qa").tokenizer
    assert tokenizer(TEXTS)["input_ids"] == own(TEXTS)["input_ids"]
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["architectures"], config["task"]) == ("alpro", ["QuestionAnswering"], "qa")


def test_commands_accept_the_folder_as_a_checkpoint(folder: Path, checkpoints) -> None:
    printed = [
        CliRunner().invoke(app, ["ask", str(VIDEO), TEXTS[1], "--checkpoint", str(path)]).stdout
        for path in (folder, checkpoints / "qa")
    ]
    assert printed[0] == printed[1] and " %  " in printed[0]


def test_official_file_is_exported_too(checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    export_official(load_model(checkpoints / "retrieval")[0], tmp_path / "official.pt")
    (tmp_path / "ext").mkdir()
    (tmp_path / "ext" / "bert-base-uncased").symlink_to(checkpoints / "text")
    result = CliRunner().invoke(app, ["weights", "export", "official.pt", "hub", "--format", "hub"])
    assert result.exit_code == 0, result.output
    own, loaded = load("official.pt"), alpro.from_pretrained("hub")
    assert equal(tensors(own.model), tensors(loaded.model)) and loaded.match(VIDEO, TEXTS) == match(own, VIDEO, TEXTS)


def test_changed_weights_are_saved_and_lose_the_results(folder: Path, tmp_path: Path) -> None:
    (folder / "README.md").write_text("---\nlicense: other\n---\nA page with results.\n")
    model = alpro.from_pretrained(folder)
    model.save_pretrained(tmp_path / "same")
    assert "A page with results." in (tmp_path / "same" / "README.md").read_text()
    with torch.no_grad():
        model.model.classifier[2].bias += 1
    model.save_pretrained(tmp_path / "changed")
    assert "not evaluated" in (tmp_path / "changed" / "README.md").read_text()
    assert equal(tensors(model.model), tensors(alpro.from_pretrained(tmp_path / "changed").model))


def test_signatures_are_those_of_huggingface_hub() -> None:
    for name in ("from_pretrained", "push_to_hub", "save_pretrained"):
        own, theirs = (inspect.signature(getattr(cls, name)).parameters for cls in (HubModel, ModelHubMixin))
        assert own.keys() == theirs.keys()
    accepted = inspect.signature(alpro.from_pretrained).parameters
    assert {"revision", "cache_dir", "token", "local_files_only", "force_download"} <= accepted.keys()


def test_importing_the_package_is_light() -> None:
    code = "import sys, alpro; alpro.from_pretrained; print(sorted({'torch', 'huggingface_hub'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "has no model.safetensors"),
        (lambda f: (f / "config.json").unlink(), "has no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "not valid JSON"),
        (lambda f: (f / "model.safetensors").write_bytes(b"1234"), "model.safetensors"),
        (lambda f: (f / "answers.json").write_text('{"red": 0}'), "the answer list has 1 answers"),
    ],
)
def test_unusable_folder_is_refused_in_one_line(spoil, message: str, folder: Path) -> None:
    spoil(folder)
    with pytest.raises(CheckpointError) as error:
        alpro.from_pretrained(folder)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_weights_in_a_pickle_are_not_read(folder: Path, checkpoints) -> None:
    (folder / "model.safetensors").unlink()
    export_official(load_model(checkpoints / "qa")[0], folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        alpro.from_pretrained(folder)


def test_export_refuses_what_it_cannot_use_and_leaves_others_files(checkpoints, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    for arguments, message in (
        (["full", "--format", "hub"], "contains files that this command did not write"),
        (["new", "--format", "hub", "--replace"], "--replace"),
        (["new.pt", "--license", "mit"], "--license"),
    ):
        target = str(tmp_path / arguments[0])
        result = CliRunner().invoke(app, ["weights", "export", str(checkpoints / "qa"), target, *arguments[1:]])
        assert result.exit_code and message in (result.output + str(result.exception))
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"] and not (tmp_path / "new").exists()


# --- the model card ---------------------------------------------------------------------------------------


def test_card_has_the_results_of_exactly_these_weights(folder: Path, tmp_path: Path) -> None:
    config, digest = json.loads((folder / "config.json").read_text()), sha256(folder / "model.safetensors")
    for name, weights in (("msvd_qa", digest), ("other_qa", "0" * 64)):
        report = tmp_path / "reports" / name
        report.mkdir(parents=True)
        (report / "params.json").write_text(json.dumps({"checkpoint_sha256": weights}))
        (report / "metrics.json").write_text(json.dumps({"overall_acc": 61.25, "ci95": {"overall_acc": [55.0, 67.5]}}))
    results = find_results(digest, tmp_path / "reports")
    assert [result.dataset for result in results] == ["msvd_qa"]
    card = ModelCard(model_card(config, results))
    assert "| msvd_qa | test | overall_acc | 61.2 | 55.0 to 67.5 |" in card.text
    data = card.data
    assert (data.license, data.library_name, data.pipeline_tag) == ("other", "alpro", "visual-question-answering")
    assert data.metrics == ["accuracy"] and {"alpro", "qa"} <= set(data.tags)
    assert [(r.dataset_name, r.metric_name, r.metric_value) for r in data.eval_results] == [("msvd_qa", "overall_acc", 61.25)]
    assert "These weights were not evaluated" in model_card(config, [])


def test_licence_is_the_codes_only_for_weights_of_generated_data(folder: Path) -> None:
    made = {"inputs": {"a": {"path": "data/sample/msvd_qa/videos"}, "b": {"path": "recipes/init/scratch.yaml"}}}
    real = {"inputs": {**made["inputs"], "c": {"path": "data/msvd_qa/videos"}}}
    assert [licence_of(config) for config in (made, real, {})] == ["bsd-3-clause", "other", "other"]
    config = json.loads((folder / "config.json").read_text())
    assert ModelCard(model_card(config, [], "cc-by-4.0")).data.license == "cc-by-4.0"


def test_folders_outside_of_the_project_are_not_published(checkpoints, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for path in (checkpoints / "qa").iterdir():
        (source / path.name).symlink_to(path)
    config = json.loads((source / "config.json").read_text())
    config["inputs"] = {"videos": {"path": "/home/somebody/private/clips", "digest": "0"}}
    config["trained"] = {"stage": "finetune", "task": "mine", "seed": 1, "step": 2}
    (source / "config.json").unlink()
    (source / "config.json").write_text(json.dumps(config))
    export_folder(source, tmp_path / "hub")
    published = "".join((tmp_path / "hub" / name).read_text() for name in ("config.json", "README.md"))
    assert "somebody" not in published and "clips" in published and "fine-tuned on mine" in published


# --- a server ---------------------------------------------------------------------------------------------

PUSH_AND_LOAD = """
import json, sys
import alpro
folder, cache, video, question, token = sys.argv[1:]
url = alpro.from_pretrained(folder).push_to_hub("org/qa", token=token, private=True, commit_message="First")
loaded = alpro.from_pretrained("org/qa", cache_dir=cache, token=token)
again = alpro.from_pretrained("org/qa", cache_dir=cache, local_files_only=True)
answers = [[(a.answer, a.probability) for a in model.ask(video, question)] for model in (loaded, again)]
print(json.dumps({"url": url, "answers": answers}))
"""


def test_model_is_uploaded_and_loaded_through_the_hubs_protocol(folder: Path, hub: Hub, tmp_path: Path) -> None:
    """In a process of its own, as a user has it: with HF_ENDPOINT. Weights travel by Git LFS, the other files in the commit."""
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "home")}
    environment.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, "-c", PUSH_AND_LOAD, folder, tmp_path / "cache", VIDEO, TEXTS[1], TOKEN]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    own = [[a.answer, a.probability] for a in alpro.from_pretrained(folder).ask(VIDEO, TEXTS[1])]
    assert result["answers"] == [own, own]

    repository = hub.repositories["org/qa"]
    digest, files = repository.commits[-1]
    assert repository.private and result["url"].endswith(digest)
    assert files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    kinds = {line["key"]: line["value"].get("path") for line in hub.posted[0]}
    assert kinds["header"] is None and kinds["lfsFile"] == "model.safetensors"
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl"))] and ".alpro-output.json" not in files
    assert ("PUT", f"/upload/{sha256(folder / 'model.safetensors')}") in hub.requests
    assert ("HEAD", "/org/qa/resolve/main/config.json") in hub.requests


@pytest.fixture
def repository(folder: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The server with org/qa, as the endpoint of this process."""
    from .server import Repository

    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    hub.repositories["org/qa"] = Repository()
    files = {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}
    hub.repositories["org/qa"].commit({**files, "pytorch_model.bin": b"a pickle", "large.mp4": b"\0" * 100})
    return hub


def test_revision_selects_the_commit_and_only_files_of_the_layout_are_downloaded(repository: Hub, folder: Path) -> None:
    first = repository.repositories["org/qa"].commits[-1][0]
    repository.repositories["org/qa"].commit({"answers.json": json.dumps({"x": 0, "y": 1, "z": 2}).encode()})
    newest, older = alpro.from_pretrained("org/qa"), alpro.from_pretrained("org/qa", revision=first)
    assert {a.answer for a in newest.ask(VIDEO, TEXTS[1])} == {"x", "y", "z"}
    assert older.ask(VIDEO, TEXTS[1]) == alpro.from_pretrained(folder).ask(VIDEO, TEXTS[1])
    assert {path.name for path in older.source.iterdir()}.isdisjoint({"pytorch_model.bin", "large.mp4"})
    assert first in str(older.source)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("org/none", {}, "org/none: cannot be loaded"),
        ("org/qa", {"revision": "v9"}, "org/qa: cannot be loaded"),
        ("org/qa", {"local_files_only": True}, "org/qa: cannot be loaded"),
        ("a/b/c/d", {}, "a/b/c/d: no such folder, and no name of a repository"),
    ],
)
def test_model_that_cannot_be_had_is_reported_in_one_line(repository: Hub, name: str, options, message: str) -> None:
    with pytest.raises(CheckpointError) as error:
        alpro.from_pretrained(name, **options)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_private_repository_needs_the_token(repository: Hub) -> None:
    repository.repositories["org/qa"].private = True
    with pytest.raises(CheckpointError, match="org/qa: cannot be loaded"):
        alpro.from_pretrained("org/qa", token=False)
    assert alpro.from_pretrained("org/qa", token=TOKEN).task == "qa"


def test_repository_without_a_model_of_this_project_is_refused(repository: Hub) -> None:
    from .server import Repository

    repository.repositories["org/other"] = Repository()
    repository.repositories["org/other"].commit({"config.json": b'{"model_type": "bert"}', "pytorch_model.bin": b"a pickle"})
    with pytest.raises(CheckpointError, match=r"org/other: has no model\.safetensors"):
        alpro.from_pretrained("org/other")
