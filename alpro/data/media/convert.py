"""Copies of videos that decode fast: .mp4, fewer frames, smaller, with short closed groups of pictures.

A training reads a few frames of a clip, anywhere in it; how long that takes is how many frames must be decoded to reach
them. The copies hold fewer, each near a key frame. The originals are not touched, unreadable ones are listed in
unreadable.tsv beside the copies, and a run that was stopped goes on: each copy stands whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from alpro.config import Convert
from alpro.data.media.decoders import turns, video_stream
from alpro.data.media.extensions import VIDEO_EXTENSIONS, bare_name
from alpro.data.media.probe import probe
from alpro.errors import ConfigError, DataError
from alpro.files.atomic import atomic_write
from alpro.terminal.progress import reporting

UNREADABLE = "unreadable.tsv"
STATE = Path(".state/convert")
_VERSION = 1  # of how a copy is made: what an older one made is made again


@dataclass(frozen=True, slots=True)
class Converted:
    """What a run did: numbers of files, bytes of all originals that were read and of their copies."""

    made: int
    kept: int
    unreadable: int
    bytes_before: int
    bytes_after: int

    def line(self) -> str:
        """In one line."""
        size = f"{self.bytes_before / 1e6:.1f} MB became {self.bytes_after / 1e6:.1f} MB"
        return f"{self.made} converted, {self.kept} up to date, {self.unreadable} of all unreadable ({UNREADABLE}); {size}"


def settings_of(params: Path, name: str | None, **options: Any) -> Convert:
    """The settings of `convert.NAME` in params.yaml, or those given as options. Raises ConfigError for both or neither."""
    from alpro.config import load
    from alpro.errors import nearest

    given = {key: value for key, value in options.items() if value is not None}
    if name is None:
        if not {"source", "output"} <= given.keys():
            raise ConfigError("name an entry of `convert` in params.yaml, or give --source and --output")
        try:
            return Convert(**given)
        except ValidationError as error:
            raise ConfigError("; ".join(fault["msg"].removeprefix("Value error, ") for fault in error.errors())) from None
    if given:
        raise ConfigError(f"convert.{name} has its settings in {params}; give no options beside it")
    known = load(params).convert
    if name not in known:
        raise ConfigError(f"{params}: `convert` has no {name!r}{nearest(name, known)}")
    return known[name]


def convert(settings: Convert, workers: int | None = None, state: Path = STATE) -> Converted:
    """Bring the copies of a folder up to date: make what is missing, remove what has no original any more.

    Raises DataError when the source is no folder or holds no videos, when the copies would lie in it, or when two
    videos would get one name.
    """
    source, output = Path(settings.source), Path(settings.output)
    jobs = _jobs(source, output)
    output.mkdir(parents=True, exist_ok=True)
    done = _Done(state / f"{_slug(output)}.jsonl", settings)
    todo = [job for job in jobs if not done.knows(job)]
    _prune(output, {target for _, target in jobs})
    workers = min(workers or len(os.sched_getaffinity(0)), max(1, len(todo)))
    with done, reporting(f"{source} -> {output}") as report:
        for job, reason in _run(todo, settings, workers):
            done.add(job, reason)
            report(len(jobs) - len(todo) + done.added, len(jobs))
    failed = [(path, reason) for path, target in jobs if (reason := done.reason((path, target)))]
    lines = "".join(f"{path.relative_to(source)}\t{reason}\n" for path, reason in failed)
    if lines:
        atomic_write(output / UNREADABLE, lines)
    else:
        (output / UNREADABLE).unlink(missing_ok=True)
    whole = [(path, target) for path, target in jobs if not done.reason((path, target))]
    before, after = (sum(job[i].stat().st_size for job in whole) for i in (0, 1))
    return Converted(len(todo), len(jobs) - len(todo), len(failed), before, after)


def _jobs(source: Path, output: Path) -> list[tuple[Path, Path]]:
    """(original, copy), by name."""
    if source.is_symlink() and not source.exists():
        raise DataError(f"{source}: the link leads nowhere (to {source.readlink()}); mend it")
    if not source.is_dir():
        raise DataError(f"{source}: no such folder; put the videos there")
    real, beside = source.resolve(), output.resolve()
    if real == beside or real in beside.parents or beside in real.parents:
        raise DataError(f"{output}: the copies need a folder apart from {source}, so that the originals stay as they are")
    jobs: dict[Path, Path] = {}
    clashes = []
    for path in sorted(source.rglob("*")):
        if not path.name.lower().endswith((*VIDEO_EXTENSIONS, ".")) or path.name.startswith(".") or path.is_dir():
            continue
        target = output / path.relative_to(source).parent / f"{bare_name(path.name)}.mp4"
        if target in jobs:
            clashes.append(f"{jobs[target]} and {path}")
        jobs[target] = path
    if clashes:
        more = f" and {len(clashes) - 5} more" if len(clashes) > 5 else ""
        raise DataError(f"{', '.join(clashes[:5])}{more}: would get one name; move one of each away")
    if not jobs:
        raise DataError(f"{source}: holds no videos ({', '.join(VIDEO_EXTENSIONS)})")
    return [(path, target) for target, path in jobs.items()]


def _prune(output: Path, wanted: set[Path]) -> None:
    for path in [*output.rglob("*.mp4"), *output.rglob(".*.part")]:
        if path not in wanted:
            path.unlink()


# --- in parallel --------------------------------------------------------------------------------------------


def _run(jobs: Sequence[tuple[Path, Path]], settings: Convert, workers: int) -> Iterator[tuple[tuple[Path, Path], str]]:
    """(job, why it failed, or nothing) as they end; a file that crashes its decoder is found out by being alone.

    One worker is this process itself.
    """
    if workers == 1:
        yield from ((job, convert_file(*job, settings)) for job in jobs)
        return
    waiting = list(reversed(jobs))
    while waiting:
        running: dict[Future[str], tuple[Path, Path]] = {}
        try:
            with _pool(workers) as pool:
                while waiting or running:
                    while waiting and len(running) < 2 * workers:
                        running[pool.submit(convert_file, *waiting[-1], settings)] = waiting[-1]
                        waiting.pop()
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        reason = future.result()
                        yield running.pop(future), reason
        except BrokenProcessPool:
            for job in running.values():
                yield job, _alone(job, settings)


def _alone(job: tuple[Path, Path], settings: Convert) -> str:
    try:
        with _pool(1) as pool:
            return pool.submit(convert_file, *job, settings).result()
    except BrokenProcessPool:
        return "it crashes the decoder"


def _pool(workers: int) -> ProcessPoolExecutor:
    # fresh processes: a fork of one that already has threads may hang
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


class _Done:
    """Which originals were converted, by size and time: JSON lines, one a file, appended as they come."""

    def __init__(self, path: Path, settings: Convert) -> None:
        self.path, self.added = path, 0
        plain = settings.model_dump(exclude={"source", "output"})
        self._mark = hashlib.sha256(json.dumps([_VERSION, plain], sort_keys=True).encode()).hexdigest()[:16]
        self._known: dict[str, dict[str, Any]] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                entry = json.loads(line)
                self._known[entry["file"]] = entry
            except (ValueError, KeyError, TypeError):  # the line that a kill cut
                continue

    def knows(self, job: tuple[Path, Path]) -> bool:
        """Whether its copy is up to date, or it is known to be unreadable."""
        entry = self._known.get(str(job[0]))
        same = entry is not None and all(entry.get(key) == value for key, value in self._stamp(job[0]).items())
        return bool(same and entry and (entry["reason"] or job[1].exists()))

    def reason(self, job: tuple[Path, Path]) -> str:
        """Why a file could not be converted, or nothing."""
        return str(self._known[str(job[0])]["reason"])

    def add(self, job: tuple[Path, Path], reason: str) -> None:
        """Record an outcome."""
        entry = {"file": str(job[0]), **self._stamp(job[0]), "reason": reason}
        self._known[str(job[0])] = entry
        self.added += 1
        print(json.dumps(entry), file=self._file, flush=True)

    def _stamp(self, path: Path) -> dict[str, Any]:
        stat = path.stat() if path.exists() else None
        return {"settings": self._mark, "size": stat.st_size if stat else -1, "mtime_ns": stat.st_mtime_ns if stat else -1}

    def __enter__(self) -> _Done:
        atomic_write(self.path, "".join(json.dumps(entry) + "\n" for entry in self._known.values()))
        self._file = self.path.open("a", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _slug(path: Path) -> str:
    return str(path).strip("/").replace("/", "__")


# --- one file -----------------------------------------------------------------------------------------------


def convert_file(source: Path, target: Path, settings: Convert) -> str:
    """Write the copy of a video; why it can't be, or nothing. A file that training would not read gets no copy."""
    info = probe(source, every_frame=False, digest=False)
    if not info.readable:
        target.unlink(missing_ok=True)
        return info.reason
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.part")
    try:
        _encode(source, aside, settings, info.frames, info.fps)
        os.replace(aside, target)
    except DataError as error:
        target.unlink(missing_ok=True)
        return str(error).removeprefix(f"{source}: ")
    finally:
        aside.unlink(missing_ok=True)
    return ""


