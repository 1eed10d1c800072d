"""`alpro data`: make, fetch, convert, check and validate data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from alpro.cli.app import DATA, add_group, example_line
from alpro.cli.options import PARAMS, AsJson, Changes, ParamsFile, Recipe, Replace, print_json, read_params

group = add_group("data", "Make, fetch, convert and check data.", DATA)

Set = Annotated[str, typer.Argument(help="A corpus or dataset of params.yaml.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Number of processes (default: one per core).")]


@group.command("sample", epilog=example_line("data sample --recipe tiny"))
def data_sample(
    params: ParamsFile = PARAMS,
    root: Annotated[Path, typer.Option(help="Folder to write.")] = Path("data/sample"),
    workers: Workers = None,
    recipe: Recipe = None,
    changes: Changes = None,
) -> None:
    """Make the sample videos and annotations."""
    from alpro.data.sample import make_sample
    from alpro.errors import ConfigError
    from alpro.terminal.progress import reporting

    settings = read_params(params, recipe, changes).sample
    if settings is None:
        raise ConfigError(f"{recipe or params}: `sample` is null; this recipe uses real data")
    with reporting("made videos and images") as progress:
        make_sample(settings, root, workers=workers, progress=progress)


@group.command("init", epilog=example_line("data init clips --name mine"))
def data_init(
    folder: Annotated[Path, typer.Argument(help="Folder with your videos; folders below it are included.")],
    name: Annotated[str | None, typer.Option(help="Name of the dataset (default: the folder's).")] = None,
    table: Annotated[
        list[Path] | None,
        typer.Option("--table", help="Table of captions or questions (default: those in the folder); may be repeated."),
    ] = None,
    task: Annotated[
        Literal["retrieval", "qa"] | None, typer.Option(help="Use captions or questions (default: as the table has them).")
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="Checkpoint from which the training starts, or scratch (default: that of params.yaml).")
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Folder with its vocabulary (default: the checkpoint's own).")] = None,
    minutes: Annotated[float, typer.Option(min=0.1, help="Time that the training may take; sizes and epochs follow.")] = 10,
    seed: Annotated[int, typer.Option(help="Seed by which videos are drawn for validation and test.")] = 0,
    workers: Workers = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Prepare your own videos: a table, splits, sizes and parameters, and the commands to type next."""
    from alpro.own_data.init import Options, init

    typer.echo(init(Options(folder, name, table or (), task, start, tokenizer, minutes, seed, params, workers)).text())


@group.command("vocabulary", epilog=example_line("data vocabulary models/sample/text"))
def data_vocabulary(
    output: Annotated[Path, typer.Argument(help="Folder to write.")],
    params: ParamsFile = PARAMS,
    recipe: Recipe = None,
    changes: Changes = None,
) -> None:
    """Make a WordPiece vocabulary from all training captions and questions."""
    from alpro.data.words.prepare import make_vocabulary

    make_vocabulary(read_params(params, recipe, changes), output)


@group.command("entities", epilog=example_line("data entities models/sample/entities"))
def data_entities(
    output: Annotated[Path, typer.Argument(help="Folder to write.")],
    params: ParamsFile = PARAMS,
    recipe: Recipe = None,
    changes: Changes = None,
) -> None:
    """Write the entity list: the most frequent nouns of the pre-training captions."""
    from alpro.data.words.prepare import make_entities

    words = make_entities(read_params(params, recipe, changes), output)
    typer.echo(f"{len(words)} entities: {', '.join(words[:10])}, ...")


@group.command("fetch", epilog=example_line("data fetch msvd_qa --from YouTubeClips.tar"))
def data_fetch(
    name: Annotated[str | None, typer.Argument(metavar="[SET]", help="The set to fetch (default: list all sets).")] = None,
    local: Annotated[
        list[Path] | None, typer.Option("--from", help="A file or folder that you already have; may be repeated.")
    ] = None,
    media: Annotated[
        bool, typer.Option(help="Also download the media files of sets published as URL lists (WebVid, CC3M).")
    ] = True,
    workers: Annotated[int, typer.Option(min=1, help="Number of parallel media downloads.")] = 16,
    retry: Annotated[bool, typer.Option("--retry", help="Retry URLs that failed before.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep downloaded archives in data/.fetch.")] = False,
    dvc: Annotated[bool, typer.Option("--dvc", help="Add the fetched folders to DVC.")] = False,
    root: Annotated[Path, typer.Option(help="Root folder of the project.")] = Path("."),
) -> None:
    """Download a dataset, or copy your own files of it, into the official folder layout."""
    from alpro.data import sources
    from alpro.lineage import dvc_add

    if name is None:
        typer.echo(sources.show(root))
        return
    folders = sources.fetch(name, root, local or [], keep_archives=keep, say=typer.echo)
    if media and sources.has_media(name):
        folders.append(sources.fetch_media(name, root, workers, retry, typer.echo))
    if folders:
        typer.echo(dvc_add(root, folders) if dvc else f"  to version it: dvc add {' '.join(folders)}")


