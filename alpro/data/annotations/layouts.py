"""Annotation layouts: the official one, the formats in which the sets are published, and one table of your own.

`split_rows` and `corpus_rows` yield (position in the file, row) with the keys that `read` and `validation` expect,
for every layout. Layouts of a downstream set (a folder or one file):

- `{train,val,test}` as .jsonl, .json, .csv, .tsv or .parquet: the official layout.
- `{train,val,test}_qa.json`: as published for MSVD-QA and MSRVTT-QA, with numbered videos. `youtube_mapping.txt` beside
  it (lines `name vidN`) gives MSVD's names; without it, video N is MSRVTT's `videoN`.
- `{train,val,test}_data.json`: as published for DiDeMo, one sentence per row. All sentences of a video are joined to one
  paragraph.
- MSRVTT's .json of `videos` and `sentences`. If present, `*JSFUSION_test.csv` (the 1k-A list) replaces its test split,
  and the videos in `MSRVTT_train.{9k,7k}.csv` replace its training split.
- One table with a column `split` of train, val and test.
- One JSON object whose keys `train`, `val` and `test` are the lists of rows.

JSON lines are read from a .json too.
"""

from __future__ import annotations

import reprlib
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from alpro.config import Dataset
from alpro.data.annotations.delimited import SPLIT_NAMES
from alpro.data.annotations.media_files import MediaFolder
from alpro.data.annotations.rows import TABLES, Faults, Row, not_utf8, read_json_object, read_rows, sound_rows
from alpro.data.media.extensions import bare_name
from alpro.data.sources.media import image_name
from alpro.errors import DataError

SPLITS = ("train", "val", "test")
_MAPPING = "youtube_mapping.txt"


def annotation_file(dataset: Dataset, split: str) -> Path:
    """Return the file of a split. Raises DataError for an unknown split or a missing file, listing the files that exist."""
    source = Path(dataset.annotations)
    if split not in SPLITS:
        raise DataError(f"{source}: no split {split!r}; there are {', '.join(SPLITS)}")
    if source.is_file():
        return source
    published = f"{split}_qa.json" if dataset.task == "qa" else f"{split}_data.json"
    for name in (*(f"{split}{suffix}" for suffix in TABLES), published):
        if (source / name).is_file():
            return source / name
    if dataset.task == "retrieval" and (msrvtt := _msrvtt_file(source, split)):
        return msrvtt
    content = ", ".join(sorted(path.name for path in source.iterdir())) if source.is_dir() else "no such folder"
    raise DataError(
        f"{source / split}.jsonl: not found ({content or 'the folder is empty'}); put the {split} annotations there, "
        "or set `annotations` to one table with a column `split`"
    )


def split_rows(dataset: Dataset, split: str) -> Iterator[Row]:
    """Yield (position, row) of all captions or questions of a split.

    Raises DataError like `annotation_file` and `read_rows`.
    """
    path = annotation_file(dataset, split)
    if path.name == f"{split}_qa.json":
        return _numbered_rows(path)
    if path.name == f"{split}_data.json":
        return _paragraph_rows(path)
    if path.suffix.lower() == ".json" and (path == Path(dataset.annotations) or path.stem != split):
        content = read_json_object(path)
        if content and {"videos", "sentences"} <= set(content):
            return _msrvtt_rows(path, content, split)
        if content and any(key.strip().lower() in SPLIT_NAMES for key in content):
            return _rows_of_key(path, content, split)
    if path == Path(dataset.annotations):
        return _rows_of_split(path, split)
    return read_rows(path)


def corpus_rows(file: Path, folder: MediaFolder) -> Iterator[Row]:
    """Yield (position, row) of a corpus file like `read_rows`; also of CC3M's .tsv (caption, URL; no header).

    CC3M's images are searched under the name that `alpro data fetch` gives them (`training/<crc32 of the URL>`), then
    under those of two common downloaders for row N, from 0: `N_<crc32>`, and nine digits, in a folder per ten thousand
    or not.
    """
    if file.suffix.lower() == ".tsv" and file.is_file():
        with file.open(encoding="utf-8-sig", errors="replace") as lines:
            first = lines.readline().rstrip("\r\n").split("\t")
        if len(first) == 2 and first[1].startswith(("http://", "https://")):
            return _cc3m_rows(file, folder)
    return read_rows(file)


