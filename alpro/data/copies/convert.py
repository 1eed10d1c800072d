"""Conversion of videos to copies that decode fast: small .mp4 files with few frames and short closed GOPs.

Training reads a few frames anywhere in a clip, and the cost is the number of frames decoded to reach them. The copies
have fewer frames, each near a key frame. The originals are not touched. Unreadable ones are listed in unreadable.tsv
beside the copies. Copies appear atomically, and an interrupted run resumes.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from alpro.config import Convert
from alpro.data.media.decoders import scaling_graph
from alpro.data.media.extensions import VIDEO_EXTENSIONS, bare_name, is_video_name
from alpro.data.media.orientation import orientation_of
from alpro.data.media.probe import probe
from alpro.data.media.streams import open_video, strict_stream
from alpro.errors import ConfigError, DataError
from alpro.files.atomic import atomic_write
from alpro.files.listing import Listing, list_files
from alpro.files.names import shown
from alpro.files.outputs import OwnFiles, read_manifest
from alpro.files.state import state_folder
from alpro.terminal.progress import reporting

UNREADABLE = "unreadable.tsv"
_VERSION = 2  # of the conversion: copies of an older version are made again


@dataclass(frozen=True, slots=True)
class ConversionSummary:
    """Numbers of files of a run, and the bytes of all readable originals and of their copies."""

    converted: int
    up_to_date: int
    unreadable: int  # in total, including earlier runs
    bytes_before: int
    bytes_after: int

    def line(self) -> str:
        """Return the summary in one line."""
        counts = f"{self.converted} converted, {self.up_to_date} up to date, {self.unreadable} unreadable in total"
        return f"{counts} (see {UNREADABLE}); {self.bytes_before / 1e6:.1f} MB became {self.bytes_after / 1e6:.1f} MB"


def conversion_settings(params: Path, name: str | None, **options: Any) -> Convert:
    """Return the settings of `convert.NAME` in params.yaml, or those of the options. Raises ConfigError for both or neither."""
    from alpro.config import load
    from alpro.errors import nearest

    chosen = {key: value for key, value in options.items() if value is not None}
    if name is None:
        if not {"source", "output"} <= chosen.keys():
            raise ConfigError("name an entry of `convert` in params.yaml, or give --source and --output")
        try:
            return Convert(**chosen)
        except ValidationError as error:
            raise ConfigError("; ".join(fault["msg"].removeprefix("Value error, ") for fault in error.errors())) from None
    if chosen:
        raise ConfigError(f"convert.{name} takes its settings from {params}; remove the other options")
    entries = load(params).convert
    if name not in entries:
        raise ConfigError(f"{params}: `convert` has no {name!r}{nearest(name, entries)}")
    return entries[name]


def convert(settings: Convert, workers: int | None = None, state: Path | None = None) -> ConversionSummary:
    """Bring the copies of a folder up to date: make missing ones and remove those whose original is gone.

    Files that cannot be read are listed in unreadable.tsv; copies of a file or folder that is left out now are kept.
    Raises DataError if the source is not a folder or contains no videos, if the folders overlap, or if two videos
    would get the same name.
    """
    source, output = Path(settings.source), Path(settings.output)
    jobs, listing = _jobs(source, output)
    targets = [target.relative_to(output) for _, target in jobs]
    parts = [str(name.with_name(f".{name.name}.part")) for name in targets]
    own = OwnFiles(output, source, [UNREADABLE, *map(str, targets), *_kept(output, listing)], parts)
    outcomes = _ConversionLog((state or state_folder() / "convert") / f"{_slug(output)}.jsonl", settings)
    outdated = [job for job in jobs if not outcomes.is_current(job)]
    workers = min(workers or len(os.sched_getaffinity(0)), max(1, len(outdated)))
    with outcomes, reporting(f"{source} -> {output}") as report:
        for job, reason in _run(outdated, settings, workers):
            outcomes.add(job, reason)
            report(len(jobs) - len(outdated) + outcomes.added, len(jobs))
    failed = [(path, reason) for path, target in jobs if (reason := outcomes.reason((path, target)))]
    rows = [(shown(path.relative_to(source)), reason) for path, reason in failed]
    rows += [(shown(name), reason) for name, reason in listing.left_out]
    if rows:
        atomic_write(output / UNREADABLE, "".join(f"{name}\t{reason}\n" for name, reason in rows))
    else:
        (output / UNREADABLE).unlink(missing_ok=True)
    own.finish()
    copied = [(path, target) for path, target in jobs if not outcomes.reason((path, target))]
    before, after = (sum(job[i].stat().st_size for job in copied) for i in (0, 1))
    return ConversionSummary(len(outdated), len(jobs) - len(outdated), len(rows), before, after)


def _jobs(source: Path, output: Path) -> tuple[list[tuple[Path, Path]], Listing]:
    """Return (original, copy) of every video, sorted by name, and the listing of the source."""
    if source.is_symlink() and not source.exists():
        raise DataError(f"{source}: is a broken link (to {source.readlink()}); fix it")
    if not source.is_dir():
        raise DataError(f"{source}: no such folder; put the videos there")
    jobs: dict[Path, Path] = {}
    clashes = []
    listing = list_files(source, is_video_name)
    for path in sorted(source / name for name in listing.names):
        target = output / path.relative_to(source).parent / f"{bare_name(path.name)}.mp4"
        if target in jobs:
            clashes.append(f"{jobs[target]} and {path}")
        jobs[target] = path
    if clashes:
        more = f" and {len(clashes) - 5} more pairs" if len(clashes) > 5 else ""
        raise DataError(f"{', '.join(clashes[:5])}{more}: would get the same name; move or rename one of each pair")
    if not jobs:
        nothing = f"{source}: contains no videos ({', '.join(VIDEO_EXTENSIONS)})"
        raise DataError("\n".join([nothing, *listing.messages(source)]))
    return [(path, target) for target, path in jobs.items()], listing


def _kept(output: Path, listing: Listing) -> list[str]:
    """Return the earlier copies of files and folders that are left out now, such as a disk that is not mounted."""
    left_out = [name for name, _ in listing.left_out]
    copies = {f"{name.removesuffix(Path(name).name)}{bare_name(Path(name).name)}.mp4" for name in left_out}
    folders = tuple(f"{name}/" for name in left_out)
    return [name for name in read_manifest(output) if name in copies or name.startswith(folders)]


# --- in parallel --------------------------------------------------------------------------------------------


def _run(jobs: Sequence[tuple[Path, Path]], settings: Convert, workers: int) -> Iterator[tuple[tuple[Path, Path], str]]:
    """Yield (job, reason of the failure or "") as the jobs end.

    After a crash of a worker, each file it may have been converting is retried in a process of its own. With one
    worker, this process converts.
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
                yield job, _convert_isolated(job, settings)


