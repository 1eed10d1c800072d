"""`alpro weights`: show, import and export checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alpro.cli.app import add_group
from alpro.cli.options import Output

group = add_group("weights", "Import, export and show checkpoints.")


@group.command("show")
def weights_show(
    checkpoint: str, task: Annotated[str | None, typer.Option(help="Show what of it a task's model takes.")] = None
) -> None:
    """Print a checkpoint's sizes and tensors, and its differences to a task's model."""
    from alpro.checkpoints.convert import show

    typer.echo(show(checkpoint, task))


@group.command("import")
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
    from alpro.checkpoints.convert import import_checkpoint

    report = import_checkpoint(
        checkpoint, output, task, tokenizer=tokenizer, answers=answers, num_frames=num_frames, image_size=image_size,
        resize="bicubic" if bicubic else "flat_nearest",
    )  # fmt: skip
    typer.echo(report)


@group.command("export")
def weights_export(checkpoint: str, output: Path) -> None:
    """Write an official-style .pt that the released code loads."""
    from alpro.checkpoints.load import export_official, load_model

    model, _, _ = load_model(checkpoint)
    export_official(model, output)
    typer.echo(f"{output}: written")
