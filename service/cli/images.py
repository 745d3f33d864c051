"""`g2rpo generate` and `g2rpo score`: generate images from checkpoints, and score images with rewards."""

from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli import console, ids
from service.contracts.scores import RewardValue
from service.contracts.status import JobStatus
from service.jobs.views import JobView

WaitOption = Annotated[float, typer.Option(min=1, help="Maximum number of seconds to wait.")]


def generate(
    prompt: Annotated[list[str], typer.Option("--prompt", "-p", help="Prompt; repeatable.")],
    checkpoint: Annotated[
        list[str] | None,
        typer.Option("--checkpoint", "-c", parser=ids.checkpoint_or_base, metavar="ID", help="Id or base; repeatable."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Catalog model.")] = None,
    num_images: Annotated[int, typer.Option("--num-images", "-n", min=1, help="Images per prompt.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed, shared by all checkpoints.")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps; default: the model's.")] = None,
    guidance: Annotated[float | None, typer.Option(min=0, help="Guidance scale; default: the model's.")] = None,
    out: Annotated[Path, typer.Option(help="Directory for the images and grid.png.")] = Path("images"),
    wait: WaitOption = 600,
) -> None:
    """Generate images from one or more checkpoints, using the same prompts and seeds for each."""
    spec: dict[str, Any] = {"prompts": prompt, "num_images": num_images, "seed": seed}
    spec |= console.drop_unset(checkpoints=checkpoint, model=model, steps=steps, guidance=guidance)
    with console.connect() as client:
        generation = client.generate(spec, wait=wait)
        _require_success("generation", generation)
        out.mkdir(parents=True, exist_ok=True)
        for image in generation.images:
            path = out / f"{image.number:03d}-{image.checkpoint}-{image.seed}.png"
            path.write_bytes(client.fetch_image(image.url))
        (out / "grid.png").write_bytes(client.fetch_image(generation.grid))
    console.print_line(f"wrote {len(generation.images)} images and grid.png to {out}")


def score(
    reward: Annotated[list[str], typer.Option("--reward", "-r", help="Catalog reward; repeatable.")],
    files: Annotated[
        list[Path] | None, typer.Argument(exists=True, dir_okay=False, help="PNG, JPEG or WebP images.")
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", "-p", help="One prompt for all images, or one per image, in order.")
    ] = None,
    generation: Annotated[
        str | None, typer.Option(metavar="ID", parser=ids.generation, help="Score the images of this generation.")
    ] = None,
    wait: WaitOption = 600,
) -> None:
    """Score images with rewards."""
    if generation is not None and (files or prompt):
        raise typer.BadParameter("--generation cannot be combined with FILES or --prompt")
    images = _pair(prompt or [], files or []) if generation is None else None
    with console.connect() as client:
        made = client.score(reward, images, generation=generation, wait=wait)
    _require_success("score", made)
    rows = [
        (files[image.number].name if files else image.number, *map(_value, image.values or ()), image.prompt)
        for image in made.images
    ]
    console.print_table(("image", *made.rewards, "prompt"), rows)


def _require_success(kind: str, job: JobView) -> None:
    """Exit with status 1 unless the job succeeded within the waiting time."""
    if job.status is not JobStatus.SUCCEEDED:
        console.print_line(f"{kind} {job.id} is {job.status}")
        console.print_error(job)
        raise typer.Exit(console.FAILED)


def _pair(prompts: list[str], files: list[Path]) -> list[tuple[str, Path]]:
    if not files:
        raise typer.BadParameter("No images; give FILES or --generation")
    if len(prompts) not in (1, len(files)):
        raise typer.BadParameter(f"{len(prompts)} prompts for {len(files)} images; give one, or one per image")
    return list(zip(prompts * (len(files) // len(prompts)), files, strict=True))


def _value(value: RewardValue) -> str:
    return f"failed: {value.cause}" if value.value is None else f"{value.value:.4f}"
