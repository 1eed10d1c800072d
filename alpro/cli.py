"""The command line: every verb in one line of `alpro --help`. No logic here; heavy imports stand where they are used."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from alpro.errors import AlproError

if TYPE_CHECKING:
    from alpro.config import Params

app = typer.Typer(
    name="alpro",
    help="ALPRO: video-and-language pre-training with entity prompts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data = typer.Typer(help="Make, index and check data.", no_args_is_help=True)
train = typer.Typer(help="Train one of the four models.", no_args_is_help=True)
recipe = typer.Typer(help="Complete parameter sets.", no_args_is_help=True)
track = typer.Typer(help="MLflow: fill in what is missing, show what is there.", no_args_is_help=True)
report = typer.Typer(help="The results of the whole pipeline.", no_args_is_help=True)
app.add_typer(data, name="data")
app.add_typer(train, name="train")
app.add_typer(recipe, name="recipe")
app.add_typer(track, name="track")
app.add_typer(report, name="report")
weights = typer.Typer(help="Import, export and show checkpoints.", no_args_is_help=True)
app.add_typer(weights, name="weights")
config = typer.Typer(help="Configuration files of the released code.", no_args_is_help=True)
app.add_typer(config, name="config")

ParamsFile = Annotated[Path, typer.Option("--params", help="Parameter file.")]
PARAMS = Path("params.yaml")
Output = Annotated[Path, typer.Option("--output", help="Folder of the checkpoint.")]
Init = Annotated[str, typer.Option("--init", help="Where to start: a checkpoint, own or official, or a file of recipes/init.")]
Teacher = Annotated[str, typer.Option("--teacher", help="The prompter that gives PEM's labels, own or official.")]
Task = Annotated[str, typer.Option("--task", help="A data set of params.yaml.")]
Record = Annotated[
    Path | None, typer.Option("--record", help="Folder of the record: parameters, history, figures; else OUTPUT/record.")
]
Checkpoint = Annotated[str, typer.Option("--checkpoint", help="Own or official, or an official output folder.")]
Step = Annotated[str, typer.Option("--step", help="Of an output folder: best, last or a number.")]
Tokenizer = Annotated[str | None, typer.Option("--tokenizer", help="Folder of the vocabulary, if not the checkpoint's.")]
Frames = Annotated[str | None, typer.Option("--frames", help="uniform, uniform_floor or headtail, if not the training's.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Recipe = Annotated[str | None, typer.Option("--recipe", help="Read this recipe in place of params.yaml.")]
Changes = Annotated[list[str] | None, typer.Option("-S", "--set-param", metavar="KEY=VALUE", help="Change a parameter.")]
MaxSteps = Annotated[int | None, typer.Option(min=1, help="Stop after so many optimizer steps.")]
Flow = Annotated[str | None, typer.Option(help="The Prefect run that made the state; what was made before keeps its own.")]
Experiment = Annotated[str | None, typer.Option(help="The DVC experiment that holds the state.")]
Candidates = Annotated[str | None, typer.Option(metavar="TASK,...", help="Only their `candidate` moves; '': none.")]


def _settings(params: Path, recipe: str | None, changes: list[str] | None) -> Params:
    """The parameters that a verb works with: params.yaml's or a recipe's, with what -S changes."""
    from alpro import recipes
    from alpro.config import load

    return load(recipes.path_of(recipe) if recipe else params, changes or ())


@recipe.command("use")
def recipe_use(name: str) -> None:
    """Write params.yaml from a recipe."""
    from alpro import recipes

    recipes.use(name)
    typer.echo(f"params.yaml now is recipe {name}: {recipes.describe(name)}")


@recipe.command("list")
def recipe_list() -> None:
    """Show the recipes."""
    from alpro import recipes

    for name in recipes.names():
        typer.echo(f"{name:10} {recipes.describe(name)}")


@config.command("import")
def config_import(
    files: Annotated[list[Path], typer.Argument(help="Files of config_release/, or a training's log/args.json.")],
    name: Annotated[str, typer.Option(help="The recipe's name, and the folder under models/.")] = "imported",
    output: Annotated[Path, typer.Option(help="Where the parameters are written.")] = PARAMS,
) -> None:
    """Turn released configurations into parameters, and say what became of each key."""
    from alpro.released import import_configs

    found = import_configs(files, name)
    found.write(output)
    typer.echo(f"{found}\n{output}: written; what is not named here is as in recipe official")


@app.command()
def preflight(params: ParamsFile = PARAMS) -> None:
    """Check params.yaml and list all missing inputs."""
    from alpro import preflight as checks
    from alpro.config import load

    checks.check(load(params))


@app.command()
def doctor() -> None:
    """Tell what works on this machine."""
    from alpro import doctor as checks

    raise typer.Exit(checks.main())


@app.command()
def ablations(params: ParamsFile = PARAMS) -> None:
    """Print the paper's ablations: each cell's settings as a command, and its figures."""
    from alpro import ablations as grid
    from alpro.config import load

    typer.echo(grid.table(load(params)))


@data.command("sample")
def data_sample(
    params: ParamsFile = PARAMS,
    root: Path = Path("data/sample"),
    workers: int | None = None,
    recipe: Recipe = None,
    changes: Changes = None,
) -> None:
    """Make the sample videos and annotations."""
    from alpro.data.progress import reporting
    from alpro.data.sample import make_sample
    from alpro.errors import ConfigError

    settings = _settings(params, recipe, changes).sample
    if settings is None:
        raise ConfigError(f"{recipe or params}: `sample` is null: this recipe works on real data")
    with reporting("made videos and images") as progress:
        make_sample(settings, root, workers=workers, progress=progress)


@data.command("vocabulary")
def data_vocabulary(output: Path, params: ParamsFile = PARAMS, recipe: Recipe = None, changes: Changes = None) -> None:
    """Make a WordPiece vocabulary from all training captions and questions."""
    from alpro.data.prepare import make_vocabulary

    make_vocabulary(_settings(params, recipe, changes), output)


@data.command("entities")
def data_entities(output: Path, params: ParamsFile = PARAMS, recipe: Recipe = None, changes: Changes = None) -> None:
    """Write the entity list: the most frequent nouns of the pre-training captions."""
    from alpro.data.prepare import make_entities

    words = make_entities(_settings(params, recipe, changes), output)
    typer.echo(f"{len(words)} entities: {', '.join(words[:10])}, ...")


@data.command("fetch")
def data_fetch(
    name: Annotated[str | None, typer.Argument(metavar="[SET]", help="Which set; none: list them.")] = None,
    given: Annotated[list[Path] | None, typer.Option("--from", help="A file or folder that you have; may be repeated.")] = None,
    media: Annotated[bool, typer.Option(help="For sets that come as tables of addresses: fetch these too.")] = True,
    workers: Annotated[int, typer.Option(min=1, help="Downloads at a time, of such addresses.")] = 16,
    retry: Annotated[bool, typer.Option("--retry", help="Ask again for addresses that failed before.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep downloaded archives in data/.fetch.")] = False,
    dvc: Annotated[bool, typer.Option("--dvc", help="Put what was fetched under DVC.")] = False,
    root: Annotated[Path, typer.Option(help="The project's root.")] = Path("."),
) -> None:
    """Fetch a set, or lay out what you have of it, as the official tree."""
    from alpro.data import sources
    from alpro.lineage import dvc_add

    if name is None:
        typer.echo(sources.show(root))
        return
    folders = sources.fetch(name, root, given or [], keep, typer.echo)
    if media and sources.has_media(name):
        folders.append(sources.fetch_media(name, root, workers, retry, typer.echo))
    if folders:
        typer.echo(dvc_add(root, folders) if dvc else f"  to version it: dvc add {' '.join(folders)}")


@data.command("convert")
def data_convert(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="An entry of `convert` in params.yaml; else the options.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Folder of the originals.")] = None,
    output: Annotated[str | None, typer.Option(help="Folder of the copies.")] = None,
    every: Annotated[int | None, typer.Option(min=1, help="Keep every so manieth frame.")] = None,
    fps: Annotated[float | None, typer.Option(help="Keep so many frames a second.")] = None,
    short_side: Annotated[int | None, typer.Option(min=16, help="Pixels of the shorter side.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; as many as there are cores.")] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Make copies of videos that decode fast: .mp4, fewer frames, smaller."""
    from alpro.data.convert import convert, settings_of

    made = convert(
        settings_of(params, name, source=source, output=output, every=every, fps=fps, short_side=short_side), workers
    )
    typer.echo(made.line())


