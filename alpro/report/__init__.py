"""Results of the whole pipeline: reports/summary.json, an HTML page, and tables for the terminal."""

from alpro.report.make import make_report, show_report
from alpro.report.table import results_table

__all__ = ["make_report", "results_table", "show_report"]
