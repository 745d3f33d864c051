"""Result files of the official scripts: scores, counted failures, and rows of other benchmarks."""

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contracts.benchmarks.dimensions import SUB
from service.contracts.benchmarks.judge_answers import Failure
from service.contracts.benchmarks.results import Answers, Counts, read_csv, read_json, read_lines
from tests.service.unigenbench import ZH, answer, benchmark, result_row, results_csv

BENCHMARK = benchmark()


def read(*rows: dict[str, Any]) -> Answers:
    return read_csv(io.StringIO(results_csv(rows), newline=""), BENCHMARK)


def verdict(**changes: Any) -> Any:
    """The scores of an image of prompt 0, which has three test points."""
    found = read(result_row(0, 2, (1, 0, 1), **changes))
    assert not found.problems, found.problems
    return found.answers[0].verdict


class TestCsv:
    def test_every_row_is_an_answer_on_its_image(self) -> None:
        found = read(result_row(0, 0, (1, 0, 1)), result_row(0, 3, (0, 0, 0)), result_row(7, 0, (1, 1)))
        assert [(one.index, one.image_index, one.verdict.scores) for one in found.answers] == [
            *((0, 0, (1, 0, 1)), (0, 3, (0, 0, 0)), (7, 0, (1, 1))),
        ]
        assert not found.problems

    @pytest.mark.parametrize(
        "text",
        [
            "{'analysis': ['a', 'b', 'c'], 'score': [1, 0, 1]}",
            '{"score": [1, 0, 1], "analysis": ["it\'s", "\\u00e9", "\\n"]}',
            "{'analysis': [\"it's\", '\\'', 'x'], 'score': [1, 0, 1], 'more': {'deep': [None, True, 1.5]}}",
        ],
    )
    def test_results_may_be_json_or_python_literals(self, text: str) -> None:
        assert verdict(result_json=text, output="").scores == (1, 0, 1)

    @pytest.mark.parametrize("path", ["0_2.png", "a/b/0_2.jpg", "C:\\images\\0_2.webp", "/x/5_5.png/0_2.png"])
    def test_the_image_is_the_end_of_the_path(self, path: str) -> None:
        [one] = read(result_row(0, 2, (1, 0, 1), img_path=path)).answers
        assert (one.index, one.image_index) == (0, 2)

    def test_chinese_files(self) -> None:
        text = results_csv([result_row(0, 0, (1, 0, 1), ZH)])
        found = read_csv(io.StringIO(text, newline=""), benchmark(file=ZH))
        assert [one.verdict.scores for one in found.answers] == [(1, 0, 1)]


class TestFailures:
    @pytest.mark.parametrize(
        ("text", "failure"),
        [
            ("", Failure.NO_ANSWER),
            ("null", Failure.NO_ANSWER),
            ("nan", Failure.NO_ANSWER),
            ("{}", Failure.NO_SCORES),
            ("[1, 0, 1]", Failure.NO_SCORES),
            ("score: [1, 0, 1]", Failure.NO_SCORES),
            ("{'score': [1, 0, 1]", Failure.NO_SCORES),
            ("{'score': '[1, 0, 1]'}", Failure.NOT_A_LIST),
            ("{'score': (1, 0, 1)}", Failure.NO_SCORES),
            ("{'score': [1, 0, 2]}", Failure.NOT_BINARY),
            ("{'score': [1, 0, True]}", Failure.NOT_BINARY),
            ("{'score': [1, 0, 1.0]}", Failure.NOT_BINARY),
            ("{'score': [1, 0]}", Failure.WRONG_COUNT),
            ("{'score': [1, 0, 1, 1]}", Failure.WRONG_COUNT),
            ("{'score': __import__('os').abort()}", Failure.NO_SCORES),
            ("{'score': [1, 0, 1], 'a': f'{1}'}", Failure.NO_SCORES),
            ("{'score': " + "[" * 5000 + "]" * 5000 + "}", Failure.NO_SCORES),
            ("-" * 100_000 + "1", Failure.NO_SCORES),
            ("'''a',''' " + "[" * 5000, Failure.NO_SCORES),
        ],
    )
    def test_results_without_scores_are_counted_not_guessed(self, text: str, failure: Failure) -> None:
        assert verdict(result_json=text, output="").failure is failure

    def test_answers_that_the_script_lost_are_recovered(self) -> None:
        stray = answer((1, 0, 1)).replace("I looked at 1", "it's 1")
        [one] = read(result_row(0, 0, (0, 0, 0), result_json="null", output=stray)).answers
        assert (one.verdict.scores, one.recovered) == ((1, 0, 1), True)

    def test_the_output_has_the_reason_of_a_failure(self) -> None:
        assert verdict(result_json="null", output="<score>[1, 0]</score>").failure is Failure.WRONG_COUNT
        assert verdict(result_json="null", output="I cannot").failure is Failure.NO_SCORES

    def test_the_result_of_the_script_has_priority(self) -> None:
        [one] = read(result_row(0, 0, (1, 0, 1), output=answer((0, 0, 0)))).answers
        assert (one.verdict.scores, one.recovered) == ((1, 0, 1), False)


