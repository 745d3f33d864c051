"""How far the rules of the shapes world can be trusted: `python -m benchmarks.perception`.

Prints, for each kind of predicate, how often the verifier is right: on renders (where the truth is known, for captions
that hold and for captions with one attribute changed), on the same renders blurred, noisy and after the autoencoder;
then how far it agrees with the labels that images of the base were given by eye (`perception_hand_labels`).
`--sheet FILE` writes the first of those images instead, each beside a render of its caption.
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
from worker.shapes.grammar import Sentence, parse
from worker.shapes.perception import perceive
from worker.shapes.points import PREDICATES, TestPoint, predicates
from worker.shapes.pretrain.autoencoder import reconstruct
from worker.shapes.pretrain.data import alter
from worker.shapes.render import encode, place, render
from worker.shapes.rules import holds
from worker.shapes.sampling import heldout_prompts
from worker.shapes.seen import Seen, SeenImage
from worker.shapes.verifier import verify
from worker.shapes.words import SHAPES, SIZES

LABELS = Path(__file__).parent / "perception_hand_labels"
SEED = 11

SHEET_COLUMNS, SHEET_ROWS, ENLARGED = 4, 5, 4

Judgement = tuple[TestPoint, bool, bool]
"""A predicate, what it is in truth, and what the verifier says."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.perception", description=__doc__)
    parser.add_argument("--sheet", type=Path, help="write a contact sheet of the labeled images here, and no table")
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
    """The images as they are, and worse."""
    generator = torch.Generator().manual_seed(SEED)
    noise = torch.randn(images.shape, generator=generator)
    yield "renders", images
    for sigma in (0.5, 0.8, 1.2):
        yield f"blurred, σ = {sigma} px", blur(images, sigma)
    for strength in (0.05, 0.1, 0.2):
        yield f"noisy, σ = {strength}", (images + strength * noise).clamp(0, 1)
    autoencoder = AutoencoderKL.from_pretrained(FLUX_WEIGHTS / "vae").eval()
    yield "after the autoencoder", reconstruct(autoencoder, images)


def _judge(asked: list[Sentence], shown: list[Sentence], found: list[SeenImage]) -> list[Judgement]:
    """The predicates of each scene `asked` about an image of the scene `shown`; the truth follows from the scenes."""
    return [
        (predicate, holds(predicate, _perfectly_seen(truth)), holds(predicate, seen))
        for wanted, truth, seen in zip(asked, shown, found, strict=True)
        for predicate in predicates(wanted)
    ]


def _perfectly_seen(scene: Sentence) -> SeenImage:
    placed = place(encode([scene]), torch.full((1, 6), 0.5))
    things = zip(scene.phrases, placed.radius[0].tolist(), placed.center[0].tolist(), strict=False)
    objects = tuple(Seen(thing.shape, str(thing.color), radius, x, y) for thing, radius, (x, y) in things)
    return SeenImage(objects, scene.background)


@dataclass(frozen=True)
class Labeled:
    """An image of the base, and what an eye saw in it."""

    caption: str
    seen: str
    """Its objects in words, such as "small yellow blob; on black"; a blob is an object of no clear shape."""
    holds: tuple[bool, ...]
    """For each of the caption's predicates."""


def labeled_images() -> tuple[list[Labeled], Tensor]:
    """The hand-labeled set: labels, and images [N, 3, 32, 32] in [0, 1]."""
    rows = json.loads((LABELS / "labels.json").read_text())["images"]
    labels = [Labeled(row["caption"], row["seen"], tuple(row["holds"])) for row in rows]
    sheet = torch.from_numpy(np.array(Image.open(LABELS / "images.png"))).permute(2, 0, 1) / 255
    tiles = sheet.unfold(1, IMAGE_SIZE, IMAGE_SIZE).unfold(2, IMAGE_SIZE, IMAGE_SIZE)
    return labels, tiles.permute(1, 2, 0, 3, 4).flatten(0, 1)[: len(labels)]


def _print_agreement() -> None:
    """The table of agreement with the eye. A false pass is what the verifier passes and the eye does not."""
    labels, images = labeled_images()
    every: list[Judgement] = []
    clear: list[Judgement] = []
    for label, results in zip(labels, verify(images, [label.caption for label in labels]), strict=True):
        judged = list(zip(predicates(parse(label.caption)), label.holds, results, strict=True))
        every += judged
        clear += [judgement for judgement in judged if not _about_a_blob(judgement[0], label)]
    print(f"\n| {len(labels)} images labeled by eye | predicates | agreement | false passes | false fails | kappa |")
    print("|---|---|---|---|---|---|")
    for kind in PREDICATES:
        _agreement_row(kind, [judgement for judgement in every if judgement[0].dimension == kind])
    _agreement_row("all", every)
    _agreement_row("all, not about blobs", clear)


def _print_shapes() -> None:
    """What perception takes the labeled shapes for, where object and region are the only ones of their color."""
    labels, images = labeled_images()
    taken: Counter[tuple[str, str]] = Counter()
    for label, found in zip(labels, perceive(images), strict=True):
        things = [words for words in map(str.split, label.seen.split("; ")) if words[0] in SIZES]
        for _, color, shape in things:
            regions = [thing for thing in found.objects if thing.color == color]
            if sum(other == color for _, other, _ in things) == 1 and len(regions) == 1:
                taken[shape, regions[0].shape or "none"] += 1
    columns = (*SHAPES, "none")
    print(f"\n| to the eye, and to perception: | {' | '.join(columns)} |")
    print(f"|---|{'---|' * len(columns)}")
    for shape in (*SHAPES, "blob"):
        print(f"| {shape} | {' | '.join(str(taken[shape, column]) for column in columns)} |")


def _about_a_blob(predicate: TestPoint, label: Labeled) -> bool:
    """Whether the eye saw an object of unclear shape in a color that the predicate speaks of."""
    return any(f"{match.color} blob" in label.seen for match in predicate.matches)


def _agreement_row(name: str, judged: list[Judgement]) -> None:
    truth = np.array([judgement[1] for judgement in judged])
    said = np.array([judgement[2] for judgement in judged])
    agreement = np.mean(truth == said)
    chance = truth.mean() * said.mean() + (1 - truth.mean()) * (1 - said.mean())
    # Where both always say the same there is nothing to agree about beyond chance.
    kappa = f"{(agreement - chance) / (1 - chance):.3f}" if chance < 1 else "–"
    passes, fails = np.sum(said & ~truth), np.sum(truth & ~said)
    print(f"| {name} | {len(judged)} | {agreement:.4f} | {passes} | {fails} | {kappa} |")


def _row(name: str, judged: list[Judgement]) -> None:
    """Prints the share of right judgements: on true predicates, on false ones, and by kind."""
    right: dict[str, list[bool]] = defaultdict(list)
    for predicate, truth, said in judged:
        right["true" if truth else "false"].append(truth == said)
        right[predicate.dimension].append(truth == said)
    shares = [f"{np.mean(right[column]):.4f} ({len(right[column])})" for column in ("true", "false", *PREDICATES)]
    print(f"| {name} | {' | '.join(shares)} |")


def _write_sheet(path: Path) -> None:
    """The first labeled images, enlarged: on the left what the base drew, on the right a render of the caption."""
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
        # Broken before the relation, or before the background where there is only one object.
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
