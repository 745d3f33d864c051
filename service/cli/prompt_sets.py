"""`g2rpo prompt-sets ...`: manage the prompts used for training and evaluation."""

from pathlib import Path
from typing import Annotated

import typer

from service.cli import console, options

app = typer.Typer(no_args_is_help=True, help="Manage prompt sets for training and evaluation.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Prompt set.")]


@app.command()
def create(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A .txt, .jsonl or .csv file of prompts.")],
    name: Annotated[str | None, typer.Option(help="Name; default: the file name.")] = None,
    description: Annotated[str, typer.Option(help="Description.")] = "",
    heldout: Annotated[
        float | None,
        typer.Option(help="Split into NAME-train and NAME-heldout; a held-out share below 1, or a number of prompts."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split.")] = 0,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Skip bad lines instead of rejecting the file.")] = False,
) -> None:
    """Upload a file of prompts and print the names of the created sets."""
    with console.connect() as client:
        made = client.create_prompt_set(
            file, name or file.stem, description=description, heldout=heldout, seed=seed, skip_bad=skip_bad
        )
    for problem in made.left_out:
        console.print_line(f"skipped {problem.msg}", "yellow", console.stderr)
    for prompt_set in made.prompt_sets:
        console.print_line(f"{prompt_set.name}  {prompt_set.prompts} prompts")


@app.command("list")
@console.with_formats
def list_prompt_sets() -> None:
    """List all prompt sets, both from the catalog and uploaded."""
    with console.connect() as client:
        console.print_items(client.prompt_sets(), "name", "origin", "prompts", "description")


@app.command()
@console.with_formats
def show(name: Name) -> None:
    """Print a prompt set as YAML."""
    with console.connect() as client:
        console.print_view(client.prompt_set(name), "name")


@app.command()
def delete(name: Name, yes: options.Yes = False) -> None:
    """Delete an uploaded prompt set that no unfinished run uses."""
    console.confirm(yes, f"Delete prompt set {name}?")
    with console.connect() as client:
        client.delete_prompt_set(name)
    console.print_line(f"deleted prompt set {name}")
