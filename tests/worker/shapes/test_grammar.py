"""Captions and scenes are equivalent, and held-out captions are excluded from training."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.shapes import caption_sampling as sampling
from worker.shapes import words
from worker.shapes.grammar import Form, Phrase, Sentence, caption, parse
from worker.shapes.testpoints import predicates

phrases = st.builds(
    Phrase,
    size=st.sampled_from(words.SIZES),
    color=st.sampled_from(words.COLORS),
    shape=st.sampled_from(words.SHAPES),
)
backgrounds = st.sampled_from(words.BACKGROUNDS)
pairs = st.tuples(phrases, phrases).filter(lambda pair: replace(pair[0], size=None) != replace(pair[1], size=None))
scenes = st.builds(Sentence, st.just(Form.SHOW), st.tuples(phrases), backgrounds) | st.builds(
    Sentence, st.just(Form.PAIR), pairs, backgrounds, st.sampled_from(words.SIDES)
)

EXAMPLE = "a small red circle left of a large blue square on white"


class TestCaption:
    @given(scenes)
    def test_parse_is_its_inverse(self, scene: Sentence) -> None:
        assert parse(caption(scene)) == scene

    @given(scenes)
    def test_uses_words_of_the_vocabulary_only(self, scene: Sentence) -> None:
        assert set(caption(scene).split()) <= set(words.BASIC_VOCABULARY)

    def test_reads_as_documented(self) -> None:
        scene = parse(EXAMPLE)
        phrases = (Phrase("circle", "red", "small"), Phrase("square", "blue", "large"))
        assert scene == Sentence(Form.PAIR, phrases, "white", "left of")
        assert caption(parse("a large red circle on gray")) == "a large red circle on gray"


class TestParse:
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            (
                "a small red hexagon on white",
                "word 4, 'hexagon', is not an attribute or a shape; allowed here: circle",
            ),
            ("a tiny red circle on white", "word 2, 'tiny', is not an attribute or a shape"),
            ("a small red circle near a large blue square on white", "word 5, 'near'"),
            ("a small red circle on", "ends after 5 words; expected a background: white"),
            ("a small red circle on white please", "word 7, 'please', follows the background"),
            ("", "ends after 0 words"),
            ("a small red circle above a large red circle on white", "must differ in color or shape"),
        ],
    )
    def test_names_what_it_does_not_understand(self, text: str, said: str) -> None:
        with pytest.raises(ValueError, match=said):
            parse(text)

    def test_ignores_case_and_spacing(self) -> None:
        assert parse(f"  {EXAMPLE.upper().replace(' ', '  ')} ") == parse(EXAMPLE)


class TestPredicates:
    def test_two_objects_have_seven(self) -> None:
        assert [predicate.description for predicate in predicates(parse(EXAMPLE))] == [
            "the number of objects is 2",
            "there is a red circle",
            "the red circle is small",
            "there is a blue square",
            "the blue square is large",
            "the red circle is left of the blue square",
            "the background is white",
        ]

    def test_one_object_has_four(self) -> None:
        kinds = [predicate.dimension for predicate in predicates(parse("a large red circle on gray"))]
        assert kinds == ["count", "object", "size", "background"]

    @pytest.mark.parametrize(
        "text",
        [
            "a red circle on white",
            "a small circle on white",
            "a small red shape with four sides on white",
            "two small red circles on white",
            "a small outlined red circle on white",
            "a large tilted red cross on white",
            "a small red circle in the middle on white",
            "a small red circle inside a large blue square on white",
            "either a small red circle or a large blue square on white",
            "a small red circle without any squares on white",
            "the letter E in red on white",
        ],
    )
    def test_other_captions_are_not_of_the_basic_world(self, text: str) -> None:
        with pytest.raises(ValueError, match="not a caption of the basic world"):
            predicates(parse(text))


class TestPrompts:
    def test_train_and_heldout_are_distinct_and_disjoint(self) -> None:
        train, heldout = sampling.train_prompts(), sampling.heldout_prompts()
        assert (len(train), len(heldout)) == (4096, 1024)
        assert len({*train, *heldout}) == 4096 + 1024
        assert not any(map(sampling.is_heldout, train))
        assert all(map(sampling.is_heldout, heldout))

    def test_never_change(self) -> None:
        told = "\n".join(sampling.train_prompts() + sampling.heldout_prompts())
        assert hashlib.sha256(told.encode()).hexdigest()[:16] == "bd158da59abfd2e1"

    def test_scene_told_the_other_way_round_is_on_the_same_side(self) -> None:
        for text in sampling.heldout_prompts()[:200]:
            scene = parse(text)
            if scene.word == "left of":
                told = replace(scene, phrases=scene.phrases[::-1], word="right of")
                assert sampling.is_heldout(caption(told))

    def test_about_one_in_eight_is_held_out(self) -> None:
        rng = np.random.default_rng(3)
        share = np.mean([sampling.is_heldout(caption(sampling.sample_scene(rng))) for _ in range(4000)])
        assert 0.10 < share < 0.15

    def test_more_than_the_world_has_is_refused(self) -> None:
        with pytest.raises(ValueError, match="at most 4000"):
            sampling.heldout_prompts(20000)
