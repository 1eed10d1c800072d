"""Fields of the flows' forms: their types and descriptions, and the params.yaml changes they represent."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, ParamSpec, TypeVar, get_args, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

P = ParamSpec("P")
R = TypeVar("R")

Recipe = Annotated[
    Literal["tiny", "sample", "official", "paper", "fast"] | None,
    Field(description="Recipe to use instead of the committed params.yaml. Empty: params.yaml."),
]
Overrides = Annotated[
    list[str],
    Field(description="Changes to params.yaml, written as for `dvc exp run -S`: finetune.msvd_qa.learning_rate=1e-4"),
]


def dataset_names(root: Path) -> list[str]:
    """Return the datasets that params.yaml or a recipe fine-tunes or evaluates; files that cannot be read are left out."""
    names: dict[str, None] = {}
    for path in (root / "params.yaml", *sorted((root / "recipes").glob("*.yaml"))):
        try:
            params = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):  # reported by the stages; a form without choices still works
            continue
        for section in ("finetune", "evaluate"):
            entries = params.get(section) if isinstance(params, dict) else None
            names |= dict.fromkeys(entries if isinstance(entries, dict) else ())
    return [name for name in names if isinstance(name, str)]


# The datasets that exist when a deployment is made. Prefect's server refuses others; `make ui` makes the deployments again.
_NAMES = dataset_names(Path.cwd())
Dataset = Annotated[str, Field(json_schema_extra={"enum": [*_NAMES]} if _NAMES else None)]
Task = Annotated[Dataset, Field(description="A dataset of params.yaml or of the recipe.")]
Tasks = Annotated[list[Dataset], Field(description="Run only these datasets, without the report. Empty: all datasets.")]
FromStage = Annotated[
    str | None,
    Field(description="Run this stage and all stages after it again, even if nothing has changed: finetune@msvd_qa."),
]
InCheckout = Annotated[
    bool,
    Field(description="Work in the checkout, like `make repro`, instead of in an experiment. Allows no changes of parameters."),
]
StrayFiles = Annotated[
    Literal["keep", "discard", "stop"],
    Field(
        description="With in_checkout: what to do with user files in stage outputs. keep: move them to .state/kept; "
        "discard: delete them; stop: end the run."
    ),
]
Hours = Annotated[
    float | None,
    Field(description="Time limit of each stage, in hours. Empty: no limit. The gate is limited to 24 hours.", gt=0),
]
Promote = Annotated[
    Literal["auto", "ask", "never"],
    Field(
        description="When candidates that pass the gate become champions. auto: at once; ask: when you resume the paused run; "
        "never: not in this run."
    ),
]


class Start(BaseModel):
    """Checkpoints from which trainings start. Empty: those of params.yaml."""

    prompter: str | None = Field(
        None, description="init.prompter: an own or official checkpoint, or a file in recipes/init, for the prompter."
    )
    teacher: str | None = Field(None, description="init.teacher: the prompter that labels video crops for pre-training.")
    pretrain: str | None = Field(None, description="init.pretrain: the checkpoint from which pre-training starts.")
    finetune: str | None = Field(
        None, description="init.finetune: the checkpoint from which all fine-tunings start; skips prompter and pre-training."
    )


class Machines(BaseModel):
    """Number of Horovod's processes. Empty: that of params.yaml, which alone names the hosts."""

    model_config = ConfigDict(extra="forbid")  # a saved `hosts` must not be dropped silently

    processes: int | None = Field(
        None, description="launch.processes: number of processes on all hosts of params.yaml together.", ge=1
    )


def described(function: Callable[P, R]) -> Callable[P, R]:
    """Add the parameters' descriptions to the docstring, where Prefect looks for them."""
    hints = get_type_hints(function, include_extras=True)
    fields = {name: field for name, hint in hints.items() for field in get_args(hint)[1:] if isinstance(field, FieldInfo)}
    lines = [f"    {name}: {field.description}" for name, field in fields.items()]
    function.__doc__ = "\n".join([function.__doc__ or "", "", "Args:", *lines])
    return function


@dataclass(frozen=True, slots=True)
class ParamChanges:
    """Changes of a run to params.yaml: another recipe first, then overrides in this order."""

    recipe: str | None
    overrides: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.recipe or self.overrides)


def to_changes(
    recipe: str | None, overrides: Sequence[str], start: Start | None = None, machines: Machines | None = None
) -> ParamChanges:
    """Convert a form's fields to changes. Typed overrides come last, so they have precedence over the other fields."""
    fields = {f"init.{key}": value for key, value in (start.model_dump() if start else {}).items()}
    fields |= {f"launch.{key}": value for key, value in (machines.model_dump() if machines else {}).items()}
    from_fields = [f"{key}={_quoted(value) if isinstance(value, str) else value}" for key, value in fields.items() if value]
    return ParamChanges(recipe, (*from_fields, *overrides))


def _quoted(text: str) -> str:
    """Return a text as a quoted value of Hydra's grammar: only quotation marks, and backslashes before them, are escaped."""
    escaped = re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), text)
    return f"'{escaped}'"
