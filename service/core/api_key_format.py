"""Generate API keys, and check their format without the database.

A key consists of `g2k_`, 32 random characters (190 bits) and a CRC-32 of both in 6 characters. All characters after the
prefix are from 0-9A-Za-z. The checksum distinguishes a mistyped key from an unknown one, and secret scanners can find
leaked keys by their format.
"""

import hashlib
import re
import secrets
import string
import zlib

PREFIX = "g2k_"
PREFIX_LENGTH = 12
"""Number of leading characters that are stored and shown. The other 24 random characters (142 bits) are secret."""
_DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_RANDOM, _CHECK = 32, 6
LENGTH = len(PREFIX) + _RANDOM + _CHECK
_FORM = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{_RANDOM + _CHECK}}}")


def new_secret() -> str:
    """Generate a random key."""
    body = PREFIX + "".join(secrets.choice(_DIGITS) for _ in range(_RANDOM))
    return body + _checksum(body)


def check_format(secret: str) -> None:
    """Check a key's format and checksum. Raises ValueError, whose message does not contain the key."""
    if not _FORM.fullmatch(secret):
        raise ValueError(f"a key consists of {PREFIX} and {LENGTH - len(PREFIX)} letters and digits")
    if secret[-_CHECK:] != _checksum(secret[:-_CHECK]):
        raise ValueError("the checksum of the key is wrong; check for typing errors")


def prefix_of(secret: str) -> str:
    """Return the part of a key that identifies it and is not secret."""
    return secret[:PREFIX_LENGTH]


def digest_of(secret: str) -> str:
    """Return the SHA-256 of a key in hexadecimal, which is stored. Keys are random, so no salt is needed."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _checksum(body: str) -> str:
    number, base = zlib.crc32(body.encode()), len(_DIGITS)
    return "".join(_DIGITS[number // base**power % base] for power in reversed(range(_CHECK)))