def _encode(source: Path, target: Path, settings: Convert, frames: int, fps: float) -> None:
    import av

    keep, rate = kept_frames(frames, fps, settings)
    copied: Any = None
    graph: Any = None
    read = written = 0
    try:
        with av.open(str(source)) as container, av.open(str(target), "w", format="mp4") as copy:
            stream = video_stream(container)
            for index, frame in enumerate(container.decode(stream)):
                read = index + 1
                if not keep(index):
                    continue
                if graph is None:
                    graph = _scaled(stream, frame, settings.short_side)
                graph.push(frame)
                small = graph.pull()
                if copied is None:
                    copied = copy.add_stream("libx264", rate=rate, options=_options(settings))
                    copied.width, copied.height, copied.pix_fmt = small.width, small.height, "yuv420p"
                    copied.codec_context.thread_count = 1
                    copied.codec_context.time_base = 1 / rate
                    copied.codec_context.colorspace = small.colorspace  # else HD's colours would be read as SD's
                small.pts, small.time_base, small.pict_type = written, 1 / rate, 0
                written += 1
                copy.mux(copied.encode(small))
            if copied is None or read < frames - 1:
                raise DataError(f"{read} frames decode, {frames} are there")
            copy.mux(copied.encode())
    except av.FFmpegError as error:
        raise DataError(f"frame {read}: {error.strerror}") from None


