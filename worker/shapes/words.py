"""The words of captions. The basic world uses the first of them, the benchmark's world all."""

SIZES = ("small", "large")
COLORS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("circle", "square", "triangle", "diamond", "cross")
BACKGROUNDS = ("white", "gray", "black")
SIDES = ("left of", "right of", "above", "below")

BASIC_VOCABULARY = ("a", "on", *SIZES, *COLORS, *SHAPES, *BACKGROUNDS, "left", "right", "of", "above", "below")
"""Every word of the basic world's captions, in the order of its tokenizers."""

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
"""Without A, which in lower case is the article."""
GLYPHS = (*LETTERS, *DIGITS)

COLOR_HINTS = {
    "blood": "red",
    "grass": "green",
    "the sky": "blue",
    "lemons": "yellow",
    "plums": "purple",
    "carrots": "orange",
}
"""`the colour of HINT`, with the color. Captions keep their British spelling: the weights are trained on it."""
SHAPE_HINTS = {
    "with three sides": ("triangle",),
    "with four sides": ("square", "diamond"),
    "with no corners": ("circle",),
    "like a plus sign": ("cross",),
}
"""`a shape HINT`, with the shapes that match it."""

DEPTHS = ("in front of", "behind")
CONTACTS = ("touching", "apart from")
COMPARISONS = ("larger than", "smaller than")
INSIDE, SAME_COLOR, AND = "inside", "the same colour as", "and"
RELATIONS = (*SIDES, *DEPTHS, *CONTACTS, *COMPARISONS, INSIDE, SAME_COLOR, AND)
MIRROR = {
    **{one: other for pair in (SIDES[:2], SIDES[2:], DEPTHS, COMPARISONS) for one, other in (pair, pair[::-1])},
    **{name: name for name in (*CONTACTS, SAME_COLOR, AND)},
}
"""`A RELATION B` is equivalent to `B MIRROR[RELATION] A`; `inside` has no mirror."""

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
"""Every word of a caption. The basic world's words come first, so that its weights initialize training."""
