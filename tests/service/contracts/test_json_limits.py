"""Counting of values and levels in JSON texts before they are parsed."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contracts.json_limits import MAX_DEPTH, check_json

JSON = st.recursive(
    st.none() | st.integers() | st.text('a,[]{}"\\:é', max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('a,[]{}"\\', max_size=4), inner, max_size=4),
    max_leaves=20,
)


def values(value: Any) -> int:
    """The number of values, where an empty list or object counts as one with a value."""
    if not isinstance(value, list | dict):
        return 1
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max(1, sum(map(values, inner)))


@given(JSON, st.booleans())
def test_exactly_the_values_outside_strings_are_counted(value: Any, ascii: bool) -> None:
    text, count = json.dumps(value, ensure_ascii=ascii).encode(), values(value)
    check_json(text, count)
    if count > 1:
        with pytest.raises(ValueError, match=f"more than {count - 1} values"):
            check_json(text, count - 1)


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a": ', "}")])
def test_depth_is_limited(opening: str, closing: str) -> None:
    check_json((opening * MAX_DEPTH + "1" + closing * MAX_DEPTH).encode(), 1000)
    check_json(b"[" + b"[[]]," * 2 * MAX_DEPTH + b'"[[["]', 1000)
    with pytest.raises(ValueError, match="nested more than 64 levels deep"):
        check_json((opening * (MAX_DEPTH + 1) + "1" + closing * (MAX_DEPTH + 1)).encode(), 1000)
