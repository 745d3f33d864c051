"""The style shared by all figures. Importing this module imports matplotlib, which takes 0.3 s."""

import io
from typing import Any, Literal

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import LayoutEngine

Form = Literal["png", "svg"]

matplotlib.rcParams.update({
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "axes.xmargin": 0.02,
    "figure.titlesize": "large",
    "font.size": 8,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "svg.hashsalt": "g2rpo",  # makes the element ids reproducible
    "text.parse_math": False,
})  # fmt: skip

_MM = 1 / 25.4
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""The palette of M. Okabe and K. Ito, Color Universal Design (2008), except yellow, which is faint on white."""
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
_MARKERS = ("", "o", "s")


def new_figure(width_mm: float, height_mm: float, layout: LayoutEngine | None = None) -> Figure:
    """Create an empty figure of the given size, with a canvas so that text extents can be measured."""
    figure = Figure(figsize=(width_mm * _MM, height_mm * _MM), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, form: Form, title: str = "") -> bytes:
    """Render a figure as SVG, or as PNG at 200 dots per inch. Identical figures give identical bytes."""
    file = io.BytesIO()
    metadata = {"Title": title, "Date": None} if form == "svg" else {"Title": title}
    figure.savefig(file, format=form, dpi=200, metadata=metadata)
    return file.getvalue()


def line_style(index: int) -> dict[str, Any]:
    """Return the line style with the given index.

    The first 28 lines get distinct pairs of 7 colors and 4 dash patterns; markers distinguish any further lines.
    """
    return {
        "color": _COLORS[index % len(_COLORS)],
        "linestyle": _DASHES[index % len(_DASHES)],
        "marker": _MARKERS[index // (len(_COLORS) * len(_DASHES)) % len(_MARKERS)],
        "linewidth": 1.2,
        "markersize": 4,
    }
