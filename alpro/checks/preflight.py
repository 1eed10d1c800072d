"""What the pipeline needs from outside, all of it listed before the first stage starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from alpro.config import Params
from alpro.config.pipeline import made_by_pipeline
from alpro.errors import DataError


@dataclass(frozen=True, slots=True)
class Missing:
    """An input that is not there."""

    path: str
    needed_by: str
    remedy: str


def missing_inputs(params: Params) -> list[Missing]:
    """Every file or folder that the pipeline reads, no stage makes, and is not there."""
    models = f"models/{params.recipe}"
    made = made_by_pipeline(params)
    wanted: list[tuple[str, str, str]] = []

    checkpoint = "put the checkpoint there, or name another one in params.yaml"
    prepare = "the README's chapter Data preparation says how it must look"
    for task, evaluate in params.evaluate.items():
        if f"{models}/finetune/{task}" not in made:
            wanted.append((evaluate.checkpoint, f"evaluate.{task}.checkpoint", checkpoint))
    if any(output.startswith(f"{models}/finetune/") for output in made) or params.zeroshot:
        wanted.append((params.init.finetune, "init.finetune", checkpoint))
    if f"{models}/pretrain" in made:
        wanted += [(params.init.pretrain, "init.pretrain", checkpoint), (params.init.teacher, "init.teacher", checkpoint)]
        for name in sorted({*params.prompter.corpora, *params.pretrain.corpora}):
            corpus = params.corpora[name]
            for path in (corpus.train, corpus.val, corpus.root):
                if path:
                    wanted.append((path, f"corpora.{name}", prepare))
        if params.entities.source:
            wanted.append(
                (params.entities.source, "entities.source", "put the file there, or null to count the captions' nouns")
            )
    if f"{models}/prompter" in made:
        wanted.append((params.init.prompter, "init.prompter", checkpoint))
    for name, dataset in params.datasets.items():
        for path in (dataset.annotations, dataset.videos):
            wanted.append((path, f"datasets.{name}", prepare))
    wanted.append(
        (params.text.tokenizer, "text.tokenizer", "a folder with BERT's vocabulary (vocab.txt, tokenizer_config.json)")
    )

    copies = {convert.output: name for name, convert in params.convert.items()}
    for name in {copies[path] for path, _, _ in wanted if path in copies}:
        wanted.append((params.convert[name].source, f"convert.{name}", "the videos to convert; README, Data preparation"))
    made |= copies.keys()
    stages = {*made, f"{models}/text", "data/sample"} if params.sample else made
    missing: dict[str, Missing] = {}
    for path, needed_by, remedy in wanted:
        inside = any(path == output or path.startswith(output + "/") for output in stages)
        if not inside and not Path(path).exists() and path not in missing:
            missing[path] = Missing(path, needed_by, _fetching(path) or remedy)
    return list(missing.values())


def _fetching(path: str) -> str:
    """The command that brings an input of the official tree, and how large it is; nothing for any other."""
    from alpro.data.sources.registry import set_of, source

    name = set_of(Path(path).as_posix())
    if name is None:
        return ""
    entry = source(name)
    given = "" if any(file.urls for file in entry.files) else " --from FILE_OR_FOLDER"
    return f"`alpro data fetch {name}{given}` ({entry.extent})"


def check(params: Params) -> None:
    """Raises DataError that lists all missing inputs together."""
    missing = missing_inputs(params)
    if missing:
        lines = [f"  {m.path}  (for {m.needed_by}): {m.remedy}" for m in missing]
        raise DataError(f"{len(missing)} inputs are missing:\n" + "\n".join(lines))
