"""Comparisons drawn, fit for print: a panel per metric, one legend, colours and dashes that all readers tell apart."""

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, MaxNLocator

from service.api.curves.comparison_schemas import Band, ComparedSeries, Comparison
from service.api.curves.figure import unit

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Without its yellow, which is faint on white: M. Okabe and K. Ito, Color Universal Design (2008)."""
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
_MARKERS = ("", "o", "s")
"""Colours and dashes, 7 and 4, are taken in turn: 28 pairs, and then again with markers."""
_SIZE = 8.0
"""Of all letters, in points."""
_DPI = 200
_MM = 1 / 25.4
"""In inches."""
_PANEL, _COLUMNS = 55.0, 3
"""Least width of a panel in millimetres, and most panels side by side."""
_LOW, _HIGH, _ASPECT = 38.0, 75.0, 0.72
"""Least and greatest height of a panel in millimetres, and its height by its width in between."""
_LETTER = 1.7
"""Millimetres of a letter, on average."""
_MARKS = 12
"""Markers along a line."""
_BANDS: dict[Band, str] = {
    "ci95": "95% CI of the mean",
    "std": "mean ± std",
    "minmax": "least to greatest",
}
_AXES = {"step": "optimizer step", "nfe": "NFE", "seconds": "training time"}
_TIMES = ((7200.0, 3600.0, "h"), (300.0, 60.0, "min"), (0.0, 1.0, "s"))
"""From so many seconds on, the unit's seconds and its sign."""

Styles = Mapping[tuple[str, str], dict[str, Any]]
"""By kind and name of what is shown."""


def draw(comparison: Comparison, width_mm: float, form: Literal["png", "svg"]) -> bytes:
    """A figure of the comparison, `width_mm` millimetres wide: vectors as SVG, 200 dots an inch as PNG.

    The same comparison gives the same bytes.
    """
    matplotlib.rcParams["svg.hashsalt"] = "g2rpo"  # the same names in every SVG; never set to anything else
    metrics = list(dict.fromkeys(one.metric for one in comparison.series))
    names = list(dict.fromkeys((one.kind, one.name) for one in comparison.series))
    styles: Styles = {name: _style(index) for index, name in enumerate(names)}
    columns = max(1, min(_COLUMNS, int(width_mm // _PANEL), len(metrics)))
    rows = max(1, math.ceil(len(metrics) / columns))
    height_mm = rows * min(_HIGH, max(_LOW, _ASPECT * width_mm / columns))
    figure = Figure(figsize=(width_mm * _MM, height_mm * _MM), layout=ConstrainedLayoutEngine(wspace=0.04, hspace=0.04))
    FigureCanvasAgg(figure)
    for index, metric in enumerate(metrics):
        axes = figure.add_subplot(rows, columns, index + 1)
        _panel(axes, [one for one in comparison.series if one.metric == metric], styles, comparison)
    if metrics:
        legend = _legend(figure, comparison, styles, width_mm)
        above = legend.get_window_extent().height / figure.dpi
        figure.set_size_inches(width_mm * _MM, height_mm * _MM + above)
    else:
        axes = figure.add_subplot()
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no metrics yet", ha="center", va="center", fontsize=_SIZE, transform=axes.transAxes)
    drawn = io.BytesIO()
    figure.savefig(drawn, format=form, dpi=_DPI, metadata={"Date": None} if form == "svg" else None)
    return drawn.getvalue()


def _panel(axes: Axes, series: Sequence[ComparedSeries], styles: Styles, comparison: Comparison) -> None:
    furthest = max(one.x[-1] for one in series)
    scale, sign = next((scale, sign) for least, scale, sign in _TIMES if furthest >= least)
    if comparison.x != "seconds":
        scale, sign = 1.0, ""
    for one in series:
        style = styles[one.kind, one.name]
        x, values = [place / scale for place in one.x], _drawable(one.values)
        axes.plot(x, values, markevery=max(1, len(x) // _MARKS), **style)
        lonely = [index for index in range(len(x)) if _is_lonely(values, index)]
        axes.plot([x[index] for index in lonely], [values[index] for index in lonely], ".", color=style["color"])
        if one.low is not None and one.high is not None:
            low, high = _drawable(one.low), _drawable(one.high)
            axes.fill_between(x, low, high, color=style["color"], alpha=0.18, linewidth=0)
    axes.set_title(series[0].metric, fontsize=_SIZE, parse_math=False, wrap=True)
    axes.set_xlabel(_AXES[comparison.x] + (f" ({sign})" if sign else ""), fontsize=_SIZE)
    axes.set_ylabel(unit(series[0].metric), fontsize=_SIZE, parse_math=False)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=comparison.x != "seconds"))
    if comparison.x == "nfe":
        axes.xaxis.set_major_formatter(EngFormatter(sep="\N{THIN SPACE}"))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.tick_params(labelsize=_SIZE)
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_offset_text().set_fontsize(_SIZE)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.margins(x=0.02)


def _legend(figure: Figure, comparison: Comparison, styles: Styles, width_mm: float) -> Legend:
    """One for all panels, above them, in as many columns as there is room for."""
    sizes = {(one.kind, one.name): 0 for one in comparison.series}
    for one in comparison.series:
        sizes[one.kind, one.name] = max(sizes[one.kind, one.name], len(one.runs))
    handles: list[Artist] = [Line2D([], [], **styles[name]) for name in sizes]
    texts = [f"{name} (n = {sizes[kind, name]})" if kind == "group" else name for kind, name in sizes]
    if any(one.low is not None for one in comparison.series):
        handles.append(Patch(facecolor="0.5", alpha=0.3, linewidth=0))
        texts.append(_BANDS[comparison.band])
    letters = max(10, int((width_mm - 20) / _LETTER))
    texts = [textwrap.fill(_printable(text), letters) for text in texts]
    columns = len(texts)
    while True:
        legend = figure.legend(
            handles,
            [str(number) for number in range(len(texts))],
            loc="outside upper center",
            ncols=columns,
            fontsize=_SIZE,
            frameon=False,
            handlelength=2.6,
            columnspacing=1.4,
        )
        for shown, text in zip(legend.get_texts(), texts, strict=True):
            shown.set_parse_math(False)
            shown.set_text(text)
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return legend
        legend.remove()
        columns -= 1


def _style(index: int) -> dict[str, Any]:
    return {
        "color": _COLOURS[index % len(_COLOURS)],
        "linestyle": _DASHES[index % len(_DASHES)],
        "marker": _MARKERS[index // (len(_COLOURS) * len(_DASHES)) % len(_MARKERS)],
        "linewidth": 1.2,
        "markersize": 4,
    }


def _is_lonely(values: Sequence[float], index: int) -> bool:
    """Whether a value has no neighbour to which a line could be drawn."""
    around = values[max(0, index - 1) : index + 2]
    return not math.isnan(values[index]) and sum(not math.isnan(value) for value in around) == 1


def _drawable(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)
