"""The results of the whole pipeline: reports/summary.json, a page to look at, and a table at the terminal."""

from alpro.report.make import make_report, show_report
from alpro.report.table import results_table

__all__ = ["make_report", "results_table", "show_report"]
