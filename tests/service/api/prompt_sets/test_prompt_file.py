"""Uploaded prompt files: normalization, duplicates, splits, and the errors of invalid files."""

import csv
import io
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.prompt_sets.prompt_file import MAX_ERRORS, MAX_INPUT_BYTES, normalize_file, split
from service.contracts.prompts import Counts, Format, normalized, read_prompts
from service.http.errors import Invalid

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=60)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prompts")


def read(directory: Path, data: bytes, format: Format = "text", most: int = 1000, skip: bool = False) -> Any:
    """The prompts of a normalized file, the counts, and the errors of skipped lines."""
    (directory / "sent").write_bytes(data)
    counts, errors = normalize_file(directory / "sent", directory / "normalized", format, most, skip)
    return list(read_prompts(directory / "normalized")), counts, errors


def refusal(directory: Path, data: bytes, format: Format = "text", **how: Any) -> str:
    with pytest.raises(Invalid) as raised:
        read(directory, data, format, **how)
    return str(raised.value.detail)


class TestNormalized:
    @given(TEXT)
    def test_normalizing_is_idempotent(self, text: str) -> None:
        once = normalized(text)
        assert normalized(once) == once == unicodedata.normalize("NFC", once)
        assert once.split(" ") == once.split() or once == ""

    def test_equal_looking_prompts_are_equal(self) -> None:
        assert normalized(" cafe\u0301\t au\u00a0\u3000lait ") == "café au lait"

    @pytest.mark.parametrize("text", ["a\x00b", "a\x1bb", "a\x7fb", "a\ud800b", "a" * 2001])
    def test_invalid_prompts(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"control character|surrogate|2001 characters; allowed: 1 to 2000"):
            normalized(text)


class TestEveryFormat:
    @given(st.lists(TEXT, min_size=1, max_size=30))
    def test_prompts_are_unique_in_order_of_first_occurrence(self, directory: Path, texts: list[str]) -> None:
        expected = list(dict.fromkeys(prompt for text in texts if (prompt := normalized(text))))
        table = io.StringIO()
        csv.writer(table).writerows([["prompt", "source"], *([text, "mine"] for text in texts)])
        files: dict[Format, str] = {
            "text": "".join(f"{text}\n" for text in texts),
            "jsonl": "".join(json.dumps({"prompt": text}) + "\n" for text in texts),
            "csv": table.getvalue(),
        }
        for format, file in files.items():
            if not expected:
                assert "has no prompts" in refusal(directory, file.encode(), format)
                continue
            prompts, counts, _ = read(directory, file.encode(), format)
            blank = sum(not normalized(text) for text in texts)
            assert prompts == expected, format
            assert counts == Counts(
                lines=len(texts),
                kept=len(expected),
                blank=blank,
                duplicates=len(texts) - blank - len(expected),
                unusable=0,
            )

    def test_metadata_is_that_of_the_first_occurrence(self, directory: Path) -> None:
        read(directory, b'{"prompt":"a","metadata":{"x":[1]}}\n{"prompt":"a","metadata":{"x":2}}\n', "jsonl")
        assert (directory / "normalized").read_bytes() == b'{"prompt":"a","metadata":{"x":[1]}}\n'
        read(directory, b'prompt,source,empty\r\n"a, ""b""\nc",mine,\r\n', "csv")
        assert json.loads((directory / "normalized").read_text()) == {
            "prompt": 'a, "b" c',
            "metadata": {"source": "mine"},
        }

    @pytest.mark.parametrize("format", ["text", "jsonl", "csv"])
    def test_invisible_characters_at_the_ends_do_not_make_another_prompt(self, directory: Path, format: Format) -> None:
        """Concatenated files have a byte order mark in the middle; a joiner inside an emoji is part of it."""
        family = "a family \U0001f468\u200d\U0001f469\u200d\U0001f467 on white"
        signs = ("", "\u200b", "\ufeff", "\ufeff\ufeff", " \u200b\ufeff ", "\u2060")
        texts = [f"{sign}a red circle{sign}" for sign in signs] + ["\u200b\ufeff", family]
        header = {"text": "", "jsonl": "", "csv": "\ufeffprompt,label\n"}[format]
        form = {"text": "{}\n", "jsonl": '\ufeff{{"prompt": "{}"}}\r\n', "csv": "{},x\n"}[format]
        data = "\ufeff" + header + "".join(form.format(text) for text in texts)
        prompts, counts, _ = read(directory, data.encode(), format)
        assert prompts == ["a red circle", family]
        assert (counts.duplicates, counts.blank) == (len(signs) - 1, 1)

    def test_byte_order_mark_and_line_ends_are_ignored(self, directory: Path) -> None:
        assert read(directory, b"\xef\xbb\xbfa red circle\r\na blue square")[0] == ["a red circle", "a blue square"]


