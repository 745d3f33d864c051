"""The judge of shapes-bench: correct on clean images, and strict on broken images."""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.broken_scenes import break_scene
from service.contracts.benchmarks.dimensions import PRIMARY, primary_of
from worker.shapes.bench import judge_points
from worker.shapes.bench.caption_sampling import RECIPES, heldout_prompts, sample
from worker.shapes.bench.judge import bench_score
from worker.shapes.bench.perception import perceive
from worker.shapes.bench.scene import Scene, draw, ground_truth
from worker.shapes.bench.scene_layout import realize
from worker.shapes.grammar import caption, parse
from worker.shapes.testpoint_rules import holds
from worker.shapes.testpoints import points

EACH = 24
"""Number of scenes per recipe."""


def clean(rng: np.random.Generator) -> Iterator[tuple[str, Scene]]:
    """Captions with matching scenes."""
    for recipe in RECIPES:
        for _ in range(EACH):
            sentence = sample(rng, recipe)
            yield caption(sentence), realize(sentence, rng)


def broken(rng: np.random.Generator) -> Iterator[tuple[str, Scene]]:
    """Captions with scenes that have one error, so that a test point is not met."""
    for text, scene in clean(rng):
        made = break_scene(scene, rng)
        if made and not all(holds(point, ground_truth(made[1])) for point in points(parse(text))):
            yield text, made[1]


def judged(pairs: list[tuple[str, Scene]]) -> dict[str, list[tuple[bool, bool]]]:
    """Ground truth and the judge's result for each test point, by primary dimension."""
    found: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    said = judge_points(draw([scene for _, scene in pairs]), [text for text, _ in pairs])
    for (text, scene), scores in zip(pairs, said, strict=True):
        truth = ground_truth(scene)
        for point, score in zip(points(parse(text)), scores, strict=True):
            found[primary_of(point.dimension)].append((holds(point, truth), bool(score)))
    return found


@pytest.fixture(scope="module")
def on_clean() -> dict[str, list[tuple[bool, bool]]]:
    return judged(list(clean(np.random.default_rng(1))))


@pytest.fixture(scope="module")
def on_broken() -> dict[str, list[tuple[bool, bool]]]:
    return judged(list(broken(np.random.default_rng(2))))


@pytest.mark.parametrize("dimension", PRIMARY)
class TestJudge:
    def test_renders_meet_their_test_points(self, dimension: str, on_clean: dict[str, list[tuple[bool, bool]]]) -> None:
        rows = on_clean[dimension]
        assert len(rows) >= EACH and all(true for true, _ in rows)
        assert np.mean([said for _, said in rows]) >= 0.99

    def test_it_agrees_with_the_truth_about_broken_ones(
        self, dimension: str, on_broken: dict[str, list[tuple[bool, bool]]]
    ) -> None:
        rows = on_broken[dimension]
        assert np.mean([true == said for true, said in rows]) >= 0.99

    def test_broken_images_fail(self, dimension: str, on_broken: dict[str, list[tuple[bool, bool]]]) -> None:
        said = [said for true, said in on_broken[dimension] if not true]
        assert said and np.mean(said) <= 0.01


