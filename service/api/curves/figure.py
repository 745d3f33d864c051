"""Draw curves and comparisons, with one panel per metric. Importing this module imports matplotlib."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, MaxNLocator

from service.api.curves.schemas import MAX_METRICS, Band, ComparedSeries, Comparison, Curve, Curves, Kind
from service.api.figures import Form, line_style, new_figure, save

_PANEL_MM, _MAX_COLUMNS = 55.0, 3
"""The minimum width of a panel, and the maximum number of panels in a row."""
_MIN_HEIGHT_MM, _MAX_HEIGHT_MM, _ASPECT = 38.0, 75.0, 0.72
"""The minimum and maximum height of a panel, and the ratio of height to width between these limits."""
_LETTER_MM = 1.7
"""Average width of a character in millimeters."""
_MAX_MARKERS = 12
_BANDS: dict[Band, str] = {"ci95": "95% CI of the mean", "std": "mean ± std", "minmax": "min to max"}
_X_LABELS = {"step": "optimizer step", "nfe": "NFE", "seconds": "training time"}
_TIME_UNITS = ((7200.0, 3600.0, "h"), (300.0, 60.0, "min"), (0.0, 1.0, "s"))
"""Time units: the minimum length of the axis in seconds, the unit in seconds, and its symbol."""
_FAMILIES = (
    "heldout",
    "reward",
    "anchor",
    "kl",
    "ratio",
    "grad_norm",
    "spread",
    "advantage",
    "failures",
    "zero_std_fraction",
)
"""Metric families in panel order. Other families follow by name.

