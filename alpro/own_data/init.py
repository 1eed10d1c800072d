"""`alpro data init`: from a folder of videos to a dataset that the pipeline trains on, or to a table to fill in.

data/NAME/txt/annotations.csv   split, video, caption (or question, answer), readable by the pipeline and by people
data/NAME/txt/left_out.tsv      videos and rows that are not used, with the reason
data/NAME/vocabulary            if the training starts from scratch
recipes/NAME.yaml, params.yaml  the parameters
"""

from __future__ import annotations

import csv
import io
import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from alpro.config import Params, load
from alpro.config.base import NAME
from alpro.data.annotations.layouts import SPLITS
from alpro.data.text.tokenizer import load_tokenizer
from alpro.data.validation.published_counts import PUBLISHED_COUNTS
from alpro.errors import ConfigError, DataError
from alpro.files.atomic import atomic_write
from alpro.files.names import shown
from alpro.files.outputs import check_output, new_dir
from alpro.own_data import parameters
from alpro.own_data.machine import this_machine
from alpro.own_data.sizes import Sizes, Split, choose_sizes, text_tokens
from alpro.own_data.splits import split_videos
from alpro.own_data.start import Start, find_start, make_vocabulary, newest_model
from alpro.own_data.texts import Text, Texts, read_texts, unseen_answers
from alpro.own_data.videos import Videos, read_videos

SHOWN = 5  # unreadable videos and left-out rows that are printed; all are in left_out.tsv
COLUMNS = {"retrieval": ("video", "caption"), "qa": ("video", "question", "answer")}
TABLES = {"retrieval": "captions.csv", "qa": "questions.csv"}
LONG_CLIP_S = 60


@dataclass(frozen=True)
class Options:
    """Choices of the user; see `alpro data init --help`."""

    folder: Path
    name: str | None = None
    tables: Sequence[Path] = ()
    task: str | None = None
    start: str | None = None
    tokenizer: Path | None = None
    minutes: float = 10
    seed: int = 0
    params: Path = Path("params.yaml")
    workers: int | None = None


@dataclass
class Outcome:
    """Lines to print, and the commands to type next."""

    lines: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Return all lines, then the commands."""
        return "\n".join([*self.lines, "next:", *(f"  {command}" for command in self.commands)])


def init(options: Options) -> Outcome:
    """Prepare a folder of videos. Raises ConfigError, DataError, OutputError and CheckpointError before anything is written."""
    name = _name(options)
    params = load(options.params)
    folder = _short(options.folder)
    home = Path("data") / name
    skeleton = [home / table for table in TABLES.values() if (home / table).is_file()]
    outcome = Outcome()
    videos = read_videos(folder, options.workers)
    _describe_videos(outcome, name, videos)
    texts = read_texts(videos, options.tables, options.task) or (
        read_texts(videos, skeleton, options.task) if skeleton else None
    )
    if texts is None:
        _write_skeleton(outcome, options, name, home, videos)
        return outcome
    _prepare(outcome, options, name, home, videos, texts, params)
    return outcome


def _prepare(
    outcome: Outcome, options: Options, name: str, home: Path, videos: Videos, texts: Texts, params: Params
) -> None:  # fmt: skip
    """Write table, vocabulary and parameters of a dataset with texts."""
    start = find_start(options.start, options.tokenizer, home / "vocabulary", params)
    joins = params.recipe != name and start.is_that_of(params)
    check_output(home / "txt")
    makes_vocabulary = start.from_scratch and start.tokenizer == home / "vocabulary"
    if makes_vocabulary:
        check_output(start.tokenizer)
    parameters.check_writable(name, options.params, joins=joins)
    given = {text.video: text.split for text in texts.texts}
    splits = split_videos(given, {video: videos.infos[video].sha256 for video in given}, options.seed)
    train = {video for video, split in splits.items() if split == "train"}
    _check_answers(texts, train)

    training_texts = [text.text for text in texts.texts if text.video in train]
    if makes_vocabulary:
        make_vocabulary(training_texts, start.tokenizer)
    tokenizer = load_tokenizer(start.tokenizer)
    lengths = [len(ids) for ids in tokenizer([text.text for text in texts.texts])["input_ids"]]
    machine = this_machine()
    counts = {split: _count(texts.texts, splits, split) for split in SPLITS}
    sizes = choose_sizes(
        texts.task, counts["train"], counts["val"],
        tokens=text_tokens(lengths, start.model.max_positions if start.model else 512), vocab_size=len(tokenizer),
        seconds=videos.seconds, answers=len({text.answer for text in texts.texts if text.video in train}), machine=machine,
        minutes=options.minutes, checkpoint=start.model, num_frames=start.num_frames,
    )  # fmt: skip
    outcome.lines += [
        f"texts: {texts.source}: {len(texts.texts):,} {'questions' if texts.task == 'qa' else 'captions'} "
        f"of {len(splits):,} videos",
        *_first(texts.left_out, "left out"),
        f"splits: {', '.join(f'{counts[split].videos:,} {split}' for split in SPLITS)} videos"
        + ("" if all(given.values()) else f", drawn by seed {options.seed}"),
        _describe_start(start, len(tokenizer)),
        _describe_sizes(sizes, machine.described()),
    ]
    annotations = _write_table(home / "txt", texts, splits, videos)
    parts = parameters.entries(name, texts.task, annotations, videos.folder, sizes, params.recipe if joins else name)
    if joins:
        parameters.add_entries(name, parts, options.params)
        written = f"three entries in {options.params}"
    else:
        about = [f"Recipe `{name}`: {len(splits)} videos of {videos.folder}, {len(texts.texts)} texts of {texts.source}.",
                 *outcome.lines[-2:]]  # fmt: skip
        text = parameters.recipe_text(name, parts, start, sizes, machine, params, about)
        written = f"{parameters.write_recipe(name, text, options.params)} and {options.params}"
        if params.recipe != name:
            written += f" (it was recipe {params.recipe}; `alpro recipe use {params.recipe}` restores it)"
    outcome.lines.append(f"written: {annotations}, {written}")
    checkpoint = f"models/{params.recipe if joins else name}/finetune/{name}"
    outcome.commands += [
        _command("alpro", "data", "check", name),
        _command("dvc", "repro", f"evaluate@{name}"),
        _trial(texts, splits, videos, checkpoint),
    ]


# --- what is read -----------------------------------------------------------------------------------------


def _name(options: Options) -> str:
    """Return the name of the dataset: given, or made from the folder's name. Raises ConfigError if it cannot be used."""
    if options.name is not None:
        if not NAME.fullmatch(options.name):
            raise ConfigError(f"--name {options.name!r}: use letters, digits, `_` and `-`, but no `-` at the beginning")
        name = options.name
    else:
        folder = options.folder.expanduser().resolve()
        words = folder.parent.name if folder.name in ("videos", "clips") else folder.name
        name = re.sub(r"[^A-Za-z0-9_]+", "_", words).strip("_") or "own"
    if name in PUBLISHED_COUNTS or name in ("sample", "fetched"):
        raise ConfigError(f"{name}: is the name of a published set or folder; give another one with --name")
    if not options.params.is_file():
        raise ConfigError(f"{options.params}: not found; run this in the project's folder")
    return name


