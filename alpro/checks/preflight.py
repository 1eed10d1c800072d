"""`alpro preflight`: checks git and lists all missing inputs of the pipeline before the first stage starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from alpro.config import Params
from alpro.config.pipeline import pipeline_outputs
from alpro.errors import ConfigError, DataError, LaunchError
from alpro.launch.command import check_installed
from alpro.lineage import repository_problem, user_problem
from alpro.system import gpus, hostname


@dataclass(frozen=True, slots=True)
class Missing:
    """A missing input of the pipeline."""

    path: str
    needed_by: str
    remedy: str


def missing_inputs(params: Params) -> list[Missing]:
    """Return every missing file or folder that the pipeline reads and no stage makes."""
    models = f"models/{params.recipe}"
    made = pipeline_outputs(params)
    required: list[tuple[str, str, str]] = []

    checkpoint = "put the checkpoint there, or name another one in params.yaml"
    prepare = "see docs/data.md"
    for task, evaluate in params.evaluate.items():
        if f"{models}/finetune/{task}" not in made:
            required.append((evaluate.checkpoint, f"evaluate.{task}.checkpoint", checkpoint))
    if any(output.startswith(f"{models}/finetune/") for output in made) or params.zeroshot:
        required.append((params.init.finetune, "init.finetune", checkpoint))
    if f"{models}/pretrain" in made:
        required += [(params.init.pretrain, "init.pretrain", checkpoint), (params.init.teacher, "init.teacher", checkpoint)]
        for name in sorted({*params.prompter.corpora, *params.pretrain.corpora}):
            corpus = params.corpora[name]
            for path in (corpus.train, corpus.val, corpus.root):
                if path:
                    required.append((path, f"corpora.{name}", prepare))
        if params.entities.source:
            required.append(
                (params.entities.source, "entities.source", "put the file there, or null to count the captions' nouns")
            )
    if f"{models}/prompter" in made:
        required.append((params.init.prompter, "init.prompter", checkpoint))
    for name, dataset in params.datasets.items():
        for path in (dataset.annotations, dataset.videos):
            required.append((path, f"datasets.{name}", prepare))
    required.append(
        (params.text.tokenizer, "text.tokenizer", "a folder with BERT's vocabulary (vocab.txt, tokenizer_config.json)")
    )

    copies = {convert.output: name for name, convert in params.convert.items()}
    for name in {copies[path] for path, _, _ in required if path in copies}:
        required.append((params.convert[name].source, f"convert.{name}", "the videos to convert; see docs/data.md"))
    made |= copies.keys()
    stages = {*made, f"{models}/text", "data/sample"} if params.sample else made
    missing: dict[str, Missing] = {}
    for path, needed_by, remedy in required:
        inside = any(path == output or path.startswith(output + "/") for output in stages)
        if not inside and not Path(path).exists() and path not in missing:
            missing[path] = Missing(path, needed_by, _fetching(path) or remedy)
    return list(missing.values())


def _fetching(path: str) -> str:
    """Return the command that fetches an official input, and its size; empty for other inputs."""
    from alpro.data.sources.registry import set_containing, source

    name = set_containing(Path(path).as_posix())
    if name is None:
        return ""
    entry = source(name)
    given = "" if any(file.urls for file in entry.files) else " --from FILE_OR_FOLDER"
    return f"`alpro data fetch {name}{given}` ({entry.extent})"


def check_git(root: Path) -> str | None:
    """Return a warning if git has no user, which only experiments and flows need.

    Raises ConfigError if `root` is not in a git repository, as then no stage can run.
    """
    if problem := repository_problem(root):
        raise ConfigError(f"{root.resolve()}: {problem}")
    if problem := user_problem(root):
        return f"{problem} (`dvc repro` works without one, flows and `dvc exp` do not)"
    return None


def check(params: Params) -> None:
    """Raise DataError with a list of all missing inputs.

    Before that, raise LaunchError if `launch.backend` is not installed or this host's name keeps its processes from meeting,
    and ConfigError if `loader.decoder` cannot be used or `launch.compile` lacks a compiler.
    """
    launch = params.launch
    if launch.world_size > 1 or launch.min_processes is not None:
        check_installed(launch)
        if launch.backend == "horovod" and (fault := hostname.fault()):
            raise LaunchError(f"launch.processes={launch.world_size}: {fault}")
    if params.loader.decoder in ("torchcodec", "nvdec"):
        from alpro.data.media.with_torchcodec import check_nvdec, import_decoder

        (check_nvdec if params.loader.decoder == "nvdec" else import_decoder)()
    if launch.compile:
        from alpro.models.compiled import check_compiler

        check_compiler("cuda" if gpus.count() else "cpu")
    missing = missing_inputs(params)
    if missing:
        lines = [f"  {m.path}  (for {m.needed_by}): {m.remedy}" for m in missing]
        raise DataError(f"{len(missing)} inputs are missing:\n" + "\n".join(lines))
