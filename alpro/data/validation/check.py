"""`alpro data check`: reports each problem of a set by file, row and video, with a remedy.

The checks are those of the pipeline's validation, so a set that passes here passes there. Only the cache of inspected videos
is kept.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpro.config import Params
from alpro.data.validation.problems import Problem
from alpro.errors import ConfigError, DataError, nearest

FILL_IN = "fill it in, or remove the row"
TIE = "fine if intended; else make them different"
REPLACE_VIDEO = "replace it with an intact copy, or remove its rows"
PUBLISHED = "compare with the official files, which `alpro data fetch` downloads"
REMEDIES = {  # by the name of the check
    "video_given": FILL_IN,
    "text_given": FILL_IN,
    "caption_given": FILL_IN,
    "question_given": FILL_IN,
    "answer_given": FILL_IN,
    "video_not_empty": FILL_IN,
    "caption_not_empty": FILL_IN,
    "question_not_empty": FILL_IN,
    "answer_not_empty": FILL_IN,
    "within_token_limit": "shorten it, or raise max_text_tokens",
    "row_once": "remove one of the two",
    "id_once": "renumber them, or remove the duplicate row",
    "val_captions_distinct": TIE,
    "test_captions_distinct": TIE,
    "val_one_caption_a_video": "fine if intended",
    "test_one_caption_a_video": "fine if intended",
    "val_content_distinct": "remove one of the two",
    "test_content_distinct": "remove one of the two",
    "type_known": "it counts only towards the overall accuracy; set `answer_type` to count it under a type",
    "answer_in_list": "add it to the answer list, or remove the row",
    "answer_list_fits": "put the answer list of this set into its folder",
    "one_answer_a_question": "keep one answer",
    "splits_disjoint": "keep the video in one split",
    "content_in_one_split": "keep one of the files, in one split",
    "one_name_a_file": "use one name in all rows",
    "enough_frames": "fine if rare; else lower num_frames",
    "readable": REPLACE_VIDEO,
    "readable_in_training": f"{REPLACE_VIDEO}; training leaves it out",
    "enough_readable_in_training": "replace the listed files, or raise the limit",
}


@dataclass(frozen=True, slots=True)
class SetReport:
    """Problems and counts of one set; `metrics` is the content of validation's metrics.json."""

    name: str
    problems: Sequence[Problem]
    metrics: Mapping[str, Any]

    @property
    def counts(self) -> str:
        """The number of errors and warnings, as text."""
        return f"{self.metrics['errors']} errors, {self.metrics['warnings']} warnings"

    def lines(self) -> list[str]:
        """Return one line per problem and one per split."""
        splits = self.metrics["splits"].items()
        return [
            *(describe(problem) for problem in self.problems),
            *(f"{self.name}: {split}: {counts['rows']:,} rows, {counts['videos']:,} videos" for split, counts in splits),
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return the report for JSON."""
        return {
            "set": self.name,
            "errors": self.metrics["errors"],
            "warnings": self.metrics["warnings"],
            "splits": self.metrics["splits"],
            "problems": [{**json.loads(problem.json()), "remedy": remedy(problem)} for problem in self.problems],
        }

    def raise_for_errors(self) -> None:
        """Raise DataError if the set has errors; warnings are allowed."""
        if self.metrics["errors"]:
            raise DataError(f"{self.name}: {self.counts}; fix the errors and check again")

    def summary(self) -> str:
        """Return the verdict on a set without errors."""
        return f"{self.name}: passed, {self.metrics['warnings']} warnings"


def check_set(params: Params, name: str) -> SetReport:
    """Check a corpus or dataset. Raises ConfigError if `params` has none of this name."""
    from alpro.data.validation import run
    from alpro.data.validation.limits import limits_of

    if name not in params.corpora and name not in params.datasets:
        names = {**params.corpora, **params.datasets}
        raise ConfigError(f"neither `corpora` nor `datasets` has {name!r}{nearest(name, names)}; declare it in params.yaml")
    with tempfile.TemporaryDirectory(prefix="alpro-check-") as folder:
        checked = run.validate_tables(params, name, limits_of(params, name), Path(folder) / "index.parquet")
    return SetReport(name, checked.problems, checked.metrics)


def remedy(problem: Problem) -> str | None:
    """Return what to do about a problem; None if the problem says so itself."""
    return PUBLISHED if problem.check.startswith("published_") else REMEDIES.get(problem.check)


def describe(problem: Problem) -> str:
    """Return a problem on one line, with its remedy."""
    advice = remedy(problem)
    return f"{problem.severity}: {problem.line()}" + (f"; {advice}" if advice else "")
