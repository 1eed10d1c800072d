"""The store of frames: complete entries only, whenever a writer is killed, and one copy of what several processes add."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest

from alpro.files import frame_store
from alpro.files.frame_store import FrameStore
from alpro.files.locks import Lock

LIMIT = 10**8


def frames(number: int, count: int = 4) -> np.ndarray:
    """Return different frames for each number: (count, 3, 40, 40) uint8."""
    return np.random.default_rng(number).integers(0, 256, (count, 3, 40, 40), dtype=np.uint8)


def stored(folder: Path) -> list[int]:
    """Return the numbers of all stored clips; each must be intact."""
    store = FrameStore(folder, LIMIT)
    numbers = [int(content) for (content,) in store._index.execute("SELECT content FROM clips ORDER BY number")]
    for number in numbers:
        found = store.get(str(number), "all")
        assert found is not None and np.array_equal(found, frames(number))
    store.close()
    return numbers


def in_child(action) -> int:
    """Run an action in a forked child and return its process id."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        action()
        code = 0
    finally:
        os._exit(code)


def fill(folder: Path, numbers) -> None:
    store = FrameStore(folder, LIMIT)
    for number in numbers:
        assert store.add(str(number), "all", frames(number))


def test_frames_are_returned_bit_for_bit_also_some_of_them_and_by_another_process(tmp_path):
    store = FrameStore(tmp_path / "new", LIMIT)
    assert store.get("a", "all") is None
    store.add("a", "all", frames(0))
    store.add("a", "half", frames(1, 2))
    assert np.array_equal(store.get("a", "all"), frames(0)) and np.array_equal(store.get("a", "half"), frames(1, 2))
    assert np.array_equal(store.get("a", "all", lambda total: [0, total - 1]), frames(0)[[0, 3]])
    store.close()
    assert os.waitpid(in_child(lambda: np.testing.assert_array_equal(_get(tmp_path / "new", "a"), frames(0))), 0)[1] == 0


def _get(folder: Path, content: str) -> np.ndarray | None:
    return FrameStore(folder, LIMIT).get(content, "all")


def test_the_returned_frames_are_a_copy(tmp_path):
    store = FrameStore(tmp_path, LIMIT)
    store.add("a", "all", frames(0))
    store.get("a", "all")[:] = 0
    assert np.array_equal(store.get("a", "all"), frames(0))


