"""Parsing a judge's answer returns its exact scores or a failure, never other scores or an exception."""

import ast
import re
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contracts.benchmarks.judge_answers import Failure, Verdict, check_scores, read_answer, without_thinking

GOOD = "[1, 0, 1]"
SCORES = (1, 0, 1)
ANALYSES = {
    "a plain list": "['It is a tree.', 'It is no oak.', 'It is tall.']",
    "a stray single quote": "['It's a tree.', 'It is no oak.', 'It is tall.']",
    "a stray double quote": '["The sign says "OAK".", "no", "yes"]',
    "typographic quotes": "[“It is a tree.”, ‘no’, „yes“]",
    "no end of the list": "['It is a tree.', 'It is no oak.'",
    "too few entries": "['All is well.']",
    "prose": "It is a tree, which I am sure of.",
    "a fence": "```json\n['It is a tree.', 'no', 'yes']\n```",
    "an open fence": "```python\n['It is a tree.', 'no', 'yes']",
    "other lists": "[0, 0, 0] and [1, 1, 1], then [[0], [1]] and score: [0, 0, 0]",
    "scores it talks about": "I thought of <score>[0, 0, 0]</score> at first.",
    "a score tag it talks about": "The <score> will be low. </score> No, it will not.",
    "a score tag that stays open": "The <score> will be [0, 0, 0].",
    "Chinese": "['画面中有一棵树。', '不是橡树。', '很高。']",
    "Arabic": "['هناك شجرة.', 'لا', 'نعم']",
    "emoji and controls": "['🌳\u200b\u202e', '\x07', '\ufeff']",
    "escapes": r"['\u0027]</score>\x5b', '\\', '\n']",
    "tags": "<b>tree</b> <scores>[0, 0, 0]</scores> <score1>[0]</score1> < score",
    "a NUL": "a\x00b",
    "ten thousand brackets": "[" * 10_000,
    "nothing": "",
}
FRAMES = {
    "the requested format": "<description>\n<prompt>A tree.</prompt>\n<analysis>{a}</analysis>\n"
    "<score>{s}</score>\n</description>",
    "nothing around it": "<analysis>{a}</analysis><score>{s}</score>",
    "the scores first": "<score>{s}</score>\n<analysis>{a}</analysis>",
    "a fence around all": "```xml\n<analysis>{a}</analysis>\n<score>{s}</score>\n```",
    "a fence around the scores": "<analysis>{a}</analysis>\n<score>```json\n{s}\n```</score>",
    "words before and after": "Well: <analysis>{a}</analysis> <score>\n{s}\n</score> [0, 0, 0] I hope it 'helps.",
    "thoughts before": "<think>Maybe <score>[0, 0, 0]</score>?</think><analysis>{a}</analysis><score>{s}</score>",
    "capital letters": "<ANALYSIS>{a}</ANALYSIS>< Score >{s}</ SCORE >",
    "repeated": "<analysis>{a}</analysis><score>{s}</score><score> {s}</score>",
}
FORMS = ["[1, 0, 1]", "[1,0,1]", " [ 1 ,\n0,\t1 ] ", "[1, 0, 1,]"]
BAD = {
    Failure.NOT_A_LIST: [
        *("", " ", "1, 0, 1", "1", "(1, 0, 1)", "{1, 0, 1}", "[1, 0, 1", "1, 0, 1]", "[1, 0, 1]]", "[[1, 0, 1]]"),
        *("[1, 0, 1] all good", "score: [1, 0, 1]", "[1], [0], [1]", "[1, 0], [1]", "[1, [0], 1]", "【1, 0, 1】"),
        *("[1, 0, 1];", '"[1, 0, 1]"', "A list of 0 or 1", "null", "[1, 0, 1] + []", "```[1, 0, 1]", "\\[1, 0, 1\\]"),
    ],
    Failure.NOT_BINARY: [
        *("[1, 0, 2]", "[1, 0, -1]", "[1, 0, 0.5]", "[1.0, 0.0, 1.0]", "['1', '0', '1']", '["1", "0", "1"]'),
        *("[True, False, True]", "[true, false, true]", "[1, 0, None]", "[1, 0, null]", "[yes, no, yes]", "[1, 0, 01]"),
        *("[+1, 0, 1]", "[1, -0, 1]", "[1e0, 0, 1]", "[0x1, 0, 1]", "[1, , 1]", "[,]", "[1, 0, 1,,]", "[1 0 1]"),
        *("[1，0，1]", "[1、0、1]", "[1; 0; 1]", "[１, ０, １]", "[一, 零, 一]", "[١, ٠, ١]", "[1, 0, 1/1]", "[101]"),
        *("[1, 0, ?]", "[1, 0, 1 (sure)]", "[a: 1, b: 0, c: 1]", "[1\u200b, 0, 1]", "[1_0, 0, 1]", "[1, 0, NaN]"),
        *("[10, 0, 1]", "[1, 0, ...]", "[x for x in (1, 0, 1)]", "[__import__('os'), 0, 1]", "[1, 0, 1 # yes\n]"),
    ],
    Failure.WRONG_COUNT: ["[]", "[ ]", "[1]", "[1, 0]", "[1, 0, 1, 1]", "[0,0,0,0,0,0]", str([1] * 500)],
}
REFUSED = [(text, failure) for failure, texts in BAD.items() for text in texts]


