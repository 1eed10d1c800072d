"""Slurm's own commands: the state of a job, its end, and why a job was refused."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass

from alpro.errors import LaunchError

ANSWER_S = 60
ACTIVE = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "RESIZING", "STAGE_OUT", "SIGNALING")
# reasons for which a job waits for ever, with the parameter to change
HOPELESS = {
    "PartitionTimeLimit": "time",
    "PartitionNodeLimit": "nodes",
    "BadConstraints": "constraint",
    "AccountNotAllowed": "account",
    "InvalidAccount": "account",
}
# what sbatch says about a request that it refuses, with the parameter to change
REFUSALS = {
    "invalid account": "account",  # first, as the message goes on with "or account/partition combination"
    "partition": "partition",
    "account": "account",
    "time limit": "time",
    "feature": "constraint",
    "generic resource": "gpus_per_node",
    "node count": "nodes",
    "node configuration": "nodes, gpus_per_node or constraint",
}
DOWN = ("Unable to contact slurm controller", "Socket timed out", "Connection refused", "Zero Bytes")


@dataclass(frozen=True)
class Job:
    """A job as Slurm sees it; `restarts` counts how often it was requeued."""

    number: str
    state: str
    reason: str
    nodes: str
    exit_code: int
    signal: int
    restarts: int

    @property
    def is_active(self) -> bool:
        """True if the job has not ended for good."""
        return self.state in ACTIVE


def run(*words: str) -> str:
    """Run a command of Slurm; return its output. Raises LaunchError with the command's last line."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=ANSWER_S, start_new_session=True)
    except OSError as error:
        raise LaunchError(
            f"launch.scheduler=slurm: {words[0]} cannot be run ({error.strerror}); start this where Slurm's commands are, or "
            "set launch.scheduler=null"
        ) from None
    except subprocess.TimeoutExpired:
        raise LaunchError(f"{words[0]} does not answer within {ANSWER_S} s; `scontrol ping` shows Slurm's state") from None
    if done.returncode:
        raise LaunchError(refusal(words[0], done.stderr))
    return done.stdout


def jobs_named(name: str) -> list[str]:
    """Return the numbers of this user's jobs of a name that have not ended."""
    return run("squeue", f"--user={os.getuid()}", "--noheader", f"--name={name}", "--format=%i").split()


def job(number: str) -> Job | None:
    """Return a job; None if Slurm has forgotten it."""
    try:
        text = run("scontrol", "--oneliner", "show", "job", number)
    except LaunchError as error:
        if "Invalid job id" in str(error):
            return None
        raise
    values = dict(re.findall(r"(\w+)=(\S*)", text))
    code, _, number_of_signal = values.get("ExitCode", "0:0").partition(":")
    return Job(
        number,
        values.get("JobState", "").split(",")[0],
        values.get("Reason", ""),
        values.get("NodeList", "").strip("()"),
        int(code or 0),
        int(number_of_signal or 0),
        int(values.get("Restarts") or 0),
    )


def refusal(program: str, said: str) -> str:
    """Return what Slurm's error means, and what to change, in one line."""
    lines = [line.partition("error: ")[2] or line for line in said.splitlines() if line.strip()]
    text = "; ".join(dict.fromkeys(line.strip() for line in lines)) or "no message"
    if any(sign in text for sign in DOWN):
        return f"{program}: {text}; is Slurm's controller up (`scontrol ping`)?"
    parameter = next((name for sign, name in REFUSALS.items() if sign in text.lower()), None)
    if program != "sbatch" or parameter is None:
        return f"{program}: {text}"
    return (
        f"Slurm refuses the job ({text}); change launch.slurm.{parameter}, `sinfo` and `sacctmgr show assoc` list what there is"
    )


def describe_end(job: Job, time_limit: str | None) -> str:
    """Return how a job ended, and what to do, in one line without its number."""
    again = "the same command resumes a training from its last saved state"
    match job.state:
        case "TIMEOUT" | "DEADLINE":
            limit = f"launch.slurm.time={time_limit}" if time_limit else "the partition's time limit (set launch.slurm.time)"
            return f"ran out of time; raise {limit}, or run it again: {again}"
        case "NODE_FAIL" | "BOOT_FAIL":
            return f"lost a node ({job.nodes}); `sinfo --list-reasons` shows which, and {again} on others"
        case "OUT_OF_MEMORY":
            return "ran out of memory; ask for more with SBATCH_MEM_PER_NODE, or lower the batch size"
        case "CANCELLED":
            return f"was cancelled by scancel or an administrator; {again}"
        case "PREEMPTED":
            return f"was preempted and Slurm does not requeue jobs here; {again}"
        case _ if job.signal:
            return f"was ended by signal {job.signal} on {job.nodes}; {again}"
        case _:
            return f"ended with exit code {job.exit_code} on {job.nodes}"
