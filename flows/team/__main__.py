"""`make team` and its commands: start, env, remote, backup, restore, migrate, upgrade, secrets.

POSTGRES_PORT, S3_PORT (and seven ports after it), MLFLOW_PORT and PREFECT_PORT change the ports 5433, 8333, 5000 and 4200.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from alpro.errors import AlproError
from flows.team import backup, clients, compose, migrate, s3, upgrade
from flows.team.layout import Ports, Team, existing_team, team_folder
from flows.team.servers import start_services, storage_running
from flows.team.supervisor import POLL_S
from flows.ui import UiError, port_of

ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # SIGINT also if a shell started this with SIGINT ignored


def new_team(checkout: Path) -> Team:
    """Return the team of this checkout with the ports of the environment.

    Raises TeamError if its servers are running, and UiError if a port is not free.
    """
    team = Team(team_folder(checkout))
    team.lock().release()  # the ports of running servers are not free either
    ports = Ports(
        postgres=port_of("POSTGRES_PORT", 5433, "team"),
        s3=port_of("S3_PORT", 8333, "team", number=2 * len(s3.PARTS)),
        mlflow=port_of("MLFLOW_PORT", 5000, "team"),
        prefect=port_of("PREFECT_PORT", 4200, "team"),
    )
    return replace(team, ports=ports)


def start(checkout: Path) -> None:
    """Run all servers until Ctrl-C. Raises TeamError or UiError if one does not start."""
    team = new_team(checkout)
    with team.lock():
        print(f"team: starting; the logs are in {team.folder / 'logs'}", flush=True)
        with storage_running(team) as supervisor:
            start_services(team, supervisor, checkout)
            print(f"team: Prefect     {team.address('prefect')}/deployments")
            print(f"team: MLflow      {team.address('mlflow')}")
            print(f"team: S3          {team.address('s3')}")
            print(f"team: PostgreSQL  port {team.ports.postgres}")
            print(f"team: passwords   . {team.secret_file('env')}")
            print("team: Ctrl-C stops all", flush=True)
            while True:
                supervisor.check()
                time.sleep(POLL_S)


def _on_signal(number: int, frame: object) -> NoReturn:
    for other in ENDS:  # the servers are ended in order, once
        signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    """Run one command; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m flows.team", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("start", help="run all servers until Ctrl-C (default)")
    commands.add_parser("env", help="print the variables of a client of MLflow and Prefect")
    commands.add_parser("remote", help="add the team's S3 to this checkout's DVC remotes, under the name `team`")
    commands.add_parser("backup", help="write all state to a folder").add_argument("folder", nargs="?", type=Path)
    commands.add_parser("restore", help="make all state from a backup").add_argument("folder", type=Path)
    commands.add_parser("migrate", help="copy the stores of this checkout (.mlflow, .prefect) to empty team servers")
    commands.add_parser("upgrade", help="make a backup, then upgrade the databases to the installed MLflow and Prefect")
    compose_help = "make the secrets of deploy/compose.yaml in deploy/secrets"
    commands.add_parser("secrets", help=compose_help).add_argument("folder", nargs="?", type=Path, default=Path("deploy"))
    arguments = parser.parse_args()
    for number in ENDS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, _on_signal)
    checkout = Path.cwd()
    try:
        match arguments.command:
            case "env":
                print(existing_team(checkout).secret_file("env").read_text(), end="")
            case "remote":
                print(f"team: {clients.add_remote(existing_team(checkout), checkout)}")
            case "backup":
                print(f"team: {backup.save(existing_team(checkout), arguments.folder)}")
            case "restore":
                print(f"team: {backup.restore(new_team(checkout), arguments.folder)}")
            case "migrate":
                for line in migrate.migrate(new_team(checkout), checkout):
                    print(f"team: {line}", flush=True)
            case "upgrade":
                for line in upgrade.upgrade(existing_team(checkout)):
                    print(f"team: {line}", flush=True)
            case "secrets":
                print(f"team: {compose.make_secrets(arguments.folder.absolute())}")
            case _:
                start(checkout)
    except (AlproError, UiError, OSError) as error:
        print(f"team: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("team: ended")
    return 0


if __name__ == "__main__":
    sys.exit(main())
