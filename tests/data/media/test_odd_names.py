"""Links are followed, and a bad name, loop or unreadable file never stops the other files of a command."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from alpro.config import Convert
from alpro.data.copies.convert import UNREADABLE, convert
from alpro.data.media.probe import probe
from alpro.data.media.probe_table import probe_folder, table
from alpro.data.media.shards import list_clips, write_shards
from alpro.errors import DataError
from tests.data.clips import make_video

LATIN1 = os.fsdecode(b"caf\xe9.avi")
LEFT_OUT = {r"caf\xe9.avi", "loop.avi", "gone.avi", "pipe.avi", "up"}


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a video, one in a linked folder, and five entries that cannot be read."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "v"
    (tmp_path / "disk" / "part1").mkdir(parents=True)
    root.mkdir()
    make_video(root / "a.avi")
    shutil.copyfile(root / "a.avi", tmp_path / "disk" / "part1" / "x.avi")
    shutil.copyfile(root / "a.avi", root / LATIN1)
    (root / "part1").symlink_to(tmp_path / "disk" / "part1")
    (root / "loop.avi").symlink_to("loop.avi")
    (root / "gone.avi").symlink_to("/nowhere/x.avi")
    (root / "up").symlink_to("..")
    os.mkfifo(root / "pipe.avi")
    return root


def test_probe_lists_the_readable_and_names_the_others(odd: Path) -> None:
    infos = probe_folder(odd, workers=1)
    assert {name for name, info in infos.items() if info.readable} == {"a.avi", "part1/x.avi"}
    lines = {line.split()[0]: line for line in table(infos).splitlines()[1:]}
    assert set(lines) == LEFT_OUT | {"a.avi", "part1/x.avi"}
    assert lines[r"caf\xe9.avi"].endswith("its name is not UTF-8; rename it") and "(to /nowhere/x.avi)" in lines["gone.avi"]


def test_convert_lists_them_and_keeps_the_copies_of_a_folder_that_is_away(odd: Path, tmp_path: Path) -> None:
    settings = Convert(source="v", output="copies", every=4)
    assert convert(settings, 1, tmp_path / "state").converted == 2
    listed = dict(line.split("\t") for line in (tmp_path / "copies" / UNREADABLE).read_text(encoding="utf-8").splitlines())
    assert set(listed) == LEFT_OUT and listed["loop.avi"] == "is a loop of links"
    assert (tmp_path / "copies/part1/x.mp4").is_file()
    (tmp_path / "disk").rename(tmp_path / "away")
    again = convert(settings, 1, tmp_path / "state")
    assert (again.converted, again.up_to_date, again.unreadable) == (0, 1, 6)
    assert (tmp_path / "copies/part1/x.mp4").is_file()


def test_shards_contain_the_others(odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_video(odd / "closed.avi")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: "closed" not in str(path) and access(path, mode))
    lines: list[str] = []
    assert write_shards(odd, tmp_path / "shards", left_out=lines.append) == 1
    assert [name for _, name in list_clips(tmp_path / "shards")] == ["a.avi", "part1/x.avi"]
    assert {line.split(": ")[0].removeprefix(f"{odd}/") for line in lines} == LEFT_OUT | {"closed.avi"}


def test_a_folder_of_unusable_files_is_refused_with_their_names(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "gone.avi").symlink_to("nowhere.avi")
    with pytest.raises(DataError, match=r"contains no videos.*\n.*gone\.avi: is a broken link"):
        convert(Convert(source=str(tmp_path / "v"), output=str(tmp_path / "o"), every=2), 1, tmp_path / "state")
    with pytest.raises(DataError, match="contains no files that can be packed"):
        write_shards(tmp_path / "v", tmp_path / "s")


@pytest.mark.parametrize(("name", "words"), [(LATIN1, "not UTF-8"), ("a\0b.avi", "NUL"), ("loop.avi", "symbolic links")])
def test_a_single_bad_name_is_a_reason_not_an_error(odd: Path, name: str, words: str) -> None:
    info = probe(odd / name)
    assert not info.readable and words in info.reason
