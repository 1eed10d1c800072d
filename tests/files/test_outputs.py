"""Output folders: no command removes, replaces or changes a file that it did not write itself."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from alpro.cli.main import app
from alpro.config import Convert, Sample
from alpro.data.copies.convert import convert
from alpro.data.media.shards import write_shards
from alpro.data.sample import make_sample
from alpro.data.text.tokenizer import train_vocabulary
from alpro.errors import OutputError
from alpro.files import atomic
from alpro.files.outputs import MANIFEST, OwnFiles, check_output, new_dir, read_manifest

ROOT = Path(__file__).parents[2]
VIDEOS = ROOT / "tests/videos"
SEED = 20261129


def plant(folder: Path, seed: int = SEED, count: int = 20) -> dict[str, str | bytes]:
    """Put foreign files into a folder: hidden ones, links, sub-folders, names like those of outputs. Returns their contents."""
    draw = random.Random(seed)
    names = [
        "x.pt",
        "mine.mp4",
        "shard-00000.tar",
        "model.safetensors",
        "vocab.txt",
        ".hidden",
        "sub/deep/a.mp4",
        "sub/index.parquet",
    ]
    names += [
        f"{draw.choice(['', '.', 'sub/', 'Ümlaut '])}{draw.getrandbits(40):x}{draw.choice(['', '.mp4', '.json', '.tar'])}"
        for _ in range(count)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    for name in names[: count - 2]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(draw.randbytes(draw.randrange(200)))
    (folder / "link to a file").symlink_to(ROOT / "README.md")
    (folder / "sub/link to a folder").symlink_to(VIDEOS)
    return content(folder)


def content(folder: Path) -> dict[str, str | bytes]:
    """Every file and link below a folder, with its bytes or its target."""
    found: dict[str, str | bytes] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[str(path.relative_to(folder))] = os.readlink(path)
        elif path.is_file():
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def vocabulary(folder: Path) -> None:
    train_vocabulary(["a red ball", "a blue cube"], folder, 60)


def sample(folder: Path) -> None:
    settings = Sample(frame_size=16, pretrain_videos=2, pretrain_images=2, train_videos=2, val_videos=1, test_videos=1)
    make_sample(settings, folder, workers=1)


def shards(folder: Path) -> None:
    write_shards(VIDEOS, folder, 5)


def copies(folder: Path) -> None:
    source = folder.parent / "originals"
    source.mkdir(exist_ok=True)
    shutil.copy(VIDEOS / "small_webm.webm", source / "a.webm")
    convert(Convert(source=str(source), output=str(folder), short_side=32), workers=1, state=folder.parent / "state")


def plain(folder: Path) -> None:
    with new_dir(folder) as temporary:
        (temporary / "a").write_text("a")
        (temporary / "b").mkdir()
        (temporary / "b/c").write_text("c")


WRITERS = [plain, vocabulary, sample, shards, copies]


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_folder_with_foreign_files_is_refused_and_unchanged(write: Callable[[Path], None], seed: int, tmp_path: Path) -> None:
    before = plant(tmp_path / "out", seed)
    assert len(before) == 20
    with pytest.raises(
        OutputError, match=r"contains files that this command did not write \(.+, .+, .+ and more\); move"
    ) as refused:
        write(tmp_path / "out")
    assert "\n" not in str(refused.value)
    assert content(tmp_path / "out") == before


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_own_files_are_replaced_until_another_is_added(write: Callable[[Path], None], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()  # an empty folder may be used
    write(out)
    first = content(out)
    assert set(read_manifest(out)) == set(first) - {MANIFEST}
    write(out)
    assert content(out) == first
    (out / ".note").write_text("mine")
    with pytest.raises(OutputError, match=r"did not write \(\.note\)"):
        write(out)
    assert content(out) == {**first, ".note": b"mine"}


def test_an_edited_file_is_the_users(tmp_path: Path) -> None:
    plain(tmp_path / "out")
    (tmp_path / "out/b/c").write_text("edited")
    with pytest.raises(OutputError, match=r"b/c"):
        plain(tmp_path / "out")
    assert (tmp_path / "out/b/c").read_text() == "edited"


def test_a_file_added_during_the_work_is_kept(tmp_path: Path) -> None:
    plain(tmp_path / "out")
    with pytest.raises(OutputError, match="late"), new_dir(tmp_path / "out") as temporary:
        (temporary / "a").write_text("new")
        (tmp_path / "out/late").write_text("mine")
    assert content(tmp_path / "out")["late"] == b"mine" and (tmp_path / "out/a").read_text() == "a"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_temporary_files_of_a_killed_run_are_not_the_users(tmp_path: Path) -> None:
    shards(tmp_path / "out")
    ended = subprocess.Popen(["true"])
    ended.wait()
    leftover = f".{MANIFEST}.{atomic._host_and_namespace()}-{ended.pid}.abcd1234"
    (tmp_path / "out" / leftover).write_text("half")
    shards(tmp_path / "out")
    assert not (tmp_path / "out" / leftover).exists()


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk/out")
    plain(tmp_path / "link")
    plain(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "disk/out/a").read_text() == "a"


def test_files_that_dvc_restored_as_links_are_still_the_commands(tmp_path: Path) -> None:
    plain(tmp_path / "out")
    shutil.move(tmp_path / "out/a", tmp_path / "cached")
    (tmp_path / "out/a").symlink_to(tmp_path / "cached")
    plain(tmp_path / "out")
    assert (tmp_path / "cached").read_text() == "a" and not (tmp_path / "out/a").is_symlink()


def test_the_working_directory_a_file_and_a_source_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "project/raw").mkdir(parents=True)
    (tmp_path / "project/x.pt").write_text("weights")
    monkeypatch.chdir(tmp_path / "project")
    for path in (".", "..", tmp_path / "project"):
        with pytest.raises(OutputError, match="is the working directory or contains it; give a folder of its own"):
            check_output(path)
    with pytest.raises(OutputError, match=r"x\.pt: is a file; give a folder"):
        check_output("x.pt")
    with pytest.raises(OutputError, match="raw/out: is inside raw, which is read"):
        check_output("raw/out", "raw")
    (tmp_path / "project/out").mkdir()
    with pytest.raises(OutputError, match="out: contains out/raw, which is read"):
        check_output("out", "out/raw")
    with pytest.raises(OutputError, match="raw: contains raw, which is read"):
        OwnFiles("raw", "raw", [])


def test_a_second_source_does_not_remove_the_copies_of_the_first(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        shutil.copy(VIDEOS / "small_webm.webm", tmp_path / name / f"{name}.webm")
    convert(Convert(source=str(tmp_path / "one"), output=str(tmp_path / "out"), short_side=32), 1, tmp_path / "state")
    before = content(tmp_path / "out")
    with pytest.raises(OutputError, match=r"contains the files made from .*one; give another folder for .*two"):
        convert(Convert(source=str(tmp_path / "two"), output=str(tmp_path / "out"), short_side=32), 1, tmp_path / "state")
    assert content(tmp_path / "out") == before


@pytest.mark.parametrize("name", ["../mine", "ABSOLUTE", "sub/../../mine", "./a", "sub//a", "sub/", "", "..", "a\0b"])
def test_a_manifest_that_names_other_places_is_foreign(name: str, tmp_path: Path) -> None:
    out, mine = tmp_path / "out", tmp_path / "mine"
    out.mkdir()
    mine.write_text("mine")
    listed = {"a": "", name.replace("ABSOLUTE", str(mine)): ""}
    (out / MANIFEST).write_text(json.dumps({"format": 1, "files": listed}))
    for write in (plain, shards):
        with pytest.raises(OutputError, match=r"did not write \(\.alpro-output\.json\)"):
            write(out)
    assert mine.read_text() == "mine" and read_manifest(out) == {}


@pytest.mark.parametrize("manifest", ['{"format": 1, "files": {"a": 1}}', '{"format": 1, "files": {}, "source": 1}', "[1]"])
def test_a_manifest_of_another_form_is_foreign(manifest: str, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(manifest)
    with pytest.raises(OutputError, match="did not write"):
        shards(tmp_path)


def test_a_listed_link_does_not_lead_the_removal_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/a").write_text("mine")
    for write in (plain, shards):
        out = tmp_path / write.__name__
        out.mkdir()
        (out / "sub").symlink_to(tmp_path / "mine")
        (out / MANIFEST).write_text(json.dumps({"format": 1, "files": {"sub": "", "sub/a": ""}}))
        write(out)
        assert not (out / "sub").exists() and (tmp_path / "mine/a").read_text() == "mine"


def test_a_folder_that_cannot_be_read_is_foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's refusal is simulated, as the superuser may read everything."""
    plain(tmp_path / "out")
    (tmp_path / "out/closed").mkdir()
    (tmp_path / "out/closed/mine").write_text("mine")
    scandir = os.scandir

    def refuse(path: str) -> object:
        if os.path.basename(path) == "closed":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(OutputError, match=r"did not write \(closed/ \(cannot be read\)\)"):
        plain(tmp_path / "out")
    monkeypatch.undo()
    assert (tmp_path / "out/closed/mine").read_text() == "mine"


