"""Params, the type of params.yaml, and its loader.

params.yaml is the single source of parameters; every stage of dvc.yaml reads it through `load`. recipes/ has complete
files. Defaults are those of the ALPRO paper (arXiv 2112.09583, sections 3 and 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    model_validator,
)

from alpro.config.base import Name, Section
from alpro.config.data import Convert, Corpus, Dataset, Entities, Sample, Text
from alpro.config.evaluation import Evaluate, Evaluation, Gate
from alpro.config.machine import Launch, Loader, Tracking
from alpro.config.model import Model
from alpro.config.overrides import override
from alpro.config.training import CorpusTraining, Finetuning, Init, Pretraining, Training
from alpro.errors import ConfigError, nearest


class Params(Section):
    """All of params.yaml."""

    recipe: Name
    seed: int = 42
    launch: Launch = Launch()
    loader: Loader = Loader()
    tracking: Tracking = Tracking()
    model: Model = Model()
    text: Text
    entities: Entities = Entities()
    sample: Sample | None = Field(None, description="The sample data; null if the recipe uses real data.")
    corpora: dict[Name, Corpus]
    datasets: dict[Name, Dataset]
    convert: dict[Name, Convert] = Field(
        {}, description="Folders of copies that the pipeline makes, each with a name of your choice."
    )
    init: Init
    prompter: CorpusTraining
    pretrain: Pretraining
    finetune: dict[Name, Finetuning]
    evaluate: dict[Name, Evaluate]
    zeroshot: dict[Name, Evaluation] = Field(
        {}, description="Retrieval datasets on which `init.finetune` is evaluated without fine-tuning."
    )
    gate: Gate = Gate()

    @property
    def pem(self) -> bool:
        """True if pre-training uses PEM."""
        return bool(self.pretrain.objectives.pem and self.entities.number)

    @model_validator(mode="after")
    def _check_starts(self) -> Params:
        scratch, imagenet, models = "recipes/init/scratch.yaml", "recipes/init/imagenet.yaml", f"models/{self.recipe}"
        prompter, pretrained = f"{models}/prompter", f"{models}/pretrain"
        stages = {"prompter": imagenet, "teacher": prompter, "pretrain": prompter, "finetune": pretrained}
        for name, stage in stages.items():
            word = getattr(self.init, name)
            if path := {"stage": stage, "imagenet": imagenet, "scratch": scratch}.get(word):
                path = prompter if name == "teacher" else path  # PEM needs a trained prompter
                raise ValueError(f"init.{name}: {word!r} is not a path; did you mean {path}?")
        return self

    @model_validator(mode="after")
    def _check_names(self) -> Params:
        for where, training in (("prompter", self.prompter), ("pretrain", self.pretrain)):
            for name in training.corpora:
                if name not in self.corpora:
                    raise ValueError(f"{where}.corpora: `corpora` has no {name!r}{nearest(name, self.corpora)}")
        for where, section in (("finetune", self.finetune), ("evaluate", self.evaluate), ("zeroshot", self.zeroshot)):
            for name in section:
                if name not in self.datasets:
                    raise ValueError(f"{where}.{name}: `datasets` has no {name!r}{nearest(name, self.datasets)}")
        for name, dataset in self.datasets.items():
            if name not in self.finetune or name not in self.evaluate:
                raise ValueError(f"datasets.{name}: finetune.{name} and evaluate.{name} are missing")
            if name in self.zeroshot and dataset.task != "retrieval":
                raise ValueError(f"zeroshot.{name}: only retrieval can be evaluated without fine-tuning")
        longest = max(t.max_text_tokens for t in (self.prompter, self.pretrain, *self.finetune.values()))
        if longest > self.model.max_positions:
            raise ValueError(f"max_text_tokens {longest} is more than model.max_positions {self.model.max_positions}")
        return self

    @model_validator(mode="after")
    def _check_texts_per_clip(self) -> Params:
        own = {"qa": "questions_per_clip", "retrieval": "captions_per_clip"}
        for name, settings in self.finetune.items():
            task = self.datasets[name].task
            for other, key in own.items():
                if other != task and getattr(settings, key) > 1:
                    raise ValueError(f"finetune.{name}.{key}: {name} is a dataset for {task}; use {own[task]}")
        return self

    @model_validator(mode="after")
    def _check_negatives(self) -> Params:
        """Refuse a batch without a second clip, from which VTM takes its negatives."""
        matching: dict[str, Training] = {
            f"finetune.{name}": t for name, t in self.finetune.items() if self.datasets[name].task == "retrieval"
        }
        if self.pretrain.objectives.vtm:
            matching["pretrain"] = self.pretrain
        for where, settings in matching.items():
            shared = settings.texts_per_clip if isinstance(settings, Finetuning) else 1
            if settings.batch_size // shared < 2:
                least = "2 or more" if shared == 1 else f"{2 * shared} or more with captions_per_clip {shared}"
                raise ValueError(f"{where}.batch_size must be {least}: VTM takes its negatives from the batch of the process")
        return self


class _UniqueKeys(yaml.SafeLoader):
    """A safe YAML loader that refuses duplicate keys, of which YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping. Raises ConstructorError with line and key if a key is repeated."""
        keys = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in keys:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice; remove one", key_node.start_mark
                )
            keys.add(key)
        return super().construct_mapping(node, deep)


def load(path: str | Path = "params.yaml", changes: Sequence[str] = ()) -> Params:
    """Load and check params.yaml, with `changes` of the form key=value applied (alpro/config/overrides.py).

    Raises ConfigError with one line per fault; each names its key.
    """
    path = Path(path)
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except FileNotFoundError:
        raise ConfigError(f"{path}: not found; `alpro recipe use sample` writes one") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}: line {line}: not UTF-8 (byte {error.object[error.start]:#04x}); save it as UTF-8") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: contains no keys; `alpro recipe use sample` writes a complete file")
    return parse(override(raw, changes), where=str(path))


def parse(raw: dict[str, Any], where: str = "params.yaml") -> Params:
    """Check a dictionary of parameters. Raises ConfigError like `load`."""
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{where}: {_line(fault)}" for fault in error.errors())) from None


def _line(fault: Any) -> str:
    loc = [str(part) for part in fault["loc"]]
    key = ".".join(loc)
    if fault["type"] == "extra_forbidden":
        section = _section_at(loc[:-1])
        hint = nearest(loc[-1], section.model_fields) if section else ""
        return f"{key}: no such parameter{hint}"
    if fault["type"] == "missing":
        return f"{key}: missing"
    message = fault["msg"].removeprefix("Value error, ")
    return (
        f"{key}: {message} (got {fault['input']!r})"
        if key and fault["type"] != "value_error"
        else f"{key}: {message}".lstrip(": ")
    )


def _section_at(loc: list[str]) -> type[Section] | None:
    """Return the section type at a path of keys, looking through optional and dict types."""
    here: Any = Params
    for name in loc:
        if isinstance(here, type) and issubclass(here, BaseModel):
            if name not in here.model_fields:
                return None
            here = here.model_fields[name].annotation
        elif get_origin(here) is dict:
            here = get_args(here)[1]
        if get_origin(here) is Union or type(here).__name__ == "UnionType":
            here = next(arg for arg in get_args(here) if arg is not type(None))
    return here if isinstance(here, type) and issubclass(here, Section) else None
