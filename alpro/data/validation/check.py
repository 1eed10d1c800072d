"""`alpro data check`: what is wrong with a set, row by row, and what to do about it.

The checks are those of validation (alpro/data/validation), so what passes here passes in the pipeline; nothing is kept but
what was seen of each video.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from alpro.config import Params
from alpro.data.validation.problems import Problem
from alpro.errors import ConfigError, DataError, nearest

FILL_IN = "fill it in, or remove the row"
TIE = "fine if meant so; else make them differ"
MEND_VIDEO = "put a whole copy of the file there, or remove its rows"
PUBLISHED = "compare with the official files; `alpro data fetch` brings them"
# by the name of the check
REMEDIES = {
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
    "id_once": "number them anew, or remove the row that stands twice",
    "val_captions_distinct": TIE,
    "test_captions_distinct": TIE,
    "val_one_caption_a_video": "fine if meant so",
    "test_one_caption_a_video": "fine if meant so",
    "val_content_distinct": "remove one of the two",
    "test_content_distinct": "remove one of the two",
    "type_known": "counted in the overall accuracy alone; give `answer_type` to have it under one of these",
    "answer_in_list": "add it to the answer list, or remove the row",
    "answer_list_fits": "put the answer list of this set into its folder",
    "one_answer_a_question": "decide on one answer",
    "splits_disjoint": "keep the video in one split",
    "content_in_one_split": "keep one of the files, in one split",
    "one_name_a_file": "call it by one name in all rows",
    "enough_frames": "fine if few; else lower num_frames",
    "readable": MEND_VIDEO,
    "readable_in_training": f"{MEND_VIDEO}; training leaves it out",
    "enough_readable_in_training": "mend the files that are named, or raise the bound",
}


def check_set(params: Params, name: str, say: Callable[[str], None] = print) -> None:
    """Say each problem of a corpus or data set of `params` by file, line, video, what and what to do, then the counts.

    Raises DataError when there is any error (warnings are none), ConfigError for a name that `params` does not have.
    """
    from alpro.data.validation import run
    from alpro.data.validation.limits import limits_of

    if name not in params.corpora and name not in params.datasets:
        known = {**params.corpora, **params.datasets}
        raise ConfigError(f"neither `corpora` nor `datasets` has {name!r}{nearest(name, known)}; declare it in params.yaml")
    with tempfile.TemporaryDirectory(prefix="alpro-check-") as folder:
        checked = run.check(params, name, limits_of(params, name), Path(folder) / "index.parquet")
    for problem in checked.problems:
        say(told(problem))
    for split, figures in checked.metrics["splits"].items():
        say(f"{name}: {split}: {figures['rows']:,} rows, {figures['videos']:,} videos")
    errors, warnings = checked.metrics["errors"], checked.metrics["warnings"]
    if errors:
        raise DataError(f"{name}: {errors} errors, {warnings} warnings; mend the errors, then check again")
    say(f"{name}: good, {warnings} warnings")


def told(problem: Problem) -> str:
    """A problem on one line, with what to do; what could not be read at all says so itself."""
    remedy = PUBLISHED if problem.check.startswith("published_") else REMEDIES.get(problem.check)
    return f"{problem.severity}: {problem.line()}" + (f"; {remedy}" if remedy else "")