@data.command("shard")
def data_shard(
    source: Annotated[Path, typer.Argument(help="Folder of the clips or images.")],
    output: Annotated[Path, typer.Argument(help="Folder of the shards: what `root` or `videos` in params.yaml then names.")],
    clips: Annotated[int, typer.Option(min=1, help="Clips of each shard.")] = 1000,
) -> None:
    """Pack a folder of very many clips into tars with an index, from which trainings read directly."""
    from alpro.data.shards import write_shards

    typer.echo(f"{output}: {write_shards(source, output, clips)} shards; to version them: dvc add {output}")


@data.command("unpickle")
def data_unpickle(
    source: Annotated[Path, typer.Argument(help="A pickled table, such as WebVid's train.pkl.")],
    output: Annotated[Path, typer.Argument(help="A .csv or .parquet.")],
) -> None:
    """Convert a pickled table of annotations, running nothing that stands in it."""
    from alpro.data.pickles import convert

    typer.echo(f"{output}: {convert(source, output):,} rows")


@data.command("probe")
def data_probe(
    folder: Annotated[Path, typer.Argument(help="Folder of videos, with all folders below it.")],
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; as many as there are cores.")] = None,
) -> None:
    """Show what each video is: readable, frames, rate, size, rotation, decoder, and why it can't be read."""
    from alpro.data.probe_table import probe_folder, table

    typer.echo(table(probe_folder(folder, workers)))