@pytest.mark.parametrize("analysis", ANALYSES)
@pytest.mark.parametrize("frame", FRAMES)
def test_scores_do_not_depend_on_the_analysis(frame: str, analysis: str) -> None:
    for form in FORMS:
        text = FRAMES[frame].format(a=ANALYSES[analysis], s=form)
        assert read_answer(text, 3) == Verdict(SCORES), text


@pytest.mark.parametrize(("scores", "failure"), REFUSED)
def test_another_number_of_zeros_and_ones_is_a_failure(scores: str, failure: Failure) -> None:
    for frame, analysis in product(("the requested format", "words before and after", "the scores first"), ANALYSES):
        text = FRAMES[frame].format(a=ANALYSES[analysis], s=scores)
        assert read_answer(text, 3) == Verdict(None, failure), text


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        (None, Failure.NO_ANSWER),
        ("", Failure.NO_ANSWER),
        (" \n\t", Failure.NO_ANSWER),
        ("I cannot judge this image.", Failure.NO_SCORES),
        (GOOD, Failure.NO_SCORES),
        (f'{{"score": {GOOD}}}', Failure.NO_SCORES),
        (f"<score>{GOOD}", Failure.NO_SCORES),
        (f"{GOOD}</score>", Failure.NO_SCORES),
        (f"</score>{GOOD}<score>", Failure.NO_SCORES),
        (f"<analysis>['a', 'b', 'c']</analysis><score>{GOOD}</scor", Failure.NO_SCORES),
        (f"<analysis>I would say <score>{GOOD}</score> for the tree, but", Failure.NO_SCORES),
        (f"<analysis>I would say <score>{GOOD}</score>", Failure.NO_SCORES),
        (f"<think>I would say <score>{GOOD}</score> for the tree, but", Failure.NO_SCORES),
        (f"<analysis>I would say <score>{GOOD}</score> for the tree.</analysis>", Failure.NO_SCORES),
        (f"<score>{GOOD}</score><score>[0, 0, 1]</score>", Failure.SEVERAL_SCORES),
        (f"<score>{GOOD}</score><score>[0, 0]</score>", Failure.SEVERAL_SCORES),
        (f"<score>{GOOD}</score><score>[0, 0, 2]</score>", Failure.SEVERAL_SCORES),
        (f"<score>[0, 0, 1]</score> No: <score>{GOOD}</score>", Failure.SEVERAL_SCORES),
        ("<score>[]</score><score>[1]</score>", Failure.WRONG_COUNT),
        ("&lt;score&gt;[1, 0, 1]&lt;/score&gt;", Failure.NO_SCORES),
        ("<score/>[1, 0, 1]</score>", Failure.NO_SCORES),
        ("<score>" * 50_000, Failure.NO_SCORES),
        ("<score>[" * 20_000 + "</score>", Failure.NOT_A_LIST),
        ("<score>" + "[1," * 50_000 + "</score>", Failure.NOT_A_LIST),
        ("<" + " " * 50_000 + "score>", Failure.NO_SCORES),
        ("```" * 50_000, Failure.NO_SCORES),
        ("<score>" + "```a\n" * 20_000 + "</score>", Failure.NOT_A_LIST),
    ],
)
def test_answers_without_scores_have_a_reason(text: str | None, failure: Failure) -> None:
    assert read_answer(text, 3) == Verdict(None, failure)


DRAFT = "maybe <score>[0, 0, 0]</score> but wait"


