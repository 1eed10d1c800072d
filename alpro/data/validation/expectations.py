"""Expectations that Great Expectations lacks: files that decode, and values that belong to one group only.

Importing this module imports Great Expectations, which takes seconds; import it only when a validation runs.
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
    """Return the number of decodable frames of every readable file of an index, by path."""
    table = pd.read_parquet(index, columns=["path", "readable", "frames"])
    table = table[table["readable"]]
    return dict(zip(table["path"], table["frames"].astype(int), strict=True))


class ColumnValuesReadable(ColumnMapMetricProvider):
    """True if, according to the index, the file can be read and has at least `min_frames` frames."""

    condition_metric_name = "column_values.readable_video"
    condition_value_keys = ("index", "min_frames")

    @column_condition_partial(engine=PandasExecutionEngine)
    def _pandas(cls, column: pd.Series, index: str, min_frames: int, **kwargs: Any) -> pd.Series:
        return column.map(_frames_of(index)).fillna(0) >= min_frames


class ExpectColumnValuesToBeReadableVideos(ColumnMapExpectation):
    """Expect each path to name a file that decodes to at least `min_frames` frames, according to the index (Parquet).

    The index is built by decoding what training would read, so a container that merely opens does not pass.
    """

    index: str
    min_frames: int = 1

    map_metric = "column_values.readable_video"
    success_keys = ("index", "min_frames", "mostly")
    args_keys: ClassVar[tuple[str, ...]] = ("column", "index", "min_frames", "mostly")


class ColumnPairInOneGroup(ColumnPairMapMetricProvider):
    """True if all rows with this value of column A have the same value of column B."""

    condition_metric_name = "column_pair_values.in_one_group"
    condition_domain_keys = ("batch_id", "table", "column_A", "column_B", "row_condition", "condition_parser", "ignore_row_if")
    condition_value_keys = ()

    @column_pair_condition_partial(engine=PandasExecutionEngine)
    def _pandas(cls, column_A: pd.Series, column_B: pd.Series, **kwargs: Any) -> pd.Series:
        return column_B.groupby(column_A).transform("nunique") == 1


class ExpectColumnPairValuesToBeInOneGroup(ColumnPairMapExpectation):
    """Expect each value of column A to have one value of column B, such as one split for each video."""

    ignore_row_if: str = "either_value_is_missing"

    map_metric = "column_pair_values.in_one_group"
    success_keys = ("column_A", "column_B", "ignore_row_if", "mostly")
    args_keys: ClassVar[tuple[str, ...]] = ("column_A", "column_B")
