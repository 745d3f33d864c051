"""The text of a key: how it is made, and what it says of itself without the database.

`g2k_`, 32 random characters (190 bits), and the CRC-32 of both in 6 characters, all of 0-9A-Za-z: a mistyped key is
told from an unknown one, and a leaked one is found by searching for its form.
"""

import hashlib
import re
import secrets
import string
import zlib

BEGINNING = "g2k_"
PREFIX_LENGTH = 12
"""Characters that are stored and shown; 24 random ones (142 bits) stay secret."""
_DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_RANDOM, _CHECK = 32, 6
LENGTH = len(BEGINNING) + _RANDOM + _CHECK
_FORM = re.compile(rf"{BEGINNING}[0-9A-Za-z]{{{_RANDOM + _CHECK}}}")


def new_secret() -> str:
    """A key that nobody has had before."""
    body = BEGINNING + "".join(secrets.choice(_DIGITS) for _ in range(_RANDOM))
    return body + _checksum(body)


def check_form(secret: str) -> None:
    """Raise ValueError, which does not show the key, unless it has the form of one."""
    if not _FORM.fullmatch(secret):
        raise ValueError(f"a key is {BEGINNING} and {LENGTH - len(BEGINNING)} letters and digits")
    if secret[-_CHECK:] != _checksum(secret[:-_CHECK]):
        raise ValueError("the checksum is wrong: mistyped?")


def prefix_of(secret: str) -> str:
    """The beginning by which a key is found and told from others."""
    return secret[:PREFIX_LENGTH]


def digest_of(secret: str) -> str:
    """What is stored of a key: its SHA-256, hexadecimal. No salt: its randomness is out of reach of any search."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _checksum(body: str) -> str:
    number, digits = zlib.crc32(body.encode()), ""
    for _ in range(_CHECK):
        number, digit = divmod(number, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return digits
