"""HTML pages from Jinja templates, which escape every value: one file each, readable offline, in light and dark."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

SCRIPTS = ("vega.min.js", "vega-lite.min.js", "vega-embed.min.js")


def render(template: str, package: str, **values: Any) -> str:
    """Return the page of a template in the folder `templates` of a package.

    Templates may extend `page.html` of this package, and import its `parts.html`.
    """
    loader = ChoiceLoader([PackageLoader(name) for name in dict.fromkeys((package, "alpro.report"))])
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(template).render(style=_resource("page.css"), scripts=_scripts, **values)


def _scripts() -> list[Markup]:
    """Return the scripts that draw charts."""
    return [_resource(f"vega/{name}") for name in SCRIPTS]


def _resource(name: str) -> Markup:
    """Return a file of this package, which needs no escaping."""
    return Markup(files("alpro.report").joinpath(name).read_text(encoding="utf-8"))
