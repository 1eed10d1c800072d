"""README and docs/ are true: every switch, test, command, option, stage, path and link that they name exists."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from alpro.cli.main import app
from tests.parity import CASES
from tools import docs_pages

ROOT = Path(__file__).parents[1]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))}
RELEASED = json.loads((ROOT / "tests/config/released/released.json").read_text())
SIDES = {name: yaml.safe_load((ROOT / f"recipes/{name}.yaml").read_text()) for name in ("official", "paper")}
CODE = re.compile(r"`([^`]+)`")
ROOMS = ("recipes/", "tests/", "alpro/", "flows/", "Makefile", "dvc.yaml", "pyproject.toml", "requirements.lock")


def table(page: str, first: str) -> list[list[str]]:
    """Return the rows, as lists of cells, of the page's table whose header starts with `first`."""
    text = PAGES[page]
    lines = text[text.index(first) :].splitlines()[2:]
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Return every parameter by its path; sections count as parameters."""
    found = {path: value} if path else {}
    if isinstance(value, dict):
        for key, inner in value.items():
            found |= leaves(inner, f"{path}.{key}" if path else key)
    return found


SWITCHES = table("docs/replication.md", "| | released code |")
ROWS = table("docs/migrating.md", "| there | here |")
PARAMETERS = leaves(SIDES["official"])


@pytest.mark.parametrize("row", SWITCHES, ids=lambda row: row[0])
def test_switch_has_the_values_given_in_its_row(row: list[str]) -> None:
    assert len(row) == 7
    paths, sides = CODE.findall(row[3]), {"official": row[4], "paper": row[5]}
    assert paths
    for side, cell in sides.items():
        (expected,) = [yaml.safe_load(code) for code in CODE.findall(cell)]
        for path in paths:
            found = {name: value for name, value in leaves(SIDES[side]).items() if fnmatch(name, path)}
            assert found and all(value == expected for value in found.values()), (side, path, found)


@pytest.mark.parametrize("row", SWITCHES, ids=lambda row: row[0])
def test_each_switch_names_an_existing_test(row: list[str]) -> None:
    shown = CODE.findall(row[6])
    tests = [name for name in shown if "::" in name]
    assert tests
    for name in tests:
        file, _, function = name.partition("::")
        assert f"\ndef {function}(" in (ROOT / file).read_text(), name
    for golden in (name for name in shown if "::" not in name):
        assert list((ROOT / "tests/goldens").glob(f"{golden}*.json")), golden
        users = [path for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__) and golden in path.read_text()]
        assert users or any(case.startswith(golden) for case in CASES), golden


def test_every_difference_between_the_recipes_has_a_row() -> None:
    """Every parameter that differs between recipes `official` and `paper`, except paths, is in the table."""
    sides = {name: leaves(json.loads(json.dumps(side).replace(f"models/{name}/", ""))) for name, side in SIDES.items()}
    differ = {
        path for path, value in sides["official"].items() if not isinstance(value, dict) and sides["paper"].get(path) != value
    }
    named = [path for row in SWITCHES for path in CODE.findall(row[3])]
    assert {path for path in differ if not any(fnmatch(path, pattern) for pattern in named)} == {"recipe"}


# --- README and links ----------------------------------------------------------------------------------------


def test_readme_is_short() -> None:
    lines = PAGES["README.md"].splitlines()
    assert len(lines) <= 150
    prose = [line for line in lines if not line.startswith("|") and "](" not in line]
    assert max(map(len, prose)) <= 140


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_of_a_page_exist(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / page).parent / file
        if path.name in ("cli.md", "messages.md"):  # generated from the code (tools/docs_pages.py)
            continue
        assert path.is_file(), target
        if anchor:
            titles = [line.lstrip("# ").lower() for line in path.read_text().splitlines() if line.startswith("#")]
            assert anchor in {re.sub(r"[^\w -]", "", title).replace(" ", "-") for title in titles}, target


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"[\w-]+\.md", (ROOT / "mkdocs.yml").read_text()))
    generated = {"cli.md", "messages.md"}
    assert {f"docs/{name}" for name in listed - generated} | {"README.md"} == set(PAGES)


def test_messages_of_the_generated_page_are_those_of_the_code() -> None:
    page = docs_pages.message_reference()
    assert "- `…: not found; put the annotation file there, or change its path in params.yaml`" in page
    assert page.count("\n- `") > 200


# --- coming from the released code ------------------------------------------------------------------------


def test_every_script_configuration_and_option_has_a_row() -> None:
    left = {code for row in ROWS for code in CODE.findall(row[0])}
    scripts = {f"run_scripts/{name}" for name in RELEASED["scripts"]} | {"env/install_pkg.sh"}
    configs = {f"config_release/{name}" for name in RELEASED["configs"]}
    passed = {option for line in RELEASED["scripts"].values() for option in re.findall(r"--\w+", line)}
    sources = {source for line in RELEASED["scripts"].values() for source in re.findall(r"src/\S+\.py", line)}
    folders = {"config_release/", "data/", "env/", "ext/", "output/pretrain/", "output/downstreams/", "run_scripts/", "src/"}
    assert scripts | configs | passed | sources | folders <= left, (scripts | configs | passed | sources | folders) - left


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """Return the command and the remaining words; fail if there is no such command."""
    command: Any = typer.main.get_command(app)
    while commands := getattr(command, "commands", None):
        assert words and words[0] in commands, f"alpro has no {words[0] if words else 'such command'}"
        command, words = commands[words[0]], words[1:]
    if command.name == "launch" and words[:1] == ["--"]:
        return command_of(words[1:])
    return command, words


TEXT = "\n".join(PAGES.values())
BLOCKS = [line for block in re.findall(r"```bash\n(.*?)```", TEXT, re.S) for line in block.splitlines()]
ALL_CODE = [code for line in TEXT.splitlines() for code in CODE.findall(line)]
ALL_CODE += [part.strip() for line in BLOCKS for part in re.sub(r'"[^"]*"', "TEXT", line.split("#")[0]).split("&&")]
ALL_CODE = [code.removeprefix(".venv/bin/") for code in ALL_CODE]
COMMANDS = sorted({code for code in ALL_CODE if re.match(r"(horovodrun -np \S+ )?alpro [a-z]", code)})


@pytest.mark.parametrize("code", COMMANDS)
def test_command_of_the_docs_exists(code: str) -> None:
    words = re.sub(r'"[^"]*"', "TEXT", code.split("alpro ", 1)[1]).split()
    for verb in words[1].split("|") if len(words) > 1 and "|" in words[1] else [None]:  # `alpro weights show|import`
        command, rest = command_of([words[0], verb, *words[2:]] if verb else words)
        options = {name for parameter in command.params for name in parameter.opts}
        given = {word for word in rest if word.startswith("--")}
        assert given <= options
        if any(not word.startswith("--") for word in rest):  # not only the name of a command, or of an option of it
            required = [parameter.opts for parameter in command.params if parameter.required and parameter.opts[0][:2] == "--"]
            assert all(given & set(names) for names in required), required


def test_make_targets_of_the_docs_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {code.split()[1] for code in ALL_CODE if re.match(r"make [a-z]", code)}
    assert {"setup", "repro", "test"} <= named <= targets


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_stages_paths_and_parameters_in_a_row_exist(row: list[str]) -> None:
    stages: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for stage in re.findall(r"stage `([^`]+)`", row[1]):
        name, _, item = stage.partition("@")
        assert name in stages and (not item or item in SIDES["official"]["datasets"])
    for code in CODE.findall(row[1]):
        if code.startswith(ROOMS) and " " not in code:
            assert (ROOT / code).exists(), code
        elif re.fullmatch(r"[a-z_]+(\.[a-z_*]+)+", code) and code.split(".")[0] in SIDES["official"]:
            assert any(fnmatch(name, code) for name in PARAMETERS), code