class TestRefused:
    @pytest.mark.parametrize(
        ("data", "format", "says"),
        [
            (b"", "text", "The file has no prompts: 0 lines"),
            (b"\n \n\t\n", "text", "3 of them blank"),
            (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "text", "line 1: byte 1 is 0x89, which is invalid UTF-8"),
            (b"fine\nGIF\x00", "text", "line 2: byte 4 is NUL"),
            ("ein roter Kreis\nein grüner".encode("latin-1"), "text", "line 2: byte 7 is 0xfc, which is invalid UTF-8"),
            ("a red circle\n".encode("utf-16"), "text", "in UTF-8"),
            (b"one\rtwo\r", "text", "line 1: carriage return inside the line"),
            (b"fine\n" + b"x" * 2001, "text", "line 2: the prompt has 2001 characters; allowed: 1 to 2000"),
            (b"x" * (3 * MAX_INPUT_BYTES), "text", f"line 1: exceeds the maximum of {MAX_INPUT_BYTES} bytes"),
            (b"x" * (3 * MAX_INPUT_BYTES) + b"\x00", "text", "line 1: NUL byte"),
            (b"a\x1b[31m", "text", "character 2 is a control character, U+001B"),
            (b'{"prompt": "a"\n', "jsonl", "line 1: invalid JSON"),
            (b"[" * 100_000, "jsonl", "line 1: invalid JSON"),
            (b'"a red circle"\n', "jsonl", 'must be a JSON object with a string "prompt"'),
            (b'{"prompt": 1}\n', "jsonl", 'must be a JSON object with a string "prompt"'),
            (b'{"prompt": "a", "label": 1}\n', "jsonl", "unknown field 'label'"),
            (b'{"prompt": "a", "metadata": 1}\n', "jsonl", '"metadata" must be an object'),
            (b'{"prompt": "\\ud800"}\n', "jsonl", "an unpaired surrogate, U+D800"),
            (b'{"prompt": "a", "metadata": {"x": NaN}}\n', "jsonl", "line 1: "),
            (b'{"prompt": "a", "metadata": {"x": "\\ud800"}}\n', "jsonl", "line 1: "),
            (b'{"prompt": "a", "metadata": {"x": "' + b"y" * 5000 + b'"}}\n', "jsonl", "the maximum is 4096"),
            (b"", "csv", "one column `prompt`; found: none"),
            (b"text,label\na,b\n", "csv", "found: 'text', 'label'"),
            (",".join(["prompt", *map(str, range(64))]).encode(), "csv", "65 columns; the maximum is 64"),
            (b"prompt,a,a\nx,y,z\n", "csv", "two columns have the same name"),
            (b"prompt,a\nx\n", "csv", "line 2: the row has 1 cells; the header has 2"),
            (b'prompt\na\n"b\n' + b"c\n" * MAX_INPUT_BYTES, "csv", "line 3: invalid CSV"),
            (b'prompt\n"a"b\n', "csv", "line 2: invalid CSV"),
        ],
    )
    def test_the_error_has_line_finding_and_limit(
        self, directory: Path, data: bytes, format: Format, says: str
    ) -> None:
        assert says in refusal(directory, data, format)

    def test_reading_stops_after_the_maximum_number_of_bad_lines(self, directory: Path) -> None:
        with pytest.raises(Invalid) as raised:
            read(directory, b"\x01\n" * 1000)
        assert [one["loc"] for one in raised.value.extensions["errors"]] == [
            ["body", line] for line in range(1, MAX_ERRORS + 1)
        ]

    def test_too_many_prompts(self, directory: Path) -> None:
        assert "line 4: exceeds the maximum of 2 distinct prompts" in refusal(directory, b"a\nb\na\nc\n", most=2)

    def test_on_request_bad_lines_are_skipped_and_counted(self, directory: Path) -> None:
        prompts, counts, errors = read(directory, b"a\n" + b"\x01\n" * 30 + b"b\n", skip=True)
        assert (prompts, counts.kept, counts.unusable, len(errors)) == (["a", "b"], 2, 30, MAX_ERRORS)
        assert "invalid UTF-8" in refusal(directory, b"a\n\xfc\n", skip=True)


class TestSplit:
    @given(
        st.sets(st.integers(0, 10_000), min_size=2, max_size=40),
        st.one_of(st.floats(0.05, 0.95), st.integers(1, 39).map(float)),
        st.integers(0, 5),
        st.randoms(),
    )
    def test_a_split_does_not_depend_on_the_order(
        self, directory: Path, numbers: set[int], wanted: float, seed: int, shuffling: Any
    ) -> None:
        texts = [f"prompt {number}" for number in numbers]
        sides = []
        for _ in range(2):
            read(directory, "\n".join(texts).encode())
            files = directory / "train", directory / "heldout"
            try:
                counts = split(directory / "normalized", *files, wanted, seed)
            except Invalid as error:
                assert "both sets need at least one prompt" in error.detail
                sides.append(None)
            else:
                train, heldout = (list(read_prompts(file)) for file in files)
                assert counts == (len(train), len(heldout))
                assert not set(train) & set(heldout) and set(train) | set(heldout) == set(texts)
                assert wanted < 1 or len(heldout) == wanted
                sides.append(set(heldout))
            shuffling.shuffle(texts)
        assert sides[0] == sides[1]

    def test_a_longer_file_has_the_same_held_out_prompts_and_more(self, directory: Path) -> None:
        held = []
        for count in (1000, 2000):
            read(directory, "\n".join(f"prompt {number}" for number in range(count)).encode(), most=2000)
            split(directory / "normalized", directory / "train", directory / "heldout", 0.1, seed=7)
            held.append(set(read_prompts(directory / "heldout")))
        assert held[0] < held[1] and 70 < len(held[0]) < 130
