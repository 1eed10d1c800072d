"""Asks a checkpoint about rows of a table: how well captions fit videos, or what the answers to questions are.

The numbers are those of the evaluation (`alpro.evaluation`): the same frames, the same texts, the same heads.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpro.data.media.frames import Strategy
from alpro.errors import CheckpointError, DataError

if TYPE_CHECKING:
    import pandas as pd

    from alpro.models import Alpro

TEXT_COLUMN = {"prompter": "caption", "pretrain": "caption", "retrieval": "caption", "qa": "question"}
MEDIA_ROOT = "ALPRO_MEDIA_ROOT"
BERT = "ext/bert-base-uncased"  # where the released code keeps the tokenizer of its files
FRAMES: Strategy = "uniform"
TEXT_TOKENS = 40


@dataclass(frozen=True)
class Service:
    """A loaded checkpoint. `task` is prompter, pretrain, retrieval or qa; videos are looked for in `media_root` only."""

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

        `media_root`: the folder of the videos; else what ALPRO_MEDIA_ROOT names, else the working directory, which a server
        does not offer (pyfunc_model.py). Frames and text tokens that are not given are those of the training, else FRAMES and
        TEXT_TOKENS. Raises CheckpointError or DataError where something is missing, damaged or does not belong together.
        """
        import alpro.models  # noqa: F401  before transformers: it cures torchvision
        from alpro.checkpoints.files import check_answer_head
        from alpro.checkpoints.load import load_model
        from alpro.data.annotations.read import read_answer_list
        from alpro.data.text.tokenizer import load_tokenizer

        model, info, _ = load_model(checkpoint)
        listed = None
        if info["task"] == "qa":
            if answers is None and not checkpoint.is_dir():
                raise CheckpointError(f"{checkpoint}: has no answer list with it; name its train_ans2label.json")
            listed = read_answer_list(Path(answers or checkpoint / "answers.json"))
            check_answer_head(len(listed), info["num_answers"])
        own = checkpoint / "tokenizer"
        vocabulary = load_tokenizer(tokenizer or (own if checkpoint.is_dir() else BERT), model.config.vocab_size)
        viewing = info.get("viewing", {})
        longest = min(max_text_tokens or viewing.get("max_text_tokens", TEXT_TOKENS), model.config.max_positions)
        root = Path(media_root or os.environ.get(MEDIA_ROOT) or ".").resolve()
        return cls(model, info["task"], vocabulary, listed, frames or viewing.get("frames", FRAMES), longest, root)

    def ask(self, table: pd.DataFrame) -> pd.DataFrame:
        """One row of results for each row of `video` (path) and `caption` or `question`; every video is read once.

        Captions: `score` (VTM's probability of a match, not of a prompter, which has none) and `similarity` (VTC's cosine).
        Questions: `answer`, its `probability`, and `top_answers` with `top_probabilities`, the likeliest first.
        Raises DataError for an empty text, a video outside of the folder, or one that can't be read.
        """
        column = TEXT_COLUMN[self.task]
        missing = [name for name in ("video", column) if name not in table.columns]
        if missing:
            raise DataError(f"the table has no column {' and no column '.join(missing)}; it needs video and {column}")
        texts = [str(text).strip() for text in table[column]]
        empty = [str(row) for row, text in enumerate(texts) if not text]
        if empty:
            raise DataError(f"rows {', '.join(empty[:10])}: {column} is empty")
        videos = [self._inside(str(name)) for name in table["video"]]
        try:
            rows = self._answers(videos, texts) if self.task == "qa" else self._fits(videos, texts)
        except DataError as error:  # a caller is not told where the folder lies
            raise DataError(str(error).replace(f"{self.media_root}/", "")) from None
        import pandas

        return pandas.DataFrame(rows, index=table.index)

    def _inside(self, name: str) -> Path:
        """The file that a caller means; what it may not see is refused before anything is said about it."""
        try:
            path = (self.media_root / name).resolve()
        except (OSError, ValueError, RuntimeError):
            raise DataError(f"video {name!r}: is no path") from None
        if not path.is_relative_to(self.media_root):
            raise DataError(f"video {name!r}: lies outside of the folder of videos ({MEDIA_ROOT} names it)")
        if not path.is_file():
            raise DataError(f"video {name!r}: there is no such file in the folder of videos")
        return path

    def _answers(self, videos: Sequence[Path], questions: Sequence[str]) -> list[dict[str, Any]]:
        from alpro.data.annotations.records import Question, Record
        from alpro.evaluation.clips import Preprocessing
        from alpro.evaluation.qa import evaluate_qa

        asked: dict[Path, list[Question]] = {}
        for row, (video, question) in enumerate(zip(videos, questions, strict=True)):
            asked.setdefault(video, []).append(Question(row, question, "", ""))
        records = [Record(str(path), path, questions=tuple(listed)) for path, listed in asked.items()]
        if not records:
            return []
        model = self.model
        preprocessing = Preprocessing(model.num_frames, model.config.image_size, self.max_text_tokens, self.frames)
        found = evaluate_qa(model, records, self.tokenizer, self.answers or {}, preprocessing)  # type: ignore[arg-type]
        return [
            {
                "answer": prediction.predicted,
                "probability": prediction.top[0][1],
                "top_answers": [answer for answer, _ in prediction.top],
                "top_probabilities": [probability for _, probability in prediction.top],
            }
            for prediction in found.predictions
        ]

    def _fits(self, videos: Sequence[Path], captions: Sequence[str]) -> list[dict[str, Any]]:
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
                filled, mask = padded_ids([ids[row] for row in rows], device)
                text, tokens = self.model.encode_text(filled, mask), self.model.encode_video(clip[None].to(device))
                similarity = self.model.text_feature(text) @ self.model.video_feature(tokens)[0]
                found = {"similarity": similarity.tolist()}
                if self.task != "prompter":
                    match = self.model.match(text, mask, tokens.expand(len(rows), -1, -1))
                    found["score"] = match.float().softmax(-1)[:, 1].tolist()
                for at, row in enumerate(rows):
                    results[row] = {name: values[at] for name, values in sorted(found.items())}
        return [results[row] for row in range(len(videos))]
