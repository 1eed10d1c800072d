"""Mutated annotation files: every fault is reported, no row is lost silently, and no file takes more than 20 s.

    python -m tests.data.annotations.fuzz --files 2000 --seed 1 --keep failing

Each file is a sound annotation file of one of the layouts with one to three random changes. A row whose text is unchanged in
the file must be among the rows that are read, unless an error is reported. `--only SEED` repeats a single file.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import random
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from alpro.config import Corpus, Dataset
from alpro.data.annotations.read import read_answers, read_corpus, read_dataset
from alpro.data.validation.tables import read_tables
from alpro.errors import AlproError

LIMIT_S = 20
SPLITS = ("train", "val", "test")
WORDS = [
    "a",
    "red",
    "box",
    "moves",
    '"stop"',
    "say",
    'a 12" disc',
    "one, two",
    "café",
    "cafe\u0301",
    "😀",
    "then",
    "it's",
    "5;6",
]


@dataclass
class Case:
    """A sound set: the file to change, its rows as they are in the file, and the texts that a reader must return."""

    source: Dataset | Corpus
    file: Path
    rows: list[tuple[str, str]]  # (the row in the file, its text)
    joined: bool = False  # the texts of a video become one
    mapping: list[Path] = field(default_factory=list)


def sentence(rng: random.Random, number: int) -> str:
    """Return a caption or question that occurs once."""
    return " ".join([*rng.choices(WORDS, k=rng.randint(1, 5)), f"n{number}"])


def table(names: list[str], rows: list[list[str]], separator: str) -> tuple[str, list[str]]:
    """Return the header and the lines of a table."""
    lines = []
    for row in [names, *rows]:
        if separator == "\t":
            lines.append("\t".join(row))
            continue
        out = io.StringIO()
        csv.writer(out, delimiter=separator, lineterminator="").writerow(row)
        lines.append(out.getvalue())
    return lines[0], lines[1:]


def own_table(root: Path, rng: random.Random, texts: list[str]) -> Case:
    """One table with a column `split`, in any format."""
    form = rng.choice(["csv", "semicolon", "tsv", "jsonl", "json", "lines", "splits"])
    file = root / f"own.{ {'semicolon': 'csv', 'lines': 'json', 'splits': 'json'}.get(form, form) }"
    cells = [[rng.choice(SPLITS), f"v{number % 7}", text] for number, text in enumerate(texts)]
    names = ["split", "video", "caption"]
    if form in ("csv", "semicolon", "tsv"):
        header, lines = table(names, cells, {"csv": ",", "semicolon": ";", "tsv": "\t"}[form])
        content = "\n".join([header, *lines]) + "\n"
    else:
        lines = [json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=rng.random() < 0.5) for row in cells]
        content = "\n".join(lines) + "\n" if form in ("jsonl", "lines") else f"[{', '.join(lines)}]"
        if form == "splits":
            content = json.dumps(
                {split: [json.loads(line) for line in lines if json.loads(line)["split"] == split] for split in SPLITS}
            )
            lines = [json.dumps(json.loads(line)) for line in lines]
    file.write_text(content, encoding="utf-8")
    source = Dataset(task="retrieval", annotations=str(file), videos=str(root / "videos"))
    return Case(source, file, list(zip(lines, texts, strict=True)))


def official(root: Path, rng: random.Random, texts: list[str]) -> Case:
    """The official folder of train, val and test.jsonl; the training split is changed."""
    qa = rng.random() < 0.5
    rows = [
        {"video_id": f"v{n % 7}", "question": text, "answer": rng.choice(["cat", "dog"])} if qa
        else {"clip_name": f"v{n % 7}.mp4", "caption": text}
        for n, text in enumerate(texts)
    ]  # fmt: skip
    lines = [json.dumps(row) for row in rows]
    for split in SPLITS:
        (root / f"{split}.jsonl").write_text("".join(line + "\n" for line in (lines if split == "train" else lines[:1])))
    (root / "train_ans2label.json").write_text('{"cat": 0, "dog": 1}')
    source = Dataset(task="qa" if qa else "retrieval", annotations=str(root), videos=str(root / "videos"))
    if qa and rng.random() < 0.2:
        return Case(source, root / "train_ans2label.json", [])
    return Case(source, root / "train.jsonl", list(zip(lines, texts, strict=True)))


def numbered(root: Path, rng: random.Random, texts: list[str]) -> Case:
    """MSVD-QA as published: numbered videos with a mapping."""
    lines = [json.dumps({"id": n, "video_id": n % 7, "question": text, "answer": "cat"}) for n, text in enumerate(texts)]
    for split in SPLITS:
        (root / f"{split}_qa.json").write_text(f"[{', '.join(lines if split == 'val' else lines[:1])}]")
    (root / "youtube_mapping.txt").write_text("".join(f"clip_{n} vid{n}\n" for n in range(7)))
    (root / "train_ans2label.json").write_text('{"cat": 0}')
    source = Dataset(task="qa", annotations=str(root), videos=str(root / "videos"))
    if rng.random() < 0.3:
        return Case(source, root / "youtube_mapping.txt", [])
    return Case(source, root / "val_qa.json", list(zip(lines, texts, strict=True)))


def paragraphs(root: Path, rng: random.Random, texts: list[str]) -> Case:
    """DiDeMo as published: one sentence per row, joined to paragraphs."""
    lines = [json.dumps({"video": f"v{n % 7}.avi", "description": text, "times": [[0, 1]]}) for n, text in enumerate(texts)]
    for split in SPLITS:
        (root / f"{split}_data.json").write_text(f"[{', '.join(lines if split == 'test' else lines[:1])}]")
    source = Dataset(task="retrieval", annotations=str(root), videos=str(root / "videos"))
    return Case(source, root / "test_data.json", list(zip(lines, texts, strict=True)), joined=True)


def msrvtt(root: Path, rng: random.Random, texts: list[str]) -> Case:
    """MSRVTT as published: one JSON file of videos and sentences, with the 1k-A lists or without."""
    videos = [{"video_id": f"video{n}", "split": ("train", "validate", "test")[n % 3]} for n in range(6)]
    lines = [json.dumps({"caption": text, "video_id": f"video{n % 6}", "sen_id": n}) for n, text in enumerate(texts)]
    file = root / "MSRVTT_data.json"
    file.write_text(f'{{"videos": {json.dumps(videos)}, "sentences": [{", ".join(lines)}]}}')
    source = Dataset(task="retrieval", annotations=str(root), videos=str(root / "videos"))
    return Case(source, file, list(zip(lines, texts, strict=True)))


def corpus(root: Path, rng: random.Random, texts: list[str]) -> Case:
    """A caption corpus: CC3M's table of captions and URLs, or WebVid's table."""
    if rng.random() < 0.5:
        file = root / "cc3m.tsv"
        lines = [f"{text}\thttp://images.example/{n}.jpg" for n, text in enumerate(texts)]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        file = root / "webvid.csv"
        header, lines = table(["videoid", "page_dir", "name"], [[str(n), "000_050", t] for n, t in enumerate(texts)], ",")
        file.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    media = "image" if file.suffix == ".tsv" else "video"
    return Case(Corpus(media=media, train=str(file), root=str(root / "videos")), file, list(zip(lines, texts, strict=True)))


LAYOUTS: list[Callable[[Path, random.Random, list[str]], Case]] = [
    own_table, own_table, own_table, official, numbered, paragraphs, msrvtt, corpus,
]  # fmt: skip


# --- changes -----------------------------------------------------------------------------------------------


def flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 3, 20])):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(data: bytes, rng: random.Random) -> bytes:
    at, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:at] if rng.random() < 0.5 else data[:at] + data[end:]


def lines_changed(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True) or [b""]
    at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    change = rng.randrange(5)
    if change == 0:
        lines[at], lines[other] = lines[other], lines[at]
    elif change == 1:
        lines.insert(at, lines[other])
    elif change == 2:
        lines[at] = lines[at].rstrip(b"\r\n")
    elif change == 3:
        del lines[at]
    else:
        lines.insert(at, rng.choice([b"\n", b" \n", b"\r\n", b"\t\n", b",,\n"]))
    return b"".join(lines)


def recoded(data: bytes, rng: random.Random) -> bytes:
    text = data.decode("utf-8", "replace")
    return text.encode(rng.choice(["utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252", "utf-8-sig", "utf-7"]), "replace")


INSERTED = [
    b'"', b'"', b'"', b'""', b"'", b"\0", b"\0\0\0", b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\xbd", b"\\ud83d",
    b"\\udc00\\ud83d",
    b"\\u0000", b"\r", b"\n", b"\r\n", b"\t", b",", b";", b"\xe2\x80\xa8", b"\xc2\x85", b"\x1c", b"\x0b", b"\xc3", b"\xe9",
    b"{",
    b"}", b"[", b"]", b":", b"\\", b"NaN", b"Infinity", b"null", b"1e999", b"-0", b"9" * 5000, b"[" * 3000, b'{"a":' * 3000,
    b"x" * 200_000, b"../", b"/", b"..", b"-", b"# ", b"\x1b[31m", b"true", b'"caption": "other", ', b'"video": "other", ',
]  # fmt: skip


def inserted(data: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.choice([1, 1, 2, 4])):
        at = rng.randrange(len(data) + 1)
        data = data[:at] + rng.choice(INSERTED) + data[at:]
    return data


def replaced(data: bytes, rng: random.Random) -> bytes:
    """Replace a token of the format by another."""
    tokens = [
        b'"',
        b",",
        b"\t",
        b": ",
        b"}, {",
        b"},",
        b"{",
        b"]",
        b"caption",
        b"video",
        b"split",
        b"train",
        b"question",
        b"n1",
    ]
    old, new = rng.choice(tokens), rng.choice([*INSERTED, b"", b", ", b"test", b"text"])
    places = data.count(old)
    if not places or rng.random() < 0.3:
        return data.replace(old, new)
    parts = data.split(old)
    at = rng.randrange(places) + 1
    return old.join(parts[:at]) + new + old.join(parts[at:])


CHANGES: list[Callable[[bytes, random.Random], bytes]] = [
    flip, cut, lines_changed, lines_changed, recoded, inserted, inserted, inserted, replaced, replaced,
    lambda data, rng: data + data,
    lambda data, rng: data + rng.choice([b"", b"\n"]) + b'{"split": "train", "video": "v1", "caption": "joined"}\n',
    lambda data, rng: data.replace(b"\n", b"\r\n"),
    lambda data, rng: data.replace(b"\n", b"\r"),
    lambda data, rng: b"\xef\xbb\xbf" + data,
    lambda data, rng: rng.choice([b"", b" ", b"\n", b"[]", b"{}", b"null", b"[null]", b"[{}]", b'"x"', b"0"]),
    lambda data, rng: rng.randbytes(rng.randrange(1, 200)),
]  # fmt: skip


# --- one file ----------------------------------------------------------------------------------------------


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise TimeoutError if the block takes longer."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def texts_of(source: Dataset | Corpus) -> tuple[list[str], list[str]]:
    """Return the texts that a training would read, and the messages of the errors."""
    texts, errors = [], []
    for split in SPLITS:
        try:
            if isinstance(source, Corpus):
                records = read_corpus(source) if split == "train" else []
            else:
                records = read_dataset(source, split)
        except AlproError as error:
            errors.append(str(error))
            continue
        texts += [text for record in records for text in (*record.captions, *(q.text for q in record.questions))]
    if isinstance(source, Dataset) and source.task == "qa":
        try:
            read_answers(source)
        except AlproError as error:
            errors.append(str(error))
    return texts, errors


def lost(case: Case, texts: list[str]) -> list[str]:
    """Return the rows that are unchanged in the file, but not among the texts."""
    content = case.file.read_bytes().decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    is_json = case.file.suffix == ".json" and "\n" not in content.strip()
    found = Counter(texts)
    together = "\n".join(texts)
    missing = []
    for row, text in dict.fromkeys(case.rows):
        there = content.count(row) if is_json else f"\n{content}\n".replace("\n", "\n\n").count(f"\n{row}\n")
        read = len(together.split(text.split()[-1] + " ")) if case.joined else found[text]
        if there > read and not (case.joined and text.split()[-1] in together):
            missing.append(f"{text!r} is there {there} times and read {read} times")
    return missing


def try_file(seed: int, folder: Path) -> tuple[str, str]:
    """Make the file of a seed in a folder and read it; return (what is wrong with the product, or "", outcome)."""
    rng = random.Random(seed)
    (folder / "videos").mkdir(parents=True)
    case = rng.choice(LAYOUTS)(folder, rng, [sentence(rng, number) for number in range(rng.choice([1, 3, 8, 30]))])
    before, _ = texts_of(case.source)
    if gone := lost(case, before):
        return f"the unchanged file loses rows: {gone}", ""
    data = case.file.read_bytes()
    for _ in range(rng.choice([1, 1, 2, 3])):
        data = rng.choice(CHANGES)(data, rng)
    case.file.write_bytes(data)
    try:
        with limited(LIMIT_S):
            texts, errors = texts_of(case.source)
            tables = read_tables(case.source, ("train",) if isinstance(case.source, Corpus) else SPLITS)
        for text in [*texts, *tables.rows["text"].dropna(), *errors, *tables.faults]:
            text.encode("utf-8")
    except Exception:
        return traceback.format_exc(), ""
    if not errors and (gone := lost(case, texts)):
        return f"rows are lost silently: {gone}", ""
    if not tables.faults and (gone := lost(case, list(tables.rows["text"].dropna()))):
        return f"the check loses rows silently: {gone}", ""
    if not all(str(line).strip() for line in errors):
        return "an error without a message", ""
    return "", "reported" if errors else "read"


def main() -> int:
    """Try the files of many seeds; print each failing seed and the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1, help="seed of the first file; the others follow")
    parser.add_argument("--only", type=int, help="repeat the file of one seed")
    parser.add_argument("--keep", type=Path, help="folder for the files that fail")
    options = parser.parse_args()
    seeds = [options.only] if options.only is not None else range(options.seed, options.seed + options.files)
    outcomes, failures = Counter[str](), 0
    for seed in seeds:
        with tempfile.TemporaryDirectory() as temporary:
            wrong, outcome = try_file(seed, Path(temporary) / "set")
            outcomes[outcome or "failed"] += 1
            if wrong:
                failures += 1
                print(f"seed {seed}: {wrong}", flush=True)
                if options.keep:
                    with suppress(OSError):
                        shutil.copytree(Path(temporary) / "set", options.keep / str(seed), dirs_exist_ok=True)
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    print(f"seeds {seeds[0]} to {seeds[-1]}: {len(seeds)} files, {counts}; {failures} failures")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
