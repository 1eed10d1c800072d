"""The suites of Great Expectations: one per kind of set (caption corpus, retrieval, qa), for its rows and its videos.

Every expectation carries in its `meta` the name of the check and the sentence a person reads when it fails; errors
are GX's severity `critical`, everything else is `warning`.
"""

from __future__ import annotations

from typing import Any

import great_expectations as gx
import great_expectations.expectations as gxe
from great_expectations.expectations.row_conditions import Column

from alpro.data.annotations.read import QUESTION_TYPES
from alpro.data.validation.expectations import ExpectColumnPairValuesToBeInOneGroup, ExpectColumnValuesToBeReadableVideos
from alpro.data.validation.limits import Limits

GALLERY = ["val", "test"]  # the splits whose videos are ranked or asked about; nothing may be amiss there


def rows_suite(limits: Limits) -> gx.ExpectationSuite:
    """Expectations on the annotation rows, whose columns `Tables` names."""
    text = "question" if limits.kind == "qa" else "caption"
    checks = [
        _given("video", "video"),
        _given("text", text),
        _error(gxe.ExpectColumnValuesToMatchRegex, "video_not_empty", "the video's name is empty", column="video", regex=r"\S"),
        _error(gxe.ExpectColumnValuesToMatchRegex, f"{text}_not_empty", f"the {text} is empty", column="text", regex=r"\S"),
        _warning(
            gxe.ExpectColumnValuesToBeBetween,
            "within_token_limit",
            f"the {text} has more than {limits.max_text_tokens} tokens and is cut there",
            column="tokens",
            max_value=limits.max_text_tokens,
        ),
        _warning(
            gxe.ExpectCompoundColumnsToBeUnique,
            "row_once",
            "the same row stands twice",
            column_list=["split", "video", "text", "answer"] if limits.kind == "qa" else ["split", "video", "text"],
            ignore_row_if="any_value_is_missing",
        ),
    ]
    if limits.kind != "corpus":
        checks.append(
            _warning(
                gxe.ExpectCompoundColumnsToBeUnique,
                "id_once",
                f"another {text} of the split has the same id",
                column_list=["split", "id"],
                ignore_row_if="any_value_is_missing",
            )
        )
    if limits.kind == "retrieval":
        for split in GALLERY:
            checks += [
                _warning(
                    ExpectColumnPairValuesToBeInOneGroup,
                    f"{split}_captions_distinct",
                    "another video of the split has the same caption: a tie that no model can break",
                    column_A="text",
                    column_B="video",
                    row_condition=Column("split") == split,
                ),
                _warning(
                    gxe.ExpectColumnValuesToBeUnique,
                    f"{split}_one_caption_a_video",
                    "the video has several captions; video-to-text scores its best one",
                    column="video",
                    row_condition=Column("split") == split,
                ),
            ]
    if limits.kind == "qa":
        checks += [
            _given("answer", "answer"),
            _error(gxe.ExpectColumnValuesToMatchRegex, "answer_not_empty", "the answer is empty", column="answer", regex=r"\S"),
            (_error if limits.published else _warning)(
                gxe.ExpectColumnValuesToBeInSet,
                "type_known",
                f"the type is none of {', '.join(QUESTION_TYPES)}",
                column="type",
                value_set=list(QUESTION_TYPES),
            ),
            _warning(
                gxe.ExpectColumnValuesToNotBeNull,
                "answer_in_list",
                "the answer is not in the answer list: it can be neither learned nor predicted",
                column="label",
            ),
            _error(
                gxe.ExpectColumnValuesToNotBeNull,
                "answer_list_fits",
                "fewer than half of the answers are in the answer list: it is another set's",
                column="label",
                mostly=0.5,
                whole=True,
            ),
            _warning(
                ExpectColumnPairValuesToBeInOneGroup,
                "one_answer_a_question",
                "the same question on the same video has another answer elsewhere: both can't be met",
                column_A="asked",
                column_B="answer",
            ),
        ]
    return _suite(f"{limits.kind}.rows", checks + _published_rows(limits))


