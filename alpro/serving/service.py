"""Batch inference on a table: caption scores or question answers.

The results equal those of the evaluation (`alpro.evaluation`), which uses the same frames, texts and heads.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpro.data.media.frames import Strategy
from alpro.data.text.tokenizer import VOCABULARY_FILES
from alpro.errors import CheckpointError, DataError
from alpro.files.names import same_name, text_fault

if TYPE_CHECKING:
    import pandas as pd

    from alpro.models import Alpro

TEXT_COLUMN = {"prompter": "caption", "pretrain": "caption", "retrieval": "caption", "qa": "question"}
MEDIA_ROOT = "ALPRO_MEDIA_ROOT"
BERT = "ext/bert-base-uncased"  # tokenizer of the released checkpoints, as in the released code
FRAMES: Strategy = "uniform"
TEXT_TOKENS = 40
MAX_CHARACTERS = 10_000  # of a text or a path in a request; the model reads the first 40 tokens
SHOWN_FAULTS = 3  # rows that a message names


@dataclass(frozen=True)
class Service:
    """A loaded checkpoint. `task` is prompter, pretrain, retrieval or qa; only videos in `media_root` are read."""

    model: Alpro
    task: str
    tokenizer: Any
    answers: Mapping[str, int] | None
    frames: Strategy
    max_text_tokens: int
    media_root: Path

    @classmethod
    def load(
        cls,
        checkpoint: Path,
        frames: Strategy | None = None,
        max_text_tokens: int | None = None,
        media_root: str | None = None,
        *,
        tokenizer: str | Path | None = None,
        answers: str | Path | None = None,
    ) -> Service:
        """Load a checkpoint directory, or an official file with its `tokenizer` folder and `answers` list.

        `media_root` is the folder of the videos; default: ALPRO_MEDIA_ROOT, else the working directory, which a server does not
        allow (pyfunc_model.py). `frames` and `max_text_tokens` default to the values of the training, else to FRAMES and
        TEXT_TOKENS. Raises CheckpointError or DataError if a file is missing or damaged, or if they do not belong together.
        """
        import alpro.models  # noqa: F401  before transformers: it makes torchvision importable
        from alpro.checkpoints.files import check_answer_head
        from alpro.checkpoints.load import load_model
        from alpro.data.annotations.read import read_answer_list
        from alpro.data.text.tokenizer import load_tokenizer

        model, info, _ = load_model(checkpoint)
        answer_list = None
        if info["task"] == "qa":
            if answers is None and not checkpoint.is_dir():
                raise CheckpointError(f"{checkpoint}: has no answer list; pass its train_ans2label.json")
            answer_list = read_answer_list(Path(answers or checkpoint / "answers.json"))
            check_answer_head(len(answer_list), info["num_answers"])
        vocabulary = load_tokenizer(tokenizer or tokenizer_folder(checkpoint), model.config.vocab_size)
        viewing = info.get("viewing", {})
        text_tokens = min(max_text_tokens or viewing.get("max_text_tokens", TEXT_TOKENS), model.config.max_positions)
        root = Path(media_root or os.environ.get(MEDIA_ROOT) or ".").resolve()
        return cls(model, info["task"], vocabulary, answer_list, frames or viewing.get("frames", FRAMES), text_tokens, root)

    def predict(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return a row of results for each row of `video` (path) and `caption` or `question`; each video is read once.

        Captions: `score` (VTM's probability of a match; a prompter has none) and `similarity` (VTC's cosine).
        Questions: `answer`, its `probability`, and `top_answers` with `top_probabilities`, most likely first.
        Raises DataError for a cell that is not a text, is empty or longer than MAX_CHARACTERS, for a video outside
        `media_root`, and for an unreadable video.
        """
        column = TEXT_COLUMN[self.task]
        missing = [name for name in ("video", column) if name not in table.columns]
        if missing:
            raise DataError(f"the table has no column {' and no column '.join(missing)}; it needs video and {column}")
        texts, names = checked_texts(table, column), checked_texts(table, "video")
        videos = [self._resolve(name) for name in names]
        try:
            rows = self._answer(videos, texts) if self.task == "qa" else self._score(videos, texts)
        except DataError as error:  # do not reveal the location of the folder to a caller
            raise DataError(str(error).replace(f"{self.media_root}/", "")) from None
        import pandas

        return pandas.DataFrame(rows, index=table.index)

    def _resolve(self, name: str) -> Path:
        """Return the path of a caller's video. A path outside `media_root` is refused before anything about it is revealed."""
        try:
            path = (self.media_root / name).resolve()
            if not path.is_relative_to(self.media_root):
                raise DataError(f"video {name!r}: outside the folder of videos, which {MEDIA_ROOT} sets")
            if not path.is_file() and (other := same_name(path)):
                path = other.resolve()
            if not path.is_file() or not path.is_relative_to(self.media_root):
                raise DataError(f"video {name!r}: not found in the folder of videos")
        except (OSError, ValueError, RuntimeError):
            raise DataError(f"video {name[:60]!r}: not a valid path") from None
        return path

    def _answer(self, videos: Sequence[Path], questions: Sequence[str]) -> list[dict[str, Any]]:
        from alpro.data.annotations.records import Question, Record
        from alpro.evaluation.clips import Preprocessing
        from alpro.evaluation.qa import evaluate_qa

        by_video: dict[Path, list[Question]] = {}
        for row, (video, question) in enumerate(zip(videos, questions, strict=True)):
            by_video.setdefault(video, []).append(Question(row, question, "", ""))
        records = [Record(str(path), path, questions=tuple(questions_of)) for path, questions_of in by_video.items()]
        if not records:
            return []
        model = self.model
        preprocessing = Preprocessing(model.num_frames, model.config.image_size, self.max_text_tokens, self.frames)
        result = evaluate_qa(model, records, self.tokenizer, self.answers or {}, preprocessing)  # type: ignore[arg-type]
        return [
            {
                "answer": prediction.predicted,
                "probability": prediction.top[0][1],
                "top_answers": [answer for answer, _ in prediction.top],
                "top_probabilities": [probability for _, probability in prediction.top],
            }
            for prediction in result.predictions
        ]

    def _score(self, videos: Sequence[Path], captions: Sequence[str]) -> list[dict[str, Any]]:
        from alpro.data.annotations.records import Record
        from alpro.evaluation.clips import ClipReader
        from alpro.evaluation.sharing import evaluating
        from alpro.evaluation.texts import padded_ids, token_ids

        rows_of: dict[Path, list[int]] = {}
        for row, video in enumerate(videos):
            rows_of.setdefault(video, []).append(row)
        ids = token_ids(self.tokenizer, captions, self.max_text_tokens)
        reader = ClipReader(self.model.num_frames, self.frames, self.model.config.image_size)
        results: dict[int, dict[str, Any]] = {}
        clips = reader.clips([Record(str(path), path) for path in rows_of])
        with evaluating(self.model) as device:
            for rows, clip in zip(rows_of.values(), clips, strict=True):
                padded, mask = padded_ids([ids[row] for row in rows], device)
                text, tokens = self.model.encode_text(padded, mask), self.model.encode_video(clip[None].to(device))
                similarity = self.model.text_feature(text) @ self.model.video_feature(tokens)[0]
                scores = {"similarity": similarity.tolist()}
                if self.task != "prompter":
                    match = self.model.match(text, mask, tokens.expand(len(rows), -1, -1))
                    scores["score"] = match.float().softmax(-1)[:, 1].tolist()
                for position, row in enumerate(rows):
                    results[row] = {name: values[position] for name, values in sorted(scores.items())}
        return [results[row] for row in range(len(videos))]


