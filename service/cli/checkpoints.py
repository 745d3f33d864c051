"""`g2rpo checkpoints ...`: saved policies."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from service.cli.console import connect, console
from service.cli.show import print_yaml

app = typer.Typer(no_args_is_help=True, help="Saved policies.")

CheckpointId = Annotated[str, typer.Argument(metavar="CHECKPOINT", help="The checkpoint's id.")]


@app.command("list")
def list_checkpoints(
    run: Annotated[str | None, typer.Option(metavar="RUN", help="Only of this run.")] = None,
    model: Annotated[str | None, typer.Option(help="Only of this model.")] = None,
    imported: Annotated[bool | None, typer.Option(help="Only imported ones; or --no-imported, only runs'.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
) -> None:
    """List checkpoints, newest first."""
    table = Table("checkpoint", "run or name", "step", "kind", "model", "MiB", "created", box=None)
    with connect() as client:
        found = client.checkpoints(run) if run else client.checkpoints(model=model, imported=imported)
        for _, one in zip(range(limit), found, strict=False):
            created = "deleted" if one.deleted_at else f"{one.created_at.astimezone():%Y-%m-%d %H:%M:%S}"
            size = f"{one.size / 2**20:.1f}"
            table.add_row(str(one.id), str(one.run_id or one.name), str(one.step), one.kind, one.model, size, created)
    console.print(table)


@app.command()
def show(checkpoint_id: CheckpointId) -> None:
    """Print a checkpoint with its files and its manifest as YAML."""
    with connect() as client:
        print_yaml(client.checkpoint(checkpoint_id).model_dump(mode="json"))


@app.command()
def download(
    checkpoint_id: CheckpointId,
    out: Annotated[Path | None, typer.Option(help="Directory for its files; default: the checkpoint's id.")] = None,
) -> None:
    """Save a checkpoint's files, checked against their hashes. Called again it goes on where it broke off."""
    with connect() as client:
        for path in client.download(checkpoint_id, out or Path(checkpoint_id)):
            console.print(f"wrote {path}", highlight=False, soft_wrap=True)


@app.command()
def archive(
    checkpoint_id: CheckpointId,
    out: Annotated[Path | None, typer.Option(help="The tar file; default: the checkpoint's id, .tar.")] = None,
    training: Annotated[bool, typer.Option("--training", help="Also what training goes on from.")] = False,
) -> None:
    """Save a checkpoint with its model card, spec and curves as one tar file, to use elsewhere."""
    with connect() as client:
        path = client.archive(checkpoint_id, out or Path(f"{checkpoint_id}.tar"), training=training)
    console.print(f"wrote {path}", highlight=False, soft_wrap=True)


@app.command("import")
def import_lora(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A LoRA file, as diffusers saves it.")],
    model: Annotated[str, typer.Option(help="The model of the catalog that it belongs to.")],
    name: Annotated[str, typer.Option(help="A name for people.")] = "",
    lora_alpha: Annotated[
        float | None, typer.Option(help="Its alpha; default: what the file says, else its rank.")
    ] = None,
) -> None:
    """Import a LoRA, for runs to start from and images to be drawn with. Prints its id."""
    with connect() as client:
        imported = client.import_checkpoint(file, model, name=name or file.stem, lora_alpha=lora_alpha)
        console.print(str(imported.id), highlight=False)


@app.command()
def delete(
    checkpoint_id: CheckpointId, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False
) -> None:
    """Delete a checkpoint's files; what is known of it stays."""
    if not yes:
        typer.confirm(f"Delete the files of checkpoint {checkpoint_id}?", abort=True)
    with connect() as client:
        client.delete_checkpoint(checkpoint_id)
        console.print(f"deleted checkpoint {checkpoint_id}", highlight=False)
