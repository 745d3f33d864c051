"""Measure the accuracy of the judge of `shapes-bench`, or the base model: `python -m benchmarks.shapes_bench`.

Prints the accuracy of the judge for each dimension: on renders, on blurred and noisy renders and renders after the
autoencoder, and on renders with one broken element. Then prints its agreement with hand labels of samples of the base
model (`shapes_bench_hand_labels`). `--scores` evaluates the base model on the complete benchmark instead. `--images
DIR` generates the labeled images and contact sheets of them.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, FluxPipeline
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from benchmarks.broken_scenes import break_scene
from benchmarks.perception import blur
from service.contracts.benchmarks.bundled import bundled
from service.contracts.benchmarks.data import BenchmarkPrompt
from service.contracts.benchmarks.dimensions import PRIMARY, primary_of
from worker.shapes import BENCH_CLIP_WEIGHTS, BENCH_FLUX_WEIGHTS, IMAGE_SIZE
from worker.shapes.bench import judge_points
from worker.shapes.bench.caption_sampling import RECIPES, sample
from worker.shapes.bench.scene import Scene, draw, ground_truth
from worker.shapes.bench.scene_layout import realize
from worker.shapes.grammar import caption, parse
from worker.shapes.pretrain.autoencoder import reconstruct
from worker.shapes.pretrain.card import score_rows
from worker.shapes.pretrain.scores import PER_PROMPT, SEED, measure_bench, sample_images
from worker.shapes.testpoint_rules import holds
from worker.shapes.testpoints import points

LABELS = Path(__file__).parent / "shapes_bench_hand_labels"
EACH = 100
"""Number of scenes of each recipe, both clean and broken."""
OF_DIMENSION = 22
"""Number of labeled test points per dimension."""
COLUMNS, ENLARGED = 6, 5
"""Images per row of the contact sheets, and their magnification."""

Judged = dict[str, list[tuple[bool, bool]]]
"""For each dimension, ground truth and result of the judge for every test point."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shapes_bench", description=__doc__)
    parser.add_argument("--scores", action="store_true", help="evaluate the base model on the benchmark")
    parser.add_argument("--images", type=Path, help="generate the labeled images and contact sheets in this directory")
    arguments = parser.parse_args()
    if arguments.scores:
        _print_scores()
    elif arguments.images:
        _write_images(arguments.images)
    else:
        _print_trust()
        _print_agreement()


def _print_scores() -> None:
    measured = measure_bench(BENCH_FLUX_WEIGHTS, BENCH_CLIP_WEIGHTS)
    print("| dimension | base | renders | renders after the autoencoder |\n|---|---|---|---|")
    print(score_rows(measured))


def _print_trust() -> None:
    rng = np.random.default_rng(SEED)
    clean, broken = zip(*_pairs(rng), strict=True)
    print(f"| {len(clean)} scenes, clean and broken | {' | '.join(PRIMARY)} |")
    print(f"|---|{'---|' * len(PRIMARY)}")
    images = draw([scene for _, scene in clean])
    for name, seen in _views(images):
        _row(f"{name}: right", _judge(clean, seen), lambda rows: np.mean([true == result for true, result in rows]))
    found = _judge(broken, draw([scene for _, scene in broken]))
    _row("broken: right", found, lambda rows: np.mean([true == result for true, result in rows]))
    _row("broken: false passes", found, lambda rows: np.mean([result for true, result in rows if not true]))
    _row("broken: false points", found, lambda rows: sum(not true for true, _ in rows))


def _pairs(rng: np.random.Generator) -> Iterator[tuple[tuple[str, Scene], tuple[str, Scene]]]:
    """Yield captions with a scene, and with the scene broken so that a test point fails."""
    for recipe in RECIPES:
        found = 0
        while found < EACH:
            sentence = sample(rng, recipe)
            scene = realize(sentence, rng)
            made = break_scene(scene, rng)
            if made and not all(holds(point, ground_truth(made[1])) for point in points(sentence)):
                found += 1
                yield (caption(sentence), scene), (caption(sentence), made[1])


def _views(images: Tensor) -> Iterator[tuple[str, Tensor]]:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(SEED))
    yield "renders", images
    yield "blurred, σ = 0.8 px", blur(images, 0.8)
    for strength in (0.05, 0.1):
        yield f"noisy, σ = {strength}", (images + strength * noise).clamp(0, 1)
    yield "after the autoencoder", reconstruct(AutoencoderKL.from_pretrained(BENCH_FLUX_WEIGHTS / "vae"), images)


def _judge(pairs: tuple[tuple[str, Scene], ...], images: Tensor) -> Judged:
    found: Judged = defaultdict(list)
    result = judge_points(images, [text for text, _ in pairs])
    for (text, scene), scores in zip(pairs, result, strict=True):
        truth = ground_truth(scene)
        for point, score in zip(points(parse(text)), scores, strict=True):
            found[primary_of(point.dimension)].append((holds(point, truth), bool(score)))
    return found