def _scaled(stream: Any, frame: Any, short_side: int | None) -> Any:
    """A filter that brings frames upright and to their size; never larger, and even, as H.264 wants it."""
    import av

    way = turns(frame)
    width, height = (frame.height, frame.width) if len(way) == 1 else (frame.width, frame.height)
    factor = min(1.0, short_side / min(width, height)) if short_side else 1.0
    sides = ":".join(str(max(2, 2 * round(side * factor / 2))) for side in (width, height))
    graph = av.filter.Graph()
    filters = [graph.add_buffer(template=stream), *(graph.add("transpose", turn) for turn in way)]
    filters += [graph.add("scale", f"{sides}:flags=area"), graph.add("format", "yuv420p"), graph.add("buffersink")]
    graph.link_nodes(*filters).configure()
    return graph


def kept_frames(frames: int, fps: float, settings: Convert) -> tuple[Any, Fraction]:
    """Which frames a copy keeps, a function of the index, and its rate.

    `every` N keeps 0, N, 2N, ...; `fps` keeps as many a second, evenly. Either way at least `min_frames`, or all there are.
    """
    rate = Fraction(fps).limit_denominator(1001) if fps else Fraction(25)
    wanted = frames
    if settings.every:
        wanted = -(-frames // settings.every)
    elif settings.fps and fps:
        wanted = round(frames / fps * settings.fps)
    wanted = min(frames, max(wanted, settings.min_frames))
    if settings.every and wanted == -(-frames // settings.every):
        step = Fraction(settings.every)
    else:
        step = Fraction(frames, max(1, wanted))
    chosen = {int(i * step) for i in range(wanted)}
    return chosen.__contains__, max(Fraction(1, 100), (rate / step).limit_denominator(10**6))


def _options(settings: Convert) -> dict[str, str]:
    params = f"keyint={settings.gop}:min-keyint={settings.gop}:scenecut=0:open-gop=0:bframes=0"
    return {"preset": "fast", "tune": "fastdecode", "crf": str(settings.crf), "x264-params": params}