def videos_suite(limits: Limits, index: str) -> gx.ExpectationSuite:
    """Expectations on the videos; one row for each video of a split; columns: split, video, path, frames, content."""
    leak = _warning if limits.published else _error  # the official splits are what they are, and are not to be edited
    one_split, one_content = "stands in more than one split", "its file has the same content as one of another split"
    checks = [
        _error(ExpectColumnPairValuesToBeInOneGroup, "splits_disjoint", one_split, column_A="video", column_B="split"),
        leak(ExpectColumnPairValuesToBeInOneGroup, "content_in_one_split", one_content, column_A="content", column_B="split"),
        _error(
            ExpectColumnPairValuesToBeInOneGroup,
            "one_name_a_file",
            "another name stands for the same file",
            column_A="path",
            column_B="video",
        ),
        _warning(
            gxe.ExpectColumnValuesToBeBetween,
            "enough_frames",
            f"has fewer than the {limits.num_frames} frames that are read; frames are repeated",
            column="frames",
            min_value=limits.num_frames,
        ),
    ]
    readable: dict[str, Any] = {"column": "path", "index": index, "min_frames": 1}
    unreadable = "can't be read"
    share = f"more than {limits.max_unreadable:.4%} of the training files can't be read (loader.max_unreadable)"
    train, gallery = Column("split") == "train", Column("split").is_in(GALLERY)
    checks += [
        _error(ExpectColumnValuesToBeReadableVideos, "readable", unreadable, **readable, row_condition=gallery),
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
    if limits.kind == "retrieval":
        for split in GALLERY:
            checks.append(
                _warning(
                    gxe.ExpectColumnValuesToBeUnique,
                    f"{split}_content_distinct",
                    "another video of the split has the same content: a tie that no model can break",
                    column="content",
                    row_condition=Column("split") == split,
                )
            )
    return _suite(f"{limits.kind}.videos", checks + _published_videos(limits))


def _given(column: str, what: str) -> Any:
    message = f"the row has no {what}, or one that is no text"
    return _error(gxe.ExpectColumnValuesToNotBeNull, f"{what}_given", message, column=column)


def _published_rows(limits: Limits) -> list[Any]:
    checks = []
    for split, facts in limits.published.items():
        here = Column("split") == split
        if facts.rows:
            message = f"the {split} split has {{observed}} rows; {facts.rows} are published"
            name = f"published_{split}_rows"
            checks.append(_warning(gxe.ExpectTableRowCountToEqual, name, message, value=facts.rows, row_condition=here))
        for kind, count in facts.types.items():
            message = f"the {split} split has {{observed}} {kind!r} questions; {count} are published"
            of_kind = here & (Column("type") == kind)
            name = f"published_{split}_{kind}"
            checks.append(_warning(gxe.ExpectTableRowCountToEqual, name, message, value=count, row_condition=of_kind))
    return checks


def _published_videos(limits: Limits) -> list[Any]:
    checks = []
    for split, facts in limits.published.items():
        if facts.videos:
            message = f"the {split} split has {{observed}} videos; {facts.videos} are published"
            here, name = Column("split") == split, f"published_{split}_videos"
            checks.append(_warning(gxe.ExpectTableRowCountToEqual, name, message, value=facts.videos, row_condition=here))
    return checks


def _suite(name: str, checks: list[Any]) -> gx.ExpectationSuite:
    for place, check in enumerate(checks):
        check.meta["place"] = place  # results come back in another order
    return gx.ExpectationSuite(name=name, expectations=checks)


def _error(kind: Any, check: str, message: str, *, whole: bool = False, **kwargs: Any) -> Any:
    return _check("error", kind, check, message, whole, kwargs)


def _warning(kind: Any, check: str, message: str, *, whole: bool = False, **kwargs: Any) -> Any:
    return _check("warning", kind, check, message, whole, kwargs)


def _check(level: str, kind: Any, check: str, message: str, whole: bool, kwargs: dict[str, Any]) -> Any:
    """`whole` checks are about the set, not about its rows. The description is what the Data Docs show."""
    what = message.replace("{observed}", "another number of")
    return kind(
        severity="critical" if level == "error" else "warning",
        description=f"{check} ({level}): fails where {what}",
        meta={"check": check, "message": message, "whole": whole},
        **kwargs,
    )
