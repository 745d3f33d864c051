"""Renders satisfy their captions, and the corresponding predicate detects every error."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from worker.shapes.caption_sampling import sample_scene, train_prompts
from worker.shapes.grammar import Form, Phrase, Sentence, caption, parse
from worker.shapes.perception import perceive
from worker.shapes.render import render
from worker.shapes.testpoints import predicates
from worker.shapes.verifier import verifier_score, verify

CAPTIONS = train_prompts()[:1000]
SCENES = [parse(text) for text in CAPTIONS]
IMAGES = render(SCENES, seed=5)
PAIRS = [scene for scene in SCENES if scene.word][:300]
NEXT_COLOR = {
    "red": "green",
    "green": "blue",
    "blue": "yellow",
    "yellow": "purple",
    "purple": "orange",
    "orange": "red",
}
NEXT_SHAPE = {"circle": "square", "square": "triangle", "triangle": "diamond", "diamond": "cross", "cross": "circle"}
OTHER_SIZE = {"small": "large", "large": "small"}
NEXT_BACKGROUND = {"white": "gray", "gray": "black", "black": "white"}
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def with_first(scene: Sentence, thing: Phrase) -> Sentence:
    return replace(scene, phrases=(thing, scene.phrases[1]))


def recolored(scene: Sentence) -> Sentence:
    color = NEXT_COLOR[scene.phrases[0].color]
    if color == scene.phrases[1].color:
        color = NEXT_COLOR[color]
    return with_first(scene, replace(scene.phrases[0], color=color))


def reshaped(scene: Sentence) -> Sentence:
    shape = NEXT_SHAPE[scene.phrases[0].shape]
    if shape == scene.phrases[1].shape:
        shape = NEXT_SHAPE[shape]
    return with_first(scene, replace(scene.phrases[0], shape=shape))


def resized(scene: Sentence) -> Sentence:
    return with_first(scene, replace(scene.phrases[0], size=OTHER_SIZE[scene.phrases[0].size]))


def mirrored(scene: Sentence) -> Sentence:
    return replace(scene, word=OPPOSITE[scene.word])


def second_removed(scene: Sentence) -> Sentence:
    return replace(scene, form=Form.SHOW, phrases=scene.phrases[:1], word="")


def on_other_background(scene: Sentence) -> Sentence:
    return replace(scene, background=NEXT_BACKGROUND[scene.background])


COUNT, OBJECT, SIZE, OTHER_OBJECT, OTHER_SIZE_HELD, RELATION, BACKGROUND = range(7)


class TestVerify:
    def test_renders_satisfy_their_captions(self) -> None:
        held = [result for row in verify(IMAGES, CAPTIONS) for result in row]
        assert np.mean(held) >= 0.995

    @pytest.mark.parametrize(
        ("broken", "fails"),
        [
            (recolored, {OBJECT, SIZE, RELATION}),
            (reshaped, {OBJECT, SIZE, RELATION}),
            (resized, {SIZE}),
            (mirrored, {RELATION}),
            (second_removed, {COUNT, OTHER_OBJECT, OTHER_SIZE_HELD, RELATION}),
            (on_other_background, {BACKGROUND}),
        ],
    )
    def test_what_is_broken_is_false_and_the_rest_true(self, broken, fails) -> None:  # type: ignore[no-untyped-def]
        images = render([broken(scene) for scene in PAIRS], seed=6)
        results = np.array(verify(images, [caption(scene) for scene in PAIRS]))
        expected = np.array([place not in fails for place in range(7)])
        assert (results == expected).mean() >= 0.995

    def test_missing_object_has_no_size_and_no_place(self) -> None:
        blank = torch.ones(1, 3, 32, 32)
        assert verify(blank, ["a small red circle left of a large blue square on white"]) == [
            (False, False, False, False, False, False, True)
        ]

    def test_results_follow_the_order_of_predicates(self) -> None:
        text = "a small red circle left of a large blue square on white"
        wrong = render([parse("a small red circle left of a small blue square on white")])
        asked = predicates(parse(text))
        false = [predicate for predicate, held in zip(asked, verify(wrong, [text])[0], strict=True) if not held]
        assert [(predicate.dimension, predicate.description) for predicate in false] == [
            ("size", "the blue square is large")
        ]

    def test_images_and_captions_must_match(self) -> None:
        with pytest.raises(ValueError, match="2 images and 1 captions"):
            verify(IMAGES[:2], CAPTIONS[:1])


class TestVerifierScore:
    def test_is_the_share_of_predicates(self) -> None:
        text = "a small red circle left of a large blue square on white"
        images = render([parse(text), parse("a small red circle left of a small blue square on white")])
        assert verifier_score(images, [text, text]).tolist() == pytest.approx([1.0, 6 / 7])

    def test_other_sizes_of_image_are_judged_too(self) -> None:
        large = torch.nn.functional.interpolate(IMAGES[:50], scale_factor=4, mode="nearest")
        assert verifier_score(large, CAPTIONS[:50]).mean() >= 0.995


class TestPerceive:
    def test_does_not_depend_on_the_batch(self) -> None:
        rng = np.random.default_rng(1)
        noisy = render([sample_scene(rng) for _ in range(150)]) + 0.1 * torch.randn(
            150, 3, 32, 32, generator=torch.Generator().manual_seed(2)
        )
        together = perceive(noisy)
        order = torch.from_numpy(rng.permutation(150))
        assert [together[index] for index in order.tolist()] == perceive(noisy[order])
        assert together[7] == perceive(noisy[7:8])[0]

    def test_specks_are_no_objects(self) -> None:
        image = torch.ones(1, 3, 32, 32)
        image[:, 1:, 4:7, 4:7] = 0.1
        assert perceive(image)[0].objects == ()

    def test_noise_and_empty_batches_are_no_error(self) -> None:
        assert len(perceive(torch.rand(3, 3, 32, 32))) == 3
        assert perceive(torch.zeros(0, 3, 32, 32)) == []

    def test_one_channel_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"\[2, 1, 32, 32\]"):
            perceive(torch.zeros(2, 1, 32, 32))
