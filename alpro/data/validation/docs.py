"""Great Expectations' Data Docs as pages that need no network; equal results give equal bytes.

GX's own renderers produce the content. Its page template loads styles and scripts from several hosts and contains times, so
it is replaced by the one in docs_page/.
"""

from __future__ import annotations

from html import escape
from itertools import count
from pathlib import Path
from string import Template
from typing import Any

SHOWN = 20  # unexpected values that a page lists for each check
HERE = Path(__file__).parent / "docs_page"


def write_docs(name: str, results: dict[str, Any], folder: Path) -> None:
    """Write a page for each of a set's tables, and index.html; `results` maps a table's name to GX's suite result."""
    folder.mkdir(parents=True, exist_ok=True)
    for table, result in results.items():
        (folder / f"{table}.html").write_text(_page(_document(result), name, table), encoding="utf-8")
    rows = "\n".join(_index_row(table, result) for table, result in results.items())
    index = Template((HERE / "index.html").read_text(encoding="utf-8"))
    (folder / "index.html").write_text(index.substitute(name=escape(name), style=_style(), rows=rows), encoding="utf-8")


def _document(result: Any) -> Any:
    from great_expectations.render.renderer import ValidationResultsPageRenderer

    for outcome in result.results:
        outcome.result = {
            key: _escaped(value[:SHOWN] if isinstance(value, list) else value) for key, value in outcome.result.items()
        }
    document = ValidationResultsPageRenderer(run_info_at_end=True).render(result)
    document.sections.pop()  # run info: times and identifiers, which differ between runs
    document.sections[0].content_blocks.pop(0)  # links to GX's gallery of expectations; the page has its own heading
    return document


def _page(document: Any, name: str, table: str) -> str:
    from great_expectations.render.view import DefaultJinjaPageView
    from jinja2 import ChoiceLoader, FileSystemLoader

    view = DefaultJinjaPageView()
    view.env.loader = ChoiceLoader([FileSystemLoader(HERE), *filter(None, [view.env.loader])])
    numbers = count(1)
    view.env.filters["generate_html_element_uuid"] = lambda prefix="": f"{prefix or ''}{next(numbers)}"
    html = view.render(document, template="page.html", name=name, part=table, style=_style())
    return "\n".join(line.rstrip() for line in html.splitlines() if line.strip()) + "\n"


def _escaped(value: Any) -> Any:
    """Escape the texts of the data, which GX would insert as markup."""
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, dict):
        return {key: _escaped(inner) for key, inner in value.items()}
    return type(value)(map(_escaped, value)) if isinstance(value, (list, tuple)) else value


def _index_row(table: str, result: Any) -> str:
    failed = [outcome for outcome in result.results if not outcome.success]
    errors = sum(_level(outcome) == "error" for outcome in failed)
    verdict = "failed" if errors else "passed"
    return (
        f'<tr><td><a href="{table}.html">{table}</a></td><td class="{verdict}">{verdict}</td>'
        f"<td>{len(result.results)}</td><td>{errors}</td><td>{len(failed) - errors}</td></tr>"
    )


def _level(outcome: Any) -> str:
    return "error" if outcome.expectation_config.severity == "critical" else "warning"


def _style() -> str:
    return (HERE / "style.css").read_text(encoding="utf-8")
