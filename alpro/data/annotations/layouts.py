"""Which file holds which split, in the official layouts, in the sets' own distribution forms and in a user's one table.

`split_rows` and `corpus_rows` give (place in the file, row) with the keys that `annotations` and `validation` look for,
whatever the form was. Forms of a down-stream set's annotations (a folder, or one file):

- `{train,val,test}` as .jsonl, .json, .csv, .tsv or .parquet: the official layout;
- `{train,val,test}_qa.json`: MSVD-QA's and MSRVTT-QA's own, whose videos are numbers; `youtube_mapping.txt` beside it
  (`name vidN` a line) gives MSVD's names, without it they are MSRVTT's `videoN`;
- `{train,val,test}_data.json`: DiDeMo's own, a sentence a row; all sentences of a video are joined to one paragraph;
- MSRVTT's own .json of `videos` and `sentences`, its test split replaced by `*JSFUSION_test.csv` (the 1k-A list), its
  training split by the videos that `MSRVTT_train.{9k,7k}.csv` lists, where those lie beside it;
- one table with a column `split` of train, val and test.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from alpro.config import Dataset
from alpro.data.annotations.media_files import MediaFolder
from alpro.data.annotations.rows import TABLES, Faults, read_json, read_rows
from alpro.data.media.extensions import bare_name
from alpro.data.sources.media import image_name
from alpro.errors import DataError

Row = tuple[str, dict[str, Any]]  # (place in the file, what stands there)
SPLITS = ("train", "val", "test")
_SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "validate": "val", "validation": "val", "valid": "val",
                "dev": "val", "test": "test", "testing": "test"}  # fmt: skip
_MAPPING = "youtube_mapping.txt"


def annotation_file(dataset: Dataset, split: str) -> Path:
    """The file that a split is read from. Raises DataError for an unknown split, or naming what is there instead."""
    source = Path(dataset.annotations)
    if split not in SPLITS:
        raise DataError(f"{source}: no split {split!r}; there are {', '.join(SPLITS)}")
    if source.is_file():
        return source
    own = f"{split}_qa.json" if dataset.task == "qa" else f"{split}_data.json"
    for name in (*(f"{split}{suffix}" for suffix in TABLES), own):
        if (source / name).is_file():
            return source / name
    if dataset.task == "retrieval" and (found := _msrvtt(source, split)):
        return found
    there = ", ".join(sorted(path.name for path in source.iterdir())) if source.is_dir() else "no such folder"
    raise DataError(
        f"{source / split}.jsonl: not found ({there or 'the folder is empty'}); put the {split} annotations there, "
        "or name one table with a column `split` as `annotations`"
    )


def split_rows(dataset: Dataset, split: str) -> Iterator[Row]:
    """(place, row) of every caption or question of a split. Raises DataError as `annotation_file` and `read_rows` do."""
    path = annotation_file(dataset, split)
    if path.name == f"{split}_qa.json":
        return _numbered(path)
    if path.name == f"{split}_data.json":
        return _paragraphs(path)
    if path.suffix == ".json" and (path == Path(dataset.annotations) or path.stem != split):
        content = read_json(path)
        if isinstance(content, dict) and {"videos", "sentences"} <= set(content):
            return _msrvtt_rows(path, content, split)
    if path == Path(dataset.annotations):
        return _of_split(path, split)
    return read_rows(path)


def corpus_rows(file: Path, folder: MediaFolder) -> Iterator[Row]:
    """(place, row) of a corpus's annotation file, as `read_rows`; CC3M's own .tsv (caption, address; no head) too.

    CC3M's images are looked for as `alpro data fetch` calls them (`training/<crc32 of the address>`), and as two usual
    downloaders call row N, from 0: `N_<crc32>`, and nine digits, in a folder of ten thousand or not.
    """
    if file.suffix.lower() == ".tsv" and file.is_file():
        with file.open(encoding="utf-8-sig", errors="replace") as lines:
            first = lines.readline().rstrip("\r\n").split("\t")
        if len(first) == 2 and first[1].startswith(("http://", "https://")):
            return _addresses(file, folder)
    return read_rows(file)


# --- one table of one's own -------------------------------------------------------------------------------


def _of_split(path: Path, split: str) -> Iterator[Row]:
    faults = Faults(path)
    for place, row in read_rows(path, faults):
        if "split" not in row:
            raise DataError(
                f"{path}: {place}: no column 'split'; add one that says train, val or test, or give a folder with a file for "
                "each split"
            )
        named = _SPLIT_NAMES.get(str(row["split"]).strip().lower())
        if named is None:
            faults.add(place, f"split: {row['split']!r} is none of train, val and test; mend it")
        elif named == split:
            yield place, row
    faults.check()


# --- distribution forms -----------------------------------------------------------------------------------


def _numbered(path: Path) -> Iterator[Row]:
    mapping = path.with_name(_MAPPING)
    names = _mapping(mapping) if mapping.is_file() else None
    faults = Faults(path)
    for place, row in read_rows(path, faults):
        number = row.get("video_id")
        if isinstance(number, int) and not isinstance(number, bool):
            row["video_id"] = f"video{number}" if names is None else names.get(f"vid{number}")
            if row["video_id"] is None:
                faults.add(place, f"video_id: {mapping.name} has no vid{number}; fetch both files again")
                continue
        yield place, row
    faults.check()


def _mapping(path: Path) -> dict[str, str]:
    """vidN -> the name of the file that was cut from YouTube."""
    names, faults = {}, Faults(path)
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        cells = line.split()
        if len(cells) == 2:
            names[cells[1]] = cells[0]
        elif cells:
            faults.add(f"line {number}", f"{line!r} is not `name vidN`; mend the line")
    faults.check()
    return names


def _paragraphs(path: Path) -> Iterator[Row]:
    """DiDeMo's sentences by video, joined in the file's order; what is no sentence is handed on, for its place to be named.

    Rows of one video name it with different extensions, or none.
    """
    found: dict[str, tuple[str, list[str]]] = {}
    for place, row in read_rows(path):
        video, sentence = row.get("video"), row.get("description")
        if isinstance(video, str) and isinstance(sentence, str) and video.strip() and sentence.strip():
            found.setdefault(bare_name(video), (place, []))[1].append(" ".join(sentence.split()))
        else:
            yield place, row
    for video, (place, sentences) in found.items():
        yield place, {"video": video, "caption": " ".join(sentences)}


def _msrvtt(folder: Path, split: str) -> Path | None:
    if not folder.is_dir():
        return None
    if split == "test" and (listed := sorted(folder.glob("*JSFUSION_test.csv"))):
        return listed[0]
    before = {"test": ["test_videodatainfo"]}.get(split, ["train_val_videodatainfo"])
    whole = [folder / f"{name}.json" for name in (*before, "MSRVTT_data", "msrvtt_data", "videodatainfo_2017")]
    return next((path for path in whole if path.is_file()), None)


def _msrvtt_rows(path: Path, content: dict[str, Any], split: str) -> Iterator[Row]:
    _refuse_nameless(path, content)
    videos = {v["video_id"]: _SPLIT_NAMES.get(str(v.get("split")).lower()) for v in content["videos"]}
    listed = next((f for n in ("9k", "7k") if (f := path.with_name(f"MSRVTT_train.{n}.csv")).is_file()), None)
    training = {str(row.get("video_id")) for _, row in read_rows(listed)} if listed else set()
    wanted = {name for name, of in videos.items() if of == split} - training
    if split == "train" and listed:
        wanted = training
    if not wanted:
        by = f" ({listed.name} takes them for training: remove it, or put a {split}.csv beside it)" if listed else ""
        raise DataError(f"{path}: no {split} videos{by}")
    for number, row in enumerate(content["sentences"], 1):
        if row["video_id"] in wanted:
            yield f"sentence {number}", row


def _refuse_nameless(path: Path, content: dict[str, Any]) -> None:
    faults = Faults(path)
    for part in ("videos", "sentences"):
        for number, entry in enumerate(content[part], 1):
            if not isinstance(entry, dict) or not isinstance(entry.get("video_id"), str):
                faults.add(f"{part.removesuffix('s')} {number}", f"no 'video_id': {str(entry)[:80]}; fetch the file again")
    faults.check()


def _addresses(path: Path, folder: MediaFolder) -> Iterator[Row]:
    faults = Faults(path)
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines):
            cells, place = line.rstrip("\r\n").split("\t"), f"line {number + 1}"
            if len(cells) == 2:
                yield place, {"caption": cells[0], "image": _downloaded(number, cells[1], folder), "url": cells[1]}
            elif line.strip():
                faults.add(place, f"{len(cells)} cells instead of caption and address; mend or remove the line")
    faults.check()


def _downloaded(number: int, address: str, folder: MediaFolder) -> str:
    names = [image_name(address, split) for split in ("training", "validation")]
    names += [f"{number}_{zlib.crc32(address.encode())}", f"{number // 10000:05}/{number:09}"]
    return next((name for name in names if folder.has(name)), names[0])


def answers_of(given: Iterable[Any]) -> dict[str, int]:
    """The answers of training rows with labels, the most frequent first, equally frequent ones in alphabetical order."""
    counts = Counter(str(answer).strip() for answer in given if isinstance(answer, (str, int)))
    ranked = sorted(((answer, count) for answer, count in counts.items() if answer), key=lambda item: (-item[1], item[0]))
    return {answer: label for label, (answer, _) in enumerate(ranked)}
