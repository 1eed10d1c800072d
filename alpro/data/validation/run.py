"""Runs Great Expectations over a set's two tables and makes figures and problems of the results."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from alpro.config import Corpus, Params
from alpro.data.annotations.read import SPLITS
from alpro.data.validation.limits import Limits
from alpro.data.validation.look import look
from alpro.data.validation.problems import Problem, problems_of
from alpro.data.validation.tables import Tables, read_tables
from alpro.files.atomic import sha256

LONG = 4096  # texts of one call of the tokenizer


@dataclass(frozen=True, slots=True)
class Checked:
    """A validated set: its problems, its figures, GX's results by table, and what was read."""

    problems: list[Problem]
    metrics: dict[str, Any]
    results: dict[str, Any]
    tables: Tables

    def identity(self) -> dict[str, Any]:
        """Hashes of annotations and videos: other data, other identity; a warning more or less changes nothing."""
        videos = self.tables.videos
        lines = sorted({f"{content}  {video}" for video, content in zip(videos["video"], videos["content"], strict=True)})
        return {
            "annotations": {name: sha256(file) for name, file in self.tables.files.items()},
            "videos": hashlib.sha256("\n".join(lines).encode()).hexdigest(),
        }


def check(params: Params, name: str, limits: Limits, index: Path) -> Checked:
    """Validate one set and write the index of its files. Raises DataError without a tokenizer that fits the model."""
    source = params.corpora[name] if name in params.corpora else params.datasets[name]
    tables = read_tables(source, limits.needed)
    tables.rows["tokens"] = token_lengths(tables.rows["text"], params.text.tokenizer, params.model.vocab_size)
    if isinstance(source, Corpus):
        look(tables.videos, source.media, source.root, index)
    else:
        look(tables.videos, "video", source.videos, index)
    results = run_suites(tables, limits, str(index))
    problems = [Problem(name, "error", "file_readable", fault) for fault in tables.faults]
    counts = {"file_readable": len(problems)} if problems else {}
    for part, table in (("rows", tables.rows), ("videos", tables.videos)):
        found, counted = problems_of(name, results[part], table)
        problems += found
        counts |= counted
    return Checked(problems, _metrics(tables, limits, problems, counts), results, tables)


def run_suites(tables: Tables, limits: Limits, index: str) -> dict[str, Any]:
    """GX's results of both suites, in the order of the checks; `index` is a Parquet file of path, readable, frames."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    from alpro.data.validation.suites import rows_suite, videos_suite

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    source = context.data_sources.add_pandas("alpro")
    results = {}
    for part, table, suite in (
        ("rows", tables.rows, rows_suite(limits)),
        ("videos", tables.videos, videos_suite(limits, index)),
    ):
        batch = source.add_dataframe_asset(part).add_batch_definition_whole_dataframe(part)
        # of the batch itself: a validation definition would store the result, which for many failures takes longest
        result: Any = batch.get_batch({"dataframe": table}).validate(
            suite,
            result_format={
                "result_format": "COMPLETE",
                "unexpected_index_column_names": ["n", "place", "split", "video"],
                "return_unexpected_index_query": False,
                "partial_unexpected_count": 20,
            },
        )
        result.results.sort(key=lambda outcome: outcome.expectation_config.meta["place"])
        results[part] = result
    return results


def token_lengths(texts: pd.Series, tokenizer: str, vocab_size: int | None = None) -> pd.Series:
    """Tokens of each text, [CLS] and [SEP] included; nothing where there is no text.

    Raises DataError if the vocabulary can't be read, or has not the `vocab_size` tokens that the model embeds.
    """
    from alpro.data.text.tokenizer import load_tokenizer

    encode = load_tokenizer(tokenizer, vocab_size)
    distinct = [text for text in texts.unique() if isinstance(text, str)]
    lengths: dict[str, int] = {}
    for start in range(0, len(distinct), LONG):
        part = distinct[start : start + LONG]
        ids = encode(part, verbose=False, return_attention_mask=False, return_token_type_ids=False)["input_ids"]
        lengths |= zip(part, map(len, ids), strict=True)
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
