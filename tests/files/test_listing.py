"""Every file below a folder is listed once, links are followed, and everything that is left out is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from alpro.files import listing
from alpro.files.listing import list_files


def files(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_files_of_linked_folders_are_listed_once(tmp_path: Path) -> None:
    root = files(tmp_path / "v", "own/a.mp4", "b.mp4", "notes.txt", ".hidden/c.mp4", ".c.mp4")
    files(tmp_path / "disk", "part1/x.mp4", "part1/deep/y.mp4")
    (root / "part1").symlink_to(tmp_path / "disk" / "part1")
    (root / "same").symlink_to(tmp_path / "disk" / "part1")
    (root / "again").symlink_to("own")
    (root / "l.mp4").symlink_to("b.mp4")  # a name of its own: rows may use it
    found = list_files(root, lambda name: name.endswith(".mp4"))
    assert found.names == ["b.mp4", "l.mp4", "own/a.mp4", "part1/deep/y.mp4", "part1/x.mp4"]
    assert found.left_out == [("again", "is the folder own again"), ("same", "is the folder part1 again")]


def test_loops_and_broken_links_are_named_and_the_others_listed(tmp_path: Path) -> None:
    root = files(tmp_path / "v", "a.mp4", "z/b.mp4")
    (root / "loop.mp4").symlink_to("loop.mp4")
    (root / "one").symlink_to("two")
    (root / "two").symlink_to("one")
    (root / "up").symlink_to("..")
    (root / "z" / "self").symlink_to(root)
    (root / "gone").symlink_to("/nowhere/disk")
    found = list_files(root)
    assert found.names == ["a.mp4", "z/b.mp4"]
    assert dict(found.left_out) == {
        "gone": "is a broken link (to /nowhere/disk)",
        "loop.mp4": "is a loop of links",
        "one": "is a loop of links",
        "two": "is a loop of links",
        "up": "is a link to a folder that contains it",
        "z/self": "is a link to a folder that contains it",
    }


def test_folders_that_link_to_each_other_end(tmp_path: Path) -> None:
    root = files(tmp_path / "v", "m.mp4")
    files(tmp_path, "a/x.mp4", "b/y.mp4")
    (tmp_path / "a" / "b").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "a").symlink_to(tmp_path / "a")
    (root / "a").symlink_to(tmp_path / "a")
    (root / "b").symlink_to(tmp_path / "b")
    found = list_files(root)
    assert found.names == ["a/x.mp4", "b/y.mp4", "m.mp4"]
    assert {name for name, _ in found.left_out} == {"a/b", "b/a"}


def test_names_that_are_not_utf8_are_named_escaped(tmp_path: Path) -> None:
    root = files(tmp_path / "v", "a.mp4", os.fsdecode(b"caf\xe9.mp4"), os.fsdecode(b"d\xff/b.mp4"), os.fsdecode(b"n\xe9.txt"))
    found = list_files(root, lambda name: name.endswith(".mp4"))
    assert found.names == ["a.mp4"]
    assert found.messages("v") == [
        r"v/caf\xe9.mp4: its name is not UTF-8; rename it",
        r"v/d\xff: its name is not UTF-8; rename it",
    ]


def test_pipes_and_unreadable_folders_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = files(tmp_path / "v", "a.mp4", "closed/b.mp4")
    os.mkfifo(root / "pipe.mp4")
    scandir = os.scandir

    def refuse(path: str) -> object:
        if path.rstrip("/").endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(listing.os, "scandir", refuse)
    found = list_files(root)
    assert found.names == ["a.mp4"]
    assert found.left_out == [("closed", "permission denied"), ("pipe.mp4", "is a pipe, not a file")]
    assert list_files(tmp_path / "none") == listing.Listing()
    assert list_files(root / "closed").left_out == [(".", "permission denied")]
    assert list_files(root / "a.mp4") == listing.Listing()
