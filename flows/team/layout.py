"""Folder, ports and secrets of the team servers. Secrets are made once, in files that only their owner can read."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from alpro.errors import AlproError
from alpro.files.locks import Lock, take_lock
from alpro.lineage import main_checkout

HOST = "127.0.0.1"
REGION = "us-east-1"  # a word that S3's clients must send
BUCKETS = {"mlflow": "alpro-mlflow", "dvc": "alpro-dvc"}  # user of S3 -> its bucket
DATABASES = {"mlflow": "mlflow", "mlflow_auth": "mlflow", "prefect": "prefect"}  # database -> the role that owns it
ADMIN = "alpro"  # superuser of PostgreSQL and user name of Prefect
MLFLOW_ADMIN = "admin"
SECRETS = ("postgres_admin", "postgres_mlflow", "postgres_prefect", "mlflow_admin", "mlflow_flask_key", "prefect",
           "s3_admin", "s3_mlflow", "s3_dvc", "s3_signing_key")  # fmt: skip


class TeamError(AlproError):
    """A team server cannot be used; the message says which one, why, and what to do."""


@dataclass(frozen=True)
class Ports:
    """Ports on 127.0.0.1. `s3` is the first of eight: S3 itself, and seven between the parts of SeaweedFS."""

    postgres: int = 5433
    s3: int = 8333
    mlflow: int = 5000
    prefect: int = 4200


@dataclass(frozen=True)
class Team:
    """The folder of all state, and the ports of the servers."""

    folder: Path
    ports: Ports = Ports()

    def secret(self, name: str) -> str:
        """Return a secret. Raises TeamError if `make_secrets` has not made it."""
        try:
            return (self.folder / "secrets" / name).read_text(encoding="utf-8").strip()
        except OSError as error:
            problem = f"{self.folder / 'secrets' / name}: cannot be read ({error.strerror})"
            raise TeamError(f"{problem}; `make team` makes the secrets, run this as the same user") from None

    def secret_file(self, name: str) -> Path:
        """Return the path of a file in the folder of secrets."""
        return self.folder / "secrets" / name

    def address(self, server: str) -> str:
        """Return the address of `s3`, `mlflow` or `prefect`."""
        return f"http://{HOST}:{getattr(self.ports, server)}"

    def database_uri(self, database: str, driver: str) -> str:
        """Return a database's URI without the password, which the drivers read from the file PGPASSFILE."""
        return f"postgresql+{driver}://{DATABASES[database]}@{HOST}:{self.ports.postgres}/{database}"

    def lock(self) -> Lock:
        """Take the lock of the servers. Raises TeamError if they are running."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return take_lock(self.folder / "lock", "`make team` or a command on its state", TeamError)

    def try_lock(self) -> Lock:
        """Take the lock of the servers. Raises LockHeld if they are running."""
        return Lock(self.folder / "lock")


def team_folder(root: Path) -> Path:
    """Return ALPRO_TEAM, or .team in the main checkout."""
    return Path(os.environ.get("ALPRO_TEAM") or main_checkout(root) / ".team").absolute()


def existing_team(root: Path) -> Team:
    """Return the team whose servers were last started in this folder. Raises TeamError if there is none."""
    folder = team_folder(root)
    try:
        ports = json.loads((folder / "services.json").read_text(encoding="utf-8"))["ports"]
        return Team(folder, Ports(**ports))
    except (OSError, ValueError, KeyError, TypeError):
        raise TeamError(f"{folder}: no team servers yet; `make team` makes them, ALPRO_TEAM names another folder") from None


def make_secrets(team: Team) -> None:
    """Make the folder with every missing secret, and write the files in which the servers and their clients read them."""
    team.folder.mkdir(parents=True, exist_ok=True)
    team.folder.chmod(0o711)  # PostgreSQL's user must be able to enter
    folder = team.folder / "secrets"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o700)
    make_missing(folder, SECRETS)
    users = {ADMIN: "postgres_admin", "mlflow": "postgres_mlflow", "prefect": "postgres_prefect"}
    lines = [f"{HOST}:{team.ports.postgres}:*:{user}:{team.secret(name)}\n" for user, name in users.items()]
    write_private(folder / "pgpass", "".join(lines))
    for user in ("admin", *BUCKETS):
        write_private(folder / f"aws_{user}", credentials(team, user))
    write_private(
        folder / "mlflow_auth.ini",
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = {team.database_uri('mlflow_auth', 'psycopg')}\n"
        f"admin_username = {MLFLOW_ADMIN}\nadmin_password = {team.secret('mlflow_admin')}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        "auth_cache_ttl_seconds = 60\n",  # without it, each of the hundreds of requests for a model's files hashes the password
    )
    write_private(folder / "env", "".join(f"export {name}={value}\n" for name, value in client_variables(team).items()))
    services = {
        "ports": asdict(team.ports),
        "host": HOST,
        "admin": ADMIN,
        "pgpass": str(folder / "pgpass"),
        "region": REGION,
        "buckets": {bucket: str(folder / f"aws_{user}") for user, bucket in BUCKETS.items()},
    }
    (team.folder / "services.json").write_text(json.dumps(services, indent=1) + "\n", encoding="utf-8")


def make_missing(folder: Path, names: Iterable[str]) -> None:
    """Make the secrets that are not in the folder yet."""
    for name in names:
        if not (folder / name).exists():
            write_private(folder / name, secrets.token_urlsafe(24) + "\n")


def credentials(team: Team, user: str) -> str:
    """Return the keys of a user of S3 in the form of AWS's tools."""
    return f"[default]\naws_access_key_id = {user}\naws_secret_access_key = {team.secret(f's3_{user}')}\n"


def client_variables(team: Team) -> dict[str, str]:
    """Return the environment variables with which a client uses MLflow and Prefect."""
    return {
        "MLFLOW_TRACKING_URI": team.address("mlflow"),
        "MLFLOW_TRACKING_USERNAME": MLFLOW_ADMIN,
        "MLFLOW_TRACKING_PASSWORD": team.secret("mlflow_admin"),
        "PREFECT_API_URL": f"{team.address('prefect')}/api",
        "PREFECT_API_AUTH_STRING": f"{ADMIN}:{team.secret('prefect')}",
    }


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, at no moment readable by others."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(temporary, path)