def _row(name, judged: Judged, of) -> None:  # type: ignore[no-untyped-def]
    values = (of(judged[dimension]) for dimension in PRIMARY)
    print(f"| {name} | {' | '.join(str(v) if isinstance(v, int) else f'{v:.4f}' for v in values)} |")


@dataclass(frozen=True)
class Labeled:
    """A sample of the base model and the hand label of one test point of its prompt."""

    prompt: BenchmarkPrompt
    point: int
    """Index of the test point in the list of the prompt."""
    holds: bool


def labeled() -> tuple[list[Labeled], Tensor]:
    """The hand-labeled set: labels, and images [N, 3, 32, 32] in [0, 1]."""
    prompts = {prompt.text: prompt for prompt in bundled().prompts}
    rows = json.loads((LABELS / "labels.json").read_text())["images"]
    labels = [Labeled(prompts[row["prompt"]], row["point"], row["holds"]) for row in rows]
    sheet = torch.from_numpy(np.array(Image.open(LABELS / "images.png"))).permute(2, 0, 1) / 255
    tiles = sheet.unfold(1, IMAGE_SIZE, IMAGE_SIZE).unfold(2, IMAGE_SIZE, IMAGE_SIZE)
    return labels, tiles.permute(1, 2, 0, 3, 4).flatten(0, 1)[: len(labels)]


def chosen() -> list[tuple[BenchmarkPrompt, int, int]]:
    """Prompt, test point and image number for each label: 22 per dimension, spread evenly over its test points.

    Each image has at most one label: if a prompt occurs again, its next image is used.
    """
    found: list[tuple[BenchmarkPrompt, int, int]] = []
    for primary in PRIMARY:
        own = [
            (prompt, index)
            for prompt in bundled().prompts
            for index, point in enumerate(prompt.points)
            if point.primary == primary
        ]
        for number in range(OF_DIMENSION):
            prompt, point_index = own[number * len(own) // OF_DIMENSION]
            image_index = sum(other.index == prompt.index for other, _, _ in found)
            found.append((prompt, point_index, image_index))
    return found


def _print_agreement() -> None:
    labels, images = labeled()
    result = judge_points(images, [label.prompt for label in labels])
    rows: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for label, scores in zip(labels, result, strict=True):
        pair = (label.holds, bool(scores[label.point]))
        rows[label.prompt.points[label.point].primary].append(pair)
        rows["all"].append(pair)
    heads = "labels | accepted by the labeler | agreement | false passes | false fails | kappa"
    print(f"\n| {len(labels)} labels | {heads} |")
    print("|---|---|---|---|---|---|---|")
    for name in (*PRIMARY, "all"):
        eye, judge = np.array(rows[name]).T
        agreement = np.mean(eye == judge)
        chance = eye.mean() * judge.mean() + (1 - eye.mean()) * (1 - judge.mean())
        kappa = f"{(agreement - chance) / (1 - chance):.3f}" if chance < 1 else "–"
        passes, fails = np.sum(judge & ~eye), np.sum(eye & ~judge)
        print(f"| {name} | {len(eye)} | {eye.sum()} | {agreement:.4f} | {passes} | {fails} | {kappa} |")


def _write_images(folder: Path) -> None:
    """Write the images to label as one file, and enlarged contact sheets with prompt and test point."""
    folder.mkdir(parents=True, exist_ok=True)
    picked = chosen()
    pipeline = FluxPipeline.from_pretrained(BENCH_FLUX_WEIGHTS)
    every = sample_images(pipeline, [one.text for one, _, _ in picked], SEED, PER_PROMPT)
    images = every[[PER_PROMPT * row + image_index for row, (_, _, image_index) in enumerate(picked)]]
    pixels = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
    across = 20
    whole = np.zeros((-(-len(pixels) // across) * IMAGE_SIZE, across * IMAGE_SIZE, 3), np.uint8)
    for place, image in enumerate(pixels):
        top, left = place // across * IMAGE_SIZE, place % across * IMAGE_SIZE
        whole[top : top + IMAGE_SIZE, left : left + IMAGE_SIZE] = image
    Image.fromarray(whole).save(folder / "images.png", optimize=True)
    side, text = IMAGE_SIZE * ENLARGED, 62
    font = ImageFont.load_default(size=12)
    for number, start in enumerate(range(0, len(picked), 36)):
        rows = picked[start : start + 36]
        sheet = Image.new("RGB", (COLUMNS * (side + 50), -(-len(rows) // COLUMNS) * (side + text)), "#e8e4da")
        pen = ImageDraw.Draw(sheet)
        for place, (prompt, point, _) in enumerate(rows):
            left, top = place % COLUMNS * (side + 50) + 4, place // COLUMNS * (side + text)
            large = Image.fromarray(pixels[start + place]).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(large, (left, top))
            words = prompt.text.split()
            lines = [f"{start + place}: {' '.join(words[:6])}", " ".join(words[6:]), prompt.points[point].description]
            pen.multiline_text((left, top + side + 1), "\n".join(lines), fill="black", font=font, spacing=1)
        sheet.save(folder / f"sheet_{number}.png")


if __name__ == "__main__":
    main()
