"""JSON schema of params.yaml, with which editors complete and check keys while one types (`alpro config schema`).

The first line of params.yaml and of each recipe names it, in the form that the YAML language server reads.
"""

from __future__ import annotations

import json

from alpro.config.params import Params

FILE = "params.schema.json"
LINE = "# yaml-language-server: $schema="


def schema_text() -> str:
    """Return the content of params.schema.json."""
    schema = Params.model_json_schema()
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "params.yaml"}
    return json.dumps(schema | head, indent=1, ensure_ascii=False) + "\n"


def with_schema_line(text: str) -> str:
    """Return the text of a parameter file in the project's root, with the line that names the schema as its first."""
    lines = [line for line in text.splitlines(keepends=True) if not line.startswith(LINE)]
    return "".join([f"{LINE}{FILE}\n", *lines])
