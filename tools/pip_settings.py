"""pip's settings, handed to uv: people set up mirrors, certificates and folders of wheels for pip, and uv ignores that."""

from __future__ import annotations

import ast
import subprocess
import sys

# later ones win, as in pip: what pip.conf says for all commands, for `install`, and the environment's PIP_*
LEVELS = ("global.", "install.", ":env:.")


def read(python: str = sys.executable) -> dict[str, str]:
    """What `pip config list` of that interpreter says, by option name (`find-links`, `index-url`, ...)."""
    listed = subprocess.run([python, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    return parse(listed.stdout)


def parse(listed: str) -> dict[str, str]:
    """The options of `pip config list`'s lines (`global.find-links='/wheels'`)."""
    found: dict[str, str] = {}
    for level in LEVELS:
        for line in listed.splitlines():
            name, _, value = line.partition("=")
            if name.startswith(level) and value:
                found[name.removeprefix(level)] = ast.literal_eval(value)
    return found


def uv_arguments(python: str = sys.executable) -> list[str]:
    """The same settings as arguments of `uv pip install` and `uv pip compile`."""
    settings = read(python)
    arguments: list[str] = []
    for place in settings.get("find-links", "").split():
        arguments += ["--find-links", place]
    if "index-url" in settings:
        arguments += ["--default-index", settings["index-url"]]
    extra = settings.get("extra-index-url", "").split()
    for place in extra:
        arguments += ["--index", place]
    if extra:  # as pip: the best version wherever it lies, not the first index that has the name
        arguments += ["--index-strategy", "unsafe-best-match"]
    for host in settings.get("trusted-host", "").split():
        arguments += ["--allow-insecure-host", host]
    return arguments


def uv_environment(python: str = sys.executable) -> dict[str, str]:
    """The settings that uv takes from variables only."""
    settings = read(python)
    environment = {"UV_NO_PROGRESS": "1"}
    if "cert" in settings:
        environment["SSL_CERT_FILE"] = settings["cert"]
    if "timeout" in settings or "default-timeout" in settings:
        environment["UV_HTTP_TIMEOUT"] = settings.get("timeout", settings.get("default-timeout", "60"))
    return environment
