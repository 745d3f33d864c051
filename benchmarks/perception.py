"""Measure the accuracy of the rules of the shapes world: `python -m benchmarks.perception`.

Prints the accuracy of the verifier for each kind of predicate: on renders with known ground truth (for their captions
and for captions with one changed attribute), and on the same renders blurred, noisy and after the autoencoder. Then
prints its agreement with hand labels of samples of the base model (`perception_hand_labels`). `--sheet FILE` writes
the first labeled images instead, each next to a render of its caption.
"""

import argparse
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

from worker.shapes import FLUX_WEIGHTS, IMAGE_SIZE
from worker.shapes.caption_sampling import heldout_prompts
from worker.shapes.grammar import Sentence, parse
from worker.shapes.image_content import PerceivedImage, PerceivedObject
from worker.shapes.perception import perceive
from worker.shapes.pretrain.autoencoder import reconstruct
from worker.shapes.pretrain.data import alter
from worker.shapes.render import encode, place, render
from worker.shapes.testpoint_rules import holds
from worker.shapes.testpoints import PREDICATES, TestPoint, predicates
from worker.shapes.verifier import verify
from worker.shapes.words import SHAPES, SIZES

LABELS = Path(__file__).parent / "perception_hand_labels"
SEED = 11

SHEET_COLUMNS, SHEET_ROWS, ENLARGED = 4, 5, 4

