"""`alpro weights`: show, import and export checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from alpro.cli.app import MODELS, add_group, example_line
from alpro.cli.options import Output, Replace

group = add_group("weights", "Show, import and export checkpoints.", MODELS)

Source = Annotated[str, typer.Argument(help="An own or official checkpoint.")]


@group.command("show", epilog=example_line("weights show models/sample/finetune/msvd_qa"))
def weights_show(
    checkpoint: Source,
    task: Annotated[str | None, typer.Option(help="Compare with the model of this task.")] = None,
) -> None:
    """Print a checkpoint's sizes and tensors, and how they differ from a task's model."""
    from alpro.checkpoints.convert import describe_checkpoint

    typer.echo(describe_checkpoint(checkpoint, task))


@group.command("import", epilog=example_line("weights import msrvtt_ret.pt --output models/msrvtt_ret --task retrieval"))
def weights_import(
    checkpoint: Source,
    output: Output,
    task: Annotated[
        str | None, typer.Option(help="prompter, pretrain, retrieval or qa (default: the checkpoint's own).")
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Folder with its vocabulary, to be copied.")] = None,
    answers: Annotated[Path | None, typer.Option(help="Its answer list (train_ans2label.json), to be copied.")] = None,
    num_frames: Annotated[int | None, typer.Option(min=1, help="Resize the temporal position embedding.")] = None,
    image_size: Annotated[int | None, typer.Option(min=1, help="Resize the spatial position embedding.")] = None,
    bicubic: Annotated[
        bool,
        typer.Option(
            "--bicubic", help="Resize the position embedding with 2-D bicubic interpolation (default: as the released code)."
        ),
    ] = False,
    sanitize: Annotated[
        bool,
        typer.Option("--sanitize", help="Read the tensors of a file with other objects; nothing in it is executed."),
    ] = False,
) -> None:
    """Convert an official .pt file to a checkpoint of this project."""
    from alpro.checkpoints.convert import import_checkpoint

    report = import_checkpoint(
        checkpoint, output, task, tokenizer=tokenizer, answers=answers, num_frames=num_frames, image_size=image_size,
        resize="bicubic" if bicubic else "flat_nearest", sanitize=sanitize,
    )  # fmt: skip
    typer.echo(report)


@group.command("export", epilog=example_line("weights export models/sample/finetune/msvd_qa msvd_qa --format hub"))
def weights_export(
    checkpoint: Source,
    output: Annotated[Path, typer.Argument(help="The .pt file to write; with --format hub, the folder.")],
    format: Annotated[
        Literal["official", "hub"],
        typer.Option(help="A .pt file that the released code loads, or a folder in the layout of the Hugging Face Hub."),
    ] = "official",
    licence: Annotated[
        str | None,
        typer.Option(
            "--license", help="Licence of the weights in the model card, as the Hub names it; only with --format hub."
        ),
    ] = None,
    replace: Replace = False,
) -> None:
    """Write a checkpoint for the released code, or for the Hugging Face Hub."""
    from alpro.checkpoints.files import export_official
    from alpro.checkpoints.load import load_model
    from alpro.files.outputs import check_file

    if format == "hub":
        if replace:
            raise typer.BadParameter("only with --format official; a folder that this command wrote is replaced anyway",
                                     param_hint="--replace")  # fmt: skip
        from alpro.hub.model import export_folder

        export_folder(checkpoint, output, licence)
        typer.echo(f"{output}: written; load it with alpro.from_pretrained(\"{output}\"), "
                   f"upload it with `hf upload ORG/NAME {output}`")  # fmt: skip
        return
    if licence is not None:
        raise typer.BadParameter("only with --format hub", param_hint="--license")
    check_file(output, replace, checkpoint)
    model, _, _ = load_model(checkpoint)
    export_official(model, output)
    typer.echo(f"{output}: written")
