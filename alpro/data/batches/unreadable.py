"""Before an evaluation starts: which of its files can't be read, all of them, without reading each file twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alpro.data.annotations.media_files import missing
from alpro.data.annotations.records import Record
from alpro.data.batches.loader import refusal, try_clips
from alpro.data.media.frames import Strategy
from alpro.data.media.index import looked_at
from alpro.errors import DataError

_SIDE = 32  # of frames that nobody looks at


def refuse_unreadable(records: Sequence[Record], num_frames: int, strategy: Strategy, cache: str | Path) -> None:
    """Raise DataError that lists the files whose frames an evaluation can't read.

    Tried are those that are missing, and those that an earlier look (`cache`, as validation leaves it: `index.cache_of`)
    found unreadable; where one of these fails, also all that was never looked at, so that the list is whole. Of files that
    nobody looked at a fault shows when reading reaches it, with all others (`loader.iter_clips`).
    """
    looked = looked_at((record.path for record in records), cache)
    absent = missing([record.path for record in records])
    bad, unknown = [], []
    for record in records:
        info = looked.get(str(record.path))
        if record.path in absent or (info and not info.readable):
            bad.append(record)
        elif info is None:
            unknown.append(record)
    if faults := _faults(bad, num_frames, strategy):
        raise DataError(refusal(faults + _faults(unknown, num_frames, strategy)))


def _faults(records: Sequence[Record], num_frames: int, strategy: Strategy) -> list[str]:
    tried = try_clips(records, num_frames, strategy, _SIDE)
    return [str(found) for _, found in tried if isinstance(found, DataError)]
