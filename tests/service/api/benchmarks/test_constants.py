"""Constants read from a source's syntax: texts and mappings, and nothing that would have to be run."""

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
    ("source", "told"),
    [
        ("", "X is not assigned"),
        ("if True:\n    X = 'a'", "X is not assigned"),
        ("A = X = 'a'", "X is not assigned"),
        ("X, Y = 'ab'", "X is not assigned"),
        ("X = Y", "Y is not assigned"),
        ("X = X", "X is made of itself"),
        ("X = Y\nY = 'a' + X", "X is made of itself"),
        ("X = 'a'\nX = 'b'", "X is changed after it was assigned"),
        ("X = 'a'\nX += 'b'", "X is changed"),
        ("X = {'a': 'b'}\nX['a'] = 'c'", "X is changed"),
        ("X = {'a': 'b'}\nX.update(a='c')", "X is changed"),
        ("X = 'a'\ndel X", "X is changed"),
        ("X = 'a'\nfor X in 'b': pass", "X is changed"),
        ("X = 'a'\nif True:\n    X = 'b'", "X is changed"),
        ("X = 3", "line 1: '3' is neither a text nor a mapping"),
        ("X = f'{1}'", "neither"),
        ("X = 'a'.strip()", "neither"),
        ("X = 'a' * 3", "neither"),
        ("X = 'a' + {'b': 'c'}", "neither"),
        ("\nX = open('/etc/passwd').read()", "line 2: "),
        ("X = {**{'a': 'b'}}", "must have texts for its keys"),
        ("X = {'a': 'b', 'a': 'c'}", "each once"),
        ("X = {1: 'b'}", "neither"),
        ("X = [", "this is no Python"),
        ("X = '\x00'", "this is no Python"),
        ("X = " + "(" * 10_000, "this is no Python"),
    ],
)
def test_whatever_only_running_it_would_tell_is_refused(source: str, told: str) -> None:
    with pytest.raises(Unreadable, match=told):
        Constants(source.encode()).value("X")


def test_nothing_is_executed(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    source = f"open({str(trace)!r}, 'w').write('ran')\nX = 'a'\nraise SystemExit(1)\n"
    assert Constants(source.encode()).value("X") == "a"
    assert not trace.exists()


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=50)))
def test_a_mapping_is_what_its_text_means(value: dict[str, str]) -> None:
    try:
        source = f"X = {value!r}".encode()
    except UnicodeEncodeError:
        return
    assert Constants(source).value("X") == value


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(source: bytes) -> None:
    with contextlib.suppress(Unreadable):
        Constants(source).value("X")
