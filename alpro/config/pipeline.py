"""Stages of the pipeline: the command that each one runs, and the checkpoints that they make, for given parameters."""

from __future__ import annotations

from collections.abc import Mapping

from alpro.config import Params
from alpro.errors import ConfigError, nearest

NEEDED = "`dvc repro report`, which leaves out what the report does not need"


def stage_command(params: Params, address: str) -> list[str]:
    """Return the words of the `alpro` command that a stage of dvc.yaml runs.

    `address` is the stage's name in DVC: `report`, `evaluate@msvd_qa`, or from another folder `../dvc.yaml:report`. The
    commands in that file are constant and take no value from params.yaml, because DVC would put it into a shell command
    without quotes.

    Raises ConfigError for a stage or a key that params.yaml does not have, and for the sample of a recipe that has none.
    """
    name, key = _name_and_key(address)
    models, init, train = f"models/{params.recipe}", params.init, ["launch", "--", "train", name]
    single = {
        "sample": ["data", "sample"],
        "text": ["data", "vocabulary", f"{models}/text"],
        "entities": ["data", "entities", f"{models}/entities"],
        "prompter": [*train, f"--init={init.prompter}", f"--output={models}/prompter", "--record=reports/prompter"],
        "pretrain": [*train, f"--init={init.pretrain}", f"--teacher={init.teacher}", f"--output={models}/pretrain",
                     "--record=reports/pretrain"],
        "report": ["report", "make"],
    }  # fmt: skip
    sections: dict[str, Mapping[str, object]] = {
        "convert": params.convert,
        "validate_corpus": params.corpora,
        "validate": params.datasets,
        "finetune": params.datasets,
        "evaluate": params.evaluate,
        "zeroshot": params.zeroshot,
    }
    if name in single and not key:
        if name == "sample" and params.sample is None:
            raise ConfigError(f"recipe {params.recipe} reads real data and has no `sample`: run {NEEDED}")
        return single[name]
    if name not in sections:
        raise ConfigError(f"there is no stage {address!r}{nearest(name, [*single, *sections])}")
    if key not in sections[name]:
        raise ConfigError(f"there is no stage {address!r}: params.yaml has no {name}@{key}{nearest(key, sections[name])}")
    return _keyed_command(params, name, key)


def _name_and_key(address: str) -> tuple[str, str]:
    """Split `../dvc.yaml:evaluate@msvd_qa` into evaluate and msvd_qa."""
    name, _, key = address.rsplit(":", 1)[-1].partition("@")
    return name, key


def _keyed_command(params: Params, name: str, key: str) -> list[str]:
    """Return the words of a stage of a `foreach` group."""
    models, finetuned = f"models/{params.recipe}", params.init.finetune
    checkpoint = params.evaluate[key].checkpoint if name == "evaluate" else finetuned
    validate, passed = ["data", "validate", key, f"--output=reports/validate/{key}"], f"--passed={models}/validated"
    evaluate = ["launch", "--", "evaluate", f"--task={key}", f"--checkpoint={checkpoint}"]
    return {
        "convert": ["data", "convert", key],
        "validate_corpus": [*validate, f"{passed}/corpora/{key}.json"],
        "validate": [*validate, f"{passed}/{key}.json"],
        "finetune": ["launch", "--", "train", "finetune", f"--task={key}", f"--init={finetuned}",
                     f"--output={models}/finetune/{key}", f"--record=reports/finetune/{key}"],
        "evaluate": [*evaluate, f"--record=reports/evaluate/{key}"],
        "zeroshot": [*evaluate, "--zero-shot", f"--record=reports/evaluate/{key}_zeroshot"],
    }[name]  # fmt: skip


def unneeded_output(params: Params, address: str) -> str | None:
    """Return the checkpoint folder of a training stage if no stage that the report needs reads it, else None."""
    name, key = _name_and_key(address)
    if name not in ("prompter", "pretrain", "finetune"):
        return None
    output = f"models/{params.recipe}/{name}{f'/{key}' if key else ''}"
    return None if output in pipeline_outputs(params) else output


def pipeline_outputs(params: Params) -> set[str]:
    """Return the checkpoint folders that needed stages make. Stages replaced by other checkpoints drop out, as in DVC."""
    models = f"models/{params.recipe}"
    made = {f"{models}/finetune/{task}" for task, e in params.evaluate.items() if e.checkpoint == f"{models}/finetune/{task}"}
    if (made or params.zeroshot) and params.init.finetune == f"{models}/pretrain":
        made.add(f"{models}/pretrain")
        if params.init.teacher == f"{models}/prompter":
            made.add(f"{models}/prompter")
    return made