@group.command("convert", epilog=example_line("data convert --source raw --output small --short-side 256 --fps 3"))
def data_convert(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="An entry of `convert` in params.yaml, instead of the options.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Folder with the originals.")] = None,
    output: Annotated[str | None, typer.Option(help="Folder for the copies.")] = None,
    every: Annotated[int | None, typer.Option(min=1, help="Keep every N-th frame.")] = None,
    fps: Annotated[float | None, typer.Option(help="Keep this many frames per second.")] = None,
    short_side: Annotated[int | None, typer.Option(min=16, help="Length of the shorter side, in pixels.")] = None,
    workers: Workers = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Make smaller .mp4 copies of videos that decode quickly."""
    from alpro.data.copies.convert import conversion_settings, convert

    settings = conversion_settings(params, name, source=source, output=output, every=every, fps=fps, short_side=short_side)
    typer.echo(convert(settings, workers).line())


@group.command("shard", epilog=example_line("data shard clips clips_sharded"))
def data_shard(
    source: Annotated[Path, typer.Argument(help="Folder with the clips or images.")],
    output: Annotated[Path, typer.Argument(help="Folder for the shards; set `root` or `videos` in params.yaml to it.")],
    clips: Annotated[int, typer.Option(min=1, help="Number of clips per shard.")] = 1000,
) -> None:
    """Pack many clips into tar files with an index, from which trainings read directly."""
    from alpro.data.media.shards import write_shards

    shards = write_shards(source, output, clips, lambda line: typer.echo(f"left out: {line}", err=True))
    typer.echo(f"{output}: {shards} shards; to version them: dvc add {output}")


@group.command("unpickle", epilog=example_line("data unpickle train.pkl train.csv"))
def data_unpickle(
    source: Annotated[Path, typer.Argument(help="A pickled table, such as WebVid's train.pkl.")],
    output: Annotated[Path, typer.Argument(help="A .csv or .parquet file to write.")],
    replace: Replace = False,
) -> None:
    """Convert a pickled annotation table without executing anything in it."""
    from alpro.data.annotations.pickles import convert_pickle
    from alpro.files.outputs import check_file

    check_file(output, replace, source)
    typer.echo(f"{output}: {convert_pickle(source, output):,} rows")


@group.command("probe", epilog=example_line("data probe data/sample/msvd_qa/videos"))
def data_probe(
    folder: Annotated[Path, typer.Argument(help="Folder with videos; folders below it are included.")],
    workers: Workers = None,
) -> None:
    """Show frames, rate, size, rotation and decoder of each video, and why it cannot be read."""
    from alpro.data.media.probe_table import probe_folder, table

    typer.echo(table(probe_folder(folder, workers)))


@group.command("check", epilog=example_line("data check msvd_qa"))
def data_check(
    name: Set,
    as_json: AsJson = False,
    params: ParamsFile = PARAMS,
    recipe: Recipe = None,
    changes: Changes = None,
) -> None:
    """Report the faults of a corpus or dataset row by row, with remedies. Exit code 2 if there are errors."""
    from alpro.data.validation.check import check_set

    checked = check_set(read_params(params, recipe, changes), name)
    if as_json:
        print_json(checked.as_dict())
    else:
        for line in checked.lines():
            typer.echo(line)
    checked.raise_for_errors()
    if not as_json:
        typer.echo(checked.summary())


@group.command("validate", epilog=example_line("data validate msvd_qa --passed passed.json --output validation"))
def data_validate(
    name: Set,
    passed: Annotated[Path, typer.Option(help="File to write if the set passes; it contains the hashes of the data.")],
    output: Annotated[Path, typer.Option(help="Folder for Data Docs, problems and metrics.")],
    params: ParamsFile = PARAMS,
) -> None:
    """Validate a corpus or dataset with Great Expectations."""
    from alpro.config import load
    from alpro.data.validation import validate_set

    summary = validate_set(load(params), name, output=output, passed=passed)
    typer.echo(f"{name}: passed with {summary.warnings} warnings; see {output}/index.html")