Check = tuple[TestPoint, bool, bool]
"""A predicate, its ground truth, and the result of the verifier."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.perception", description=__doc__)
    parser.add_argument(
        "--sheet", type=Path, help="write a contact sheet of labeled images to this file, print no tables"
    )
    sheet = parser.parse_args().sheet
    if sheet:
        _write_sheet(sheet)
    else:
        _print_tables()


def _print_tables() -> None:
    captions = heldout_prompts()
    scenes = [parse(text) for text in captions]
    rng = np.random.default_rng(SEED)
    changed = [alter(scene, rng) for scene in scenes]
    images = render(scenes, SEED)
    print(f"| agreement, {len(scenes)} images | true predicates | false predicates | {' | '.join(PREDICATES)} |")
    print(f"|---|---|---|{'---|' * len(PREDICATES)}")
    for name, seen in _views(images):
        found = perceive(seen)
        _row(name, [*_judge(scenes, scenes, found), *_judge(changed, scenes, found)])
    _print_agreement()
    _print_shapes()
    torch.set_num_threads(1)
    wanted = list(captions[:1000])
    seconds = min(_timed(images[:1000], wanted) for _ in range(5))
    print(f"\nVerifying 1000 images takes {seconds:.2f} ms each on one thread.")


def _views(images: Tensor) -> Iterable[tuple[str, Tensor]]:
    """The images, unchanged and with several degradations."""
    generator = torch.Generator().manual_seed(SEED)
    noise = torch.randn(images.shape, generator=generator)
    yield "renders", images
    for sigma in (0.5, 0.8, 1.2):
        yield f"blurred, σ = {sigma} px", blur(images, sigma)
    for strength in (0.05, 0.1, 0.2):
        yield f"noisy, σ = {strength}", (images + strength * noise).clamp(0, 1)
    autoencoder = AutoencoderKL.from_pretrained(FLUX_WEIGHTS / "vae").eval()
    yield "after the autoencoder", reconstruct(autoencoder, images)


def _judge(asked: list[Sentence], shown: list[Sentence], found: list[PerceivedImage]) -> list[Check]:
    """Check the predicates of each scene `asked` on an image of the scene `shown`; the scenes give the ground truth."""
    return [
        (predicate, holds(predicate, _perfectly_seen(truth)), holds(predicate, seen))
        for wanted, truth, seen in zip(asked, shown, found, strict=True)
        for predicate in predicates(wanted)
    ]


def _perfectly_seen(scene: Sentence) -> PerceivedImage:
    placed = place(encode([scene]), torch.full((1, 6), 0.5))
    things = zip(scene.phrases, placed.radius[0].tolist(), placed.center[0].tolist(), strict=False)
    objects = tuple(PerceivedObject(thing.shape, str(thing.color), radius, x, y) for thing, radius, (x, y) in things)
    return PerceivedImage(objects, scene.background)


@dataclass(frozen=True)
class Labeled:
    """A sample of the base model and its hand labels."""

    caption: str
    seen: str
    """Description of its objects, such as "small yellow blob; on black"; a blob is an object without a clear shape."""
    holds: tuple[bool, ...]
    """Label of each predicate of the caption."""


def labeled_images() -> tuple[list[Labeled], Tensor]:
    """The hand-labeled set: labels, and images [N, 3, 32, 32] in [0, 1]."""
    rows = json.loads((LABELS / "labels.json").read_text())["images"]
    labels = [Labeled(row["caption"], row["seen"], tuple(row["holds"])) for row in rows]
    sheet = torch.from_numpy(np.array(Image.open(LABELS / "images.png"))).permute(2, 0, 1) / 255
    tiles = sheet.unfold(1, IMAGE_SIZE, IMAGE_SIZE).unfold(2, IMAGE_SIZE, IMAGE_SIZE)
    return labels, tiles.permute(1, 2, 0, 3, 4).flatten(0, 1)[: len(labels)]


def _print_agreement() -> None:
    """Print the agreement with the hand labels. A false pass is a predicate that only the verifier accepts."""
    labels, images = labeled_images()
    every: list[Check] = []
    clear: list[Check] = []
    for label, results in zip(labels, verify(images, [label.caption for label in labels]), strict=True):
        judged = list(zip(predicates(parse(label.caption)), label.holds, results, strict=True))
        every += judged
        clear += [check for check in judged if not _about_a_blob(check[0], label)]
    print(f"\n| {len(labels)} hand-labeled images | predicates | agreement | false passes | false fails | kappa |")
    print("|---|---|---|---|---|---|")
    for kind in PREDICATES:
        _agreement_row(kind, [check for check in every if check[0].dimension == kind])
    _agreement_row("all", every)
    _agreement_row("all, not about blobs", clear)


def _print_shapes() -> None:
    """Print a confusion matrix of labeled and perceived shapes, for objects and regions with a unique color."""
    labels, images = labeled_images()
    taken: Counter[tuple[str, str]] = Counter()
    for label, found in zip(labels, perceive(images), strict=True):
        things = [words for words in map(str.split, label.seen.split("; ")) if words[0] in SIZES]
        for _, color, shape in things:
            regions = [thing for thing in found.objects if thing.color == color]
            if sum(other == color for _, other, _ in things) == 1 and len(regions) == 1:
                taken[shape, regions[0].shape or "none"] += 1
    columns = (*SHAPES, "none")
    print(f"\n| labeled shape, and perceived: | {' | '.join(columns)} |")
    print(f"|---|{'---|' * len(columns)}")
    for shape in (*SHAPES, "blob"):
        print(f"| {shape} | {' | '.join(str(taken[shape, column]) for column in columns)} |")


def _about_a_blob(predicate: TestPoint, label: Labeled) -> bool:
    """Whether the predicate is about a color in which the labeler saw an object without a clear shape."""
    return any(f"{match.color} blob" in label.seen for match in predicate.matches)


def _agreement_row(name: str, judged: list[Check]) -> None:
    truth = np.array([check[1] for check in judged])
    result = np.array([check[2] for check in judged])
    agreement = np.mean(truth == result)
    chance = truth.mean() * result.mean() + (1 - truth.mean()) * (1 - result.mean())
    # Kappa is undefined if both give the same constant result.
    kappa = f"{(agreement - chance) / (1 - chance):.3f}" if chance < 1 else "–"
    passes, fails = np.sum(result & ~truth), np.sum(truth & ~result)
    print(f"| {name} | {len(judged)} | {agreement:.4f} | {passes} | {fails} | {kappa} |")


def _row(name: str, judged: list[Check]) -> None:
    """Print the accuracy on true predicates, on false predicates, and by kind."""
    right: dict[str, list[bool]] = defaultdict(list)
    for predicate, truth, result in judged:
        right["true" if truth else "false"].append(truth == result)
        right[predicate.dimension].append(truth == result)
    shares = [f"{np.mean(right[column]):.4f} ({len(right[column])})" for column in ("true", "false", *PREDICATES)]
    print(f"| {name} | {' | '.join(shares)} |")


def _write_sheet(path: Path) -> None:
    """Write the first labeled images, enlarged: a sample on the left, a render of its caption on the right."""
    labels, images = labeled_images()
    labels = labels[: SHEET_COLUMNS * SHEET_ROWS]
    renders = render([parse(label.caption) for label in labels], SEED)
    side, gap, text = IMAGE_SIZE * ENLARGED, 10, 34
    width, height = 2 * side + 4 + 2 * gap, side + text + gap
    sheet = Image.new("RGB", (SHEET_COLUMNS * width, SHEET_ROWS * height), "#e8e4da")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for index, label in enumerate(labels):
        left, top = index % SHEET_COLUMNS * width + gap, index // SHEET_COLUMNS * height + gap
        for column, image in enumerate((images[index], renders[index])):
            pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
            large = Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(large, (left + column * (side + 4), top))
        # Line break before the relation, or before the background if there is only one object.
        words = label.caption.split()
        lines = " ".join(words[:4]), " ".join(words[4:])
        pen.multiline_text((left, top + side + 1), "\n".join(lines), fill="black", font=font, spacing=1)
    sheet.save(path, optimize=True)


def blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur with repeated edges."""
    offsets = torch.arange(-4, 5)
    kernel = torch.exp(-offsets.square() / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    padded = functional.pad(images, (4, 4, 4, 4), mode="replicate").flatten(0, 1)[:, None]
    across = functional.conv2d(padded, kernel.view(1, 1, 1, 9))
    return functional.conv2d(across, kernel.view(1, 1, 9, 1)).view(images.shape)


def _timed(images: Tensor, captions: list[str]) -> float:
    """Milliseconds per image."""
    start = time.perf_counter()
    verify(images, captions)
    return (time.perf_counter() - start) * 1000 / len(images)


if __name__ == "__main__":
    main()
