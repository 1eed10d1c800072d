"""Passes pip's settings (mirrors, certificates, folders of wheels) on to uv, which ignores them."""

from __future__ import annotations

import ast
import subprocess
import sys

# as in pip, later ones win: pip.conf for all commands, pip.conf for `install`, PIP_* variables
LEVELS = ("global.", "install.", ":env:.")


def read(python: str = sys.executable) -> dict[str, str]:
    """Return the settings of that interpreter's pip by option name (`find-links`, `index-url`, ...)."""
    listed = subprocess.run([python, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    return parse(listed.stdout)


def parse(listed: str) -> dict[str, str]:
    """Return the options in the output of `pip config list` (lines such as `global.find-links='/wheels'`)."""
    options: dict[str, str] = {}
    for level in LEVELS:
        for line in listed.splitlines():
            name, _, value = line.partition("=")
            if name.startswith(level) and value not in ("", "''"):  # pip ignores an empty value too
                options[name.removeprefix(level)] = ast.literal_eval(value)
    return options


def uv_arguments(python: str = sys.executable) -> list[str]:
    """Return the settings as arguments of `uv pip install` and `uv pip compile`."""
    settings = read(python)
    arguments: list[str] = []
    for location in settings.get("find-links", "").split():
        arguments += ["--find-links", location]
    if "index-url" in settings:
        arguments += ["--default-index", settings["index-url"]]
    extra_indexes = settings.get("extra-index-url", "").split()
    for url in extra_indexes:
        arguments += ["--index", url]
    if extra_indexes:  # like pip: the best version of all indexes, not the first index that has the package
        arguments += ["--index-strategy", "unsafe-best-match"]
    for host in settings.get("trusted-host", "").split():
        arguments += ["--allow-insecure-host", host]
    return arguments


def uv_environment(python: str = sys.executable) -> dict[str, str]:
    """Return the settings that uv reads only from environment variables."""
    settings = read(python)
    environment = {"UV_NO_PROGRESS": "1"}
    if "cert" in settings:
        environment["SSL_CERT_FILE"] = settings["cert"]
    if "timeout" in settings or "default-timeout" in settings:
        environment["UV_HTTP_TIMEOUT"] = settings.get("timeout", settings.get("default-timeout", "60"))
    return environment
