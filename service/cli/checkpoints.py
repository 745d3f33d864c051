"""`g2rpo checkpoints ...`: list, download, import and delete saved policies."""

from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from service.cli import console, ids, options

app = typer.Typer(no_args_is_help=True, help="Manage checkpoints.")

CheckpointId = Annotated[str, ids.argument("checkpoint", ids.checkpoint)]


@app.command("list")
@console.with_formats
def list_checkpoints(
    run: Annotated[str | None, typer.Option(metavar="RUN", parser=ids.run, help="Only those of this run.")] = None,
    model: Annotated[str | None, typer.Option(help="Only checkpoints of this model.")] = None,
    imported: Annotated[bool | None, typer.Option(help="Only imported checkpoints, or only those of runs.")] = None,
    limit: options.Limit = 20,
) -> None:
    """List checkpoints, newest first."""
    with console.connect() as client:
        found = client.checkpoints(run) if run else client.checkpoints(model=model, imported=imported)
        console.print_items(
            islice(found, limit),
            *("id", "step", "kind", "model"),
            run_or_name=lambda checkpoint: checkpoint.run_id or checkpoint.name,
            MiB=lambda checkpoint: f"{checkpoint.size / 2**20:.1f}",
            created=lambda checkpoint: "deleted" if checkpoint.deleted_at else checkpoint.created_at,
        )


@app.command()
@console.with_formats
def show(checkpoint_id: CheckpointId) -> None:
    """Print a checkpoint with its files and manifest as YAML."""
    with console.connect() as client:
        console.print_view(client.checkpoint(checkpoint_id))


@app.command()
def download(
    checkpoint_id: CheckpointId,
    out: Annotated[Path | None, typer.Option(help="Directory; default: the checkpoint id.")] = None,
    kohya: Annotated[
        bool,
        typer.Option(
            "--kohya", help="Save only the LoRA, for ComfyUI and sd-scripts, as OUT or CHECKPOINT.safetensors."
        ),
    ] = False,
) -> None:
    """Download the files of a checkpoint and verify their hashes. Interrupted downloads are resumed."""
    with console.connect() as client:
        if kohya:
            path = client.kohya_lora(checkpoint_id, out or Path(f"{checkpoint_id}.safetensors"))
            console.print_line(f"wrote {path}")
            return
        for path in client.download(checkpoint_id, out or Path(checkpoint_id)):
            console.print_line(f"wrote {path}")


@app.command()
def archive(
    checkpoint_id: CheckpointId,
    out: Annotated[Path | None, typer.Option(help="Tar file; default: CHECKPOINT.tar.")] = None,
    training: Annotated[bool, typer.Option("--training", help="Include the training state.")] = False,
) -> None:
    """Download a checkpoint with its model card, spec and curves as one tar file."""
    with console.connect() as client:
        path = client.archive(checkpoint_id, out or Path(f"{checkpoint_id}.tar"), training=training)
    console.print_line(f"wrote {path}")


@app.command("import")
def import_lora(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="LoRA file as saved by diffusers or sd-scripts.")
    ],
    model: Annotated[str, typer.Option(help="Catalog model that the LoRA belongs to.")],
    name: Annotated[str, typer.Option(help="Name; default: the file name.")] = "",
    lora_alpha: Annotated[
        float | None, typer.Option(help="LoRA alpha; default: the value in the file, otherwise the rank.")
    ] = None,
) -> None:
    """Import a LoRA from which to start runs or generate images, and print its id."""
    with console.connect() as client:
        imported = client.import_checkpoint(file, model, name=name or file.stem, lora_alpha=lora_alpha)
    console.print_line(str(imported.id))


@app.command()
def delete(checkpoint_id: CheckpointId, yes: options.Yes = False) -> None:
    """Delete the files of a checkpoint. Its metadata is preserved."""
    console.confirm(yes, f"Delete the files of checkpoint {checkpoint_id}?")
    with console.connect() as client:
        client.delete_checkpoint(checkpoint_id)
    console.print_line(f"deleted checkpoint {checkpoint_id}")
