"""`g2rpo prompt-sets ...`: prompts for runs to train on."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from service.cli.console import connect, console, errors
from service.cli.show import print_yaml

app = typer.Typer(no_args_is_help=True, help="Prompts for runs to train on, and to be evaluated on.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The set's name.")]


@app.command()
def create(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A .txt, .jsonl or .csv file of prompts.")],
    name: Annotated[str | None, typer.Option(help="What runs call it; default: the file's name.")] = None,
    description: Annotated[str, typer.Option(help="What people should know of it.")] = "",
    heldout: Annotated[
        float | None, typer.Option(help="Make NAME-train and NAME-heldout: a share below 1, or so many prompts.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of this split.")] = 0,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave bad lines out instead of refusing all.")] = False,
) -> None:
    """Send a file of prompts. Prints the names that runs can say."""
    with connect() as client:
        made = client.create_prompt_set(
            file, name or file.stem, description=description, heldout=heldout, seed=seed, skip_bad=skip_bad
        )
    for problem in made.left_out:
        errors.print(f"left out {problem.msg}", style="yellow", highlight=False, markup=False)
    for one in made.prompt_sets:
        console.print(f"{one.name}  {one.prompts} prompts", highlight=False)


@app.command("list")
def list_prompt_sets() -> None:
    """List the catalog's sets and the uploaded ones."""
    table = Table("prompt set", "origin", "prompts", "description", box=None)
    with connect() as client:
        for one in client.prompt_sets():
            table.add_row(one.name, one.origin, "" if one.prompts is None else str(one.prompts), one.description)
    console.print(table)


@app.command()
def show(name: Name) -> None:
    """Print what is known of a set as YAML."""
    with connect() as client:
        print_yaml(client.prompt_set(name).model_dump(mode="json"))


@app.command()
def delete(name: Name, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False) -> None:
    """Delete an uploaded set that no open run needs."""
    if not yes:
        typer.confirm(f"Delete prompt set {name}?", abort=True)
    with connect() as client:
        client.delete_prompt_set(name)
        console.print(f"deleted prompt set {name}", highlight=False)
