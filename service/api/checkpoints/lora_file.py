"""Read LoRA files (safetensors) as float32 without loading them as a whole, and write them tensor by tensor."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safetensors import safe_open

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float32]
Shape = tuple[int, ...]
DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_ALPHA_DTYPES = {**DTYPES, "F64": "<f8", "I64": "<i8"}
METADATA = "lora_adapter_metadata"
"""The name under which diffusers stores the PEFT configuration in a file's metadata."""


@dataclass(frozen=True)
class LoraLayer:
    """The update α/rank · up · down of a layer. `read` returns down [rank, columns] and up [rows, rank]."""

    rank: int
    rows: int
    columns: int
    alpha: float | None
    """None if the file states no α."""
    read: "Callable[[], tuple[Array, Array]]"


class TensorFile:
    """The tensors of a safetensors file, which is mapped into memory. Raises SafetensorError if it is invalid."""

    def __init__(self, path: Path) -> None:
        import numpy as np  # takes 0.1 s, so it is imported for the first file instead of at startup

        with safe_open(path, framework="numpy") as checked:
            self.metadata: Mapping[str, str] = checked.metadata() or {}
        self._data = np.memmap(path, np.uint8, "r")
        self._start = 8 + int.from_bytes(self._data[:8].tobytes(), "little")
        entries = json.loads(self._data[8 : self._start].tobytes())
        self._entries: dict[str, Any] = {name: entry for name, entry in entries.items() if name != "__metadata__"}
        self.shapes: dict[str, Shape] = {name: tuple(entry["shape"]) for name, entry in self._entries.items()}
        self.types: dict[str, str] = {name: entry["dtype"] for name, entry in self._entries.items()}

    def read(self, name: str) -> "Array":
        """Return a tensor, converted to float32."""
        import numpy as np

        start, end = (self._start + offset for offset in self._entries[name]["data_offsets"])
        raw = self._data[start:end].view(_ALPHA_DTYPES[self.types[name]]).reshape(self.shapes[name])
        if self.types[name] == "BF16":  # the upper half of a float32
            return (raw.astype(np.uint32) << 16).view(np.float32)
        return raw.astype(np.float32)

    def read_alpha(self, name: str) -> float:
        """Return a scalar tensor with seven digits, the precision of float32, or NaN if the tensor is not scalar."""
        if self.types[name] not in _ALPHA_DTYPES or math.prod(self.shapes[name]) != 1:
            return math.nan
        return rounded(self.read(name).item())

    def layer(self, down: str, up: str, alpha: str | None) -> LoraLayer:
        """Return the layer of the named tensors, which must be matrices of one rank."""
        (rank, columns), rows = self.shapes[down], self.shapes[up][0]
        stated = None if alpha is None else self.read_alpha(alpha)
        return LoraLayer(rank, rows, columns, stated, lambda: (self.read(down), self.read(up)))


def rounded(value: float) -> float:
    """Return the value rounded to the seven decimal digits that float32 can represent."""
    return float(f"{value:.7g}")


class Content(NamedTuple):
    """A file that is created block by block."""

    size: int
    blocks: Iterator[bytes]


def serialize(shapes: Mapping[str, Shape], values: "Iterable[Array]", metadata: Mapping[str, str]) -> Content:
    """Write float32 tensors, in the order of `shapes`, as a safetensors file."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": (start, end)}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)

    def blocks() -> Iterator[bytes]:
        yield len(encoded).to_bytes(8, "little") + encoded
        for value in values:
            yield value.astype("<f4").tobytes()

    return Content(8 + len(encoded) + end, blocks())


def diffusers_content(layers: Mapping[str, LoraLayer], scales: Mapping[str, float], rank: int, alpha: float) -> Content:
    """Return the file in diffusers format with one rank and α for all layers.

    `scales` are the factors of up · down. Layers of a lower rank are extended with zeros, and `up` is multiplied where
    the scale is not α/rank.
    """
    shapes: dict[str, Shape] = {}
    for name, layer in layers.items():
        shapes[f"transformer.{name}.lora_A.weight"] = (rank, layer.columns)
        shapes[f"transformer.{name}.lora_B.weight"] = (layer.rows, rank)

    def values() -> "Iterator[Array]":
        import numpy as np

        for name, layer in layers.items():
            down, up = layer.read()
            factor = scales[name] / (alpha / rank)
            yield np.pad(down, ((0, rank - layer.rank), (0, 0)))
            yield np.pad(up if math.isclose(factor, 1) else up * np.float32(factor), ((0, 0), (0, rank - layer.rank)))

    config = {"r": rank, "lora_alpha": alpha, "target_modules": sorted(layers), "peft_type": "LORA"}
    return serialize(shapes, values(), {METADATA: json.dumps({f"transformer.{k}": v for k, v in config.items()})})
