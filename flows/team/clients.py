"""Settings of a checkout that uses the team servers."""

from __future__ import annotations

from pathlib import Path

from flows.commands import dvc, output_of
from flows.team.layout import BUCKETS, REGION, Team

REMOTE = "team"


def add_remote(team: Team, checkout: Path) -> str:
    """Add the team's bucket to the DVC remotes of a checkout, in .dvc/config.local. Returns one line on it."""
    url = f"s3://{BUCKETS['dvc']}"
    output_of([dvc(), "remote", "add", "--local", "--force", REMOTE, url], checkout)
    settings = {
        "endpointurl": team.address("s3"),
        "region": REGION,
        "credentialpath": str(team.secret_file("aws_dvc")),
    }
    for name, value in settings.items():
        output_of([dvc(), "remote", "modify", "--local", REMOTE, name, value], checkout)
    return f"{checkout}: DVC remote `{REMOTE}` is {url} on {team.address('s3')}; `dvc push -r {REMOTE}` fills it"
