"""Writes the parameters of an own dataset: as a recipe of its own, or as three entries of params.yaml.

A recipe has a checksum in its first line, so that only one that nobody changed is written again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from alpro.config import Finetuning, Params, load, recipes
from alpro.config.params import parse
from alpro.config.schema import with_schema_line
from alpro.errors import ConfigError, OutputError
from alpro.files.atomic import atomic_write
from alpro.lineage import git
from alpro.own_data.machine import Machine
from alpro.own_data.sizes import Sizes
from alpro.own_data.start import SCRATCH, Start

MARK = "# Made by `alpro data init`, checksum "
SECTIONS = ("datasets", "finetune", "evaluate")
CACHE = {"cache": ".state/frames", "cache_gb": 10}


def entries(name: str, task: str, annotations: Path, videos: Path, sizes: Sizes, recipe: str) -> dict[str, dict[str, Any]]:
    """Return the entries of `datasets`, `finetune` and `evaluate` for a dataset."""
    return {
        "datasets": {"task": task, "annotations": str(annotations), "videos": str(videos)},
        "finetune": _plain(sizes.training),
        "evaluate": {"checkpoint": f"models/{recipe}/finetune/{name}", "split": "test"},
    }


def _plain(training: Finetuning) -> dict[str, Any]:
    values = training.model_dump()
    return {**values, "betas": list(values["betas"])}


def recipe_text(
    name: str, parts: Mapping[str, Any], start: Start, sizes: Sizes, machine: Machine, base: Params, about: Sequence[str]
) -> str:
    """Return a complete recipe with this dataset alone; other sections are those of `base`. Raises ConfigError."""
    raw = base.model_dump(mode="json")
    scratch = {"prompter": SCRATCH, "teacher": f"models/{name}/prompter", "pretrain": f"models/{name}/prompter"}
    raw |= {"recipe": name, "sample": None, "corpora": {}, "convert": {}, "zeroshot": {}, "model": sizes.model.model_dump()}
    raw |= {section: {name: parts[section]} for section in SECTIONS}
    raw["text"] = {"tokenizer": str(start.tokenizer)}
    raw["init"] = {**raw["init"], **scratch, "finetune": start.path}
    threads = 1 if sizes.processes > 1 else machine.threads
    raw["launch"] |= {"processes": sizes.processes, "hosts": None, "threads": threads}
    raw["loader"] |= {"workers": min(4, machine.cores // sizes.processes) if machine.gpus else 0, **CACHE}
    for training in ("prompter", "pretrain"):
        raw[training] |= {"corpora": [], "max_text_tokens": min(raw[training]["max_text_tokens"], sizes.model.max_positions)}
    text = "".join(f"# {line}\n" for line in about) + yaml.safe_dump(raw, sort_keys=False, allow_unicode=True, width=120)
    parse(yaml.safe_load(text), where=f"recipes/{name}.yaml")
    return f"{MARK}{_checksum(text)}\n{text}"


def is_unchanged(file: Path) -> bool:
    """Return True if a recipe was made by this command and has not been changed since."""
    first, _, rest = file.read_text(encoding="utf-8").partition("\n")
    return first == MARK + _checksum(rest)


def check_writable(name: str, params: Path, *, joins: bool) -> None:
    """Raise OutputError if writing the parameters would lose something, ConfigError if the name is taken.

    joins: entries are added to params.yaml; otherwise a recipe replaces it.
    """
    existing = load(params)
    if joins:
        taken = [section for section in ("corpora", *SECTIONS) if name in getattr(existing, section)]
        if taken:
            raise ConfigError(f"{params}: {taken[0]}.{name} is there already; remove its entries, or give another --name")
        return
    recipe = recipes.RECIPES / f"{name}.yaml"
    if recipe.exists() and not is_unchanged(recipe):
        raise OutputError(f"{recipe}: exists and is not as this command made it; move it away, or give another --name")
    current = params.read_text(encoding="utf-8")
    texts = [path.read_text(encoding="utf-8") for path in recipes.RECIPES.glob("*.yaml")]
    if not any(current in (text, with_schema_line(text)) for text in texts) and not _is_committed(params):
        raise OutputError(
            f"{params}: has changes that neither a commit nor a recipe has; commit them, or copy it to {recipes.RECIPES}/"
        )


def write_recipe(name: str, text: str, params: Path) -> Path:
    """Write recipes/NAME.yaml and params.yaml, and return the recipe's file."""
    file = recipes.RECIPES / f"{name}.yaml"
    atomic_write(file, text)
    recipes.use(name, params)
    return file


def add_entries(name: str, parts: Mapping[str, Any], params: Path) -> None:
    """Add a dataset's entries to params.yaml and leave all other lines as they are. Raises ConfigError if that fails."""
    before = params.read_text(encoding="utf-8")
    text, expected = before, yaml.safe_load(before)
    for section in SECTIONS:
        text = _with_entry(text, section, name, parts[section])
        expected[section] = {**(expected[section] or {}), name: parts[section]}
    try:
        is_as_expected = yaml.safe_load(text) == yaml.safe_load(yaml.safe_dump(expected))
    except yaml.YAMLError:
        is_as_expected = False
    if not is_as_expected:
        raise ConfigError(
            f"{params}: entries cannot be added to it as it is written; write its sections as blocks, as recipes do"
        )
    parse(yaml.safe_load(text), where=str(params))
    atomic_write(params, text)


def _with_entry(text: str, section: str, name: str, entry: Mapping[str, Any]) -> str:
    """Return params.yaml with an entry at the end of a section."""
    lines = text.splitlines(keepends=True)
    begin = next((n for n, line in enumerate(lines) if re.match(rf"{section}\s*:", line)), None)
    if begin is None:
        raise ConfigError(f"{section}: missing in params.yaml")
    end = next((n for n in range(begin + 1, len(lines)) if re.match(r"[^\s#]", lines[n])), len(lines))
    while end > begin + 1 and (not lines[end - 1].strip() or re.match(r"#", lines[end - 1])):
        end -= 1  # comments and empty lines belong to the next section
    lines[begin] = re.sub(rf"^({section}\s*:)\s*\{{\s*\}}", r"\1", lines[begin])
    indent = next((len(line) - len(line.lstrip()) for line in lines[begin + 1 : end] if line.strip()), 2)
    block = yaml.safe_dump({name: dict(entry)}, sort_keys=False, allow_unicode=True, width=120)
    added = "".join(f"{' ' * indent}{line}\n" for line in block.splitlines())
    if not lines[end - 1].endswith("\n"):
        lines[end - 1] += "\n"
    return "".join([*lines[:end], added, *lines[end:]])


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _is_committed(path: Path) -> bool:
    """Return True if git has the file as it is."""
    return git(Path(), "status", "--porcelain", "--ignored", "--", str(path)) == ""