# --- one table of your own --------------------------------------------------------------------------------


def _rows_of_split(path: Path, split: str) -> Iterator[Row]:
    faults = Faults(path)
    for position, row in read_rows(path, faults):
        if "split" not in row:
            raise DataError(
                f"{path}: {position}: no column 'split'; add one with train, val or test, or give a folder with a file for "
                "each split"
            )
        named = SPLIT_NAMES.get(str(row["split"]).strip().lower())
        if named is None:
            faults.add(position, f"split: {row['split']!r} must be train, val or test; fix it")
        elif named == split:
            yield position, row
    faults.check()


def _rows_of_key(path: Path, content: dict[str, Any], split: str) -> Iterator[Row]:
    """Yield the rows of a split from an object with a list of rows for each split."""
    faults, seen = Faults(path), dict[str, str]()
    for key, rows in content.items():
        named = SPLIT_NAMES.get(key.strip().lower())
        if named is None and isinstance(rows, (list, dict)):
            faults.add(f"key {key!r}", "no split; name it train, val or test, or remove it")
        elif named in seen:
            faults.add(f"key {key!r}", f"the same split as {seen[named]!r}; join the two lists")
        elif named and not isinstance(rows, list):
            faults.add(f"key {key!r}", "must be a list of rows")
        elif named:
            seen[named] = key
            if named == split:
                yield from sound_rows(_objects(key, rows, faults), faults)
    faults.check()


def _objects(key: str, rows: list[Any], faults: Faults) -> Iterator[Row]:
    for number, row in enumerate(rows, 1):
        if isinstance(row, dict):
            yield f"{key}, row {number}", row
        else:
            faults.add(f"{key}, row {number}", f"{reprlib.repr(row)} instead of an object; each row is one {{...}}")


# --- published formats ------------------------------------------------------------------------------------


def _numbered_rows(path: Path) -> Iterator[Row]:
    mapping = path.with_name(_MAPPING)
    names = _mapping(mapping) if mapping.is_file() else None
    faults = Faults(path)
    for position, row in read_rows(path, faults):
        number = row.get("video_id")
        if isinstance(number, int) and not isinstance(number, bool):
            row["video_id"] = f"video{number}" if names is None else names.get(f"vid{number}")
            if row["video_id"] is None:
                faults.add(position, f"video_id: {mapping.name} has no vid{number}; download both files again")
                continue
        yield position, row
    faults.check()


