"""Makes the secrets of deploy/compose.yaml: passwords, keys of S3, a certificate for TLS, the users of the web page.

The folder can only be entered by its owner. The files in it can be read by all, because the containers, each with a user of its
own, get them one by one.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from pathlib import Path

from flows.team.layout import ADMIN, BUCKETS, SECRETS, Team, credentials, make_missing, write_private
from flows.team.s3 import make_certificate, users


def make_secrets(deploy: Path) -> str:
    """Make what is missing in deploy/secrets, and the files that follow from it. Returns one line."""
    team, folder = Team(deploy), deploy / "secrets"
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    make_missing(folder, (*SECRETS, "app"))
    write_private(folder / "s3_users.json", users(team))
    for user in ("admin", *BUCKETS):
        write_private(folder / f"aws_{user}", credentials(team, user))
    write_private(folder / "app_users", f"{ADMIN}:{salted(team.secret('app'))}\n")
    if not (folder / "tls.crt").exists():
        make_certificate(folder / "tls.crt", folder / "tls.key", "localhost")
    for file in folder.iterdir():
        file.chmod(0o644)
    where = f"Prefect and the web page (user {ADMIN}): prefect, app; MLflow (user admin): mlflow_admin"
    return f"{folder}: made; the files with passwords for people are, of {where}"


def salted(password: str) -> str:
    """Return a password as nginx compares it: the SHA-1 of password and salt, then the salt. The password must be random."""
    salt = secrets.token_bytes(8)
    return "{SSHA}" + base64.b64encode(hashlib.sha1(password.encode() + salt).digest() + salt).decode()