@pytest.mark.parametrize("point", ["half of the pixels", "all pixels, not published", "creating the index"])
def test_a_writer_killed_in_the_middle_leaves_only_complete_clips(tmp_path, point):
    if point != "creating the index":
        fill(tmp_path, range(3))

    def die_while_writing():
        def write(file, data, offset):
            os.pwrite(file, memoryview(data).cast("B")[: data.nbytes // (2 if point.startswith("half") else 1)], offset)
            os.kill(os.getpid(), signal.SIGKILL)

        frame_store._write_all = write
        if point == "creating the index":
            frame_store._SCHEMA = frame_store._SCHEMA.split("CREATE TABLE clips")[0] + "SELECT die();"
            connect = sqlite3.connect

            def with_die(*args, **options):
                index = connect(*args, **options)
                index.create_function("die", 0, lambda: os.kill(os.getpid(), signal.SIGKILL))
                return index

            frame_store.sqlite3.connect = with_die
        fill(tmp_path, range(3, 6))

    _, status = os.waitpid(in_child(die_while_writing), 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert stored(tmp_path) == ([] if point == "creating the index" else [0, 1, 2])
    fill(tmp_path, range(6))
    assert stored(tmp_path) == list(range(6))


def test_writers_killed_at_any_moment_leave_only_complete_clips(tmp_path):
    filled = 0
    for delay_ms in (1, 3, 10, 20, 35, 50):
        pids = [in_child(lambda: fill(tmp_path, range(1000))) for _ in range(2)]
        time.sleep(delay_ms / 1000)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        numbers = stored(tmp_path)
        assert numbers == list(range(len(numbers))) and len(numbers) >= filled
        filled = len(numbers)
    fill(tmp_path, range(filled + 5))
    assert stored(tmp_path) == list(range(filled + 5))


def test_two_processes_that_fill_at_once_store_each_clip_once(tmp_path):
    pids = [in_child(lambda order=order: fill(tmp_path, order)) for order in (range(60), reversed(range(60)), range(20, 80))]
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0]
    assert sorted(stored(tmp_path)) == list(range(80))
    assert (tmp_path / "frames").stat().st_size == 80 * frames(0).nbytes


def test_a_damaged_clip_counts_as_missing_and_can_be_stored_again(tmp_path):
    fill(tmp_path, range(3))
    with (tmp_path / "frames").open("r+b") as file:
        file.seek(frames(0).nbytes + 7000)
        file.write(b"\0" * 100)
    store = FrameStore(tmp_path, LIMIT)
    assert np.array_equal(store.get("1", "all", lambda total: [0]), frames(1)[:1])  # another frame of the clip is damaged
    assert store.get("1", "all") is None
    store.close()
    fill(tmp_path, [1])
    assert stored(tmp_path) == [0, 2, 1]


def test_a_shortened_file_of_pixels_gives_missing_clips(tmp_path):
    fill(tmp_path, range(3))
    os.truncate(tmp_path / "frames", frames(0).nbytes + 10)
    store = FrameStore(tmp_path, LIMIT)
    assert np.array_equal(store.get("0", "all"), frames(0))
    assert store.get("1", "all") is None and store.get("2", "all") is None


def test_the_limit_is_kept(tmp_path):
    store = FrameStore(tmp_path, 2 * frames(0).nbytes + 100)
    assert [store.add(str(number), "all", frames(number)) for number in range(4)] == [True, True, False, False]
    assert store.add("small", "all", frames(0)[:, :1, :1, :1])
    assert (tmp_path / "frames").stat().st_size <= store.limit
    assert store.get("2", "all") is None and np.array_equal(store.get("1", "all"), frames(1))


def test_a_full_disk_is_an_error_and_loses_nothing(tmp_path):
    fill(tmp_path, range(3))

    def with_full_disk():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 * frames(0).nbytes + 100,) * 2)
        store = FrameStore(tmp_path, LIMIT)
        with pytest.raises((OSError, sqlite3.Error)):
            for number in range(3, 9):
                store.add(str(number), "all", frames(number))
        assert np.array_equal(store.get("1", "all"), frames(1))

    assert os.waitpid(in_child(with_full_disk), 0)[1] == 0
    numbers = stored(tmp_path)
    assert numbers[:3] == [0, 1, 2] and len(numbers) <= 4
    fill(tmp_path, range(9))
    assert stored(tmp_path) == list(range(9))


def test_another_format_and_other_files_are_errors(tmp_path):
    FrameStore(tmp_path / "a", LIMIT)._index.execute("PRAGMA user_version = 9")
    with pytest.raises(OSError, match="it has format 9"):
        FrameStore(tmp_path / "a", LIMIT)
    (tmp_path / "b").mkdir()
    (tmp_path / "b/index.sqlite").write_bytes(b"not a database" * 1000)
    with pytest.raises(sqlite3.DatabaseError):
        FrameStore(tmp_path / "b", LIMIT)
    assert (tmp_path / "b/index.sqlite").read_bytes() == b"not a database" * 1000


def test_processes_that_open_a_new_store_at_once_wait_for_each_other(tmp_path):
    with Lock(tmp_path / "create.lock"):
        pids = [in_child(lambda number=number: fill(tmp_path, [number])) for number in range(4)]
        time.sleep(0.1)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 4
    assert sorted(stored(tmp_path)) == [0, 1, 2, 3]


def test_contents_of_files_are_remembered_by_their_state(tmp_path):
    store = FrameStore(tmp_path, LIMIT)
    assert store.content_of("/a", "1") is None
    store.remember("/a", "1", "x")
    assert store.content_of("/a", "1") == "x" and store.content_of("/a", "2") is None
    store.remember("/a", "2", "y")
    assert store.content_of("/a", "1") is None and store.content_of("/a", "2") == "y"
