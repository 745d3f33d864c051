"""Letters and digits: 3x5 blocks each, drawn three pixels to the block. All are connected, and differ in a block."""

import torch
from torch import Tensor

BLOCK = 3
"""Pixels; thinner strokes do not survive the autoencoder."""
WIDTH, HEIGHT = 3 * BLOCK, 5 * BLOCK

_ROWS = {
    "C": "### #.. #.. #.. ###",
    "E": "### #.. ### #.. ###",
    "F": "### #.. ### #.. #..",
    "H": "#.# #.# ### #.# #.#",
    "L": "#.. #.. #.. #.. ###",
    "P": "### #.# ### #.. #..",
    "T": "### .#. .#. .#. .#.",
    "U": "#.# #.# #.# #.# ###",
    "2": "### ..# ### #.. ###",
    "3": "### ..# ### ..# ###",
    "4": "#.# #.# ### ..# ..#",
    "7": "### ..# ..# ..# ..#",
}


def glyph(sign: str) -> Tensor:
    """The sign's pixels [15, 9]: 1 where there is ink."""
    ink = torch.tensor([[float(block == "#") for block in row] for row in _ROWS[sign].split()])
    return ink.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)


GLYPHS = {sign: glyph(sign) for sign in _ROWS}