@data.command("check")
def data_check(
    name: Annotated[str, typer.Argument(help="A corpus or data set of params.yaml.")],
    params: ParamsFile = PARAMS,
    recipe: Recipe = None,
    changes: Changes = None,
) -> None:
    """Say what is wrong with a set, row by row, and what to do about it. Exit code 2 where there are errors."""
    from alpro.data.check import check_set

    check_set(_settings(params, recipe, changes), name, typer.echo)


@data.command("validate")
def data_validate(
    name: str,
    passed: Annotated[Path, typer.Option(help="Written when the set passed: its hashes.")],
    output: Annotated[Path, typer.Option(help="Folder of the Data Docs, problems and figures.")],
    params: ParamsFile = PARAMS,
) -> None:
    """Validate a corpus or data set with Great Expectations."""
    from alpro.config import load
    from alpro.data.validation import validate_set

    summary = validate_set(load(params), name, output=output, passed=passed)
    typer.echo(f"{name}: passed, {summary.warnings} warnings; {output}/index.html")


@train.command("prompter")
def train_prompter(
    init: Init,
    output: Output,
    record: Record = None,
    params: ParamsFile = PARAMS,
    recipe: Recipe = None,
    changes: Changes = None,
    max_steps: MaxSteps = None,
) -> None:
    """Train the prompter (VTC alone) on the caption corpora."""
    _train(_settings(params, recipe, changes), "prompter", None, init, None, output, record, max_steps)


@train.command("pretrain")
def train_pretrain(
    init: Init,
    teacher: Teacher,
    output: Output,
    record: Record = None,
    params: ParamsFile = PARAMS,
    recipe: Recipe = None,
    changes: Changes = None,
    max_steps: MaxSteps = None,
) -> None:
    """Pre-train the video-language model (VTC, VTM, MLM, PEM)."""
    _train(_settings(params, recipe, changes), "pretrain", None, init, teacher, output, record, max_steps)


@train.command("finetune")
def train_finetune(
    task: Task,
    init: Init,
    output: Output,
    record: Record = None,
    params: ParamsFile = PARAMS,
    recipe: Recipe = None,
    changes: Changes = None,
    max_steps: MaxSteps = None,
) -> None:
    """Fine-tune for a down-stream data set."""
    _train(_settings(params, recipe, changes), "finetune", task, init, None, output, record, max_steps)


def _train(
    settings: Params,
    stage: str,
    task: str | None,
    init: str,
    teacher: str | None,
    output: Path,
    record: Path | None,
    max_steps: int | None,
) -> None:
    from alpro.training.run import run_training

    record = record or output / "record"
    run_training(settings, stage, task, init=init, teacher=teacher, output=output, record=record, max_steps=max_steps)


