"""The vocabulary of captions. The basic world uses only the first words, the benchmark's world all of them."""

SIZES = ("small", "large")
COLORS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("circle", "square", "triangle", "diamond", "cross")
BACKGROUNDS = ("white", "gray", "black")
SIDES = ("left of", "right of", "above", "below")

BASIC_VOCABULARY = ("a", "on", *SIZES, *COLORS, *SHAPES, *BACKGROUNDS, "left", "right", "of", "above", "below")
"""All words in captions of the basic world, in tokenizer order."""

OUTLINED, STRIPED = "outlined", "striped"
STYLES = (OUTLINED, STRIPED)
SOLID, UPRIGHT, TILTED = "solid", "upright", "tilted"
"""The default style, the default pose, and the other pose of crosses."""
UP = "up"
POINTING = (UP, "down", "left", "right")
"""The poses of triangles."""

PLURALS = {shape: "crosses" if shape == "cross" else f"{shape}s" for shape in SHAPES}
SINGULARS = {plural: shape for shape, plural in PLURALS.items()}
NUMBERS = {"two": 2, "three": 3, "four": 4}
LETTERS, DIGITS = ("C", "E", "F", "H", "L", "P", "T", "U"), ("2", "3", "4", "7")
"""Letters and digits that images can show. The letter A is excluded, because in lower case it is the article."""
GLYPHS = (*LETTERS, *DIGITS)

COLOR_HINTS = {
    "blood": "red",
    "grass": "green",
    "the sky": "blue",
    "lemons": "yellow",
    "plums": "purple",
    "carrots": "orange",
}
"""Colors by hint, as in `the colour of HINT`. Captions use British spelling because the weights were trained on it."""
SHAPE_HINTS = {
    "with three sides": ("triangle",),
    "with four sides": ("square", "diamond"),
    "with no corners": ("circle",),
    "like a plus sign": ("cross",),
}
"""Matching shapes by hint, as in `a shape HINT`."""

DEPTHS = ("in front of", "behind")
CONTACTS = ("touching", "apart from")
COMPARISONS = ("larger than", "smaller than")
INSIDE, SAME_COLOR, AND = "inside", "the same colour as", "and"
RELATIONS = (*SIDES, *DEPTHS, *CONTACTS, *COMPARISONS, INSIDE, SAME_COLOR, AND)
MIRROR = {
    **{one: other for pair in (SIDES[:2], SIDES[2:], DEPTHS, COMPARISONS) for one, other in (pair, pair[::-1])},
    **{name: name for name in (*CONTACTS, SAME_COLOR, AND)},
}
"""Mirrored relations: `A RELATION B` is equivalent to `B MIRROR[RELATION] A`. `inside` has none."""

CORNERS = ("top left corner", "top right corner", "bottom left corner", "bottom right corner")
MIDDLE = "middle"
POSITIONS = (*CORNERS, MIDDLE)
LINES = ("row", "column")
AS_MANY, MORE = "as many", "more"

_PHRASES = (
    *("an", *NUMBERS, *STYLES, TILTED, "pointing", *POINTING, *PLURALS.values(), "shape"),
    *(*COLOR_HINTS, *SHAPE_HINTS, "the colour of", *RELATIONS, *POSITIONS, *LINES, "in the", AS_MANY, MORE, "than"),
    *("either", "or", "and it is", "both are", "the former", "the latter", "without any", "all of one colour"),
    *("letter", "digit", *GLYPHS),
)
VOCABULARY = tuple(dict.fromkeys((*BASIC_VOCABULARY, *" ".join(_PHRASES).lower().split())))
"""All words in captions. The basic world's words come first, so that training can start from its weights."""
