"""The paper's ablations, declared in ablations.yaml; each cell is one `dvc exp run` with its own settings."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

import yaml

from alpro.config.data import Dataset


@dataclass(frozen=True, slots=True)
class Cell:
    """One setting of one ablation."""

    ablation: str
    name: str
    changes: tuple[str, ...]  # as `-S` takes them
    paper: dict[str, float]  # percent, by dataset; `_zeroshot` where nothing was fine-tuned

    @property
    def command(self) -> str:
        """The command that runs this cell."""
        return shlex.join(["dvc", "exp", "run", *(word for change in self.changes for word in ("-S", change))])


def cells() -> list[Cell]:
    """Return all cells in the paper's order."""
    declared = yaml.safe_load(resources.files("alpro.config").joinpath("ablations.yaml").read_text(encoding="utf-8"))
    return [
        Cell(ablation, name, tuple(cell["set"]), cell["paper"])
        for ablation, rows in declared.items()
        for name, cell in rows.items()
    ]


def table(datasets: Mapping[str, Dataset]) -> str:
    """Return all cells as text, with the paper's figures for these datasets."""
    lines = []
    for cell in cells():
        figures = {name: value for name, value in cell.paper.items() if name.removesuffix("_zeroshot") in datasets}
        lines.append(
            f"{cell.ablation}: {cell.name}    paper: {', '.join(f'{n} {v}' for n, v in figures.items()) or 'other datasets'}"
        )
        lines.append(f"    {cell.command}")
    return "\n".join(lines)
