"""The format of API keys."""

import hashlib
import re
import zlib

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from service.core import api_key_format

ALPHANUMERIC = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
secrets = st.builds(api_key_format.new_secret)


@given(secrets)
def test_a_new_key_has_the_documented_format(key: str) -> None:
    assert re.fullmatch(r"g2k_[0-9A-Za-z]{38}", key)
    api_key_format.check_format(key)


def test_keys_use_every_character_and_do_not_repeat() -> None:
    keys = [api_key_format.new_secret() for _ in range(2000)]
    assert len(set(keys)) == len(keys)
    assert set("".join(key[4:36] for key in keys)) == set(ALPHANUMERIC)


@given(secrets, st.integers(4, api_key_format.LENGTH - 1), st.sampled_from(ALPHANUMERIC))
def test_one_wrong_character_is_a_checksum_error(key: str, position: int, other: str) -> None:
    assume(key[position] != other)
    with pytest.raises(ValueError, match="checksum of the key is wrong"):
        api_key_format.check_format(key[:position] + other + key[position + 1 :])


@given(secrets, st.integers(4, api_key_format.LENGTH - 2))
def test_two_exchanged_characters_are_a_checksum_error(key: str, position: int) -> None:
    first, second = key[position], key[position + 1]
    assume(first != second)
    with pytest.raises(ValueError, match="checksum"):
        api_key_format.check_format(key[:position] + second + first + key[position + 2 :])


@given(st.text(max_size=60))
def test_another_format_is_rejected_without_showing_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"a key consists of g2k_ and 38 letters and digits|checksum") as raised:
        api_key_format.check_format(text)
    assert len(text) < 5 or text not in str(raised.value)


@given(secrets, st.integers(1, 10))
def test_a_key_of_another_length_is_rejected(key: str, count: int) -> None:
    for wrong in (key[:-count], key + "0" * count, key + "\n", " " + key):
        with pytest.raises(ValueError, match="a key consists of"):
            api_key_format.check_format(wrong)


def test_the_checksum_is_crc32_in_base_62() -> None:
    body = "g2k_" + "0" * 32
    number = 0
    for digit in api_key_format._checksum(body):
        number = number * 62 + ALPHANUMERIC.index(digit)
    assert number == zlib.crc32(body.encode())


@given(secrets)
def test_the_stored_parts_are_the_beginning_and_the_hash(key: str) -> None:
    assert api_key_format.prefix_of(key) == key[:12]
    assert api_key_format.digest_of(key) == hashlib.sha256(key.encode()).hexdigest()
