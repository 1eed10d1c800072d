"""Expectation suites for each kind of set (caption corpus, retrieval, qa): one for its rows and one for its videos.

The `meta` of an expectation holds the name of the check and the message that is shown if it fails. Errors have GX's severity
`critical`, warnings have `warning`.
"""

from __future__ import annotations

from typing import Any

import great_expectations as gx
import great_expectations.expectations as gxe
from great_expectations.expectations.row_conditions import Column

from alpro.data.annotations.records import QUESTION_TYPES
from alpro.data.validation.expectations import ExpectColumnPairValuesToBeInOneGroup, ExpectColumnValuesToBeReadableVideos
from alpro.data.validation.limits import Limits

EVALUATED_SPLITS = ["val", "test"]  # an unreadable video there is an error


def rows_suite(limits: Limits) -> gx.ExpectationSuite:
    """Build the expectations on the annotation rows; `Tables` lists the columns."""
    expectations = _rows_of_any_set(limits)
    if limits.kind != "corpus":
        expectations.append(_distinct_ids(limits))
    if limits.kind == "retrieval":
        expectations += [expectation for split in EVALUATED_SPLITS for expectation in _unambiguous_captions(split)]
    if limits.kind == "qa":
        expectations += _answers(limits)
    return _suite(f"{limits.kind}.rows", expectations + _published_rows(limits))


def _rows_of_any_set(limits: Limits) -> list[Any]:
    text = _text_name(limits)
    return [
        _not_null("video", "video"),
        _not_null("text", text),
        _error(gxe.ExpectColumnValuesToMatchRegex, "video_not_empty", "the video's name is empty", column="video", regex=r"\S"),
        _error(gxe.ExpectColumnValuesToMatchRegex, f"{text}_not_empty", f"the {text} is empty", column="text", regex=r"\S"),
        _warning(
            gxe.ExpectColumnValuesToBeBetween,
            "within_token_limit",
            f"the {text} has more than {limits.max_text_tokens} tokens and is truncated",
            column="tokens",
            max_value=limits.max_text_tokens,
        ),
        _warning(
            gxe.ExpectCompoundColumnsToBeUnique,
            "row_once",
            "the row is a duplicate",
            column_list=["split", "video", "text", "answer"] if limits.kind == "qa" else ["split", "video", "text"],
            ignore_row_if="any_value_is_missing",
        ),
    ]


def _distinct_ids(limits: Limits) -> Any:
    return _warning(
        gxe.ExpectCompoundColumnsToBeUnique,
        "id_once",
        f"another {_text_name(limits)} of the split has the same id",
        column_list=["split", "id"],
        ignore_row_if="any_value_is_missing",
    )


def _unambiguous_captions(split: str) -> list[Any]:
    in_split = Column("split") == split
    return [
        _warning(
            ExpectColumnPairValuesToBeInOneGroup,
            f"{split}_captions_distinct",
            "another video of the split has the same caption, a tie that no model can break",
            column_A="text",
            column_B="video",
            row_condition=in_split,
        ),
        _warning(
            gxe.ExpectColumnValuesToBeUnique,
            f"{split}_one_caption_a_video",
            "the video has several captions; video-to-text retrieval scores its best one",
            column="video",
            row_condition=in_split,
        ),
    ]


def _answers(limits: Limits) -> list[Any]:
    return [
        _not_null("answer", "answer"),
        _error(gxe.ExpectColumnValuesToMatchRegex, "answer_not_empty", "the answer is empty", column="answer", regex=r"\S"),
        (_error if limits.published else _warning)(
            gxe.ExpectColumnValuesToBeInSet,
            "type_known",
            f"the type is not one of {', '.join(QUESTION_TYPES)}",
            column="type",
            value_set=list(QUESTION_TYPES),
        ),
        _warning(
            gxe.ExpectColumnValuesToNotBeNull,
            "answer_in_list",
            "the answer is not in the answer list, so it can be neither learned nor predicted",
            column="label",
        ),
        _error(
            gxe.ExpectColumnValuesToNotBeNull,
            "answer_list_fits",
            "fewer than half of the answers are in the answer list; it belongs to another set",
            column="label",
            mostly=0.5,
            whole=True,
        ),
        _warning(
            ExpectColumnPairValuesToBeInOneGroup,
            "one_answer_a_question",
            "the same question on the same video has different answers",
            column_A="asked",
            column_B="answer",
        ),
    ]


def videos_suite(limits: Limits, index: str) -> gx.ExpectationSuite:
    """Build the expectations on the videos, one row per video and split; columns: split, video, path, frames, content."""
    expectations = _consistent_videos(limits) + _readable_videos(limits, index)
    if limits.kind == "retrieval":
        expectations += [_distinct_content(split) for split in EVALUATED_SPLITS]
    return _suite(f"{limits.kind}.videos", expectations + _published_videos(limits))


