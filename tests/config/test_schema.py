"""params.schema.json, with which editors check params.yaml."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from alpro.config import recipes, schema

ROOT = Path(__file__).parents[2]
FILES = ["params.yaml", *(f"recipes/{path.name}" for path in sorted((ROOT / "recipes").glob("*.yaml")))]


def test_committed_schema_is_current() -> None:
    committed = (ROOT / schema.FILE).read_text(encoding="utf-8")
    assert committed == schema.schema_text(), "run `alpro config schema > params.schema.json`"


@pytest.mark.parametrize("name", FILES)
def test_file_names_the_schema_in_its_first_line_and_follows_it(name: str) -> None:
    validator = pytest.importorskip("jsonschema").Draft202012Validator(json.loads(schema.schema_text()))
    text = (ROOT / name).read_text(encoding="utf-8")
    first = text.splitlines()[0]
    assert first.startswith(schema.LINE)
    assert ((ROOT / name).parent / first.removeprefix(schema.LINE)).resolve() == ROOT / schema.FILE
    raw = yaml.safe_load(text)
    assert [error.message for error in validator.iter_errors(raw)] == []
    raw["loader"]["worker"] = 2  # a misspelt key
    assert [error.message for error in validator.iter_errors(raw)] != []


def test_used_recipe_names_the_schema_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    recipes.use("tiny", tmp_path / "params.yaml")
    lines = (tmp_path / "params.yaml").read_text(encoding="utf-8").splitlines()
    assert lines[0] == f"{schema.LINE}{schema.FILE}" and sum(line.startswith(schema.LINE) for line in lines) == 1
    assert recipes.describe("tiny").startswith("Recipe `tiny`")
