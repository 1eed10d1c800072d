"""`alpro doctor` reports what works and what does not, even if a check raises."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sqlite3
import subprocess
import sys
from collections import namedtuple
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner

from alpro.checks import doctor, machine, preflight
from alpro.checks.findings import Finding
from alpro.cli.main import app
from alpro.config import load
from alpro.errors import DataError, LaunchError

ROOT = Path(__file__).resolve().parents[2]
Usage = namedtuple("Usage", "total used free")


def test_both_decoders_agree_on_a_generated_clip() -> None:
    found = doctor.CHECKS["decoders"](ROOT)
    assert found.status == "ok", found
    assert "same pixels" in found.detail


def test_model_libraries_are_importable() -> None:
    found = doctor.CHECKS["model libraries"](ROOT)
    assert found.status == "ok", found
    assert "timm" in found.detail and "transformers" in found.detail


def test_checks_pass_or_warn_on_this_machine() -> None:
    for name in ("Python", "torch", "compiler", "disk", "memory", "Great Expectations"):
        found = doctor.CHECKS[name](ROOT)
        assert found.name == name
        assert found.status in ("ok", "warn"), found


def test_check_that_raises_is_reported_without_a_traceback() -> None:
    def breaks(root: Path) -> Finding:
        raise ImportError("libfoo.so: no such file\nand more")

    found = doctor._guarded("torch", breaks, ROOT)
    assert (found.status, found.detail) == ("fail", "ImportError: libfoo.so: no such file")
    assert found.remedy


def test_failure_gives_exit_code_1_and_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = [
        Finding("Python", "ok", "3.11"),
        Finding("disk", "fail", "0 GB free", "free some"),
        Finding("memory", "warn", "1 GB"),
    ]
    monkeypatch.setattr(doctor, "diagnose", lambda: findings)
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert lines[0].split() == ["ok", "Python", "3.11"]
    assert lines[2].strip() == "-> free some"
    assert lines[-1] == "does not work: disk; look at: memory"
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["verdict"] == "does not work: disk; look at: memory"
    assert report["checks"][1] == {"name": "disk", "status": "fail", "detail": "0 GB free", "remedy": "free some"}


def test_no_failure_gives_exit_code_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "diagnose", lambda: [Finding("Python", "ok", "3.11")])
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 0


def test_full_disk_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10, 10, 0))
    found = doctor.CHECKS["disk"](tmp_path)
    assert found.status == "fail" and str(tmp_path) in found.detail and found.remedy


def test_low_memory_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.memory, "available_bytes", lambda: 2 * 2**30)
    assert doctor.CHECKS["memory"](ROOT).status == "warn"


@pytest.mark.parametrize(("free", "status"), [(64 * 2**20, "warn"), (2**31, "ok"), (None, "ok")])
def test_little_shared_memory_is_a_warning(monkeypatch: pytest.MonkeyPatch, free: int | None, status: str) -> None:
    monkeypatch.setattr("alpro.data.batches.shared_memory.free_bytes", lambda: free)
    found = machine.check_shared_memory(Path())
    assert found.status == status and (status == "ok" or "--shm-size" in found.remedy)


def test_host_name_that_does_not_resolve_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "no-such-host.invalid")
    found = machine.check_host_name(Path())
    assert found.status == "fail" and "no-such-host.invalid" in found.detail and "/etc/hosts" in found.remedy
    params = load("recipes/tiny.yaml", ["launch.processes=2"])
    monkeypatch.setattr(preflight, "check_installed", lambda launch: None)
    with pytest.raises(
        LaunchError, match=r"launch.processes=2: this host's own name, 'no-such-host.invalid', does not resolve"
    ):
        preflight.check(params)


def test_memory_limit_of_a_container_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.memory, "container_limit", lambda: 2 * 2**30)
    assert doctor.CHECKS["memory"](ROOT).detail == "2 of 2 GB available"


def test_without_horovod_there_is_backend_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "horovod" else find(name))
    found = doctor.CHECKS["Horovod"](ROOT)
    assert found.status == "warn" and "launch.backend=torch" in found.remedy
    assert doctor.CHECKS["torch.distributed"](ROOT).detail.startswith("Gloo")
    with pytest.raises(LaunchError, match=r"a world of 2 processes needs Horovod, .* or set launch.backend=torch"):
        preflight.check(load("recipes/tiny.yaml", ["launch.processes=2"]))
    monkeypatch.setattr("socket.gethostname", lambda: "no-such-host.invalid")  # which Horovod alone needs
    with suppress(DataError):  # inputs of the recipe that are not here
        preflight.check(load("recipes/tiny.yaml", ["launch.processes=2", "launch.backend=torch"]))


def test_torch_without_gloo_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.is_gloo_available", lambda: False)
    assert doctor.CHECKS["torch.distributed"](ROOT).status == "fail"


def test_missing_store_is_fine_and_is_not_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    assert doctor.CHECKS["MLflow"](tmp_path).status == "ok"
    assert not list(tmp_path.iterdir())


def test_broken_store_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlflow.db").write_text("no database")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    found = doctor.CHECKS["MLflow"](tmp_path)
    assert found.status == "fail" and "mlflow.db" in found.detail


def test_runs_in_the_store_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("CREATE TABLE runs (id)")
        database.execute("INSERT INTO runs VALUES (1)")
    database.close()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    assert "(1 runs)" in doctor.CHECKS["MLflow"](tmp_path).detail


def test_unreachable_server_is_reported_without_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")  # the discard port, on which nothing listens
    found = doctor.CHECKS["MLflow"](tmp_path)
    assert found.status == "fail"
    assert "secret" not in found.detail


@pytest.mark.parametrize(("package", "other"), [("fastapi", "0.154.0"), ("prefect", "3.8.8")])
def test_versions_with_which_prefects_commands_fail_are_reported(
    monkeypatch: pytest.MonkeyPatch, package: str, other: str
) -> None:
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: other if name == package else version(name))
    found = doctor.CHECKS["Prefect"](ROOT)
    assert found.status == "fail" and "fastapi" in found.detail and other in found.detail


def test_folder_without_dvc_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"):
        monkeypatch.setenv(name, "somebody@example.com")
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    found = doctor.CHECKS["DVC"](tmp_path)
    assert found.status == "fail" and "dvc init" in found.remedy


def test_python_dash_m_alpro_runs_the_code_of_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "alpro").mkdir()
    (tmp_path / "alpro" / "__init__.py").write_text("")
    (tmp_path / "alpro" / "__main__.py").write_text("print('this checkout')")
    done = subprocess.run([sys.executable, "-m", "alpro"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "this checkout"


def test_folder_without_git_is_named(tmp_path: Path) -> None:
    finding = doctor.CHECKS["DVC"](tmp_path)
    assert finding.status == "fail" and finding.detail == "not a git repository"


def test_missing_git_user_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, "/dev/null")
    for name in ("GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL", "EMAIL"):
        monkeypatch.delenv(name, raising=False)
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    subprocess.run(["git", "-C", tmp_path, "config", "user.useConfigOnly", "true"], check=True)
    finding = doctor.CHECKS["DVC"](tmp_path)
    assert finding.status == "fail" and finding.detail == "git has no user" and "git config user.name" in finding.remedy