@pytest.mark.parametrize(
    ("shown", "asked", "met"),
    [
        ("a red circle left of a blue square", "a red circle right of a blue square", (0, 1, 1)),
        ("a red circle left of a blue square", "a red circle left of a blue diamond", (1, 1, 0)),
        ("a red circle left of a green square", "a red circle left of a blue square", (0, 0, 0)),
        ("three small red circles", "four small red circles", (0, 1, 1, 1)),
        ("three small red circles", "three small blue circles", (1, 1, 0, 1)),
        ("an outlined red square", "a striped red square", (0, 1, 1)),
        ("a red square", "an outlined red square", (0, 1, 1)),
        ("a large red triangle pointing left", "a large red triangle pointing up", (0, 1, 1, 1)),
        ("a large red cross", "a large tilted red cross", (0, 1, 1, 1)),
        ("a red shape with four sides", "a red shape with three sides", (0, 1)),
        ("a green circle", "a circle the colour of grass", (1, 1)),
        ("a green circle", "a circle the colour of blood", (0, 1)),
        ("the letter E in red", "the letter F in red", (0, 1)),
        ("the letter E in red", "the letter E in blue", (1, 0)),
        ("a red circle touching a blue square", "a red circle apart from a blue square", (0, 1, 1)),
        ("a red circle apart from a blue square", "a red circle inside a blue square", (0, 1, 1)),
        ("a red circle behind a blue square", "a red circle in front of a blue square", (0, 1, 1)),
        ("a red circle smaller than a blue square", "a red circle larger than a blue square", (0, 1, 1)),
        ("a row of three red circles", "a column of three red circles", (0, 1, 1, 1)),
        ("more red circles than blue squares", "as many red circles as blue squares", (0, 1, 1)),
        ("a red circle and a blue square", "either a red circle or a blue square", (0, 0)),
        ("a red circle", "either a red circle or a blue square", (1, 1)),
        ("a green circle", "either a red circle or a blue square", (0, 1)),
        ("a red circle", "a circle without any red", (0, 1)),
        ("a blue circle", "a circle without any red", (1, 1)),
        ("a red circle and a blue circle", "two circles all of one colour", (0, 1, 1)),
        ("a red circle above a blue square", "a circle above a square and the former is red", (1, 1, 1)),
        ("a red circle above a blue square", "a circle above a square and the latter is red", (0, 1, 1)),
        ("a red circle above a blue square", "a circle above a square and both are red", (0, 1, 1)),
        ("a red circle above a blue square", "a circle the same colour as a square", (0, 1)),
        ("a small red circle and a large blue square", "a large red circle and a large blue square", (0, 1, 1)),
        ("a red circle in the top left corner", "a red circle in the bottom left corner", (0, 1, 1)),
    ],
)
def test_image_of_one_caption_judged_by_another(shown: str, asked: str, met: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    images = draw([realize(parse(f"{shown} on gray"), rng) for _ in range(5)])
    assert set(judge_points(images, [f"{asked} on gray"] * 5)) == {met}


class TestInput:
    def test_empty_image_meets_nothing(self) -> None:
        assert judge_points(torch.ones(1, 3, 32, 32), ["a red circle without any squares on white"]) == [(0, 0, 0)]

    def test_noise_and_no_images_are_no_error(self) -> None:
        noise = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        assert len(judge_points(noise, heldout_prompts()[:4])) == 4
        assert judge_points(torch.zeros(0, 3, 32, 32), []) == []

    def test_it_does_not_depend_on_the_batch(self) -> None:
        rng = np.random.default_rng(4)
        texts = list(heldout_prompts()[:80])
        noise = 0.1 * torch.randn(80, 3, 32, 32, generator=torch.Generator().manual_seed(5))
        images: Tensor = draw([realize(parse(text), rng) for text in texts]) + noise
        together = perceive(images)
        assert perceive(images[60:70]) == together[60:70]

    def test_larger_images_are_judged_too(self) -> None:
        texts = list(heldout_prompts()[:40])
        rng = np.random.default_rng(6)
        images = draw([realize(parse(text), rng) for text in texts])
        large = torch.nn.functional.interpolate(images, scale_factor=4, mode="nearest")
        assert bench_score(large, texts).mean() >= 0.99

    def test_each_image_needs_a_prompt(self) -> None:
        with pytest.raises(ValueError, match="2 images and 1 prompts"):
            judge_points(torch.zeros(2, 3, 32, 32), ["a circle on white"])

    def test_prompt_that_is_no_caption_is_refused(self) -> None:
        with pytest.raises(ValueError, match="'cat'"):
            judge_points(torch.zeros(1, 3, 32, 32), ["a cat on white"])
