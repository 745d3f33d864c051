"""Checks of uploaded safetensors files with bounded time and memory: the header before it is parsed, and the values."""

import json
from pathlib import Path
from typing import Any

from service.contracts.json_limits import check_json

MAX_TENSORS = 10_000
MAX_HEADER_BYTES = 16 * 2**20
_VALUES_PER_TENSOR = 10
"""JSON values of a tensor: its object, the type, the shape and the offsets."""
_EXPONENTS = {"F32": ("<u4", 0x7F800000), "F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80)}
"""Unsigned type and exponent bits of the data types. A value whose exponent bits are all set is NaN or infinite."""
_BLOCK_BYTES = 2**20


def check_header(path: Path) -> None:
    """Raise ValueError if the header is too long or has too many tensors. Call this before the file is opened."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > MAX_HEADER_BYTES:
            raise ValueError(f"the header has {size} bytes; the maximum is {MAX_HEADER_BYTES}")
        try:
            check_json(file.read(size), MAX_TENSORS * _VALUES_PER_TENSOR)
        except ValueError as error:
            raise ValueError(f"the header has {error}; the maximum is {MAX_TENSORS} tensors") from error


def check_finite(path: Path) -> None:
    """Raise ValueError, naming the tensor, if a valid file contains NaN or an infinite value."""
    import numpy as np  # most routes do not need it

    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        entries: dict[str, Any] = json.loads(file.read(size))
        for name, entry in entries.items():
            if name == "__metadata__" or entry["dtype"] not in _EXPONENTS:
                continue
            dtype, mask = _EXPONENTS[entry["dtype"]]
            start, end = entry["data_offsets"]
            file.seek(8 + size + start)
            for left in range(end - start, 0, -_BLOCK_BYTES):
                bits = np.frombuffer(file.read(min(left, _BLOCK_BYTES)), dtype)
                if (bits & mask == mask).any():
                    raise ValueError(f"the tensor {name[:120]} has NaN or infinite values")
