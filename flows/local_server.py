"""Prefect's server for this machine only: it refuses requests of other web sites (see alpro/system/local_requests.py)."""

from __future__ import annotations

from alpro.system.local_requests import LocalRequests, further_hosts

FACTORY = "flows.local_server:create_app"


def mlflow_hosts() -> list[str]:
    """Return the options of `mlflow server` with the same hosts; its default also allows names that begin with `10.`."""
    names = ("127.0.0.1", "localhost", "[::1]")
    patterns = [f"{name.replace('[', '[[]')}:*" for name in names]  # `[` begins a set of characters
    options = ["--allowed-hosts", ",".join([*names, *patterns, *further_hosts()])]
    if origins := [f"{scheme}://{name}" for name in further_hosts() for scheme in ("https", "http")]:
        options += ["--cors-allowed-origins", ",".join(origins)]
    return options


def page_origins(port: int) -> list[str]:
    """Return the origins of Prefect's own pages."""
    return [f"http://{name}:{port}" for name in ("127.0.0.1", "localhost")] + [f"https://{name}" for name in further_hosts()]


def create_app() -> LocalRequests:
    """Return Prefect's server behind this check, for `uvicorn --factory`."""
    from prefect.server.api.server import create_app as create_prefect

    return LocalRequests(create_prefect(final=True))
