"""Captions of shapes-bench: formatting, parsing, and the split into training, held-out and benchmark captions."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from worker.shapes import TEXT_LENGTH
from worker.shapes.bench.caption_sampling import RECIPES, Part, heldout_prompts, part_of, sample, train_prompts
from worker.shapes.bench.caption_variants import alter, alterations
from worker.shapes.caption_sampling import canonical
from worker.shapes.grammar import Clause, Form, Sentence, caption, parse
from worker.shapes.testpoints import MAX_POINTS, points
from worker.shapes.words import BASIC_VOCABULARY, VOCABULARY


@st.composite
def sentences(draw: st.DrawFn) -> Sentence:
    """A sentence of any recipe."""
    return sample(np.random.default_rng(draw(st.integers(0, 2**32))), draw(st.sampled_from(sorted(RECIPES))))


class TestParse:
    @given(sentences())
    def test_is_the_inverse_of_caption(self, sentence: Sentence) -> None:
        assert parse(caption(sentence)) == sentence

    @given(sentences(), st.integers(0, 2**32))
    def test_of_a_neighbor_too(self, sentence: Sentence, seed: int) -> None:
        neighbor = alter(sentence, np.random.default_rng(seed))
        assert parse(caption(neighbor)) == neighbor != sentence

    @given(sentences())
    def test_every_word_is_known_and_captions_fit_the_text_encoders(self, sentence: Sentence) -> None:
        words = caption(sentence).lower().split()
        assert set(words) <= set(VOCABULARY)
        assert len(words) + 2 <= TEXT_LENGTH

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("a rod circle on white", "word 2, 'rod', is not an attribute or a shape"),
            ("a orange circle on white", "word 1, 'a', does not fit 'orange'; it must be 'an'"),
            ("a circle near a square on white", "word 3, 'near', is not a relation"),
            ("a circle on pink", "word 4, 'pink', is not a background"),
            ("a circle on", "the caption ends after 3 words; expected a background"),
            ("a circle on white white", "word 5, 'white', follows the background"),
            ("a red circle and a red circle on white", "'a red circle' and 'a red circle' are ambiguous"),
            ("the letter Q in red on white", "word 3, 'q', is not a known sign"),
            ("three circle on white", "word 2, 'circle', is not an attribute or a shape"),
            ("a tilted circle on white", "only a cross can be tilted"),
            ("a", "the caption ends after 1 words"),
            ("", "the caption ends after 0 words"),
        ],
    )
    def test_what_is_not_understood_is_named(self, text: str, told: str) -> None:
        with pytest.raises(ValueError) as raised:
            parse(text)
        assert told in str(raised.value)

    def test_words_of_the_smaller_world_come_first(self) -> None:
        assert VOCABULARY[: len(BASIC_VOCABULARY)] == BASIC_VOCABULARY


class TestPoints:
    @given(sentences())
    def test_are_one_to_four_and_the_same_for_the_same_text(self, sentence: Sentence) -> None:
        found = points(sentence)
        assert 1 <= len(found) <= MAX_POINTS
        assert found == points(parse(caption(sentence)))

    def test_sentences_own_dimension_comes_first(self) -> None:
        assert [
            point.dimension for point in points(parse("a circle left of a square and the former is red on gray"))
        ] == [
            "Grammar - Pronoun Reference",
            "Entity Layout - Two-Dimensional Space",
            "Attribute - Shape",
        ]


class TestParts:
    @given(sentences())
    def test_both_ways_to_tell_the_same_are_for_the_same(self, sentence: Sentence) -> None:
        assert part_of(caption(sentence)) is part_of(caption(canonical(sentence)))

    def test_mirrored_relation_means_the_same(self) -> None:
        one, other = (
            parse("a red circle left of a blue square on gray"),
            parse("a blue square right of a red circle on gray"),
        )
        assert canonical(one) == canonical(other)
        former, latter = (
            parse("a circle above a square and the former is red on gray"),
            parse("a square below a circle and the latter is red on gray"),
        )
        assert canonical(former) == canonical(latter)

    def test_lists_are_fixed_distinct_and_of_their_part(self) -> None:
        train, heldout = train_prompts(), heldout_prompts()
        assert (len(train), len(heldout)) == (4096, 1024)
        assert {part_of(text) for text in train} == {Part.TRAIN}
        assert {part_of(text) for text in heldout} == {Part.HELDOUT}
        assert len({*train, *heldout}) == 4096 + 1024


def test_altered_sentence_differs_in_one_thing() -> None:
    told = parse("a red circle without any squares on white")
    found = dict(alterations(told))
    assert set(found) == {"color 0", "shape 0", "count 0", "clause", "background"}
    assert found["clause"].form is Form.SHOW and found["clause"].clause is Clause.WITHOUT
