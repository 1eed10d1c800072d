"""Synthetic sample data: encoded videos and images in the official layouts of all six sets, generated from a seed.

Colored toys move, grow, rest or change their color in a setting; captions describe this, and questions ask about it.
`make_sample` writes the same bytes with any number of cores.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from alpro.config import Sample
from alpro.data.sample.plan import Plan, PlannedClip, plan_sample
from alpro.data.sample.questions import is_motion_question
from alpro.files.outputs import new_dir
from alpro.system.parent import die_with_parent

__all__ = ["Plan", "PlannedClip", "is_motion_question", "make_sample", "plan_sample"]


def make_sample(
    settings: Sample, root: Path, workers: int | None = None, progress: Callable[[int, int], None] | None = None
) -> None:
    """Write the sample data to `root` atomically, replacing existing data.

    Layout: webvid2m/{txt,videos}, cc3m/{txt,images}, msrvtt_ret/{txt,videos}, didemo_ret/{txt,videos},
    msrvtt_qa/txt (its videos are msrvtt_ret's), msvd_qa/{txt,videos}. `workers` is the number of processes that draw and
    encode (default: one per core). `progress(done, total)` is called as videos are finished. Raises DataError if there are
    not enough different scenes for the requested number of videos.
    """
    plan = plan_sample(settings)
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with new_dir(root) as temporary:
        for file, text in plan.texts.items():
            (temporary / file).parent.mkdir(parents=True, exist_ok=True)
            (temporary / file).write_text(text, encoding="utf-8")
        for folder in {(temporary / clip.file).parent for clip in plan.clips}:
            folder.mkdir(parents=True, exist_ok=True)
        done = 0
        for count in _write_clips(plan.clips, temporary, settings.frame_size, workers):
            done += count
            if progress:
                progress(done, len(plan.clips))


def _write_clips(clips: list[PlannedClip], root: Path, size: int, workers: int) -> Iterator[int]:
    """Write all clips; yield the number of clips in each finished chunk."""
    chunks = [clips[i : i + 25] for i in range(0, len(clips), 25)]
    if workers <= 1:
        for chunk in chunks:
            yield _write_chunk(chunk, root, size)
        return
    context = multiprocessing.get_context("spawn")  # a forked child of a process with threads may hang
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
        futures = [pool.submit(_write_chunk, chunk, root, size) for chunk in chunks]
        try:
            for future in futures:
                yield future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _write_chunk(clips: list[PlannedClip], root: Path, size: int) -> int:
    """Draw and encode some clips; return their number."""
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
    """Have a worker end when its parent is killed; otherwise it would wait for work forever."""
    die_with_parent()
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():  # it died before the call above
        os._exit(1)