The family is the part of a metric name before the first slash.
"""
_ACRONYMS = {"blip", "clip", "hps", "kl", "nfe"}
_UNITS = {
    "heldout": "reward",
    "reward": "reward",
    "anchor": "reward",
    "spread": "standard deviation",
    "advantage": "advantage",
    "failures": "failed samples",
    "seconds": "seconds",
    "nfe": "NFE",
    "images": "images",
    "memory": "bytes",
}
"""The label of the y axis, by metric family."""

Values = Sequence[float | None]


def draw_curves(curves: Curves, title: str, form: Form, *, pairs: int | None, zeros: bool) -> bytes:
    """Draw the curves of one run like a comparison, with at most 24 metrics.

    Curves that are always 0 appear only if `zeros` is true. pairs: number of held-out pairs.
    """
    found = sorted((one for one in curves.curves if zeros or any(value != 0 for value in one.values)), key=_rank)
    constant, omitted = len(curves.curves) - len(found), max(0, len(found) - MAX_METRICS)
    series = [
        ComparedSeries.model_construct(
            name=title,
            kind="run",
            runs=[curves.run_id],
            metric=curve.name,
            x=[float(step) for step in curve.steps],
            values=curve.values,
            low=curve.min,
            high=curve.max,
            n=[1] * len(curve.steps),
        )
        for curve in found[:MAX_METRICS]
    ]
    warnings = [f"{omitted} more metrics not shown"] if omitted else []
    warnings += [f"metrics that are always 0: {constant} not shown"] if constant else []
    comparison = Comparison.model_construct(
        x="step", unit="optimizer steps", band="minmax", heldout_pairs=pairs, series=series, warnings=warnings
    )
    return draw_comparison(comparison, 240, form)


def draw_comparison(comparison: Comparison, width_mm: float, form: Form) -> bytes:
    """Draw a comparison of runs and groups with a single legend. The figure is `width_mm` wide."""
    metrics = list(dict.fromkeys(series.metric for series in comparison.series))
    names = dict.fromkeys((series.kind, series.name) for series in comparison.series)
    styles = {name: line_style(index) for index, name in enumerate(names)}
    scale, x_label = 1.0, _X_LABELS[comparison.x]
    if comparison.x == "seconds":
        longest = max((series.x[-1] for series in comparison.series), default=0.0)
        scale, unit = next((scale, unit) for minimum, scale, unit in _TIME_UNITS if longest >= minimum)
        x_label += f" ({unit})"
    figure, panels = _panels(metrics, width_mm, x_label, comparison.heldout_pairs, integer=comparison.x != "seconds")
    for axes, metric in zip(panels, metrics, strict=True):
        if comparison.x == "nfe":
            axes.xaxis.set_major_formatter(EngFormatter(sep="\N{THIN SPACE}"))
        for series in comparison.series:
            if series.metric == metric:
                x = [value / scale for value in series.x]
                _plot(axes, x, series.values, series.low, series.high, styles[series.kind, series.name])
    if comparison.warnings:
        letters = max(10, int(width_mm / _LETTER_MM))
        lines = [line for text in comparison.warnings for line in textwrap.wrap(_printable(text), letters)]
        width, height = figure.get_size_inches()
        figure.set_size_inches(width, height + 0.14 * len(lines))
        figure.supxlabel("\n".join(lines), fontsize="small", color="#A03000")
    if metrics:
        legend = _legend(figure, comparison, styles, width_mm)
        width, height = figure.get_size_inches()
        figure.set_size_inches(width, height + legend.get_window_extent().height / figure.dpi)
    return save(figure, form)


def readable(metric: str, pairs: int | None = None) -> str:
    """Return a readable metric name, such as `Held-out CLIP score, 128 pairs` for `heldout/clip_score`."""
    words = metric.replace("heldout/", "held-out ").replace("/", " ").replace("_", " ").split(" ")
    text = " ".join(word.upper() if word in _ACRONYMS else word for word in words)
    count = f", {pairs} pairs" if pairs and metric.startswith("heldout/") else ""
    return text[:1].upper() + text[1:] + count


def _panels(
    metrics: Sequence[str], width_mm: float, x_label: str, pairs: int | None, *, integer: bool = True
) -> tuple[Figure, list[Axes]]:
    """Create a figure with an empty panel for each metric. Returns the figure and its panels."""
    columns = max(1, min(_MAX_COLUMNS, int(width_mm // _PANEL_MM), len(metrics)))
    rows = max(1, math.ceil(len(metrics) / columns))
    panel_height = min(_MAX_HEIGHT_MM, max(_MIN_HEIGHT_MM, _ASPECT * width_mm / columns))
    figure = new_figure(width_mm, rows * panel_height, ConstrainedLayoutEngine(wspace=0.04, hspace=0.04))
    panels = [figure.add_subplot(rows, columns, index + 1) for index in range(len(metrics))]
    for axes, metric in zip(panels, metrics, strict=True):
        family, _, name = metric.partition("/")
        axes.set_title(readable(metric, pairs), wrap=True)
        axes.set_xlabel(x_label)
        axes.set_ylabel(_UNITS.get(family, name or family.replace("_", " ")))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=integer))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    if not metrics:
        figure.text(0.5, 0.5, "no metrics yet", ha="center", va="center")
    return figure, panels


def _plot(
    axes: Axes, x: Sequence[float], values: Values, low: Values | None, high: Values | None, style: dict[str, Any]
) -> list[Artist]:
    """Plot a line, with a band if there is one, and return the drawn artists."""
    y = np.array(values, float)
    handles: list[Artist] = [*axes.plot(x, y, markevery=max(1, len(x) // _MAX_MARKERS), **style)]
    known = np.pad(np.isfinite(y), 1)
    isolated = known[1:-1] & ~known[:-2] & ~known[2:]  # matplotlib connects neighboring points only
    axes.plot(np.array(x)[isolated], y[isolated], ".", color=style["color"])
    if low is not None and high is not None:
        edges = np.array(low, float), np.array(high, float)
        handles.append(axes.fill_between(x, *edges, color=style["color"], alpha=0.18, linewidth=0))
    return handles


def _legend(
    figure: Figure, comparison: Comparison, styles: Mapping[tuple[Kind, str], dict[str, Any]], width_mm: float
) -> Legend:
    """Add a single legend above all panels, with as many columns as fit."""
    runs = {name: max(len(s.runs) for s in comparison.series if (s.kind, s.name) == name) for name in styles}
    handles: list[Artist] = [Line2D([], [], **style) for style in styles.values()]
    labels = [f"{name} (n = {runs[kind, name]})" if kind == "group" else name for kind, name in styles]
    if any(series.low is not None for series in comparison.series):
        handles.append(Patch(facecolor="0.5", alpha=0.3, linewidth=0))
        labels.append(_BANDS[comparison.band])
    letters = max(10, int((width_mm - 20) / _LETTER_MM))
    labels = [textwrap.fill(_printable(label), letters) for label in labels]
    for columns in range(len(labels), 0, -1):
        legend = figure.legend(
            handles, labels, loc="outside upper center", ncols=columns, handlelength=2.6, columnspacing=1.4
        )
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            break
        legend.remove()
    return legend


def _rank(curve: Curve) -> tuple[int, str]:
    family = curve.name.partition("/")[0]
    return _FAMILIES.index(family) if family in _FAMILIES else len(_FAMILIES), curve.name


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)