class TestRowsThatDoNotBelong:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"index": "1"}, "index '1' differs from that of its image 0_2"),
            ({"index": "00"}, "index '00' differs from that of its image"),
            ({"img_path": "zero.png"}, "invalid img_path 'zero.png'; must end in INDEX_NUMBER.png"),
            ({"img_path": ""}, "invalid img_path"),
            ({"img_path": "11_0.png", "index": "11"}, "the benchmark has no prompt 11"),
            ({"testpoint": "['Style']"}, "the test points differ from those of prompt 0 in the benchmark"),
            ({"testpoint": ""}, "the test points differ"),
            ({"prompt": "another tree"}, "the prompt differs from prompt 0 of the benchmark"),
            ({"testpoint": "['Smell', 'Style', 'Style']"}, "the test points differ"),
        ],
    )
    def test_bad_rows_are_reported_by_number(self, changes: dict[str, str], message: str) -> None:
        found = read(result_row(1, 0, (1, 1, 1)), result_row(0, 2, (1, 0, 1), **changes))
        [problem] = found.problems
        assert problem.row == 3 and message in problem.description
        assert len(found.answers) == 1

    def test_a_duplicate_image_counts_once_and_is_reported(self) -> None:
        found = read(result_row(0, 2, (1, 1, 1)), result_row(0, 2, (0, 0, 0)))
        assert [one.verdict.scores for one in found.answers] == [(1, 1, 1)]
        assert [str(one) for one in found.problems] == ["row 3: duplicate image 0_2, first in row 2"]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "row 1: missing columns: index, testpoint, result_json, img_path"),
            ("index,prompt\n0,a\n", "row 1: missing columns: testpoint, result_json, img_path"),
            ('index,testpoint,result_json,img_path\n0,"a', "row 2: invalid CSV"),
            ("index,testpoint,result_json,img_path\n0\n", "row 2: invalid img_path 'None'"),
            ('index,testpoint,result_json,img_path\n"' + ("a" * 99_999 + "\n") * 21, "row 2: invalid CSV"),
            (f"{','.join(map(str, range(5000)))}\n", "row 1: 5000 columns; the maximum is 64"),
        ],
    )
    def test_other_files(self, text: str, message: str) -> None:
        found = read_csv(io.StringIO(text, newline=""), BENCHMARK)
        assert message in str(found.problems[0]) and not found.answers


