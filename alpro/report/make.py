"""Writes the report and prints it at the terminal."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from alpro.config import Params
from alpro.errors import DataError, OutputError
from alpro.files.atomic import atomic_write
from alpro.files.json_files import read_json_object, write_json
from alpro.files.outputs import check_file, check_page
from alpro.report.baseline import read_baseline
from alpro.report.collect import RERUN, Entry, read_curves, read_evaluations, summarise
from alpro.report.table import results_table

ROOT = Path("reports")


def make_report(params: Params, root: str | Path = ROOT) -> dict[str, Entry]:
    """Write summary.json and index.html from the records under `root`; return the summary.

    Equal records give equal bytes. Raises DataError if no evaluation has a record, or if a record is damaged, OutputError if
    one of the files exists and is not a report's.
    """
    from alpro.report.page import COMMAND, page

    root = Path(root)
    summary_file, page_file = _check_summary(root / "summary.json"), check_page(root / "index.html", COMMAND)
    records = read_evaluations(params, root)
    if not records:
        raise DataError(f"{root}/evaluate: no evaluation of recipe {params.recipe}; run `dvc repro`")
    summary = summarise(records)
    write_json(summary_file, summary)
    atomic_write(page_file, page(params, summary, records, read_curves(params.datasets, root), read_baseline()))
    return summary


def show_report(params: Params, root: str | Path = ROOT) -> None:
    """Print the results and where to find more. Raises DataError if there is no summary yet."""
    import rich

    from alpro.lineage import LOCKS
    from alpro.tracking.pages import runs_address
    from alpro.tracking.store import is_server, store_uri

    root = Path(root)
    summary = read_json_object(root / "summary.json", DataError, RERUN)
    tasks = [*params.datasets, *(f"{task}_zeroshot" for task in params.zeroshot)]
    rich.print()
    for table in results_table({name: summary[name] for name in tasks if name in summary}):
        rich.print(table)
        rich.print()
    if missing := [name for name in tasks if name not in summary]:
        print(f"not evaluated: {', '.join(missing)}")
    print(f"report      {root / 'index.html'}")
    print(f"data docs   {root / 'validate'}/*/index.html")
    print(f"runs        {runs_address()}")
    if not is_server(store_uri()):
        print(f"            after `make ui`, or {_program('mlflow')} ui --backend-store-uri {shlex.quote(store_uri())}")
    if locks := " ".join(name for name in LOCKS if Path(name).exists()):
        print(f"keep them   git add {locks} && git commit -m 'Results of recipe {params.recipe}'")


def _check_summary(path: Path) -> Path:
    """Return the file of the summary. Raises OutputError if it exists and is no summary: entries with a task each."""
    target = check_file(path, replace=True)
    if target.exists():
        summary = read_json_object(target, OutputError, "it was not made by `alpro report make`; move it away")
        if not summary or not all(isinstance(entry, dict) and "task" in entry for entry in summary.values()):
            raise OutputError(f"{path}: exists and was not made by `alpro report make`; move it away, or give another --root")
    return target


def _program(name: str) -> Path:
    """Return the path of a program of the running environment, relative to the working directory if it is below."""
    path = Path(sys.executable).with_name(name)
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
