"""Captions and scenes are two forms of the same thing, and the held-out ones stay held out."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.shapes import grammar
from worker.shapes.grammar import Object, PredicateKind, Relation, Scene, caption, parse, predicates

objects = st.builds(
    Object, st.sampled_from(grammar.SIZES), st.sampled_from(grammar.COLOURS), st.sampled_from(grammar.SHAPES)
)
backgrounds = st.sampled_from(grammar.BACKGROUNDS)
relations = st.sampled_from(grammar.RELATIONS).map(lambda name: (Relation(0, name, 1),))
pairs = st.tuples(objects, objects).filter(lambda pair: pair[0].kind != pair[1].kind)
scenes = st.builds(Scene, st.tuples(objects), backgrounds) | st.builds(Scene, pairs, backgrounds, relations)

EXAMPLE = "a small red circle left of a large blue square on white"


class TestCaption:
    @given(scenes)
    def test_parse_is_its_inverse(self, scene: Scene) -> None:
        assert parse(caption(scene)) == scene

    @given(scenes)
    def test_uses_words_of_the_vocabulary_only(self, scene: Scene) -> None:
        assert set(caption(scene).split()) <= set(grammar.VOCABULARY)

    def test_reads_as_documented(self) -> None:
        scene = parse(EXAMPLE)
        assert scene.objects == (Object("small", "red", "circle"), Object("large", "blue", "square"))
        assert scene.relations == (Relation(0, "left of", 1),)
        assert scene.background == "white"
        assert caption(parse("a large red circle on gray")) == "a large red circle on gray"


class TestParse:
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("a small red hexagon on white", "word 4, 'hexagon', is not a shape; allowed here: circle, square"),
            ("a tiny red circle on white", "word 2, 'tiny', is not a size; allowed here: small, large"),
            ("a small red circle beside a large blue square on white", "word 5, 'beside'"),
            ("a small red circle on", "ends after 5 words where a background should come; allowed: white"),
            ("a small red circle on white please", "word 7, 'please', comes after the background"),
            ("", "ends after 0 words"),
            ("a small red circle above a large red circle on white", "two objects are a red circle"),
        ],
    )
    def test_names_what_it_does_not_understand(self, text: str, said: str) -> None:
        with pytest.raises(ValueError, match=said):
            parse(text)

    def test_ignores_case_and_spacing(self) -> None:
        assert parse(f"  {EXAMPLE.upper().replace(' ', '  ')} ") == parse(EXAMPLE)


class TestPredicates:
    def test_two_objects_have_seven(self) -> None:
        assert [str(predicate) for predicate in predicates(parse(EXAMPLE))] == [
            "the number of objects is 2",
            "there is a red circle",
            "the red circle is small",
            "there is a blue square",
            "the blue square is large",
            "the red circle is left of the blue square",
            "the background is white",
        ]

    def test_one_object_has_four(self) -> None:
        kinds = [predicate.kind for predicate in predicates(parse("a large red circle on gray"))]
        assert kinds == [PredicateKind.COUNT, PredicateKind.OBJECT, PredicateKind.SIZE, PredicateKind.BACKGROUND]


class TestPrompts:
    def test_train_and_heldout_are_distinct_and_disjoint(self) -> None:
        train, heldout = grammar.train_prompts(), grammar.heldout_prompts()
        assert (len(train), len(heldout)) == (4096, 1024)
        assert len({*train, *heldout}) == 4096 + 1024
        assert not any(map(grammar.is_heldout, train))
        assert all(map(grammar.is_heldout, heldout))

    def test_never_change(self) -> None:
        told = "\n".join(grammar.train_prompts() + grammar.heldout_prompts())
        assert hashlib.sha256(told.encode()).hexdigest()[:16] == "bd158da59abfd2e1"

    def test_a_scene_told_the_other_way_round_is_on_the_same_side(self) -> None:
        for text in grammar.heldout_prompts()[:200]:
            scene = parse(text)
            if scene.relations and scene.relations[0].name == "left of":
                told = Scene(scene.objects[::-1], scene.background, (Relation(0, "right of", 1),))
                assert grammar.is_heldout(caption(told))

    def test_about_one_in_eight_is_held_out(self) -> None:
        rng = np.random.default_rng(3)
        share = np.mean([grammar.is_heldout(caption(grammar.sample_scene(rng))) for _ in range(4000)])
        assert 0.10 < share < 0.15

    def test_more_than_the_world_has_is_refused(self) -> None:
        with pytest.raises(ValueError, match="at most 4000"):
            grammar.heldout_prompts(20000)
