"""A project without data, and a folder of small videos outside of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from alpro.data.media.probe import VideoInfo
from alpro.own_data.videos import read_videos
from tests.data.clips import make_video

ROOT = Path(__file__).parents[2]
COUNT = 12
COLOURS = ("red", "green", "blue")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve different videos, half of them in a sub-folder."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "sub").mkdir()
    for number in range(COUNT):
        make_video(folder / ("sub" if number % 2 else "") / f"clip{number}.avi", frames=12, size=48, hue=15 * number)
    return folder


@pytest.fixture(scope="session")
def infos(made: Path) -> dict[str, VideoInfo]:
    """The probes of the videos, by their path in the folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALPRO_STATE", str(made.parent / "state"))
        return read_videos(made, workers=0).infos


@pytest.fixture
def clips(made: Path, tmp_path: Path) -> Path:
    """A copy of the videos that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "my clips"))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the recipes and the default params.yaml, as the working directory."""
    folder = tmp_path / "project"
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    shutil.copy(ROOT / "recipes" / "sample.yaml", folder / "params.yaml")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ALPRO_STATE", str(folder / ".state"))
    return folder


def write_captions(folder: Path, name: str = "texts.csv") -> Path:
    """Write a table of two captions a video, with column names of its own."""
    rows = [f"clip{n}.avi,a {COLOURS[n % 3]} bar moves {way}" for n in range(COUNT) for way in ("to the left", f"{n} times")]
    (folder / name).write_text("Clip,Sentence\n" + "\n".join(rows) + "\n")
    return folder / name