class TestJson:
    def test_json_and_json_lines_equal_the_csv(self) -> None:
        rows = [result_row(0, 0, (1, 0, 1)), result_row(3, 0, (1, 0, 1), result_json="null", output=None)]
        expected = read(*rows).answers
        listed, lines = json.dumps(rows), "\n".join(map(json.dumps, rows)) + "\n\n"
        assert read_json(io.StringIO(listed), BENCHMARK) == Answers(expected)
        assert read_lines(io.StringIO(lines), BENCHMARK) == Answers(expected)

    def test_results_may_be_nested_json(self) -> None:
        row = result_row(0, 0, (1, 0, 1))
        row |= {"index": 0, "testpoint": json.loads(row["result_json"])["testpoint"], "output": ""}
        row["result_json"] = json.loads(row["result_json"])
        found = read_json(io.StringIO(json.dumps([row])), BENCHMARK)
        assert isinstance(found, Answers) and found.answers[0].verdict.scores == (1, 0, 1)

    def test_lines_that_are_not_rows_are_reported(self) -> None:
        found = read_lines(io.StringIO('{\n3\n"text"\n' + "[" * 100_000 + "\n"), BENCHMARK)
        assert [one.row for one in found.problems] == [1, 2, 3, 4]

    @pytest.mark.parametrize(
        "text", ["{}", "3", "null", '"a"', '{"primary_dimensions": {}}', '{"a":' * 100_000, "{", "NaN"]
    )
    def test_other_json(self, text: str) -> None:
        with pytest.raises(ValueError):
            read_json(io.StringIO(text), BENCHMARK)

    @pytest.mark.parametrize("end", ["", ",", "]x", "}", ",]", "[", "[" * 100_000, '"'])
    def test_error_in_a_list_is_reported_after_its_rows(self, end: str) -> None:
        found = read_json(io.StringIO(f" [ {json.dumps(result_row(0, 0, (1, 0, 1)))}\n{end}"), BENCHMARK)
        assert isinstance(found, Answers) and len(found.answers) == 1
        assert [one.row for one in found.problems] == [2]
        assert "invalid JSON" in found.problems[0].description

    def test_rows_of_a_long_list_are_read_in_parts(self) -> None:
        rows = [result_row(0, number, (1, 0, 1), output="é" * 200_000) for number in range(12)]
        for ascii in (True, False):
            found = read_json(io.StringIO(json.dumps(rows, ensure_ascii=ascii)), BENCHMARK)
            assert isinstance(found, Answers) and len(found.answers) == 12

    def test_reading_stops_after_20_invalid_rows(self) -> None:
        checks: list[int] = []
        found = read_json(io.StringIO("[" + "{}," * 100_000 + "{}]"), BENCHMARK, lambda: checks.append(1))
        assert isinstance(found, Answers) and len(found.problems) == len(checks) == 20

    @given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda one: st.lists(one, max_size=3) | st.dictionaries(st.sampled_from(["index", "testpoint", "result_json", "output", "img_path", "score", "primary_dimensions", "sub_dimensions"]), one, max_size=4)))  # fmt: skip  # noqa: E501
    def test_other_exceptions_are_never_raised(self, value: Any) -> None:
        try:
            found = read_json(io.StringIO(json.dumps(value)), BENCHMARK)
        except ValueError:
            return
        assert isinstance(found, Counts) or not found.answers or found.answers[0].index == 0


class TestSummary:
    @staticmethod
    def summary(**changes: Any) -> str:
        value: dict[str, Any] = {
            "primary_dimensions": {"Style": {"correct": 3, "total": 4}, "Attribute ": {"correct": 3, "total": 9}},
            "sub_dimensions": {
                "Style": {"correct": 3, "total": 4, "accuracy": 0.75},
                "Attribute - Color": {"correct": 1, "total": 4},
                "Attribute - Shape": {"correct": 2, "total": 5},
            },
        }
        for part, entries in changes.items():
            value[part] = {key: one for key, one in (value[part] | entries).items() if one is not None}
        return json.dumps(value)

    def test_its_counts_are_those_of_the_sub_dimensions(self) -> None:
        found = read_json(io.StringIO(self.summary()), BENCHMARK)
        assert found == Counts({"Style": (3, 4), "Attribute - Color": (1, 4), "Attribute - Shape": (2, 5)})
        assert found.sub.keys() < set(SUB)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"primary_dimensions": {"Style": {"correct": 2, "total": 4}}}, "'Style' has"),
            ({"primary_dimensions": {"Attribute ": None}}, "'Attribute' has"),
            ({"primary_dimensions": {"Smell": {"correct": 2, "total": 4}}}, "unknown dimension 'Smell'"),
            ({"sub_dimensions": {"Attribute": {"correct": 2, "total": 4}}}, "unknown dimension 'Attribute'"),
            ({"sub_dimensions": {"风格": {"correct": 2, "total": 4}}}, "repeated dimension '风格'"),
            ({"sub_dimensions": {"Style": {"correct": 5, "total": 4}}}, "'Style' must have integers"),
            ({"sub_dimensions": {"Style": {"correct": 1.0, "total": 4}}}, "'Style' must have integers"),
            ({"sub_dimensions": {"Style": {"correct": True, "total": 4}}}, "'Style' must have integers"),
            ({"sub_dimensions": {"Style": 4}}, "'Style' must have integers"),
        ],
    )
    def test_a_contradictory_summary_is_invalid(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            read_json(io.StringIO(self.summary(**changes)), BENCHMARK)