@app.command()
def plan(
    gpus: Annotated[int | None, typer.Option(min=1, help="How many; if not the parameters' launch.processes.")] = None,
    gpu: Annotated[str, typer.Option(help="h200, h100, a100, l40, l4, v100 or 4090.")] = "h100",
    tflops: Annotated[float | None, typer.Option(help="Another device, by its peak.")] = None,
    mfu: Annotated[float | None, typer.Option(help="The assumed share of the peak.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    recipe: Recipe = None,
    params: ParamsFile = PARAMS,
    changes: Changes = None,
) -> None:
    """Say what the trainings will take: steps, FLOPs, memory, hours, disk."""
    from alpro.report.plan import print_plan

    print_plan(_settings(params, recipe, changes), gpus, gpu, tflops, mfu, as_json)


@app.command()
def evaluate(
    task: Task,
    checkpoint: Annotated[str, typer.Option(help="A checkpoint, own or official, or an official output folder.")],
    record: Annotated[
        Path | None, typer.Option(help="Write a stage's record there, with the ablations, as params.yaml says.")
    ] = None,
    zero_shot: Annotated[bool, typer.Option("--zero-shot", help="With --record: use the settings under `zeroshot`.")] = False,
    ablations: Annotated[
        bool, typer.Option("--ablations/--no-ablations", help="With --record: also with one frame, and with no picture.")
    ] = True,
    step: Annotated[str, typer.Option(help="Of an output folder: best, last or a number.")] = "best",
    videos: Annotated[str | None, typer.Option(help="Folder of the videos, if not params.yaml's.")] = None,
    annotations: Annotated[str | None, typer.Option(help="train, val or test.jsonl, or their folder.")] = None,
    answers: Annotated[str | None, typer.Option(help="The answer list, if not the checkpoint's.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Folder of the vocabulary, if not the checkpoint's.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Text-video pairs of one multimodal batch.")] = None,
    rerank: Annotated[int | None, typer.Option(min=1, help="Score by VTM only the K best of VTC per query.")] = None,
    rerank_for: Annotated[Literal["both", "text2video"] | None, typer.Option(help="Which queries --rerank re-ranks.")] = None,
    against_full: Annotated[bool, typer.Option("--against-full", help="Also score all pairs: what --rerank changes.")] = False,
    features: Annotated[Path | None, typer.Option(help="Keep encoded videos there, and use those that are.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of results_<split>/step_<N>/.")] = None,
    recipe: Recipe = None,
    params: ParamsFile = PARAMS,
    changes: Changes = None,
) -> None:
    """Evaluate a checkpoint on a data set."""
    from alpro.evaluation.inference import evaluate_checkpoint
    from alpro.evaluation.run import LOOKS, run_evaluation

    settings = _settings(params, recipe, changes)
    if record is not None:
        looks = LOOKS if ablations else LOOKS[:1]
        run_evaluation(settings, task, checkpoint=checkpoint, record=record, zero_shot=zero_shot, looks=looks)
        return
    evaluate_checkpoint(
        settings,
        task,
        checkpoint,
        step=step,
        videos=videos,
        annotations=annotations,
        answers=answers,
        tokenizer=tokenizer,
        batch_size=batch_size,
        rerank=rerank,
        rerank_for=rerank_for,
        against_full=against_full,
        features=features,
        output=output,
    )


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="Record of an evaluation, as reports/evaluate/msrvtt_ret.")],
    b: Annotated[Path, typer.Argument(help="Another of the same queries.")],
    resamples: Annotated[int, typer.Option(min=100, help="Of the bootstrap.")] = 10_000,
    as_json: AsJson = False,
) -> None:
    """Compare two evaluations query by query: differences, intervals and p-values of a paired bootstrap."""
    from alpro.evaluation.compare import compare_runs, show

    typer.echo(show(compare_runs(a, b, resamples=resamples), as_json))


@app.command()
def ask(
    video: str,
    question: str,
    checkpoint: Checkpoint,
    answers: Annotated[str | None, typer.Option(help="The answer list, if not the checkpoint's.")] = None,
    step: Step = "best",
    tokenizer: Tokenizer = None,
    frames: Frames = None,
    as_json: AsJson = False,
) -> None:
    """Answer a question about a video: the likeliest answers with their probabilities."""
    from alpro.serving import single

    model = single.load(checkpoint, step=step, tokenizer=tokenizer, answers=answers, frames=frames)
    typer.echo(single.show_answers(single.ask(model, video, question), as_json))


@app.command()
def match(
    video: str,
    texts: list[str],
    checkpoint: Checkpoint,
    step: Step = "best",
    tokenizer: Tokenizer = None,
    frames: Frames = None,
    as_json: AsJson = False,
) -> None:
    """Say how well texts fit a video: VTM's probability of a match and VTC's similarity."""
    from alpro.serving import single

    model = single.load(checkpoint, step=step, tokenizer=tokenizer, frames=frames)
    typer.echo(single.show_matches(single.match(model, video, texts), as_json))


