"""Held-out curves of all methods, by calm seconds and by NFE."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.convergence.comparison import TARGET, Method, the

# The colors of Okabe and Ito, with different lines and markers in addition.
STYLES = [("#D55E00", "-", "o"), ("#E69F00", "--", "s"), ("#56B4E9", "-.", "^"), ("#0072B2", "-", "D")]
SIZE = 12


def draw_curves(methods: Sequence[Method], path: Path) -> None:
    """Plot the smoothed sum of rewards, then each unsmoothed reward, one per row. Bands show the range over seeds."""
    rewards = [None, *methods[0].curves[0].rewards]
    figure = Figure(figsize=(12.5, 3.7 * len(rewards)), layout="constrained")
    panels = figure.subplots(len(rewards), 2, sharex="col", sharey="row")
    chosen = [method for method in methods if method.chosen]
    target = the(TARGET, methods)
    for row, reward in zip(panels, rewards, strict=True):
        for axes, axis in zip(row, ("seconds", "nfe"), strict=True):
            for method, (color, line, mark) in zip(chosen, STYLES, strict=True):
                x, y = getattr(method.curves[0], axis), method.stack(reward)
                axes.plot(x, y.mean(axis=0), line, color=color, marker=mark, markersize=5, label=method.label)
                axes.fill_between(x, y.min(axis=0), y.max(axis=0), color=color, alpha=0.15, linewidth=0)
            if reward is None:
                best = target.stack(None).mean(axis=0).max()
                axes.axhline(best, color="0.3", linewidth=1, linestyle=":", label=f"{target.label}'s best")
            axes.grid(alpha=0.3)
            axes.tick_params(labelsize=SIZE)
        row[0].set_ylabel(reward or "sum of rewards, smoothed", fontsize=SIZE, parse_math=False)
    panels[-1][0].set_xlabel("calm seconds of training steps", fontsize=SIZE)
    panels[-1][1].set_xlabel("NFE in rollouts", fontsize=SIZE)
    panels[0][1].legend(fontsize=SIZE - 1, loc="lower right")
    title = f"Held-out rewards: mean over seeds ({len(target.curves)}), band from minimum to maximum"
    figure.suptitle(title, fontsize=SIZE + 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