COMMANDS = [
    "data vocabulary OUT",
    "data entities OUT",
    "data sample --root OUT",
    "data validate msvd_qa --passed passed.json --output OUT",
    "data convert --source data --output OUT",
    "data shard videos OUT",
    "weights import OUT/x.pt --output OUT",
    "weights import x.pt --output OUT",
    "train prompter --init recipes/init/scratch.yaml --output OUT",
    "train finetune --task msvd_qa --init recipes/init/scratch.yaml --output OUT",
    "train finetune --task msvd_qa --init recipes/init/scratch.yaml --output fresh --record OUT",
    "evaluate --task msvd_qa --checkpoint recipes/init/scratch.yaml --record OUT",
]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with params.yaml of recipe tiny, where every command would find something to do."""
    raw = yaml.safe_load((ROOT / "recipes/tiny.yaml").read_text())
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw))
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    for folder in ("data", "videos"):
        (tmp_path / folder).mkdir()
        shutil.copy(VIDEOS / "small_webm.webm", tmp_path / folder / "a.webm")
    (tmp_path / "x.pt").write_bytes(b"weights")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("out", ["out", "link", "."])
def test_every_command_refuses_the_folder_before_it_starts(command: str, out: str, project: Path) -> None:
    before = plant(project / "out")
    (project / "link").symlink_to(project / "out")
    everything = content(project)
    result = CliRunner().invoke(app, command.replace("OUT", out).split())
    assert isinstance(result.exception, OutputError), result.output
    assert content(project / "out") == before
    assert {name: value for name, value in content(project).items() if not name.startswith(".state")} == everything


KILLED = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.files import test_outputs as t
print("ready", flush=True)
while True:
    try:
        getattr(t, {writer!r})(Path({out!r}))
    except t.OutputError:
        pass
"""


@pytest.fixture
def draw() -> Iterator[random.Random]:
    yield random.Random(SEED)


@pytest.mark.slow
@pytest.mark.parametrize("writer", ["plain", "shards", "copies"])
def test_killed_at_any_moment_nothing_foreign_is_lost(writer: str, tmp_path: Path, draw: random.Random) -> None:
    own, foreign = tmp_path / "own", tmp_path / "foreign"
    before = plant(foreign)
    for number in range(6):
        out = foreign if number % 3 == 0 else own
        code = KILLED.format(root=str(ROOT), writer=writer, out=str(out))
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=tmp_path)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(draw.random())
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert content(foreign) == before
    globals()[writer](own)  # what the kills left is no obstacle
    (own / "mine").write_text("mine")
    with pytest.raises(OutputError):
        globals()[writer](own)
