"""Made data: real encoded files in the official layouts of all six sets, from a seed; for learning, tests and proofs.

Toys with a color move, grow, rest or change their color in a setting; captions tell it, questions ask for it.
`make_sample` writes the same bytes whatever the number of cores.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import wait
from pathlib import Path

from alpro.config import Sample
from alpro.data.sample.plan import Clip, Plan, make_plan
from alpro.data.sample.questions import is_motion_question
from alpro.files.atomic import new_dir

__all__ = ["Clip", "Plan", "is_motion_question", "make_plan", "make_sample"]


def make_sample(
    settings: Sample, root: Path, workers: int | None = None, progress: Callable[[int, int], None] | None = None
) -> None:
    """Write the made data at `root`, as a whole or not at all, replacing what stood there.

    Layout: webvid2m/{txt,videos}, cc3m/{txt,images}, msrvtt_ret/{txt,videos}, didemo_ret/{txt,videos},
    msrvtt_qa/txt (its videos are msrvtt_ret's), msvd_qa/{txt,videos}. `workers`: processes that draw and encode
    (default: one per core); `progress(done, of)` is called as videos get ready. Raises DataError when more
    different scenes are asked for than there are.
    """
    plan = make_plan(settings)
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with new_dir(root) as aside:
        for file, text in plan.texts.items():
            (aside / file).parent.mkdir(parents=True, exist_ok=True)
            (aside / file).write_text(text, encoding="utf-8")
        for folder in {(aside / clip.file).parent for clip in plan.clips}:
            folder.mkdir(parents=True, exist_ok=True)
        done = 0
        for made in _make_all(plan.clips, aside, settings.frame_size, workers):
            done += made
            if progress:
                progress(done, len(plan.clips))


def _make_all(clips: list[Clip], root: Path, size: int, workers: int) -> Iterator[int]:
    """Make all clips, yielding how many were made since the last time."""
    chunks = [clips[i : i + 25] for i in range(0, len(clips), 25)]
    if workers <= 1:
        for chunk in chunks:
            yield _make(chunk, root, size)
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
        futures = [pool.submit(_make, chunk, root, size) for chunk in chunks]
        try:
            for future in futures:
                yield future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _make(clips: list[Clip], root: Path, size: int) -> int:
    """Draw and encode some clips; returns how many."""
    from alpro.data.sample.encode import write_image, write_video
    from alpro.data.sample.pixels import render

    for clip in clips:
        path = root / clip.file
        if path.suffix == ".jpg":
            write_image(path, render(clip.film, size, frames=1)[0])
        else:
            write_video(path, render(clip.film, size))
    return len(clips)


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work forever; it ends instead."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        sentinel = parent.sentinel

        def watch() -> None:
            wait([sentinel])
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()
