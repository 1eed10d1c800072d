"""The paper's ablations, declared in ablations.yaml: every cell is one `dvc exp run` with the settings that it needs."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from importlib import resources

import yaml

from alpro.config import Params


@dataclass(frozen=True, slots=True)
class Cell:
    """One setting of one ablation."""

    ablation: str
    name: str
    changes: tuple[str, ...]  # as `-S` takes them
    paper: dict[str, float]  # percent, by data set; `_zeroshot` where nothing was fine-tuned

    @property
    def command(self) -> str:
        """What runs it."""
        return shlex.join(["dvc", "exp", "run", *(word for change in self.changes for word in ("-S", change))])


def cells() -> list[Cell]:
    """All of them, in the paper's order."""
    declared = yaml.safe_load(resources.files("alpro.config").joinpath("ablations.yaml").read_text(encoding="utf-8"))
    return [
        Cell(ablation, name, tuple(cell["set"]), cell["paper"])
        for ablation, rows in declared.items()
        for name, cell in rows.items()
    ]


def table(params: Params) -> str:
    """The list, for the data sets that params.yaml has."""
    lines = []
    for cell in cells():
        known = {name: value for name, value in cell.paper.items() if name.removesuffix("_zeroshot") in params.datasets}
        lines.append(
            f"{cell.ablation}: {cell.name}    paper: {', '.join(f'{n} {v}' for n, v in known.items()) or 'other sets'}"
        )
        lines.append(f"    {cell.command}")
    return "\n".join(lines)
