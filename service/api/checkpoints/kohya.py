"""The LoRA format of kohya's sd-scripts, which ComfyUI and other programs also read.

The layers have the names of the original models, which store the projections of an attention layer as one matrix. Each
has a tensor `alpha`; the update is alpha/rank · lora_up · lora_down. The LoRAs of separate projections become one with
the sum of their ranks, whose `lora_up` is block-diagonal.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from service.api.checkpoints.lora_file import Content, LoraLayer, Shape, TensorFile, rounded, serialize
from service.contracts.yaml_file import load_yaml

if TYPE_CHECKING:
    from service.api.checkpoints.lora_file import Array

PREFIX = "lora_unet_"
_NUMBER = re.compile(r"(?<=[._])(0|[1-9]\d{0,2})(?=[._])")
"""The number of a block, the first number in a name."""
_WEIGHTS = {"proj_mlp": 4}
"""Rows of a part of a module relative to the other parts."""


class Module(NamedTuple):
    """A module and the diffusers names of its parts."""

    name: str
    parts: tuple[str, ...]

    @property
    def weights(self) -> list[int]:
        """The rows of the parts relative to each other."""
        return [_WEIGHTS.get(part.rpartition(".")[2], 1) if len(self.parts) > 1 else 1 for part in self.parts]

    def spans(self, rows: int) -> list[slice]:
        """Return the rows of each part in a module with `rows` rows."""
        ends = [rows * end // sum(self.weights) for end in accumulate(self.weights)]
        return [slice(*span) for span in pairwise([0, *ends])]

    def blocks(self, rank: int) -> list[slice]:
        """Return the share of each part in the rank of a module."""
        share = rank // len(self.parts)
        return [slice(number * share, (number + 1) * share) for number in range(len(self.parts))]


@cache
def _modules(family: str) -> dict[str, list[str]]:
    text = Path(__file__).with_name("kohya.yaml").read_text(encoding="utf-8")
    modules: dict[str, list[str]] = load_yaml(text)[family]
    return modules


def find(family: str, name: str) -> Module | None:
    """Return the module with a kohya name such as `double_blocks_0_img_attn_qkv`, or None if there is none."""
    number = _NUMBER.search(name)
    parts = _modules(family).get(_NUMBER.sub("#", name, count=1)) or []
    return Module(name, tuple(part.replace("#", number[0] if number else "") for part in parts)) if parts else None


def module_of(family: str, layer: str) -> Module | None:
    """Return the module that a layer with a diffusers name belongs to, or None if there is none."""
    number, pattern = _NUMBER.search(layer), _NUMBER.sub("#", layer, count=1)
    names = (name for name, parts in _modules(family).items() if pattern in parts)
    return next((find(family, name.replace("#", number[0] if number else "")) for name in names), None)


def layers_of(module: Module, file: TensorFile) -> Iterator[tuple[str, LoraLayer]]:
    """Yield the layers of a module with their diffusers names. Raises ValueError if the rows cannot be divided.

    If `lora_up` is block-diagonal, each part has its own share of the rank, and parts that are zero are omitted.
    """
    base = f"{PREFIX}{module.name}"
    down, up, alpha = f"{base}.lora_down.weight", f"{base}.lora_up.weight", f"{base}.alpha"
    (rank, columns), rows = file.shapes[down], file.shapes[up][0]
    stated = file.read_alpha(alpha) if alpha in file.shapes else float(rank)
    count, total = len(module.parts), sum(module.weights)
    if rows % total:
        raise ValueError(f"{up} has {rows} rows; expected a multiple of {total}")
    spans = module.spans(rows)
    split = count > 1 and rank % count == 0 and _is_block_diagonal(file.read(up), spans, module.blocks(rank))
    shares = module.blocks(rank) if split else [slice(None)] * count
    for name, span, used in zip(module.parts, spans, shares, strict=True):

        def read(span: slice = span, used: slice = used) -> "tuple[Array, Array]":
            return file.read(down)[used], file.read(up)[span, used]

        if split and not any(half.any() for half in read()):
            continue
        share = count if split else 1
        yield name, LoraLayer(rank // share, span.stop - span.start, columns, rounded(stated / share), read)


def _is_block_diagonal(up: "Array", spans: list[slice], blocks: list[slice]) -> bool:
    rest = up.copy()
    for span, block in zip(spans, blocks, strict=True):
        rest[span, block] = 0
    return not rest.any()


def content(family: str, layers: Mapping[str, LoraLayer], alpha: float) -> Content:
    """Return the file in kohya's format for layers of the same rank and `alpha`.

    Raises ValueError if a layer has no counterpart.
    """
    modules: dict[str, Module] = {}
    for layer in layers:
        if (module := module_of(family, layer)) is None:
            raise ValueError(f"the layer {layer} has no name in kohya's format")
        modules[module.name] = module
    shapes: dict[str, Shape] = {}
    for module in modules.values():
        part, weight = next((layers[p], w) for p, w in zip(module.parts, module.weights, strict=True) if p in layers)
        rank, base = part.rank * len(module.parts), f"{PREFIX}{module.name}"
        shapes[f"{base}.alpha"] = ()
        shapes[f"{base}.lora_down.weight"] = (rank, part.columns)
        shapes[f"{base}.lora_up.weight"] = (part.rows // weight * sum(module.weights), rank)

    def values() -> "Iterator[Array]":
        import numpy as np

        for module in modules.values():
            base = f"{PREFIX}{module.name}"
            down = np.zeros(shapes[f"{base}.lora_down.weight"], np.float32)
            up = np.zeros(shapes[f"{base}.lora_up.weight"], np.float32)
            for name, span, block in zip(module.parts, module.spans(len(up)), module.blocks(len(down)), strict=True):
                if name in layers:
                    down[block], up[span, block] = layers[name].read()
            yield np.array(alpha * len(module.parts), np.float32)
            yield down
            yield up

    return serialize(shapes, values(), {})
