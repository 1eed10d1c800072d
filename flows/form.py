"""The fields of the flows' forms: their types, what is said about each, and what they change in params.yaml."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, ParamSpec, TypeVar, get_args, get_type_hints

from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo

P = ParamSpec("P")
R = TypeVar("R")

Recipe = Annotated[
    Literal["tiny", "sample", "official", "paper"] | None, Field(description="Empty: params.yaml as it is committed.")
]
Overrides = Annotated[
    list[str], Field(description="Changes to params.yaml, as `dvc exp run -S`: finetune.msvd_qa.learning_rate=1e-4")
]
Task = Annotated[str, Field(description="A data set of params.yaml: msrvtt_ret, didemo_ret, msrvtt_qa, msvd_qa or your own.")]
Tasks = Annotated[list[str], Field(description="Only these data sets, without the report; empty: all of them.")]
FromStage = Annotated[str | None, Field(description="Run this stage and all after it again, changed or not: finetune@msvd_qa.")]
InCheckout = Annotated[
    bool, Field(description="Work in the checkout, as `make repro` does, and not as an experiment; takes no changes.")
]
Edited = Annotated[
    Literal["keep", "discard", "stop"],
    Field(
        description="In the checkout, files that somebody put into a stage's output: moved to .state/kept, deleted, or a stop."
    ),
]
Hours = Annotated[
    float | None, Field(description="A stage that takes longer is ended; empty: never. The gate has a day.", gt=0)
]
Ask = Annotated[
    Literal["auto", "ask", "never"],
    Field(description="What the gate lets through becomes the champion: at once, after the run was resumed by hand, or never."),
]


class Start(BaseModel):
    """Where trainings start; empty: as params.yaml says."""

    prompter: str | None = Field(None, description="init.prompter: a checkpoint, own or official, or a file of recipes/init.")
    teacher: str | None = Field(None, description="init.teacher: the prompter that pre-training asks.")
    pretrain: str | None = Field(None, description="init.pretrain.")
    finetune: str | None = Field(None, description="init.finetune: replaces prompter and pre-training, for all tasks.")


class Machines(BaseModel):
    """Where Horovod's processes run; empty: as params.yaml says."""

    processes: int | None = Field(None, description="launch.processes: over all hosts; needed with hosts.", ge=1)
    hosts: str | None = Field(None, description="launch.hosts: name:slots,...; only this machine where empty.")


def described(function: Callable[P, R]) -> Callable[P, R]:
    """Repeat the annotations' descriptions in the docstring, from which Prefect takes those of its form."""
    hints = get_type_hints(function, include_extras=True)
    fields = {name: field for name, hint in hints.items() for field in get_args(hint)[1:] if isinstance(field, FieldInfo)}
    listed = [f"    {name}: {field.description}" for name, field in fields.items()]
    function.__doc__ = "\n".join([function.__doc__ or "", "", "Args:", *listed])
    return function


@dataclass(frozen=True, slots=True)
class Changes:
    """What a run changes in params.yaml, before anything else."""

    recipe: str | None
    overrides: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.recipe or self.overrides)


def changes(
    recipe: str | None, overrides: Sequence[str], start: Start | None = None, machines: Machines | None = None
) -> Changes:
    """A form's fields as overrides; those that were typed as such come last, and so have the last word."""
    given = {f"init.{key}": value for key, value in (start.model_dump() if start else {}).items()}
    given |= {f"launch.{key}": value for key, value in (machines.model_dump() if machines else {}).items()}
    set_here = [f"{key}='{value}'" if isinstance(value, str) else f"{key}={value}" for key, value in given.items() if value]
    return Changes(recipe, (*set_here, *overrides))
