"""Curves drawn: one panel per metric. Matplotlib is imported when a figure is asked for."""

import io
import math
from typing import Literal

from service.api.curves.schemas import Curve, Curves

_PANELS = 24
"""Most panels of one figure."""
_ORDER = ("heldout", "reward", "anchor", "spread", "advantage", "failures", "zero_std_fraction")
"""Families in the order in which one looks at them; all others follow by name."""
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
"""By family, the part of a name before its first slash."""


def draw(curves: Curves, title: str, form: Literal["png", "svg"]) -> bytes:
    """A figure of the curves: mean as a line, least to greatest as a band, at most 24 metrics."""
    from matplotlib.figure import Figure  # 0.3 s that no other route has to pay

    shown = sorted(curves.curves, key=_rank)[:_PANELS]
    columns = min(3, max(1, len(shown)))
    rows = max(1, math.ceil(len(shown) / columns))
    figure = Figure(figsize=(1.2 + 4.6 * columns, 0.9 + 2.9 * rows), layout="constrained")
    left_out = len(curves.curves) - len(shown)
    figure.suptitle(title + (f" ({left_out} more metrics not shown)" if left_out else ""), parse_math=False)
    for index, curve in enumerate(shown):
        axes = figure.add_subplot(rows, columns, index + 1)
        values = [math.nan if value is None else value for value in curve.values]
        axes.plot(
            curve.steps,
            values,
            marker="." if len(values) <= 60 else "",
            linewidth=1.4,
            label="mean" if curve.min else "value",
        )
        if curve.min is not None and curve.max is not None:
            low = [math.nan if value is None else value for value in curve.min]
            high = [math.nan if value is None else value for value in curve.max]
            axes.fill_between(curve.steps, low, high, alpha=0.25, linewidth=0, label="min to max")
        axes.set_title(curve.name, fontsize=10, parse_math=False)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel(unit(curve.name), parse_math=False)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    if not shown:
        axes = figure.add_subplot()
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("value")
        axes.text(0.5, 0.5, "no metrics yet", ha="center", va="center", transform=axes.transAxes)
    drawn = io.BytesIO()
    figure.savefig(drawn, format=form, dpi=110, metadata={"Title": title} if form == "png" else {"Date": None})
    return drawn.getvalue()


def unit(name: str) -> str:
    """What a metric's values are of."""
    family, _, part = name.partition("/")
    return _UNITS.get(family, part or family.replace("_", " "))


def _rank(curve: Curve) -> tuple[int, str]:
    family = curve.name.partition("/")[0]
    return _ORDER.index(family) if family in _ORDER else len(_ORDER), curve.name