def _short(folder: Path) -> Path:
    """Return a folder relative to the project if it is inside, else absolute: params.yaml names it, and stages run here."""
    path = Path(os.path.abspath(folder.expanduser()))
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _check_answers(texts: Texts, train: set[str]) -> None:
    """Raise DataError if most answers are not those of training questions, as a model chooses among these."""
    if texts.task == "qa":
        unseen, total = unseen_answers(texts.texts, train)
        if unseen * 2 > total:
            raise DataError(
                f"{unseen:,} of {total:,} answers occur in no training question, but the model chooses among the training "
                "answers; shorten them to a word or two, or use them as captions (--task retrieval with a column caption)"
            )


def _count(texts: Sequence[Text], splits: dict[str, str], split: str) -> Split:
    return Split(sum(s == split for s in splits.values()), sum(splits[text.video] == split for text in texts))


# --- what is written --------------------------------------------------------------------------------------


def _write_table(folder: Path, texts: Texts, splits: dict[str, str], videos: Videos) -> Path:
    """Write annotations.csv and left_out.tsv into a new folder, and return the table."""
    header = ("split", *COLUMNS[texts.task], *(["answer_type"] if any(text.answer_type for text in texts.texts) else []))
    rows = []
    for text in texts.texts:
        cells = (text.video, text.text) if texts.task == "retrieval" else (text.video, text.text, text.answer or "")
        kind = [text.answer_type or text.text.split()[0].lower()] if "answer_type" in header else []
        rows.append((splits[text.video], *cells, *kind))
    unused = [(video, "has no text") for video in videos.infos if video not in splits]
    with new_dir(folder) as temporary:
        atomic_write(temporary / "annotations.csv", _csv(header, rows))
        left_out = [*videos.left_out, *unused, *texts.left_out]
        lines = [f"{shown(name)}\t{shown(reason)}" for name, reason in left_out]
        atomic_write(temporary / "left_out.tsv", "\n".join(["what\treason", *lines]) + "\n")
    return folder / "annotations.csv"


