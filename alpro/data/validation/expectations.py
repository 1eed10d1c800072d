"""Expectations that Great Expectations does not have: files that decode, and values that belong to one group only.

Importing this module imports Great Expectations (seconds): it is imported where a validation really runs.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, ClassVar

import pandas as pd
from great_expectations.execution_engine import PandasExecutionEngine
from great_expectations.expectations.expectation import ColumnMapExpectation, ColumnPairMapExpectation
from great_expectations.expectations.metrics.map_metric_provider import (
    ColumnMapMetricProvider,
    ColumnPairMapMetricProvider,
    column_condition_partial,
    column_pair_condition_partial,
)


@lru_cache(maxsize=4)
def _frames_of(index: str) -> dict[str, int]:
    """path -> frames that decode, of every readable file of an index."""
    table = pd.read_parquet(index, columns=["path", "readable", "frames"])
    table = table[table["readable"]]
    return dict(zip(table["path"], table["frames"].astype(int), strict=True))


class ColumnValuesReadable(ColumnMapMetricProvider):
    """True where the index says that the file could be read and holds `min_frames` frames."""

    condition_metric_name = "column_values.readable_video"
    condition_value_keys = ("index", "min_frames")

    @column_condition_partial(engine=PandasExecutionEngine)
    def _pandas(cls, column: pd.Series, index: str, min_frames: int, **kwargs: Any) -> pd.Series:
        return column.map(_frames_of(index)).fillna(0) >= min_frames


class ExpectColumnValuesToBeReadableVideos(ColumnMapExpectation):
    """Paths whose file is there, decodes, and holds at least `min_frames` frames, by the index (a Parquet file).

    The index was made by decoding what training would read, so that a container that merely opens does not pass.
    """

    index: str
    min_frames: int = 1

    map_metric = "column_values.readable_video"
    success_keys = ("index", "min_frames", "mostly")
    args_keys: ClassVar[tuple[str, ...]] = ("column", "index", "min_frames", "mostly")


class ColumnPairInOneGroup(ColumnPairMapMetricProvider):
    """True where a value of column A meets one value of column B only."""

    condition_metric_name = "column_pair_values.in_one_group"
    condition_domain_keys = ("batch_id", "table", "column_A", "column_B", "row_condition", "condition_parser", "ignore_row_if")
    condition_value_keys = ()

    @column_pair_condition_partial(engine=PandasExecutionEngine)
    def _pandas(cls, column_A: pd.Series, column_B: pd.Series, **kwargs: Any) -> pd.Series:
        return column_B.groupby(column_A).transform("nunique") == 1


class ExpectColumnPairValuesToBeInOneGroup(ColumnPairMapExpectation):
    """Each value of column A goes with one value of column B: a video with one split, a caption with one video."""

    ignore_row_if: str = "either_value_is_missing"

    map_metric = "column_pair_values.in_one_group"
    success_keys = ("column_A", "column_B", "ignore_row_if", "mostly")
    args_keys: ClassVar[tuple[str, ...]] = ("column_A", "column_B")
