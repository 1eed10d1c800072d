"""A Slurm cluster for tests: slurmctld on the launcher, slurmd on each host (Debian's slurmctld, slurmd and munge)."""

from __future__ import annotations

import secrets
import shutil
import time
from pathlib import Path

from tests.launch.cluster import Cluster, Host, missing

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
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
SlurmdTimeout=20
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


def missing_slurm() -> str:
    """Return why such a cluster cannot be started here, or nothing."""
    if absent := [name for name in PROGRAMS if shutil.which(name) is None and not Path("/usr/sbin", name).exists()]:
        return f"needs {', '.join(absent)} (apt-get install slurmctld slurmd slurm-client munge)"
    return missing()


def slurm(cluster: Cluster, *words: str) -> str:
    """Run a command of Slurm on the launcher; return its output."""
    return cluster.launcher.run("env", f"SLURM_CONF={cluster.folder / 'slurm' / 'slurm.conf'}", *words)


def start_slurm(cluster: Cluster) -> dict[str, str]:
    """Start Slurm on all hosts of a cluster; return the environment variables of its commands."""
    folder = cluster.folder / "slurm"
    (folder / "state").mkdir(parents=True)
    nodes = [name for name in cluster.hosts if name != cluster.launcher.name]
    file = folder / "slurm.conf"
    file.write_text(CONFIGURATION.format(controller=cluster.launcher.name, folder=folder, nodes=",".join(nodes)))
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    variables = {"SLURM_CONF": str(file)}
    for host in cluster.hosts.values():
        _start_munge(host, folder, key)
    cluster.launcher.run("env", f"SLURM_CONF={file}", "/usr/sbin/slurmctld")
    for name in nodes:
        cluster.hosts[name].run("env", f"SLURM_CONF={file}", "/usr/sbin/slurmd", "-N", name)
    until_s = time.monotonic() + 60
    while set((state := slurm(cluster, "sinfo", "--noheader", "--Node", "-o", "%T")).split()) != {"idle"}:
        assert time.monotonic() < until_s, state
        time.sleep(0.5)
    return variables


def _start_munge(host: Host, folder: Path, key: Path) -> None:
    host.run("mkdir", "-m", "755", "/run/munge")
    files = [f"--{name}-file={folder}/munge-{host.name}.{name}" for name in ("log", "seed", "pid")]
    host.run("/usr/sbin/munged", "--force", f"--key-file={key}", "--socket=/run/munge/munge.socket.2", *files)
