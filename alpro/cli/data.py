"""`alpro data`: make, fetch, convert, check and validate data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alpro.cli.app import add_group
from alpro.cli.options import PARAMS, Changes, ParamsFile, Recipe, read_params

group = add_group("data", "Make, index and check data.")


@group.command("sample")
def data_sample(
    params: ParamsFile = PARAMS,
    root: Path = Path("data/sample"),
    workers: int | None = None,
    recipe: Recipe = None,
    changes: Changes = None,
) -> None:
    """Make the sample videos and annotations."""
    from alpro.data.sample import make_sample
    from alpro.errors import ConfigError
    from alpro.terminal.progress import reporting

    settings = read_params(params, recipe, changes).sample
    if settings is None:
        raise ConfigError(f"{recipe or params}: `sample` is null: this recipe works on real data")
    with reporting("made videos and images") as progress:
        make_sample(settings, root, workers=workers, progress=progress)


@group.command("vocabulary")
def data_vocabulary(output: Path, params: ParamsFile = PARAMS, recipe: Recipe = None, changes: Changes = None) -> None:
    """Make a WordPiece vocabulary from all training captions and questions."""
    from alpro.data.text.prepare import make_vocabulary

    make_vocabulary(read_params(params, recipe, changes), output)


@group.command("entities")
def data_entities(output: Path, params: ParamsFile = PARAMS, recipe: Recipe = None, changes: Changes = None) -> None:
    """Write the entity list: the most frequent nouns of the pre-training captions."""
    from alpro.data.text.prepare import make_entities

    words = make_entities(read_params(params, recipe, changes), output)
    typer.echo(f"{len(words)} entities: {', '.join(words[:10])}, ...")


@group.command("fetch")
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


@group.command("convert")
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
    from alpro.data.media.convert import conversion_settings, convert

    made = convert(
        conversion_settings(params, name, source=source, output=output, every=every, fps=fps, short_side=short_side), workers
    )
    typer.echo(made.line())


@group.command("shard")
def data_shard(
    source: Annotated[Path, typer.Argument(help="Folder of the clips or images.")],
    output: Annotated[Path, typer.Argument(help="Folder of the shards: what `root` or `videos` in params.yaml then names.")],
    clips: Annotated[int, typer.Option(min=1, help="Clips of each shard.")] = 1000,
) -> None:
    """Pack a folder of very many clips into tars with an index, from which trainings read directly."""
    from alpro.data.media.shards import write_shards

    typer.echo(f"{output}: {write_shards(source, output, clips)} shards; to version them: dvc add {output}")


@group.command("unpickle")
def data_unpickle(
    source: Annotated[Path, typer.Argument(help="A pickled table, such as WebVid's train.pkl.")],
    output: Annotated[Path, typer.Argument(help="A .csv or .parquet.")],
) -> None:
    """Convert a pickled table of annotations, running nothing that stands in it."""
    from alpro.data.annotations.pickles import convert

    typer.echo(f"{output}: {convert(source, output):,} rows")


@group.command("probe")
def data_probe(
    folder: Annotated[Path, typer.Argument(help="Folder of videos, with all folders below it.")],
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; as many as there are cores.")] = None,
) -> None:
    """Show what each video is: readable, frames, rate, size, rotation, decoder, and why it can't be read."""
    from alpro.data.media.probe_table import probe_folder, table

    typer.echo(table(probe_folder(folder, workers)))


@group.command("check")
def data_check(
    name: Annotated[str, typer.Argument(help="A corpus or data set of params.yaml.")],
    params: ParamsFile = PARAMS,
    recipe: Recipe = None,
    changes: Changes = None,
) -> None:
    """Say what is wrong with a set, row by row, and what to do about it. Exit code 2 where there are errors."""
    from alpro.data.validation.check import check_set

    check_set(read_params(params, recipe, changes), name, typer.echo)


@group.command("validate")
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
