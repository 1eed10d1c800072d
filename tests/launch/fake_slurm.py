"""Programs that stand in for Slurm's: `sbatch --wait` runs the script here, the others read what it left in a folder."""

from __future__ import annotations

from pathlib import Path

PROGRAMS = {
    "sbatch": """
printf '%s\\n' "$@" > @/options
env > @/environment
cat > @/script
for option; do case $option in
--output=*) out=${option#*=};; --error=*) err=${option#*=};; --job-name=*) name=${option#*=};;
--partition=nosuch) echo "sbatch: error: invalid partition specified: nosuch" >&2
echo "sbatch: error: Batch job submission failed: Invalid partition name specified" >&2; exit 1;; esac; done
echo "$name" > @/name
test -e @/state || echo "JobState=RUNNING Reason=None NodeList=n1 ExitCode=0:0" > @/state
test -e @/keep && sleep 60
SLURM_JOB_ID=7 sh @/script >> "$out" 2>> "$err"
code=$?
test $code = 0 && state=COMPLETED || state=FAILED
test -e @/end && cp @/end @/state || echo "JobState=$state Reason=None NodeList=n1 ExitCode=$code:0" > @/state
echo "Submitted batch job 7"
exit $code
""",
    "squeue": 'test -e @/name && case "$*" in *"$(cat @/name)"*) echo 7;; esac; true',
    "scontrol": 'echo "$*" >> @/scontrol-log; echo "JobId=7 Restarts=0 $(cat @/state)"',
    "scancel": 'echo "$*" >> @/cancelled; echo "JobState=CANCELLED Reason=None NodeList=n1 ExitCode=0:15" > @/state',
}


def make(folder: Path) -> Path:
    """Write the programs into `folder`/bin; return that folder."""
    (folder / "bin").mkdir(parents=True)
    for name, text in PROGRAMS.items():
        program = folder / "bin" / name
        program.write_text("#!/bin/sh\n" + text.strip().replace("@/", f"{folder}/") + "\n")
        program.chmod(0o755)
    return folder / "bin"
