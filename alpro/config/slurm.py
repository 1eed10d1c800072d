"""Section launch.slurm of params.yaml: what a stage asks of Slurm if it runs as a job of its own."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt

from alpro.config.base import Section

NAMES = re.compile(r"[A-Za-z0-9_][\w.,@+-]*")
CONSTRAINT = re.compile(r"[A-Za-z0-9_(\[][\w.,&|*()\[\]:-]*")
TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<first>\d+)(?::(?P<second>\d\d))?(?::(?P<third>\d\d))?")


def seconds(time: str) -> int:
    """Return a time of Slurm in seconds: minutes, m:ss, h:mm:ss, d-h, d-h:mm or d-h:mm:ss."""
    if (found := TIME.fullmatch(time)) is None:
        raise ValueError(time)
    days = found["days"]
    first, second, third = (int(found[name]) if found[name] else None for name in ("first", "second", "third"))
    assert first is not None
    if days is not None or third is not None:
        return ((int(days or 0) * 24 + first) * 60 + (second or 0)) * 60 + (third or 0)
    return first * 60 + (second or 0)


def _check_names(value: str) -> str:
    if not NAMES.fullmatch(value):
        raise ValueError(f"{value!r} is not a name of Slurm: use letters, digits and `_.,@+-`, without spaces")
    return value


def _check_constraint(value: str) -> str:
    if not CONSTRAINT.fullmatch(value):
        raise ValueError(
            f"{value!r} is not a constraint of Slurm: write features with `&`, `|`, `*` and brackets, without spaces"
        )
    return value


def _check_quotes(value: Any) -> Any:
    if isinstance(value, int):
        raise ValueError("YAML reads a time without quotation marks as a number; write '24:00:00'")
    return value


def _check_time(value: str) -> str:
    if not TIME.fullmatch(value) or seconds(value) == 0:
        raise ValueError(
            f"{value!r} is not a time limit of Slurm: write 'hours:minutes:seconds' or 'days-hours', such as '2-0'"
        )
    return value


Names = Annotated[str, AfterValidator(_check_names)]
Constraint = Annotated[str, AfterValidator(_check_constraint)]
Time = Annotated[str, BeforeValidator(_check_quotes), AfterValidator(_check_time)]


class Slurm(Section):
    """Resources that each job asks of Slurm. Further options are sbatch's own variables, such as SBATCH_QOS."""

    partition: Names | None = Field(None, description="Partition; null: Slurm's default.")
    time: Time | None = Field(
        None,
        description="Time limit of a job, such as '24:00:00'; null: the partition's. A training that reaches it is saved and "
        "continues in the same job's next turn.",
    )
    nodes: PositiveInt = Field(1, description="Number of nodes.")
    gpus_per_node: PositiveInt | None = Field(None, description="GPUs on each node, one for each process; null: none.")
    account: Names | None = Field(None, description="Account that is charged; null: Slurm's default.")
    constraint: Constraint | None = Field(None, description="Features that the nodes must have, such as 'a100&ib'; null: any.")
