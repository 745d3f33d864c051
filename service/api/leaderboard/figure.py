"""Draw the leaderboard as a figure, laid out like the paper's table. Importing this module imports matplotlib."""

from typing import Any

from matplotlib.axes import Axes

from service.api.figures import new_figure, save
from service.api.leaderboard.schemas import Leaderboard
from service.api.leaderboard.service import heading
from service.contracts.benchmarks.leaderboard import COLUMNS, SHORT, Ranking, printed, printed_interval

_MARGIN, _MODEL, _COLUMN, _LINE = 4, 53, 21, 6
"""Lengths in millimeters: margin, width of the first column, width of each other column, line height."""
_MAX_ROWS = 60
_WIDTH = _MODEL + _COLUMN * len(COLUMNS) + 2 * _MARGIN


def draw(board: Leaderboard) -> bytes:
    """Return a PNG with one table per ranking. The clearly best value is bold, the second best underlined."""
    lines = sum(len(ranking.rows[:_MAX_ROWS]) + 3 for ranking in board.rankings) or 2
    height = _LINE * (lines + 1)
    figure = new_figure(_WIDTH, height)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, _WIDTH), ylim=(height, 0))
    axes.set_axis_off()
    top = float(_LINE)
    for ranking in board.rankings:
        top = _draw_table(axes, ranking, top)
    if not board.rankings:
        axes.text(_MARGIN, top, f"{board.benchmark}: no rows yet", va="center")
    return save(figure, "png", f"Leaderboard of {board.benchmark}")


def _draw_table(axes: Axes, ranking: Ranking, top: float) -> float:
    """Draw a ranking downwards from `top`. Returns the top of the next ranking."""
    edges = [_MARGIN + _MODEL + _COLUMN * (position + 1) for position in range(len(COLUMNS))]
    small: dict[str, Any] = {"va": "center", "fontsize": "small", "color": "0.35"}
    axes.text(_MARGIN, top, heading(ranking), **small)
    top += _LINE
    axes.hlines([top - 0.5 * _LINE, top + 0.5 * _LINE], _MARGIN, _WIDTH - _MARGIN, colors="k", linewidth=[1.2, 0.7])
    axes.text(_MARGIN, top, "Model", va="center")
    for edge, column in zip(edges, COLUMNS, strict=True):
        axes.text(edge, top, SHORT[column], va="center", ha="right")
    for row in ranking.rows[:_MAX_ROWS]:
        top += _LINE
        name = row.model if len(row.model) <= 28 else row.model[:27] + "…"
        axes.text(_MARGIN, top, name + (" †" if row.kind == "published" else ""), va="center")
        for edge, column in zip(edges, COLUMNS, strict=True):
            mark = row.marks.get(column)
            weight = "bold" if column in row.clearly_best else "normal"
            if interval := printed_interval(row, column):
                axes.text(edge, top + 0.38 * _LINE, interval, va="center", ha="right", fontsize=5, color="0.35")
            text = axes.text(
                edge,
                top - (0.12 * _LINE if interval else 0),
                printed(row.values.get(column)),
                va="center",
                ha="right",
                fontweight=weight,
            )
            if mark == "second":  # matplotlib cannot underline text
                box = axes.transData.inverted().transform_bbox(text.get_window_extent())
                axes.hlines(max(box.y0, box.y1), box.x0, box.x1, colors="k", linewidth=0.9)
    axes.hlines(top + 0.5 * _LINE, _MARGIN, _WIDTH - _MARGIN, colors="k", linewidth=1.2)
    top += _LINE
    omitted = len(ranking.rows) - _MAX_ROWS
    failed = sum(row.failed_answers or 0 for row in ranking.rows)
    notes = [
        *(f"† published: {source}" for source in sorted({r.source for r in ranking.rows if r.kind == "published"})),
        *([f"{omitted} more rows not shown"] if omitted > 0 else []),
        *([f"failed answers: {failed}"] if failed else []),
    ]
    axes.text(_MARGIN, top, "   ".join(notes), **small)
    return top + _LINE
