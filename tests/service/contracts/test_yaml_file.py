"""YAML as the product reads it: plain data, and no key twice."""

from typing import Any

import pytest
import yaml

from service.contracts.yaml_file import load_yaml


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("3", 3),
        ("a: &x {b: 1}\nc: {<<: *x, b: 2}\nd: *x\n", {"a": {"b": 1}, "c": {"b": 2}, "d": {"b": 1}}),
        ("a: {b: {c: &y {<<: &x {k: 1}, k: 2}}}\nd: {<<: *y, k: 3}", {"a": {"b": {"c": {"k": 2}}}, "d": {"k": 3}}),
        ("- {a: 1}\n- {a: 2}", [{"a": 1}, {"a": 2}]),
    ],
)
def test_distinct_keys_and_merged_mappings_are_read(text: str, expected: Any) -> None:
    assert load_yaml(text) == expected


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\na: 2", 2),
        ("a: 1\n'a': 2", 2),
        ("x:\n  y: [{a: 1,\n        a: 2}]", 3),
        ("true: 1\nTrue: 2", 2),
        ("1: 2\n0x1: 3", 2),
        ("? {b: 1,\n   b: 2}\n: 1", 2),
        ("<<: {a: 1}\n<<: {b: 1}", 2),
    ],
)
def test_a_repeated_key_is_an_error_with_its_line(text: str, line: int) -> None:
    with pytest.raises(yaml.MarkedYAMLError, match="occurs more than once, first in line") as raised:
        load_yaml(text)
    assert raised.value.problem_mark is not None and raised.value.problem_mark.line == line - 1


@pytest.mark.parametrize(
    "text", ["a: 2026-13-01", "a: !!timestamp x", "!!python/object:os.system {}", "{", "? [a]\n: 1"]
)
def test_every_invalid_document_is_a_yaml_error(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        load_yaml(text)
