"""The leaderboard drawn, as the paper prints its table. Matplotlib is imported when a figure is asked for."""

import io
from typing import TYPE_CHECKING

from service.api.leaderboard.schemas import Leaderboard
from service.api.leaderboard.service import heading
from service.contracts.benchmarks.leaderboard import COLUMNS, SHORT, Ranking, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Text

_MODEL, _COLUMN, _LINE, _SIZE = 2.6, 1.05, 0.3, 10
"""Inches: width of the first column and of the others, height of a line; points: size of letters."""
_MOST = 60
"""Rows that a figure has room for."""


def draw(board: Leaderboard) -> bytes:
    """A PNG with a table per ranking: the best value bold, the second underlined."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # 0.3 s that no other route has to pay

    lines = sum(len(ranking.rows[:_MOST]) + 3 for ranking in board.rankings) or 2
    width, height = _MODEL + _COLUMN * len(COLUMNS) + 0.3, _LINE * (lines + 1)
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    top = _LINE
    for ranking in board.rankings:
        top = _table(axes, ranking, top, width)
    if not board.rankings:
        _write(axes, 0.15, top, f"{board.benchmark}: nothing was evaluated or published yet")
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=150, metadata={"Title": f"Leaderboard of {board.benchmark}"})
    return drawn.getvalue()


def _table(axes: "Axes", ranking: Ranking, top: float, width: float) -> float:
    """One ranking, from `top` on; where the next one may begin."""
    _write(axes, 0.15, top, heading(ranking), size=_SIZE - 1, color="0.35")
    top += _LINE
    rights = [_MODEL + _COLUMN * (place + 1) for place in range(len(COLUMNS))]
    _rule(axes, top - 0.5 * _LINE, width, 1.2)
    _write(axes, 0.15, top, "Model")
    for right, column in zip(rights, COLUMNS, strict=True):
        _write(axes, right, top, SHORT[column], align="right")
    _rule(axes, top + 0.5 * _LINE, width, 0.7)
    for row in ranking.rows[:_MOST]:
        top += _LINE
        name = row.model if len(row.model) <= 28 else row.model[:27] + "…"
        _write(axes, 0.15, top, name + (" †" if row.kind == "published" else ""))
        for right, column in zip(rights, COLUMNS, strict=True):
            mark = row.marks.get(column)
            text = _write(axes, right, top, shown(row.values.get(column)), align="right", bold=mark == "best")
            if mark == "second":
                _underline(axes, text)
    _rule(axes, top + 0.5 * _LINE, width, 1.2)
    top += _LINE
    left_out = len(ranking.rows) - _MOST
    foot = [
        f"† published: {source}" for source in sorted({row.source for row in ranking.rows if row.kind == "published"})
    ]
    foot += [f"{left_out} more rows not shown"] if left_out > 0 else []
    failed = sum(row.failed_answers or 0 for row in ranking.rows)
    foot += [f"answers failed: {failed} in all"] if failed else []
    _write(axes, 0.15, top, "   ".join(foot), size=_SIZE - 2, color="0.35")
    return top + _LINE


def _write(
    axes: "Axes", x: float, y: float, words: str, *, align: str = "left", bold: bool = False, size: float = _SIZE,
    color: str = "black",
) -> "Text":  # fmt: skip
    weight = "bold" if bold else "normal"
    return axes.text(
        x, y, words, ha=align, va="center", fontsize=size, fontweight=weight, color=color, parse_math=False
    )


def _underline(axes: "Axes", text: "Text") -> None:
    """Matplotlib has no underlined letters: a line as wide as they are drawn."""
    box = axes.transData.inverted().transform_bbox(text.get_window_extent())
    below = max(box.y0, box.y1) - 0.01
    axes.plot([box.x0, box.x1], [below, below], color="black", linewidth=0.9, solid_capstyle="butt")


def _rule(axes: "Axes", y: float, width: float, thickness: float) -> None:
    axes.plot([0.1, width - 0.1], [y, y], color="black", linewidth=thickness)