def tokenizer_folder(checkpoint: Path) -> Path:
    """Return the folder with a checkpoint's tokenizer: `tokenizer` in it, itself in the Hub's layout, or BERT's for a file."""
    if not checkpoint.is_dir():
        return Path(BERT)
    own = checkpoint / "tokenizer"
    is_at_top = any((checkpoint / name).is_file() for name in VOCABULARY_FILES)
    return checkpoint if is_at_top and not own.is_dir() else own


def checked_texts(table: pd.DataFrame, column: str) -> list[str]:
    """Return the texts of a column, stripped. Raises DataError that names the rows whose cell is no usable text."""
    cells = table[column]
    if cells.ndim != 1:
        raise DataError(f"the table has more than one column {column}; keep one")
    faults = [f"row {row}: {column} {fault}" for row, cell in enumerate(cells) if (fault := _fault(cell))]
    if faults:
        more = f", and {len(faults) - SHOWN_FAULTS} more rows" if len(faults) > SHOWN_FAULTS else ""
        raise DataError(f"{', '.join(faults[:SHOWN_FAULTS])}{more}; give a text in every row")
    return [str(cell).strip() for cell in cells]


def _fault(cell: Any) -> str | None:
    """Return the reason why a cell is no usable text; None if it is one."""
    if not isinstance(cell, str):
        import pandas

        is_null = not isinstance(cell, (list, tuple, dict)) and pandas.api.types.is_scalar(cell) and pandas.isna(cell)
        return "is null" if is_null else f"is of type {type(cell).__name__}"
    if not cell.strip():
        return "is empty"
    if len(cell) > MAX_CHARACTERS:
        return f"is longer than {MAX_CHARACTERS:,} characters"
    return text_fault(cell) or None