def _write_skeleton(outcome: Outcome, options: Options, name: str, home: Path, videos: Videos) -> None:
    """Write a table with a row for each video, to be filled in, unless it is there already."""
    task = options.task or "retrieval"
    table, columns = home / TABLES[task], COLUMNS[task]
    if table.exists():
        outcome.lines.append(f"texts: {table} is there, but has no text yet; it was left as it is")
    else:
        atomic_write(table, _csv(columns, [(video, *[""] * (len(columns) - 1)) for video in videos.infos]))
        outcome.lines.append(f"texts: none found; {table} has a row for each video: fill in {' and '.join(columns[1:])}")
    outcome.lines.append("Rows may be repeated for more texts of a video, and left empty. At least 4 videos need a text.")
    again = ["data", "init", str(videos.folder), *(["--name", name] if options.name else []), "--table", str(table)]
    model = newest_model()
    if model is None:
        outcome.lines.append("Without texts, a trained model can search the videos, but no model is here yet.")
        outcome.commands += [
            _command("alpro", "data", "probe", str(videos.folder)),
            f"{_command('alpro', *again)}   # after you have filled it in",
            _command("dvc", "repro", f"evaluate@{name}"),
        ]
        return
    outcome.lines.append(f"Without texts, a trained model can search the videos; the newest one here is {model}.")
    index = f"{name}_index"
    outcome.commands += [
        _command("alpro", "index", str(videos.folder), "--checkpoint", str(model), "--index", index),
        _command("alpro", "search", "a person walks", "--checkpoint", str(model), "--index", index),
        f"{_command('alpro', *again)}   # after you have filled it in",
    ]


def _csv(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


# --- what is printed --------------------------------------------------------------------------------------


def _describe_videos(outcome: Outcome, name: str, videos: Videos) -> None:
    sides = f"shorter side {videos.short_side} pixels"
    outcome.lines.append(
        f"{name}: {len(videos.infos):,} readable videos in {videos.folder}, {videos.seconds:.1f} s long (median), {sides}"
    )
    outcome.lines += _first(videos.left_out, "left out")
    long = [video for video, info in videos.infos.items() if info.seconds > LONG_CLIP_S]
    if long:
        outcome.lines.append(
            f"  {len(long):,} are longer than {LONG_CLIP_S} s, such as {shown(long[0])}: a few frames show little of them; "
            "cut them into clips for better results"
        )


def _first(left_out: Sequence[tuple[str, str]], title: str) -> list[str]:
    """Return a line for each of the first entries, and the number of the others."""
    lines = [f"  {title}: {shown(name)}: {shown(reason)}" for name, reason in left_out[:SHOWN]]
    more = len(left_out) - SHOWN
    return lines + ([f"  and {more:,} more"] if more > 0 else [])


def _describe_start(start: Start, vocabulary: int) -> str:
    if start.from_scratch:
        return (
            f"start: from scratch, with {vocabulary:,} tokens in {start.tokenizer}; results will be modest: "
            "--start CHECKPOINT continues a pre-trained model"
        )
    return f"start: {start.path}, with the tokenizer in {start.tokenizer}"


def _describe_sizes(sizes: Sizes, machine: str) -> str:
    training, gb = sizes.training, sizes.memory / 1e9
    time = f"about {sizes.minutes:.0f} minutes" if sizes.minutes >= 1.5 else "about a minute"
    return (
        f"sizes: {sizes.model.image_size} pixels, {training.num_frames} frames, {training.max_text_tokens} tokens, batch "
        f"{training.batch_size * training.accumulation}, {training.epochs} epochs ({sizes.steps:,} steps); "
        f"{time} and {gb:.1f} GB on {machine}, without reading the videos the first time"
    )


def _trial(texts: Texts, splits: dict[str, str], videos: Videos, checkpoint: str) -> str:
    """Return a command that asks the trained model about a test video."""
    tests = [text for text in texts.texts if splits[text.video] == "test"]
    video = str(videos.folder / tests[0].video)
    if texts.task == "qa":
        return _command("alpro", "ask", video, tests[0].text, "--checkpoint", checkpoint)
    counts = Counter(text.text for text in texts.texts if text.video != tests[0].video and text.text != tests[0].text)
    other = [next(iter(counts))] if counts else []
    return _command("alpro", "match", video, tests[0].text, *other, "--checkpoint", checkpoint)


def _command(program: str, *words: str) -> str:
    """Return a command that works in this shell when it is pasted, whether or not the environment is activated."""
    folder = Path(sys.executable).parent
    if os.environ.get("VIRTUAL_ENV") != sys.prefix and (folder / program).exists():
        inside = folder.is_relative_to(Path.cwd())
        program = str((folder.relative_to(Path.cwd()) if inside else folder) / program)
    guarded = [word if not word.startswith("-") or word.startswith("--") else f"./{word}" for word in words]
    return shlex.join([program, *guarded])
