"""Limits on the number of values and the depth of JSON texts, checked before parsing."""

from itertools import accumulate

MAX_DEPTH = 64
_AS_SQUARE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def check_json(text: bytes, max_values: int) -> None:
    """Raise ValueError if a JSON text has more than `max_values` values or is nested more than MAX_DEPTH levels deep.

    A text that is not JSON may pass. Takes milliseconds per megabyte, whereas parsing many small values takes seconds,
    during which no other thread runs.
    """
    opening = text.count(b"[") + text.count(b"{")
    if opening <= MAX_DEPTH and opening + text.count(b",") < max_values:
        return
    outside = b""
    plain = text.replace(b"\\\\", b"").replace(b'\\"', b"")  # quotes now only delimit strings
    if within := plain.count(b'"') <= 4 * max_values:  # at most a name and a string per value
        outside = b"".join(plain.split(b'"')[::2])
    opening = outside.count(b"[") + outside.count(b"{")
    if not within or opening + outside.count(b",") >= max_values:
        raise ValueError(f"more than {max_values} values")
    brackets = outside.translate(_AS_SQUARE, _NO_BRACKETS)[: 2 * max_values]
    if max(accumulate(1 if one == ord("[") else -1 for one in brackets), default=0) > MAX_DEPTH:
        raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