def _consistent_videos(limits: Limits) -> list[Any]:
    leak = _warning if limits.published else _error  # the official splits must not be edited
    one_split, one_content = "the video is in more than one split", "a file of another split has the same content"
    return [
        _error(ExpectColumnPairValuesToBeInOneGroup, "splits_disjoint", one_split, column_A="video", column_B="split"),
        leak(ExpectColumnPairValuesToBeInOneGroup, "content_in_one_split", one_content, column_A="content", column_B="split"),
        _error(
            ExpectColumnPairValuesToBeInOneGroup,
            "one_name_a_file",
            "the same file has another name in another row",
            column_A="path",
            column_B="video",
        ),
        _warning(
            gxe.ExpectColumnValuesToBeBetween,
            "enough_frames",
            f"the video has fewer frames than the {limits.num_frames} that are read, so frames are repeated",
            column="frames",
            min_value=limits.num_frames,
        ),
    ]


def _readable_videos(limits: Limits, index: str) -> list[Any]:
    readable: dict[str, Any] = {"column": "path", "index": index, "min_frames": 1}
    unreadable = "the file cannot be read"
    share = f"more than {limits.max_unreadable:.4%} of the training files cannot be read (loader.max_unreadable)"
    train, evaluated = Column("split") == "train", Column("split").is_in(EVALUATED_SPLITS)
    return [
        _error(ExpectColumnValuesToBeReadableVideos, "readable", unreadable, **readable, row_condition=evaluated),
        _warning(ExpectColumnValuesToBeReadableVideos, "readable_in_training", unreadable, **readable, row_condition=train),
        _error(
            ExpectColumnValuesToBeReadableVideos,
            "enough_readable_in_training",
            share,
            **readable,
            row_condition=train,
            mostly=1 - limits.max_unreadable,
            whole=True,
        ),
    ]


def _distinct_content(split: str) -> Any:
    return _warning(
        gxe.ExpectColumnValuesToBeUnique,
        f"{split}_content_distinct",
        "another video of the split has the same content, a tie that no model can break",
        column="content",
        row_condition=Column("split") == split,
    )


def _text_name(limits: Limits) -> str:
    return "question" if limits.kind == "qa" else "caption"


def _not_null(column: str, name: str) -> Any:
    message = f"the {name} is missing or not a text"
    return _error(gxe.ExpectColumnValuesToNotBeNull, f"{name}_given", message, column=column)


def _published_rows(limits: Limits) -> list[Any]:
    expectations = []
    for split, counts in limits.published.items():
        in_split = Column("split") == split
        if counts.rows:
            name, message = f"published_{split}_rows", f"the {split} split has {{observed}} rows; {counts.rows} are published"
            expectations.append(_row_count(name, message, counts.rows, in_split))
        for kind, count in counts.types.items():
            name = f"published_{split}_{kind}"
            message = f"the {split} split has {{observed}} {kind!r} questions; {count} are published"
            expectations.append(_row_count(name, message, count, in_split & (Column("type") == kind)))
    return expectations


def _published_videos(limits: Limits) -> list[Any]:
    expectations = []
    for split, counts in limits.published.items():
        if counts.videos:
            name = f"published_{split}_videos"
            message = f"the {split} split has {{observed}} videos; {counts.videos} are published"
            expectations.append(_row_count(name, message, counts.videos, Column("split") == split))
    return expectations


def _row_count(name: str, message: str, count: int, rows: Any) -> Any:
    return _warning(gxe.ExpectTableRowCountToEqual, name, message, value=count, row_condition=rows)


def _suite(name: str, expectations: list[Any]) -> gx.ExpectationSuite:
    for position, expectation in enumerate(expectations):
        expectation.meta["position"] = position  # GX returns the results in another order
    return gx.ExpectationSuite(name=name, expectations=expectations)


def _error(kind: Any, check: str, message: str, *, whole: bool = False, **kwargs: Any) -> Any:
    return _expectation("error", kind, check, message, whole, kwargs)


def _warning(kind: Any, check: str, message: str, *, whole: bool = False, **kwargs: Any) -> Any:
    return _expectation("warning", kind, check, message, whole, kwargs)


def _expectation(level: str, kind: Any, check: str, message: str, whole: bool, kwargs: dict[str, Any]) -> Any:
    """Build an expectation. `whole` checks are about the set, not its rows. The Data Docs show the description."""
    condition = message.replace("{observed}", "another number of")
    return kind(
        severity="critical" if level == "error" else "warning",
        description=f"{check} ({level}): fails if {condition}",
        meta={"check": check, "message": message, "whole": whole},
        **kwargs,
    )
