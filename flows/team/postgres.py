"""PostgreSQL of the distribution (Debian: `postgresql`): its files, its command line, its databases and roles."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from flows.team.layout import ADMIN, DATABASES, HOST, Team, TeamError, write_private

INSTALL = "install PostgreSQL (Debian: apt-get install postgresql)"
ANSWER_S = 600


def binaries(team: Team | None = None) -> Path:
    """Return the folder of PostgreSQL's programs: of the version that made the data, or the newest. Raises TeamError."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name.split(".")[0]))
    if on_path := shutil.which("initdb"):
        folders.append(Path(on_path).resolve().parent)
    usable = {version_of(folder): folder for folder in folders if (folder / "postgres").exists()}
    if not usable:
        raise TeamError(f"PostgreSQL: not found in /usr/lib/postgresql or on PATH; {INSTALL}")
    made_by = team.folder / "postgres" / "PG_VERSION" if team else None
    if made_by is None or not made_by.exists():
        return usable[max(usable)]
    version = int(made_by.read_text().split(".")[0])
    if version not in usable:
        remedy = "install that version, or move the folder away and `make team-restore` a backup"
        raise TeamError(f"{made_by.parent}: was made by PostgreSQL {version}, which is not installed; {remedy}")
    return usable[version]


def version_of(folder: Path) -> int:
    """Return the major version of the programs in a folder."""
    answer = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True)
    digits = "".join(letter if letter.isdigit() else " " for letter in answer.stdout).split()
    return int(digits[0]) if digits else 0


def user_prefix(folder: Path) -> list[str]:
    """Return the words before a command that must not run as root; none for other users. Raises TeamError."""
    if os.geteuid():
        return []
    names = {entry.pw_name for entry in pwd.getpwall()}
    user = "postgres" if "postgres" in names else "nobody"
    prefix = ["setpriv", f"--reuid={user}", f"--regid={pwd.getpwnam(user).pw_gid}", "--clear-groups", "--"]
    if subprocess.run([*prefix, "test", "-x", str(folder)], cwd="/", capture_output=True).returncode:
        problem = f"{folder}: PostgreSQL does not run as root, and user {user} cannot enter this folder"
        raise TeamError(f"{problem}; run `make team` as another user, or set ALPRO_TEAM to a folder below /var/lib")
    return prefix


def create(team: Team) -> None:
    """Make the files of a server that asks everybody for a password, unless they exist. Raises TeamError."""
    data = team.folder / "postgres"
    if (data / "PG_VERSION").exists():
        return
    prefix = user_prefix(team.folder)
    data.mkdir(exist_ok=True)
    data.chmod(0o700)
    password = team.folder / ".password"
    write_private(password, team.secret("postgres_admin"))
    try:
        if prefix:
            user = pwd.getpwnam(prefix[1].partition("=")[2])
            for path in (data, password):
                os.chown(path, user.pw_uid, user.pw_gid)
        options = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", f"--username={ADMIN}"]
        words = [str(binaries() / "initdb"), "--pgdata", str(data), f"--pwfile={password}", *options]
        done = subprocess.run([*prefix, *words], cwd="/", capture_output=True, text=True)
    finally:
        password.unlink()
    if done.returncode:
        raise TeamError(f"PostgreSQL: initdb failed: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")


def command(team: Team) -> list[str]:
    """Return the command of the server: one port on 127.0.0.1, no socket file."""
    settings = {"listen_addresses": HOST, "port": team.ports.postgres, "unix_socket_directories": ""}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    return [*user_prefix(team.folder), str(binaries(team) / "postgres"), "-D", str(team.folder / "postgres"), *options]


def stop(team: Team) -> None:
    """End the server cleanly: its clients are disconnected, and everything is on disk."""
    words = [str(binaries(team) / "pg_ctl"), "stop", "--mode=fast", "--silent", "--pgdata", str(team.folder / "postgres")]
    subprocess.run([*user_prefix(team.folder), *words], cwd="/", capture_output=True)


def is_ready(team: Team) -> bool:
    """Return True if the server accepts connections."""
    words = [str(binaries(team) / "pg_isready"), "--quiet", "--host", HOST, "--port", str(team.ports.postgres)]
    return subprocess.run(words, capture_output=True).returncode == 0


def client(team: Team, program: str, *words: str, database: str = "postgres", text: str = "") -> str:
    """Run one of PostgreSQL's client programs as superuser and return its output. Raises TeamError."""
    address = ["--host", HOST, "--port", str(team.ports.postgres), "--username", ADMIN, "--no-password"]
    line = [str(binaries(team) / program), *address, "--dbname", database, *words]
    environment = {**os.environ, "PGPASSFILE": str(team.secret_file("pgpass"))}
    done = subprocess.run(line, env=environment, input=text, capture_output=True, text=True, timeout=ANSWER_S)
    if done.returncode:
        first = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[0]  # hints follow
        raise TeamError(f"PostgreSQL on port {team.ports.postgres}: {first}; see logs/postgres.log in {team.folder}")
    return done.stdout


def sql(team: Team, text: str, database: str = "postgres") -> list[str]:
    """Run SQL as superuser and return the lines of its result; the text is not visible in the list of processes."""
    options = ["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1"]
    return client(team, "psql", *options, database=database, text=text).splitlines()


def create_databases(team: Team, databases: Iterable[str] = tuple(DATABASES)) -> None:
    """Create the missing roles and databases, and set the roles' passwords."""
    roles = set(sql(team, "SELECT rolname FROM pg_roles"))
    for role in sorted(set(DATABASES.values())):
        verb = "ALTER" if role in roles else "CREATE"
        sql(team, f"{verb} ROLE {role} LOGIN PASSWORD '{team.secret(f'postgres_{role}')}'")
    present = set(sql(team, "SELECT datname FROM pg_database"))
    for database in databases:
        if database not in present:
            sql(team, f"CREATE DATABASE {database} OWNER {DATABASES[database]}")
            sql(team, f"REVOKE CONNECT ON DATABASE {database} FROM PUBLIC")
