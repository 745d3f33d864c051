"""The official CSV files: rows are read, repaired with a record, or reported by number."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contracts.benchmarks.csv_reader import read_prompts
from service.contracts.benchmarks.dimensions import PRIMARY, SUB, dimension_of, primary_named, primary_of
from service.contracts.benchmarks.official import FILES, OfficialFile
from tests.service.unigenbench import EN, EN_LONG, ZH, about, benchmark, prompts_csv, rows


def problems(data: bytes | str, file: OfficialFile = EN) -> list[str]:
    """The problems of a file."""
    return [str(one) for one in read_prompts(data.encode() if isinstance(data, str) else data, file).problems]


def with_row(number: int, row: list[str]) -> str:
    """A valid file except for row `number` (the header is row 1)."""
    body = rows(EN)
    body[number - 2] = row
    return prompts_csv(EN, body)


def with_json(text: str) -> str:
    return with_row(5, ["3", "a tree", text])


class TestDimensions:
    def test_there_are_10_dimensions_and_27_sub_dimensions(self) -> None:
        assert (len(PRIMARY), len(SUB)) == (10, 27)
        assert {primary_of(name) for name in SUB} == set(PRIMARY)

    @pytest.mark.parametrize(
        ("name", "dimension"),
        [
            ("Action - Non-contact Interaction", "Action - Non-contact Interaction"),
            ("  Attribute -Color ", "Attribute - Color"),
            ("Entity  Layout - Two-Dimensional Space", "Entity Layout - Two-Dimensional Space"),
            ("属性-数量 ", "Attribute - Quantity"),
            ("动作-人物/拟人手部动作", "Action - Hand (Character/Anthropomorphic)"),
            ("Attribute", None),
            ("Attribute - Hue", None),
            ("attribute - color", None),
            ("", None),
        ],
    )
    def test_white_space_is_ignored_and_case_is_not(self, name: str, dimension: str | None) -> None:
        assert dimension_of(name) == dimension

    def test_primary_names_may_have_the_official_scripts_trailing_blank(self) -> None:
        assert [primary_named(f"{name} ") for name in PRIMARY] == list(PRIMARY)
        assert primary_named("复合考点") == "Compound"
        assert primary_named("Attribute - Color") is None


class TestGood:
    def test_every_row_is_a_prompt_with_its_points(self) -> None:
        read = benchmark()
        assert [prompt.index for prompt in read.prompts] == list(range(10))
        assert [point.dimension for prompt in read.prompts for point in prompt.points] == [
            name for start in range(10) for name in SUB[start::10]
        ]
        first = read.prompts[0]
        assert (first.category, first.subcategory, first.subject, first.sentence_structure) == (
            *("Trees", "Oaks"),
            *("Tree", "Descriptive"),
        )
        assert first.points[1].description == "what 1 is"

    def test_chinese_names_mean_the_same_dimensions_and_are_kept_for_the_judge(self) -> None:
        chinese, english = (
            [point for prompt in benchmark(file=file).prompts for point in prompt.points] for file in (ZH, EN)
        )
        assert [point.dimension for point in chinese] == [point.dimension for point in english]
        assert [point.name for point in chinese[:2]] == ["风格", "动作-人物/拟人全身动作"]

    def test_a_byte_order_mark_line_ends_and_empty_lines_do_not_matter(self) -> None:
        plain = prompts_csv(EN)
        for data in ("\ufeff" + plain, plain.replace("\n", "\r\n"), plain + "\n\n"):
            assert problems(data) == []

    def test_other_columns_and_another_order_do_not_matter(self) -> None:
        body = [[about_, index, "more", text] for index, text, about_ in rows(EN)]
        lines = prompts_csv(EN, body).splitlines(keepends=True)
        assert problems("".join(["sub_dims_en,index,note,prompt_en\n", *lines[1:]])) == []

    def test_a_repeated_dimension_is_accepted_because_points_have_positions(self) -> None:
        text = json.dumps(about(["Attribute - Color", "Attribute - Color"], "en"))
        read = read_prompts(with_json(text).encode(), EN)
        assert not read.problems
        assert [one.description for one in read.prompts[3].points] == ["what 0 is", "what 1 is"]

    def test_a_file_that_is_not_the_official_one_is_marked_as_such(self) -> None:
        assert not benchmark().pinned

    def test_the_fingerprint_depends_only_on_the_content(self) -> None:
        same, other = (
            benchmark((prompts_csv(EN) + "\n").encode()),
            benchmark(with_json(json.dumps(about(SUB, "en"))).encode()),
        )
        assert same.content_sha256 == benchmark().content_sha256 != other.content_sha256
        assert same.data_sha256 != benchmark().data_sha256


class TestRepair:
    BROKEN = json.dumps(about(["Style", "Attribute - Color"], "en")).replace('"Style", ', '"Style"  ')

    def test_one_missing_comma_between_two_strings_is_repaired_and_recorded(self) -> None:
        read = read_prompts(with_json(self.BROKEN).encode(), EN)
        assert read.problems == []
        [repair] = read.repairs
        assert (repair.row, repair.index) == (5, 3)
        assert repair.description == 'added a comma between "Style" and "Attribute - Color"'
        assert [one.name for one in read.prompts[3].points] == ["Style", "Attribute - Color"]

    @pytest.mark.parametrize(
        "text",
        [
            BROKEN.replace('"what 0 is", ', '"what 0 is" '),  # two commas
            BROKEN.replace('"Style"  ', '"Style"'),  # no space: possibly an unescaped quotation mark
            BROKEN.replace('"Style"  ', '"Style"; '),
            BROKEN.replace('"Style"  ', "Style, "),
            BROKEN[:-1],
            BROKEN.replace('"Style"  "Attribute - Color"', '"Style" "Attribute - Color" "Grammar - Negation"'),
            BROKEN.replace('["Style"  ', '["A "Style" '),
            json.dumps(about(["Style"], "en"))[:-1] + ",}",
        ],
    )
    def test_other_faults_are_not_repaired(self, text: str) -> None:
        read = read_prompts(with_json(text).encode(), EN)
        assert read.repairs == []
        [problem] = read.problems
        assert (problem.row, problem.index) == (5, 3)
        assert "invalid JSON at character" in problem.description

    def test_a_repaired_row_must_be_valid_otherwise(self) -> None:
        read = read_prompts(with_json(self.BROKEN.replace('"what 0 is", ', "")).encode(), EN)
        assert read.repairs == []
        assert [str(one) for one in read.problems] == ["row 5 (index 3): 2 test points have 1 descriptions"]


class TestBadRows:
    @pytest.mark.parametrize(
        ("row", "message"),
        [
            (["3", "a tree"], "row 5: the row has 2 columns, fewer than the header"),
            (["x", "a tree", "{}"], "row 5: invalid index 'x'; must be an integer from 0 to 999999"),
            (["-1", "a tree", "{}"], "invalid index '-1'"),
            (["3.0", "a tree", "{}"], "invalid index '3.0'"),
            (["٣", "a tree", "{}"], "invalid index"),
            (["1", "a tree", "{}"], "row 5 (index 1): duplicate index, first in row 3"),
            (["3", " ", json.dumps(about(["Style"], "en"))], "row 5 (index 3): the prompt is empty"),
            (["3", "a" * 10_001, json.dumps(about(["Style"], "en"))], "the prompt has 10001 characters"),
            (["3", "a\x00b", json.dumps(about(["Style"], "en"))], "the prompt has a NUL character"),
        ],
    )
    def test_cells(self, row: list[str], message: str) -> None:
        [problem] = problems(with_row(5, row))
        assert message in problem

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "invalid JSON at character 1"),
            ("[]", "not an object"),
            ("[" * 100_000, "invalid JSON"),
            ('{"a": 1, "a": 2}', "a name occurs twice"),
            ('{"a": ' + "9" * 5000 + "}", "invalid JSON"),
            (json.dumps(about(["Style"], "en", Subjects=None)), "'Subjects' is missing"),
            (json.dumps(about(["Style"], "en", Subjects=3)), "'Subjects' must be a string"),
            (json.dumps(about(["Style"], "en", Subjects="a\x00")), "'Subjects' must be a string"),
            (json.dumps(about(["Style"], "en", Subjects="\ud800")), "'Subjects' must be a string"),
            (json.dumps(about(["Style"], "en", Testpoints=None)), "'Testpoints' is missing"),
            (json.dumps(about([], "en")), "'Testpoints' must be a nonempty list of strings"),
            (json.dumps(about(["Style"], "en", Testpoints=["Style", 3])), "must be a nonempty list of strings"),
            (json.dumps(about(["Style"], "en", Testpoints="Style")), "must be a nonempty list of strings"),
            (json.dumps(about(["Style", "Attribute - Shape"], "en", **{"Testpoint Description": ["a"]})),
             "2 test points have 1 descriptions"),
            (json.dumps(about(["Style", "Attribute - Smell"], "en")),
             "test point 2 has the unknown dimension 'Attribute - Smell'"),
            (json.dumps(about(["Style"], "zh")), "'Testpoints' is missing"),
        ],
    )  # fmt: skip
    def test_json(self, text: str, message: str) -> None:
        [problem] = problems(with_json(text))
        assert problem.startswith("row 5 (index 3): ")
        assert message in problem

    def test_every_bad_row_is_reported_and_the_others_are_read(self) -> None:
        body = rows(EN)
        body[0][2], body[4][0], body[9][2] = "{", "2", json.dumps(about(["Style"], "en", Subjects=None))
        read = read_prompts(prompts_csv(EN, body).encode(), EN)
        assert [(one.row, one.index) for one in read.problems] == [(2, 0), (6, 2), (11, 9)]
        assert [one.index for one in read.prompts] == [1, 2, 3, 5, 6, 7, 8]

    def test_a_row_in_another_encoding_is_reported_once(self) -> None:
        body = rows(EN)
        body[3][1] = "a trée"
        data = prompts_csv(EN, body).encode("latin-1")
        assert problems(data) == ["row 5 (index 3): the row is not UTF-8"]


class TestBadFiles:
    @pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-be"])
    def test_other_encodings(self, encoding: str) -> None:
        assert len(problems(prompts_csv(EN).encode(encoding))) == 1

    def test_utf_16_is_named(self) -> None:
        assert problems(prompts_csv(ZH).encode("utf-16"), ZH) == ["row 1: the file is UTF-16; save it as UTF-8"]

    def test_every_row_of_a_file_in_gb18030_is_reported(self) -> None:
        read = read_prompts(prompts_csv(ZH).encode("gb18030"), ZH)
        assert [one.row for one in read.problems] == list(range(2, 12))

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"", "row 1: the file is empty"),
            (b"\n\n", "these columns must occur exactly once: index, prompt_en, sub_dims_en; the header has none"),
            (b"index,prompt_zh,sub_dims_zh\n", "these columns must occur exactly once: prompt_en, sub_dims_en"),
            (b"index,prompt_en,sub_dims_en,index\n", "these columns must occur exactly once: index"),
            (b'index,prompt_en,sub_dims_en\n0,"never closed\n1,a,b\n', "row 2: invalid CSV"),
            (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "row 1:"),
        ],
    )
    def test_other_files_are_rejected(self, data: bytes, message: str) -> None:
        [problem] = problems(data)
        assert message in problem

    @given(st.binary(max_size=300))
    def test_no_bytes_raise_other_exceptions(self, data: bytes) -> None:
        for start in (b"", b"index,prompt_en,sub_dims_en\n"):
            read = read_prompts(start + data, EN)
            assert read.problems or read.prompts or start


class TestOfficial:
    @pytest.fixture(scope="class")
    def read(self, shared: Path) -> dict[str, Any]:
        directory = shared / "data" / "unigenbench"
        return {file.name: read_prompts((directory / Path(file.path).name).read_bytes(), file) for file in FILES}

    def test_all_four_are_read_and_pinned(self, read: dict[str, Any]) -> None:
        for file in FILES:
            one = read[file.name]
            assert one.pinned and not one.problems
            assert sorted(prompt.index for prompt in one.prompts) == list(range(600))
            assert sum(len(prompt.points) for prompt in one.prompts) == (1813 if file.length == "short" else 3920)

    def test_the_one_repair_is_recorded(self, read: dict[str, Any]) -> None:
        repairs = {name: one.repairs for name, one in read.items() if one.repairs}
        assert list(repairs) == [EN_LONG.name]
        [repair] = repairs[EN_LONG.name]
        assert (repair.index, repair.row) == (509, 511)
        assert repair.description == 'added a comma between "Grammar - Negation" and "Attribute - Color"'

    @pytest.mark.parametrize("length", ["", "-long"])
    def test_chinese_and_english_have_the_same_dimensions_in_the_same_order(
        self, read: dict[str, Any], length: str
    ) -> None:
        english, chinese = read[f"unigenbench-en{length}"].prompts, read[f"unigenbench-zh{length}"].prompts
        met = defaultdict(set)
        for one, other in zip(english, chinese, strict=True):
            assert one.index == other.index
            for a, b in zip(one.points, other.points, strict=True):
                assert a.dimension == b.dimension
                met[b.name].add(a.name)
        assert len(met) == 27 and all(len(names) == 1 for names in met.values())
