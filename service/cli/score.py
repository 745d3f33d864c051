"""`g2rpo score`: rewards of images."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from service.cli.console import connect, console
from service.cli.show import print_error
from service.contracts.scores import RewardValue
from service.contracts.status import TERMINAL, JobStatus


def score(
    reward: Annotated[list[str], typer.Option("--reward", "-r", help="A reward of the catalog; repeatable.")],
    files: Annotated[
        list[Path] | None, typer.Argument(exists=True, dir_okay=False, help="Images: PNG, JPEG or WebP.")
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", "-p", help="What they were to show: one for all, or one for each in their order."),
    ] = None,
    generation: Annotated[
        str | None, typer.Option(metavar="GENERATION", help="Score this generation's images instead.")
    ] = None,
    wait: Annotated[float, typer.Option(min=1, help="Seconds to wait for the values.")] = 600,
) -> None:
    """Have rewards score images."""
    images = None
    if generation is None:
        images = _paired(prompt or [], files or [])
    elif files or prompt:
        raise typer.BadParameter("a generation has images and prompts of its own: give no FILE and no --prompt")
    with connect() as client:
        made = client.score(reward, images, generation=generation, wait=wait)
    if made.status is not JobStatus.SUCCEEDED:
        state = "is still" if made.status not in TERMINAL else "is"
        console.print(f"score {made.id} {state} {made.status}", highlight=False)
        print_error(made)
        raise typer.Exit(1)
    table = Table("image", *made.rewards, "prompt", box=None)
    for one in made.images:
        name = files[one.number].name if files else str(one.number)
        table.add_row(name, *map(_said, one.values or ()), one.prompt)
    console.print(table)


def _paired(prompts: list[str], files: list[Path]) -> list[tuple[str, Path]]:
    if not files:
        raise typer.BadParameter("give images as FILE..., or --generation")
    if len(prompts) not in (1, len(files)):
        raise typer.BadParameter(f"{len(prompts)} prompts for {len(files)} images: give one, or one for each")
    return list(zip(prompts * (len(files) if len(prompts) == 1 else 1), files, strict=True))


def _said(value: RewardValue) -> str:
    return f"failed: {value.cause}" if value.value is None else f"{value.value:.4f}"