@app.command()
def index(
    videos: Annotated[Path, typer.Argument(help="Folder of videos; those below count too.")],
    checkpoint: Checkpoint,
    output: Annotated[Path, typer.Option("--index", help="Folder of the index, made or brought up to date.")],
    step: Step = "best",
    tokenizer: Tokenizer = None,
    frames: Frames = None,
    workers: Annotated[int, typer.Option(min=1, help="Threads that read ahead.")] = 2,
) -> None:
    """Make a folder of videos searchable; only new and changed videos are encoded."""
    from alpro.search.gallery import build
    from alpro.serving import single

    model = single.load(checkpoint, step=step, tokenizer=tokenizer, frames=frames)
    done = build(model, videos, output, workers, typer.echo)
    for fault in done.unreadable:
        typer.echo(f"left out: {fault}", err=True)
    typer.echo(f"{output}: {done.videos} videos, {done.encoded} encoded now, {done.removed} removed")


@app.command()
def search(
    text: str,
    checkpoint: Checkpoint,
    folder: Annotated[Path, typer.Option("--index", help="Folder that `alpro index` made.")],
    count: Annotated[int, typer.Option("--count", "-k", min=1, help="Clips to show.")] = 5,
    rerank: Annotated[int, typer.Option(min=0, help="How many of VTC's best VTM re-ranks; 0: none.")] = 128,
    html: Annotated[Path | None, typer.Option(help="Write the clips with frames into this HTML file.")] = None,
    step: Step = "best",
    tokenizer: Tokenizer = None,
    as_json: AsJson = False,
) -> None:
    """Find the clips that fit a text best."""
    from alpro.search import query
    from alpro.search.gallery import Gallery
    from alpro.search.page import page
    from alpro.serving import single

    gallery = Gallery.open(folder)
    finder = query.Searcher(single.load(checkpoint, step=step, tokenizer=tokenizer), gallery)
    hits = finder.search(text, count, rerank)
    if html is not None:
        html.parent.mkdir(parents=True, exist_ok=True)
        html.write_text(page(text, hits, gallery.facts["videos"]), encoding="utf-8")
    typer.echo(query.show(hits, gallery.facts["videos"], as_json))


@app.command()
def replicate(
    readme: Annotated[Path, typer.Option(help="The file whose table is written.")] = Path("README.md"),
    output: Annotated[Path, typer.Option(help="Folder of the records.")] = Path("reports/replication"),
    recipe: Recipe = "official",
    changes: Changes = None,
) -> None:
    """Evaluate every checkpoint that is present; write the README's table."""
    from alpro.evaluation.replication import replicate as run

    run(_settings(PARAMS, recipe, changes), readme, output)


@weights.command("show")
def weights_show(
    checkpoint: str, task: Annotated[str | None, typer.Option(help="Show what of it a task's model takes.")] = None
) -> None:
    """Print a checkpoint's sizes and tensors, and its differences to a task's model."""
    from alpro.models.show import show

    typer.echo(show(checkpoint, task))


@weights.command("import")
def weights_import(
    checkpoint: str,
    output: Output,
    task: Annotated[str | None, typer.Option(help="prompter, pretrain, retrieval or qa, if not the checkpoint's own.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Folder of its vocabulary, kept with it.")] = None,
    answers: Annotated[Path | None, typer.Option(help="Its answer list (train_ans2label.json), kept with it.")] = None,
    num_frames: Annotated[int | None, typer.Option(min=1, help="Resize the time embedding.")] = None,
    image_size: Annotated[int | None, typer.Option(min=1, help="Resize the position embedding.")] = None,
    bicubic: Annotated[bool, typer.Option("--bicubic", help="... over both dimensions, not as the released code.")] = False,
) -> None:
    """Turn an official .pt into a checkpoint of our own."""
    from alpro.models.show import import_checkpoint

    report = import_checkpoint(
        checkpoint, output, task, tokenizer=tokenizer, answers=answers, num_frames=num_frames, image_size=image_size,
        resize="bicubic" if bicubic else "flat_nearest",
    )  # fmt: skip
    typer.echo(report)


