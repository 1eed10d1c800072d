"""A Slurm cluster for tests: slurmctld on the launcher, slurmd on each host (Debian's slurmctld, slurmd and munge)."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from tests.launch.cluster import Cluster, Host, missing

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
ACCOUNT_PROGRAMS = ("mariadbd", "slurmdbd", "sacctmgr")
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SlurmdTimeout=60
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=2,bf_interval=2
SlurmctldParameters=preempt_send_user_signal
NodeName={nodes} CPUs=2 State=UNKNOWN
PartitionName=DEFAULT Nodes=ALL State=UP MaxTime=INFINITE PreemptMode=REQUEUE
PartitionName=all Default=YES GraceTime=60
PartitionName=hasty
PartitionName=short MaxTime=1
PartitionName=urgent PriorityTier=10 PreemptMode=OFF
"""
ENFORCED = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={controller}
AccountingStorageEnforce=associations
"""
DATABASE = """\
DbdHost={controller}
SlurmUser=root
AuthType=auth/munge
PidFile={folder}/slurmdbd.pid
LogFile={folder}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=3306
StorageUser=slurm
StoragePass=slurm
"""


def missing_slurm() -> str:
    """Return why such a cluster cannot be started here, or nothing."""
    if absent := [name for name in PROGRAMS if shutil.which(name) is None and not Path("/usr/sbin", name).exists()]:
        return f"needs {', '.join(absent)} (apt-get install slurmctld slurmd slurm-client munge)"
    return missing()


def slurm(cluster: Cluster, *words: str) -> str:
    """Run a command of Slurm on the launcher; return its output."""
    return cluster.launcher.run("env", f"SLURM_CONF={cluster.folder / 'slurm' / 'slurm.conf'}", *words)


def missing_accounts() -> str:
    """Return why the accounts of such a cluster cannot be kept here, or nothing."""
    if absent := [name for name in ACCOUNT_PROGRAMS if shutil.which(name) is None and not Path("/usr/sbin", name).exists()]:
        return f"needs {', '.join(absent)} (apt-get install slurmdbd mariadb-server)"
    return missing_slurm()


def start_slurm(cluster: Cluster, account: str | None = None) -> dict[str, str]:
    """Start Slurm on all hosts of a cluster; return the environment variables of its commands.

    With `account`, jobs must be charged to this account, the only one.
    """
    folder = cluster.folder / "slurm"
    (folder / "state").mkdir(parents=True)
    nodes = [name for name in cluster.hosts if name != cluster.launcher.name]
    file = folder / "slurm.conf"
    names = {"controller": cluster.launcher.name, "folder": str(folder), "nodes": ",".join(nodes)}
    file.write_text((CONFIGURATION + (ENFORCED if account else "")).format(**names))
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    variables = {"SLURM_CONF": str(file)}
    for host in cluster.hosts.values():
        _start_munge(host, folder)
    if account:
        _start_accounts(cluster, folder, names, account)
    cluster.launcher.run("env", f"SLURM_CONF={file}", "/usr/sbin/slurmctld")
    for name in nodes:
        _start_slurmd(cluster, name)
    wait_until_idle(cluster)
    return variables


def kill_node(cluster: Cluster, name: str) -> None:
    """Kill all of Slurm on a host, with what it has started, and tell Slurm, which would notice it by itself later."""
    _kill_all(cluster.hosts[name])
    slurm(cluster, "scontrol", "update", f"nodename={name}", "state=down", "reason=died")


def revive_node(cluster: Cluster, name: str) -> None:
    """Start Slurm anew on a host that was killed, or cut off and mended; it returns to service (ReturnToService)."""
    _kill_all(cluster.hosts[name])
    _start_munge(cluster.hosts[name], cluster.folder / "slurm")
    _start_slurmd(cluster, name)
    wait_until_idle(cluster)


def _kill_all(host: Host) -> None:
    subprocess.run(host.command("pkill", "-KILL", "-f", "slurm|alpro"))  # fails if there is none


def _start_slurmd(cluster: Cluster, name: str) -> None:
    file = cluster.folder / "slurm" / "slurm.conf"
    cluster.hosts[name].run("env", f"SLURM_CONF={file}", "/usr/sbin/slurmd", "-N", name)


def wait_until_idle(cluster: Cluster) -> None:
    """Wait until all nodes are free."""
    until_s = time.monotonic() + 60
    while set((state := slurm(cluster, "sinfo", "--noheader", "--Node", "-o", "%T")).split()) != {"idle"}:
        assert time.monotonic() < until_s, state
        time.sleep(0.5)


def _start_accounts(cluster: Cluster, folder: Path, names: Mapping[str, str], account: str) -> None:
    """Start a database and slurmdbd on the launcher, with one account, of root."""
    run, data = cluster.launcher.run, folder / "mariadb"
    run("mariadb-install-db", "--no-defaults", "--user=root", "--auth-root-authentication-method=normal", f"--datadir={data}")
    start = folder / "start.sql"
    start.write_text(
        "CREATE USER 'slurm'@'127.0.0.1' IDENTIFIED BY 'slurm';\nGRANT ALL ON slurm_acct_db.* TO 'slurm'@'127.0.0.1';\n"
    )
    options = [
        "--user=root", f"--datadir={data}", f"--socket={folder}/mariadb.sock", f"--pid-file={folder}/mariadb.pid",
        "--bind-address=127.0.0.1", f"--init-file={start}", f"--log-error={folder}/mariadb.log",
    ]  # fmt: skip
    run("sh", "-c", 'setsid mariadbd --no-defaults "$@" > /dev/null 2>&1 &', "mariadbd", *options)
    file = folder / "slurmdbd.conf"  # slurmdbd looks beside SLURM_CONF
    file.write_text(DATABASE.format(**names))
    file.chmod(0o600)
    _wait_for_port(cluster.launcher, 3306)
    run("env", f"SLURM_CONF={folder / 'slurm.conf'}", "/usr/sbin/slurmdbd")
    _wait_for_port(cluster.launcher, 6819)
    for words in (["cluster", "test"], ["account", account, "cluster=test"], ["user", "root", f"account={account}"]):
        slurm(cluster, "sacctmgr", "--immediate", "add", *words)


def _wait_for_port(host: Host, port: int) -> None:
    until_s = time.monotonic() + 60
    while f":{port} " not in host.run("ss", "-ltn"):
        assert time.monotonic() < until_s, f"nothing listens on port {port} of {host.name}"
        time.sleep(0.2)


def _start_munge(host: Host, folder: Path) -> None:
    host.run("mkdir", "-p", "-m", "755", "/run/munge")
    files = [f"--{name}-file={folder}/munge-{host.name}.{name}" for name in ("log", "seed", "pid")]
    key, socket = f"--key-file={folder}/munge.key", "--socket=/run/munge/munge.socket.2"
    host.run("/usr/sbin/munged", "--force", key, socket, *files)