def _mapping(path: Path) -> dict[str, str]:
    """Return {vidN: name of the clip's file}."""
    names, faults = {}, Faults(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise DataError(f"{path}: {not_utf8(path)}") from None
    for number, line in enumerate(lines, 1):
        cells = line.split()
        if len(cells) == 2:
            names[cells[1]] = cells[0]
        elif cells:
            faults.add(f"line {number}", f"{line!r} is not `name vidN`; fix the line")
    faults.check()
    return names


def _paragraph_rows(path: Path) -> Iterator[Row]:
    """Yield one row per video of DiDeMo with its sentences joined in the order of the file.

    Rows of the same video may name it with different extensions or none. Malformed rows are yielded unchanged, so that the
    reader reports their position.
    """
    paragraphs: dict[str, tuple[str, list[str]]] = {}
    for position, row in read_rows(path):
        video, sentence = row.get("video"), row.get("description")
        if isinstance(video, str) and isinstance(sentence, str) and video.strip() and sentence.strip():
            paragraphs.setdefault(bare_name(video), (position, []))[1].append(" ".join(sentence.split()))
        else:
            yield position, row
    for video, (position, sentences) in paragraphs.items():
        yield position, {"video": video, "caption": " ".join(sentences)}


def _msrvtt_file(folder: Path, split: str) -> Path | None:
    if not folder.is_dir():
        return None
    if split == "test" and (listed := sorted(folder.glob("*JSFUSION_test.csv"))):
        return listed[0]
    of_split = {"test": ["test_videodatainfo"]}.get(split, ["train_val_videodatainfo"])
    candidates = [folder / f"{name}.json" for name in (*of_split, "MSRVTT_data", "msrvtt_data", "videodatainfo_2017")]
    return next((path for path in candidates if path.is_file()), None)


def _msrvtt_rows(path: Path, content: dict[str, Any], split: str) -> Iterator[Row]:
    videos = _msrvtt_videos(path, content)
    listed = next((f for n in ("9k", "7k") if (f := path.with_name(f"MSRVTT_train.{n}.csv")).is_file()), None)
    training = {str(row.get("video_id")) for _, row in read_rows(listed)} if listed else set()
    selected = {name for name, of in videos.items() if of == split} - training
    if split == "train" and listed:
        selected = training
    if not selected:
        cause = f" ({listed.name} uses them for training; remove it, or put a {split}.csv beside it)" if listed else ""
        raise DataError(f"{path}: no {split} videos{cause}")
    faults = Faults(path)
    sentences = ((f"sentence {number}", row) for number, row in enumerate(content["sentences"], 1))
    yield from sound_rows((row for row in sentences if row[1]["video_id"] in selected), faults)
    faults.check()


def _msrvtt_videos(path: Path, content: dict[str, Any]) -> dict[str, str | None]:
    """Return the split of each video. Raises DataError for faulty entries, and for sentences whose video is not listed."""
    faults, videos = Faults(path), dict[str, str | None]()
    for section in ("videos", "sentences"):
        if not isinstance(content[section], list):
            raise DataError(f"{path}: {section!r} is not a list; download the file again")
        for number, entry in enumerate(content[section], 1):
            position = f"{section.removesuffix('s')} {number}"
            name = entry.get("video_id") if isinstance(entry, dict) else None
            if not isinstance(name, str):
                faults.add(position, f"no 'video_id': {reprlib.repr(entry)}; download the file again")
            elif section == "sentences" and name not in videos:
                faults.add(position, f"{name!r} is not one of the `videos`; download the file again")
            elif section == "videos":
                videos[name] = _split_of(position, entry, videos, faults)
    faults.check()
    return videos


def _split_of(position: str, entry: dict[str, Any], videos: dict[str, str | None], faults: Faults) -> str | None:
    name, split = entry["video_id"], SPLIT_NAMES.get(str(entry.get("split")).strip().lower())
    if split is None:
        faults.add(position, f"split: {entry.get('split')!r} must be train, val or test; fix it")
    elif videos.get(name, split) != split:
        faults.add(position, f"{name!r} is in {videos[name]} too; keep one")
    return split


def _cc3m_rows(path: Path, folder: MediaFolder) -> Iterator[Row]:
    faults = Faults(path)
    try:
        with path.open(encoding="utf-8-sig") as lines:
            yield from sound_rows(_captions_and_urls(lines, folder, faults), faults)
    except UnicodeDecodeError:
        raise DataError(f"{path}: {not_utf8(path)}") from None
    faults.check()


def _captions_and_urls(lines: Iterable[str], folder: MediaFolder, faults: Faults) -> Iterator[Row]:
    for number, line in enumerate(lines):
        cells, position = line.rstrip("\r\n").split("\t"), f"line {number + 1}"
        if len(cells) == 2:
            yield position, {"caption": cells[0], "image": _image_name(number, cells[1], folder), "url": cells[1]}
        elif line.strip():
            faults.add(position, f"{len(cells)} cells instead of caption and URL; fix or remove the line")


def _image_name(number: int, url: str, folder: MediaFolder) -> str:
    names = [image_name(url, split) for split in ("training", "validation")]
    names += [f"{number}_{zlib.crc32(url.encode())}", f"{number // 10000:05}/{number:09}"]
    return next((name for name in names if folder.has(name)), names[0])


def label_answers(answers: Iterable[Any]) -> dict[str, int]:
    """Return {answer: label} of training answers, ordered by frequency, then alphabetically."""
    counts = Counter(str(answer).strip() for answer in answers if isinstance(answer, (str, int)))
    ranked = sorted(((answer, count) for answer, count in counts.items() if answer), key=lambda item: (-item[1], item[0]))
    return {answer: label for label, (answer, _) in enumerate(ranked)}
