"""`shapes-bench`: how far its judge can be trusted, and what the base is worth: `python -m benchmarks.shapes_bench`.

Prints, by dimension, how often the judge is right: on renders, on renders with one thing broken, on the same blurred,
noisy and after the autoencoder; then its agreement with labels that images of the base were given by eye
(`shapes_bench_hand_labels`). `--scores` draws and judges the whole benchmark with the base instead, `--images DIR`
draws the images that were labelled, and contact sheets of them.
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

from benchmarks.perception import blur
from service.contracts.benchmarks.bundled import bundled
from service.contracts.benchmarks.data import BenchmarkPrompt
from service.contracts.benchmarks.dimensions import PRIMARY, primary_of
from worker.shapes import BENCH_CLIP_WEIGHTS, BENCH_FLUX_WEIGHTS, IMAGE_SIZE
from worker.shapes.bench import judge_points
from worker.shapes.bench.broken import break_scene
from worker.shapes.bench.layout import realize
from worker.shapes.bench.sampling import RECIPES, sample
from worker.shapes.bench.scene import Scene, draw, ground_truth
from worker.shapes.grammar import caption, parse
from worker.shapes.points import points
from worker.shapes.pretrain.autoencoder import reconstruct
from worker.shapes.pretrain.card import score_rows
from worker.shapes.pretrain.scores import PER_PROMPT, SEED, measure_bench, sample_images
from worker.shapes.rules import holds

LABELS = Path(__file__).parent / "shapes_bench_hand_labels"
EACH = 100
"""Scenes of each recipe, clean and broken."""
OF_DIMENSION = 22
"""Labelled test points of every dimension."""
COLUMNS, ENLARGED = 6, 5
"""Of the contact sheets: images beside each other, and how much larger they are."""

Judged = dict[str, list[tuple[bool, bool]]]
"""By dimension: for every test point what it is in truth, and what the judge says."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shapes_bench", description=__doc__)
    parser.add_argument("--scores", action="store_true", help="score the base on the benchmark")
    parser.add_argument("--images", type=Path, help="draw the labelled images and contact sheets into this folder")
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
    print(f"| {len(clean)} scenes, and as many broken | {' | '.join(PRIMARY)} |")
    print(f"|---|{'---|' * len(PRIMARY)}")
    images = draw([scene for _, scene in clean])
    for name, seen in _views(images):
        _row(f"{name}: right", _judge(clean, seen), lambda rows: np.mean([true == said for true, said in rows]))
    found = _judge(broken, draw([scene for _, scene in broken]))
    _row("broken: right", found, lambda rows: np.mean([true == said for true, said in rows]))
    _row("broken: false passes", found, lambda rows: np.mean([said for true, said in rows if not true]))
    _row("broken: false points", found, lambda rows: sum(not true for true, _ in rows))


def _pairs(rng: np.random.Generator) -> Iterator[tuple[tuple[str, Scene], tuple[str, Scene]]]:
    """Captions with a scene, and with the same scene broken so that a test point is not met."""
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
    said = judge_points(images, [text for text, _ in pairs])
    for (text, scene), scores in zip(pairs, said, strict=True):
        truth = ground_truth(scene)
        for point, score in zip(points(parse(text)), scores, strict=True):
            found[primary_of(point.dimension)].append((holds(point, truth), bool(score)))
    return found


def _row(name, judged: Judged, of) -> None:  # type: ignore[no-untyped-def]
    values = (of(judged[dimension]) for dimension in PRIMARY)
    print(f"| {name} | {' | '.join(str(v) if isinstance(v, int) else f'{v:.4f}' for v in values)} |")


@dataclass(frozen=True)
class Labelled:
    """An image of the base, and what an eye says of one test point of its prompt."""

    prompt: BenchmarkPrompt
    place: int
    """Of the test point in the prompt's list."""
    holds: bool


def labelled() -> tuple[list[Labelled], Tensor]:
    """The hand-labelled set: labels, and images [N, 3, 32, 32] in [0, 1]."""
    prompts = {prompt.text: prompt for prompt in bundled().prompts}
    rows = json.loads((LABELS / "labels.json").read_text())["images"]
    labels = [Labelled(prompts[row["prompt"]], row["point"], row["holds"]) for row in rows]
    sheet = torch.from_numpy(np.array(Image.open(LABELS / "images.png"))).permute(2, 0, 1) / 255
    tiles = sheet.unfold(1, IMAGE_SIZE, IMAGE_SIZE).unfold(2, IMAGE_SIZE, IMAGE_SIZE)
    return labels, tiles.permute(1, 2, 0, 3, 4).flatten(0, 1)[: len(labels)]


def chosen() -> list[tuple[BenchmarkPrompt, int, int]]:
    """Prompt, test point and number of the image for each label: 22 of every dimension, spread over its points.

    No image stands there twice: a prompt that is chosen again has its next image labelled.
    """
    found: list[tuple[BenchmarkPrompt, int, int]] = []
    for primary in PRIMARY:
        own = [
            (prompt, place)
            for prompt in bundled().prompts
            for place, point in enumerate(prompt.points)
            if point.primary == primary
        ]
        for number in range(OF_DIMENSION):
            prompt, place = own[number * len(own) // OF_DIMENSION]
            image_index = sum(other.index == prompt.index for other, _, _ in found)
            found.append((prompt, place, image_index))
    return found


def _print_agreement() -> None:
    labels, images = labelled()
    said = judge_points(images, [label.prompt for label in labels])
    rows: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for label, scores in zip(labels, said, strict=True):
        pair = (label.holds, bool(scores[label.place]))
        rows[label.prompt.points[label.place].primary].append(pair)
        rows["all"].append(pair)
    print(f"\n| {len(labels)} labels | labels | met, to the eye | agreement | false passes | false fails | kappa |")
    print("|---|---|---|---|---|---|---|")
    for name in (*PRIMARY, "all"):
        eye, judge = np.array(rows[name]).T
        agreement = np.mean(eye == judge)
        chance = eye.mean() * judge.mean() + (1 - eye.mean()) * (1 - judge.mean())
        kappa = f"{(agreement - chance) / (1 - chance):.3f}" if chance < 1 else "–"
        passes, fails = np.sum(judge & ~eye), np.sum(eye & ~judge)
        print(f"| {name} | {len(eye)} | {eye.sum()} | {agreement:.4f} | {passes} | {fails} | {kappa} |")


def _write_images(folder: Path) -> None:
    """The images to label as one file, and enlarged with prompt and test point, some on a sheet."""
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
