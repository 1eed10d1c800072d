"""Runs Great Expectations on a set's two tables, and derives metrics and problems from the results."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from alpro.config import Corpus, Params
from alpro.data.annotations.read import SPLITS
from alpro.data.validation.inspection import inspect_videos
from alpro.data.validation.limits import Limits
from alpro.data.validation.problems import Problem, problems_of
from alpro.data.validation.tables import Tables, read_tables
from alpro.files.atomic import sha256

TEXTS_PER_CALL = 4096  # of the tokenizer


@dataclass(frozen=True, slots=True)
class ValidatedSet:
    """A validated set: problems, metrics, GX's results by table, and the tables themselves."""

    problems: list[Problem]
    metrics: dict[str, Any]
    results: dict[str, Any]
    tables: Tables

    def identity(self) -> dict[str, Any]:
        """Return hashes of the annotations and videos; they change only if the data change."""
        videos = self.tables.videos
        lines = sorted({f"{content}  {video}" for video, content in zip(videos["video"], videos["content"], strict=True)})
        return {
            "annotations": {name: sha256(file) for name, file in self.tables.files.items()},
            "videos": hashlib.sha256("\n".join(lines).encode()).hexdigest(),
        }


def validate_tables(params: Params, name: str, limits: Limits, index: Path) -> ValidatedSet:
    """Validate one set and write the index of its files. Raises DataError if no tokenizer fits the model."""
    source = params.corpora[name] if name in params.corpora else params.datasets[name]
    tables = read_tables(source, limits.needed)
    tables.rows["tokens"] = token_lengths(tables.rows["text"], params.text.tokenizer, params.model.vocab_size)
    if isinstance(source, Corpus):
        inspect_videos(tables.videos, source.media, source.root, index)
    else:
        inspect_videos(tables.videos, "video", source.videos, index)
    results = run_suites(tables, limits, str(index))
    problems = [Problem(name, "error", "file_readable", fault) for fault in tables.faults]
    counts = {"file_readable": len(problems)} if problems else {}
    for table_name, table in (("rows", tables.rows), ("videos", tables.videos)):
        new_problems, new_counts = problems_of(name, results[table_name], table)
        problems += new_problems
        counts |= new_counts
    return ValidatedSet(problems, _metrics(tables, limits, problems, counts), results, tables)


def run_suites(tables: Tables, limits: Limits, index: str) -> dict[str, Any]:
    """Return GX's results of both suites, in the order of the checks. `index` is a Parquet file of path, readable, frames."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    from alpro.data.validation.suites import rows_suite, videos_suite

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    source = context.data_sources.add_pandas("alpro")
    results = {}
    for name, table, suite in (
        ("rows", tables.rows, rows_suite(limits)),
        ("videos", tables.videos, videos_suite(limits, index)),
    ):
        batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe(name)
        # Validate the batch itself: a validation definition would also store the result, which is slow for many failures.
        result: Any = batch.get_batch({"dataframe": table}).validate(
            suite,
            result_format={
                "result_format": "COMPLETE",
                "unexpected_index_column_names": ["n", "place", "split", "video"],
                "return_unexpected_index_query": False,
                "partial_unexpected_count": 20,
            },
        )
        result.results.sort(key=lambda outcome: outcome.expectation_config.meta["position"])
        results[name] = result
    return results


def token_lengths(texts: pd.Series, tokenizer: str, vocab_size: int | None = None) -> pd.Series:
    """Return the number of tokens of each text, with [CLS] and [SEP]; NaN if the text is missing.

    Raises DataError if the vocabulary cannot be read, or does not have the model's `vocab_size` tokens.
    """
    from alpro.data.text.tokenizer import load_tokenizer

    encode = load_tokenizer(tokenizer, vocab_size)
    distinct = [text for text in texts.unique() if isinstance(text, str)]
    lengths: dict[str, int] = {}
    for start in range(0, len(distinct), TEXTS_PER_CALL):
        batch = distinct[start : start + TEXTS_PER_CALL]
        ids = encode(batch, verbose=False, return_attention_mask=False, return_token_type_ids=False)["input_ids"]
        lengths |= zip(batch, map(len, ids), strict=True)
    return texts.map(lengths)


def _metrics(tables: Tables, limits: Limits, problems: list[Problem], counts: dict[str, int]) -> dict[str, Any]:
    severity = {problem.check: problem.severity for problem in problems}
    splits = {}
    for split in (name for name in tables.files if name in SPLITS):
        rows, videos = tables.rows[tables.rows["split"] == split], tables.videos[tables.videos["split"] == split]
        figures: dict[str, Any] = {"rows": len(rows), "videos": len(videos)}
        if len(rows):
            figures["over_token_limit"] = round(float((rows["tokens"] > limits.max_text_tokens).mean()), 6)
            if limits.kind == "qa":
                figures["answers_in_list"] = round(float(rows["label"].notna().mean()), 6)
                figures["types"] = {str(kind): int(count) for kind, count in rows["type"].value_counts().items()}
        if split in limits.needed and len(videos):
            figures["unreadable"] = int(videos["frames"].isna().sum())
            figures["fewer_frames"] = round(float((videos["frames"] < limits.num_frames).mean()), 6)
        splits[split] = figures
    return {
        "errors": sum(count for check, count in counts.items() if severity[check] == "error"),
        "warnings": sum(count for check, count in counts.items() if severity[check] == "warning"),
        "checks": counts,
        "splits": splits,
        "known_missing": tables.known_missing,
    }