@weights.command("export")
def weights_export(checkpoint: str, output: Path) -> None:
    """Write an official-style .pt that the released code loads."""
    from alpro.models.weights import export_official, load_model

    model, _, _ = load_model(checkpoint)
    export_official(model, output)
    typer.echo(f"{output}: written")


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def launch(verb: list[str], params: ParamsFile = PARAMS) -> None:
    """Run a verb on many processes: alpro launch -- VERB."""
    from alpro.config import load
    from alpro.launch import main as run

    raise typer.Exit(run(load(params).launch, verb))


@app.command()
def register(
    params: ParamsFile = PARAMS,
    flow: Flow = None,
    experiment: Experiment = None,
    candidates: Candidates = None,
) -> None:
    """Register the pipeline's checkpoints in MLflow, with where they come from."""
    from alpro import registry
    from alpro.config import load

    given = registry.made_by(flow, experiment)
    typer.echo(str(registry.register(Path.cwd(), load(params), tags=given, candidates=_listed(candidates))))


def _listed(names: str | None) -> list[str] | None:
    return None if names is None else [name for name in names.split(",") if name]


@app.command()
def promote(
    task: Task,
    version: Annotated[str | None, typer.Option(help="This version, and not the one that `candidate` names.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what the gate says.")] = False,
    params: ParamsFile = PARAMS,
) -> None:
    """Make the candidate the champion, if it is better on the same data. Exit code 1: refused, nothing moved."""
    from alpro import registry
    from alpro.config import load

    done = registry.promote(Path.cwd(), load(params), task, version=version, dry_run=dry_run)
    typer.echo(str(done))
    raise typer.Exit(0 if done.passed else 1)


@app.command()
def rollback(task: Task) -> None:
    """Make the champion before the champion again."""
    from alpro import registry

    was, now = registry.rollback(Path.cwd(), task)
    typer.echo(f"alpro-{task}@champion: version {was} -> {now}")


@app.command()
def lineage(model: Annotated[str, typer.Argument(help="models:/alpro-TASK@champion, or models:/alpro-TASK/NUMBER.")]) -> None:
    """Tell where a registered model comes from, and how to bring that state back."""
    from alpro.lineage import chain

    typer.echo(chain.trace(Path.cwd(), model))


@app.command()
def reproduce(
    model: Annotated[str, typer.Argument(help="models:/alpro-TASK@champion, or models:/alpro-TASK/NUMBER.")],
    train: Annotated[bool, typer.Option("--train", help="Train it anew too, and all that it was trained from.")] = False,
) -> None:
    """Evaluate a registered model anew in a clean worktree of its commit. Exit code 1: a figure differs."""
    from alpro.lineage.reproduce import reproduce as run

    done = run(Path.cwd(), model, train=train, say=typer.echo)
    typer.echo(str(done))
    raise typer.Exit(0 if done.same else 1)


@report.command("make")
def report_make(params: ParamsFile = PARAMS, root: Path = Path("reports")) -> None:
    """Write reports/summary.json and reports/index.html from the stages' records."""
    from alpro.config import load
    from alpro.report import make_report

    make_report(load(params), root)


@report.command("show")
def report_show(params: ParamsFile = PARAMS, root: Path = Path("reports")) -> None:
    """Print the results table, and where to look next."""
    from alpro.config import load
    from alpro.report import show_report

    show_report(load(params), root)


@track.command("sync")
def track_sync(
    params: ParamsFile = PARAMS, flow: Flow = None, experiment: Experiment = None, candidates: Candidates = None
) -> None:
    """Fill the MLflow store with the runs and checkpoints that it lacks."""
    from alpro import registry
    from alpro.config import load
    from alpro.tracking.sync import sync

    given = registry.made_by(flow, experiment)
    typer.echo(str(sync(Path.cwd(), load(params), tags=given, candidates=_listed(candidates))))


@track.command("status")
def track_status(params: ParamsFile = PARAMS) -> None:
    """Show what the MLflow store has of this checkout's results."""
    from alpro.config import load
    from alpro.tracking.status import status

    typer.echo(str(status(Path.cwd(), load(params))))


def main() -> None:
    """Run; a fault that the package foresees is one line and exit code 2."""
    try:
        app(standalone_mode=True)
    except AlproError as error:
        typer.echo(f"alpro: {error}", err=True)
        sys.exit(2)
    except OSError as error:  # a full disk, a missing permission
        if error.filename is None and error.errno is None:
            raise
        typer.echo(f"alpro: {error.filename or 'output'}: {error.strerror}", err=True)
        sys.exit(2)
