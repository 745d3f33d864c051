"""`g2rpo catalog` shows the names that requests may use; `g2rpo catalog check` validates a catalog file."""

from pathlib import Path
from typing import Annotated

import typer

from service.api.catalog.sources import check_sources
from service.cli import console
from service.contracts.catalog import BUNDLED, catalog_path, load_catalog
from service.contracts.catalog_file import replaced

app = typer.Typer(invoke_without_command=True, help="Show the catalog of a service, or check a catalog file.")


@app.callback()
@console.with_formats
def show(context: typer.Context) -> None:
    """Show the names that requests may use (models, presets, rewards, prompt sets) and the workers."""
    if context.invoked_subcommand is not None:
        return
    with console.connect() as client:
        found = client.catalog()
    rows = [
        *(
            ("model", one.name, f"{one.description} {one.width}x{one.height}, {one.steps} steps")
            for one in found.models
        ),
        *(("algorithm", one.name, one.description.splitlines()[0]) for one in found.algorithms),
        *(
            ("preset", name, f"{found.preset_descriptions[name]} {spec['training']['max_steps']} steps.")
            for name, spec in found.presets.items()
        ),
        *(("reward", one.name, f"{one.description} {one.scale}") for one in found.rewards),
        *(("prompt set", one.name, one.description) for one in found.prompt_sets),
        *(("judge", one.name, one.description) for one in found.judges),
        *(("worker", one.name, f"{one.queue} on {one.device}") for one in found.workers),
    ]
    if console.emit(found, [name for _, name, _ in rows]):
        return
    console.print_table(("kind", "name", "description"), rows)


@app.command()
def check(
    file: Annotated[
        Path | None, typer.Argument(help="Catalog file; default: $G2RPO_CATALOG, otherwise the bundled file.")
    ] = None,
) -> None:
    """Check a catalog file and whether the files it refers to exist. The exit status is 1 if the catalog is invalid.

    The check does not contact the model hub or any server, and does not print the values of environment variables.
    """
    path = catalog_path(file)
    try:
        catalog = load_catalog(path)
        overridden = replaced(path, BUNDLED)
    except (OSError, ValueError) as error:
        console.print_line(str(error), "red", console.stderr)
        raise typer.Exit(console.FAILED) from None
    numbers = f"{len(catalog.models)} models, {len(catalog.rewards)} rewards, {len(catalog.prompt_sets)} prompt sets"
    console.print_line(f"{path}: {numbers}, {len(catalog.judges)} judges")
    if overridden:
        console.print_line(f"overrides the bundled {', '.join(overridden)}")
    for source in check_sources(catalog):
        mark, style = ("!", "bold yellow") if source.missing else ("✓", "green")
        console.stdout.print(mark, style=style, end=" ")
        console.print_line(f"{source.entry}: {source.detail}")
