"""Constants read from a source's syntax tree: strings and mappings, without executing anything."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.benchmarks.constants import Constants, Unreadable


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("X = 'a'", "a"),
        ("X: str = 'a'", "a"),
        ("X = 'a' 'b'\n", "ab"),
        ("X = 'a' + B + 'c'\nB = 'b'", "abc"),
        ("A = {'x': B, 'y': {'z': 'c'}}\nB = 'b'\nX = A", {"x": "b", "y": {"z": "c"}}),
        ("X = '''a\n  {prompt}\n'''", "a\n  {prompt}\n"),
        ("# -*- coding: latin-1 -*-\nX = '\xe9'".encode("latin-1"), "é"),
        ("import os\nfrom x import y\nX = 'a'\nprint(X)\ndef f():\n    global X\n    X = 'b'\n", "a"),
    ],
)
def test_texts_mappings_sums_and_names(source: str | bytes, value: object) -> None:
    constants = Constants(source.encode() if isinstance(source, str) else source)
    assert "X" in constants
    assert constants.value("X") == value


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "X is not assigned"),
        ("if True:\n    X = 'a'", "X is not assigned"),
        ("A = X = 'a'", "X is not assigned"),
        ("X, Y = 'ab'", "X is not assigned"),
        ("X = Y", "Y is not assigned"),
        ("X = X", "X refers to itself"),
        ("X = Y\nY = 'a' + X", "X refers to itself"),
        ("X = 'a'\nX = 'b'", "X is changed after its assignment"),
        ("X = 'a'\nX += 'b'", "X is changed"),
        ("X = {'a': 'b'}\nX['a'] = 'c'", "X is changed"),
        ("X = {'a': 'b'}\nX.update(a='c')", "X is changed"),
        ("X = 'a'\ndel X", "X is changed"),
        ("X = 'a'\nfor X in 'b': pass", "X is changed"),
        ("X = 'a'\nif True:\n    X = 'b'", "X is changed"),
        ("X = 3", "line 1: '3' is not a string, a mapping or a name"),
        ("X = f'{1}'", "is not a string"),
        ("X = 'a'.strip()", "is not a string"),
        ("X = 'a' * 3", "is not a string"),
        ("X = 'a' + {'b': 'c'}", "is not a string"),
        ("\nX = open('/etc/passwd').read()", "line 2: "),
        ("X = {**{'a': 'b'}}", "keys of a mapping must be different strings"),
        ("X = {'a': 'b', 'a': 'c'}", "must be different strings"),
        ("X = {1: 'b'}", "is not a string"),
        ("X = [", "invalid Python"),
        ("X = '\x00'", "invalid Python"),
        ("X = " + "(" * 10_000, "invalid Python"),
    ],
)
def test_other_values_are_unreadable(source: str, message: str) -> None:
    with pytest.raises(Unreadable, match=message):
        Constants(source.encode()).value("X")


def test_nothing_is_executed(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    source = f"open({str(trace)!r}, 'w').write('ran')\nX = 'a'\nraise SystemExit(1)\n"
    assert Constants(source.encode()).value("X") == "a"
    assert not trace.exists()


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=50)))
def test_a_mapping_has_the_value_of_its_literal(value: dict[str, str]) -> None:
    try:
        source = f"X = {value!r}".encode()
    except UnicodeEncodeError:
        return
    assert Constants(source).value("X") == value


@given(st.binary(max_size=200))
def test_other_exceptions_are_never_raised(source: bytes) -> None:
    with contextlib.suppress(Unreadable):
        Constants(source).value("X")
