"""`g2rpo catalog`: what a service offers, and `g2rpo catalog check`: whether a file can be offered."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from service.cli.console import connect, console, errors

app = typer.Typer(invoke_without_command=True, help="Show what a request may name, or check a catalog's file.")
BROKEN = 1
"""Exit status for a file that no service takes; what is missing on this machine is no reason."""


@app.callback()
def show(context: typer.Context) -> None:
    """Show what a request may name: models, presets, rewards, prompt sets; and the workers."""
    if context.invoked_subcommand is not None:
        return
    with connect() as client:
        found = client.catalog()
    table = Table("kind", "name", "what", box=None)
    for model in found.models:
        table.add_row("model", model.name, f"{model.description} {model.width}x{model.height}, {model.steps} steps")
    for algorithm in found.algorithms:
        table.add_row("algorithm", algorithm.name, algorithm.description.splitlines()[0])
    for preset, spec in found.presets.items():
        table.add_row("preset", preset, f"{spec['model']}, {spec['training']['max_steps']} steps")
    for reward in found.rewards:
        table.add_row("reward", reward.name, f"{reward.description} {reward.scale}")
    for prompts in found.prompt_sets:
        table.add_row("prompt set", prompts.name, prompts.description)
    for worker in found.workers:
        table.add_row("worker", worker.name, f"{worker.queue} on {worker.device}")
    console.print(table)


@app.command()
def check(
    file: Annotated[
        Path | None, typer.Argument(help="The catalog's file; without it, the one that this machine's service has.")
    ] = None,
) -> None:
    """Check a catalog's file, and say what of it is on this machine. Exit status 1: no service would take it.

    Hub and servers are not asked, and no value of a variable is shown.
    """
    from service.api.catalog.sources import places
    from service.contracts.catalog import BUNDLED, catalog_path, load_catalog
    from service.contracts.catalog_file import replaced

    chosen = catalog_path(file)
    try:
        catalog = load_catalog(chosen)
        instead = replaced(chosen, BUNDLED)
    except (OSError, ValueError) as error:
        errors.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(BROKEN) from None
    numbers = f"{len(catalog.models)} models, {len(catalog.rewards)} rewards, {len(catalog.prompt_sets)} prompt sets"
    console.print(f"{chosen}: {numbers}, {len(catalog.judges)} judges", markup=False, highlight=False, soft_wrap=True)
    if instead:
        line = f"in place of the bundled {', '.join(instead)}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for place in places(catalog):
        mark, style = ("!", "bold yellow") if place.missing else ("✓", "green")
        console.print(mark, style=style, end=" ")
        console.print(f"{place.entry}: {place.told}", markup=False, highlight=False, soft_wrap=True)
