"""`alpro doctor`: checks this machine and suggests fixes. Takes seconds and downloads nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from alpro.checks import machine, servers, services
from alpro.checks.findings import Finding

CHECKS: dict[str, Callable[[Path], Finding | None]] = {
    "Python": machine.check_python,
    "torch": machine.check_torch,
    "model libraries": machine.check_model_libraries,
    "Horovod": machine.check_horovod,
    "torch.distributed": machine.check_torch_distributed,
    "decoders": machine.check_decoders,
    "compiler": machine.check_compiler,
    "disk": machine.check_disk,
    "memory": machine.check_memory,
    "shared memory": machine.check_shared_memory,
    "host name": machine.check_host_name,
    "DVC": services.check_dvc,
    "DVC remotes": servers.check_dvc_remotes,
    "PostgreSQL": servers.check_postgres,
    "S3": servers.check_s3,
    "MLflow": services.check_mlflow,
    "champions": services.check_champions,
    "Great Expectations": services.check_great_expectations,
    "Prefect": services.check_prefect,
}


def diagnose(root: str | Path = ".") -> list[Finding]:
    """Run every check for the project in `root`, one after the other; those of servers that are not in use have no finding."""
    findings = (_guarded(name, check, Path(root)) for name, check in CHECKS.items())
    return [finding for finding in findings if finding is not None]


def verdict(findings: Sequence[Finding]) -> str:
    """Return the summary of all findings on one line."""
    failed = [finding.name for finding in findings if finding.status == "fail"]
    warned = [finding.name for finding in findings if finding.status == "warn"]
    text = f"does not work: {', '.join(failed)}" if failed else "everything needed works"
    return f"{text}; look at: {', '.join(warned)}" if warned else text


def show(findings: Sequence[Finding]) -> str:
    """Format the findings, one per line, with the remedy below each problem and the verdict at the end."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.status:4}  {finding.name:{width}}  {finding.detail}")
        if finding.status != "ok" and finding.remedy:
            lines.append(f"{'':4}  {'':{width}}  -> {finding.remedy}")
    return "\n".join([*lines, verdict(findings)])


def as_dict(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the findings for JSON."""
    return {"verdict": verdict(findings), "checks": [asdict(finding) for finding in findings]}


def _guarded(name: str, check: Callable[[Path], Finding | None], root: Path) -> Finding | None:
    """Run a check and turn any exception into a failed finding; importing a broken library can raise anything."""
    try:
        return check(root)
    except Exception as error:
        first = next(iter(str(error).splitlines()), "")
        return Finding(name, "fail", f"{type(error).__name__}: {first}", "`make clean setup` rebuilds the environment")
