"""Held-out images of the final policies, their rewards, and their texture in flat areas."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from matplotlib.font_manager import findfont
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

from benchmarks.convergence.choice import best_rates
from benchmarks.convergence.plan import BASE, Run, Spec, merge, method_spec
from benchmarks.convergence.runs import newest_checkpoint, outcome, planned, say
from service.contracts.catalog import load_catalog
from service.contracts.runs import RunSpec
from worker.engine.training.event_log import EventWriter
from worker.entrypoints.train import build_trainer
from worker.shapes import FLUX_WEIGHTS
from worker.shapes.caption_sampling import heldout_prompts
from worker.shapes.grammar import parse
from worker.shapes.pretrain.autoencoder import reconstruct
from worker.shapes.render import BACKGROUND_PALETTE, PALETTE, render

RENDERS = "renders"
FLAT = 5
"""Side of the square around a flat pixel: all its pixels are nearest to the same color of the bundled world."""
LAPLACIAN = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
BATCH = 128


@dataclass(frozen=True)
class Drawn:
    """Held-out images of one policy; pair j has the same prompt and noise for every policy."""

    values: dict[str, NDArray[np.float64]]
    """Values [pairs] of each reward."""
    texture: NDArray[np.float64]
    """Texture of each image, [pairs]."""
    images: NDArray[np.uint8]
    """[pairs, 3, height, width]"""


def draw_all(settings: dict[str, Any], out: Path) -> None:
    """Generate missing images of the base model and of the last checkpoint of every finished run; then renders."""
    pairs, directory = settings["draw"]["pairs"], out / "draw"
    directory.mkdir(exist_ok=True)
    wanted: list[tuple[str, Spec, Path | None]] = [(BASE, method_spec(settings, next(iter(settings["methods"]))), None)]
    for run in planned(out, "run"):
        if outcome(out / "run" / run.name) == "succeeded":
            wanted.append((run.name, run.spec, newest_checkpoint(out / "run" / run.name)))
    for name, spec, checkpoint in wanted:
        if not (directory / f"{name}.npz").exists():
            write(directory / f"{name}.npz", *draw(spec, checkpoint, pairs))
            say(f"{name}: images generated")
    if not (directory / f"{RENDERS}.npz").exists():
        autoencoder = AutoencoderKL.from_pretrained(FLUX_WEIGHTS / "vae").eval()
        scenes = [parse(heldout_prompts()[j % len(heldout_prompts())]) for j in range(pairs)]
        with torch.no_grad():
            write(directory / f"{RENDERS}.npz", {}, reconstruct(autoencoder, render(scenes)))


def draw(spec: Spec, checkpoint: Path | None, pairs: int) -> tuple[dict[str, Tensor], Tensor]:
    """Reward values and images of the policy of `checkpoint`, or of the base model, by the held-out evaluator."""
    wide = RunSpec.model_validate(merge(spec, {"heldout": {"final_pairs": pairs}}))
    with TemporaryDirectory() as directory:
        trainer = build_trainer(wide, load_catalog(), EventWriter(Path(directory)), "cpu")
        if checkpoint is not None:
            trainer.checkpoints.start_from(checkpoint)
        latents, values = trainer.evaluator.sample_and_score(pairs, kept=pairs)
        with torch.no_grad():
            images = torch.cat([trainer.scorer.decode(part) for part in latents.split(BATCH)])
    return dict(zip(trainer.evaluator.names, values, strict=True)), images


def write(path: Path, values: dict[str, Tensor], images: Tensor) -> None:
    """Write images and values atomically."""
    partial = path.with_suffix(".partial.npz")
    np.savez_compressed(
        partial,
        texture=texture(images).double().numpy(),
        images=(images.clamp(0, 1) * 255).round().byte().numpy(),
        **{f"value_{name}": row.double().numpy() for name, row in values.items()},
    )
    partial.rename(path)


def read(out: Path, name: str) -> Drawn:
    """Read a file of `draw_all`."""
    with np.load(out / "draw" / f"{name}.npz") as file:
        values = {key.removeprefix("value_"): file[key] for key in file.files if key.startswith("value_")}
        return Drawn(values, file["texture"], file["images"])


def texture(images: Tensor) -> Tensor:
    """Mean squared Laplacian of `images` [N, 3, H, W] in [0, 1] over flat pixels; NaN if there are none."""
    flat = flat_pixels(images)
    kernel = LAPLACIAN.expand(3, 1, 3, 3)
    energy = functional.conv2d(images, kernel, padding=1, groups=3).square().mean(dim=1)
    return (energy * flat).sum(dim=(1, 2)) / flat.sum(dim=(1, 2))


def flat_pixels(images: Tensor) -> Tensor:
    """Mask [N, H, W] of pixels in an area of one color, at least two pixels from its edge and the edge of the image."""
    colors = torch.cat([PALETTE, BACKGROUND_PALETTE])
    distances = [(images - color[None, :, None, None]).square().sum(dim=1) for color in colors]
    nearest = torch.stack(distances).argmin(dim=0)
    # Pad with another label, so that pixels at the edge of the image are not flat.
    margin = FLAT // 2
    around = functional.pad(nearest, (margin,) * 4, value=-1).unfold(1, FLAT, 1).unfold(2, FLAT, 1).flatten(3)
    return around.amax(dim=3) == around.amin(dim=3)


def draw_sheet(settings: dict[str, Any], out: Path, seed: int, path: Path, rows: int = 8, enlarged: int = 4) -> None:
    """Write the first pairs, unselected: one prompt and noise per row, one policy per column, then a render."""
    rates = best_rates(settings, out)
    columns = [("base", BASE)]
    columns += [
        (entry["label"], Run(method, rates[method], seed, {}).name) for method, entry in settings["methods"].items()
    ]
    columns.append(("render", RENDERS))
    captions = heldout_prompts()[:rows]
    side, gap, head, foot = 32 * enlarged, 12, 30, 24
    sheet = Image.new("RGB", (len(columns) * (side + gap) + gap, head + rows * (side + foot) + gap), "#f4f2ec")
    pen, font = ImageDraw.Draw(sheet), ImageFont.truetype(findfont("DejaVu Sans"), size=14)
    for column, (label, name) in enumerate(columns):
        left, images = gap + column * (side + gap), read(out, name).images
        pen.text((left, 7), label, fill="black", font=font)
        for row in range(rows):
            tile = Image.fromarray(images[row].transpose(1, 2, 0)).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(tile, (left, head + row * (side + foot)))
    for row, caption in enumerate(captions):
        pen.text((gap, head + row * (side + foot) + side + 2), caption, fill="black", font=font)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)
