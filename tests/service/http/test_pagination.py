"""Pagination cursors."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from service.http.errors import Invalid
from service.http.pagination import decode_cursor, encode_cursor

KEY = TypeAdapter(tuple[int, str, uuid.UUID])
STORABLE = st.characters(codec="utf-8", exclude_characters="\x00")


@given(st.tuples(st.integers(-(2**31), 2**31 - 1), st.text(STORABLE, max_size=30), st.uuids()))
def test_a_cursor_decodes_to_its_key(key: tuple[int, str, uuid.UUID]) -> None:
    assert decode_cursor(encode_cursor(*key), KEY) == key


@given(st.text(max_size=60))
def test_other_texts_are_rejected_as_a_query_field(cursor: str) -> None:
    with pytest.raises(Invalid) as raised:
        decode_cursor(cursor, KEY)
    assert raised.value.extensions["errors"][0]["loc"] == ["query", "cursor"]


@pytest.mark.parametrize("key", [(2**31, "a"), (-(2**31) - 1, "a"), (10**30, "a"), (1, "a\x00b")])
def test_a_key_out_of_range_is_rejected(key: tuple[int, str]) -> None:
    with pytest.raises(Invalid):
        decode_cursor(encode_cursor(*key, uuid.UUID(int=1)), KEY)
