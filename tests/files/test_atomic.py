"""Atomic writes: the next writer removes the remains of a killed one, but not the files of a running one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from alpro.files import atomic as files
from tests.training.processes import forked


def begin(path: Path) -> None:
    """Start to write a directory and never finish."""
    with files.replace_dir(path) as temporary:
        (temporary / "half").write_text("half")
        time.sleep(600)


def begin_file(path: Path) -> None:
    """Start to write a file and never finish."""
    files.os.fsync = lambda handle: time.sleep(600)  # type: ignore[attr-defined]
    files.atomic_write(path, "half")


def begin_to_replace(path: Path) -> None:
    """Stop between the two renames: the old directory is under its temporary name and nothing is at the path."""
    replace = os.replace

    def once(old: Path, new: Path) -> None:
        replace(old, new)
        time.sleep(600)

    files.os.replace = once  # type: ignore[attr-defined]
    with files.replace_dir(path) as temporary:
        (temporary / "half").write_text("half")


def write(path: Path) -> None:
    with files.replace_dir(path) as temporary:
        (temporary / "file").write_text("whole")


def leftovers(folder: Path, number: int = 1) -> list[Path]:
    """Wait until a folder has `number` hidden entries; return them."""
    until_s = time.monotonic() + 20
    while len(hidden := sorted(folder.glob(".*"))) < number:
        assert time.monotonic() < until_s, hidden
        time.sleep(0.02)
    return hidden


@pytest.mark.parametrize("job", [begin, begin_file, begin_to_replace])
def test_next_writer_removes_only_the_remains_of_killed_ones(job: Callable[[Path], None], tmp_path: Path) -> None:
    out = tmp_path / "out"
    number = 1
    if job is begin_to_replace:
        write(out)
        number = 2
    with forked(lambda: job(out)):
        before = leftovers(tmp_path, number)
        write(tmp_path / "other")
        assert leftovers(tmp_path) == before, "its writer lives"
    write(tmp_path / "other")
    assert leftovers(tmp_path, 0) == []
    assert (out / "file").exists() == (job is begin_to_replace), "what it was about to replace is back"
    write(out)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "file", "other", "out"]


def test_remains_of_another_file_are_removed(tmp_path: Path) -> None:
    with forked(lambda: begin_file(tmp_path / "a")):
        leftovers(tmp_path)
    files.atomic_write(tmp_path / "b", "whole")
    assert os.listdir(tmp_path) == ["b"]


def test_similar_names_of_other_hosts_versions_and_users_are_kept(tmp_path: Path) -> None:
    """Keep files of another machine or container on the same disk, of an older version, and of the user."""
    host, namespace = files._host_and_namespace().rsplit("-", 1)
    names = [".out.elsewhere-1-2.abcdefgh", f".out.{host}-{int(namespace) + 1}-999999.abcdefgh", ".out.abcdefgh", ".out.txt"]
    for name in names:
        (tmp_path / name).touch()
    write(tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == sorted([*names, "out"])
