"""The files around the code: workflow, hooks, templates, devcontainer, and the metadata and files of a built wheel."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def read(name: str) -> Any:
    """Return the content of a YAML file; its key `on` is read as True, as in YAML 1.1."""
    return yaml.safe_load((ROOT / name).read_text())


def test_workflow_runs_what_every_change_must_pass() -> None:
    workflow = read(".github/workflows/ci.yml")
    assert workflow["permissions"] == {"contents": "read"}
    assert {"push", "pull_request"} <= set(workflow[True])
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert [step["run"] for step in steps if "run" in step] == ["bash .ci/run"]
    hashed = re.findall(r"'([^']+)'", next(s["with"]["key"] for s in steps if "cache" in s.get("uses", "")))
    assert hashed and [name for name in hashed if not (ROOT / name).is_file()] == []


def test_hooks_run_the_locked_programs_that_lint_runs() -> None:
    hooks = [hook for repo in read(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    assert {repo["repo"] for repo in read(".pre-commit-config.yaml")["repos"]} == {"local"}
    programs = {hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in hooks}
    lint = (ROOT / "Makefile").read_text().split("\nlint:")[1].split("\n\n")[0]
    assert programs == set(re.findall(r"\$\(BIN\)/(\w+)", lint)) == {"ruff", "mypy", "codespell"}
    locked = {line.split("==")[0] for line in (ROOT / "requirements.lock").read_text().splitlines()}
    assert {*programs, "pre-commit"} <= locked


@pytest.mark.parametrize("form", ["bug", "feature"])
def test_issue_form_asks_for_text_under_names_used_once(form: str) -> None:
    content = read(f".github/ISSUE_TEMPLATE/{form}.yml")
    assert content["name"] and content["description"]
    fields = [field for field in content["body"] if field["type"] != "markdown"]
    names = [field["id"] for field in fields]
    assert len(set(names)) == len(names) and all(field["attributes"]["label"] for field in fields)
    assert any(field.get("validations", {}).get("required") for field in fields)


def test_files_that_contributing_names_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert [target for target in re.findall(r"\]\(([^)]+)\)", text) if not (ROOT / target).exists()] == []
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"^make ([a-z-]+)", text, re.M)) <= targets


def test_devcontainer_sets_the_project_up() -> None:
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    image = (ROOT / ".devcontainer" / container["build"]["dockerfile"]).read_text()
    assert f"USER {container['remoteUser']}" in image and container["postCreateCommand"] == "make setup"
    checked = re.findall(r'missing "[^"]*" "([\w+.-]+)"', (ROOT / "tools/setup.sh").read_text())
    assert checked and [package for package in checked if package not in image] == []


def test_tree_is_spelled_correctly() -> None:
    program = Path(sys.executable).with_name("codespell")
    done = subprocess.run([program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_wheel_has_the_metadata_and_every_file_of_the_packages(tmp_path: Path) -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    tracked = [name for name in tracked if name and (ROOT / name).is_file()]
    for name in tracked:
        if name.startswith(("alpro/", "flows/")) or "/" not in name:
            (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / "source" / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", tmp_path, tmp_path / "source"], check=True)
    with zipfile.ZipFile(next(tmp_path.glob("alpro-*.whl"))) as wheel:
        files = set(wheel.namelist())
        metadata = BytesParser().parsebytes(wheel.read(next(name for name in files if name.endswith("/METADATA"))))
    assert [name for name in tracked if name.startswith(("alpro/", "flows/")) and name not in files] == []
    assert metadata["License-Expression"] == "BSD-3-Clause" and metadata["Description-Content-Type"] == "text/markdown"
    assert str(metadata.get_payload()).startswith("# ALPRO")
    assert len(metadata.get_all("Project-URL", [])) == len(PROJECT["project"]["urls"]) > 0
    assert metadata.get_all("Classifier") == PROJECT["project"]["classifiers"] and metadata["Keywords"]
