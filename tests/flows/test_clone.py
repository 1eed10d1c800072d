"""Runs in a clone: the worker's environment must match it."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from flows import clone

from .conftest import commit, run

PROJECT = '[project]\nname = "x"\nrequires-python = "{}"\n'


def project(root: Path, lock: str, python: str = ">=3.11") -> Path:
    root.mkdir(exist_ok=True)
    (root / "pyproject.toml").write_text(PROJECT.format(python))
    (root / "requirements.lock").write_text(lock)
    if not (root / ".git").exists():
        run("git", "init", "-q", cwd=root)
    commit(root)
    return root


def test_environment_of_the_lock_is_accepted(tmp_path: Path) -> None:
    lock = f"# packages\nPyYAML=={metadata.version('pyyaml')}\nnot-for-us==1 ; python_version < '3'\n"
    assert clone.environment_problem(project(tmp_path, lock)) is None


def test_build_of_torch_may_have_a_local_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Torch:
        metadata = {"Name": "torch"}  # noqa: RUF012
        version = "2.11.0+cpu"

    monkeypatch.setattr(metadata, "distributions", lambda: [Torch])
    assert clone.environment_problem(project(tmp_path, "torch==2.11.0\n")) is None
    assert "torch 2.11.0+cpu instead of 2.12.0" in str(clone.environment_problem(project(tmp_path, "torch==2.12.0\n")))


def test_other_environment_is_named_in_one_line(tmp_path: Path) -> None:
    root = project(tmp_path, "pyyaml==1.0\nmissing-one==2\nmissing-two==3\nmissing-three==4\nmissing-four==5\n", "<3.11")
    problem = clone.environment_problem(root)
    head = run("git", "rev-parse", "--short", "HEAD", cwd=root).strip()
    assert problem is not None and "\n" not in problem
    assert f"requirements.lock of commit {head}: Python 3." in problem and " instead of <3.11, " in problem
    assert f"pyyaml {metadata.version('pyyaml')} instead of 1.0, missing-one missing instead of 2 and 3 more; " in problem
    assert "make setup" in problem


def test_addresses_lose_their_credentials() -> None:
    line = "unable to access 'https://user:word@host/a.git': 403, and ssh://git@host/b"
    assert clone._without_credentials(line) == "unable to access 'https://host/a.git': 403, and ssh://host/b"