@pytest.mark.parametrize(
    ("text", "truncated", "expected"),
    [
        # Some chat templates open the thinking in the prompt.
        (f"{DRAFT}\n</think>\n\nI cannot judge this image.", False, Verdict(None, Failure.NO_SCORES)),
        (f"{DRAFT}\n</think>\n\n<analysis>['a', 'b', 'c']</analysis><score>{GOOD}</score>", False, Verdict(SCORES)),
        (f'{DRAFT}\n</think>\n\n<analysis>["a', True, Verdict(None, Failure.NO_SCORES)),
        (f"{DRAFT}</thinking><score>{GOOD}</score>", False, Verdict(SCORES)),
        (f"<think>{DRAFT} <think> {DRAFT}</think>{DRAFT}</think><score>{GOOD}</score>", False, Verdict(SCORES)),
        (f"<score>{GOOD}</score><think>{DRAFT}</think>", False, Verdict(SCORES)),
        (f"<think></think><score>{GOOD}</score><think>{DRAFT}", False, Verdict(SCORES)),
        (f"<think>{DRAFT} <score>{GOOD}</score></description>", False, Verdict(None, Failure.NO_SCORES)),
        # At the token limit, only scores at the end are final.
        (f"Let me think. {DRAFT}", True, Verdict(None, Failure.NO_SCORES)),
        (f"<analysis>['a', 'b', 'c']</analysis><score>{GOOD}</score>", True, Verdict(SCORES)),
        (f"<analysis>['a', 'b', 'c']</analysis><score>{GOOD}</score>\n</description>\n", True, Verdict(SCORES)),
        (f"<score>{GOOD}</score><analysis>['a', ", True, Verdict(None, Failure.NO_SCORES)),
        (f"<score>{GOOD}</score> <score>[1, ", True, Verdict(None, Failure.NO_SCORES)),
    ],
)
def test_a_draft_is_not_the_answer(text: str, truncated: bool, expected: Verdict) -> None:
    assert read_answer(text, 3, truncated) == expected


def test_an_unclosed_analysis_is_accepted_if_the_answer_ends_after_the_scores() -> None:
    for end in ("</description>", "\n</description>\n```\n"):
        assert read_answer(f"<description><analysis>['It's a tree.'\n<score>{GOOD}</score>{end}", 3) == Verdict(SCORES)


def test_words_between_score_tags_are_ignored() -> None:
    text = f"The element <score> holds what </score> says. <score>{GOOD}</score>"
    assert read_answer(text, 3) == Verdict(SCORES)


scores = st.lists(st.integers(0, 1), min_size=1, max_size=12)
without_tags = st.text(max_size=300).filter(
    lambda text: not re.search(r"<[ \t]*/?[ \t]*(score|analysis|think)", text, re.I)
)
pieces = st.sampled_from(
    [
        *("<score>", "</score>", "<analysis>", "</analysis>", "<think>", "</think>", "[", "]", "[1, 0, 1]", "[0, 1]"),
        *(
            "1",
            "0",
            ",",
            "2",
            "'",
            '"',
            "```",
            "\n",
            " ",
            "</description>",
            "树",
            "True",
            "0.5",
            "<score>[1, 0, 1]</score>",
        ),
    ]
)


@given(scores, without_tags, without_tags)
def test_scores_do_not_depend_on_surrounding_text(given_scores: list[int], analysis: str, after: str) -> None:
    text = f"<analysis>{analysis}</analysis><score>{given_scores}</score>{after}"
    assert read_answer(text, len(given_scores)) == Verdict(tuple(given_scores))


@given(st.lists(pieces, max_size=40).map("".join) | st.text(max_size=300), st.integers(0, 5))
def test_any_text_has_its_literal_scores_or_a_reason(text: str, points: int) -> None:
    verdict = read_answer(text, points)
    assert (verdict.scores is None) is (verdict.failure is not None)
    if verdict.scores is not None:
        assert len(verdict.scores) == points
        lists = re.findall(r"<score>\s*(\[[^\[\]]*\])\s*</score>", text)
        assert any(tuple(ast.literal_eval(one)) == verdict.scores for one in lists)


@given(scores, without_tags, st.data())
def test_a_truncated_answer_has_its_own_scores_or_none(
    given_scores: list[int], analysis: str, data: st.DataObject
) -> None:
    text = f"<analysis>{analysis} <score>[0]</score></analysis><score>{given_scores}</score></description>"
    verdict = read_answer(text[: data.draw(st.integers(0, len(text)))], len(given_scores))
    assert verdict.scores in (None, tuple(given_scores))


@given(scores, st.data())
def test_one_invalid_value_is_a_failure(given_scores: list[int], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(given_scores) - 1))
    wrong = data.draw(
        st.integers().filter(lambda one: one not in (0, 1)) | st.floats() | st.text(max_size=5) | st.none()
    )
    values = [*given_scores[:place], wrong, *given_scores[place + 1 :]]
    assert check_scores(values, len(values)) == Verdict(None, Failure.NOT_BINARY)


@pytest.mark.parametrize("values", [None, 3, "101", b"101", {"a": 1}, {1, 0}])
def test_values_other_than_lists(values: object) -> None:
    assert check_scores(values, 3) == Verdict(None, Failure.NOT_A_LIST)


@pytest.mark.parametrize("values", [[True, False, True], [1.0, 0, 1], [1, 0, "1"], [1, 0, None], [1, 0, [1]]])
def test_only_whole_numbers_are_scores(values: object) -> None:
    assert check_scores(values, 3) == Verdict(None, Failure.NOT_BINARY)


@given(st.lists(pieces, max_size=40).map("".join))
def test_thinking_is_removed_once(text: str) -> None:
    assert without_thinking(without_thinking(text)) == without_thinking(text)
