"""Validation of a corpus or dataset with Great Expectations, before anything is trained on it.

The output of each set is metrics.json, problems.jsonl, params.json, index.parquet (its files) and index.html (Data Docs that
need no network). Equal data give equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpro.config import Params
from alpro.data.validation.limits import limits_of
from alpro.data.validation.problems import Problem
from alpro.errors import ConfigError, DataError, OutputError
from alpro.files.json_files import write_json
from alpro.files.outputs import foreign_files, new_dir, refuse_foreign

__all__ = ["Problem", "Summary", "validate", "validate_set"]

SHOWN = 10  # errors that the exception lists


@dataclass(frozen=True, slots=True)
class Summary:
    """Result of a validation: the problems (at most 1,000 of each check), and the content of metrics.json by set."""

    problems: tuple[Problem, ...]
    metrics: Mapping[str, Mapping[str, Any]]

    @property
    def errors(self) -> int:
        """Number of errors, including those that are not listed."""
        return sum(figures["errors"] for figures in self.metrics.values())

    @property
    def warnings(self) -> int:
        """Number of warnings."""
        return sum(figures["warnings"] for figures in self.metrics.values())

    def check(self) -> None:
        """Raise DataError that lists the first errors by file, row and video, if there are any."""
        errors = [problem.line() for problem in self.problems if problem.severity == "error"]
        if errors:
            more = [f"  and {self.errors - SHOWN} more"] if self.errors > SHOWN else []
            listed = [f"  {line}" for line in errors[:SHOWN]]
            names = ", ".join(name for name, figures in self.metrics.items() if figures["errors"])
            raise DataError("\n".join([f"{self.errors} errors in {names}:", *listed, *more]))


def validate(params: Params, names: Sequence[str], out_dir: str | Path) -> Summary:
    """Validate corpora and datasets of `params`; write a folder with passed.json for each into `out_dir`.

    The output of all sets is written before errors are raised. Raises DataError if there are errors, ConfigError for a name
    that `params` does not have.
    """
    out_dir = Path(out_dir)
    return _combine([_validate(params, name, out_dir / name, out_dir / name / "passed.json") for name in names])


def validate_set(params: Params, name: str, output: str | Path, passed: str | Path) -> Summary:
    """Validate one set as `validate` does, into the folder `output`; write `passed` if it passes, else remove it.

    `passed` holds only hashes of annotations and videos, so stages that depend on it run again if the data changed.
    """
    return _combine([_validate(params, name, Path(output), Path(passed))])


def _combine(summaries: Sequence[Summary]) -> Summary:
    metrics = {name: figures for summary in summaries for name, figures in summary.metrics.items()}
    summary = Summary(tuple(problem for each in summaries for problem in each.problems), metrics)
    summary.check()
    return summary


def _validate(params: Params, name: str, output: Path, passed: Path) -> Summary:
    from alpro.data.validation import docs, run
    from alpro.errors import nearest

    if name not in params.corpora and name not in params.datasets:
        names = {**params.corpora, **params.datasets}
        raise ConfigError(f"neither `corpora` nor `datasets` has {name!r}{nearest(name, names)}")
    if passed.exists() and not _is_passed_file(passed):
        raise OutputError(f"{passed}: exists and is not a file of `alpro data validate`; move it away, or give another file")
    refuse_foreign(output, (name for name in foreign_files(output) if output / name != passed))
    passed.unlink(missing_ok=True)
    limits = limits_of(params, name)
    with new_dir(output) as folder:
        checked = run.validate_tables(params, name, limits, folder / "index.parquet")
        write_json(folder / "params.json", {"set": name, **limits.as_dict()})
        write_json(folder / "metrics.json", checked.metrics)
        (folder / "problems.jsonl").write_text("".join(p.json() + "\n" for p in checked.problems), encoding="utf-8")
        docs.write_docs(name, checked.results, folder)
    summary = Summary(tuple(checked.problems), {name: checked.metrics})
    if not summary.errors:
        write_json(passed, {"set": name, **checked.identity()})
    return summary


def _is_passed_file(path: Path) -> bool:
    """Return True if a file is the result of an earlier validation."""
    try:
        return "set" in json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False
