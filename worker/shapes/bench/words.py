"""The words of the benchmark's captions, and what those of them mean that take some knowledge of the world."""

from types import MappingProxyType

from worker.shapes.grammar import BACKGROUNDS, COLOURS, SHAPES, SIZES
from worker.shapes.grammar import VOCABULARY as FIRST_VOCABULARY

OUTLINED, STRIPED = "outlined", "striped"
STYLES = (OUTLINED, STRIPED)
"""Told of an object; one of which nothing is told may be solid."""
SOLID, UPRIGHT, TILTED = "solid", "upright", "tilted"
UP = "up"
POINTING = (UP, "down", "left", "right")
"""The poses of triangles; the others are upright, but that crosses may be tilted."""

PLURALS = MappingProxyType({shape: "crosses" if shape == "cross" else f"{shape}s" for shape in SHAPES})
SINGULARS = MappingProxyType({many: one for one, many in PLURALS.items()})

NUMBERS = MappingProxyType({"two": 2, "three": 3, "four": 4})
LETTERS, DIGITS = ("C", "E", "F", "H", "L", "P", "T", "U"), ("2", "3", "4", "7")
"""No A, which in small letters is the article."""

COLOUR_HINTS = MappingProxyType(
    {
        "blood": "red",
        "grass": "green",
        "the sky": "blue",
        "lemons": "yellow",
        "plums": "purple",
        "carrots": "orange",
    }
)
"""`the colour of HINT`."""
SHAPE_HINTS = MappingProxyType(
    {
        "with three sides": ("triangle",),
        "with four sides": ("square", "diamond"),
        "with no corners": ("circle",),
        "like a plus sign": ("cross",),
    }
)
"""`a shape HINT`, and the shapes that it fits."""

SIDES = ("left of", "right of", "above", "below")
DEPTHS = ("in front of", "behind")
CONTACTS = ("touching", "apart from")
COMPARISONS = ("larger than", "smaller than")
INSIDE, SAME_COLOUR, AND = "inside", "the same colour as", "and"
RELATIONS = (*SIDES, *DEPTHS, *CONTACTS, *COMPARISONS, INSIDE, SAME_COLOUR, AND)
MIRROR = MappingProxyType(
    {
        "left of": "right of",
        "right of": "left of",
        "above": "below",
        "below": "above",
        "in front of": "behind",
        "behind": "in front of",
        "larger than": "smaller than",
        "smaller than": "larger than",
        **{name: name for name in (*CONTACTS, SAME_COLOUR, AND)},
    }
)
"""`A RELATION B` says the same as `B MIRROR[RELATION] A`; `inside` has none."""

CORNERS = ("top left corner", "top right corner", "bottom left corner", "bottom right corner")
MIDDLE = "middle"
PLACES = (*CORNERS, MIDDLE)
LINES = ("row", "column")
AS_MANY, MORE = "as many", "more"

_PHRASES = (
    *("an", *NUMBERS, *STYLES, TILTED, "pointing", *POINTING, *PLURALS.values(), "shape"),
    *(*COLOUR_HINTS, *SHAPE_HINTS, "the colour of", *RELATIONS, *PLACES, *LINES, "in the", AS_MANY, MORE, "than"),
    *("either", "or", "and it is", "both are", "the former", "the latter", "without any", "all of one colour"),
    *("letter", "digit", *LETTERS, *DIGITS),
)
VOCABULARY = tuple(dict.fromkeys((*FIRST_VOCABULARY, *" ".join(_PHRASES).lower().split())))
"""Every word of a caption, those of the smaller world first and in its order: weights of that one can be taken over."""

__all__ = ["BACKGROUNDS", "COLOURS", "SHAPES", "SIZES"]
