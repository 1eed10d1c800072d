"""Released configuration files into params.yaml: recipe `official` with their values, and an account of every key.

    found = import_configs(["config_release/msrvtt_ret.json"], name="mine")
    print(found)                        # what each key became, and why some have no effect
    found.write("params.yaml")

What a file leaves out stays as in recipe `official`. The files that a configuration names (`model_config`,
`visual_model_cfg`) are read with it where they are found.
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
from alpro.errors import ConfigError, nearest
from alpro.files.atomic import atomic_write
from alpro.files.json_files import read_json_object

BASE = "official"
NAMED_FILES = {"model_config": TEXT_RULES, "visual_model_cfg": VIDEO_RULES}


@dataclass(frozen=True, slots=True)
class Entry:
    """What became of one key: the parameters that it set, or why it set none."""

    file: str
    key: str
    value: Any
    sets: Mapping[str, Any]
    why: str

    def __str__(self) -> str:
        given = f"{self.key} = {json.dumps(self.value)}"
        given = given if len(given) <= 60 else f"{given[:57]}..."
        if not self.sets:
            return f"  {given:60}  {self.why}"
        made = ", ".join(f"{path}: {json.dumps(value)}" for path, value in self.sets.items())
        return f"  {given:60}  {made}{f' ({self.why})' if self.why else ''}"


@dataclass
class Imported:
    """Complete parameters, and what each key of the files became."""

    params: dict[str, Any]
    files: list[str]
    entries: list[Entry] = field(default_factory=list)

    def __str__(self) -> str:
        lines = []
        for file in dict.fromkeys(entry.file for entry in self.entries):
            of_file = [entry for entry in self.entries if entry.file == file]
            for title, chosen in (
                ("parameters", [e for e in of_file if e.sets]),
                ("no parameter, or no effect", [e for e in of_file if not e.sets]),
            ):
                if chosen:
                    lines += [f"{file}: {title}", *map(str, chosen)]
        return "\n".join(lines)

    def write(self, path: str | Path) -> None:
        """Write them as params.yaml, as a whole or not at all."""
        head = f"# From {', '.join(self.files)}, on recipe `{BASE}`.\n"
        atomic_write(path, head + yaml.safe_dump(self.params, sort_keys=False, allow_unicode=True, width=120))


def import_configs(files: Sequence[str | Path], name: str = "imported") -> Imported:
    """Turn released configuration files into one set of parameters, called `name`.

    Raises ConfigError, with one line a fault, for a file that is none, an unknown key (with the nearest known name), a value
    that has no like here, and files that want different values for one parameter.
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
    """Goes through files, and collects parameters, entries and faults."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.params = params
        self.entries: list[Entry] = []
        self.faults: list[str] = []
        self.named: set[Path] = set()  # model files that a configuration named
        self._given: dict[str, tuple[Any, str]] = {}  # parameters that a file set, with the file

    def training(self, path: Path, content: Mapping[str, Any]) -> None:
        """A configuration of one of the trainings."""
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
        """A model file by itself."""
        if "hidden_size" in content:
            self._model(path, content, TEXT_RULES, None, "")
        elif content.get("cls") == "TimeSformer":
            self._model(path, content, VIDEO_RULES, None, "")
        else:
            self.faults.append(
                f"{path}: no configuration of the released code: neither train_datasets nor a model's sizes in it"
            )

    def _named(self, path: Path, key: str, value: Any, kind: Kind, at: str) -> None:
        places = [Path(value), path.parent / Path(value).name] if isinstance(value, str) else []
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            why = f"not found here; what it holds stays as in recipe {BASE}"
            self.entries.append(Entry(str(path), key, value, {}, why))
            return
        self.named.add(found.resolve())
        self.entries.append(Entry(str(path), key, value, {}, f"read: {found}"))
        self._model(found, _read(found), NAMED_FILES[key], kind, at)

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
            self.faults.append(f"{path}: {key}: no key of the released code{nearest(key, [*rules, *NAMED_FILES])}")
            return
        rule, names = rule_of(rules, key, kind), {"at": at, "data": data}
        if isinstance(rule, Nothing):
            self._enter(path, key, value, {}, rule.why.format(**names))
        elif isinstance(rule, Only):
            if value is not None and value != rule.value:
                self.faults.append(f"{path}: {key}: {json.dumps(value)} can't be had here, only {rule.value} ({rule.why})")
            self._enter(path, key, value, {}, f"its only value here: {rule.why}")
        elif value is None:
            self._enter(path, key, value, {}, f"not given: stays as in recipe {BASE}")
        elif not at and any("{at}" in parameter for parameter in rule.changes):
            self._enter(path, key, value, {}, "belongs to the trainings whose files name this one; import one of them")
        else:
            try:
                sets = {parameter.format(**names): change(value, content) for parameter, change in rule.changes.items()}
            except (ValueError, TypeError) as error:
                self.faults.append(f"{path}: {key}: {json.dumps(value)}: {error}")
                return
            self._enter(path, key, value, sets, rule.note.format(**names))

    def _enter(self, path: Path, key: str, value: Any, sets: Mapping[str, Any], why: str) -> None:
        for parameter, wanted in sets.items():
            before, file = self._given.setdefault(parameter, (wanted, str(path)))
            if before != wanted:
                self.faults.append(
                    f"{path}: {key}: {parameter} can't be both {json.dumps(wanted)} and {json.dumps(before)} ({file}); "
                    "import the files one by one"
                )
            _put(self.params, parameter, wanted)
        self.entries.append(Entry(str(path), key, value, sets, why))


def _put(params: dict[str, Any], parameter: str, value: Any) -> None:
    *sections, last = parameter.split(".")
    here = params
    for section in sections:
        here = here.setdefault(section, {})
    here[last] = copy.deepcopy(value)


def _renamed(value: Any, old: str, new: str) -> Any:
    """The same with every text that starts with `old` starting with `new`."""
    if isinstance(value, dict):
        return {key: _renamed(inner, old, new) for key, inner in value.items()}
    if isinstance(value, list):
        return [_renamed(inner, old, new) for inner in value]
    return new + value.removeprefix(old) if isinstance(value, str) and value.startswith(old) else value


def _read(path: Path) -> dict[str, Any]:
    return read_json_object(path, ConfigError, "give a file of config_release/")
