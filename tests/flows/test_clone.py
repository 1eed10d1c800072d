"""Runs in a clone: the worker's environment must match it, and what it made arrives, if need be with a later run."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

from flows import clone

from .conftest import DVC, commit, run

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


@dataclass(frozen=True)
class Remotes:
    """The git and DVC remotes of a pool, and its folder on the worker's machine."""

    home: Path
    git: Path
    dvc: Path

    def run(self, name: str, learning_rate: float) -> Path:
        """Return a clone with an experiment of this name, as a run of the pool leaves it before its delivery."""
        root = self.home / name
        source = self.git if self.git.exists() else self.git.with_name("away.git")
        run("git", "clone", "-q", f"file://{source}", str(root), cwd=self.home)
        run("git", "remote", "set-url", "origin", f"file://{self.git}", cwd=root)
        run(DVC, "cache", "dir", "--local", str(clone.pool_folder() / "cache"), cwd=root)
        params = root / "params.yaml"
        params.write_text(params.read_text().replace("lr: 0.1", f"lr: {learning_rate}"))
        run(DVC, "repro", "-q", "pretrain", cwd=root)
        run(DVC, "exp", "save", "--force", "--name", name, "pretrain", cwd=root)
        return root

    def experiments(self) -> list[str]:
        return run("git", "for-each-ref", "--format=%(refname:lstrip=-1)", "refs/exps/", cwd=self.git).split()

    def learning_rates(self) -> list[str]:
        """Return the contents of the outputs that arrived."""
        return sorted(file.read_text().strip() for file in self.dvc.glob("files/md5/*/*")) if self.dvc.exists() else []

    def kept(self) -> list[str]:
        return [file.stem for file in (clone.pool_folder() / "unpushed").iterdir()]


@pytest.fixture
def remotes(scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Remotes:
    found = Remotes(tmp_path, tmp_path / "origin.git", tmp_path / "store")
    run(DVC, "remote", "add", "-q", "-d", "store", str(found.dvc), cwd=scratch)
    commit(scratch, "DVC's remote")
    run("git", "clone", "-q", "--bare", str(scratch), str(found.git), cwd=tmp_path)
    monkeypatch.setenv("ALPRO_POOL_FOLDER", str(tmp_path / "pool"))
    (tmp_path / "pool" / "unpushed").mkdir(parents=True)
    return found


def deliver(root: Path, name: str) -> list[str]:
    with disable_run_logger():
        return clone.deliver.fn(root, root, name, ["pretrain"])


def test_results_of_a_run_arrive(remotes: Remotes) -> None:
    assert deliver(remotes.run("one", 0.2), "one") == []
    assert (remotes.experiments(), remotes.learning_rates(), remotes.kept()) == (["one"], ["0.2"], [])


def test_experiment_without_a_git_remote_is_pushed_by_the_next_run(remotes: Remotes) -> None:
    remotes.git.rename(remotes.home / "away.git")
    first, second = deliver(remotes.run("one", 0.2), "one")
    assert first.startswith("the experiment could not be pushed (") and "one.bundle; the next run" in second
    assert remotes.kept() == ["one"] and remotes.learning_rates() == ["0.2"]
    (remotes.home / "away.git").rename(remotes.git)
    run("rm", "-r", "one", cwd=remotes.home)  # as Prefect does after a run
    assert deliver(remotes.run("two", 0.3), "two") == []
    assert (remotes.experiments(), remotes.learning_rates(), remotes.kept()) == (["one", "two"], ["0.2", "0.3"], [])
    pulled = remotes.home / "pulled"
    run("git", "clone", "-q", f"file://{remotes.git}", str(pulled), cwd=remotes.home)
    run(DVC, "exp", "pull", "-q", "origin", "one", cwd=pulled)
    (ref,) = run("git", "for-each-ref", "--format=%(refname)", "refs/exps/", cwd=pulled).split()
    assert "lr: 0.2" in run("git", "show", f"{ref}:params.yaml", cwd=pulled)


@pytest.mark.slow  # the quick one above keeps and delivers an experiment in the same way
def test_outputs_without_a_dvc_remote_are_pushed_by_the_next_run(remotes: Remotes) -> None:
    remotes.dvc.write_text("not a folder")
    first, _ = deliver(remotes.run("one", 0.2), "one")
    assert first.startswith("the outputs could not be pushed (")
    assert (remotes.experiments(), remotes.kept()) == (["one"], ["one"])
    remotes.dvc.unlink()
    assert deliver(remotes.run("two", 0.3), "two") == []
    assert (remotes.experiments(), remotes.learning_rates(), remotes.kept()) == (["one", "two"], ["0.2", "0.3"], [])


@pytest.mark.slow  # quick: an experiment that is kept and then pushed, above
def test_kept_experiment_that_still_cannot_be_pushed_stays(remotes: Remotes) -> None:
    damaged = clone.pool_folder() / "unpushed" / "one.bundle"
    damaged.write_text("not a bundle")
    warnings: list[object] = []
    clone._push_kept(remotes.run("two", 0.3), warnings.append)
    (warning,) = warnings
    assert str(warning).startswith(f"{damaged}: `git bundle list-heads") and damaged.exists()
