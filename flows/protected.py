"""Parameters that a run of a flow cannot change: its criteria, what runs code or gets its secrets, and where it writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

GATE = "gate"
REASONS = {
    "gate": "by which its results are checked",
    "launch.discovery": "a program that is started",
    "launch.hosts": "machines that run code and get the variables of the run",
    "launch.network_interfaces": "the networks that carry the run unencrypted",
    "launch.remote_shell": "the program that starts processes on the hosts",
    "launch.ssh_port": "the server that gets the variables of the run",
    "launch.ssh_identity": "the key with which the hosts are reached",
    "launch.scheduler": "where its stages run",
    "launch.slurm": "what its jobs ask of Slurm, and the account that is charged",
    "launch.sample_log": "a file that is written",
    "loader.cache": "a folder that is written",
    "entities.tagger": "a package or folder whose code spaCy may run",
}
OUTPUT = "a folder that is written"  # reason of every convert.*.output


def protected(file: Path) -> dict[str, Any]:
    """Return the values of these parameters in a parameter file by their names; a missing one is None."""
    params = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    found = {name: _value(params, name.split(".")) for name in REASONS}
    convert = params.get("convert")
    for key in convert if isinstance(convert, dict) else ():
        found[f"convert.{key}.output"] = _value(params, ["convert", key, "output"])
    return found


def check(file: Path, overrides: Sequence[str], *allowed: Mapping[str, Any]) -> None:
    """Raise ValueError if a protected parameter in `file` has a value that is in none of `allowed` (made by `protected`).

    Null is always allowed, except for `gate`: it starts nothing and writes nowhere.
    """
    for name, value in protected(file).items():
        if value in [values.get(name) for values in allowed] or (value is None and name != GATE):
            continue
        raise ValueError(
            f"overrides {list(overrides)}: a run cannot change `{name}`, {REASONS.get(name, OUTPUT)}; "
            "edit params.yaml and commit it instead"
        )


def _value(params: Any, path: Sequence[str]) -> Any:
    """Return a nested value; None if it is missing, and the section itself if it is not a mapping."""
    for key in path:
        if not isinstance(params, dict):
            return params
        params = params.get(key)
    return params
