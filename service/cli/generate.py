"""`g2rpo generate`: images from checkpoints, saved in a directory."""

from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.console import connect, console
from service.cli.show import print_error
from service.contracts.status import TERMINAL, JobStatus


def generate(
    prompt: Annotated[list[str], typer.Option("--prompt", "-p", help="What to draw; repeatable.")],
    checkpoint: Annotated[
        list[str] | None, typer.Option("--checkpoint", "-c", help="A checkpoint's id, or base; repeatable.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="A model of the catalog.")] = None,
    num_images: Annotated[int, typer.Option("--num-images", "-n", min=1, help="Images per prompt.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="The same for every checkpoint.")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps; default: the model's own.")] = None,
    guidance: Annotated[float | None, typer.Option(min=0, help="Default: the model's own.")] = None,
    out: Annotated[Path, typer.Option(help="Directory for the images and grid.png.")] = Path("images"),
    wait: Annotated[float, typer.Option(min=1, help="Seconds to wait for them.")] = 600,
) -> None:
    """Draw the same prompts with the same seeds from one or several checkpoints."""
    spec: dict[str, Any] = {"prompts": prompt, "num_images": num_images, "seed": seed}
    spec |= {"checkpoints": checkpoint} if checkpoint else {}
    said = {"model": model, "steps": steps, "guidance": guidance}
    spec |= {name: value for name, value in said.items() if value is not None}
    with connect() as client:
        made = client.generate(spec, wait=wait)
        if made.status is not JobStatus.SUCCEEDED:
            state = "is still" if made.status not in TERMINAL else "is"
            console.print(f"generation {made.id} {state} {made.status}", highlight=False)
            print_error(made)
            raise typer.Exit(1)
        out.mkdir(parents=True, exist_ok=True)
        for image in made.images:
            (out / f"{image.number:03d}-{image.checkpoint}-{image.seed}.png").write_bytes(client.fetch_image(image.url))
        (out / "grid.png").write_bytes(client.fetch_image(made.grid))
    console.print(f"wrote {len(made.images)} images and grid.png to {out}", highlight=False)
