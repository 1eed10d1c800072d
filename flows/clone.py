"""Runs in a clone: the pool's folder, the check of the environment, DVC's downloads, and the delivery of the results.

In the pool `alpro` runs work in the checkout of the worker. In other pools (flows/pools.py) Prefect clones the repository for
each run, and removes the clone afterwards. What the next run or another machine needs is in the pool's folder on the
worker's machine: DVC's cache, the resume states, and experiments that could not be pushed yet.
"""

from __future__ import annotations

import os
import platform
import re
import socket
import tomllib
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, State

from alpro.lineage import user_problem
from flows.commands import LONG_S, dvc, output_of, stream
from flows.notify import NOT_PUSHED

VARIABLE = "ALPRO_CLONE"  # set by the deployments of flows/pools.py
GIT_REMOTE = "origin"
NAMED = 3  # differing packages in a message
CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


def is_clone() -> bool:
    """Return True if Prefect made a clone for this run."""
    return os.environ.get(VARIABLE) == "1"


def pool_folder() -> Path:
    """Return the folder that all runs of a pool share on this machine. Raises ValueError if its path is not absolute."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(os.environ.get("ALPRO_POOL_FOLDER") or cache / "alpro" / "pool").expanduser()
    if not folder.is_absolute():
        raise ValueError(f"ALPRO_POOL_FOLDER={folder}: must be an absolute path")
    return folder


def prepare(clone: Path) -> None:
    """Connect a clone with the pool's folder. Raises ValueError if the environment or the folder does not fit."""
    if problem := environment_problem(clone):
        raise ValueError(problem)
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        raise ValueError(
            "MLFLOW_TRACKING_URI is not set, and a store in the clone would be removed with it; set it for the worker"
        )
    folder = pool_folder()
    try:
        for name in ("cache", "state", "unpushed"):
            (folder / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{error.filename}: {error.strerror}; set ALPRO_POOL_FOLDER to a folder that can be written") from None
    output_of([dvc(), "cache", "dir", "--local", str(folder / "cache")], clone)
    os.environ.setdefault("ALPRO_STATE", str(folder / "state"))
    if user_problem(clone):  # experiments are commits
        output_of(["git", "config", "user.name", "alpro worker"], clone)
        output_of(["git", "config", "user.email", f"alpro@{socket.gethostname()}"], clone)


def environment_problem(clone: Path) -> str | None:
    """Return how the worker's Python or packages differ from those of the clone, or None."""
    with (clone / "pyproject.toml").open("rb") as file:
        needed = SpecifierSet(tomllib.load(file)["project"]["requires-python"])
    differing = [] if platform.python_version() in needed else [f"Python {platform.python_version()} instead of {needed}"]
    installed: dict[str, str] = {}
    for one in metadata.distributions():
        if one.metadata["Name"]:
            installed.setdefault(canonicalize_name(one.metadata["Name"]), one.version)  # the first one is imported
    for line in (clone / "requirements.lock").read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        locked = Requirement(line)
        found = installed.get(canonicalize_name(locked.name))
        if locked.marker and not locked.marker.evaluate():
            continue
        if found is None or not locked.specifier.contains(found, prereleases=True):
            differing.append(f"{locked.name} {found or 'missing'} instead of {str(locked.specifier).removeprefix('==')}")
    if not differing:
        return None
    more = f" and {len(differing) - NAMED} more" if len(differing) > NAMED else ""
    commit = output_of(["git", "rev-parse", "--short", "HEAD"], clone).strip()
    return (
        f"the worker's environment does not match requirements.lock of commit {commit}: {', '.join(differing[:NAMED])}{more}; "
        "run `make setup` (or `make image`) at that commit, and start the worker with it"
    )


@task(task_run_name="fetch", cache_policy=NO_CACHE)
def fetch(root: Path, targets: Sequence[str]) -> None:
    """Download the data of the targets and the outputs of earlier runs into the pool's cache.

    If something cannot be fetched, this is logged in one line: stages whose outputs are missing run again.
    """
    log = get_run_logger()
    command = [dvc(), "fetch", "--with-deps", *targets]
    code, lines = stream(command, root, lambda line: log.debug(_without_credentials(line)))  # it lists each missing file
    if code:
        log.warning("not everything was fetched (%s); stages whose outputs are missing run again", _reason(lines, code))
    elif lines:
        log.info(_without_credentials(lines[-1]))


@task(task_run_name="push", cache_policy=NO_CACHE)
def deliver(clone: Path, root: Path, name: str, stages: Sequence[str]) -> list[str]:
    """Push the stages' outputs to DVC's remote and the experiment to the git remote. Returns the problems, a line each.

    If one of the pushes fails, the experiment is kept in the pool's folder, and a later run of the pool pushes it.
    """
    log = get_run_logger()
    problems = []
    for what, command, folder in (
        ("outputs", [dvc(), "push", *stages], root),
        ("experiment", [dvc(), "exp", "push", "--no-cache", GIT_REMOTE, name], clone),
    ):
        code, lines = stream(command, folder, lambda line: log.info(_without_credentials(line)))
        if code:
            problems.append(f"the {what} could not be pushed ({_reason(lines, code)})")
    if problems:
        kept = _keep(clone, name)
        problems.append(f"kept on {socket.gethostname()} in {kept}; the next run of this pool there pushes it")
    else:
        _push_kept(clone, log.warning)
    return problems


def end_state(problems: Sequence[str]) -> State[Any]:
    """Return the end state of a run that is complete, but whose results did not arrive everywhere."""
    return Completed(name=NOT_PUSHED, message="; ".join(problems))


def _keep(clone: Path, name: str) -> Path:
    """Write the experiment to a git bundle in the pool's folder, beside the cache that has its outputs."""
    ref = output_of(["git", "for-each-ref", "--format=%(refname)", f"refs/exps/*/*/{name}"], clone).split()[0]
    file = pool_folder() / "unpushed" / f"{name}.bundle"
    output_of(["git", "bundle", "create", "--quiet", str(file), ref, f"^{_baseline(ref)}"], clone)
    return file


def _push_kept(clone: Path, warn: Callable[[str], object]) -> None:
    """Push the experiments of the pool's folder, with their outputs."""
    for file in sorted((pool_folder() / "unpushed").glob("*.bundle")):
        try:
            ref = output_of(["git", "bundle", "list-heads", str(file)], clone).split()[1]
            output_of(["git", "fetch", "--quiet", "--depth=1", GIT_REMOTE, _baseline(ref)], clone)
            output_of(["git", "fetch", "--quiet", str(file), f"{ref}:{ref}"], clone)
            output_of([dvc(), "exp", "push", GIT_REMOTE, file.stem], clone, LONG_S)
            file.unlink(missing_ok=True)
        except RuntimeError as error:
            warn(f"{file}: {_without_credentials(str(error))}")


def _baseline(ref: str) -> str:
    """Return the commit from which an experiment started; its ref is refs/exps/AB/CDEF.../NAME."""
    return "".join(ref.split("/")[2:4])


def _reason(lines: Sequence[str], code: int) -> str:
    """Return the last error line of a DVC command."""
    errors = [line for line in lines if line.startswith("ERROR: ")]
    text = (errors or list(lines) or [f"exit code {code}"])[-1]
    return _without_credentials(text.removeprefix("ERROR: "))


def _without_credentials(text: str) -> str:
    """Return the text without the user names and passwords of addresses in it."""
    return CREDENTIALS.sub("", text)