def _convert_isolated(job: tuple[Path, Path], settings: Convert) -> str:
    try:
        with _pool(1) as pool:
            return pool.submit(convert_file, *job, settings).result()
    except BrokenProcessPool:
        return "it crashes the decoder"


def _pool(workers: int) -> ProcessPoolExecutor:
    # spawn: a fork of a process that already has threads may hang
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


class _ConversionLog:
    """Outcome of every original with its size and time, as JSON lines that are appended one by one."""

    def __init__(self, path: Path, settings: Convert) -> None:
        self.path, self.added = path, 0
        plain = settings.model_dump(exclude={"source", "output"})
        self._mark = hashlib.sha256(json.dumps([_VERSION, plain], sort_keys=True).encode()).hexdigest()[:16]
        self._entries: dict[str, dict[str, Any]] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                entry = json.loads(line)
                self._entries[entry["file"]] = entry
            except (ValueError, KeyError, TypeError):  # a kill cut this line
                continue

    def is_current(self, job: tuple[Path, Path]) -> bool:
        """Return True if the copy is up to date or the unchanged original is unreadable."""
        entry = self._entries.get(str(job[0]))
        same = entry is not None and all(entry.get(key) == value for key, value in self._stamp(job[0]).items())
        return bool(same and entry and (entry["reason"] or job[1].exists()))

    def reason(self, job: tuple[Path, Path]) -> str:
        """Return why a file could not be converted, or an empty string."""
        return str(self._entries[str(job[0])]["reason"])

    def add(self, job: tuple[Path, Path], reason: str) -> None:
        """Append an outcome."""
        entry = {"file": str(job[0]), **self._stamp(job[0]), "reason": reason}
        self._entries[str(job[0])] = entry
        self.added += 1
        print(json.dumps(entry), file=self._file, flush=True)

    def _stamp(self, path: Path) -> dict[str, Any]:
        stat = path.stat() if path.exists() else None
        return {"settings": self._mark, "size": stat.st_size if stat else -1, "mtime_ns": stat.st_mtime_ns if stat else -1}

    def __enter__(self) -> _ConversionLog:
        atomic_write(self.path, "".join(json.dumps(entry) + "\n" for entry in self._entries.values()))
        self._file = self.path.open("a", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _slug(path: Path) -> str:
    return str(path).strip("/").replace("/", "__")


# --- one file -----------------------------------------------------------------------------------------------


def convert_file(source: Path, target: Path, settings: Convert) -> str:
    """Write the copy of a video and return "", or the reason if it is unreadable; then there is no copy."""
    info = probe(source, digest=False)
    if not info.readable:
        target.unlink(missing_ok=True)
        return info.reason
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.part")
    try:
        _encode(source, temporary, settings, info.frames, info.fps)
        os.replace(temporary, target)
    except DataError as error:
        target.unlink(missing_ok=True)
        return str(error).removeprefix(f"{source}: ")
    finally:
        temporary.unlink(missing_ok=True)
    return ""


def _encode(source: Path, target: Path, settings: Convert, frames: int, fps: float) -> None:
    import av

    keep, rate = select_frames(frames, fps, settings)
    copied: Any = None
    scaled: _Scaling | None = None
    read = written = 0
    try:
        with open_video(source) as container, av.open(str(target), "w", format="mp4") as copy:
            stream = strict_stream(container)
            for index, frame in enumerate(container.decode(stream)):
                read = index + 1
                if not keep(index):
                    continue
                scaled = scaled or _Scaling(stream, frame, settings.short_side)
                small = scaled(frame)
                if copied is None:
                    copied = copy.add_stream("libx264", rate=rate, options=_options(settings))
                    copied.width, copied.height, copied.pix_fmt = small.width, small.height, "yuv420p"
                    copied.codec_context.thread_count = 1
                    copied.codec_context.time_base = 1 / rate
                    copied.codec_context.colorspace = small.colorspace  # otherwise players would take HD colors for SD
                small.pts, small.time_base, small.pict_type = written, 1 / rate, 0
                written += 1
                copy.mux(copied.encode(small))
            if copied is None or read < frames - 1:
                raise DataError(f"only {read} of {frames} frames can be decoded")
            copy.mux(copied.encode())
    except av.FFmpegError as error:
        raise DataError(f"frame {read}: {error.strerror}") from None


class _Scaling:
    """Filter that turns frames upright and shrinks them to even sides, as H.264 requires; it never enlarges.

    All frames get the size of the first one; a stream may change its size.
    """

    def __init__(self, stream: Any, first: Any, short_side: int | None) -> None:
        self.stream, self.orientation = stream, orientation_of(first)
        width, height = (first.height, first.width) if self.orientation.swaps_sides else (first.width, first.height)
        factor = min(1.0, short_side / min(width, height)) if short_side else 1.0
        self.sides = ":".join(str(max(2, 2 * round(side * factor / 2))) for side in (width, height))
        self.graphs: dict[tuple[int, int, str], Any] = {}

    def __call__(self, frame: Any) -> Any:
        key = (frame.width, frame.height, frame.format.name)
        if key not in self.graphs:
            scale = f"{self.sides}:flags=area"
            self.graphs[key] = scaling_graph(self.stream, frame, self.orientation, scale, "yuv420p", mirror=True)
        self.graphs[key].push(frame)
        return self.graphs[key].pull()


def select_frames(frames: int, fps: float, settings: Convert) -> tuple[Callable[[int], bool], Fraction]:
    """Return a function that tells whether the copy keeps frame `index`, and the copy's frame rate.

    `every` N keeps frames 0, N, 2N, ...; `fps` keeps that many per second, evenly spaced. Either way at least
    `min_frames` are kept, or all if there are fewer.
    """
    rate = Fraction(fps).limit_denominator(1001) if fps else Fraction(25)
    count = frames
    if settings.every:
        count = -(-frames // settings.every)
    elif settings.fps and fps:
        count = round(frames / fps * settings.fps)
    count = min(frames, max(count, settings.min_frames))
    if settings.every and count == -(-frames // settings.every):
        step = Fraction(settings.every)
    else:
        step = Fraction(frames, max(1, count))
    chosen = {int(i * step) for i in range(count)}
    return chosen.__contains__, max(Fraction(1, 100), (rate / step).limit_denominator(10**6))


def _options(settings: Convert) -> dict[str, str]:
    params = f"keyint={settings.gop}:min-keyint={settings.gop}:scenecut=0:open-gop=0:bframes=0"
    return {"preset": "fast", "tune": "fastdecode", "crf": str(settings.crf), "x264-params": params}
