"""Imports released configuration files: recipe `official` with their values, and a report on every key.

    imported = import_configs(["config_release/msrvtt_ret.json"], name="mine")
    print(imported)                     # the parameters that each key sets, and why some have no effect
    imported.write("params.yaml")

Parameters that a file does not set stay as in recipe `official`. Model files that a configuration refers to
(`model_config`, `visual_model_cfg`) are read too if they exist.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from alpro.config import parse
from alpro.config.recipes import path_of
from alpro.config.released.datasets import corpora, dataset, training_of
from alpro.config.released.keys import RULES, TEXT_RULES, VIDEO_RULES, Kind, Nothing, Only, rule_of
from alpro.config.schema import with_schema_line
from alpro.errors import ConfigError, nearest
from alpro.files.atomic import atomic_write
from alpro.files.json_files import read_json_object

BASE = "official"
NAMED_FILES = {"model_config": TEXT_RULES, "visual_model_cfg": VIDEO_RULES}


@dataclass(frozen=True, slots=True)
class Entry:
    """The result for one key: the parameters that it sets, or the reason why it sets none."""

    file: str
    key: str
    value: Any
    sets: Mapping[str, Any]
    why: str

    def __str__(self) -> str:
        setting = f"{self.key} = {json.dumps(self.value)}"
        setting = setting if len(setting) <= 60 else f"{setting[:57]}..."
        if not self.sets:
            return f"  {setting:60}  {self.why}"
        parameters = ", ".join(f"{path}: {json.dumps(value)}" for path, value in self.sets.items())
        return f"  {setting:60}  {parameters}{f' ({self.why})' if self.why else ''}"


@dataclass
class Imported:
    """A complete set of parameters, and the result for each key of the files."""

    params: dict[str, Any]
    files: list[str]
    entries: list[Entry] = field(default_factory=list)

    def __str__(self) -> str:
        lines = []
        for file in dict.fromkeys(entry.file for entry in self.entries):
            entries = [entry for entry in self.entries if entry.file == file]
            for title, chosen in (
                ("parameters", [e for e in entries if e.sets]),
                ("no parameter, or no effect", [e for e in entries if not e.sets]),
            ):
                if chosen:
                    lines += [f"{file}: {title}", *map(str, chosen)]
        return "\n".join(lines)

    def write(self, path: str | Path) -> None:
        """Write the parameters as params.yaml, atomically."""
        head = f"# Imported from {', '.join(self.files)}; other values are those of recipe `{BASE}`.\n"
        text = head + yaml.safe_dump(self.params, sort_keys=False, allow_unicode=True, width=120)
        atomic_write(path, with_schema_line(text) if Path(path).name == "params.yaml" else text)


def import_configs(files: Sequence[str | Path], name: str = "imported") -> Imported:
    """Convert released configuration files to one set of parameters with the recipe name `name`.

    Raises ConfigError, one line per fault, for a file that is no configuration, an unknown key, a value that is not
    supported here, and files that set one parameter to different values.
    """
    base = yaml.safe_load(path_of(BASE).read_text(encoding="utf-8"))
    importer = _Importer(_renamed(base, f"models/{BASE}/", f"models/{name}/") | {"recipe": name})
    paths = [Path(file) for file in files]
    contents = {path.resolve(): (path, _read(path)) for path in paths}
    for path, content in contents.values():
        if "train_datasets" in content:
            importer.training(path, content)
    for resolved, (path, content) in contents.items():
        if "train_datasets" not in content and resolved not in importer.named:
            importer.model(path, content)
    if importer.faults:
        raise ConfigError("\n".join(importer.faults))
    parse(importer.params, where=", ".join(map(str, paths)))
    return Imported(importer.params, [str(path) for path in paths], importer.entries)


class _Importer:
    """Reads files and collects parameters, entries and faults."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.params = params
        self.entries: list[Entry] = []
        self.faults: list[str] = []
        self.named: set[Path] = set()  # model files that a configuration refers to
        self._set_by: dict[str, tuple[Any, str]] = {}  # parameter -> (value, file that set it)

    def training(self, path: Path, content: Mapping[str, Any]) -> None:
        """Import the configuration of a training."""
        try:
            kind, data = training_of(content)
            at = f"finetune.{data}" if data else kind
            sets = dataset(content, kind, data, self.params) if data else corpora(content, kind, self.params)
        except ValueError as error:
            self.faults.append(f"{path}: {error}")
            return
        for key, (values, why) in sets.items():
            self._enter(path, key, content[key], values, why)
        for key, value in content.items():
            if key in NAMED_FILES:
                self._named(path, key, value, kind, at)
            elif key not in sets:
                self._key(path, content, key, value, RULES, kind, at, data)

    def model(self, path: Path, content: Mapping[str, Any]) -> None:
        """Import a model file that no configuration refers to."""
        if "hidden_size" in content:
            self._model(path, content, TEXT_RULES, None, "")
        elif content.get("cls") == "TimeSformer":
            self._model(path, content, VIDEO_RULES, None, "")
        else:
            self.faults.append(
                f"{path}: not a configuration of the released code: it has neither train_datasets nor model sizes"
            )

    def _named(self, path: Path, key: str, value: Any, kind: Kind, at: str) -> None:
        candidates = [Path(value), path.parent / Path(value).name] if isinstance(value, str) else []
        file = next((candidate for candidate in candidates if candidate.is_file()), None)
        if file is None:
            why = f"file not found; its parameters stay as in recipe {BASE}"
            self.entries.append(Entry(str(path), key, value, {}, why))
            return
        self.named.add(file.resolve())
        self.entries.append(Entry(str(path), key, value, {}, f"read: {file}"))
        self._model(file, _read(file), NAMED_FILES[key], kind, at)

    def _model(self, path: Path, content: Mapping[str, Any], rules: Mapping[str, Any], kind: Kind | None, at: str) -> None:
        for key, value in content.items():
            self._key(path, content, key, value, rules, kind, at, "")

    def _key(
        self,
        path: Path,
        content: Mapping[str, Any],
        key: str,
        value: Any,
        rules: Mapping[str, Any],
        kind: Kind | None,
        at: str,
        data: str,
    ) -> None:
        if key not in rules:
            self.faults.append(f"{path}: {key}: not a key of the released code{nearest(key, [*rules, *NAMED_FILES])}")
            return
        rule, names = rule_of(rules, key, kind), {"at": at, "data": data}
        if isinstance(rule, Nothing):
            self._enter(path, key, value, {}, rule.why.format(**names))
        elif isinstance(rule, Only):
            if value is not None and value != rule.value:
                self.faults.append(f"{path}: {key}: {json.dumps(value)} is not supported, only {rule.value} ({rule.why})")
            self._enter(path, key, value, {}, f"the only supported value: {rule.why}")
        elif value is None:
            self._enter(path, key, value, {}, f"null: stays as in recipe {BASE}")
        elif not at and any("{at}" in parameter for parameter in rule.changes):
            self._enter(path, key, value, {}, "set for the trainings that refer to this file; import one of them")
        else:
            try:
                sets = {parameter.format(**names): change(value, content) for parameter, change in rule.changes.items()}
            except (ValueError, TypeError) as error:
                self.faults.append(f"{path}: {key}: {json.dumps(value)}: {error}")
                return
            self._enter(path, key, value, sets, rule.note.format(**names))

    def _enter(self, path: Path, key: str, value: Any, sets: Mapping[str, Any], why: str) -> None:
        for parameter, new in sets.items():
            before, file = self._set_by.setdefault(parameter, (new, str(path)))
            if before != new:
                self.faults.append(
                    f"{path}: {key}: {parameter} cannot be both {json.dumps(new)} and {json.dumps(before)} ({file}); "
                    "import the files separately"
                )
            _set_parameter(self.params, parameter, new)
        self.entries.append(Entry(str(path), key, value, sets, why))


def _set_parameter(params: dict[str, Any], parameter: str, value: Any) -> None:
    *sections, last = parameter.split(".")
    here = params
    for section in sections:
        here = here.setdefault(section, {})
    here[last] = copy.deepcopy(value)


def _renamed(value: Any, old: str, new: str) -> Any:
    """Return the value with the prefix `old` of every text replaced by `new`."""
    if isinstance(value, dict):
        return {key: _renamed(inner, old, new) for key, inner in value.items()}
    if isinstance(value, list):
        return [_renamed(inner, old, new) for inner in value]
    return new + value.removeprefix(old) if isinstance(value, str) and value.startswith(old) else value


def _read(path: Path) -> dict[str, Any]:
    return read_json_object(path, ConfigError, "give a file of config_release/")
