"""Parsing of UnifiedReward answers: a number if the format is correct, otherwise the kind of failure."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contracts.catalog import Axis, RewardEntry
from worker.engine.remote.chat import Completion
from worker.engine.rewards.unified_reward import UnifiedReward, Unread, axes_mean, final_score

EQUAL: dict[Axis, float] = {"alignment": 1.0, "coherence": 1.0, "style": 1.0}
NUMBERS = st.floats(1, 5).map(lambda number: f"{number:.12f}") | st.integers(1, 5).map(str)


def axes(alignment: str = "2.694700002670288", coherence: str = "2.371500015258789", style: str = "2.8025") -> str:
    return f"Alignment Score (1-5): {alignment}\nCoherence Score (1-5): {coherence}\nStyle Score (1-5): {style}\n"


def test_published_example_is_read() -> None:
    assert axes_mean(axes(), EQUAL) == pytest.approx((2.694700002670288 + 2.371500015258789 + 2.8025) / 3)


@given(NUMBERS, NUMBERS, NUMBERS, st.permutations(range(3)))
def test_axes_are_weighted_in_whatever_order(a: str, b: str, c: str, order: list[int]) -> None:
    lines = axes(a, b, c).splitlines()
    text = "\n\n".join(lines[place] for place in order)
    assert axes_mean(text, {"alignment": 2.0, "style": 1.0}) == pytest.approx((2 * float(a) + float(c)) / 3)


def test_axis_without_weight_may_be_missing_but_not_wrong() -> None:
    two = "Alignment Score (1-5): 4\nStyle Score (1-5): 2"
    assert axes_mean(two, {"alignment": 1.0, "coherence": 0.0, "style": 1.0}) == 3
    assert axes_mean(f"{two}\nCoherence Score (1-5): 9", {"alignment": 1.0}) is Unread.OUT_OF_RANGE


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", Unread.NO_WORDS),
        (" \n", Unread.NO_WORDS),
        ("I'm sorry, I cannot rate this image.", Unread.MISSING_SCORE),
        ("Alignment Score (1-5): 4\nStyle Score (1-5): 2", Unread.MISSING_SCORE),
        (axes(style=""), Unread.MISSING_SCORE),
        (axes(style="4/5"), Unread.NOT_A_NUMBER),
        (axes(style="four"), Unread.NOT_A_NUMBER),
        (axes(style="4,5"), Unread.NOT_A_NUMBER),
        (axes(style="4."), Unread.NOT_A_NUMBER),
        (axes(style="٤"), Unread.NOT_A_NUMBER),
        (axes(style="-3"), Unread.NOT_A_NUMBER),
        (axes(style="nan"), Unread.NOT_A_NUMBER),
        (axes(style="4 (good)"), Unread.NOT_A_NUMBER),
        (axes(style="0.9"), Unread.OUT_OF_RANGE),
        (axes(style="5.01"), Unread.OUT_OF_RANGE),
        (axes() + "Style Score (1-5): 3", Unread.REPEATED_SCORE),
        (axes() + "All in all a fine image.", Unread.EXTRA_TEXT),
        (axes() + "Beauty Score (1-5): 3", Unread.EXTRA_TEXT),
        ("Here you are:\n" + axes(), Unread.EXTRA_TEXT),
    ],
)
def test_other_answers_with_axes_are_failures(text: str, kind: Unread) -> None:
    assert axes_mean(text, EQUAL) is kind


@given(st.text(alphabet="abc ():.\n01", max_size=60), NUMBERS)
def test_final_score_ends_the_answer(before: str, number: str) -> None:
    assert final_score(f"{before}\nFinal Score: {number}\n") == float(number)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", Unread.NO_WORDS),
        ("circle (object): 1", Unread.MISSING_SCORE),
        ("Final Score:", Unread.MISSING_SCORE),
        ("Final Score: 4/5", Unread.NOT_A_NUMBER),
        ("Final Score: four", Unread.NOT_A_NUMBER),
        ("Final Score: 4,5", Unread.NOT_A_NUMBER),
        ("Final Score: 0", Unread.OUT_OF_RANGE),
        ("Final Score: 3\nFinal Score: 3", Unread.REPEATED_SCORE),
        ("Final Score: 3\nbecause it is average", Unread.EXTRA_TEXT),
    ],
)
def test_other_answers_with_a_final_score_are_failures(text: str, kind: Unread) -> None:
    assert final_score(text) is kind


@pytest.mark.parametrize("thinking", ["<think>\n\n</think>\n\n", "Final Score: 1\n</think>\n", "<think>Hm.</think>"])
@pytest.mark.parametrize(
    ("form", "text", "value"), [("axes", axes("4", "3", "5"), 4), ("final_score", "Final Score: 3", 3)]
)
def test_thinking_is_not_part_of_the_answer(thinking: str, form: str, text: str, value: float) -> None:
    entry = RewardEntry(name="u", kind="unified_reward", url="http://127.0.0.1:9/v1", model="u", form=form)
    assert UnifiedReward(entry)._value(Completion(thinking + text, truncated=False)) == value
    assert isinstance(UnifiedReward(entry)._value(Completion(f"<think>{text}", truncated=False)), Unread)


@given(st.text(max_size=200))
def test_scores_are_always_in_range(text: str) -> None:
    for read in (final_score(text), axes_mean(text, EQUAL), axes_mean(axes(style=text), EQUAL)):
        assert isinstance(read, Unread) or 1 <= read <= 5
