"""The check before an evaluation: all its unreadable files, without reading every file twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alpro.data.annotations.media_files import missing_paths
from alpro.data.annotations.records import Record
from alpro.data.batches.ordered_clips import try_clips, unreadable_message
from alpro.data.media.frames import Strategy
from alpro.data.media.index import cached_probes, trust_probes
from alpro.errors import DataError

_SIDE = 32  # pixels: the frames are decoded but not used


def refuse_unreadable(records: Sequence[Record], num_frames: int, strategy: Strategy, cache: str | Path) -> None:
    """Raise DataError listing the files whose frames an evaluation cannot read.

    Missing files, and those that an earlier probe found unreadable, are tried. `cache` is the probe cache that
    validation writes (`index.probe_cache_path`); its readable files are not checked again. If one of these fails, files
    that were never probed are tried too, so that the list is complete. Otherwise a defect of such a file is reported when
    it is read (`ordered_clips.iter_clips`).
    """
    trust_probes(cache)
    infos = cached_probes((record.path for record in records), cache)
    absent = missing_paths([record.path for record in records])
    suspects, unprobed = [], []
    for record in records:
        info = infos.get(str(record.path))
        if record.path in absent or (info and not info.readable):
            suspects.append(record)
        elif info is None:
            unprobed.append(record)
    if faults := _faults(suspects, num_frames, strategy):
        raise DataError(unreadable_message(faults + _faults(unprobed, num_frames, strategy)))


def _faults(records: Sequence[Record], num_frames: int, strategy: Strategy) -> list[str]:
    tried = try_clips(records, num_frames, strategy, _SIDE)
    return [str(clip) for _, clip in tried if isinstance(clip, DataError)]
